"""The plain schedule: a block carries whole samples through all T steps, a thread takes every
blockDim-th unit.

One launch a layer and direction, any T, B and n. The state of step t is read back from global
memory after one barrier. Loops say `while`: a `range` divides 64-bit integers to know its length,
and its index, which might be negative, is wrapped around at every use (2,008 instructions against
1,336 in the LSTM's forward kernel, 140 against 29 in its inner loop).
"""

from functools import cache

from numba import cuda

from ... import RESET
from ...binding.text import access, gather
from ...once import once
from .launch import device_function
from .pointwise import advance_of, entered, hand_over_of, retreat_of, shrink_of


@cache
def product(number):
    """(A, i, x, k, t, b) -> Σ_j A[j, i] x[k, t, b, j], in the order of j; neighbouring threads read
    neighbouring A.
    """
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


@once
def forward_kernel(cell, number):
    advance, bias = advance_of(cell, number), " + c[{k} * n + j]" if cell.apart else ""
    element = "row(W_T, {k} * n + j, s, 0, before, b)" + bias
    recurrent = device_function(
        gather(cell.gates, "W_T, c, s, before, b, j, n", element, row=product(number))
    )

    @cuda.jit
    def forward(p, W_T, c, s, kept, flags):
        T, B, _, n = p.shape
        b = cuda.blockIdx.x
        while b < B:
            t = 0
            while t < T:
                j = cuda.threadIdx.x
                while j < n:
                    advance(
                        p,
                        recurrent(W_T, c, s, entered(flags, t, b), b, j, n),
                        s,
                        kept,
                        flags,
                        t,
                        b,
                        j,
                    )
                    j += cuda.blockDim.x
                cuda.syncthreads()  # unit j of step t+1 reads every unit of step t
                t += 1
            b += cuda.gridDim.x

    return forward


@once
def backward_kernel(cell, number, clips: bool):
    retreat, shrink = retreat_of(cell, number, clips), shrink_of(cell, number, clips)
    column = product(number)
    hand_over, NOTHING = hand_over_of(cell, number), (number(0),) * cell.states
    _, _, _, states, _, _, put_states = access(cell, device_function)

    @cuda.jit
    # rows is dq (1, T, B, G·n); now, like ds, what is carried
    def backward(dy, W, s, kept, flags, dp, dq, rows, ds, now, clip):
        T, B, G, n = dp.shape
        b = cuda.blockIdx.x
        while b < B:
            j = cuda.threadIdx.x
            while j < n:
                put_states(now, 0, b, j, states(ds, 0, b, j))
                put_states(ds, 0, b, j, NOTHING)
                j += cuda.blockDim.x
            t = T - 1
            while t >= 0:
                j = cuda.threadIdx.x
                while j < n:
                    retreat(dy, s, kept, flags, dp, dq, now, clip, t, b, j)
                    j += cuda.blockDim.x
                shrink(dp, dq, clip, t, b)
                cuda.syncthreads()  # Wᵀ dq reads δ of every unit
                j = cuda.threadIdx.x
                while j < n:
                    now[0, 0, b, j] += column(W, j, rows, 0, t, b)
                    if t == 0 or flags[t, b] & RESET:
                        hand_over(now, ds, b, j)
                    j += cuda.blockDim.x
                t -= 1
            b += cuda.gridDim.x

    return backward
