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

from numba import types
from numba.extending import intrinsic

from ...binding import define
from .compilation import within
from .memory import LINE
from .simd import I64, LOAD, STORE, Build, Vector, lanes, machine, on_stack, place, transpose

load, load_some, store, one = LOAD["whole"], LOAD["some"], STORE["whole"], LOAD["one"]
put_one = STORE["one"]


@cache
def layout(gates: int, n: int, number) -> tuple[int, int]:
    """(V, H): vectors of units in a panel of n units, and gates that are beside each other in a
    strip of it.

    The units of a gate fill a line of the cache, where there are so many. Then a strip has as many
    columns as leave enough rows a tile: a row of weights that is loaded is used once for each. No
    more than a quarter of the columns are beyond n.
    """
    across, most, line = -(-n // lanes(number)), machine()[1] // 8, max(1, LINE // machine()[0])

    def fits(V):
        return V == 1 or (most >= V and 3 * -(-across // V) * V <= 4 * across)

    V = next(V for V in (line, 1) if fits(V))
    H = next(H for H in range(gates, 0, -1) if H == 1 or (gates % H == 0 and most >= H * V))
    while most >= 2 * H * V and fits(2 * V):
        V *= 2
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
                            load_some(a, (k0 + k, j0 + min(j, n)), max(n - j, 0)),
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
                            put_one(
                                out,
                                (strip, k, h, v * L + u),
                                1,
                                one(a, (g * n + j + u, k), 1) if j + u < n else number(0),
                            )

    return pack_columns


def tile(rows: int, columns: int, together: int, row: int):
    """(a, at, b, step, W, strip, size, K, q, to) -> None: sums Σ_k a[at[b + r] + step·k] W[strip +
    u, k] of r < rows, u < together.

    All are flat windows: W packed, `columns` vectors a row and `size` numbers a strip. The sums of
    a row stand in q from `to` on, strip behind strip, those of the next row `row` vectors further.
    """

    @intrinsic
    def product(typing, a, at, b, step, W, strip, size, K, q, to):
        v = Vector(a.dtype)

        def build(context, builder, sig, values):
            h, L = Build(builder, v), v.lanes
            data, places, packed, out = (
                place(context, builder, sig.args[i], values[i]) for i in (0, 1, 4, 8)
            )
            b, step, strip, size, K, to = (values[i] for i in (2, 3, 5, 6, 7, 9))

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
                    weights[-1].align = a.dtype.bitwidth // 8
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
                builder.store(total, vector(first, r * row + u * columns + c)).align = (
                    a.dtype.bitwidth // 8
                )
            return context.get_dummy_value()

        return types.void(
            a, at, types.intp, types.intp, W, types.intp, types.intp, types.intp, q, types.intp
        ), build

    return product


def rows_of_tiles(columns: int) -> list[int]:
    """How many rows a tile may have, the most first: its sums, a row of W and one number stay in
    registers.
    """
    _, registers = machine()
    return [rows for rows in (8, 6, 4, 2, 1) if rows == 1 or (rows + 1) * columns < registers]


@cache
def product_of(columns: int, strips: int):
    """(together, (a, at, b, left, step, W, panel, size, many, K, q, L) -> rows): one tile, of at
    most `left` rows.

    A single row takes several strips at a time, and `together` panels where those have few (many),
    so that its few sums do not wait for each other.
    """
    row, rows_of = strips * columns, rows_of_tiles(columns)
    together = max(1, 8 // row)
    wide = next(
        count
        for count in range(strips * together, 0, -1)
        if strips * together % count == 0 and (count == 1 or count * columns <= 8)
    )
    text = "def product(a, at, b, left, step, W, panel, size, many, K, q, L):\n"
    tiles = {f"tile{rows}": tile(rows, columns, 1, row) for rows in rows_of} | {
        "wide": tile(1, columns, wide, row)
    }
    text += (
        f"    if many == {together} and left == 1:\n        for g in range(0, "
        f"{strips * together}, {wide}):\n"
    )
    text += (
        f"            wide(a, at, b, step, W, panel * {strips} + g, size, K, q, g * {columns} * "
        "L)\n        return 1\n"
    )
    for rows, fewer in zip(rows_of, [*rows_of[1:], 0], strict=True):
        # 8 rows are 4 and 4, not 6 and 2: the sums of 2 wait
        twice = f" and left // 2 != {fewer}" if 2 * fewer > rows else ""
        text += f"    if left >= {rows}{twice}:\n        for g in range({strips}):\n"
        text += (
            f"            tile{rows}(a, at, b, step, W, panel * {strips} + g, size, K, q, g * "
            f"{columns} * L)\n        return {rows}\n"
        )
    return together, within(define("product", text + "    return 0\n", **tiles))


@within
def nothing(*arguments):
    pass


def sweep_of(number, G: int, V: int, H: int, ahead, whole, some, width=None):
    """(t, n, a, at, step, W, size, K, b0, b1, p0, p1, …): for rows b0 … b1 and panels p0 … p1 the
    product, then the epilogue on it.

    a, at, W     flat windows
    ahead        (t, n, b, j, …): fetches what an epilogue will ask for, while the tile before has
                 its own
    whole, some  epilogues (t, n, b, j, count, q, i, v, …): `count` units from j on, whose sums
                 stand in q[i, :, v]; `some` where they do not fill a vector
    width        units an epilogue takes at once: those of a vector, or 1
    """
    L = lanes(number)
    width, line, most = width or L, max(L, LINE // machine()[0] * L), rows_of_tiles(H * V)[0]
    together, product = product_of(H * V, G // H)
    sums = on_stack(number, (max(most, together), G, V * L))

    @within
    def sweep(t, n, a, at, step, W, size, K, b0, b1, p0, p1, *rest):
        places, q = sums()
        done = 0
        while done < p1 - p0:
            many = together if b1 - b0 == 1 and p1 - p0 - done >= together else 1
            # to and fro: the panels used last are still in the cache
            panel = p1 - done - many if t & 1 else p0 + done
            b = b0
            while b < b1:
                rows = product(a, at, b, b1 - b, step, W, panel, size, many, K, places, L)
                for u in range(many):
                    for r in range(rows):
                        if b + rows + r < b1:
                            for v in range(0, V * L, line):
                                ahead(t, n, b + rows + r, panel * V * L + v, *rest)
                        for v in range(0, V * L, width):
                            j = (panel + u) * V * L + v
                            if j + width <= n:
                                whole(t, n, b + r, j, width, q, u * rows + r, v, *rest)
                            elif j < n:
                                some(t, n, b + r, j, n - j, q, u * rows + r, v, *rest)
                b += rows
            done += many

    return sweep


@within
def slice_of(count, part, parts):
    return count * part // parts, count * (part + 1) // parts
