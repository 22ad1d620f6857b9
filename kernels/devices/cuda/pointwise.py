"""One unit of one sample for one step, from and to global memory: what the schedules share that
keep no state on the chip.
"""

from numba import cuda

from ... import LIVE, RESET
from ...binding.text import access, define, gather, repeat
from ...clipping import bounded, factor
from ...once import once
from .launch import THREADS, device_function, formula


@device_function
def entered(flags, t, b):
    """Where in s the state stands that step t begins with."""
    return 0 if flags[t, b] & RESET else t


@once
def advance_of(cell, number):
    """The device function advance(p, q, s, kept, flags, t, b, j): step t of unit j of sample b, q
    its G recurrent inputs.
    """
    step, NOTHING = formula(cell.step, number), (number(0),) * cell.kept
    inputs, _, _, states, _, put_kept, put_states = access(cell, device_function)

    @device_function
    def advance(p, q, s, kept, flags, t, b, j):
        before = states(s, entered(flags, t, b), b, j)
        if flags[t, b] & LIVE:
            s_next, k = step(inputs(p, t, b, j), q, before)
            put_states(s, t + 1, b, j, s_next)
            put_kept(kept, t, b, j, k)
        else:
            put_states(s, t + 1, b, j, before)
            put_kept(kept, t, b, j, NOTHING)

    return advance


@once
def retreat_of(cell, number, clips: bool):
    """The device function retreat(dy, s, kept, flags, dp, dq, ds, clip, t, b, j): the step back,
    but for what passes through W.
    """
    back, APART, OUTPUT = formula(cell.back, number), cell.apart, cell.output
    NOTHING = (number(0),) * cell.gates
    _, _, activations, states, put_gates, _, put_states = access(cell, device_function)
    limited = limit_of(cell, number, clips)

    @device_function
    def retreat(dy, s, kept, flags, dp, dq, ds, clip, t, b, j):
        if flags[t, b] & LIVE:
            ds[OUTPUT, 0, b, j] += dy[t, b, j]
            before = states(s, entered(flags, t, b), b, j)
            δp, δq, d = back(
                states(ds, 0, b, j), activations(kept, t, b, j), before, states(s, t + 1, b, j)
            )
            put_gates(dp, t, b, j, limited(δp, clip, t, b))
            if APART:
                put_gates(dq, t, b, j, limited(δq, clip, t, b))
            put_states(ds, 0, b, j, d)
        else:
            put_gates(dp, t, b, j, NOTHING)
            if APART:
                put_gates(dq, t, b, j, NOTHING)

    return retreat


@once
def hand_over_of(cell, number):
    """The device function hand_over(now, ds, b, j): what is carried back arrives at the initial
    state, and nothing goes on.
    """
    _, _, _, states, _, _, put_states = access(cell, device_function)
    NOTHING = (number(0),) * cell.states
    sums = device_function(gather(cell.states, "a, b", "a[{k}] + b[{k}]"))

    @device_function
    def hand_over(now, ds, b, j):
        put_states(ds, 0, b, j, sums(states(ds, 0, b, j), states(now, 0, b, j)))
        put_states(now, 0, b, j, NOTHING)

    return hand_over


# Clipping. Kernels take clip = (value, norm, beyond), beyond (T, B) uint8 to be set where a step is
# clipped, or () if they do not clip.


@once
def limit_of(cell, number, clips: bool):
    """The device function limited(δ, clip, t, b): the G numbers of one unit within the bound of
    each.
    """
    if not clips:
        return device_function(define("same", "def same(δ, clip, t, b):\n    return δ\n"))
    each = device_function(
        gather(cell.gates, "δ, value", "bound(δ[{k}], value)", bound=formula(bounded, number))
    )

    @device_function
    def note(δ, value, beyond, t, b):
        if δ > value or δ < -value:
            beyond[t, b] = 1

    note_all = device_function(
        repeat(cell.gates, "δ, value, beyond, t, b", "note(δ[{k}], value, beyond, t, b)", note=note)
    )

    @device_function
    def limited(δ, clip, t, b):
        value, norm, beyond = clip
        note_all(δ, value, beyond, t, b)
        return each(δ, value)

    return limited


@once
def square_of(cell, number):
    """The device function square(δ, norm): Σ (δ/norm)² over the G numbers of one unit."""
    terms = " + ".join(f"(δ[{k}] / norm) * (δ[{k}] / norm)" for k in range(cell.gates))
    return device_function(define("square", f"def square(δ, norm):\n    return {terms}\n"))


@once
def shrink_of(cell, number, clips: bool):
    """The device function shrink(dp, dq, clip, t, b): the norm of δ of step t and sample b within
    its bound, by all threads of a block.
    """
    if not clips:
        return device_function(repeat(0, "dp, dq, clip, t, b", ""))
    _, gates, _, _, put_gates, _, _ = access(cell, device_function)
    square, shrinking, ZERO = square_of(cell, number), formula(factor, number), number(0)
    ONE, APART = number(1), cell.apart
    times = device_function(gather(cell.gates, "δ, by", "δ[{k}] * by"))

    @device_function
    def shrink(dp, dq, clip, t, b):
        value, norm, beyond = clip
        n, thread = dp.shape[3], cuda.threadIdx.x
        squares = cuda.shared.array(THREADS, number)
        cuda.syncthreads()  # the step before has been summed
        total, j = ZERO, thread
        while j < n:
            total += square(gates(dp, t, b, j), norm)
            j += cuda.blockDim.x
        squares[thread] = total
        cuda.syncthreads()
        total, i = ZERO, 0
        while i < cuda.blockDim.x:
            total += squares[i]
            i += 1
        by = shrinking(total)
        if by != ONE:
            beyond[t, b] = 1
            j = thread
            while j < n:
                put_gates(dp, t, b, j, times(gates(dp, t, b, j), by))
                if APART:
                    put_gates(dq, t, b, j, times(gates(dq, t, b, j), by))
                j += cuda.blockDim.x

    return shrink
