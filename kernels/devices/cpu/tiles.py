"""Products of matrices: one side packed in panels, then a tile of the result at a time in
registers.

A tile is some rows × the columns of one panel: some vectors of neighbouring units, all gates of a
unit, so that a cell finds all it needs in one tile. Where the gates are too many for the registers,
a panel is cut in *strips* of some gates each, one behind the other in memory, and the tile is
computed strip by strip. What is done with a tile is an *epilogue*: a function of the vector of
units j, j+1, … of row b. The sums of a tile are added in the order of k whatever its size, so a
row's result does not depend on the rows beside it.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ... import At
from ...private import cgutils
from .compilation import intrinsic, within
from .memory import CACHE_LINE
from .simd import I64, Build, Vector, lanes, machine
from .windows import LOAD, MASKED, STORE, on_stack, place, transpose

MANY = 32  # registers: enough for two of each vector that a cell works on
NEAR = 1 << 16  # bytes of weights that come from the nearest cache
FEW = 5  # rows that are few

load, load_masked, store, load_scalar = (
    LOAD["vector"],
    LOAD["masked"],
    STORE["vector"],
    LOAD["scalar"],
)
store_scalar = STORE["scalar"]


class Operands(NamedTuple):
    """Of a product of matrices, for rows of a by packed panels of W; arrays are flat windows."""

    a: Any  # its row b begins at a[at[b]]; neighbours in it are `step` numbers apart
    at: Any
    step: Any
    W: Any  # panels, packed
    size: Any  # numbers of W a strip
    K: Any  # terms of a sum


class Share(NamedTuple):
    """What one thread has of a product: rows b0 … b1 − 1 and panels p0 … p1 − 1."""

    b0: Any
    b1: Any
    p0: Any
    p1: Any


class Tile(NamedTuple):
    """Where an epilogue finds the sums of its units: q[i, gate, v …]."""

    q: Any
    i: Any
    v: Any


@cache
def layout(gates: int, n: int, number, rows: int = 1) -> tuple[int, int]:
    """(V, H): vectors of units in a panel of n units, and gates that are beside each other in a
    strip of it.

    The units of a gate fill a line of the cache, and two vectors, which a cell works on at a time,
    where there are so many. Then a strip has as many columns as leave enough rows a tile: a row of
    weights that is loaded is used once for each. No more than a quarter of the columns are beyond
    n. Where there are `rows` to fill it, and weights come from further than the nearest cache, a
    tile of as many sums is higher.
    """
    across, most = -(-n // lanes(number)), 6 if machine()[1] >= MANY else 2
    line = max(1, CACHE_LINE // machine()[0])

    def fits(V):
        return V == 1 or (most >= V and 3 * -(-across // V) * V <= 4 * across)

    V = next(V for V in (2 * line, line, 1) if fits(V))
    H = next(H for H in range(gates, 0, -1) if H == 1 or (gates % H == 0 and most >= H * V))
    while most >= 2 * H * V and fits(2 * V):
        V *= 2
    if rows > FEW and gates * n * n * np.dtype(number).itemsize > NEAR and V > 1:
        columns = H * V // 2
        if rows_of_tiles(columns)[0] * columns >= rows_of_tiles(H * V)[0] * H * V:
            V //= 2
    return V, H


@cache
def row_packer(number, V: int):
    """(a, k0, K, j0, n, out, p0, p1) -> None: panels p0 … p1−1 of a[k0 : k0 + K, j0 : j0 + n], zero
    beyond n.  Windows.
    """
    L = lanes(number)

    @within
    def pack_rows(a, k0, K, j0, n, out, p0, p1):
        for panel in range(p0, p1):
            for k in range(K):
                for v in range(V):
                    j = (panel * V + v) * L
                    if j + L <= n:
                        store(out, (panel, k, 0, v * L), L, load(a, (k0 + k, j0 + j), L))
                    else:
                        store(
                            out,
                            (panel, k, 0, v * L),
                            L,
                            load_masked(a, (k0 + k, j0 + min(j, n)), max(n - j, 0)),
                        )

    return pack_rows


@cache
def column_packer(number, G: int, V: int, H: int):
    """(a, n, K, out, p0, p1) -> None: panels p0 … p1−1 of aᵀ, the gates of a strip beside each
    other, zero beyond n.

    Windows: a (G·n, K), out (strips, K, H, units).
    """
    L, strips = lanes(number), G // H

    @within
    def pack_columns(a, n, K, out, p0, p1):
        for panel in range(p0, p1):
            for g in range(G):
                strip, h = panel * strips + g // H, g % H
                for v in range(V):
                    j = (panel * V + v) * L
                    turned = K // L * L if j + L <= n else 0
                    for k in range(0, turned, L):
                        transpose(a, g * n + j, k, out, (strip, k, h, v * L))
                    for k in range(turned, K):
                        for u in range(L):
                            store_scalar(
                                out,
                                (strip, k, h, v * L + u),
                                1,
                                load_scalar(a, (g * n + j + u, k), 1) if j + u < n else number(0),
                            )

    return pack_columns


def tile(rows: int, columns: int, together: int, row: int):
    """(operands, b, strip, q, to) -> None: sums Σ_k a[at[b + r] + step·k] W[strip + u, k] of r <
    rows, u < together.

    W has `columns` vectors a row. The sums of a row stand in q, a flat window, from `to` on, strip
    behind strip, those of the next row `row` vectors further.
    """

    @intrinsic
    def product(typing, operands, b, strip, q, to):
        v = Vector(operands.types[0].dtype)

        def build(context, builder, sig, values):
            h, L = Build(builder, v), v.lanes
            kinds, given = sig.args[0].types, cgutils.unpack_tuple(builder, values[0])
            data, places, packed = (place(context, builder, kinds[i], given[i]) for i in (0, 1, 3))
            step, size, K = given[2], given[4], given[5]
            b, strip, to = values[1], values[2], values[4]
            out = place(context, builder, sig.args[3], values[3])

            def vector(p, i):
                return builder.bitcast(builder.gep(p, [I64(i * L)]), v.ir.as_pointer())

            starts = [
                builder.gep(data, [builder.load(builder.gep(places, [builder.add(b, I64(r))]))])
                for r in range(rows)
            ]
            strips = [
                builder.gep(packed, [builder.mul(builder.add(strip, I64(u)), size)])
                for u in range(together)
            ]
            before, loop = builder.block, builder.append_basic_block("sum")
            after = builder.append_basic_block("done")
            builder.cbranch(builder.icmp_signed(">", K, I64(0)), loop, after)

            builder.position_at_end(loop)
            k = builder.phi(I64)
            sums = [builder.phi(v.ir) for _ in range(together * rows * columns)]
            here = builder.mul(k, I64(columns * L))
            weights = []
            for p in strips:
                for c in range(columns):
                    weights.append(builder.load(vector(builder.gep(p, [here]), c)))
                    weights[-1].align = v.element.bitwidth // 8
            numbers = [
                h.splat(builder.load(builder.gep(start, [builder.mul(k, step)])))
                for start in starts
            ]
            new = [
                h.fma(numbers[r], weights[u * columns + c], sums[(u * rows + r) * columns + c])
                for u in range(together)
                for r in range(rows)
                for c in range(columns)
            ]
            following = builder.add(k, I64(1))
            for phi, start, value in zip(
                [k, *sums], [I64(0)] + [h(0)] * len(sums), [following, *new], strict=True
            ):
                phi.add_incoming(start, before)
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, K), loop, after)

            builder.position_at_end(after)
            totals = [builder.phi(v.ir) for _ in new]
            for total, value in zip(totals, new, strict=True):
                total.add_incoming(h(0), before)
                total.add_incoming(value, loop)
            first = builder.gep(out, [to])
            for i, total in enumerate(totals):
                u, r, c = i // (rows * columns), i // columns % rows, i % columns
                stored = builder.store(total, vector(first, r * row + u * columns + c))
                stored.align = v.element.bitwidth // 8
            return context.get_dummy_value()

        return types.void(operands, types.intp, types.intp, q, types.intp), build

    return product


def rows_of_tiles(columns: int) -> list[int]:
    """How many rows a tile may have, the most first: its sums, a row of W and one number stay in
    registers.
    """
    _, registers = machine()
    return [rows for rows in (8, 6, 4, 2, 1) if rows == 1 or (rows + 1) * columns < registers]


@cache
def product_of(columns: int, strips: int):
    """(together, (operands, b, left, panel, many, q, L) -> rows): one tile, of at most `left` rows.

    A single row takes several strips at a time, and `together` panels where those have few (many),
    so that its few sums do not wait for each other.
    """
    row = strips * columns
    together = max(1, 8 // row)
    count = next(
        count
        for count in range(strips * together, 0, -1)
        if strips * together % count == 0 and (count == 1 or count * columns <= 8)
    )
    wide, product_of_rows = tile(1, columns, count, row), largest_tile(columns, strips)

    @within
    def product(operands, b, left, panel, many, q, L):
        if many == together and left == 1:
            for g in range(0, strips * together, count):
                wide(operands, b, panel * strips + g, q, g * columns * L)
            return 1
        return product_of_rows(operands, b, left, panel, q, L)

    return together, product


def largest_tile(columns: int, strips: int, smaller: int = 0):
    """(operands, b, left, panel, q, L) -> rows: the largest tile that `left` rows fill; the first
    `smaller` sizes are left out.
    """
    sizes = rows_of_tiles(columns)[smaller:]
    if not sizes:
        return within(lambda operands, b, left, panel, q, L: 0)
    rows, following = sizes[0], (*sizes, 0)[1]
    product = tile(rows, columns, 1, strips * columns)
    others = largest_tile(columns, strips, smaller + 1)
    # 8 rows are 4 and 4, not 6 and 2: the sums of 2 wait
    avoided = following if 2 * following > rows else -1

    @within
    def largest(operands, b, left, panel, q, L):
        if left >= rows and left // 2 != avoided:
            for g in range(strips):
                product(operands, b, panel * strips + g, q, g * columns * L)
            return rows
        return others(operands, b, left, panel, q, L)

    return largest


@within
def nothing(*arguments):
    """An epilogue, or a bound, where there is none."""


class Epilogues(NamedTuple):
    """What is done with the sums of a tile, as functions (at, n, count, tile, …) of `count` units
    from at.j on, of n.
    """

    vector: Any  # of as many units as an epilogue takes
    masked: Any  # of fewer
    prefetch: (
        Any  # (at, n, …): prefetches what they will ask for, while the tile before has its own
    )
    width: int | None = None  # units an epilogue takes at once; None is those of a vector


def in_pairs(V: int) -> bool:
    """Do the epilogues of a panel of V vectors work on two of them at a time?"""
    return V % 2 == 0 and machine()[1] >= MANY


def whole(how: str) -> str:
    """How sums are read, which have undefined neighbours where units do not fill a vector."""
    return next((full for full, masked in MASKED.items() if how == masked), how)


def sweep_of(number, G: int, V: int, H: int, epilogues: Epilogues):
    """(t, n, operands, share, …): the product for a thread's share of rows and panels, and the
    epilogue on it; t is what At.t is there.
    """
    L = lanes(number)
    vector, masked, prefetch, width = epilogues
    width, line, most = width or L, max(L, CACHE_LINE // machine()[0] * L), rows_of_tiles(H * V)[0]
    together, product = product_of(H * V, G // H)
    sums = on_stack(number, (max(most, together), G, V * L))

    @within
    def sweep(t, n, operands, share, *rest):
        b0, b1, p0, p1 = share
        places, q = sums()
        done = 0
        while done < p1 - p0:
            many = together if b1 - b0 == 1 and p1 - p0 - done >= together else 1
            # to and fro: the panels used last are still in the cache
            panel = p1 - done - many if t & 1 else p0 + done
            b = b0
            while b < b1:
                rows = product(operands, b, b1 - b, panel, many, places, L)
                for u in range(many):
                    for r in range(rows):
                        if b + rows + r < b1:
                            for v in range(0, V * L, line):
                                prefetch(At(t, b + rows + r, panel * V * L + v), n, *rest)
                        for v in range(0, V * L, width):
                            j = (panel + u) * V * L + v
                            at, tile = At(t, b + r, j), Tile(q, u * rows + r, v)
                            if j + width <= n:
                                vector(at, n, width, tile, *rest)
                            elif j < n:
                                masked(at, n, n - j, tile, *rest)
                b += rows
            done += many

    return sweep


@within
def slice_of(count, part, parts):
    """The share (first, after the last) that one of `parts` has of `count`."""
    return count * part // parts, count * (part + 1) // parts
