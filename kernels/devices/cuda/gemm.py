"""The gemm schedule, for W of any size: cuBLAS for the product of a step, one kernel for the cells
of all samples and units: two launches a step.
"""

from ... import At, Backward, Forward
from ...binding.closures import tuple_of
from .compiled import factory
from .contract import Choice, Problem
from .launch import arrays, blocks_for, cuda, device_function, matmuls, prepared, threads_for
from .plans import of_size
from .pointwise import (
    advance_of,
    asked_of,
    cut_of,
    first_sample,
    first_unit,
    norm_clip_of,
    retreat_of,
)

name = "gemm"
# Of a step, by the card's clock: the host puts two launches on the stream, 10 µs (what a launch
# takes was measured side by side on a CPU; cuBLAS alike, an estimate)
LAUNCHES = 20_000
PRODUCTS_A_CYCLE = 64  # of a multiprocessor, float32: half of what it could


@factory
def forward_kernel(cell, number, masked: bool):
    """The kernel (call, q, h, t): one step of `Device.forward`."""
    advance, APART = advance_of(cell, number, masked), cell.apart
    entered = asked_of(masked).entered

    @device_function
    def recurrent_input(k, q, c, b, j, n):
        return q[b, k * n + j] + c[k * n + j] if APART else q[b, k * n + j]

    recurrent = tuple_of(cell.gates, recurrent_input, device_function)

    @cuda.jit
    def forward(call: Forward, q, h, t):
        """Step t of `Device.forward`.  q (B, G·n) is W h, h (B, n) state 0 that the step begins
        with; h is overwritten with that of the next step.
        """
        T, B, _, n = call.p.shape
        b = first_sample()
        while b < B:
            j = first_unit()
            while j < n:
                advance(At(t, b, j), recurrent(q, call.c, b, j, n), call)
                if t + 1 < T:
                    h[b, j] = call.s[0, entered(call.flags, call.s, t + 1, b), b, j]
                j += cuda.blockDim.x
            b += cuda.gridDim.x

    return forward


@factory
def backward_kernel(cell, number, clips: bool, masked: bool):
    """The kernel (call, through_W, carried, t): one step of `Device.backward`."""
    retreat, clip_norm = retreat_of(cell, number, clips, masked), norm_clip_of(cell, number, clips)
    cut, begins = cut_of(cell, number), asked_of(masked).begins

    @cuda.jit
    def backward(call: Backward, through_W, carried, t):
        """Step t of `Device.backward`.  through_W (B, n) is Wᵀ dq of step t + 1; carried
        (S, 1, B, n) is dE/ds, of step t + 1 but for that, then of step t.
        """
        T, B, _, n = call.dp.shape
        b = first_sample()
        while b < B:
            j = first_unit()
            while j < n:
                carried[0, 0, b, j] += through_W[b, j]
                if t + 1 < T and begins(call.flags, t + 1, b):
                    cut(carried, call.ds, t + 1, b, j)
                retreat(At(t, b, j), call, carried)
                j += cuda.blockDim.x
            clip_norm(call, t, b)
            b += cuda.gridDim.x

    return backward


def plans(problem: Problem, asked: bool = False) -> tuple[Choice, ...]:
    why = "asked for" if asked else f"{of_size(problem)}, which cuBLAS reads once a step"
    blocks, threads = blocks_for(problem.B), threads_for(problem.n)
    return (Choice(name, None, blocks, threads, 0, why, cycles(problem)),)


def cycles(problem: Problem) -> float:
    """An estimate of one step, in cycles: the host's launches, or the products behind them."""
    numbers = problem.B * problem.cell.gates * problem.n**2 * problem.itemsize / 4
    return max(LAUNCHES, numbers / (PRODUCTS_A_CYCLE * problem.card.multiprocessors))


def forward(cell, call: Forward, choice: Choice, precision: str):
    (T, B, _, n), dtype = call.p.shape, call.p.dtype
    q, h = arrays().empty((B, cell.gates * n), dtype), call.s[0, :1].copy()
    kernel = forward_kernel(cell, dtype.type, len(call.flags) > 0)
    step = prepared(kernel, choice.blocks, choice.threads, call, q, h[0])
    multiply = matmuls(h, call.W.T, q, precision)
    for t in range(T):
        multiply(0)
        step(t)


def backward(cell, call: Backward, choice: Choice, precision: str):
    (T, B, G, n), dtype, ds = call.dp.shape, call.dp.dtype, call.ds[:, :1]
    through_W, dq_of_step = arrays().zeros((B, n), dtype), call.dq.reshape(T, B, G * n)
    carried = ds.copy()
    ds[...] = 0
    kernel = backward_kernel(cell, dtype.type, call.clip != (), len(call.flags) > 0)
    step = prepared(kernel, choice.blocks, choice.threads, call, through_W, carried)
    multiply = matmuls(dq_of_step, call.W, through_W, precision)
    for t in reversed(range(T)):
        step(t)
        multiply(t)
    carried[0, 0] += through_W
    ds += carried


def describe(choice: Choice) -> str:
    return f"two launches a step: {choice.grid}"
