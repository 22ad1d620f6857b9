"""Products of matrices: one side packed in panels, then a tile of the result at a time in registers.

A tile is some rows × the columns of one panel. A panel has `vectors` vectors of neighbouring units, and the gates of a unit
beside each other, so that a cell finds all it needs in one tile. What is done with a tile is an *epilogue*: a function of the
vector of units j, j+1, … of row b. The sums of a tile are added in the order of k whatever its size, so a row's result does
not depend on the rows beside it.
"""

from functools import cache

from numba import types
from numba.extending import intrinsic

from ...binding import define
from .compilation import jit, within
from .simd import I64, LOAD, STORE, Build, Vector, lanes, machine, on_stack, place, transpose, window
from .stored import keep

load, load_some, store, one, put_one = LOAD["whole"], LOAD["some"], STORE["whole"], LOAD["one"], STORE["one"]


@cache
def vectors_for(gates: int, n: int, number) -> int:
    """Vectors of units in a panel of n units: several where a gate alone would keep the multiplier waiting for loads."""
    across = -(-n // lanes(number))
    return next(v for v in (4, 2, 1) if v == 1 or (gates * v <= machine()[1] // 8 and across % v == 0))


@cache
def row_packer(number, V: int):
    """(a, k0, K, j0, n, out, panels) -> None: a[k0 : k0 + K, j0 : j0 + n] in panels, zero beyond n.  Windows."""
    L = lanes(number)

    @within
    def pack_rows(a, k0, K, j0, n, out, panels):
        for panel in range(panels):
            for k in range(K):
                for v in range(V):
                    j = (panel * V + v) * L
                    if j + L <= n:
                        store(out, (panel, k, 0, v * L), L, load(a, (k0 + k, j0 + j), L))
                    else:
                        store(out, (panel, k, 0, v * L), L, load_some(a, (k0 + k, j0 + min(j, n)), max(n - j, 0)))

    return pack_rows


@cache
def whole_row_packer(number, V: int):
    pack_rows = row_packer(number, V)

    @jit
    def pack(M, out):
        pack_rows(window(M), 0, M.shape[0], 0, M.shape[1], window(out), len(out))

    return keep(pack, number, V)


@cache
def column_packer(number, G: int, V: int):
    """(M (G·n, K), out (panels, K, G, units)) -> None: M's columns, the gates of a unit beside each other, zero beyond n."""
    L = lanes(number)

    @jit
    def pack_columns(M, out):
        n, K = M.shape[0] // G, M.shape[1]
        a, o = window(M), window(out)
        for panel in range(out.shape[0]):
            for g in range(G):
                for v in range(V):
                    j = (panel * V + v) * L
                    turned = K // L * L if j + L <= n else 0
                    for k in range(0, turned, L):
                        transpose(a, g * n + j, k, o, (panel, k, g, v * L))
                    for k in range(turned, K):
                        for u in range(L):
                            put_one(o, (panel, k, g, v * L + u), 1, one(a, (g * n + j + u, k), 1) if j + u < n else number(0))

    return keep(pack_columns, number, G, V)


def packed_rows(M, V: int, room):
    """A matrix on the right of a product, M (K, n), in new `room`."""
    out = room((-(-M.shape[1] // (V * lanes(M.dtype))), M.shape[0], 1, V * lanes(M.dtype)), M.dtype)
    whole_row_packer(M.dtype.type, V)(M, out)
    return out


def packed_columns(M, G: int, V: int, room):
    """The transpose of a matrix on the right of a product, M (G·n, K), in new `room`."""
    out = room((-(-M.shape[0] // (G * V * lanes(M.dtype))), M.shape[1], G, V * lanes(M.dtype)), M.dtype)
    column_packer(M.dtype.type, G, V)(M, out)
    return out


def tile(rows: int, columns: int, together: int):
    """(a, at, b, step, W, panel, size, K, q) -> None: q[u, r] = Σ_k a[at[b + r] + step·k] W[panel + u, k], r < rows, u < together.

    All are flat windows: W packed, `columns` vectors a row and `size` numbers a panel; q (together, rows, columns·L).
    """

    @intrinsic
    def product(typing, a, at, b, step, W, panel, size, K, q):
        v = Vector(a.dtype)

        def build(context, builder, sig, values):
            h, L = Build(builder, v), v.lanes
            data, places, packed, out = (place(context, builder, sig.args[i], values[i]) for i in (0, 1, 4, 8))
            b, step, panel, size, K = (values[i] for i in (2, 3, 5, 6, 7))

            def vector(p, i):
                return builder.bitcast(builder.gep(p, [I64(i * L)]), v.ir.as_pointer())

            starts = [builder.gep(data, [builder.load(builder.gep(places, [builder.add(b, I64(r))]))]) for r in range(rows)]
            panels = [builder.gep(packed, [builder.mul(builder.add(panel, I64(u)), size)]) for u in range(together)]
            before, loop, after = builder.block, builder.append_basic_block("sum"), builder.append_basic_block("done")
            builder.cbranch(builder.icmp_signed(">", K, I64(0)), loop, after)

            builder.position_at_end(loop)
            k, sums = builder.phi(I64), [builder.phi(v.ir) for _ in range(together * rows * columns)]
            here = builder.mul(k, I64(columns * L))
            weights = []
            for p in panels:
                for c in range(columns):
                    weights.append(builder.load(vector(builder.gep(p, [here]), c)))
                    weights[-1].align = a.dtype.bitwidth // 8
            numbers = [h.splat(builder.load(builder.gep(start, [builder.mul(k, step)]))) for start in starts]
            new = [
                h.fma(numbers[r], weights[u * columns + c], sums[(u * rows + r) * columns + c])
                for u in range(together)
                for r in range(rows)
                for c in range(columns)
            ]
            following = builder.add(k, I64(1))
            for phi, start, value in zip([k, *sums], [I64(0)] + [h(0)] * len(sums), [following, *new], strict=True):
                phi.add_incoming(start, before)
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, K), loop, after)

            builder.position_at_end(after)
            totals = [builder.phi(v.ir) for _ in new]
            for total, value in zip(totals, new, strict=True):
                total.add_incoming(h(0), before)
                total.add_incoming(value, loop)
            for i, total in enumerate(totals):
                builder.store(total, vector(out, i)).align = a.dtype.bitwidth // 8
            return context.get_dummy_value()

        return types.void(a, at, types.intp, types.intp, W, types.intp, types.intp, types.intp, q), build

    return product


def rows_of_tiles(columns: int) -> list[int]:
    """How many rows a tile may have, the most first: its sums, a row of W and one number stay in registers."""
    _, registers = machine()
    return [rows for rows in (8, 6, 4, 2, 1) if rows == 1 or (rows + 1) * columns < registers]


@cache
def product_of(columns: int):
    """(together, (a, at, b, left, step, W, panel, size, many, K, q) -> rows): one tile, of at most `left` rows.

    A single row takes `together` panels at a time (many), so that its few sums do not wait for each other.
    """
    together, text = max(1, 8 // columns), "def product(a, at, b, left, step, W, panel, size, many, K, q):\n"
    tiles = {f"tile{rows}": tile(rows, columns, 1) for rows in rows_of_tiles(columns)} | {"wide": tile(1, columns, together)}
    text += "    if many > 1:\n        wide(a, at, b, step, W, panel, size, K, q)\n        return 1\n"
    for rows in rows_of_tiles(columns):
        text += f"    if left >= {rows}:\n        tile{rows}(a, at, b, step, W, panel, size, K, q)\n        return {rows}\n"
    return together, within(define("product", text + "    return 0\n", **tiles))


@within
def nothing(*arguments):
    pass


def sweep_of(number, G: int, V: int, whole, some, width=None):
    """(t, n, a, at, step, W, size, K, b0, b1, p0, p1, …): for rows b0 … b1 and panels p0 … p1 the product, then the epilogue on it.

    a, at, W     flat windows
    whole, some  epilogues (t, n, b, j, count, q, i, v, …): `count` units from j on, whose sums stand in q[i, :, v]; `some`
                 where they do not fill a vector
    width        units an epilogue takes at once: those of a vector, or 1
    """
    L = lanes(number)
    width = width or L
    together, product = product_of(G * V)
    sums = on_stack(number, (max(rows_of_tiles(G * V)[0], together), G, V * L))

    @within
    def sweep(t, n, a, at, step, W, size, K, b0, b1, p0, p1, *rest):
        places, q = sums()
        panel = p0
        while panel < p1:
            many = together if b1 - b0 == 1 and p1 - panel >= together else 1
            b = b0
            while b < b1:
                rows = product(a, at, b, b1 - b, step, W, panel, size, many, K, places)
                for u in range(many):
                    for r in range(rows):
                        for v in range(0, V * L, width):
                            j = (panel + u) * V * L + v
                            if j + width <= n:
                                whole(t, n, b + r, j, width, q, u * rows + r, v, *rest)
                            elif j < n:
                                some(t, n, b + r, j, n - j, q, u * rows + r, v, *rest)
                b += rows
            panel += many

    return sweep


@within
def slice_of(count, part, parts):
    return count * part // parts, count * (part + 1) // parts
