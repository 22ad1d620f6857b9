"""Products of small matrices by tensor cores, and the numbers they take: each intrinsic, and its
twin for the simulator under the same name.

A warp has a product D = A B + C of a tile of 16 rows and 8 columns together, A of 16 x K, B of K x
8. Of lane = 4 g + q, a thread has (PTX's layouts, `.row.col`)

              tf32, K = 8                       bf16, K = 16, two a word: the lower k low
    a         (g, q)  (g+8, q)                  (g, 2q…)    (g+8, 2q…)
              (g, q+4)  (g+8, q+4)              (g, 2q+8…)  (g+8, 2q+8…)
    b         (q, g)  (q+4, g)                  (2q…, g)    (2q+8…, g)
    c and d   (g, 2q)  (g, 2q+1)  (g+8, 2q)  (g+8, 2q+1), float32

For cards from compute capability 8.0.
"""

from typing import Any, NamedTuple

import numpy as np

from .assembly import assembly, emit
from .launch import SIMULATED, types
from .simulator import ABSENT, exchange


class TensorOps(NamedTuple):
    """Names of this module. All lanes of a warp come to a product."""

    mma_tf32: Any  # (a, b, c) -> d: tuples of 4 words, 2 words, 4 float32, 4 float32
    mma_bf16: Any  # the same
    to_tf32: Any  # (float32) -> a word: rounded to 10 bits behind the point, ties away from zero
    pack_bf16: Any  # (low, high) -> a word of two float32: each rounded to 7 bits, ties to even
    low_bf16: Any  # (word) -> float32
    high_bf16: Any  # (word) -> float32


def of_all_lanes(a, b):
    """(what each lane of the warp has of A and B, my lane)."""
    lanes, lane = exchange((a, b))
    if ABSENT in lanes:
        raise RuntimeError("a product of tensor cores without all 32 lanes of a warp")
    return lanes, lane


def product_of(A, B, c, lane):
    """The four numbers of a lane in C + A B, of A (16, K) and B (K, 8)."""
    g, q = lane >> 2, lane & 3
    D = A.astype(np.float64) @ B.astype(np.float64)
    at = (g, 2 * q), (g, 2 * q + 1), (g + 8, 2 * q), (g + 8, 2 * q + 1)
    return tuple(np.float32(D[place] + float(one)) for place, one in zip(at, c, strict=True))


def product_of_tf32(a, b, c):
    lanes, lane = of_all_lanes(a, b)
    A, B = np.empty((16, 8), np.float32), np.empty((8, 8), np.float32)
    for other, (of_A, of_B) in enumerate(lanes):
        g, q = other >> 2, other & 3
        for k in range(4):
            A[g + 8 * (k % 2), q + 4 * (k // 2)] = from_tf32(of_A[k])
        for k in range(2):
            B[q + 4 * k, g] = from_tf32(of_B[k])
    return product_of(A, B, c, lane)


def product_of_bf16(a, b, c):
    lanes, lane = of_all_lanes(a, b)
    A, B = np.empty((16, 16), np.float32), np.empty((16, 8), np.float32)
    for other, (of_A, of_B) in enumerate(lanes):
        g, q = other >> 2, other & 3
        for k in range(4):
            row, column = g + 8 * (k % 2), 2 * q + 8 * (k // 2)
            A[row, column], A[row, column + 1] = low_of(of_A[k]), high_of(of_A[k])
        for k in range(2):
            row = 2 * q + 8 * k
            B[row, g], B[row + 1, g] = low_of(of_B[k]), high_of(of_B[k])
    return product_of(A, B, c, lane)


def from_tf32(word):
    """What the tensor cores see of a word: the last 13 bits are not looked at."""
    return np.uint32(int(word) & 0xFFFFE000).view(np.float32)


def as_tf32(x):
    bits = int(np.float32(x).view(np.uint32))
    return np.uint32(bits if np.isnan(x) else (bits + 0x1000) & 0xFFFFE000)


def as_bf16(x) -> int:
    bits = int(np.float32(x).view(np.uint32))
    return 0x7FFF if np.isnan(x) else (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def both_as_bf16(low, high):
    return np.uint32(as_bf16(low) | as_bf16(high) << 16)


def low_of(word):
    return np.uint32((int(word) & 0xFFFF) << 16).view(np.float32)


def high_of(word):
    return np.uint32(int(word) & 0xFFFF0000).view(np.float32)


def twins() -> TensorOps:
    return TensorOps(product_of_tf32, product_of_bf16, as_tf32, both_as_bf16, low_of, high_of)


def intrinsics() -> TensorOps:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    u32, f32 = types.uint32, types.float32
    half, single = ir.IntType(32), ir.FloatType()

    def product(shape: str, kind: str) -> Any:
        text = (
            f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 "
            "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
        )

        def typing(context, a, b, c):
            def codegen(context, builder, signature, arguments):
                values = [
                    (letter, builder.extract_value(part, k))
                    for part, letter, count in zip(arguments, "rrf", (4, 2, 4), strict=True)
                    for k in range(count)
                ]
                made = emit(builder, text, [("f", single)] * 4, values)
                parts = [builder.extract_value(made, k) for k in range(4)]
                return context.make_tuple(builder, signature.return_type, parts)

            four = types.UniTuple(f32, 4)
            return four(types.UniTuple(u32, 4), types.UniTuple(u32, 2), four), codegen

        return intrinsic(typing)

    def shifted(kept_high: bool) -> Any:
        def typing(context, word):
            def codegen(context, builder, signature, arguments):
                (word,) = arguments
                sixteen = ir.Constant(half, 16)
                if kept_high:
                    word = builder.and_(word, ir.Constant(half, 0xFFFF0000))
                else:
                    word = builder.shl(word, sixteen)
                return builder.bitcast(word, single)

            return f32(u32), codegen

        return intrinsic(typing)

    return TensorOps(
        product("m16n8k8", "tf32"),
        product("m16n8k16", "bf16"),
        assembly("cvt.rna.tf32.f32 $0, $1;", u32, f32, pure=True),
        assembly("cvt.rn.bf16x2.f32 $0, $2, $1;", u32, f32, f32, pure=True),
        shifted(False),
        shifted(True),
    )


mma_tf32, mma_bf16, to_tf32, pack_bf16, low_bf16, high_bf16 = twins() if SIMULATED else intrinsics()
