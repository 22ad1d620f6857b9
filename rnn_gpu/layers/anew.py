"""Samples that begin anew, or end, within chunks that stand side by side.

A chunk, or a part of one, may begin where a sample begins anew. Kernels know of no RESET there: the
sample begins with what is given, and what arrives there on the way back goes no further. Every
chunk is told what its samples begin anew with, as given states are, whoever gave them: s is
(S, 2L + 1, C·B, n), and ds (S, 1 + L, C·B, n). Where nobody gave any, they are the initial ones.
"""

from typing import Any, NamedTuple

import numpy as np

from ..kernels import LIVE, RESET, Backward, Forward
from .overlap import Chunks


class Events(NamedTuple):
    """What happens to each sample of each chunk, NumPy's, (C, B) each."""

    begins: np.ndarray  # bool: it begins anew with the first step
    until: np.ndarray  # how many steps it takes until nothing happens any more
    since: np.ndarray  # the last steps of the chunk that know nothing of what was before them

    @property
    def idle(self) -> np.ndarray:
        """Where nothing happens: the chunk begins and ends where the one before ends."""
        return self.until == 0


def events(device, cut: Chunks, flags, masked: bool) -> Events:
    """The Events of flags (L, C·B)."""
    L, shape = cut.length, (cut.count, cut.B)
    if not masked:
        return Events(np.zeros(shape, bool), np.full(shape, L), np.full(shape, L))
    flags = device.numpy(flags).reshape(L, *shape)[::-1]
    resets = flags & RESET != 0
    until = np.where(flags.any(0), L - (flags != 0).argmax(0), 0)
    since = np.where(resets.any(0), resets.argmax(0) + 1, L)
    return Events(resets[-1], until, since)


def begun(device, call) -> tuple[Any, Any]:
    """(a Forward or Backward without RESET at its first step, where that was set (columns, 1)
    bool): there s[:, 0] becomes what is given; (the same, None) where none is.
    """
    L = len(call.flags)
    if call.s.ndim == 3 or call.s.shape[1] == L + 1:
        return call, None
    flags = device.copy(call.flags)
    begins = ((flags[0] & np.uint8(RESET)) != 0)[:, None]
    call.s[:, 0] = np.where(begins, call.s[:, L + 1], call.s[:, 0])
    flags[0] &= np.uint8(LIVE)
    return call._replace(flags=flags), begins


def forward(device, cell, call: Forward, precision):
    """`Device.forward`; samples may begin anew with the first step: s[:, 0] is overwritten."""
    device.forward(cell, begun(device, call)[0], precision)


def backward(device, cell, call: Backward, precision):
    """`Device.backward` of chunks; samples may begin anew with the first step.  s[:, 0] is
    overwritten, too.
    """
    call, begins = begun(device, call)
    device.backward(cell, call, precision)
    if begins is not None:
        ds, zero = call.ds, call.ds.dtype.type(0)
        ds[:, 1] += np.where(begins, ds[:, 0], zero)
        ds[:, 0] = np.where(begins, zero, ds[:, 0])


def give(device, cut: Chunks, states, out):
    """What samples begin anew with, (S, T, B, n) before each step or (S, B, n) before all, into out
    (S, L, C·B, n).
    """
    for k, own in enumerate(states):
        if states.ndim == 4:
            out[k] = cut.cut(device, own)
        else:
            out[k].reshape((cut.length, cut.count, cut.B, own.shape[1]))[...] = own


def in_all(cut: Chunks, behind) -> Any:
    """What arrives where samples begin anew, (S, L, C·B, n), added up: (S, B, n)."""
    S, L, _, n = behind.shape
    return behind.reshape((S, L * cut.count, cut.B, n)).sum(1)
