"""The recurrence, forward and back: each step a sweep of tiles, the cell as its epilogue."""

import math
import sys
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import types
from numba.core.errors import NumbaError

from ... import LIVE, RESET, UNCLIPPED
from ...binding import access, bind, compiled_maths, gather
from ...clipping import bounded, factor
from ...once import at_first, once
from . import simd
from .compilation import inlined, jit, within
from .memory import scratch
from .simd import LOAD, STORE, Vector, carve, fetch, flat, lanes, window
from .stored import keep
from .threads import ENOUGH, meet, share, threads_for
from .tiles import column_packer, layout, nothing, one, row_packer, slice_of, sweep_of

WORTH_MEETING = 2e4  # operations of a thread's share of one step
STAYS = 1 << 19  # bytes of W that stay in a core's cache from step to step
FEW = 12  # samples of a thread


@cache
def maths(number, vectors):
    module = compiled_maths(number, inlined)
    module.floor, module.ceil = np.floor, np.ceil  # math's are integers
    if vectors:
        module.floor, module.ceil = math.floor, math.ceil
        vars(module).update(simd.IN_PLACE_OF_PYTHONS)
    return module


@once
def formula(f, number, vectors=False):
    at_first(f)  # is what is compiled in from here on
    return bind(f, number, maths(number, vectors), inlined)


@once
def vectorized(cell, number) -> bool:
    """Can the cell be compiled on vectors? A formula that says `if` cannot."""
    v = Vector(types.float32 if number is np.float32 else types.float64)
    G, D, S, K = (cell.gates, cell.drawn, cell.states, cell.kept)
    try:
        formula(cell.step, number, True).compile(
            tuple(types.UniTuple(v, count) for count in (G + D, G, S))
        )
        formula(cell.back, number, True).compile(
            tuple(types.UniTuple(v, count) for count in (S, K, S, S))
        )
    except NumbaError:
        return False
    return True


def epilogues(make, ahead, cell, number, partial):
    """(ahead, whole, some, width) for sweep_of."""
    if not vectorized(cell, number):
        return ahead(cell), make(cell, number, "one", False), nothing, 1
    return (
        ahead(cell),
        make(cell, number, "whole", True),
        make(cell, number, "some", True) if partial else nothing,
        None,
    )


@within
def entered(flags, t, b):
    """Where in s the state stands that step t begins with."""
    return 0 if one(flags, (t, b), 1) & RESET else t


def advance_of(cell, number, how, vectors):
    """The cell's step for `count` units of sample b."""
    step, APART, load = formula(cell.step, number, vectors), cell.apart, LOAD[how]
    store = STORE[how]
    inputs, _, _, states, _, put_kept, put_states = access(cell, within, load, store)
    recurrent = within(
        gather(
            cell.gates,
            "q, i, v",
            "load(q, (i, {k}, v), 0)",
            load=LOAD["whole"] if vectors else load,
        )
    )
    bias = within(
        gather(
            cell.gates, "q, c, j, n, count", "q[{k}] + load(c, ({k} * n + j,), count)", load=load
        )
    )
    zero = within(gather(cell.kept, "", "0.0"))

    @within
    def advance(t, n, b, j, count, q, i, v, p, c, s, kept, flags):
        before = states(s, entered(flags, t, b), b, j, count)
        if one(flags, (t, b), 1) & LIVE:
            net = recurrent(q, i, v)
            if APART:
                net = bias(net, c, j, n, count)
            s_next, k = step(inputs(p, t, b, j, count), net, before)
            put_states(s, t + 1, b, j, count, s_next)
            put_kept(kept, t, b, j, count, k)
        else:
            put_states(s, t + 1, b, j, count, before)
            put_kept(kept, t, b, j, count, zero())

    return advance


def before_advance(cell):
    inputs, _, activations, states, *_ = access(cell, within, fetch, fetch)

    @within
    def ahead(t, n, b, j, p, c, s, kept, flags):
        inputs(p, t, b, j, 0)
        states(s, t, b, j, 0)
        states(s, t + 1, b, j, 0)
        activations(kept, t, b, j, 0)

    return ahead


def before_retreat(cell):
    _, gates, activations, states, *_ = access(cell, within, fetch, fetch)
    APART = cell.apart

    @within
    def ahead(t, n, b, j, last, dy, s, kept, flags, dp, dq, ds, ds0):
        fetch(dy, (t, b, j), 0)
        activations(kept, t, b, j, 0)
        states(s, t, b, j, 0)
        states(ds, 0, b, j, 0)
        gates(dp, t, b, j, 0)
        if APART:
            gates(dq, t, b, j, 0)

    return ahead


