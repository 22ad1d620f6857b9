"""Blocks, memory, errors and options: the simulator does what our kernels need of a GPU. No test can hang: see `simulation.run`."""

import time
import warnings

import numpy as np
import pytest
from numba import cuda

from rnn_gpu.kernels.devices.cuda.launch import SIMULATED, launch
from simulation import hurry, poisoned, run, simulated, wait_for_every_block

pytestmark = simulated

if SIMULATED:
    from rnn_gpu.kernels.devices.cuda import simulator


# Blocks


def test_blocks_run_at_once_so_that_a_barrier_between_them_completes():
    blocks, threads, steps = 4, 8, 5

    @cuda.jit
    def relay(x, arrived):
        i = cuda.grid(1)
        for t in range(steps):
            x[t + 1, i] = x[t, (i + threads) % x.shape[1]] + 1  # what the next block wrote
            wait_for_every_block(arrived, t)

    x, arrived = poisoned(steps + 1, blocks * threads), np.zeros(1, np.int64)
    x[0] = np.arange(blocks * threads)
    run(relay, blocks, threads, x, arrived)
    for t in range(steps):
        assert (x[t + 1] == np.roll(x[t], -threads) + 1).all()
    assert arrived[0] == blocks * steps


def test_syncthreads_is_a_barrier():
    @cuda.jit
    def turn_round(x):
        i, n = cuda.threadIdx.x, cuda.blockDim.x
        for t in range(x.shape[0] - 1):
            x[t + 1, i] = x[t, n - 1 - i] + i
            cuda.syncthreads()

    x = poisoned(21, 6)
    x[0] = 0
    run(turn_round, 1, 6, x)
    for t in range(20):
        assert (x[t + 1] == x[t, ::-1] + np.arange(6)).all()


def test_threads_that_end_leave_the_barrier():
    @cuda.jit
    def thin_out(x):
        i = cuda.threadIdx.x
        for t in range(x.shape[0] - 1):
            if i > x.shape[0] - 2 - t:  # one thread fewer a step, none but 0 in the last
                return
            x[t + 1, i] = x[t, (i + 1) % x.shape[1]] + 1
            cuda.syncthreads()

    n = 6
    x = poisoned(n + 1, n + 1)
    x[0] = 0
    run(thin_out, 2, n + 1, x)
    for t in range(n):
        assert (x[t + 1, : n - t] == t + 1).all()
        assert np.isnan(x[t + 1, n - t :]).all()


def test_votes_of_a_block_count_every_thread():
    @cuda.jit
    def vote(out):
        i = cuda.threadIdx.x
        out[0, i] = cuda.syncthreads_count(i % 2)
        out[1, i] = cuda.syncthreads_or(i == 3)
        out[2, i] = cuda.syncthreads_and(i != 3)
        out[3, i] = cuda.syncthreads_and(i < 7)

    out = poisoned(4, 7)
    run(vote, 1, 7, out)
    assert (out == np.array([3, 1, 0, 1])[:, None]).all()


def test_the_barrier_of_a_grid_waits_for_every_block():
    @cuda.jit
    def swap(x):
        b = cuda.blockIdx.x
        time.sleep(0.05 * b)
        x[0, b] = b
        cuda.cg.this_grid().sync()
        x[1, b] = x[0, cuda.gridDim.x - 1 - b]

    x = poisoned(2, 3)
    run(swap, 3, 1, x)
    assert (x == [[0, 1, 2], [2, 1, 0]]).all()


# Memory


@cuda.jit
def in_static(out, arrived):
    s = cuda.shared.array(2, np.float32)
    if cuda.threadIdx.x < 2:
        s[cuda.threadIdx.x] = 10 * cuda.blockIdx.x + cuda.threadIdx.x
    wait_for_every_block(arrived, 0)
    out[cuda.blockIdx.x, cuda.threadIdx.x] = s[1 - cuda.threadIdx.x % 2]


@cuda.jit
def in_dynamic(out, arrived):
    s = cuda.shared.array(0, np.float32)
    if cuda.threadIdx.x < 2:
        s[cuda.threadIdx.x] = 10 * cuda.blockIdx.x + cuda.threadIdx.x
    wait_for_every_block(arrived, 0)
    out[cuda.blockIdx.x, cuda.threadIdx.x] = s[1 - cuda.threadIdx.x % 2]


