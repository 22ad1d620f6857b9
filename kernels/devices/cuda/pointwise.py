"""One unit of one sample for one step, from and to global memory: what the schedules share that keep no state on the chip."""

from functools import cache

from ... import LIVE
from ...binding import access
from .launch import device_function, formula


@cache
def advance_of(cell, number):
    """The device function advance(p, q, s, kept, flags, t, b, j): step t of unit j of sample b, q its G recurrent inputs."""
    step, NOTHING = formula(cell.step, number), (number(0),) * cell.kept
    gates, _, states, _, put_kept, put_states = access(cell, device_function)

    @device_function
    def advance(p, q, s, kept, flags, t, b, j):
        if flags[t, b] & LIVE:
            s_next, k = step(gates(p, t, b, j), q, states(s, t, b, j))
            put_states(s, t + 1, b, j, s_next)
            put_kept(kept, t, b, j, k)
        else:
            put_states(s, t + 1, b, j, states(s, t, b, j))
            put_kept(kept, t, b, j, NOTHING)

    return advance


@cache
def retreat_of(cell, number):
    """The device function retreat(dy, s, kept, flags, dp, dq, ds, t, b, j): the step back, but for what passes through W."""
    back, APART, NOTHING = formula(cell.back, number), cell.apart, (number(0),) * cell.gates
    _, activations, states, put_gates, _, put_states = access(cell, device_function)

    @device_function
    def retreat(dy, s, kept, flags, dp, dq, ds, t, b, j):
        if flags[t, b] & LIVE:
            ds[0, 0, b, j] += dy[t, b, j]
            δp, δq, d = back(states(ds, 0, b, j), activations(kept, t, b, j), states(s, t, b, j), states(s, t + 1, b, j))
            put_gates(dp, t, b, j, δp)
            if APART:
                put_gates(dq, t, b, j, δq)
            put_states(ds, 0, b, j, d)
        else:
            put_gates(dp, t, b, j, NOTHING)
            if APART:
                put_gates(dq, t, b, j, NOTHING)

    return retreat
