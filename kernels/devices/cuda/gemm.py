"""The gemm schedule, for W of any size: cuBLAS for the product of a step, one kernel for the cells
of all samples and units.

Two launches a step, and no CUDA graph to save them: CuPy refuses cuBLAS while a stream is captured
(its issue 6290).
"""

from numba import cuda

from ... import RESET
from ...binding.text import gather
from ...once import once
from .launch import arrays, blocks_for, device_function, prepared, threads_for
from .pointwise import advance_of, entered, hand_over_of, retreat_of, shrink_of
from .precision import matmul


@once
def forward_kernel(cell, number):
    advance, bias = advance_of(cell, number), " + c[{k} * n + j]" if cell.apart else ""
    recurrent = device_function(gather(cell.gates, "q, c, b, j, n", "q[b, {k} * n + j]" + bias))

    @cuda.jit
    # q = W h (B, G·n); h (B, n) is state 0 that this step, then the next begins with
    def forward(p, q, c, s, h, kept, flags, t):
        T, B, n = p.shape[0], p.shape[1], p.shape[3]
        b = cuda.blockIdx.x
        while b < B:
            j = cuda.threadIdx.x
            while j < n:
                advance(p, recurrent(q, c, b, j, n), s, kept, flags, t, b, j)
                if t + 1 < T:
                    h[b, j] = s[0, entered(flags, t + 1, b), b, j]
                j += cuda.blockDim.x
            b += cuda.gridDim.x

    return forward


@once
def backward_kernel(cell, number, clips: bool):
    retreat, shrink = retreat_of(cell, number, clips), shrink_of(cell, number, clips)
    hand_over = hand_over_of(cell, number)

    @cuda.jit
    # through_W = Wᵀ dq of step t+1 (B, n)
    def backward(dy, through_W, s, kept, flags, dp, dq, ds, now, clip, t):
        T, B, n = dp.shape[0], dp.shape[1], dp.shape[3]
        b = cuda.blockIdx.x
        while b < B:
            j = cuda.threadIdx.x
            while j < n:
                now[0, 0, b, j] += through_W[b, j]
                if t + 1 < T and flags[t + 1, b] & RESET:
                    hand_over(now, ds, b, j)
                retreat(dy, s, kept, flags, dp, dq, now, clip, t, b, j)
                j += cuda.blockDim.x
            shrink(dp, dq, clip, t, b)
            b += cuda.gridDim.x

    return backward


def forward(cell, p, W, c, s, kept, flags, precision):
    T, B, _, n = p.shape
    q, h, W_T = arrays().empty((B, cell.gates * n), p.dtype), s[0, 0].copy(), W.T
    step = prepared(
        forward_kernel(cell, p.dtype.type),
        blocks_for(B),
        threads_for(n),
        p,
        q,
        c,
        s,
        h,
        kept,
        flags,
    )
    for t in range(T):
        matmul(h, W_T, precision, out=q)
        step(t)


def backward(cell, dy, W, s, kept, flags, dp, dq, ds, now, clip, precision):
    T, B, G, n = dp.shape
    through_W, rows = arrays().zeros((B, n), dp.dtype), dq.reshape(T, B, G * n)
    now[...], ds[...] = ds, 0
    kernel = backward_kernel(cell, dp.dtype.type, clip != ())
    back = prepared(
        kernel, blocks_for(B), threads_for(n), dy, through_W, s, kept, flags, dp, dq, ds, now, clip
    )
    for t in reversed(range(T)):
        back(t)
        matmul(rows[t], W, precision, out=through_W)
    now[0, 0] += through_W
    ds += now
