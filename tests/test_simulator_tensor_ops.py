"""Tensor cores in the simulator: products of a warp in PTX's layouts, and the numbers they take."""

import numpy as np
import pytest
from numba import cuda

from rnn_gpu.kernels.devices.cuda import tensor_ops as t
from simulation import run, simulated

pytestmark = simulated

LANES = 32


@cuda.jit
def multiply_tf32(A, B, D):
    lane = cuda.threadIdx.x
    g, q = lane >> 2, lane & 3
    a = (A[g, q], A[g + 8, q], A[g, q + 4], A[g + 8, q + 4])
    a = (t.to_tf32(a[0]), t.to_tf32(a[1]), t.to_tf32(a[2]), t.to_tf32(a[3]))
    b = (t.to_tf32(B[q, g]), t.to_tf32(B[q + 4, g]))
    D[g, 2 * q], D[g, 2 * q + 1], D[g + 8, 2 * q], D[g + 8, 2 * q + 1] = t.mma_tf32(
        a, b, (D[g, 2 * q], D[g, 2 * q + 1], D[g + 8, 2 * q], D[g + 8, 2 * q + 1])
    )


@cuda.jit
def multiply_bf16(A, B, D):
    lane = cuda.threadIdx.x
    g, q = lane >> 2, lane & 3
    a = (
        t.pack_bf16(A[g, 2 * q], A[g, 2 * q + 1]),
        t.pack_bf16(A[g + 8, 2 * q], A[g + 8, 2 * q + 1]),
        t.pack_bf16(A[g, 2 * q + 8], A[g, 2 * q + 9]),
        t.pack_bf16(A[g + 8, 2 * q + 8], A[g + 8, 2 * q + 9]),
    )
    b = (
        t.pack_bf16(B[2 * q, g], B[2 * q + 1, g]),
        t.pack_bf16(B[2 * q + 8, g], B[2 * q + 9, g]),
    )
    D[g, 2 * q], D[g, 2 * q + 1], D[g + 8, 2 * q], D[g + 8, 2 * q + 1] = t.mma_bf16(
        a, b, (D[g, 2 * q], D[g, 2 * q + 1], D[g + 8, 2 * q], D[g + 8, 2 * q + 1])
    )


KINDS = pytest.mark.parametrize(
    "kernel, K, bits", [(multiply_tf32, 8, 10), (multiply_bf16, 16, 7)], ids=["tf32", "bf16"]
)


def matrices(K):
    rng = np.random.default_rng(0)
    return (rng.normal(size=size).astype(np.float32) for size in ((16, K), (K, 8), (16, 8)))


@KINDS
def test_a_warp_multiplies_two_tiles(kernel, K, bits):
    A, B, D = matrices(K)
    before = D.astype(np.float64)
    run(kernel, 1, LANES, A, B, D)
    error = np.abs(D - (before + A.astype(np.float64) @ B)).max()
    assert 2.0 ** -(bits + 4) < error < K * 2.0 ** -(bits - 2)  # rounded, and no more than that


@KINDS
def test_small_whole_numbers_are_multiplied_exactly(kernel, K, bits):
    A, B, D = (np.rint(4 * one) for one in matrices(K))
    expected = D + A @ B
    run(kernel, 1, LANES, A, B, D)
    assert (expected == D).all()


def test_a_product_without_all_lanes_is_refused():
    A, B, D = matrices(8)
    with pytest.raises(RuntimeError, match="without all 32 lanes"):
        run(multiply_tf32, 1, 16, A, B, D)


@pytest.mark.parametrize(
    "given, tf32, bf16",
    [
        (1.0, 1.0, 1.0),
        (1 + 2**-11, 1 + 2**-10, 1.0),  # a tie for tf32: away from zero
        (-1 - 2**-11, -1 - 2**-10, -1.0),
        (1 + 2**-8, 1 + 2**-8, 1.0),  # a tie for bf16: to even
        (1 + 3 * 2**-8, 1 + 3 * 2**-8, 1 + 2**-6),
        (3.0e38, 3.0e38, 3.0e38),
        (np.inf, np.inf, np.inf),
        (np.nan, np.nan, np.nan),
    ],
)
def test_numbers_are_rounded_as_a_card_does(given, tf32, bf16):
    found = t.from_tf32(t.to_tf32(np.float32(given)))
    np.testing.assert_allclose(found, tf32, rtol=2**-11 if abs(given) > 9 else 0)
    for word in (t.pack_bf16(np.float32(given), 7), t.pack_bf16(7, np.float32(given))):
        pair = t.low_bf16(word), t.high_bf16(word)
        one = pair[0] if pair[1] == 7 else pair[1]
        np.testing.assert_allclose(one, bf16, rtol=2**-8 if abs(given) > 9 else 0)
