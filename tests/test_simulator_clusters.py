"""Blocks of the simulator that wait for each other: by clusters, and by words through global
memory. What would be wrong or hang on a card is found, whatever the order in which things land.
"""

from itertools import count

import numpy as np
import pytest
from numba import cuda

from rnn_gpu.kernels.devices.cuda import clusters as c
from rnn_gpu.kernels.devices.cuda.crowd import Crowd
from rnn_gpu.kernels.devices.cuda.driver import Facts, check_clusters, check_resident
from rnn_gpu.kernels.devices.cuda.packets import packets_of
from rnn_gpu.kernels.devices.cuda.ptx import index as place_of
from simulation import poisoned, run, simulated

pytestmark = simulated

C, UNITS, STEPS = 3, 4, 6
N = C * UNITS
SEEDS = range(4)


@pytest.fixture
def seed(request):
    Crowd.seeds = count(100 * request.param)
    yield
    Crowd.seeds = count()


seeds = pytest.mark.parametrize("seed", SEEDS, indirect=True)


def numbers(blocks, dtype="float32"):
    return np.random.default_rng(0).normal(size=(blocks, UNITS)).astype(dtype)


def mixed(x, size):
    """What the kernels below make of x (blocks, UNITS) in STEPS steps, clusters of `size`."""
    x = x.astype(np.float64).reshape(-1, size * UNITS)
    for _ in range(STEPS):
        x = (x * np.arange(1, size * UNITS + 1)).sum(1, keepdims=True) / 64 + x / 2
    return x.reshape(-1, UNITS)


def cluster_kernel(size=C, fault="", together=None):
    """Each number of a cluster goes to all its blocks, STEPS times."""
    n, bytes = size * UNITS, 4 * size * UNITS
    together, mbarriers = c.in_clusters_of(together or size), c.mbarriers_of(2)

    @cuda.jit
    def exchange(x, out):
        together()
        i, rank = cuda.threadIdx.x, c.cluster_rank()
        shared = cuda.shared.array(2 * n, np.float32)
        full = mbarriers()
        if i == 0:
            for half in range(2):
                c.init_mbarrier(full[half], 1)
            if fault != "no fence":
                c.fence_mbarriers()
            for half in range(2):
                c.arm(full[half], bytes + 4 * (fault == "too many bytes"))
        if fault != "no barrier":
            c.meet()
        number = x[cuda.blockIdx.x, i]
        for t in range(STEPS):
            half = t & 1
            behind = 0 if fault == "one buffer" else half * n
            counted = full[0 if fault == "one mbarrier" else half]
            for k in range(size - (fault == "one block forgotten")):
                to = k + (fault == "no such block")
                place = c.remote(place_of(shared, behind + rank * UNITS + i), to)
                c.send(shared, place, 0, number, c.remote(counted, to))
            c.await_phase(counted, (t >> 1) & 1 ^ (fault == "wrong parity"))
            if i == 0 and (fault != "armed once" or t < 2):
                c.arm(counted, bytes)
            total = np.float32(0)
            for k in range(n):
                total += (k + 1) * shared[behind + k]
            number = np.float32(total / 64 + number / 2)
        if fault == "one send too many" and i == 0:
            to = (rank + 1) % size
            c.send(shared, c.remote(place_of(shared, 0), to), 0, number, c.remote(full[0], to))
        if fault == "two barriers" and rank == 0:
            c.cluster_arrive()
            c.cluster_arrive()
        out[cuda.blockIdx.x, i] = number

    return exchange


@seeds
@pytest.mark.parametrize("size", [2, C])
def test_numbers_reach_every_block_of_a_cluster(size, seed):
    blocks = 2 * size
    x, out = numbers(blocks), poisoned(blocks, UNITS)
    run(cluster_kernel(size), blocks, UNITS, x, out, cluster=size)
    np.testing.assert_allclose(out, mixed(x, size), rtol=1e-5)


FAULTS = {
    "no barrier": "no barrier since it was initialised|has initialised no|before a barrier of the",
    "no fence": r"fence_mbarriers\(\) is missing",
    "no such block": "block 3 of a cluster of 3",
    "one block forgotten": "nobody can go on: thread .* of block 2 .* of 48 bytes have come",
    "too many bytes": "nobody can go on: .* 48 of 52 bytes have come",
    "armed once": "nobody can go on: .* which nobody has armed",
    "one send too many": "is still sent to|nobody has awaited phase",
    "two barriers": "twice without cluster_wait",
}


@seeds
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_hangs_or_leaves_something_behind_is_told(fault, seed):
    with pytest.raises(RuntimeError, match=FAULTS[fault]):
        run(cluster_kernel(fault=fault), C, UNITS, numbers(C), poisoned(C, UNITS), cluster=C)


@pytest.mark.parametrize("fault", ["one buffer", "one mbarrier", "wrong parity"])
def test_a_fault_of_order_is_seen_in_the_numbers(fault):
    """In some of a few orders: on a card it would be in one of many runs."""
    x, found = numbers(C), 0
    for seed in range(8):
        Crowd.seeds, out = count(seed), poisoned(C, UNITS)
        try:
            run(cluster_kernel(fault=fault), C, UNITS, x, out, cluster=C)
            found += not np.allclose(out, mixed(x, C), rtol=1e-5)
        except RuntimeError:
            found += 1
    assert found >= 2, found


