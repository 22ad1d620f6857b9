"""The simulator does what our kernels need of a GPU, and device="cuda" really runs kernels in it.

No test can hang: `run` gives a launch a few seconds, then breaks every barrier of it.
"""

import math
import threading
import time
import warnings

import numpy as np
import pytest
from numba import cuda

import rnn_gpu
from rnn_gpu.kernels.devices import cuda as device
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED, launch

pytestmark = pytest.mark.skipif(not SIMULATED, reason="these kernels are for the simulator: a GPU is being used")

if SIMULATED:
    from rnn_gpu.kernels.devices.cuda import simulator
    from rnn_gpu.kernels.devices.cuda.simulator import as_device_array

PATIENCE = 20.0  # seconds a launch may take; each takes a fraction of one
LANES = 32
MASK = 0xFFFFFFFF
BLOCK = 40  # a whole warp, and one of 8 lanes

deadline = math.inf


def run(kernel, blocks, threads, *arguments, shared=0, patience=PATIENCE):
    """Launch a kernel and wait for it; raise what it raises, and fail if it hangs."""
    global deadline
    raised = []

    def start():
        try:
            kernel[blocks, threads, 0, shared](*map(as_device_array, arguments))
        except Exception as error:
            raised.append(error)

    deadline = time.monotonic() + 2 * patience  # what spins is seen to hang first
    host = threading.Thread(target=start, daemon=True)
    host.start()
    host.join(patience)
    hangs = host.is_alive()
    if hangs:  # let its threads go, so that other tests can launch
        for thread in threading.enumerate():
            for barrier in getattr(thread, "all_barriers", ()):
                barrier.abort()
        host.join(2 * patience)
    assert not hangs, f"{kernel.__name__} hangs"
    if raised:
        raise raised[0]


def poisoned(*shape, dtype="float32"):
    return np.full(shape, np.nan, dtype)


def hurry():
    if time.monotonic() > deadline:
        raise TimeoutError("the others do not come")


@cuda.jit(device=True)
def wait_for_every_block(arrived, turn):
    """The barrier between blocks of KERNELS.md §3: the first thread of each counts itself in, and spins."""
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        cuda.atomic.add(arrived, 0, 1)
        while cuda.atomic.add(arrived, 0, 0) < (turn + 1) * cuda.gridDim.x:
            hurry()
    cuda.syncthreads()


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


# Warps

GRIDS = pytest.mark.parametrize("threads", [BLOCK, (8, 5)], ids=["line", "plane"])  # lanes follow x, then y


@cuda.jit(device=True)
def thread_in_block():
    return cuda.threadIdx.x + cuda.blockDim.x * cuda.threadIdx.y


def lanes(x):
    """The warps of each block of x (blocks, BLOCK)."""
    return [x[b, first : first + LANES] for b in range(len(x)) for first in range(0, BLOCK, LANES)]


def values():
    return np.random.default_rng(1).normal(size=(2, BLOCK))


@GRIDS
def test_a_shuffle_reads_the_lane_it_names(threads):
    @cuda.jit
    def shuffles(x, out):
        i = thread_in_block()
        v = x[cuda.blockIdx.x, i]
        out[0, cuda.blockIdx.x, i] = cuda.shfl_sync(MASK, v, 3)
        out[1, cuda.blockIdx.x, i] = cuda.shfl_sync(MASK, v, (i + 1) % 8)
        out[2, cuda.blockIdx.x, i] = cuda.shfl_xor_sync(MASK, v, 5)
        out[3, cuda.blockIdx.x, i] = cuda.shfl_up_sync(MASK, v, 2)
        out[4, cuda.blockIdx.x, i] = cuda.shfl_down_sync(MASK, v, 2)

    x, out = values(), poisoned(5, 2, BLOCK, dtype="float64")
    run(shuffles, 2, threads, x, out)
    for warp, *got in zip(lanes(x), *map(lanes, out), strict=True):
        lane = np.arange(len(warp))
        assert (got[0] == warp[3]).all()
        assert (got[1] == warp[(lane + 1) % 8]).all()
        assert (got[2] == warp[lane ^ 5]).all()
        assert (got[3][2:] == warp[:-2]).all() and (got[3][:2] == warp[:2]).all()
        assert (got[4][:-2] == warp[2:]).all()
        if len(warp) == LANES:
            assert (got[4][-2:] == warp[-2:]).all()  # what lies beyond the warp is the lane's own


def test_a_shuffle_from_a_missing_lane_gives_a_number():
    @cuda.jit
    def down(x, out):
        out[cuda.threadIdx.x] = 2 * cuda.shfl_down_sync(MASK, x[cuda.threadIdx.x], 16)

    x, out = values()[0], poisoned(BLOCK, dtype="float64")
    run(down, 1, BLOCK, x, out)
    assert (out[:16] == 2 * x[16:32]).all()
    assert np.isnan(out[32:]).all()  # undefined on a GPU


def test_a_sum_over_a_warp_by_shuffles():
    @cuda.jit
    def total(x, out):
        i = cuda.threadIdx.x
        v = x[cuda.blockIdx.x, i]
        for bit in (16, 8, 4, 2, 1):
            v += cuda.shfl_xor_sync(MASK, v, bit)
        out[cuda.blockIdx.x, i] = v

    x = np.random.default_rng(1).integers(100, size=(2, 64))
    out = np.zeros_like(x)
    run(total, 2, 64, x, out)
    assert (out.reshape(2, 2, LANES) == x.reshape(2, 2, LANES).sum(-1, keepdims=True)).all()


