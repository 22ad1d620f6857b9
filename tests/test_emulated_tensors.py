"""Tensor cores, executed: products of tiles against NumPy's, and numbers of few bits."""

import numpy as np
import pytest

from emulated import address, kernel, kinds, run
from rnn_gpu.kernels.emulator.findings import Kind
from rnn_gpu.kernels.emulator.machine import Grid

# a thread loads its numbers of A (rows, K) and B (K, columns), both row by row, where the layouts
# of PTX's manual have them, and stores its four of D; one tile a warp
PLACES = """
mov.u32 %r5, %laneid;
shr.u32 %r6, %r5, 2;
and.b32 %r7, %r5, 3;
shr.u32 %r8, %r4, 5;
ld.param.u64 %rd1, [kernel_param_4];
ld.param.u64 %rd2, [kernel_param_11];
ld.param.u64 %rd3, [kernel_param_18];
mul.lo.u32 %r9, %r8, OF_A;
mul.wide.u32 %rd4, %r9, 4;
add.s64 %rd1, %rd1, %rd4;
mul.lo.u32 %r9, %r8, OF_B;
mul.wide.u32 %rd4, %r9, 4;
add.s64 %rd2, %rd2, %rd4;
mul.lo.u32 %r9, %r8, 512;
mul.wide.u32 %rd4, %r9, 1;
add.s64 %rd3, %rd3, %rd4;
"""


def loaded(array, row, column, width, to):
    """%f{to} = array[row, column]: both are (register, factor, what is added)."""
    (r, by_r, plus_r), (c, by_c, plus_c) = row, column
    return f"""
    mad.lo.u32 %r20, {r}, {by_r}, {plus_r};
    mad.lo.u32 %r21, {c}, {by_c}, {plus_c};
    mad.lo.u32 %r20, %r20, {width}, %r21;
    mul.wide.u32 %rd9, %r20, 4;
    add.s64 %rd9, %rd9, {array};
    ld.global.f32 %f{to}, [%rd9];
    """