def retreat_of(cell, number, how, vectors):
    """The cell's step back for `count` units of sample b; q is what came through W from step
    t+1.
    """
    back, APART, load = formula(cell.back, number, vectors), cell.apart, LOAD[how]
    store = STORE[how]
    _, _, activations, states, put_gates, _, put_states = access(cell, within, load, store)
    add, add_output = (
        within(gather(cell.states, "d, x", f"d[{{k}}] + (x if {{k}} == {to} else 0.0)"))
        for to in (0, cell.output)
    )
    both = within(gather(cell.states, "a, b", "a[{k}] + b[{k}]"))
    none = within(gather(cell.states, "", "0.0"))
    zero, load_q = within(gather(cell.gates, "", "0.0")), LOAD["whole"] if vectors else load

    @within
    def retreat(t, n, b, j, count, q, i, v, last, dy, s, kept, flags, dp, dq, ds, ds0):
        through_W = add(states(ds, 0, b, j, count), load_q(q, (i, 0, v), count))
        if t < 0:
            through_W = both(states(ds0, 0, b, j, count), through_W)
        elif t < last and one(flags, (t + 1, b), 1) & RESET:
            put_states(ds0, 0, b, j, count, both(states(ds0, 0, b, j, count), through_W))
            put_states(ds, 0, b, j, count, none())
            through_W = states(ds, 0, b, j, count)
        if t >= 0 and one(flags, (t, b), 1) & LIVE:
            total = add_output(through_W, load(dy, (t, b, j), count))
            before = states(s, entered(flags, t, b), b, j, count)
            δp, δq, d = back(
                total, activations(kept, t, b, j, count), before, states(s, t + 1, b, j, count)
            )
            put_gates(dp, t, b, j, count, δp)
            if APART:
                put_gates(dq, t, b, j, count, δq)
            put_states(ds, 0, b, j, count, d)
        else:
            if t >= 0:
                put_gates(dp, t, b, j, count, zero())
                put_gates(dq, t, b, j, count, zero())
            put_states(ds, 0, b, j, count, through_W)

    return retreat