@GRIDS
def test_votes_of_a_warp_count_the_lanes_that_are_there(threads):
    @cuda.jit
    def votes(p, q, out):
        i = thread_in_block()
        mine, others = p[cuda.blockIdx.x, i], q[cuda.blockIdx.x, i]
        out[0, cuda.blockIdx.x, i] = cuda.ballot_sync(MASK, mine)
        out[1, cuda.blockIdx.x, i] = cuda.any_sync(MASK, mine)
        out[2, cuda.blockIdx.x, i] = cuda.all_sync(MASK, mine)
        out[3, cuda.blockIdx.x, i] = cuda.any_sync(MASK, others)
        out[4, cuda.blockIdx.x, i] = cuda.all_sync(MASK, others)

    p = values() > 0
    q = np.repeat([[True, False], [False, True]], [LANES, BLOCK - LANES], axis=1)  # all of one warp of each block, none of the other
    out = np.full((5, 2, BLOCK), -1, np.int64)
    run(votes, 2, threads, p, q, out)
    for mine, others, *got in zip(lanes(p), lanes(q), *map(lanes, out), strict=True):
        assert (got[0] == sum(1 << lane for lane, one in enumerate(mine) if one)).all()
        assert (got[1] == mine.any()).all() and (got[2] == mine.all()).all()
        assert (got[3] == others[0]).all() and (got[4] == others[0]).all()


def test_lanes_that_have_ended_do_not_vote():
    @cuda.jit
    def leave_and_vote(out):
        i = cuda.threadIdx.x
        cuda.ballot_sync(MASK, True)
        if i >= 4:
            return
        while cuda.activemask() != 0b1111:
            hurry()
        out[i] = cuda.ballot_sync(MASK, True)

    out = np.zeros(4, np.int64)
    run(leave_and_vote, 1, 8, out, patience=1.0)
    assert (out == 0b1111).all()


def test_the_active_mask_has_the_lanes_that_are_there():
    @cuda.jit
    def masks(out):
        out[cuda.threadIdx.x] = cuda.activemask()
        cuda.syncwarp()

    out = np.zeros(BLOCK, np.int64)
    run(masks, 1, BLOCK, out)
    assert (out[:LANES] == MASK).all()
    assert (out[LANES:] == 0xFF).all()


def test_the_active_mask_of_a_whole_warp_is_full():
    @cuda.jit
    def masks(out):
        out[cuda.threadIdx.x] = cuda.activemask()
        cuda.syncwarp()

    out = np.zeros(2 * LANES, np.int64)
    run(masks, 1, 2 * LANES, out)
    assert (out == MASK).all()


def test_syncwarp_is_a_barrier_of_the_lanes_of_one_warp():
    @cuda.jit
    def within(out, finished):
        i = cuda.threadIdx.x
        s = cuda.shared.array(BLOCK, np.float32)
        warp = i // LANES
        size = min(LANES, BLOCK - LANES * warp)
        for t in range(1 + 3 * warp):  # as often as each warp likes
            s[i] = i + t
            cuda.syncwarp()
            out[t, i] = s[LANES * warp + (i + 1) % size]
            cuda.syncwarp(MASK)
        cuda.atomic.add(finished, 0, 1)
        while cuda.atomic.add(finished, 0, 0) < BLOCK:  # a warp that is done holds nobody up
            hurry()

    out = poisoned(4, BLOCK)
    run(within, 1, BLOCK, out, np.zeros(1, np.int64))
    for t in range(4):
        assert (out[t, LANES:] == LANES + (np.arange(8) + 1) % 8 + t).all()
    assert (out[0, :LANES] == (np.arange(LANES) + 1) % LANES).all()
    assert np.isnan(out[1:, :LANES]).all()


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


# The device runs kernels


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels of all launches to come."""
    seen = []

    def spy(kernel, *arguments, **options):
        seen.append(kernel.__name__)
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(device, "launch", spy)
    return seen


@pytest.mark.parametrize("T", [3, 30])
@pytest.mark.parametrize("layer", ["RNN", "LSTM", "GRU"])
def test_a_layer_is_one_launch_forward_and_one_back(launches, layer, T):
    layer = getattr(rnn_gpu, layer)(2, 3, device="cuda")
    y, _ = layer(np.ones((T, 2, 2), "float32"))
    assert launches == ["forward"]
    layer.backward(y)
    assert launches == ["forward", "backward"]


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_other_devices_launch_nothing(launches, name):
    layer = rnn_gpu.RNN(2, 3, device=name)
    y, _ = layer(np.ones((3, 2, 2), "float32"))
    layer.backward(y)
    assert launches == []


calls = []  # (block, thread) of every number that `noted` took on a device with threads


def note():
    me = threading.current_thread()
    if hasattr(me, "blockIdx"):
        calls.append((me.blockIdx.x, me.threadIdx.x))


def noted(z):
    note()
    return np.tanh(z)


def dnoted(y):
    note()
    return 1 - y * y


def test_samples_are_spread_over_blocks_and_units_over_threads():
    T, B, n = 3, 5, 6
    layer = rnn_gpu.RNN(2, n, (noted, dnoted), device="cuda")
    for pass_over in (lambda: layer(np.ones((T, B, 2), "float32")), lambda: layer.backward(np.ones((T, B, n), "float32"))):
        calls.clear()
        pass_over()
        assert len(calls) >= T * B * n
        assert len({block for block, _ in calls}) > 1
        for block in {block for block, _ in calls}:
            assert len({thread for b, thread in calls if b == block}) > 1


def test_an_elementwise_formula_is_spread_over_threads():
    out = np.zeros(50)
    calls.clear()
    device.elementwise(noted, [out], [np.ones(50)])
    assert len(calls) == out.size
    assert len(set(calls)) > 1 and len({block for block, _ in calls}) > 1