@pytest.mark.parametrize("kernel", ["in_static", "in_dynamic"])
def test_shared_memory_belongs_to_a_block_and_to_all_its_threads(kernel):
    out = poisoned(3, 4)
    run(globals()[kernel], 3, 4, out, np.zeros(1, np.int64), shared=8)
    assert (out == [[1, 0, 1, 0], [11, 10, 11, 10], [21, 20, 21, 20]]).all()


@cuda.jit
def read_static(out):
    out[0] = cuda.shared.array(3, out.dtype)[1]


@cuda.jit
def read_dynamic(out):
    out[0] = cuda.shared.array(0, out.dtype)[1]


@cuda.jit
def read_local(out):
    out[0] = cuda.local.array(3, out.dtype)[1]


@pytest.mark.parametrize("kernel", ["read_static", "read_dynamic", "read_local"])
def test_what_was_never_written_is_nan(kernel, dtype):
    out = np.zeros(1, dtype)
    run(globals()[kernel], 1, 1, out, shared=64)
    assert np.isnan(out[0])


def test_shared_memory_does_not_outlive_the_launch():
    @cuda.jit
    def remember(out, write):
        static, dynamic = shared_arrays()
        if write:
            static[0] = dynamic[0] = 1
        out[0], out[1] = static[0], dynamic[0]

    out = poisoned(2)
    run(remember, 1, 1, out, True, shared=4)
    assert (out == 1).all()
    run(remember, 1, 1, out, False, shared=4)
    assert np.isnan(out).all()


@cuda.jit(device=True)
def shared_arrays():
    static = cuda.shared.array(1, np.float32)
    dynamic = cuda.shared.array(0, np.float32)
    return static, dynamic


def test_numbas_types_name_dtypes_too():
    from numba import float64, int32

    @cuda.jit
    def sizes(out):
        out[0] = cuda.shared.array(2, float64).itemsize
        out[1] = cuda.shared.array(0, int32).itemsize
        out[2] = cuda.local.array(2, float64).itemsize

    out = poisoned(3)
    run(sizes, 1, 1, out, shared=8)
    assert (out == [8, 4, 8]).all()


def test_dynamic_shared_memory_is_one_memory_however_it_is_viewed():
    @cuda.jit
    def view(out):
        words, octets = cuda.shared.array(0, np.uint32), cuda.shared.array(0, np.uint8)
        words[1] = 0x04030201
        out[0], out[1] = words.size, octets.size
        for k in range(4):
            out[2 + k] = octets[4 + k]

    out = poisoned(6)
    run(view, 1, 1, out, shared=11)
    assert (out == [2, 11, 1, 2, 3, 4]).all()  # whole words only


def test_static_arrays_of_one_kernel_are_apart():
    @cuda.jit
    def two(out):
        a = cuda.shared.array(1, np.float32)
        b = cuda.shared.array(1, np.float32)
        a[0], b[0] = 1, 2
        out[0], out[1] = a[0], b[0]

    out = poisoned(2)
    run(two, 1, 1, out)
    assert (out == [1, 2]).all()


def test_static_arrays_of_one_line_are_two():
    @cuda.jit
    def two(out):
        a, b = cuda.shared.array(1, np.float32), cuda.shared.array(1, np.float32)
        a[0], b[0] = 1, 2
        out[0], out[1] = a[0], b[0]

    out = poisoned(2)
    run(two, 1, 1, out)
    assert (out == [1, 2]).all()


def test_arrays_that_are_one_on_the_host_are_one_in_the_kernel():
    @cuda.jit
    def through(a, rows, out):
        a[cuda.threadIdx.x] = cuda.threadIdx.x
        cuda.syncthreads()
        out[cuda.threadIdx.x] = rows[1, cuda.threadIdx.x - 2] if cuda.threadIdx.x > 1 else rows[0, cuda.threadIdx.x]

    a, out = poisoned(4), poisoned(4)
    launch(through, 1, 4, a, a.reshape(2, 2), out)
    assert (a == range(4)).all()
    assert (out == range(4)).all()