def body_of_tf32():
    text = PLACES.replace("OF_A", "128").replace("OF_B", "64")
    for k in range(4):
        place = ("%r6", 1, 8 * (k % 2)), ("%r7", 1, 4 * (k // 2))
        text += loaded("%rd1", *place, 8, 1) + f"cvt.rna.tf32.f32 %r{30 + k}, %f1;\n"
    for k in range(2):
        text += loaded("%rd2", ("%r7", 1, 4 * k), ("%r6", 1, 0), 8, 1)
        text += f"cvt.rna.tf32.f32 %r{34 + k}, %f1;\n"
    return text + stored("m16n8k8.row.col.f32.tf32.tf32.f32")


def body_of_bf16():
    text = PLACES.replace("OF_A", "256").replace("OF_B", "128")
    for k in range(4):
        for half in range(2):
            column = "%r7", 2, 8 * (k // 2) + half
            text += loaded("%rd1", ("%r6", 1, 8 * (k % 2)), column, 16, 1 + half)
        text += f"cvt.rn.bf16x2.f32 %r{30 + k}, %f2, %f1;\n"
    for k in range(2):
        for half in range(2):
            text += loaded("%rd2", ("%r7", 2, 8 * k + half), ("%r6", 1, 0), 8, 1 + half)
            text += f"cvt.rn.bf16.f32 %rs{1 + half}, %f{1 + half};\n"
        text += f"mov.b32 %r{34 + k}, {{%rs1, %rs2}};\n"
    return text + stored("m16n8k16.row.col.f32.bf16.bf16.f32")


def stored(shape):
    text = (
        "mov.f32 %f10, 0f3F800000; mov.f32 %f11, %f10; mov.f32 %f12, %f10; mov.f32 %f13, %f10;\n"
        f"mma.sync.aligned.{shape} {{%f14, %f15, %f16, %f17}}, {{%r30, %r31, %r32, %r33}}, "
        "{%r34, %r35}, {%f10, %f11, %f12, %f13};\n"
    )
    for k in range(4):
        text += f"""
        add.u32 %r20, %r6, {8 * (k // 2)};
        mad.lo.u32 %r21, %r7, 2, {k % 2};
        mad.lo.u32 %r20, %r20, 8, %r21;
        mul.wide.u32 %rd9, %r20, 4;
        add.s64 %rd9, %rd9, %rd3;
        st.global.f32 [%rd9], %f{14 + k};
        """
    return text


def tf32(x):
    """To 10 bits behind the point, as the way to write it says: ties away from zero."""
    m, e = np.frexp(x.astype(np.float64))
    return np.ldexp(np.copysign(np.floor(np.abs(m) * 2**11 + 0.5), m), e - 11)


def bf16(x):
    m, e = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(m * 2**8), e - 8)


PRODUCTS = {"tf32": (body_of_tf32(), 8, tf32), "bf16": (body_of_bf16(), 16, bf16)}


def multiplied(body, K, seed=None, warps=3):
    rng = np.random.default_rng(2)
    A, B = (rng.normal(size=shape).astype(np.float32) for shape in ((warps, 16, K), (warps, K, 8)))
    D = np.full((warps, 16, 8), np.nan, np.float32)
    it, flat = kernel(body, 3), [one.reshape(-1) for one in (A, B, D)]
    return A, B, D, run(it, Grid(1, 32 * warps), *flat, seed=seed)


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("seed", [None, 1])
def test_a_product_of_tiles_is_that_of_rounded_numbers(kind, seed):
    body, K, rounded = PRODUCTS[kind]
    A, B, D, done = multiplied(body, K, seed)
    assert done.findings == ()
    np.testing.assert_allclose(D, 1 + rounded(A) @ rounded(B), rtol=0, atol=1e-5)
    assert abs(D - 1 - A.astype(np.float64) @ B).max() > 1e-4


@pytest.mark.parametrize("kind", PRODUCTS)
def test_all_lanes_come_to_a_product(kind):
    body, K, _ = PRODUCTS[kind]
    skipped = body.replace("mma.sync", "setp.eq.u32 %p9, %r5, 7;\n@!%p9 mma.sync")
    assert kinds(multiplied(skipped, K)[3]) >= {Kind.ABSENT_LANES}


CONVERSIONS = {
    "cvt.rna.tf32.f32 %r9, %f1; mov.b32 %f2, %r9;": tf32,
    "cvt.rn.bf16.f32 %rs1, %f1; cvt.f32.bf16 %f2, %rs1;": bf16,
    "cvt.rn.bf16x2.f32 %r9, %f1, 0f00000000; mov.b32 %f2, %r9;": bf16,
    "cvt.rn.bf16x2.f32 %r9, 0f00000000, %f1; shl.b32 %r9, %r9, 16; mov.b32 %f2, %r9;": bf16,
}
EVEN, ODD = 1 + 2.0**-11, 1 + 3 * 2.0**-11  # ties of tf32; of bf16 at 2**-8


@pytest.mark.parametrize("text, rounded", CONVERSIONS.items())
def test_numbers_of_few_bits_are_rounded_as_the_manual_says(text, rounded):
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    x[:6] = EVEN, -EVEN, ODD, 1 + 2.0**-8, 1 + 3 * 2.0**-8, -0.0
    body = address(0, 1) + address(1, 3) + f"ld.global.f32 %f1, [%rd1]; {text} "
    out = np.full_like(x, np.nan)
    done = run(kernel(body + "st.global.f32 [%rd3], %f2;", 2), Grid(1, 64), x, out)
    assert done.findings == ()
    np.testing.assert_array_equal(out, rounded(x).astype(np.float32))
    for given, expected in ((np.inf, np.inf), (-np.inf, -np.inf), (np.nan, np.nan)):
        x[:] = given
        run(kernel(body + "st.global.f32 [%rd3], %f2;", 2), Grid(1, 64), x, out)
        np.testing.assert_array_equal(out, np.float32(expected))
