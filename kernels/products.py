"""Products over all T·B at once, and the order of their sums.

A sum over time is taken by chunks of some steps, counted from the last: each chunk's sum is added
to that of all chunks behind it. So the gradient of a sequence that comes in segments, the last
first, has the bits of the whole, if segments begin with chunks. A BLAS sums other numbers of rows
in another order: where products are its own, it is given a chunk at a time.
"""

from collections.abc import Callable


def products(chunk: Callable, multiply: Callable, multiply_back: Callable) -> tuple[Callable, ...]:
    """(project, project_back) of a device, from its functions of matrices.

    chunk          (B) -> the steps of a chunk
    multiply       (a (R, K), M (N, K), more (N,) or None, rows) -> a Mᵀ + more, (R, N); `rows` are
                   those of a chunk
    multiply_back  (δ (R, N), a (R, K), M, rows, dM (N, K) or None, db (N,) or None, below, bias) ->
                   (δ M, dM + δᵀ a, db + Σ δ); dM and db are overwritten; the first is None unless
                   `below`, the last unless `bias`
    """

    def project(x, U, b, gates: int):
        """U x_t + b for every step and sample.  x (T, B, m), U (G·n, m), b (G·n,) or None -> (T, B,
        G, n).
        """
        T, B, m = x.shape
        rows = chunk(B) * B if B else 1
        return multiply(x.reshape(T * B, m), U, b, rows).reshape(T, B, gates, len(U) // gates)

    def project_back(dnet, a, U, dU=None, db=None, below=True, bias=True):
        """The way back through U a_t + b, of every step and sample.  Returns (what goes to the
        layer below, ∇U, ∇b).

        dnet (T, B, G, n), a (T, B, m), U (G·n, m). The first is Uᵀ δ_t (式4), (T, B, m), None
        unless `below`. ∇U (G·n, m) is Σ_t Σ_b δ aᵀ, the sum over steps of 式5, that is 式6; ∇b
        (G·n,) is 式6
        for a bias, whose input is always 1, None unless
        `bias`. They are added to dU and db where these are given.
        """
        (T, B, G, n), m = dnet.shape, U.shape[1]
        δ, a = dnet.reshape(T * B, G * n), a.reshape(T * B, m)
        rows = chunk(B) * B if B else 1
        da, dU, db = multiply_back(δ, a, U, rows, dU, db, below, bias)
        return None if da is None else da.reshape(T, B, m), dU, db

    return project, project_back


def by_chunks(matmul: Callable, empty: Callable) -> tuple[Callable, ...]:
    """(multiply, multiply_back) from matmul(a, b, out=None), the product of two matrices, and
    empty(shape, dtype).
    """

    def product(a, M, rows: int):
        out = empty((len(a), M.shape[1]), a.dtype)
        for part in chunks(len(a), rows):
            matmul(a[part], M, out=out[part])
        return out

    def multiply(a, M, more, rows: int):
        out = product(a, M.T, rows)
        if more is not None:
            out += more
        return out

    def multiply_back(δ, a, M, rows: int, dM, db, below: bool, bias: bool):
        parts = chunks(len(δ), rows) or [slice(0, 0)]  # of no sample the sums are zero
        da = product(δ, M, rows) if below else None
        dM = added(dM, (matmul(δ[part].T, a[part]) for part in parts))
        db = added(db, (δ[part].sum(0) for part in parts)) if bias else None
        return da, dM, db

    return multiply, multiply_back


def chunks(R: int, rows: int):
    """The slices of R rows by `rows`, counted from the last, which come first."""
    return [slice(max(end - rows, 0), end) for end in range(R, 0, -rows)]


def added(out, sums):
    for one in sums:
        if out is None:
            out = one
        else:
            out += one
    return out
