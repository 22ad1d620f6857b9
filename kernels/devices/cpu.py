"""The CPU: Numba `@njit` loops over samples and units, BLAS for what a whole step shares."""

from functools import cache

import numpy as np
from numba import njit
from threadpoolctl import ThreadpoolController

from .. import LIVE
from ..binding import access, bind, compiled_maths, define, elementwise_source, gather
from .reference import array, bias_sum, empty, gradient_sum, numpy, project, project_back  # noqa: F401  NumPy's arrays are the CPU's

name = "cpu"
jit = njit(error_model="numpy", nogil=True)


@cache
def blas():
    """Controls the threads of the BLAS that Numba calls. The product of one step is too small to share: threads that wait for
    each other T times cost more than they carry, several times more where another program keeps a core busy."""
    import scipy.linalg.cython_blas  # noqa: F401  so that it is loaded and seen

    return ThreadpoolController()


@cache
def maths(number):
    module = compiled_maths(number, jit)
    module.floor, module.ceil = np.floor, np.ceil  # math's are integers
    return module


@cache
def formula(f, number):
    return bind(f, number, maths(number), jit)


@cache
def elementwise_kernel(f, number, outputs, inputs, scalars):
    return jit(define("kernel", elementwise_source(outputs, inputs, scalars, "range(o0.size)"), f=formula(f, number)))


def elementwise(f, outputs, inputs, scalars=()):
    """outputs[0][i], … = f(inputs[0][i], …, scalars[0], …) for every element i.  All arrays have one shape and dtype."""
    number = outputs[0].dtype.type
    kernel = elementwise_kernel(f, number, len(outputs), len(inputs), len(scalars))
    kernel(*(a.reshape(-1) for a in (*outputs, *inputs)), *map(number, scalars))


@jit
def matvec(W, s, out):
    """Batched matrix-vector product, out_b = W s_b.  W (r, n), s (B, n), out (B, r); overwrites out."""
    np.dot(s, W.T, out)


@cache
def forward_kernel(cell, number):
    step, APART = formula(cell.step, number), cell.apart
    gates, _, states, _, put_kept, put_states = access(cell, jit)
    recurrent = jit(gather(cell.gates, "q, b, j, n", "q[b, {k} * n + j]"))

    @jit
    def forward(p, W, c, s, kept, flags):
        T, B, G, n = p.shape
        q = np.empty((B, G * n), p.dtype)
        for t in range(T):
            matvec(W, s[0, t], q)
            if APART:
                q += c
            for b in range(B):
                if flags[t, b] & LIVE:
                    for j in range(n):
                        s_next, k = step(gates(p, t, b, j), recurrent(q, b, j, n), states(s, t, b, j))
                        put_states(s, t + 1, b, j, s_next)
                        put_kept(kept, t, b, j, k)
                else:
                    kept[t, b] = 0
                    s[:, t + 1, b] = s[:, t, b]

    return forward


def forward(cell, p, W, c, s, kept, flags):
    """Carry s through time: s[:, t+1] = cell.step(p[t], W s[0, t] + c, s[:, t]).  式2.  Arguments: see reference.forward."""
    with blas().limit(limits=1, user_api="blas"):
        forward_kernel(cell, p.dtype.type)(p, W, c, s, kept, flags)


@cache
def backward_kernel(cell, number):
    back, APART = formula(cell.back, number), cell.apart
    _, activations, states, put_gates, _, put_states = access(cell, jit)

    @jit
    def backward(dy, W, s, kept, flags, dp, dq, ds):
        T, B, G, n = dp.shape
        through_W = np.empty((B, n), dp.dtype)
        for t in range(T - 1, -1, -1):
            for b in range(B):
                if flags[t, b] & LIVE:
                    for j in range(n):
                        ds[0, 0, b, j] += dy[t, b, j]
                        δp, δq, d = back(states(ds, 0, b, j), activations(kept, t, b, j), states(s, t, b, j), states(s, t + 1, b, j))
                        put_gates(dp, t, b, j, δp)
                        if APART:
                            put_gates(dq, t, b, j, δq)
                        put_states(ds, 0, b, j, d)
                else:
                    dp[t, b] = 0
                    dq[t, b] = 0
            np.dot(dq[t].reshape(B, G * n), W, through_W)
            ds[0, 0] += through_W

    return backward


def backward(cell, dy, W, c, s, kept, flags, dp, dq, ds):
    """Carry δ back through time (式3).  Arguments: see reference.backward."""
    S, B, n = ds.shape
    with blas().limit(limits=1, user_api="blas"):
        backward_kernel(cell, dp.dtype.type)(dy, W, s, kept, flags, dp, dq, ds.reshape(S, 1, B, n))


def explain(cell, n, B, dtype) -> str:
    """Which kernels one layer of n units runs for B samples, and why."""
    return f"cpu: one call a direction, whatever T; each step one BLAS product for {B} samples, then a compiled loop over samples and units"
