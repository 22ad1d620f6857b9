"""Products over all T·B at once. What multiplies two matrices is the device's: NumPy's BLAS, CuPy's cuBLAS."""

from collections.abc import Callable


def products(matmul: Callable) -> tuple[Callable, ...]:
    """(project, project_back, gradient_sum, bias_sum) of a device whose matmul(a, b) is the product of two matrices."""

    def project(x, U, b, gates: int):
        """U x_t + b for every step and sample, one GEMM.  x (T, B, m), U (G·n, m), b (G·n,) or None -> (T, B, G, n)."""
        T, B, m = x.shape
        p = matmul(x.reshape(T * B, m), U.T)
        if b is not None:
            p += b
        return p.reshape(T, B, gates, -1)

    def project_back(dp, U):
        """Uᵀ δ_t, what goes to the layer below (式4).  dp (T, B, G, n), U (G·n, m) -> (T, B, m)."""
        T, B, G, n = dp.shape
        return matmul(dp.reshape(T * B, G * n), U).reshape(T, B, -1)

    def gradient_sum(dnet, a):
        """Σ_t Σ_b δ aᵀ: the sum over steps of 式5, that is 式6, as one GEMM.  dnet (T, B, G, n), a (T, B, m) -> (G·n, m)."""
        T, B, G, n = dnet.shape
        return matmul(dnet.reshape(T * B, G * n).T, a.reshape(T * B, -1))

    def bias_sum(dnet):
        """Σ_t Σ_b δ: 式6 for a bias, whose input is always 1.  dnet (T, B, G, n) -> (G·n,)."""
        T, B, G, n = dnet.shape
        return dnet.reshape(T * B, G * n).sum(0)

    return project, project_back, gradient_sum, bias_sum
