"""Products over all T·B at once, in tiles."""

import math
from functools import cache

import numpy as np

from ...products import products
from ..reference import chunk
from .compilation import jit, within
from .memory import room
from .simd import LOAD, STORE, fetch, flat, lanes, window
from .stored import keep
from .threads import share, threads_for
from .tiles import layout, packed_columns, packed_rows, row_packer, rows_of_tiles, slice_of, sweep_of

ROWS = 256  # of the long side that are worked on together: they stay in the cache while the panels pass


@within
def fetch_put(r, n, b, j, more, out):
    fetch(out, (r + b, j), 0)


@within
def fetch_more(r, n, b, j, out):
    fetch(out, (r + b, j), 0)


def put(how):
    """Epilogue: the sums and `more` of their columns become a row of out."""
    load, store, sums = LOAD[how], STORE[how], LOAD["whole"]

    @within
    def put(r, n, b, j, count, q, i, v, more, out):
        store(out, (r + b, j), count, sums(q, (i, 0, v), count) + load(more, (j,), count))

    return put


def put_more(how):
    """Epilogue: the sums are added to a row of out."""
    load, store, sums = LOAD[how], STORE[how], LOAD["whole"]

    @within
    def put_more(r, n, b, j, count, q, i, v, out):
        store(out, (r + b, j), count, sums(q, (i, 0, v), count) + load(out, (r + b, j), count))

    return put_more


@cache
def multiply_kernel(number, V):
    sweep, L = sweep_of(number, 1, V, 1, fetch_put, put("whole"), put("some")), lanes(number)

    @jit
    def multiply(a, packed, bias, out, part, parts):
        R, K = a.shape
        first, last = slice_of(R, part, parts)
        at = np.empty(ROWS, np.intp)
        A, W, places, b, o = flat(a), flat(packed), flat(at), window(bias), window(out)
        for r in range(first, last, ROWS):
            rows = min(ROWS, last - r)
            for i in range(rows):
                at[i] = (r + i) * K
            sweep(r, out.shape[1], A, places, 1, W, K * V * L, K, 0, rows, 0, packed.shape[0], b, o)

    return keep(multiply, number, V)


@cache
def add_kernel(number, V):
    sweep = sweep_of(number, 1, V, 1, fetch_more, put_more("whole"), put_more("some"))
    L, C, wide = lanes(number), columns_packed(number, V), columns_packed(number, V) * lanes(number)
    pack, pack_δ = row_packer(number, V), row_packer(number, C)

    @jit
    def add(δ, a, rows, fresh, out, packed, packed_δ, part, parts):
        (N, m), (first, last) = out.shape, slice_of(len(out), part, parts)
        if fresh:
            out[first:last] = number(0)
        at, o = np.empty(last - first, np.intp), window(out)
        for i in range(last - first):
            at[i] = i // wide * ROWS * wide + i % wide
        x, to, A, to_δ = window(a), window(packed[part]), window(δ), window(packed_δ[part])
        D, W, places, panels, panels_δ = flat(packed_δ[part]), flat(packed[part]), flat(at), packed.shape[1], packed_δ.shape[1]
        k = len(δ)
        while k > 0:
            count = min(ROWS, (k - len(δ)) % rows or rows, k)  # what is left of the chunk, the last first
            k -= count
            pack(x, k, count, 0, m, to, panels)
            pack_δ(A, k, count, first, last - first, to_δ, panels_δ)
            sweep(first, m, D, places, wide, W, ROWS * V * L, count, 0, last - first, 0, panels, o)

    return keep(add, number, V)


@cache
def columns_packed(number, V):
    """Vectors of a panel of δ, whole tiles: its columns are read one below the other, and in a large matrix would fall on each other in
    the cache."""
    return math.lcm(rows_of_tiles(V)[0], lanes(number)) // lanes(number)


@jit
def add_up(δ, rows, out):
    end, sums = len(δ), np.empty_like(out)
    while end > 0:
        start = max(end - rows, 0)
        for j in range(len(out)):
            sums[j] = 0
        for r in range(start, end):
            for j in range(len(out)):
                sums[j] += δ[r, j]
        for j in range(len(out)):
            out[j] += sums[j]
        end = start


keep(add_up)


def multiply(a, M, more, rows: int):
    """a M + more, whatever `rows` is: the sum of a row does not depend on the rows beside it."""
    (R, K), N, number = a.shape, M.shape[1], a.dtype.type
    (V, _), turned = layout(1, N, number), M.T.flags.c_contiguous
    packed = packed_columns(M.T, 1, V, 1, room) if turned else packed_rows(np.ascontiguousarray(M), V, room)
    out, parts = room((R, N), a.dtype), threads_for(2 * R * K * N, R // 8)
    arrays = np.ascontiguousarray(a), packed, np.zeros(N, a.dtype) if more is None else more, out
    share(multiply_kernel(number, V), parts, *arrays)
    return out


def add_product(δ, a, rows: int, out):
    (R, N), m, dtype, L = δ.shape, a.shape[1], δ.dtype, lanes(δ.dtype)
    (V, _), parts = layout(1, m, dtype), threads_for(2 * R * N * m, N // 8)
    packed = room((parts, -(-m // (V * L)), ROWS, 1, V * L), dtype)
    C = columns_packed(dtype.type, V)
    packed_δ = room((parts, -(-(N // parts + 1) // (C * L)), ROWS, 1, C * L), dtype)
    fresh, out = out is None, room((N, m), dtype) if out is None else out
    share(add_kernel(dtype.type, V), parts, np.ascontiguousarray(δ), np.ascontiguousarray(a), rows, fresh, out, packed, packed_δ)
    return out


def add_rows(δ, rows: int, out):
    out = np.zeros(δ.shape[1], δ.dtype) if out is None else out
    add_up(np.ascontiguousarray(δ), rows, out)
    return out


project, project_back, gradient_sum, bias_sum = products(chunk, multiply, add_product, add_rows)