# Compiling and running


def test_options_for_a_compiler_are_accepted():
    @cuda.jit(device=True, forceinline=True)
    def twice(x):
        return x + x

    @cuda.jit(launch_bounds=32, lto=True, max_registers=64, lineinfo=True, fastmath=False)
    def kernel(x):
        x[cuda.threadIdx.x] = twice(x[cuda.threadIdx.x])

    x = np.arange(4.0)
    run(kernel, 1, 4, x)
    assert (x == [0, 2, 4, 6]).all()


def test_an_option_that_no_compiler_has_is_refused():
    with pytest.raises(TypeError, match="forcinline"):
        cuda.jit(device=True, forcinline=True)


@cuda.jit
def meet_in_blocks(arrived, faulty):
    if cuda.grid(1) == faulty:
        raise ZeroDivisionError("the cause")
    cuda.atomic.add(arrived, 0, 1)
    while cuda.atomic.add(arrived, 0, 0) < cuda.gridsize(1):
        cuda.syncthreads()


@cuda.jit
def meet_in_warps(arrived, faulty):
    if cuda.grid(1) == faulty:
        raise ZeroDivisionError("the cause")
    cuda.atomic.add(arrived, 0, 1)
    while cuda.atomic.add(arrived, 0, 0) < cuda.gridsize(1):
        cuda.syncwarp()


@pytest.mark.parametrize("faulty", [0, 5, 7])
@pytest.mark.parametrize("kernel", ["meet_in_blocks", "meet_in_warps"])
def test_the_error_of_one_thread_is_raised_and_ends_all_others(kernel, faulty):
    kernel, arrived = globals()[kernel], np.zeros(1, np.int64)
    with pytest.raises(ZeroDivisionError, match=rf"tid=\[{faulty % 4}, 0, 0\] ctaid=\[{faulty // 4}, 0, 0\]: the cause"):
        run(kernel, 2, 4, arrived, faulty)
    arrived[0] = 0
    run(kernel, 2, 4, arrived, -1)  # the next launch is well
    assert arrived[0] == 8


def test_an_error_ends_the_blocks_that_spin():
    @cuda.jit
    def spin(arrived):
        if cuda.blockIdx.x == 1:
            while cuda.atomic.add(arrived, 0, 0) == 0:
                hurry()
            raise ZeroDivisionError("the cause")  # block 0 is in the barrier
        wait_for_every_block(arrived, 0)

    with pytest.raises(ZeroDivisionError, match="the cause"):
        run(spin, 2, 2, np.zeros(1, np.int64), patience=1.0)


class ParticularError(Exception):
    """Cannot be made from a message, as some of NumPy's: np.exceptions, UFuncTypeError."""

    def __init__(self, one, other):
        super().__init__(one, other)


def test_an_error_that_cannot_be_copied_is_raised_all_the_same():
    @cuda.jit
    def fail(x):
        if cuda.threadIdx.x == 1:
            raise ParticularError("one", "other")
        cuda.syncthreads()

    with pytest.raises(ParticularError, match="other"):
        run(fail, 1, 3, np.zeros(1), patience=1.0)


def test_arithmetic_does_not_warn():
    @cuda.jit
    def overflow(x):
        zero = x[0] - x[0]
        x[1] = np.exp(x[0])
        x[2] = x[0] / zero
        x[3] = zero / zero
        x[4] = np.log(-x[0])
        x[5] = x[0] * np.float32(1e38)

    x = np.full(6, 1000, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(overflow, 1, 1, x)
    assert np.isposinf(x[[1, 2, 5]]).all()
    assert np.isnan(x[[3, 4]]).all()


def test_installing_twice_changes_nothing():
    from numba.cuda.simulator import kernel, kernelapi

    def parts():
        classes = (kernel, kernelapi.FakeCUDAModule, kernelapi.FakeCUDAShared, kernelapi.FakeCUDALocal)
        return cuda.jit, [dict(vars(one)) for one in classes]

    before = parts()
    simulator.install()
    assert parts() == before
