"""The GPU: Numba `@cuda.jit` kernels, CuPy's arrays and cuBLAS. Under the simulator the same kernels on NumPy's arrays."""

from functools import cache

import numpy as np

from ...binding import define, elementwise_source
from ...products import bias_sum, gradient_sum, project, project_back  # noqa: F401  part of every device
from .launch import SIMULATED, THREADS, arrays, cuda, formula, launch, threads_for
from .plain import backward_kernel, forward_kernel, matvec_kernel

name = "cuda"


def missing() -> str:
    """Why this device cannot be used here; "" where it can."""
    if SIMULATED:
        return ""
    if not cuda.is_available():
        return "Numba sees no GPU (no driver, or no CUDA toolkit beside it)"
    try:
        arrays()
    except ImportError as error:
        return f"CuPy cannot be imported ({error})"
    return ""


def array(x, dtype):
    return arrays().ascontiguousarray(arrays().asarray(x), dtype)


def numpy(a):
    return a if isinstance(a, np.ndarray) else a.get()


def empty(shape, dtype):
    return arrays().empty(shape, dtype)


@cache
def elementwise_kernel(f, number, outputs, inputs, scalars):
    text = elementwise_source(outputs, inputs, scalars, "range(cuda.grid(1), o0.size, cuda.gridsize(1))")
    return cuda.jit(define("kernel", text, f=formula(f, number), cuda=cuda))


def elementwise(f, outputs, inputs, scalars=()):
    """outputs[0][i], … = f(inputs[0][i], …, scalars[0], …) for every element i.  All arrays have one shape and dtype."""
    number = outputs[0].dtype.type
    kernel = elementwise_kernel(f, number, len(outputs), len(inputs), len(scalars))
    blocks = -(-outputs[0].size // THREADS)
    launch(kernel, blocks, THREADS, *(a.reshape(-1) for a in (*outputs, *inputs)), *map(number, scalars))


def matvec(W, s, out):
    """Batched matrix-vector product, out_b = W s_b.  W (r, n), s (B, n), out (B, r); overwrites out."""
    B, n = s.shape
    launch(matvec_kernel(out.dtype.type), B, threads_for(out.shape[1]), W.T.copy(), s.reshape(1, 1, B, n), out)


def forward(cell, p, W, c, s, kept, flags):
    """Carry s through time: s[:, t+1] = cell.step(p[t], W s[0, t] + c, s[:, t]).  式2.  Arguments: see reference.forward."""
    T, B, G, n = p.shape
    W_T = W.T.copy()  # neighbouring threads read neighbouring weights
    launch(forward_kernel(cell, p.dtype.type), B, threads_for(n), p, W_T, c, s, kept, flags)


def backward(cell, dy, W, c, s, kept, flags, dp, dq, ds):
    """Carry δ back through time (式3).  Arguments: see reference.backward."""
    T, B, G, n = dp.shape
    rows, carried = dq.reshape(1, T, B, G * n), ds.reshape(-1, 1, B, n)
    launch(backward_kernel(cell, dp.dtype.type), B, threads_for(n), dy, W, s, kept, flags, dp, dq, rows, carried)
