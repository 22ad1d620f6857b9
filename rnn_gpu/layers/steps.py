"""Sequences at the door: which steps of which samples happen, and where a sample begins anew."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

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

    @property
    def masked(self) -> bool:
        """Does a step not happen, or begin anew?"""
        return self.dead is not None or self.starts is not None

    def only_live(self, a):
        """a (T, B, ·), zero where a step does not happen."""
        return a if self.dead is None else np.where(self.dead, a.dtype.type(0), a)

    def part(self, start: int, end: int):
        """Steps start … end−1. Where a sample begins anew with the first of them, as every sample
        does, its state before is to say it: see Given.part.
        """
        flags, dead, starts = self.flags[start:end], self.dead, self.starts
        if starts is not None:
            flags, starts = flags.copy(), starts[start:end].copy()
            flags[0], starts[0] = flags[0] & LIVE, False
        dead = None if dead is None else dead[start:end]
        return Steps(flags, dead, starts, self.first + start)

    def turned(self, device):
        """For a layer that goes from the last step to the first. What begins at t then ends there:
        the step t−1 begins anew.
        """
        if self.dead is None and self.starts is None:  # all live: the same
            return self
        flags, starts = self.flags[::-1] & LIVE, None
        if self.starts is not None:
            starts = device.zeros(self.starts.shape, bool)
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


def all_live_of(device, a) -> Steps:
    """The steps of a (T, B, ·), an array of the device, that all happen; found again by later
    calls.
    """
    # CuPy's Device has no hash
    return all_live(device, getattr(a.device, "id", a.device), *a.shape[:2])


def steps_until(device, a, lengths) -> Steps:
    """The steps of a (T, B, ·), an array of the device, whose samples end after lengths (B,),
    NumPy's.
    """
    T = len(a)
    if (lengths == T).all():
        return all_live_of(device, a)
    return steps_of(device, np.arange(T)[:, None] < lengths)


def steps_of(device, live, starts: Any = False) -> Steps:
    """From NumPy's (T, B) booleans. Every sample begins with its first step, so `starts` says
    nothing there.
    """
    starts = np.ones_like(live) & starts & (np.arange(len(live)) > 0)[:, None]
    rows = [live * LIVE | starts * RESET]
    rows += [] if live.all() else [~live]
    rows += [starts] if starts.any() else []
    whole = device.array(np.array(rows, np.uint8), np.uint8)  # one copy for all
    flags, *others = whole[: len(rows)]
    others = [each.view(bool)[:, :, None] for each in others]
    dead = None if live.all() else others.pop(0)
    return Steps(flags, dead, others[0] if others else None)


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
    turn = swapped if batch_first else unchanged
    a = turn(a)
    T, B, _ = a.shape
    lengths = arguments.check_lengths(lengths, T, B, batch_first)
    if mask is None and resets is None and (lengths is None or (lengths == T).all()):
        a = entered(device, "x", a, dtype, None, turn)
        return a, all_live_of(device, a)
    live, starts = (
        pattern(name, given, T, B, lengths, batch_first, otherwise)
        for name, given, otherwise in (("mask", mask, True), ("resets", resets, False))
    )
    dead = None if live.all() else ~live[:, :, None]
    a = entered(device, "x", a, dtype, dead, turn)
    return a, steps_of(device, live, starts)


def pattern(name: str, given, T: int, B: int, lengths, batch_first: bool, otherwise: bool):
    """Booleans at the door, (T, B) or (B, T), or None for `otherwise` -> NumPy's (T, B), False
    where a sample has ended.
    """
    shape, order = ((B, T), "B, T") if batch_first else ((T, B), "T, B")
    a = arguments.booleans(name, given, shape, order, otherwise)
    lengths = arguments.check_lengths(lengths, T, B, batch_first)
    within = np.arange(T)[:, None] < (T if lengths is None else lengths)
    return (a.T if batch_first else a) & within


def unchanged(a):
    """a, whose first axis is time."""
    return a


def swapped(a):
    """a (B, T, ·) as (T, B, ·), or back."""
    return a.swapaxes(0, 1)


def entered(device, name: str, a, dtype: str, dead=None, as_came: Callable = unchanged):
    """a (T, B, ·), NumPy's or CuPy's, at the door -> an array of the device, finite, and zero where
    no step happens: what a holds there may be anything.

    dead     (T, B, 1) booleans of NumPy's or of the device; None for none
    as_came  gives a its axes back, so that the error says the place where the caller has it
    NumPy's arrays are looked at before they go to a GPU, which then is not waited for. Raises
    ArgumentError at NaN and infinity.
    """
    host = type(a) is np.ndarray
    a = np.ascontiguousarray(a, dtype) if host else arguments.take(device, name, a, dtype)
    if dead is not None:
        dead = device.numpy(dead) if host else device.array(dead, bool)
        a = np.where(dead, a.dtype.type(0), a)
    if not device.finite(a):
        arguments.finite(name, as_came(a))
    return device.array(a, dtype) if host else a
