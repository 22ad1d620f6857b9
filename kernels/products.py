"""Products over all T·B at once, and the order of their sums.

A sum over time is taken by chunks of some steps, counted from the last: each chunk's sum is added
to that of all chunks behind it. So the gradient of a sequence that comes in segments, the last
first, has the bits of the whole, if segments begin with chunks. A BLAS sums other numbers of rows
in another order: where products are its own, it is given a chunk at a time.
"""

from collections.abc import Callable

from . import FRESH, Sums


def products(chunk: Callable, multiply: Callable, multiply_back: Callable) -> tuple[Callable, ...]:
    """(project, project_back) of a device, from its functions of matrices.

    chunk          (B) -> the steps of a chunk
    multiply       (a (R, K), M (N, K), more (N,) or None, rows, precision) -> a Mᵀ + more, (R, N);
                   `rows` are those of a chunk
    multiply_back  (δ (R, N), a (R, K), M, sums, rows, precision) -> (δ M or None, dM, db)
    """

    def project(x, U, b, gates: int, precision: str = "fp32"):
        T, B, m = x.shape
        rows = chunk(B) * B if B else 1
        out = multiply(x.reshape(T * B, m), U, b, rows, precision)
        return out.reshape(T, B, gates, len(U) // gates)

    def project_back(dnet, a, U, sums: Sums = FRESH, precision: str = "fp32"):
        (T, B, G, n), m = dnet.shape, U.shape[1]
        δ, a = dnet.reshape(T * B, G * n), a.reshape(T * B, m)
        rows = chunk(B) * B if B else 1
        da, dU, db = multiply_back(δ, a, U, sums, rows, precision)
        return None if da is None else da.reshape(T, B, m), dU, db

    return project, project_back


def by_chunks(matmul: Callable, columns: Callable, empty: Callable) -> tuple[Callable, ...]:
    """(multiply, multiply_back) of a device.

    matmul   (a, b, precision, out=None, add=False) -> a b of two matrices; written to `out`, or
             added to it
    columns  (δ, out=None) -> the sum of δ's rows, of one axis; added to `out` where that is given
    empty    (shape, dtype) -> an array of the device
    """

    def product(a, M, rows: int, precision: str):
        out = empty((len(a), M.shape[1]), a.dtype)
        for part in chunks(len(a), rows):
            matmul(a[part], M, precision, out[part])
        return out

    def multiply(a, M, more, rows: int, precision: str):
        out = product(a, M.T, rows, precision)
        if more is not None:
            out += more
        return out

    def multiply_back(δ, a, M, sums: Sums, rows: int, precision: str):
        da = product(δ, M, rows, precision) if sums.below else None
        dM, db = sums.U, sums.b
        for part in chunks(len(δ), rows) or [slice(0, 0)]:  # of no sample the sums are zero
            dM = matmul(δ[part].T, a[part], precision, dM, dM is not None)
            if sums.bias:
                db = columns(δ[part], db)
        return da, dM, db

    return multiply, multiply_back


def chunks(R: int, rows: int):
    """The slices of R rows by `rows`, counted from the last, which come first."""
    return [slice(max(end - rows, 0), end) for end in range(R, 0, -rows)]
