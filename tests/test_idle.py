"""Memory that is kept for the next large array: used again, given back, bounded; whatever comes in
between.
"""

import os
import threading

import numpy as np
import pytest

import rnn_gpu
from processes import ended, forked, run
from rnn_gpu.kernels import once
from rnn_gpu.kernels.devices.cpu import memory

SIZE = memory.LASTING


@pytest.fixture
def idle(monkeypatch):
    """Nothing is kept yet."""
    monkeypatch.setattr(memory, "idle", {})


def keep(*sizes):
    """Memory of so many numbers is idle, that of the last one the latest."""
    arrays = [memory.empty((size,), np.float32) for size in sizes]
    while arrays:
        arrays.pop(0)


def test_large_arrays_are_aligned_and_use_memory_again(idle):
    size = memory.LASTING
    a = memory.empty((2, size), np.float32)
    address, view = a.ctypes.data, a[1, 5:9]
    assert address % 64 == 0 and a.shape == (2, size)
    del a
    b = memory.empty((2 * size,), np.float32)
    assert b.ctypes.data != address  # a view still lives
    view[:] = 3
    b[:] = 0
    assert (view == 3).all()
    del view, b
    assert len(memory.idle) == 2
    c = memory.empty((2 * size - 99,), np.float32)
    assert address in (c.ctypes.data, memory.empty((2 * size,), np.float32).ctypes.data)
    assert memory.empty((3,), np.float64).shape == (3,)


def test_no_more_memory_is_kept_than_said(idle, monkeypatch):
    monkeypatch.setattr(memory, "IDLE", 3 * memory.LASTING)
    arrays = [memory.empty((memory.LASTING,), np.uint8) for _ in range(5)]
    kept = {a.ctypes.data // 4096 for a in arrays[3:]}
    while arrays:
        arrays.pop(0)
    assert {address // 4096 for address in memory.idle} <= {
        page + d for page in kept for d in (-1, 0)
    } and len(memory.idle) == 2


def test_release_gives_back_all_and_says_how_much(idle):
    keep(SIZE, 2 * SIZE)
    kept = sum(one.nbytes for one in memory.idle.values())
    assert kept >= 12 * SIZE and memory.release() == kept and not memory.idle
    assert memory.release() == 0


class Size(int):
    """A size that something happens to when it is compared, in the middle of looking for memory."""

    def __le__(self, other):
        self.meanwhile()
        return int(self) <= other


def test_memory_may_come_back_while_some_is_looked_for(idle):
    """From a finalizer, in this thread: no lock would keep it out."""
    keep(SIZE, 2 * SIZE)
    arrays, size = [memory.empty((9 * SIZE,), np.float32)], Size(4 * SIZE)
    size.meanwhile = lambda: arrays and arrays.pop()
    assert memory.borrow(size).memory.nbytes >= 4 * SIZE
    assert not arrays and len(memory.idle) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_memory_while_another_thread_looks_for_some(idle):
    keep(SIZE)
    inside, goes_on, size = threading.Event(), threading.Event(), Size(4 * SIZE)
    size.meanwhile = lambda: (inside.set(), goes_on.wait())
    other = threading.Thread(target=memory.borrow, args=(size,))
    other.start()
    inside.wait()
    child = forked(lambda: memory.empty((SIZE,), np.float32), at_once=True)
    goes_on.set()
    other.join()
    assert ended(child, patience=20) == 0


LIMITED = """
import resource

HARD = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, HARD))
from processes import *

assert memory.IDLE <= (6 << 30) // 8
arrays = [memory.empty((5 << 20,), "f") for _ in range(20)]
del arrays
kept = sum(one.nbytes for one in memory.idle.values())
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), HARD))
large = memory.empty((25 << 20,), "f")
print(kept, large.nbytes, sum(one.nbytes for one in memory.idle.values()))
try:
    memory.empty((1 << 30,), "f")
except MemoryError:
    print("none")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no limit of memory here")
def test_idle_memory_is_given_back_where_there_is_no_other():
    kept, large, idle, none = run(LIMITED).split()
    assert int(kept) >= 400e6 and int(large) == 100 << 20 and idle == "0" and none == "none"


def test_what_is_kept_follows_the_machine(monkeypatch):
    assert memory.IDLE == memory.bound(memory.limits()) <= memory.MOST
    assert memory.bound([8e9, 1 << 30]) == (1 << 30) // 8
    assert memory.bound([]) == memory.bound([1 << 50]) == memory.MOST


def test_the_door_lets_go_of_memory_and_of_what_was_made_of_formulas(idle):
    layer, x = rnn_gpu.RNN(3, 5, (np.arctan, darctan), device="cpu"), np.ones((7, 2, 3), "float32")
    y, _ = layer(x)
    keep(SIZE)
    made = next(cache for cache in once.caches if cache.cache_info().currsize)
    assert rnn_gpu.release() == 4 * SIZE + memory.CACHE_LINE and not memory.idle
    assert made.cache_info().currsize
    assert rnn_gpu.release(kernels=True) == 0
    assert not made.cache_info().currsize
    assert np.array_equal(layer(x)[0], y)
    with pytest.raises(rnn_gpu.ArgumentError, match=r"^kernels is 'yes', expected True or False"):
        rnn_gpu.release(kernels="yes")


def darctan(y):
    return np.cos(y) ** 2
