"""Tensor cores: numbers of few bits, and products of tiles that a warp has together.

D = A B + C: A of 16 rows, B of 8 columns. Of lane 4 g + q, a thread has (PTX, "Matrix Fragments for
mma.m16n8k8" and "…m16n8k16", .row.col)

        tf32, K = 8                  bf16, K = 16: two of a row in a register, the lower k low
    A   (g, q)       (g + 8, q)      (g, 2q…)       (g + 8, 2q…)
        (g, q + 4)   (g + 8, q + 4)  (g, 2q + 8…)   (g + 8, 2q + 8…)
    B   (q, g)       (q + 4, g)      (2q…, g)       (2q + 8…, g)
    C   (g, 2q)      (g, 2q + 1)     (g + 8, 2q)    (g + 8, 2q + 1)

Products are exact, and added in float32 in the order of k. A card adds in an order of its own.
"""

from collections.abc import Callable

import numpy as np

from .findings import Kind
from .memory import Access
from .operands import Operands, members
from .warps import WARP

ROWS, COLUMNS = 16, 8
TF32, BF16 = "m16n8k8.row.col.f32.tf32.tf32.f32", "m16n8k16.row.col.f32.bf16.bf16.f32"
LANE = np.arange(WARP)
GROUP, PLACE = LANE >> 2, LANE & 3  # g and q


def as_bits(x):
    return np.asarray(x, "f4").view("u4")


def as_tf32(x):
    """float32 to 10 bits behind the point, to the nearest, ties away from zero: as a word."""
    bits = as_bits(x)
    rounded = bits + np.uint32(0x1000) & np.uint32(0xFFFFE000)
    return np.where(np.isnan(x), np.uint32(0x7FFFFFFF), rounded)


def from_tf32(words):
    """What a product sees of words: nothing of their last 13 bits."""
    return (words.view("u4") & np.uint32(0xFFFFE000)).view("f4")


def as_bf16(x):
    """float32 to 7 bits behind the point, to the nearest, ties to even."""
    bits = as_bits(x)
    half = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    rounded = (bits + half >> np.uint32(16)).astype("u2")
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def from_bf16(x):
    return (x.astype("u4") << np.uint32(16)).view("f4")


def convert(o: Operands) -> Callable:
    """cvt to and from numbers of few bits."""
    _, *sources = o.it.operands
    if o.it.op == "cvt.f32.bf16":
        get, put = o.get(sources[0], "u16"), o.put("f32")
        return lambda here: put(here, from_bf16(get(here)))
    gets = [o.get(source, "f32") for source in sources]
    if o.it.op == "cvt.rna.tf32.f32":
        put = o.put("u32")
        return lambda here: put(here, as_tf32(gets[0](here)))
    if o.it.op == "cvt.rn.bf16.f32":
        put = o.put("u16")
        return lambda here: put(here, as_bf16(gets[0](here)))
    if o.it.op == "cvt.rn.bf16x2.f32":
        high, low = gets
        put = o.put("u32")
        return lambda here: put(here, packed(as_bf16(low(here)), as_bf16(high(here))))
    raise o.unknown()


def packed(low, high):
    return low.astype("u4") | high.astype("u4") << np.uint32(16)


# Tiles


def tiles_of_tf32(a, b):
    """(A, B) of warps from words a (4, warps, lanes) and b (2, warps, lanes)."""
    A = np.empty((a.shape[1], ROWS, 8), "f4")
    B = np.empty((a.shape[1], 8, COLUMNS), "f4")
    for k in range(4):
        A[:, GROUP + 8 * (k % 2), PLACE + 4 * (k // 2)] = from_tf32(a[k])
    for k in range(2):
        B[:, PLACE + 4 * k, GROUP] = from_tf32(b[k])
    return A, B


def tiles_of_bf16(a, b):
    A = np.empty((a.shape[1], ROWS, 16), "f4")
    B = np.empty((a.shape[1], 16, COLUMNS), "f4")
    for half in range(2):
        shift = np.uint32(16 * half)
        for k in range(4):
            row, column = GROUP + 8 * (k % 2), 2 * PLACE + 8 * (k // 2) + half
            A[:, row, column] = from_bf16((a[k] >> shift).astype("u2"))
        for k in range(2):
            B[:, 2 * PLACE + 8 * k + half, GROUP] = from_bf16((b[k] >> shift).astype("u2"))
    return A, B


def product(A, B, c):
    """c (4, warps, lanes) + A B, in the same places."""
    at = [(GROUP + 8 * (k // 2), 2 * PLACE + k % 2) for k in range(4)]
    D = np.empty((len(A), ROWS, COLUMNS), "f4")
    for k, (row, column) in enumerate(at):
        D[:, row, column] = c[k]
    for k in range(A.shape[2]):
        D += A[:, :, k, None] * B[:, None, k]
    return [D[:, row, column] for row, column in at]


TILES = {TF32: tiles_of_tf32, BF16: tiles_of_bf16}


def multiply(o: Operands) -> Callable:
    """mma.sync"""
    tiles = TILES.get(o.it.op.removeprefix("mma.sync.aligned."))
    target, *sources = o.it.operands
    if tiles is None:
        raise o.unknown()
    puts = o.puts(target, "f32")
    kinds = "u32", "u32", "f32"
    gets = [
        [o.get(name, kind) for name in members(source)]
        for source, kind in zip(sources, kinds, strict=True)
    ]

    def act(here):
        row, lane, warps = by_warps(here, o.it.text)

        def laid(values):
            out = np.zeros((len(values), warps, WARP), values[0].dtype)
            for k, value in enumerate(values):
                out[k, row, lane] = value
            return out

        a, b, c = (laid([get(here) for get in one]) for one in gets)
        found = product(*tiles(a, b), c)
        for k, put in puts:
            put(here, found[k][row, lane])

    return act


def by_warps(here, text: str):
    """(the row of each thread's warp, its lane, how many warps); all lanes must be there."""
    machine, who = here.machine, here.who
    lane = machine.lane[who]
    _, row, count = np.unique(machine.warp[who], return_inverse=True, return_counts=True)
    absent = count[row] < WARP
    machine.memory.tell(Kind.ABSENT_LANES, Access("", "i4", 1, text), who, absent)
    if machine.clocks:
        for one in range(len(count)):
            machine.clocks.mingle(who[row == one])
    return row, lane, len(count)


VERBS: dict[str, Callable[[Operands], Callable]] = {"mma": multiply}
FEW_BITS = {"tf32", "bf16", "bf16x2"}
