"""Arrays for kernels: what is read often at the beginning of a cache line, and large ones on memory
that was used before.

What a program gives back to the operating system comes again as new pages, each to be found and
cleared: for a layer whose arrays have some megabytes that is a tenth of a training step.
"""

import contextlib
import math
import os
import sys
import threading
from ctypes import addressof, c_char
from pathlib import Path

import numpy as np

LEAST = 1 << 14  # numbers that a thread has at hand at least
LASTING = 1 << 18  # numbers: the memory of a larger one is kept for the next
CACHE_LINE = 64  # bytes of a line of the cache
# bytes that are kept: no more than this, nor than one part of so many of what there is
MOST, SHARE = 1 << 30, 8


def limits():
    """Bytes that this machine has, and that the process may have of them, where the operating
    system tells.
    """
    with contextlib.suppress(AttributeError, ValueError, OSError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(ImportError, OSError):
        import resource

        yield from (
            limit
            for limit in resource.getrlimit(resource.RLIMIT_AS)
            if limit != resource.RLIM_INFINITY
        )
    groups = Path("/sys/fs/cgroup")
    # of a container
    for told in (groups / "memory.max", groups / "memory" / "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max"
            yield int(told.read_text())


def bound(limits) -> int:
    return min([MOST, *(limit // SHARE for limit in limits)])


IDLE = bound(limits())  # bytes that are kept at most

# Memory by its address, the longest unused first. There is no lock: every step on it is one of the
# interpreter's own, for a finalizer may come in the middle of anything, and a fork in the middle of
# what another thread does.
idle: dict[int, np.ndarray] = {}


class Lent:
    """Memory that is kept when the last array on it is gone."""

    def __init__(self, memory):
        self.memory, self.__array_interface__ = memory, memory.__array_interface__

    def __del__(self):
        if sys.is_finalizing():
            return
        idle[self.__array_interface__["data"][0]] = self.memory
        trim(IDLE)


def release() -> int:
    return trim(0)


def trim(kept: int) -> int:
    """Give idle memory back to the operating system, the longest unused first, down to `kept`
    bytes; returns how many went.
    """
    excess = sum([memory.nbytes for memory in list(idle.values())]) - kept
    released = 0
    for address in list(idle):
        if released >= excess:
            break
        memory = idle.pop(address, None)  # another thread may have taken it
        released += 0 if memory is None else memory.nbytes
    return released


def borrow(size: int):
    """`size` bytes, or up to an eighth more, that nobody uses."""
    for address in reversed(list(idle)):
        memory = idle.get(address)
        fits = memory is not None and size <= memory.nbytes <= size + size // 8
        if fits and idle.pop(address, None) is not None:  # another thread may have been first
            return Lent(memory)
    return Lent(new(size, np.uint8))


def new(shape, dtype):
    """np.empty, which has the idle memory too if there is no other."""
    try:
        return np.empty(shape, dtype)
    except MemoryError:
        if not release():
            raise
    return np.empty(shape, dtype)


def empty(shape, dtype):
    """An array of undefined values; a large one at the beginning of a cache line: a vector across
    two takes two loads.
    """
    if math.prod(shape) < LASTING:
        try:
            return np.empty(shape, dtype)
        except MemoryError:
            return new(shape, dtype)
    return at_a_line(np.asarray(borrow(bytes_for(shape, dtype))), shape, dtype)


def bytes_for(shape, dtype) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize + CACHE_LINE


def at_a_line(raw, shape, dtype):
    return np.ndarray(shape, dtype, raw, -addressof(c_char.from_buffer(raw)) % CACHE_LINE)


def copy(a):
    if a.size < LASTING:
        return a.copy()
    mine = empty(a.shape, a.dtype)
    mine[...] = a
    return mine


class Desk(threading.local):
    """What a thread's calls have at hand, by dtype."""

    def __init__(self):
        self.arrays = {}


desk = Desk()


def scratch(count: int, dtype):
    """At least `count` numbers for what a call makes on its way, at the beginning of a cache line;
    the thread's next call has the same.
    """
    if count >= LASTING:
        return empty((count,), dtype)
    mine = desk.arrays.get(dtype)
    if mine is None or mine.size < count:
        shape = (max(count, LEAST),)
        mine = desk.arrays[dtype] = at_a_line(new(bytes_for(shape, dtype), np.uint8), shape, dtype)
    return mine