@once
def forward_kernel(cell, number, V, H, partial):
    STRIPS, units = cell.gates // H, V * lanes(number)
    pack = column_packer(number, cell.gates, V, H)
    sweep = sweep_of(
        number, cell.gates, V, H, *epilogues(advance_of, before_advance, cell, number, partial)
    )

    @jit
    def forward(p, weights, c, s, kept, flags, scratch, by_panels, arrived, part, parts):
        T, B, _, n = p.shape
        b0, b1 = (0, B) if by_panels else slice_of(B, part, parts)
        panels = -(-n // units)
        p0, p1 = slice_of(panels, part, parts) if by_panels else (0, panels)
        at = np.empty(B, np.intp)
        a, places, W, counter = flat(s), flat(at), flat(scratch), flat(arrived)
        rest = window(p), window(c), window(s), window(kept), window(flags)
        pack(
            window(weights),
            n,
            n,
            carve(W, 0, (panels * STRIPS, n, H, units)),
            *slice_of(panels, part, parts),
        )
        meet(counter, parts)
        for t in range(T):
            for b in range(b0, b1):
                at[b] = (entered(rest[-1], t, b) * B + b) * n
            sweep(t, n, a, places, 1, W, n * H * units, n, b0, b1, p0, p1, *rest)
            if by_panels:
                meet(counter, (t + 2) * parts)

    return keep(forward, cell, number, V, H, partial)


@cache
def clip_of(number, apart: bool):
    """(dp, dq, value, norm): δ of one step and sample, (G, n), within the bounds; both overwritten.
    Was it beyond?
    """
    bound, shrink, ZERO = formula(bounded, number), formula(factor, number), number(0)
    ONE = number(1)

    @within
    def each(δ, value):
        beyond = False
        for g in range(δ.shape[0]):
            for j in range(δ.shape[1]):
                beyond |= abs(δ[g, j]) > value
                δ[g, j] = bound(δ[g, j], value)
        return beyond

    @within
    def clip(dp, dq, value, norm):
        beyond, square = each(dp, value), ZERO
        if apart:
            beyond |= each(dq, value)
        for g in range(dp.shape[0]):
            for j in range(dp.shape[1]):
                square += (dp[g, j] / norm) * (dp[g, j] / norm)
        by = shrink(square)
        if by == ONE:
            return beyond
        for g in range(dp.shape[0]):
            for j in range(dp.shape[1]):
                dp[g, j] *= by
                if apart:
                    dq[g, j] *= by
        return True

    return clip


@once
def backward_kernel(cell, number, V, partial, clips):
    sweep = sweep_of(number, 1, V, 1, *epilogues(retreat_of, before_retreat, cell, number, partial))
    clip = clip_of(number, cell.apart) if clips else None
    units, pack = V * lanes(number), row_packer(number, V)

    @jit
    def backward(
        dy,
        weights,
        s,
        kept,
        flags,
        dp,
        dq,
        ds,
        ds0,
        value,
        norm,
        clipped,
        scratch,
        by_panels,
        arrived,
        part,
        parts,
    ):
        T, B, G, n = dp.shape
        b0, b1 = (0, B) if by_panels else slice_of(B, part, parts)
        panels = -(-n // units)
        p0, p1 = slice_of(panels, part, parts) if by_panels else (0, panels)
        at, size = np.empty(B, np.intp), G * n * units
        a, places, W, counter = flat(dq), flat(at), flat(scratch), flat(arrived)
        c0, c1 = slice_of(B, part, parts)
        rest = (
            T - 1,
            window(dy),
            window(s),
            window(kept),
            window(flags),
            window(dp),
            window(dq),
            window(ds),
            window(ds0),
        )
        pack(
            window(weights),
            0,
            G * n,
            0,
            n,
            carve(W, 0, (panels, G * n, 1, units)),
            *slice_of(panels, part, parts),
        )
        meetings = 1
        meet(counter, parts)
        for t in range(T - 1, -2, -1):
            for b in range(b0, b1):
                at[b] = ((t + 1) * B + b) * G * n
            sweep(t, n, a, places, 1, W, size, 0 if t == T - 1 else G * n, b0, b1, p0, p1, *rest)
            if by_panels:
                meetings += 1
                meet(counter, meetings * parts)
            if clips and t >= 0:
                for b in range(c0, c1):
                    clipped[part] += clip(dp[t, b], dq[t, b], value, norm)
                if by_panels:
                    meetings += 1
                    meet(counter, meetings * parts)

    return keep(backward, cell, number, V, partial, clips)


class Shares(NamedTuple):
    """Who does what of a call: threads share the samples, or the units, and then meet after every
    step.
    """

    threads: int
    by_panels: bool


ALONE = Shares(1, False)


def operations(cell, B: int, n: int) -> int:
    """Multiplications and additions of one step's product."""
    return 2 * B * cell.gates * n * n


def shares(cell, T: int, B: int, n: int, panels: int, dtype) -> Shares:
    """Samples where every thread has some tiles of them; units where a step is long enough for a
    meeting; else one thread.

    A thread that has samples reads all of W at every step, one that has units its part: with few
    samples that is worth meeting for, where W does not stay in a core's cache.
    """
    a_step = operations(cell, B, n)
    threads = threads_for(T * a_step, max(B // 4, panels))
    if threads == 1:
        return ALONE
    can_meet = a_step >= WORTH_MEETING * threads and panels >= threads
    large = cell.gates * n * n * dtype.itemsize > STAYS
    if 4 * threads <= B and not (can_meet and large and FEW * threads > B):
        return Shares(threads, False)
    return Shares(threads, True) if can_meet else ALONE


def sharing(cell, B: int, n: int, panels: int, dtype) -> str:
    """What `shares` says, for people."""
    way = shares(cell, sys.maxsize, B, n, panels, dtype)
    if way.threads == 1:
        return "one thread"
    least = math.ceil(ENOUGH / operations(cell, B, n))
    what = "units and meet after every step" if way.by_panels else "samples"
    return f"one thread; from T = {least} on {way.threads}, which share the {what}"


@once
def plan(cell, n: int, dtype, clips: bool | None):
    """(kernel, panels, numbers on its desk) for a layer of n units; `clips` is None on the way
    forward.
    """
    number, partial = dtype.type, n % lanes(dtype.type) != 0
    V, H = layout(cell.gates if clips is None else 1, n, number)
    kernel = (
        forward_kernel(cell, number, V, H, partial)
        if clips is None
        else backward_kernel(cell, number, V, partial, clips)
    )
    units = V * lanes(number)
    return kernel, -(-n // units), (n + units) * cell.gates * n


def forward(cell, p, W, c, s, kept, flags):
    """Carry s through time: s[:, t+1] = cell.step(p[t], W s[0, t] + c, s[:, t]).  式2.  Arguments:
    see reference.forward.
    """
    T, B, _, n = p.shape
    kernel, panels, numbers = plan(cell, n, p.dtype, None)
    way = shares(cell, T, B, n, panels, p.dtype)
    share(kernel, way.threads, p, W, c, s, kept, flags, scratch(numbers, p.dtype), way.by_panels)


def backward(cell, dy, W, c, s, kept, flags, dp, dq, ds, clip=UNCLIPPED) -> int:
    """Carry δ back through time (式3).  Arguments, and what is returned: see reference.backward."""
    T, B, _, n = dp.shape
    number, clips = dp.dtype.type, clip != UNCLIPPED
    kernel, panels, numbers = plan(cell, n, dp.dtype, clips)
    way, ds = shares(cell, T, B, n, panels, dp.dtype), ds.reshape(len(ds), 1, B, n)
    clipped = np.zeros(way.threads, np.int64)
    arrays = np.ascontiguousarray(dy), W, s, kept, flags, dp, dq, ds, np.zeros(ds.shape, number)
    desk = scratch(numbers, dp.dtype), way.by_panels
    share(kernel, way.threads, *arrays, number(clip.value), number(clip.norm), clipped, *desk)
    return sum(clipped.tolist()) if clips else 0
