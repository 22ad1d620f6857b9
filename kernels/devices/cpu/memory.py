"""Arrays for kernels: what is read often at the beginning of a cache line, and large ones on memory that was used before.

What a program gives back to the operating system comes again as new pages, each to be found and cleared: for a layer whose
arrays have some megabytes that is a tenth of a training step.
"""

import math
import sys
import threading
from collections import OrderedDict
from ctypes import addressof, c_char

import numpy as np

LEAST = 1 << 14  # numbers that a thread has at hand at least
LASTING = 1 << 18  # numbers: the memory of a larger one is kept for the next
LINE = 64  # bytes of a line of the cache
IDLE = 1 << 30  # bytes that are kept at most

idle: OrderedDict[int, np.ndarray] = OrderedDict()  # memory by its address, the longest unused first
lock = threading.RLock()  # a finalizer may come in the middle of anything


class Lent:
    """Memory that is kept when the last array on it is gone."""

    def __init__(self, memory):
        self.memory, self.__array_interface__ = memory, memory.__array_interface__

    def __del__(self):
        if sys.is_finalizing():
            return
        with lock:
            idle[self.__array_interface__["data"][0]] = self.memory
            while sum(memory.nbytes for memory in idle.values()) > IDLE:
                idle.popitem(last=False)


def borrow(size: int):
    """`size` bytes, or up to an eighth more, that nobody uses."""
    with lock:
        for address, memory in reversed(idle.items()):
            if size <= memory.nbytes <= size + size // 8:
                return Lent(idle.pop(address))
    return Lent(np.empty(size, np.uint8))


def empty(shape, dtype):
    """An array of undefined values; a large one at the beginning of a cache line: a vector across two takes two loads."""
    if math.prod(shape) < LASTING:
        return np.empty(shape, dtype)
    return at_a_line(np.asarray(borrow(bytes_for(shape, dtype))), shape, dtype)


def bytes_for(shape, dtype) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize + LINE


def at_a_line(raw, shape, dtype):
    return np.ndarray(shape, dtype, raw, -addressof(c_char.from_buffer(raw)) % LINE)


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
    """At least `count` numbers for what a call makes on its way, at the beginning of a cache line; the thread's next call has the same."""
    if count >= LASTING:
        return empty((count,), dtype)
    mine = desk.arrays.get(dtype)
    if mine is None or mine.size < count:
        shape = (max(count, LEAST),)
        mine = desk.arrays[dtype] = at_a_line(np.empty(bytes_for(shape, dtype), np.uint8), shape, dtype)
    return mine
