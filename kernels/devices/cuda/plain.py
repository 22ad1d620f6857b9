"""The plain schedule: a block carries whole samples through all T steps, a thread takes every blockDim-th unit.

One launch a layer and direction, any T, B and n. The state of step t is read back from global memory after one barrier.
"""

from functools import cache

from numba import cuda

from ... import LIVE
from ...binding import gather, scatter
from .launch import device_function, formula


@cache
def product(number):
    """(A, i, x, k, t, b) -> Σ_l A[l, i] x[k, t, b, l], in the order of l; neighbouring threads read neighbouring A."""
    ZERO = number(0)

    @device_function
    def product(A, i, x, k, t, b):
        total = ZERO
        for el in range(A.shape[0]):
            total += A[el, i] * x[k, t, b, el]
        return total

    return product


@cache
def matvec_kernel(number):
    row = product(number)

    @cuda.jit
    def matvec(W_T, s, out):
        B, r = out.shape
        for b in range(cuda.blockIdx.x, B, cuda.gridDim.x):
            for i in range(cuda.threadIdx.x, r, cuda.blockDim.x):
                out[b, i] = row(W_T, i, s, 0, 0, b)

    return matvec


@cache
def forward_kernel(cell, number):
    step = formula(cell.step, number)
    bias = " + c[{k} * n + j]" if cell.apart else ""
    gates = device_function(gather(cell.gates, "a, t, b, j", "a[t, b, {k}, j]"))
    recurrent = device_function(
        gather(cell.gates, "W_T, c, s, t, b, j, n", "row(W_T, {k} * n + j, s, 0, t, b)" + bias, row=product(number))
    )
    states = device_function(gather(cell.states, "s, t, b, j", "s[{k}, t, b, j]"))
    put_states = device_function(scatter(cell.states, "s, t, b, j", "s[{k}, t, b, j]"))
    put_kept = device_function(scatter(cell.kept, "a, t, b, j", "a[t, b, {k}, j]"))

    @cuda.jit
    def forward(p, W_T, c, s, kept, flags):
        T, B, G, n = p.shape
        for b in range(cuda.blockIdx.x, B, cuda.gridDim.x):
            for t in range(T):
                for j in range(cuda.threadIdx.x, n, cuda.blockDim.x):
                    if flags[t, b] & LIVE:
                        s_next, k = step(gates(p, t, b, j), recurrent(W_T, c, s, t, b, j, n), states(s, t, b, j))
                        put_states(s, t + 1, b, j, s_next)
                        put_kept(kept, t, b, j, k)
                    else:
                        put_states(s, t + 1, b, j, states(s, t, b, j))
                        for k in range(kept.shape[2]):
                            kept[t, b, k, j] = 0
                cuda.syncthreads()  # unit j of step t+1 reads every unit of step t

    return forward


@cache
def backward_kernel(cell, number):
    back, APART = formula(cell.back, number), cell.apart
    column = product(number)
    gates = device_function(gather(cell.kept, "a, t, b, j", "a[t, b, {k}, j]"))
    states = device_function(gather(cell.states, "s, t, b, j", "s[{k}, t, b, j]"))
    put_states = device_function(scatter(cell.states, "s, t, b, j", "s[{k}, t, b, j]"))
    put_gates = device_function(scatter(cell.gates, "a, t, b, j", "a[t, b, {k}, j]"))

    @cuda.jit
    def backward(dy, W, s, kept, flags, dp, dq, rows, ds):  # rows is dq (1, T, B, G·n)
        T, B, G, n = dp.shape
        for b in range(cuda.blockIdx.x, B, cuda.gridDim.x):
            for t in range(T - 1, -1, -1):
                live = flags[t, b] & LIVE
                for j in range(cuda.threadIdx.x, n, cuda.blockDim.x):
                    if live:
                        ds[0, 0, b, j] += dy[t, b, j]
                        δp, δq, d = back(states(ds, 0, b, j), gates(kept, t, b, j), states(s, t, b, j), states(s, t + 1, b, j))
                        put_gates(dp, t, b, j, δp)
                        if APART:
                            put_gates(dq, t, b, j, δq)
                        put_states(ds, 0, b, j, d)
                    else:
                        for g in range(G):
                            dp[t, b, g, j] = 0
                            dq[t, b, g, j] = 0
                cuda.syncthreads()  # Wᵀ dq reads δ of every unit
                if live:
                    for j in range(cuda.threadIdx.x, n, cuda.blockDim.x):
                        ds[0, 0, b, j] += column(W, j, rows, 0, t, b)

    return backward
