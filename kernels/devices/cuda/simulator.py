"""The CUDA simulator made strong enough for our kernels (NUMBA_ENABLE_CUDASIM=1).

Numba's own runs one block after another, knows no warp operation, and fills shared memory with
nothing in particular. Here all blocks of a launch run at once, each with its own shared memory
filled with NaN; `syncthreads` is a real barrier, which all threads of a block reach or none;
shuffles and votes work by exchange within a warp; options of `cuda.jit` that only a compiler
understands are accepted; and host threads launch one after the other.
"""

import os
import sys
import threading
import time
from contextlib import nullcontext
from copy import copy
from typing import Any

import numpy as np

from ...private import running_grid
from .crowd import Crowd, Home, Meeting, me
from .driver import Facts, check_clusters, check_resident
from .precision import rounded

# As an H200, but that a launch of more blocks than threads of the host would be slow.
FACTS = Facts("simulator", (9, 0), multiprocessors=2, registers=65_536, shared=232_448)
COMPILER_OPTIONS = ("launch_bounds", "forceinline", "lto", "max_registers", "lineinfo")
ABSENT = object()  # stands in the slot of a lane that does not exist or has ended
MOST_THREADS = 1024  # of a block, on every card
MOST_RESIDENT, RESIDENT_THREADS = 32, 2048  # blocks and threads of a multiprocessor, at most


class Barrier:
    """A reusable barrier, which an error anywhere in the grid breaks.

    All parties of a strict one come to the same place of the kernel, or RuntimeError names the
    places: on a GPU anything may happen.  The parties of another may leave.
    """

    def __init__(self, parties: int, strict: str = "", crowd: Crowd | None = None):
        self.turn, self.crowd = threading.Condition(), crowd
        self.parties, self.ended, self.generation, self.broken = parties, 0, 0, False
        self.waiting = []  # where each one is who waits
        self.sleeping = []  # who they are
        self.strict, self.fault = strict, ""  # whose threads, in words

    def wait(self):
        at = where() if self.strict else ()
        with self.turn:
            mine = self.generation
            self.waiting.append(at)
            self.go_on_if_complete()
            if self.crowd and mine == self.generation and not self.broken:
                self.sleeping.append(me())
                self.crowd.sleep(lambda: f"a barrier at {named(at)}" if at else "its warp")
            while mine == self.generation and not self.broken:
                self.turn.wait()
            if self.fault:
                raise RuntimeError(self.fault)
            if self.broken:
                raise threading.BrokenBarrierError("another thread of the grid failed")

    def leave(self):
        with self.turn:
            self.ended += 1
            self.go_on_if_complete()

    def abort(self):
        with self.turn:
            self.broken = True
            self.turn.notify_all()

    def go_on_if_complete(self):
        if self.broken or not self.waiting or len(self.waiting) + self.ended < self.parties:
            return
        if self.strict and (self.ended or len(set(self.waiting)) > 1):
            self.fault, self.broken = self.skipped(), True
        if self.crowd:
            self.crowd.wake(self.sleeping)
        self.waiting, self.sleeping = [], []
        self.generation += 1
        self.turn.notify_all()

    def skipped(self) -> str:
        groups = [
            f"{self.waiting.count(at)} wait at {named(at)}" for at in dict.fromkeys(self.waiting)
        ]
        groups += [f"{self.ended} have ended"] * (self.ended > 0)
        return (
            f"a barrier that not all threads of {self.strict} reach: of {self.parties}, "
            f"{', '.join(groups)}"
        )


def where() -> tuple:
    """The place of the calling thread in its kernel: (code, instruction, line) of each call it is
    in, the innermost first.
    """
    frame, places = sys._getframe(1), []
    while frame:
        if frame.f_globals.get("__name__") not in MACHINERY:
            places.append((frame.f_code, frame.f_lasti, frame.f_lineno))
        frame = frame.f_back
    return tuple(places)


MACHINERY = {__name__, "threading", "numba.cuda.simulator.kernel", "numba.cuda.simulator.kernelapi"}


def named(places) -> str:
    code, _, line = places[0]
    return f"{code.co_filename}:{line} in {code.co_name}"


