"""What a recurrent layer's way forward leaves for its way back."""

from typing import Any, NamedTuple

import numpy as np

from .. import outline
from ..kernels import Cell


class Tape(NamedTuple):
    """What a recurrent layer remembers of its forward pass; but for x in the order of its own
    steps, which `reverse` turns around.
    """

    x: np.ndarray  # (T, B, m)
    wide_s: np.ndarray  # (S, T+1, B, n), of `cell`
    wide_kept: np.ndarray  # (T, B, K, n), of `cell`
    flags: np.ndarray  # (T, B)
    starts: np.ndarray | None  # see Steps
    masked: bool  # see Steps
    cell: Cell  # that ran: the layer's own, or with noise around it
    own: Cell  # of the layer
    mask: np.ndarray | None  # (B, n), of recurrent dropout, where there is any
    report: Any = None  # why it did not go in chunks, where that was asked for

    __repr__ = outline.fields

    @property
    def s(self):
        """The states of the layer's own cell."""
        return self.wide_s[self.cell.output :]

    @property
    def kept(self):
        """What the layer's own cell keeps for the way back, (T, B, K, n)."""
        return self.wide_kept[:, :, : self.own.kept]

    def before(self, t=slice(None)):
        """The states that steps t begin with, (S, ·, B, n), of `cell`."""
        s = self.wide_s[:, :-1][:, t]
        if self.starts is None:
            return s
        first = self.wide_s[:, :1]
        return np.where(self.starts[t], first if s.ndim == 4 else first[:, 0], s)

    def widened(self, ds):
        """dE/ds of the cell that ran, from that of the own."""
        return ds if self.mask is None else np.concatenate([np.zeros_like(ds[:1]), ds])

    def narrowed(self, ds):
        """dE/ds of the own cell, (S, …, B, n): what went through the mask is added."""
        return ds if self.mask is None else np.concatenate([ds[1:2] + self.mask * ds[:1], ds[2:]])
