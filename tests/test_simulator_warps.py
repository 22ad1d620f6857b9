"""Warps of the simulator: shuffles, votes, masks and barriers of 32 lanes, and of the fewer that a
block may end with.
"""

import numpy as np
import pytest
from numba import cuda

from simulation import hurry, poisoned, run, simulated

pytestmark = simulated

LANES = 32
MASK = 0xFFFFFFFF
BLOCK = 40  # a whole warp, and one of 8 lanes
# lanes follow x, then y
GRIDS = pytest.mark.parametrize("threads", [BLOCK, (8, 5)], ids=["line", "plane"])


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
    # all of one warp of each block, none of the other
    q = np.repeat([[True, False], [False, True]], [LANES, BLOCK - LANES], axis=1)
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
