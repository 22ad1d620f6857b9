"""One unit of one sample for one step, from and to global memory: what the schedules share that
keep no state on the chip.

Kernels that clip δ have `Bounds` as call.clip, others ().
"""

from functools import cache

import numpy as np

from ... import LIVE, RESET, At
from ...binding.accessors import access
from ...binding.closures import each_over, tuple_of, tuple_over
from ...clipping import bounded, factor
from ...once import once
from .launch import THREADS, cuda, device_function, formula


@device_function
def first_sample():
    """Of this block. 64 bits, as those that follow gridDim.x behind each other: an At has one
    type.
    """
    return np.int64(cuda.blockIdx.x)


@device_function
def first_unit():
    """Of this thread; others follow blockDim.x behind each other."""
    return np.int64(cuda.threadIdx.x)


@device_function
def entered(flags, t, b):
    """Where in s the state stands that step t begins with."""
    return 0 if flags[t, b] & RESET else t


@once
def advance_of(cell, number):
    """The device function advance(at, q, call): the cell's step, of one unit; q is its recurrent
    input, G numbers.
    """
    step, NOTHING = formula(cell.step, number), (number(0),) * cell.kept
    inputs, _, _, states, _, put_kept, put_states = access(cell, device_function)

    @device_function
    def advance(at, q, call):
        before = states(call.s, At(entered(call.flags, at.t, at.b), at.b, at.j))
        after = At(at.t + 1, at.b, at.j)
        if call.flags[at.t, at.b] & LIVE:
            s_next, kept = step(inputs(call.p, at), q, before)
            put_states(s_next, call.s, after)
            put_kept(kept, call.kept, at)
        else:
            put_states(before, call.s, after)
            put_kept(NOTHING, call.kept, at)

    return advance


@once
def retreat_of(cell, number, clips: bool):
    """The device function retreat(at, call, carried): the cell's step back, of one unit, but for
    what passes through W.

    carried (S, 1, B, n) is dE/ds: of the states after the step, then of those before it.
    """
    back, APART, OUTPUT = formula(cell.back, number), cell.apart, cell.output
    NOTHING = (number(0),) * cell.gates
    _, _, activations, states, put_gates, _, put_states = access(cell, device_function)
    within_bounds = value_clip_of(cell, number, clips)

    @device_function
    def retreat(at, call, carried):
        t, b, j = at
        if call.flags[t, b] & LIVE:
            now = At(0, b, j)
            carried[OUTPUT, 0, b, j] += call.dy[t, b, j]
            before = states(call.s, At(entered(call.flags, t, b), b, j))
            after = states(call.s, At(t + 1, b, j))
            δp, δq, d = back(states(carried, now), activations(call.kept, at), before, after)
            put_gates(within_bounds(δp, call.clip, at), call.dp, at)
            if APART:
                put_gates(within_bounds(δq, call.clip, at), call.dq, at)
            put_states(d, carried, now)
        else:
            put_gates(NOTHING, call.dp, at)
            if APART:
                put_gates(NOTHING, call.dq, at)

    return retreat


@once
def cut_of(cell, number):
    """The device function cut(carried, ds, b, j): dE/ds that arrives at an initial state is added
    to its gradient, and nothing of it goes further back.
    """
    _, _, _, states, _, _, put_states = access(cell, device_function)
    NOTHING = (number(0),) * cell.states
    sums = tuple_of(cell.states, device_function(lambda k, a, b: a[k] + b[k]), device_function)

    @device_function
    def cut(carried, ds, b, j):
        at = At(0, b, j)
        put_states(sums(states(ds, at), states(carried, at)), ds, at)
        put_states(NOTHING, carried, at)

    return cut


@device_function
def nothing(*arguments):
    """What a kernel that does not clip does instead."""


@once
def value_clip_of(cell, number, clips: bool):
    """The device function (δ, bounds, at) -> the G numbers of one unit within the bound of each."""
    if not clips:
        return device_function(lambda δ, bounds, at: δ)
    bound = formula(bounded, number)
    bounded_all = tuple_over(
        cell.gates, device_function(lambda k, δ, value: bound(δ, value)), device_function
    )

    @device_function
    def note(k, δ, bounds, at):
        if δ > bounds.value or δ < -bounds.value:
            bounds.beyond[at.t, at.b] = 1

    note_all = each_over(cell.gates, note, device_function)

    @device_function
    def clip_values(δ, bounds, at):
        note_all(δ, bounds, at)
        return bounded_all(δ, bounds.value)

    return clip_values


@cache
def square_of(count: int):
    """The device function square(δ, norm): Σ (δ/norm)² over the first `count` numbers of δ."""
    last = count - 1
    if last == 0:
        return device_function(lambda δ, norm: (δ[0] / norm) * (δ[0] / norm))
    others = square_of(last)
    return device_function(lambda δ, norm: others(δ, norm) + (δ[last] / norm) * (δ[last] / norm))


@cache
def times_of(count: int):
    """The device function (δ, by) -> the `count` numbers of δ times one."""
    return tuple_over(count, device_function(lambda k, δ, by: δ * by), device_function)


@once
def norm_clip_of(cell, number, clips: bool):
    """The device function clip_norm(call, t, b): the norm of δ of step t and sample b within its
    bound, by all threads of a block.
    """
    if not clips:
        return nothing
    _, gates, _, _, put_gates, _, _ = access(cell, device_function)
    square, shrinking, ZERO = square_of(cell.gates), formula(factor, number), number(0)
    ONE, APART, times = number(1), cell.apart, times_of(cell.gates)

    @device_function
    def clip_norm(call, t, b):
        n, thread = call.dp.shape[3], first_unit()
        squares = cuda.shared.array(THREADS, number)
        cuda.syncthreads()  # the step before has been summed
        total, j = ZERO, thread
        while j < n:
            total += square(gates(call.dp, At(t, b, j)), call.clip.norm)
            j += cuda.blockDim.x
        squares[thread] = total
        cuda.syncthreads()
        total, i = ZERO, 0
        while i < cuda.blockDim.x:
            total += squares[i]
            i += 1
        by = shrinking(total)
        if by != ONE:
            call.clip.beyond[t, b] = 1
            j = thread
            while j < n:
                at = At(t, b, j)
                put_gates(times(gates(call.dp, at), by), call.dp, at)
                if APART:
                    put_gates(times(gates(call.dq, at), by), call.dq, at)
                j += cuda.blockDim.x

    return clip_norm
