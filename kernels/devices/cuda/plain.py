"""The plain schedule: a block carries whole samples through all T steps, a thread takes every
blockDim-th unit.

One launch a layer and direction, any T, B and n. The state of step t is read back from global
memory after one barrier. Loops say `while`: a `range` divides 64-bit integers to know its length,
and its index, which might be negative, is wrapped around at every use (2,008 instructions against
1,336 in the LSTM's forward kernel, 140 against 29 in its inner loop).
"""

from functools import cache
from math import ceil

from ... import At, Backward, Forward
from ...binding.accessors import access
from ...binding.closures import tuple_of
from .compiled import factory
from .contract import Choice, Problem
from .launch import arrays, blocks_for, cuda, device_function, launch, threads_for
from .plans import RESIDENT_THREADS, SCHEDULERS, WARP, of_size, streaming
from .pointwise import (
    advance_of,
    asked_of,
    cut_of,
    first_sample,
    first_unit,
    norm_clip_of,
    retreat_of,
)

name = "plain"
PRODUCT = 36  # instructions of one product of a sum, in which no index stays (read off SASS)
BESIDE = 600  # cycles of a step beside it: the state through memory, the cell, the barrier
ON_A_CARD = 256  # threads of a block, at most; the simulator has fewer
PRODUCT_WAITS = 68  # cycles of it where nothing else hides them: four loads from L2 at a time


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


@factory
def matvec_kernel(number):
    row = product(number)

    @cuda.jit
    def matvec(W_T, s, out):
        """out_b = W s_b.  W_T (n, r), s (1, 1, B, n), out (B, r)."""
        B, r = out.shape
        b = cuda.blockIdx.x
        while b < B:
            i = cuda.threadIdx.x
            while i < r:
                out[b, i] = row(W_T, i, s, 0, 0, b)
                i += cuda.blockDim.x
            b += cuda.gridDim.x

    return matvec


@factory
def forward_kernel(cell, number, masked: bool):
    """The kernel (call, W_T): `Device.forward`."""
    advance, row, APART = advance_of(cell, number, masked), product(number), cell.apart
    entered = asked_of(masked).entered

    @device_function
    def recurrent_input(k, call, W_T, before, b, j):
        i = k * call.p.shape[3] + j
        q = row(W_T, i, call.s, 0, before, b)
        return q + call.c[i] if APART else q

    recurrent = tuple_of(cell.gates, recurrent_input, device_function)

    @cuda.jit
    def forward(call: Forward, W_T):
        """`Device.forward`.  W_T (n, G·n) is W, transposed: neighbouring threads read neighbouring
        weights.
        """
        T, B, _, n = call.p.shape
        b = first_sample()
        while b < B:
            t = 0
            while t < T:
                j = first_unit()
                while j < n:
                    q = recurrent(call, W_T, entered(call.flags, call.s, t, b), b, j)
                    advance(At(t, b, j), q, call)
                    j += cuda.blockDim.x
                cuda.syncthreads()  # unit j of step t+1 reads every unit of step t
                t += 1
            b += cuda.gridDim.x

    return forward


@factory
def backward_kernel(cell, number, clips: bool, masked: bool):
    """The kernel (call, dq_of_step, carried): `Device.backward`."""
    retreat, clip_norm = retreat_of(cell, number, clips, masked), norm_clip_of(cell, number, clips)
    begins = asked_of(masked).begins
    column, cut = product(number), cut_of(cell, number)
    NOTHING = (number(0),) * cell.states
    _, _, _, states, _, _, put_states = access(cell, device_function)

    @cuda.jit
    def backward(call: Backward, dq_of_step, carried):
        """`Device.backward`.  dq_of_step (1, T, B, G·n) is dq; carried (S, 1, B, n) is overwritten
        with dE/ds of the step that is reached.
        """
        T, B, _, n = call.dp.shape
        b = first_sample()
        while b < B:
            j = first_unit()
            while j < n:
                put_states(states(call.ds, At(0, b, j)), carried, At(0, b, j))
                put_states(NOTHING, call.ds, At(0, b, j))
                j += cuda.blockDim.x
            t = T - 1
            while t >= 0:
                j = first_unit()
                while j < n:
                    retreat(At(t, b, j), call, carried)
                    j += cuda.blockDim.x
                clip_norm(call, t, b)
                cuda.syncthreads()  # Wᵀ dq reads δ of every unit
                j = first_unit()
                while j < n:
                    carried[0, 0, b, j] += column(call.W, j, dq_of_step, 0, t, b)
                    if t == 0 or begins(call.flags, t, b):
                        cut(carried, call.ds, t, b, j)
                    j += cuda.blockDim.x
                t -= 1
            b += cuda.gridDim.x

    return backward


def plans(problem: Problem, asked: bool = False) -> tuple[Choice, ...]:
    why = "asked for" if asked else f"{of_size(problem)}, which each block streams from L2"
    blocks, threads = blocks_for(problem.B), threads_for(problem.n)
    return (Choice(name, None, blocks, threads, 0, why, cycles(problem)),)


def cycles(problem: Problem) -> float:
    """An estimate of one step, in cycles: what a multiprocessor reads of W or must issue for all
    its samples, or one thread alone with its loads, times the waves.
    """
    blocks = ceil(problem.B / problem.card.multiprocessors)
    threads = min(ON_A_CARD, ceil(problem.n / WARP) * WARP)
    products = ceil(problem.n / threads) * problem.cell.gates * problem.n
    warps = blocks * ceil(threads / WARP)
    issue = PRODUCT * products * ceil(warps / SCHEDULERS)
    waves = ceil(blocks * threads / RESIDENT_THREADS)
    alone = PRODUCT_WAITS * products + BESIDE
    return max(streaming(problem), issue, waves * alone)


def forward(cell, call: Forward, choice: Choice, precision: str):
    kernel = forward_kernel(cell, call.p.dtype.type, len(call.flags) > 0)
    launch(kernel, choice.blocks, choice.threads, call, call.W.T.copy())


def backward(cell, call: Backward, choice: Choice, precision: str):
    (T, B, G, n), dtype = call.dp.shape, call.dp.dtype
    kernel = backward_kernel(cell, dtype.type, call.clip != (), len(call.flags) > 0)
    dq_of_step = call.dq.reshape(1, T, B, G * n)
    carried = arrays().empty((cell.states, 1, B, n), dtype)
    launch(kernel, choice.blocks, choice.threads, call, dq_of_step, carried)


def describe(choice: Choice) -> str:
    return f"one launch whatever T: {choice.grid}"
