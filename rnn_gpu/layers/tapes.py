"""What a recurrent layer's way forward leaves for its way back."""

from typing import Any, NamedTuple

import numpy as np

from .. import outline
from ..kernels import Cell


class Tape(NamedTuple):
    """What a recurrent layer remembers of its forward pass; but for x in the order of its own
    steps, which `reverse` turns around.

    Of chunks that are parts of one sequence x is (C·L, 1, m), and wide_s and wide_kept are as
    Forward says.
    """

    x: np.ndarray  # (T, B, m)
    wide_s: np.ndarray  # (S, T+1, B, n), of `cell`; (S, 2T+1, B, n) where it goes on: see Forward
    wide_kept: np.ndarray  # (T, B, K, n), of `cell`
    flags: np.ndarray  # (T, B)
    starts: np.ndarray | None  # see Steps
    masked: bool  # see Steps
    cell: Cell  # that ran: the layer's own, or with noise around it
    own: Cell  # of the layer
    mask: np.ndarray | None  # (B, n), of recurrent dropout, where there is any
    report: Any = None  # why it did not go in chunks, where that was asked for
    first: np.ndarray | None = None  # (B, 1) bool, see Given

    keeps_y = True  # the output may be a part of it
    __repr__ = outline.fields

    @property
    def s(self):
        """The states of the layer's own cell, (S, T+1, B, n)."""
        return self.wide_s[self.cell.output :, : len(self.flags) + 1]

    @property
    def goes_on(self) -> bool:
        """Are there given states, that samples go on from where they begin anew?"""
        return self.wide_s.ndim == 4 and self.wide_s.shape[1] > len(self.flags) + 1

    @property
    def kept(self):
        """What the layer's own cell keeps for the way back, (T, B, K, n)."""
        return self.wide_kept[:, :, : self.own.kept]

    def before(self, t=slice(None)):
        """The states that steps t begin with, (S, ·, B, n), of `cell`."""
        T = len(self.flags)
        s = self.wide_s[:, :T][:, t]
        if self.starts is None:
            return s
        if self.goes_on:
            return np.where(self.starts[t], self.wide_s[:, T + 1 :][:, t], s)
        first = self.wide_s[:, :1]
        return np.where(self.starts[t], first if s.ndim == 4 else first[:, 0], s)

    def widened(self, ds):
        """dE/ds of the cell that ran, from that of the own."""
        return ds if self.mask is None else np.concatenate([np.zeros_like(ds[:1]), ds])

    def narrowed(self, ds):
        """dE/ds of the own cell, (S, …, B, n): what went through the mask is added."""
        return ds if self.mask is None else np.concatenate([ds[1:2] + self.mask * ds[:1], ds[2:]])
