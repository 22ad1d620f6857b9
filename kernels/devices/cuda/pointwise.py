"""One unit of one sample for one step, from and to global memory: what the schedules share that
keep no state on the chip.

Kernels that clip δ have `Bounds` as call.clip, others ().
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ... import LIVE, RESET, At
from ...binding.accessors import access
from ...binding.closures import tuple_of, tuple_over
from ...clipping import bounded
from ...once import once
from .launch import ROUND_TO, THREADS, cuda, device_function, formula
from .ptx import inverse_root
from .sums import over_threads


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


class Asked(NamedTuple):
    """Device functions of what is known of step t and sample b."""

    # (flags, s, t, b) -> where in s (S, T + 1, B, n) or (S, 2T + 1, B, n) the state stands that it
    # begins with
    entered: Callable
    live: Callable  # (flags, t, b) -> does it happen?
    begins: Callable  # (flags, t, b) -> does it begin anew?


@cache
def asked_of(masked: bool) -> Asked:
    """Where nothing is masked, flags is () and not looked at."""
    if not masked:
        return Asked(
            device_function(lambda flags, s, t, b: t),
            device_function(lambda flags, t, b: True),
            device_function(lambda flags, t, b: False),
        )

    @device_function
    def entered(flags, s, t, b):
        if not flags[t, b] & RESET:
            return t
        T = flags.shape[0]
        return T + 1 + t if s.shape[1] > T + 1 else 0

    return Asked(
        entered,
        device_function(lambda flags, t, b: (flags[t, b] & LIVE) != 0),
        device_function(lambda flags, t, b: (flags[t, b] & RESET) != 0),
    )


@once
def advance_of(cell, number, masked: bool):
    """The device function advance(at, q, call): the cell's step, of one unit; q is its recurrent
    input, G numbers.
    """
    entered, live, _ = asked_of(masked)
    step, NOTHING = formula(cell.step, number), (number(0),) * cell.kept
    inputs, _, _, states, _, put_kept, put_states = access(cell, device_function)

    @device_function
    def advance(at, q, call):
        before = states(call.s, At(entered(call.flags, call.s, at.t, at.b), at.b, at.j))
        after = At(at.t + 1, at.b, at.j)
        if live(call.flags, at.t, at.b):
            s_next, kept = step(inputs(call.p, at), q, before)
            put_states(s_next, call.s, after)
            put_kept(kept, call.kept, at)
        else:
            put_states(before, call.s, after)
            put_kept(NOTHING, call.kept, at)

    return advance


@once
def retreat_of(cell, number, clips: bool, masked: bool):
    """The device function retreat(at, call, carried): the cell's step back, of one unit, but for
    what passes through W.

    carried (S, 1, B, n) is dE/ds: of the states after the step, then of those before it.
    """
    back, APART, OUTPUT = formula(cell.back, number), cell.apart, cell.output
    NOTHING = (number(0),) * cell.gates
    _, _, activations, states, put_gates, _, put_states = access(cell, device_function)
    entered, live, _ = asked_of(masked)
    beyond, clamp = beyond_of(cell.gates), clamp_of(cell, number)

    @device_function
    def put_δ(δp, δq, call, at):
        put_gates(δp, call.dp, at)
        if APART:
            put_gates(δq, call.dq, at)

    @device_function
    def put_clipped(δp, δq, call, at):
        value = call.clip.value
        if beyond(δp, value) or (APART and beyond(δq, value)):
            call.clip.beyond[at.t, at.b] = 1
        put_δ(clamp(δp, value), clamp(δq, value), call, at)

    put_within_bounds = put_clipped if clips else put_δ

    @device_function
    def retreat(at, call, carried):
        t, b, j = at
        if live(call.flags, t, b):
            now = At(0, b, j)
            carried[OUTPUT, 0, b, j] += call.dy[t, b, j]
            before = states(call.s, At(entered(call.flags, call.s, t, b), b, j))
            after = states(call.s, At(t + 1, b, j))
            δp, δq, d = back(states(carried, now), activations(call.kept, at), before, after)
            put_within_bounds(δp, δq, call, at)
            put_states(d, carried, now)
        else:
            put_δ(NOTHING, NOTHING, call, at)

    return retreat


@once
def cut_of(cell, number):
    """The device function cut(carried, ds, t, b, j): dE/ds that arrives at the state with which
    step t begins anew, or the first, is added to its gradient, and nothing of it goes further back.
    """
    _, _, _, states, _, _, put_states = access(cell, device_function)
    NOTHING = (number(0),) * cell.states
    sums = tuple_of(cell.states, device_function(lambda k, a, b: a[k] + b[k]), device_function)

    @device_function
    def cut(carried, ds, t, b, j):
        given = ds.shape[1] > 1 and t > 0
        at, now = At(1 + t if given else 0, b, j), At(0, b, j)
        put_states(sums(states(ds, at), states(carried, now)), ds, at)
        put_states(NOTHING, carried, now)

    return cut


@device_function
def nothing(*arguments):
    """What a kernel that does not clip does instead."""


@once
def clamp_of(cell, number):
    """The device function (δ, bound) -> the G numbers of one unit, each within [−bound, bound]."""
    bound = formula(bounded, number)
    one = device_function(lambda k, δ, value: bound(δ, value))
    return tuple_over(cell.gates, one, device_function)


@cache
def beyond_of(count: int):
    """The device function (δ, bound) -> is one of the `count` numbers of δ beyond it?"""
    last = count - 1
    if last == 0:
        return device_function(lambda δ, bound: abs(δ[0]) > bound)
    others = beyond_of(last)
    return device_function(lambda δ, bound: others(δ, bound) or abs(δ[last]) > bound)


@cache
def sum_over(count: int):
    """The device function (values) -> the sum of the first `count` of them."""
    last = count - 1
    if last == 0:
        return device_function(lambda values: values[0])
    others = sum_over(last)
    return device_function(lambda values: others(values) + values[last])


@cache
def square_of(count: int):
    """The device function square(δ, per_norm): Σ (δ · per_norm)² over the first `count` numbers of
    δ.
    """
    last = count - 1
    one = device_function(lambda a: a * a)
    if last == 0:
        return device_function(lambda δ, per_norm: one(δ[0] * per_norm))
    others = square_of(last)
    return device_function(lambda δ, per_norm: others(δ, per_norm) + one(δ[last] * per_norm))


@cache
def shrink_of(number):
    """The device function `clipping.factor`, with the card's own 1/√: by IEEE's root and quotient,
    which ask for subnormal numbers, it takes ten times as many instructions.
    """
    ZERO, ONE = number(0), number(1)

    @device_function
    def shrink(square):
        return inverse_root(square) + ZERO * square if square > ONE else ONE  # NaN if it overflows

    return shrink


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
    square, shrinking, ZERO = square_of(cell.gates), shrink_of(number), number(0)
    ONE, APART, times = number(1), cell.apart, times_of(cell.gates)
    PARTS = THREADS // ROUND_TO

    @device_function
    def clip_norm(call, t, b):
        n, thread = call.dp.shape[3], first_unit()
        squares = cuda.shared.array(PARTS, number)
        cuda.syncthreads()  # the step before has been summed
        total, j = ZERO, thread
        while j < n:
            total += square(gates(call.dp, At(t, b, j)), call.clip.per_norm)
            j += cuda.blockDim.x
        total = over_threads(total, 1, ROUND_TO)
        if thread % ROUND_TO == 0:
            squares[thread // ROUND_TO] = total
        cuda.syncthreads()
        total, i = ZERO, 0
        while i < cuda.blockDim.x // ROUND_TO:
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
