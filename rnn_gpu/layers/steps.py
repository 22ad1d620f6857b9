"""Sequences at the door: which steps of which samples happen, and where a sample begins anew."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .. import arguments
from ..kernels import LIVE, RESET


class Steps(NamedTuple):
    """Which steps of which samples happen, and where a sample begins anew: for kernels as flags,
    for arrays as booleans that broadcast over features.
    """

    flags: np.ndarray  # (T, B) uint8, what the kernels are told
    dead: np.ndarray | None  # (T, B, 1) bool, the steps that do not happen; None where all do
    # (T, B, 1) bool, the steps before which the state becomes the initial one; None for none
    starts: np.ndarray | None = None
    first: int = 0  # the number of the first of them in the whole sequence

    def only_live(self, a):
        """a (T, B, ·), zero where a step does not happen."""
        return a if self.dead is None else np.where(self.dead, a.dtype.type(0), a)

    def part(self, start: int, end: int):
        """Steps start … end−1, of samples that nowhere begin anew."""
        return Steps(
            self.flags[start:end],
            None if self.dead is None else self.dead[start:end],
            None,
            self.first + start,
        )

    def turned(self, device):
        """For a layer that goes from the last step to the first. What begins at t then ends there:
        the step t−1 begins anew.
        """
        flags, starts = self.flags[::-1] & LIVE, None
        if self.starts is not None:
            starts = zeros(device, self.starts.shape, bool)
            starts[1:] = self.starts[:0:-1]
            flags = flags | starts[:, :, 0] * np.uint8(RESET)
        return Steps(
            device.array(flags, np.uint8), None if self.dead is None else self.dead[::-1], starts
        )


@lru_cache(maxsize=8)
def all_live(device, place, T: int, B: int) -> Steps:
    """The steps of T and B that all happen, at a place of the device: a GPU's number, "cpu"."""
    flags = device.array(np.full((T, B), LIVE), np.uint8)
    device.numpy(flags)  # which waits: a later call may be on another stream
    return Steps(flags, None)


def steps_of(device, live, starts=False) -> Steps:
    """From NumPy's (T, B) booleans. Every sample begins with its first step, so `starts` says
    nothing there.
    """
    starts = starts & (np.arange(len(live)) > 0)[:, None]
    flags = live * np.uint8(LIVE) | starts * np.uint8(RESET)  # one byte a step goes to a card
    return Steps(
        device.array(flags, np.uint8),
        None if live.all() else device.array(~live[:, :, None], bool),
        device.array(starts[:, :, None], bool) if starts.any() else None,
    )


def enter(device, x, m: int, dtype: str, lengths, batch_first=False, mask=None, resets=None):
    """Sequences at the door -> (x as the device's (T, B, m), zero where no step happens; its
    Steps).

    x is (T, B, m), or integers (T, B) that stand for one-hot vectors of m; B comes first if
    batch_first, in mask and resets too.
    """
    order, batch = ("B, T", 0) if batch_first else ("T, B", 1)
    a = arguments.as_array("x", x, dtype)
    if arguments.are_symbols(x, a, 2):
        host = device.numpy(a) if type(a) is not np.ndarray else a
        x = arguments.one_hot(arguments.symbols("x", host, m, f"({order})", 2, batch), m, dtype)
    a = arguments.floats("x", x, dtype, (None, None, m), f"({order}, m={m})", batch)
    a = arguments.take(device, "x", a.swapaxes(0, 1) if batch_first else a, dtype)
    T, B, _ = a.shape
    lengths = arguments.check_lengths(lengths, T, B)
    if mask is None and resets is None and (lengths is None or (lengths == T).all()):
        # CuPy's Device has no hash
        steps = all_live(device, getattr(a.device, "id", a.device), T, B)
    else:
        shape = (B, T) if batch_first else (T, B)
        live = arguments.booleans("mask", mask, shape, order, otherwise=True)
        starts = arguments.booleans("resets", resets, shape, order, otherwise=False)
        live, starts = (live.T, starts.T) if batch_first else (live, starts)
        within = np.arange(T)[:, None] < (T if lengths is None else lengths)
        steps = steps_of(device, live & within, starts & within)
    a = steps.only_live(a)
    if not device.finite(a):
        arguments.finite("x", a.swapaxes(0, 1) if batch_first else a)
    return a, steps


def zeros(device, shape, dtype):
    """An array of the device, of zeros."""
    a = device.empty(shape, dtype)
    a[...] = 0
    return a