def install():
    """Replace the parts of numba.cuda.simulator named above. Once, before any kernel is defined."""
    from numba import cuda

    from ...private import simulator_api as api
    from ...private import simulator_kernel as kernel
    from ...private import simulator_kernelapi as kernelapi

    if hasattr(kernelapi.FakeCUDAModule, "shfl_xor_sync"):
        return
    sys.setswitchinterval(5e-4)  # threads mostly wait for each other
    kernel.BlockManager = grid_runner(kernel)
    take_turns(kernel)
    give_memory(kernelapi)
    give_warps(kernelapi.FakeCUDAModule)
    give_way_to_errors(kernelapi.FakeCUDAAtomic)
    kernelapi.GridGroup.sync = lambda self: me().grid_barrier.wait()
    cuda.__getattr__ = running()
    setattr(kernelapi.FakeCUDAModule, "__getattr__", of_the_host(cuda))  # noqa: B010  it has none
    original = api.jit

    def jit(*arguments, **options):
        return original(
            *arguments,
            **{key: value for key, value in options.items() if key not in COMPILER_OPTIONS},
        )

    cuda.jit = jit


def running():
    """What `cuda` means in a device function of another module than its kernel's, where Numba does
    not put the grid in its place.
    """

    def attribute(name):
        grid = running_grid()
        if grid is None:
            raise AttributeError(f"module 'numba.cuda' has no attribute {name!r}: no kernel runs")
        return getattr(grid, name)

    return attribute


def of_the_host(cuda):
    """What `cuda` means to another host thread in a module whose kernel runs: Numba has put the
    grid in its place.
    """

    def attribute(self, name):
        try:
            return vars(cuda)[name]
        except KeyError:
            raise AttributeError(f"module 'numba.cuda' has no attribute {name!r}") from None

    return attribute


def take_turns(kernel):
    """Launches of several host threads come one after the other, each with its own
    configuration.
    """
    Kernel, lock = kernel.FakeCUDAKernel, threading.RLock()
    configure, start = Kernel.__getitem__, Kernel.__call__
    Kernel.cluster, Kernel.cooperative = 1, False

    def configured(self, configuration):
        return configure(copy(self), configuration)

    def launch(self, *arguments):
        if hasattr(me(), "grid_barrier"):  # a function that a kernel calls
            return start(self, *arguments)
        if self._device:
            return self.fn(*arguments)
        if self.block_dim and (count := int(np.prod(self.block_dim))) > MOST_THREADS:
            raise ValueError(
                f"{self.__name__} is launched with {count} threads a block, but a GPU takes "
                f"{MOST_THREADS} at most"
            )
        with lock:
            if running_grid():
                raise RuntimeError(
                    f"{self.__name__} is launched by a handler or finalizer in the middle of "
                    "another launch"
                )
            kernel.BlockManager.cluster = self.cluster
            kernel.BlockManager.waits = self.cooperative or self.cluster > 1
            return start(self, *arguments)

    Kernel.__getitem__, Kernel.__call__ = configured, launch
    if hasattr(os, "register_at_fork"):  # a grid that runs does not survive
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )


def as_device_array(a):
    """A NumPy array as the simulator's device array of the same memory: NumPy arrays themselves are
    copied in and out, each.
    """
    from ...private import FakeCUDAArray

    return FakeCUDAArray(a) if isinstance(a, np.ndarray) else a


def arguments_of(value):
    """A kernel's argument with every array in it `as_device_array`."""
    if isinstance(value, tuple):
        members = tuple(arguments_of(one) for one in value)
        return type(value)(*members) if hasattr(value, "_fields") else members
    return as_device_array(value)


