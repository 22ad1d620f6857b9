"""Products over all T·B at once, in tiles."""

from functools import cache

import numpy as np

from .memory import room
from .simd import LOAD, STORE, flat, lanes, window
from .stored import keep
from .threads import share, threads_for
from .tiles import jit, nothing, packed_columns, packed_rows, row_packer, slice_of, sweep_of, vectors_for, within

ROWS = 256  # of the long side that are worked on together: they stay in the cache while the panels pass


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
def multiply_kernel(number, V, partial):
    sweep, L = sweep_of(number, 1, V, put("whole"), put("some") if partial else nothing), lanes(number)

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

    return keep(multiply, number, V, partial)


@cache
def add_kernel(number, V, partial):
    sweep = sweep_of(number, 1, V, put_more("whole"), put_more("some") if partial else nothing)
    L, pack = lanes(number), row_packer(number, V)

    @jit
    def add(δ, a, out, packed, part, parts):
        (N, m), (first, last) = out.shape, slice_of(len(out), part, parts)
        at, x, o, to = np.empty(last - first, np.intp), window(a), window(out), window(packed[part])
        A, W, places, panels = flat(δ), flat(packed[part]), flat(at), packed.shape[1]
        out[first:last] = 0
        for k in range(0, len(δ), ROWS):
            rows = min(ROWS, len(δ) - k)
            pack(x, k, rows, 0, m, to, panels)
            for i in range(last - first):
                at[i] = k * N + first + i
            sweep(first, m, A, places, N, W, ROWS * V * L, rows, 0, last - first, 0, panels, o)

    return keep(add, number, V, partial)


@jit
def add_rows(δ, out):
    for r in range(δ.shape[0]):
        for j in range(δ.shape[1]):
            out[j] += δ[r, j]


keep(add_rows)


def matrix(a, columns: int):
    return np.ascontiguousarray(a).reshape(-1, columns)


def multiply(a, packed, more, V: int):
    """a W + more, W packed.  a (R, K), more (N,) -> (R, N)."""
    (R, K), N, number = a.shape, len(more), a.dtype.type
    out, parts = room((R, N), a.dtype), threads_for(2 * R * K * N, R // 8)
    share(multiply_kernel(number, V, N % lanes(number) != 0), parts, a, packed, more, out)
    return out


def project(x, U, b, gates: int):
    """U x_t + b for every step and sample.  x (T, B, m), U (G·n, m), b (G·n,) or None -> (T, B, G, n)."""
    T, B, m = x.shape
    V = vectors_for(1, len(U), U.dtype)
    packed = packed_columns(np.ascontiguousarray(U), 1, V)
    return multiply(matrix(x, m), packed, np.zeros(len(U), U.dtype) if b is None else b, V).reshape(T, B, gates, -1)


def project_back(dp, U):
    """Uᵀ δ_t, what goes to the layer below (式4).  dp (T, B, G, n), U (G·n, m) -> (T, B, m)."""
    V = vectors_for(1, U.shape[1], U.dtype)
    packed = packed_rows(np.ascontiguousarray(U), V)
    return multiply(matrix(dp, len(U)), packed, np.zeros(U.shape[1], U.dtype), V).reshape(*dp.shape[:2], -1)


def gradient_sum(dnet, a):
    """Σ_t Σ_b δ aᵀ: the sum over steps of 式5, that is 式6.  dnet (T, B, G, n), a (T, B, m) -> (G·n, m)."""
    T, B, G, n = dnet.shape
    m, dtype, L = a.shape[2], dnet.dtype, lanes(dnet.dtype)
    V, parts = vectors_for(1, m, dtype), threads_for(2 * T * B * G * n * m, G * n // 8)
    packed = room((parts, -(-m // (V * L)), ROWS, 1, V * L), dtype)
    out = room((G * n, m), dtype)
    kernel = add_kernel(dtype.type, V, m % L != 0)
    share(kernel, parts, matrix(dnet, G * n), matrix(a, m), out, packed)
    return out


def bias_sum(dnet):
    """Σ_t Σ_b δ: 式6 for a bias, whose input is always 1.  dnet (T, B, G, n) -> (G·n,)."""
    out = np.zeros(dnet.shape[2] * dnet.shape[3], dnet.dtype)
    add_rows(matrix(dnet, len(out)), out)
    return out
