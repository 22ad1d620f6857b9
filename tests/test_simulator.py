"""Blocks, memory, errors and options: the simulator does what our kernels need of a GPU. No test
can hang: see `simulation.run`.
"""

import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import cuda

import rnn_gpu
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


@cuda.jit
def end_before(x):
    if cuda.threadIdx.x > 1:
        return
    cuda.syncthreads()


@cuda.jit
def end_after_others_wait(x):
    if cuda.threadIdx.x > 1:
        time.sleep(0.05)
    else:
        cuda.syncthreads()


@cuda.jit
def go_past(x):
    if cuda.threadIdx.x > 1:
        cuda.syncthreads()
    cuda.syncthreads()
    if cuda.threadIdx.x <= 1:
        cuda.syncthreads()


@cuda.jit
def loop_once_more(x):
    for _ in range(2 + cuda.threadIdx.x // 2):
        barrier()


def barrier():
    cuda.syncthreads()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("end_before", "of 4, 2 wait at .*test_simulator.py:[0-9]+ in end_before, 2 have ended"),
        ("end_after_others_wait", "of 4, 2 wait at .*in end_after_others_wait, 2 have ended"),
        ("go_past", "of 4, 2 wait at .*in go_past, 2 wait at .*in go_past"),
        ("loop_once_more", "of 4, 2 wait at .*in barrier, 2 have ended"),
    ],
)
def test_a_barrier_that_half_of_a_block_skips_is_an_error_that_names_it(kernel, message):
    with pytest.raises(
        RuntimeError, match=rf"not all threads of block \([01], 0, 0\) reach: {message}"
    ):
        run(globals()[kernel], 2, 4, poisoned(1))


def test_a_function_with_a_barrier_is_another_place_at_each_call():
    @cuda.jit
    def part_ways(x):
        if cuda.threadIdx.x % 2:
            barrier()
        else:
            barrier()

    with pytest.raises(RuntimeError, match=r"2 wait at .*in barrier, 2 wait at .*in barrier"):
        run(part_ways, 1, 4, poisoned(1))


def test_a_block_that_ends_before_the_barrier_of_its_grid_is_an_error():
    @cuda.jit
    def leave_alone(x):
        if cuda.blockIdx.x == 0:
            cuda.cg.this_grid().sync()

    with pytest.raises(
        RuntimeError,
        match=r"not all threads of the grid reach: of 6, 2 wait at .*in leave_alone, 4 have ended",
    ):
        run(leave_alone, 3, 2, poisoned(1))


@pytest.mark.parametrize("threads", [1025, (32, 33), (16, 16, 5)])
def test_a_block_of_more_threads_than_a_gpu_takes_is_refused(threads):
    with pytest.raises(
        ValueError,
        match=rf"end_before is launched with {np.prod(threads)} threads a block, .* takes 1024",
    ):
        end_before[1, threads](poisoned(1))


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
        out[cuda.threadIdx.x] = (
            rows[1, cuda.threadIdx.x - 2] if cuda.threadIdx.x > 1 else rows[0, cuda.threadIdx.x]
        )

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
    while cuda.syncthreads_or(cuda.atomic.add(arrived, 0, 0) < cuda.gridsize(1)):
        pass


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
    with pytest.raises(
        ZeroDivisionError,
        match=rf"tid=\[{faulty % 4}, 0, 0\] ctaid=\[{faulty // 4}, 0, 0\]: the cause",
    ):
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


def shift_in_blocks(blocks, threads):
    """A kernel that is right for one configuration only."""

    @cuda.jit
    def shift(x, y):
        s = cuda.shared.array(8, x.dtype)
        s[cuda.threadIdx.x] = x[cuda.grid(1)]
        cuda.syncthreads()
        y[cuda.grid(1)] = s[(cuda.threadIdx.x + 1) % cuda.blockDim.x] + 10 * cuda.gridsize(1)

    x, y = np.arange(float(blocks * threads)), poisoned(blocks * threads)
    launch(shift, blocks, threads, x, y)
    expected = np.roll(x.reshape(blocks, threads), -1, 1).ravel() + 10 * blocks * threads
    assert (y == expected).all()


def test_launches_of_several_host_threads_take_turns():
    """Of kernels that are made meanwhile, of one kernel in two configurations, of whole layers."""

    @cuda.jit
    def number(x):
        x[cuda.grid(1)] = cuda.gridsize(1)

    def one_kernel(blocks):
        x = poisoned(blocks * 2)
        launch(number, blocks, 2, x)
        assert (x == 2 * blocks).all()

    layer = rnn_gpu.RNN(2, 3, device="cuda", seed=0)
    expected, _ = layer(np.ones((3, 2, 2), "f"))
    expected = expected.copy()

    def a_layer(seed):
        y, _ = rnn_gpu.RNN(2, 3, device="cuda", seed=0)(np.ones((3, 2, 2), "f"))
        assert (y == expected).all()

    with ThreadPoolExecutor(4) as hosts:
        calls = []
        for i in range(8):
            calls.append(hosts.submit(shift_in_blocks, 1 + i % 3, 2 + i % 4))
            calls.append(hosts.submit(one_kernel, 1 + i % 4))
            calls.append(hosts.submit(a_layer, i))
        for call in calls:
            call.result(timeout=60)


def test_a_launch_in_the_middle_of_another_in_one_host_thread_is_an_error():
    @cuda.jit
    def slow(x):
        time.sleep(0.5)

    def handle(signal, frame):
        slow[1, 1](np.zeros(1))

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(
            RuntimeError,
            match="slow is launched by a handler or finalizer in the middle of another launch",
        ):
            slow[1, 1](np.zeros(1))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    slow[1, 1](np.zeros(1))  # the next launch is well


def test_a_launch_that_is_interrupted_leaves_nothing_to_the_next():
    @cuda.jit
    def wait(x, turn):
        while cuda.atomic.add(turn, 0, 0) == 0:
            time.sleep(0.001)
        x[0] += 1
        cuda.syncthreads()

    def interrupt(signal, frame):
        raise KeyboardInterrupt

    x, before = np.zeros(1), signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            launch(wait, 2, 2, x, np.zeros(1, np.int64))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(getattr(thread, "done", True) for thread in threading.enumerate())
    launch(wait, 1, 1, x, np.ones(1, np.int64))
    assert x[0] == 1


def test_installing_twice_changes_nothing():
    from numba.cuda.simulator import kernel, kernelapi

    def parts():
        classes = (
            kernel,
            kernel.FakeCUDAKernel,
            kernelapi.FakeCUDAModule,
            kernelapi.FakeCUDAShared,
            kernelapi.FakeCUDALocal,
        )
        return cuda.jit, [dict(vars(one)) for one in classes]

    before = parts()
    simulator.install()
    assert parts() == before