def test_a_cluster_must_be_launched_as_one():
    x, out = numbers(4), poisoned(4, UNITS)
    with pytest.raises(RuntimeError, match="of clusters of 3 blocks is launched in clusters of 2"):
        run(cluster_kernel(2, together=3), 4, UNITS, x, out, cluster=2)
    with pytest.raises(RuntimeError, match="launched in clusters of 1"):
        run(cluster_kernel(2), 4, UNITS, x, out)
    with pytest.raises(RuntimeError, match="4 blocks are no whole number of clusters of 3"):
        run(cluster_kernel(3), 4, UNITS, x, out, cluster=3)


# Words through global memory


def group_kernel(number, fault=""):
    """As `cluster_kernel`, of all blocks of a grid; words (2 halves · numbers · words of each,)"""
    packets = packets_of(number)

    @cuda.jit
    def exchange(x, out, words):
        i, rank, size = cuda.threadIdx.x, cuda.blockIdx.x, cuda.gridDim.x
        n = size * UNITS
        shared = cuda.shared.array(N, number)
        mine = x[rank, i]
        for t in range(STEPS):
            half = 0 if fault == "one buffer" else (t & 1) * n
            if fault != "silent" or rank or t < 2:
                packets.put(words, 0, half + rank * UNITS + i, mine, np.int32(t + 1))
            for k in range(i, n, UNITS):
                value, there = packets.get(words, 0, half + k, np.int32(t + 1))
                while not there:
                    value, there = packets.get(words, 0, half + k, np.int32(t + 1))
                shared[k] = value
            cuda.syncthreads()
            total = number(0)
            for k in range(n):
                total += (k + 1) * shared[k]
            mine = number(total / 64 + mine / 2)
            cuda.syncthreads()
        out[rank, i] = mine

    return exchange


@seeds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_go_through_global_memory(dtype, seed):
    x, out = numbers(C, dtype), poisoned(C, UNITS, dtype=dtype)
    words = np.zeros(2 * N * np.dtype(dtype).itemsize // 4, np.int64)
    run(group_kernel(np.dtype(dtype).type), C, UNITS, x, out, words, cooperative=True)
    np.testing.assert_allclose(out, mixed(x, C), rtol=1e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("taken, given", [("float32", "float64"), ("float64", "float32")])
def test_packets_take_numbers_of_another_type(taken, given):
    """Rounded to their own; `Sent` of executed.py is the same of compiled kernels."""
    number, x = np.dtype(taken).type, numbers(1, given)[0]
    packets, words, out = packets_of(number), np.zeros(2 * UNITS, np.int64), poisoned(UNITS)

    @cuda.jit
    def exchange(x, out, words):
        i, there = cuda.threadIdx.x, False
        packets.put(words, 0, i, x[i], np.int32(1))
        while not there:
            value, there = packets.get(words, 0, i ^ 1, np.int32(1))
        out[i] = value

    run(exchange, 1, UNITS, x, out, words, cooperative=True)
    np.testing.assert_array_equal(out, x.astype(np.float32).reshape(-1, 2)[:, ::-1].ravel())


@seeds
def test_blocks_that_never_hear_are_told(seed):
    x, out, words = numbers(C), poisoned(C, UNITS), np.zeros(2 * N, np.int64)
    kernel = group_kernel(np.float32, "silent")
    with pytest.raises(
        RuntimeError, match=r"nobody can go on: thread .* for word \d+ of tag \d+, whose tag is"
    ):
        run(kernel, C, UNITS, x, out, words, cooperative=True)


def test_one_buffer_for_two_is_found_in_some_order():
    """A word is written anew before all have read it: who looks for its tag looks for ever."""
    x, found = numbers(C), 0
    for seed in range(8):
        Crowd.seeds = count(seed)
        out, words = poisoned(C, UNITS), np.zeros(2 * N, np.int64)
        try:
            run(group_kernel(np.float32, "one buffer"), C, UNITS, x, out, words, cooperative=True)
        except RuntimeError as error:
            found += "nobody can go on" in str(error)
    assert found >= 2, found


def test_blocks_that_wait_for_each_other_must_be_launched_so():
    words = np.zeros(2 * N, np.int64)
    with pytest.raises(RuntimeError, match="cooperative=True"):
        run(group_kernel(np.float32), C, UNITS, numbers(C), poisoned(C, UNITS), words)
    with pytest.raises(RuntimeError, match="65 blocks are to wait for each other"):
        run(group_kernel(np.float32), 65, UNITS, numbers(65), None, words, cooperative=True)


def test_a_grid_that_no_card_can_hold_is_refused():
    ampere = Facts("A100", (8, 0), 108, 65_536, 166_912)
    with pytest.raises(RuntimeError, match=r"of compute capability 8.0: only cards from 9.0"):
        check_clusters(ampere, 8, 2)
    with pytest.raises(RuntimeError, match="clusters of 17 blocks: a card takes 1 to 16"):
        check_clusters(ampere._replace(capability=(9, 0)), 17, 17)
    with pytest.raises(RuntimeError, match="16 blocks does not find room"):
        check_resident(16, 16, False, 132, 0)
    with pytest.raises(RuntimeError, match="this card holds 132 of them"):
        check_resident(133, 1, True, 132, 0)
    check_resident(132, 1, True, 132, 0)
    check_resident(1000, 8, False, 132, 1)  # clusters may come one after the other
