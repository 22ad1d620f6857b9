"""Microbenchmarks: how threads and blocks wait for each other: of a block, a cluster, a grid."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks._machine import COMPILING, NOT_HERE, REHEARSAL, first_line
from benchmarks._ptx import (
    SIMULATED,
    add_release,
    cuda,
    kernel_of,
    load_acquire,
    phase_over_acquire,
)
from benchmarks._timing import synchronise, timed
from rnn_gpu.kernels.devices import cuda as device
from rnn_gpu.kernels.devices.cuda.clusters import (
    arm,
    cluster_rank,
    fence_mbarriers,
    in_clusters_of,
    init_mbarrier,
    mbarriers_of,
    meet,
    phase_over,
    remote,
    send,
    store_remote,
)
from rnn_gpu.kernels.devices.cuda.driver import driver
from rnn_gpu.kernels.devices.cuda.launch import flat, launch, loaded
from rnn_gpu.kernels.devices.cuda.packets import packets_of
from rnn_gpu.kernels.devices.cuda.ptx import place, shared_place
from rnn_gpu.kernels.devices.cuda.schedules import card
from rnn_gpu.kernels.private import kernel_handle

# looks at a counter before a block gives up: a barrier that is never complete ends too
PATIENCE = 1 << 22
BARRIERS = 3 if REHEARSAL else 2000  # in one launch
THREADS = 4 if REHEARSAL else 128  # of a block that exchanges numbers
ONLY_COMPILED = f"{NOT_HERE}: for the simulator these are too many threads; only compiled"


@kernel_of
def meet_kernel():
    """All blocks of the grid wait for each other, `times` times: counter[0] only grows."""

    @cuda.jit
    def meet_all(counter, times, given_up):
        P = cuda.gridDim.x
        t = 0
        while t < times:
            cuda.syncthreads()
            if cuda.threadIdx.x == 0:
                add_release(counter, 0, 1)
                looks = 0
                while load_acquire(counter, 0) < (t + 1) * P and looks < PATIENCE:
                    looks += 1
                if looks == PATIENCE:
                    given_up[0] = 1
                    t = times
            cuda.syncthreads()
            t += 1

    return meet_all


@kernel_of
def meet_in_block_kernel():
    """The threads of a block wait for each other, `times` times, and pass a number round."""

    @cuda.jit
    def meet_in_block(times, out):
        shared = cuda.shared.array(1024, np.float32)
        i = cuda.threadIdx.x
        shared[i] = i
        cuda.syncthreads()
        t = 0
        while t < times:
            a = shared[(i + 1) % cuda.blockDim.x]
            cuda.syncthreads()
            shared[i] = a
            cuda.syncthreads()
            t += 1
        out[i] = shared[i]

    return meet_in_block


def grids() -> tuple[int, ...]:
    """Blocks of a grid whose blocks are all there at once."""
    if REHEARSAL:
        return 2, 3
    return tuple(dict.fromkeys(min(P, card().multiprocessors) for P in (2, 4, 8, 16, 32, 64, 132)))


def grid_barrier() -> Iterator[dict]:
    """A barrier over P blocks by one counter (red.release, ld.acquire); no more blocks than
    multiprocessors.
    """
    for P in grids():
        counter, given_up = device.array([0], np.uint32), device.array([0], np.uint32)

        def work(P=P, counter=counter, given_up=given_up):
            counter[...] = 0
            launch(meet_kernel(), P, THREADS, counter, BARRIERS, given_up)

        row = {"blocks": P} | timed(work, BARRIERS)
        if int(given_up[0]) or int(counter[0]) != P * BARRIERS:
            row = {
                "blocks": P,
                "error": f"the barrier did not hold: {int(counter[0])} arrivals of {P * BARRIERS}",
            }
        yield row


def block_barrier() -> Iterator[dict]:
    """Two syncthreads, a load and a store of shared memory."""
    for threads in (4, 8) if REHEARSAL else (128, 256, 512, 768, 1024):
        out = device.empty(threads, np.float32)
        row = timed(
            lambda threads=threads, out=out: launch(
                meet_in_block_kernel(), 1, threads, BARRIERS, out
            ),
            BARRIERS,
        )
        right = (np.arange(threads) + BARRIERS) % threads
        yield {"threads": threads} | (
            row if (device.numpy(out) == right).all() else {"error": "a barrier did not hold"}
        )


# Through L2


@kernel_of
def exchange_kernel():
    """`times` steps in which the numbers of each block reach all blocks by L2, each in one word of
    64 bits with the step that it is of, and go on from the next block's.

    words  (2 · blocks · threads,), zero: of even and of odd steps. A block writes a slot anew when
           it has every number of the step between, so all have read what was there.
    """

    put, get = packets_of(np.float32)[1:]

    @cuda.jit
    def exchange(words, times, out, given_up):
        P, N = cuda.gridDim.x, cuda.blockDim.x
        i, rank = cuda.threadIdx.x, cuda.blockIdx.x
        number, first = np.float32(rank), place(words, 0)
        t = 0
        while t < times:
            base, stamp = (t & 1) * P * N + i, np.int32(t + 1)
            put(words, first, base + rank * N, number, stamp)
            k = 0
            while k < P:
                block = (rank + 1 + k) % P
                value, there = get(words, first, base + block * N, stamp)
                looks = 0
                while not there and looks < PATIENCE:
                    value, there = get(words, first, base + block * N, stamp)
                    looks += 1
                if looks == PATIENCE:
                    given_up[0] = 1
                    t = times
                    k = P
                if k == 0:
                    number = value
                k += 1
            t += 1
        out[rank * N + i] = np.int64(number)

    return exchange


def exchange_through_L2() -> Iterator[dict]:
    """A step in which every block of P has one number of each thread of all blocks, by polling."""
    for P in grids():
        if P > 64:
            continue  # each thread polls a word of every block: more than the schedule would
        words = device.zeros(2 * P * THREADS, np.int64)
        out, given_up = device.zeros(P * THREADS, np.int64), device.array([0], np.uint32)

        def work(P=P, words=words, out=out, given_up=given_up):
            words[...] = 0
            given = words, BARRIERS, out, given_up
            launch(exchange_kernel(), P, THREADS, *given, cooperative=True)

        row = timed(work, BARRIERS)
        right = np.repeat((np.arange(P) + BARRIERS) % P, THREADS)
        held = not int(given_up[0]) and (device.numpy(out) == right).all()
        yield {"blocks": P} | (row if held else {"error": "not the numbers that were sent"})


# Within a cluster


@kernel_of
def push_kernel(size: int, push: bool):
    """`times` steps with a barrier of the cluster; where they push, 128 numbers of every block
    reach all blocks, and go on from the next one's.  out (size · 128,).
    """
    together, N, BOTH = in_clusters_of(size), size * 128, 2 * size * 128

    @cuda.jit
    def pass_on(times, out):
        together()
        shared = cuda.shared.array(BOTH, np.float32)
        i, rank = cuda.threadIdx.x, cluster_rank()
        number = np.float32(rank)
        meet()  # a block's shared memory is there once it has started
        t = 0
        while t < times:
            if push:
                mine, k = (t & 1) * N + rank * 128 + i, 0
                while k < size:
                    store_remote(shared, remote(shared_place(shared, mine), k), 0, number)
                    k += 1
            meet()
            if push:
                number = shared[(t & 1) * N + (rank + 1) % size * 128 + i]
            t += 1
        out[cuda.blockIdx.x * 128 + i] = number

    return pass_on


@kernel_of
def async_kernel(size: int, relaxed: bool):
    """The same without a barrier: st.async, whose bytes an mbarrier of each block counts.

    Having every number of a step proves that all have read those of the step before: each thread
    sends what it has read. So two buffers suffice, each with an mbarrier of its own. Nothing is
    sent that is not awaited, so a block may end when it has all.
    """
    together, N, BOTH, BYTES = in_clusters_of(size), size * 128, 2 * size * 128, size * 512
    over, mbarriers = phase_over if relaxed else phase_over_acquire, mbarriers_of(2)

    @cuda.jit
    def pass_on_async(times, out):
        together()
        shared = cuda.shared.array(BOTH, np.float32)
        full = mbarriers()
        i, rank = cuda.threadIdx.x, cluster_rank()
        number = np.float32(rank)
        if i == 0:
            for half in range(2):
                init_mbarrier(full[half], 1)
            fence_mbarriers()
            for half in range(2):
                arm(full[half], BYTES)
        meet()
        t = 0
        while t < times:
            half = t & 1
            mine, counted, k = shared_place(shared, half * N + rank * 128 + i), full[half], 0
            while k < size:
                send(shared, remote(mine, k), 0, number, remote(counted, k))
                k += 1
            while over(counted, (t >> 1) & 1) == 0:
                pass
            if i == 0:
                arm(counted, BYTES)
            number = shared[half * N + (rank + 1) % size * 128 + i]
            t += 1
        out[cuda.blockIdx.x * 128 + i] = number

    return pass_on_async


SIZES = (2, 4, 8, 16)


def over_clusters(heads: list[dict], kernel, moves) -> Iterator[dict]:
    """A row for each head and cluster size: kernel(size, the head's value), whose numbers have
    moved on by a block each step where moves(value) says so.
    """
    for head, size in itertools.product(heads, SIZES):
        (value,), head = head.values(), {"blocks": size} | head
        if SIMULATED:
            yield head | {"error": ONLY_COMPILED}
            continue
        try:
            made, out = kernel(size, value), device.empty(size * 128, np.float32)
            allow_large_clusters(made, size, (BARRIERS, out))
            row = timed(
                lambda made=made, out=out, size=size: launch(made, size, 128, BARRIERS, out),
                BARRIERS,
            )
            right = np.repeat((np.arange(size) + BARRIERS * moves(value)) % size, 128)
            held = (device.numpy(out) == right).all()
            yield head | (row if held else {"error": "not the numbers that were sent"})
        except Exception as error:
            yield head | {"error": first_line(error)}
            synchronise()  # where the GPU is lost this raises, and nothing more is measured


def clusters() -> Iterator[dict]:
    """A step over a thread-block cluster: its barrier alone, and after each block has pushed 128
    numbers to all the others.
    """
    yield from over_clusters([{"push": False}, {"push": True}], push_kernel, int)


def clusters_async() -> Iterator[dict]:
    """The same by st.async and mbarriers, which wait with .acquire, or .relaxed and a fence."""
    heads = [{"relaxed": False}, {"relaxed": True}]
    yield from over_clusters(heads, async_kernel, lambda _: 1)


def compiled_for(kernel, arguments: tuple, shared: int = 0) -> Any:
    """The kernel on the current card, as `launch` will start it: cuda.core's."""
    return loaded(driver(), driver().device(), kernel, flat(arguments)[1], shared)


def allow_large_clusters(kernel, size: int, arguments: tuple):
    """More than 8 blocks a cluster must be asked for."""
    function = compiled_for(kernel, arguments)
    if size > 8 and not COMPILING:
        from cuda.bindings import driver as cuda_driver

        attribute = cuda_driver.CUfunction_attribute
        (status,) = cuda_driver.cuKernelSetAttribute(
            attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
            1,
            kernel_handle(function),
            cuda_driver.CUdevice(driver().device()),
        )
        if status != cuda_driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"clusters of {size} are not allowed here: {status}")


