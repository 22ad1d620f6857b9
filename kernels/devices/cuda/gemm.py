"""The gemm schedule, for W of any size: cuBLAS for the product of a step, one kernel for the cells of all samples and units.

Two launches a step, and no CUDA graph to save them: CuPy refuses cuBLAS while a stream is captured (its issue 6290).
"""

from functools import cache

from numba import cuda

from ...binding import gather
from .launch import arrays, blocks_for, device_function, prepared, threads_for
from .pointwise import advance_of, retreat_of
from .precision import matmul


@cache
def forward_kernel(cell, number):
    advance, bias = advance_of(cell, number), " + c[{k} * n + j]" if cell.apart else ""
    recurrent = device_function(gather(cell.gates, "q, c, b, j, n", "q[b, {k} * n + j]" + bias))

    @cuda.jit
    def forward(p, q, c, s, kept, flags, t):  # q = W s[0, t] (B, G·n)
        B, n = p.shape[1], p.shape[3]
        b = cuda.blockIdx.x
        while b < B:
            j = cuda.threadIdx.x
            while j < n:
                advance(p, recurrent(q, c, b, j, n), s, kept, flags, t, b, j)
                j += cuda.blockDim.x
            b += cuda.gridDim.x

    return forward


@cache
def backward_kernel(cell, number):
    retreat = retreat_of(cell, number)

    @cuda.jit
    def backward(dy, through_W, s, kept, flags, dp, dq, ds, t):  # through_W = Wᵀ dq of step t+1 (B, n)
        B, n = dp.shape[1], dp.shape[3]
        b = cuda.blockIdx.x
        while b < B:
            j = cuda.threadIdx.x
            while j < n:
                ds[0, 0, b, j] += through_W[b, j]
                retreat(dy, s, kept, flags, dp, dq, ds, t, b, j)
                j += cuda.blockDim.x
            b += cuda.gridDim.x

    return backward


def forward(cell, p, W, c, s, kept, flags):
    T, B, G, n = p.shape
    q, W_T = arrays().empty((B, G * n), p.dtype), W.T
    step = prepared(forward_kernel(cell, p.dtype.type), blocks_for(B), threads_for(n), p, q, c, s, kept, flags)
    for t in range(T):
        matmul(s[0, t], W_T, out=q)
        step(t)


def backward(cell, dy, W, s, kept, flags, dp, dq, ds):
    T, B, G, n = dp.shape
    through_W, rows = arrays().zeros((B, n), dp.dtype), dq.reshape(T, B, G * n)
    back = prepared(backward_kernel(cell, dp.dtype.type), blocks_for(B), threads_for(n), dy, through_W, s, kept, flags, dp, dq, ds)
    for t in reversed(range(T)):
        back(t)
        matmul(rows[t], W, out=through_W)
    ds[0, 0] += through_W
