"""Products over all T·B at once, in tiles: a layer's way forward through its inputs, and the way
back; a call each.
"""

import math
from functools import cache

import numpy as np

from ... import Sums
from ...products import products
from ..reference import chunk
from .compilation import jit, within
from .memory import empty, scratch
from .simd import lanes
from .stored import keep
from .threads import barrier, share, threads_for
from .tiles import (
    Epilogues,
    Operands,
    Share,
    column_packer,
    in_pairs,
    layout,
    row_packer,
    rows_of_tiles,
    slice_of,
    sweep_of,
    whole,
)
from .windows import LOAD, MASKED, STORE, carve, flat, prefetch, window

# of the long side that are worked on together: they stay in the cache while the panels pass
ROWS = 256
# bytes from a row of δ to the next from which its columns fall on each other in the cache
REPACKED_FROM = 2048


@within
def prefetch_row(at, n, more, out):
    prefetch(out, (at.t + at.b, at.j), 0)


def put(how):
    """Epilogue: the sums and `more` of their columns become row t + b of out."""
    load, store, sums = LOAD[how], STORE[how], LOAD[whole(how)]

    @within
    def put(at, n, count, tile, more, out):
        total = sums(tile.q, (tile.i, 0, tile.v), count) + load(more, (at.j,), count)
        store(out, (at.t + at.b, at.j), count, total)

    return put


def put_more(how):
    """Epilogue: the sums are added to row t + b of out."""
    load, store, sums = LOAD[how], STORE[how], LOAD[whole(how)]

    @within
    def put_more(at, n, count, tile, more, out):
        place = at.t + at.b, at.j
        total = sums(tile.q, (tile.i, 0, tile.v), count) + load(out, place, count)
        store(out, place, count, total)

    return put_more


def by_rows(epilogue, number, V) -> Epilogues:
    how, width = ("pair", 2 * lanes(number)) if in_pairs(V) else ("vector", lanes(number))
    return Epilogues(epilogue(how), epilogue(MASKED[how]), prefetch_row, width)


@cache
def rows_through(number, V):
    """(k, count, N, operands, panels, more, out) -> None: rows k … k + count − 1 of a times all
    panels, and `more`, into those of out, N wide. Overwrites operands.at.
    """
    sweep = sweep_of(number, 1, V, 1, by_rows(put, number, V))

    @within
    def rows(k, count, N, operands, panels, more, out):
        for i in range(count):
            operands.at[i] = (k + i) * operands.K
        a, at, step, W, size, K = operands
        flat_operands = Operands(a, flat(at), step, W, size, K)
        sweep(k, N, flat_operands, Share(0, count, 0, panels), more, out)

    return rows