@kernel_of
def resident_kernel(size: int, threads: int):
    """Nothing, in clusters, with dynamic shared memory."""
    together = in_clusters_of(size)

    @cuda.jit(launch_bounds=threads)
    def stay(out):
        together()
        shared = cuda.shared.array(0, np.float32)
        shared[cuda.threadIdx.x] = out[cuda.threadIdx.x]
        cuda.syncthreads()
        out[cuda.threadIdx.x] = shared[0]

    return stay


def resident_clusters() -> Iterator[dict]:
    """How many clusters the card holds at once (cuOccupancyMaxActiveClusters), by their size and
    what a block takes of shared memory.
    """
    for size, threads, kilobytes in itertools.product((8, 16), (256, 512), (32, 100, 200)):
        head = {"blocks": size, "threads": threads, "kilobytes": kilobytes}
        if SIMULATED:
            yield head | {"error": ONLY_COMPILED}
            continue
        try:
            kernel, out = resident_kernel(size, threads), device.zeros(threads, np.float32)
            function = compiled_for(kernel, (out,), kilobytes << 10)
            if not COMPILING:
                yield head | {"clusters": held_at_once(function, size, threads, kilobytes << 10)}
        except Exception as error:
            yield head | {"error": first_line(error)}


def held_at_once(function, size: int, threads: int, shared: int) -> int:
    from cuda.bindings import driver as cuda_driver
    from cuda.core import Device, LaunchConfig

    attribute, code = cuda_driver.CUfunction_attribute, cuda_driver.CUdevice(driver().device())
    large = attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
    cuda_driver.cuKernelSetAttribute(large, 1, kernel_handle(function), code)
    stream = Device(driver().device()).default_stream
    how = LaunchConfig(grid=size, cluster=size, block=threads, shmem_size=shared)
    return function.occupancy.max_active_clusters(how, stream=stream)