def grid_runner(kernel):
    """The class that FakeCUDAKernel makes once for each block; the one of block 0 runs them all."""
    StockBlockManager, BlockThread = kernel.BlockManager, kernel.BlockThread

    class Thread(BlockThread):
        done = False
        home: Home  # its block
        crowd: Crowd | None  # its grid, where blocks wait for each other
        met, synced = 0, 0  # how many barriers of the cluster and of the block it has passed
        arrived: int | None = None  # at which barrier of the cluster, for which it has not waited
        bell: Any  # a Condition, rung when what it looks at has changed
        free = 0  # looks in vain before it has to sleep

        def syncthreads(self):
            self.barrier.wait()
            self.synced += 1

        def run(self):
            try:
                with np.errstate(all="ignore"):  # a GPU does not warn
                    super().run()
            # Numba puts the thread's index into a copy of the error; some errors cannot be copied
            except Exception as e:
                cause = e.__context__ or e
                self.exception = cause, cause.__traceback__
            if self.exception:
                for barrier in self.all_barriers:
                    barrier.abort()
            self.slots[self.thread_id % 32] = ABSENT
            for barrier in (self.barrier, self.warp_barrier, self.grid_barrier):
                barrier.leave()
            if self.crowd:
                self.crowd.end(self)
                if self.crowd.broken:
                    for barrier in self.all_barriers:
                        barrier.abort()
            self.done = True

    class GridRunner:
        cluster, waits = 1, False  # blocks of a cluster; may blocks wait for each other?

        def __init__(self, f, grid_dim, block_dim, debug):
            self.f, self.grid_dim, self.block_dim, self.debug = f, grid_dim, block_dim, debug

        def run(self, grid_point, *arguments):
            if any(grid_point):
                return
            threads = []
            count = int(np.prod(self.grid_dim) * np.prod(self.block_dim))
            crowd = Crowd(int(np.prod(self.grid_dim)), count) if self.waits else None
            all_barriers = [Barrier(count, "the grid", crowd), *[crowd] * bool(crowd)]
            homes = self.homes(crowd)
            for home, block in zip(homes, np.ndindex(*self.grid_dim), strict=True):
                threads += self.threads_of(home, block, arguments, all_barriers)
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            except BaseException:  # Ctrl-C: nothing of this launch is left to the next
                for barrier in all_barriers:
                    barrier.abort()
                # a join that was stopped forgets its thread
                while any(thread.ident and not thread.done for thread in threads):
                    time.sleep(1e-3)
                raise
            failed = [thread.exception for thread in threads if thread.exception]
            # the cause before its consequences
            failed.sort(key=lambda e: isinstance(e[0], threading.BrokenBarrierError))
            if crowd and crowd.fault:
                raise RuntimeError(crowd.fault)
            if failed:
                raise failed[0][0].with_traceback(failed[0][1])

        def homes(self, crowd) -> list[Home]:
            """The blocks of the grid, each with those of its cluster."""
            threads, homes = int(np.prod(self.block_dim)), []
            for _ in range(int(np.prod(self.grid_dim)) // self.cluster):
                blocks = [Home(len(homes) + rank, rank, threads) for rank in range(self.cluster)]
                meeting = Meeting(crowd, self.cluster * threads) if self.cluster > 1 else None
                for home in blocks:
                    home.blocks, home.meeting = blocks, meeting
                homes += blocks
            return homes

        def threads_of(self, home, block, arguments, all_barriers):
            manager = StockBlockManager(self.f, self.grid_dim, self.block_dim, self.debug)
            count, crowd = int(np.prod(self.block_dim)), all_barriers[0].crowd
            barrier = Barrier(count, f"block {tuple(map(int, block))}", crowd)
            warps = [Barrier(min(32, count - first), "", crowd) for first in range(0, count, 32)]
            slots = [[None] * warp.parties + [ABSENT] * (32 - warp.parties) for warp in warps]
            all_barriers += [barrier, *warps]
            for point in np.ndindex(*self.block_dim):
                thread = Thread(lambda: self.f(*arguments), manager, block, point, self.debug)
                warp = thread.thread_id // 32
                thread.barrier, thread.warp_barrier = barrier, warps[warp]
                thread.slots, thread.home, thread.crowd = slots[warp], home, crowd
                thread.bell = crowd.bell() if crowd else None
                thread.all_barriers, thread.grid_barrier = all_barriers, all_barriers[0]
                yield thread

    return GridRunner


def give_memory(kernelapi):
    """Shared memory of each block apart, and NaN in every array that a kernel has not written."""
    lock = threading.Lock()

    def dtype_of(dtype):
        is_numba = isinstance(dtype, kernelapi.types.Type)
        return np.dtype(kernelapi.numpy_support.as_dtype(dtype) if is_numba else dtype)

    def poisoned(shape, dtype):
        return np.full(shape, np.nan if dtype.kind == "f" else 0, dtype)

    def shared_array(self, shape, dtype, alignment=None):
        dtype, caller = dtype_of(dtype), sys._getframe(1)
        block = tuple(me().blockIdx)
        key = (block, "dynamic") if shape == 0 else (block, caller.f_code, caller.f_lasti)
        with lock:
            if key not in self._allocations:
                # all bits set is a NaN in every float type
                dynamic = np.full(self._dynshared_size, 0xFF, np.uint8)
                self._allocations[key] = dynamic if shape == 0 else poisoned(shape, dtype)
            memory = self._allocations[key]
        me().home.memory[key[1:]] = memory
        return (
            memory[: memory.size // dtype.itemsize * dtype.itemsize].view(dtype)
            if shape == 0
            else memory
        )

    def local_array(self, shape, dtype, alignment=None):
        return poisoned(shape, dtype_of(dtype))

    kernelapi.FakeCUDAShared.array = shared_array
    kernelapi.FakeCUDALocal.array = local_array


def exchange(value):
    """(what every lane of this warp passed, my lane)"""
    thread = me()
    lane = thread.thread_id % 32
    thread.slots[lane] = value
    thread.warp_barrier.wait()
    values = list(thread.slots)
    thread.warp_barrier.wait()
    return values, lane


def give_warps(module):
    def shuffle(source):
        def shfl(self, mask, value, by):
            values, lane = exchange(value)
            other = source(lane, int(by))
            if not 0 <= other < 32:
                return value
            if values[other] is ABSENT:  # undefined on a GPU
                return type(value)(np.nan) if isinstance(value, (float, np.floating)) else value
            return values[other]

        return shfl

    module.shfl_sync = shuffle(lambda lane, by: by % 32)
    module.shfl_xor_sync = shuffle(lambda lane, by: lane ^ by)
    module.shfl_up_sync = shuffle(lambda lane, by: lane - by)
    module.shfl_down_sync = shuffle(lambda lane, by: lane + by)

    def ballot(p):
        """(bits of the lanes that say p, bits of the lanes that are there)"""
        slots = exchange(bool(p))[0]
        return sum(1 << lane for lane, q in enumerate(slots) if q is True), there(slots)

    def there(slots):
        return sum(1 << lane for lane, q in enumerate(slots) if q is not ABSENT)

    module.all_sync = lambda self, mask, p: len(set(ballot(p))) == 1
    module.any_sync = lambda self, mask, p: ballot(p)[0] != 0
    module.ballot_sync = lambda self, mask, p: ballot(p)[0]
    module.activemask = lambda self: there(me().slots)
    module.syncwarp = lambda self, mask=0xFFFFFFFF: me().warp_barrier.wait()
    module.nanosleep = lambda self, ns: time.sleep(0)


def give_way_to_errors(atomics):
    """What spins, spins on an atomic: it ends when a thread of its grid has failed."""

    def attentive(atomic):
        def operate(self, *arguments):
            if me().grid_barrier.broken:
                raise threading.BrokenBarrierError("another thread of the grid failed")
            return atomic(self, *arguments)

        return operate

    for name, atomic in list(vars(atomics).items()):
        if not name.startswith("_"):
            setattr(atomics, name, attentive(atomic))


class Simulated:
    """The simulator as a Driver (see driver.py): one card, whose arrays are NumPy's."""

    arrays: Any = np
    language, measures = "python", False

    def missing(self) -> str:
        return ""

    def device(self) -> int:
        return 0

    def facts(self, device: int) -> Facts:
        return FACTS

    def load(self, code: bytes, entry: str, shared: int):
        raise NotImplementedError("the simulator runs no machine code")

    def start(
        self,
        function,
        blocks: int,
        threads: int,
        shared: int,
        values: tuple,
        cluster: int = 1,
        cooperative: bool = False,
    ):
        if cluster > 1 or cooperative:
            check_clusters(FACTS, blocks, cluster)
            each = min(MOST_RESIDENT, RESIDENT_THREADS // threads, FACTS.shared // max(1, shared))
            held = each * FACTS.multiprocessors
            check_resident(blocks, cluster, cooperative, held, held // cluster)
        kernel = function[blocks, threads, 0, shared]
        kernel.cluster, kernel.cooperative = cluster, cooperative
        kernel(*map(arguments_of, values))

    def product(self, a, b, out, precision: str, add: bool):
        if precision != "fp32":
            a, b = rounded(a, precision), rounded(b, precision)
        if add:
            out += np.matmul(a, b)
        else:
            np.matmul(a, b, out=out)

    def products(self, stack, b, out, precision: str):
        return lambda t: self.product(stack[t], b, out, precision, False)

    def stream(self, pointer: int, device: int | None, allocate=None):
        return nullcontext()