@cache
def multiply_kernel(number, V):
    """The kernel of products with panels of V vectors."""
    rows, pack, units = rows_through(number, V), column_packer(number, 1, V, 1), V * lanes(number)

    @jit
    def multiply(a, M, more, out, scratch, arrived, part, parts):
        """out = a Mᵀ + more, one of `parts` shares of it: rows of a.

        a (R, K), M (N, K), more (N,), out (R, N); scratch for M, which all parts pack.
        """
        (N, K), (first, last) = M.shape, slice_of(len(a), part, parts)
        panels, W = -(-N // units), flat(scratch)
        m, o = window(more), window(out)
        operands = Operands(flat(a), np.empty(ROWS, np.intp), 1, W, K * units, K)
        pack(window(M), N, K, carve(W, 0, (panels, K, 1, units)), *slice_of(panels, part, parts))
        barrier(flat(arrived), parts)
        for r in range(first, last, ROWS):
            rows(r, min(ROWS, last - r), N, operands, panels, m, o)

    return keep(multiply, number, V)


@cache
def row_adder(number):
    """(a, k, count, first, n, out) -> None: out[j] becomes the sum of a[r, first + j] over rows r =
    k … k + count − 1, j < n.  Windows.

    Numba's own loop would not be vectorized: for all it knows the two overlap.
    """
    L, load, store, load_masked = lanes(number), LOAD["vector"], STORE["vector"], LOAD["masked"]
    store_masked = STORE["masked"]

    @within
    def add_rows(a, k, count, first, n, out):
        for j in range(0, n - L + 1, L):
            store(out, (j,), L, load(a, (k, first + j), L))
        j, left = n // L * L, n % L
        store_masked(out, (j,), left, load_masked(a, (k, first + j), left))
        for r in range(k + 1, k + count):
            for j in range(0, n - L + 1, L):
                store(out, (j,), L, load(out, (j,), L) + load(a, (r, first + j), L))
            j = n // L * L
            store_masked(
                out, (j,), left, load_masked(out, (j,), left) + load_masked(a, (r, first + j), left)
            )

    return add_rows


@cache
def back_kernel(number, V, C):
    """Chunk by chunk from the last, and ROWS of a chunk at a time: a thread has some rows of dM,
    and in each chunk some of da.
    """
    sweep = sweep_of(number, 1, V, 1, by_rows(put_more, number, V))
    rows_below = rows_through(number, V)
    units, wide, pack = V * lanes(number), C * lanes(number), row_packer(number, V)
    pack_δ = row_packer(number, C)
    add_rows = row_adder(number)

    @jit
    def back(arrays, fresh, rows, repacked, scratch, arrived, part, parts):
        """The way back through M, one of `parts` shares of it: rows of dM, and in each chunk
        rows of da.

        arrays    δ (R, N), a (R, m), M (N, m); dM (N, m) and db (N,) or (0,), which Σ δᵀa and Σ δ
                  are added to, or where `fresh` become; da (R, m) or (0, m), which becomes δ M
        rows      of a chunk
        repacked  are rows of δ copied beside each other first
        """
        δ, a, M, dM, db, da = arrays
        N, m = M.shape
        first, last = slice_of(len(M), part, parts)
        below, bias, k = len(da) > 0, len(db) > 0, len(δ)
        own, panels = last - first, -(-m // units)
        panels_δ = -(-own // wide) if repacked else 0
        # on the desk: M, where it is asked for, and zeros; then each thread's rows of a, and of δ
        # where it is repacked
        desk, each = (
            flat(scratch),
            ROWS * (panels * units + -(-N // parts // wide) * wide * repacked),
        )
        zeros, x0 = N * panels * units * below, (N * below + 1) * panels * units + part * each
        δ0 = x0 + ROWS * panels * units
        packed = carve(desk, x0, (panels, ROWS, 1, units))
        packed_δ = carve(desk, δ0, (panels_δ, ROWS, 1, wide))
        W, zero = carve(desk, x0, (1,)), carve(desk, zeros, (m,))
        at, at_below, sums = np.empty(own, np.intp), np.empty(ROWS, np.intp), np.empty(own, number)
        A, x, o, o_below = window(δ), window(a), window(dM), window(da)
        if fresh:
            dM[first:last] = number(0)
            db[first:last] = number(0)
        if below:
            for j in range(m):
                scratch[zeros + j] = 0
            packed_M = carve(desk, 0, (panels, N, 1, units))
            pack(window(M), 0, N, 0, m, packed_M, *slice_of(panels, part, parts))
            barrier(flat(arrived), parts)
        for i in range(own):
            at[i] = i // wide * ROWS * wide + i % wide
        D, step = (carve(desk, δ0, (1,)), wide) if repacked else (flat(δ), N)
        while k > 0:
            count = min(ROWS, (k - len(δ)) % rows or rows, k)  # what is left of the chunk
            k -= count
            pack(x, k, count, 0, m, packed, 0, panels)
            if repacked:
                pack_δ(A, k, count, first, own, packed_δ, 0, panels_δ)
            else:
                for i in range(own):
                    at[i] = k * N + first + i
            operands = Operands(D, flat(at), step, W, ROWS * units, count)
            sweep(first, m, operands, Share(0, own, 0, panels), zero, o)
            if bias:
                add_rows(A, k, count, first, own, window(sums))
                for j in range(own):
                    db[first + j] += sums[j]
            if below:
                r0, r1 = slice_of(count, part, parts)
                δ_rows = Operands(flat(δ), at_below, 1, desk, N * units, N)
                rows_below(k + r0, r1 - r0, m, δ_rows, panels, zero, o_below)

    return keep(back, number, V, C)


@cache
def plan(N: int, K: int, dtype):
    """(kernel, numbers on its desk) for a Mᵀ + more, M (N, K)."""
    V, _ = layout(1, N, dtype.type)
    return multiply_kernel(dtype.type, V), (N + V * lanes(dtype.type)) * K


@cache
def plan_back(N: int, m: int, dtype, below: bool, parts: int):
    """(kernel, is δ repacked, numbers on its desk) for the way back through a
    matrix (N, m).
    """
    V, _ = layout(1, m, dtype.type)
    # whole tiles: δ's columns are read one below the other
    C = math.lcm(rows_of_tiles(V)[0], lanes(dtype.type)) // lanes(dtype.type)
    across = -(-m // (V * lanes(dtype.type))) * V * lanes(dtype.type)
    wide, repacked = C * lanes(dtype.type), N * dtype.itemsize >= REPACKED_FROM
    return (
        back_kernel(dtype.type, V, C),
        repacked,
        (N * below + 1) * across
        + parts * ROWS * (across + -(-N // parts // wide) * wide * repacked),
    )


def multiply(a, M, more, rows: int, precision: str):
    """a Mᵀ + more, whatever `rows` is: the sum of a row does not depend on the rows beside it."""
    out = empty((len(a), len(M)), a.dtype)
    share(*multiply_call(a, M, more, out, scratch))
    return out


def multiply_call(a, M, more, out, scratch) -> tuple:
    """What `share` is told, (kernel, how many threads, *arguments), that out (R, N) becomes a Mᵀ +
    more.

    scratch  see memory.scratch
    """
    (R, K), N, dtype = a.shape, len(M), a.dtype
    kernel, numbers = plan(N, K, dtype)
    more = np.zeros(N, dtype) if more is None else more
    threads = threads_for(2 * R * K * N, R // 8)
    return kernel, threads, np.ascontiguousarray(a), M, more, out, scratch(numbers, dtype)


def multiply_back(δ, a, M, sums: Sums, rows: int, precision: str):
    (R, N), m, dtype, fresh = δ.shape, a.shape[1], δ.dtype, sums.U is None
    dM = empty((N, m), dtype) if fresh else sums.U
    db = np.empty(N if sums.bias else 0, dtype) if fresh or not sums.bias else sums.b
    da = empty((R if sums.below else 0, m), dtype)
    share(*multiply_back_call((δ, a, M, dM, db, da), fresh, rows, scratch))
    return da if sums.below else None, dM, db if sums.bias else None


def multiply_back_call(arrays, fresh: bool, rows: int, scratch) -> tuple:
    """What `share` is told: see `multiply_call`, and `back_kernel` for arrays and fresh."""
    δ, a, M, dM, db, da = arrays
    (R, N), m, dtype, below = δ.shape, a.shape[1], δ.dtype, len(da) > 0
    parts = threads_for((2 + 2 * below) * R * N * m, N // 8)
    kernel, repacked, numbers = plan_back(N, m, dtype, below, parts)
    arrays = np.ascontiguousarray(δ), np.ascontiguousarray(a), M, dM, db, da
    return kernel, parts, arrays, fresh, rows, repacked, scratch(numbers, dtype)


project, project_back = products(chunk, multiply, multiply_back)
