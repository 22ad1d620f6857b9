"""The plain schedule: a block carries whole samples through all T steps, a thread takes every blockDim-th unit.

One launch a layer and direction, any T, B and n. The state of step t is read back from global memory after one barrier.
Loops say `while`: a `range` divides 64-bit integers to know its length, and its index, which might be negative, is wrapped
around at every use (2,008 instructions against 1,336 in the LSTM's forward kernel, 140 against 29 in its inner loop).
"""

from functools import cache

from numba import cuda

from ... import LIVE
from ...binding import gather, scatter
from .launch import device_function, formula


@cache
def product(number):
    """(A, i, x, k, t, b) -> Σ_j A[j, i] x[k, t, b, j], in the order of j; neighbouring threads read neighbouring A."""
    ZERO = number(0)

    @device_function
    def product(A, i, x, k, t, b):
        total, j = ZERO, 0
        while j < A.shape[0]:
            total += A[j, i] * x[k, t, b, j]
            j += 1
        return total

    return product


@cache
def matvec_kernel(number):
    row = product(number)

    @cuda.jit
    def matvec(W_T, s, out):
        B, r = out.shape
        b = cuda.blockIdx.x
        while b < B:
            i = cuda.threadIdx.x
            while i < r:
                out[b, i] = row(W_T, i, s, 0, 0, b)
                i += cuda.blockDim.x
            b += cuda.gridDim.x

    return matvec


@cache
def forward_kernel(cell, number):
    step, NOTHING = formula(cell.step, number), (number(0),) * cell.kept
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
        b = cuda.blockIdx.x
        while b < B:
            t = 0
            while t < T:
                j = cuda.threadIdx.x
                while j < n:
                    if flags[t, b] & LIVE:
                        s_next, k = step(gates(p, t, b, j), recurrent(W_T, c, s, t, b, j, n), states(s, t, b, j))
                        put_states(s, t + 1, b, j, s_next)
                        put_kept(kept, t, b, j, k)
                    else:
                        put_states(s, t + 1, b, j, states(s, t, b, j))
                        put_kept(kept, t, b, j, NOTHING)
                    j += cuda.blockDim.x
                cuda.syncthreads()  # unit j of step t+1 reads every unit of step t
                t += 1
            b += cuda.gridDim.x

    return forward


@cache
def backward_kernel(cell, number):
    back, APART, NOTHING = formula(cell.back, number), cell.apart, (number(0),) * cell.gates
    column = product(number)
    gates = device_function(gather(cell.kept, "a, t, b, j", "a[t, b, {k}, j]"))
    states = device_function(gather(cell.states, "s, t, b, j", "s[{k}, t, b, j]"))
    put_states = device_function(scatter(cell.states, "s, t, b, j", "s[{k}, t, b, j]"))
    put_gates = device_function(scatter(cell.gates, "a, t, b, j", "a[t, b, {k}, j]"))

    @cuda.jit
    def backward(dy, W, s, kept, flags, dp, dq, rows, ds):  # rows is dq (1, T, B, G·n)
        T, B, G, n = dp.shape
        b = cuda.blockIdx.x
        while b < B:
            t = T - 1
            while t >= 0:
                live = flags[t, b] & LIVE
                j = cuda.threadIdx.x
                while j < n:
                    if live:
                        ds[0, 0, b, j] += dy[t, b, j]
                        δp, δq, d = back(states(ds, 0, b, j), gates(kept, t, b, j), states(s, t, b, j), states(s, t + 1, b, j))
                        put_gates(dp, t, b, j, δp)
                        if APART:
                            put_gates(dq, t, b, j, δq)
                        put_states(ds, 0, b, j, d)
                    else:
                        put_gates(dp, t, b, j, NOTHING)
                        if APART:
                            put_gates(dq, t, b, j, NOTHING)
                    j += cuda.blockDim.x
                cuda.syncthreads()  # Wᵀ dq reads δ of every unit
                j = cuda.threadIdx.x
                while live and j < n:
                    ds[0, 0, b, j] += column(W, j, rows, 0, t, b)
                    j += cuda.blockDim.x
                t -= 1
            b += cuda.gridDim.x

    return backward
