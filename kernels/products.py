"""Products over all T·B at once, and the order of their sums.

A sum over time is taken by chunks of some steps, counted from the last: each chunk's sum is added to that of all chunks behind it.
So the gradient of a sequence that comes in segments, the last first, has the bits of the whole, if segments begin with chunks. A
BLAS sums other numbers of rows in another order: where products are its own, it is given a chunk at a time.
"""

from collections.abc import Callable


def products(chunk: Callable, multiply: Callable, add_product: Callable, add_rows: Callable) -> tuple[Callable, ...]:
    """(project, project_back, gradient_sum, bias_sum) of a device, from its functions of matrices.

    chunk        (B) -> the steps of a chunk
    multiply     (a (R, K), M (K, N), more (N,) or None, rows) -> a M + more, (R, N); `rows` are those of a chunk
    add_product  (δ (R, N), a (R, m), rows, out (N, m) or None) -> out + δᵀ a; out is overwritten
    add_rows     (δ (R, N), rows, out (N,) or None) -> out + Σ δ; out is overwritten
    """

    def project(x, U, b, gates: int):
        """U x_t + b for every step and sample.  x (T, B, m), U (G·n, m), b (G·n,) or None -> (T, B, G, n)."""
        T, B, m = x.shape
        return multiply(x.reshape(T * B, m), U.T, b, chunk(B) * B).reshape(T, B, gates, -1)

    def project_back(dp, U):
        """Uᵀ δ_t, what goes to the layer below (式4).  dp (T, B, G, n), U (G·n, m) -> (T, B, m)."""
        T, B, G, n = dp.shape
        return multiply(dp.reshape(T * B, G * n), U, None, chunk(B) * B).reshape(T, B, -1)

    def gradient_sum(dnet, a, out=None):
        """Σ_t Σ_b δ aᵀ: the sum over steps of 式5, that is 式6.  dnet (T, B, G, n), a (T, B, m) -> (G·n, m), added to `out` if given."""
        T, B, G, n = dnet.shape
        return add_product(dnet.reshape(T * B, G * n), a.reshape(T * B, -1), chunk(B) * B, out)

    def bias_sum(dnet, out=None):
        """Σ_t Σ_b δ: 式6 for a bias, whose input is always 1.  dnet (T, B, G, n) -> (G·n,), added to `out` if given."""
        T, B, G, n = dnet.shape
        return add_rows(dnet.reshape(T * B, G * n), chunk(B) * B, out)

    return project, project_back, gradient_sum, bias_sum


def by_chunks(matmul: Callable, empty: Callable) -> tuple[Callable, ...]:
    """(multiply, add_product, add_rows) from matmul(a, b, out=None), the product of two matrices, and empty(shape, dtype)."""

    def multiply(a, M, more, rows: int):
        out = empty((len(a), M.shape[1]), a.dtype)
        for part in chunks(len(a), rows):
            matmul(a[part], M, out=out[part])
        if more is not None:
            out += more
        return out

    def add_product(δ, a, rows: int, out):
        return added(out, (matmul(δ[part].T, a[part]) for part in chunks(len(δ), rows)))

    def add_rows(δ, rows: int, out):
        return added(out, (δ[part].sum(0) for part in chunks(len(δ), rows)))

    return multiply, add_product, add_rows


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
