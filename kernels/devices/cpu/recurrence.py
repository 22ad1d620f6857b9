"""The recurrence, forward and back: each step a sweep of tiles, the cell as its epilogue."""

import math
import sys
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ... import LIVE, RESET, UNCLIPPED, At, Backward, Clip, Forward
from ...activations import gate
from ...binding import bind
from ...binding.accessors import access_by
from ...binding.closures import tuple_of, tuple_over
from ...binding.names import compiled_maths
from ...clipping import bounded, factor
from ...once import at_first, once
from ...private import NumbaError
from ...undisturbed import undisturbed
from . import simd
from .compilation import inlined, jit, within
from .memory import scratch
from .simd import Vector, lanes
from .stored import keep
from .threads import ENOUGH, barrier, share, threads_for
from .tiles import (
    Epilogues,
    Operands,
    Share,
    column_packer,
    in_pairs,
    layout,
    load_scalar,
    nothing,
    row_packer,
    slice_of,
    sweep_of,
    whole,
)
from .windows import LOAD, MASKED, STORE, carve, exchanged, flat, parted, prefetch, window

WORTH_BARRIER = 2e4  # operations of a thread's share of one step
STAYS = 1 << 19  # bytes of W that stay in a core's cache from step to step
FEW = 12  # samples of a thread


@cache
def maths(number, vectors):
    """What formulas find under `np` and `math`, on one number or on vectors of them."""
    module = compiled_maths(number, inlined)
    if vectors:
        vars(module).update(simd.IN_PLACE_OF_PYTHONS)
    else:
        vars(module).update(floor=np.floor, ceil=np.ceil)  # math's are integers
    return module


@once
def formula(f, number, vectors=False):
    """f as kernels of `number` call it, on one number or on vectors of them."""
    at_first(f)  # is what is compiled in from here on
    own = {gate: simd.gate} if vectors else {}
    return bind(f, number, maths(number, vectors), inlined, own)


@once
def vectorized(cell, number) -> bool:
    """Can the cell be compiled on vectors? A formula that says `if` cannot."""
    v = Vector(types.float32 if number is np.float32 else types.float64)
    G, D, S, K = (cell.gates, cell.drawn, cell.states, cell.kept)
    try:
        steps = tuple(types.UniTuple(v, count) for count in (G + D, G, S))
        undisturbed(formula(cell.step, number, True).compile, steps)
        backs = tuple(types.UniTuple(v, count) for count in (S, K, S, S))
        undisturbed(formula(cell.back, number, True).compile, backs)
    except NumbaError:
        return False
    return True


def epilogues(make, ahead, cell, number, V: int, partial: bool) -> Epilogues:
    """Of a cell on vectors, or on one number at a time where its formulas are not for vectors; V
    vectors a panel.

    Two registers' numbers at a time, where there are registers enough: the chain of operations of
    one is worked on while the other's waits.
    """
    if not vectorized(cell, number):
        return Epilogues(make(cell, number, "scalar", False), nothing, ahead(cell), 1)
    how, width = ("pair", 2 * lanes(number)) if in_pairs(V) else ("vector", lanes(number))
    masked = make(cell, number, MASKED[how], True) if partial else nothing
    return Epilogues(make(cell, number, how, True), masked, ahead(cell), width)


class Begin(NamedTuple):
    """Where in s states stand that follow no step; 0 where there are none."""

    given: Any  # those that are given, for every step
    parts: Any  # those that the parts of one sequence begin with: see kernels.Forward
    T: Any


@within
def entered(flags, begin, t, b):
    """Where in s, whose sample b is looked at, the state stands that step t begins with."""
    if load_scalar(flags, (t, b), 1) & RESET:
        return begin.given + t if begin.given > 0 else 0
    if t == 0 and begin.parts > 0:
        return begin.parts + b - b * begin.T
    return t


@within
def begin_in(s, T, in_parts, parts):
    """The Begin of s; parts: see there."""
    given = not in_parts and s.shape[1] > T + 1
    return Begin(T + 1 if given else 0, parts if in_parts else 0, T)


@within
def rows_of(T, B, in_parts):
    """(from step to step, from sample to sample): how many rows further numbers stand."""
    return (1, T) if in_parts else (B, 1)


def advance_of(cell, number, how, vectors):
    """The cell's step, an epilogue."""
    step, APART = formula(cell.step, number, vectors), cell.apart
    load, store = LOAD[how], STORE[how]
    load_sum = LOAD[whole(how)]
    inputs, _, _, states, _, put_kept, put_states = access_by(cell, within, load, store)
    sum_of = within(lambda k, tile: load_sum(tile.q, (tile.i, k, tile.v), 0))
    with_bias = within(lambda k, q, c, j, n, count: q + load(c, (k * n + j,), count))
    recurrent = tuple_of(cell.gates, sum_of, within)
    biased = tuple_over(cell.gates, with_bias, within)
    K = cell.kept

    @within
    def advance(at, n, count, tile, call, begin):
        before = states(call.s, At(entered(call.flags, begin, at.t, at.b), at.b, at.j), count)
        after = At(at.t + 1, at.b, at.j)
        if load_scalar(call.flags, (at.t, at.b), 1) & LIVE:
            net = recurrent(tile)
            if APART:
                net = biased(net, call.c, at.j, n, count)
            s_next, kept = step(inputs(call.p, at, count), net, before)
            put_states(s_next, call.s, after, count)
            put_kept(kept, call.kept, at, count)
        else:
            put_states(before, call.s, after, count)
            for k in range(K):
                store(call.kept, (at.t, at.b, k, at.j), count, 0.0)

    return advance


@within
def prefetch_states(s, at, S):
    for k in range(S):
        prefetch(s, (k, at.t, at.b, at.j), 0)


@within
def prefetch_gates(a, at, G):
    for k in range(G):
        prefetch(a, (at.t, at.b, k, at.j), 0)


def before_advance(cell):
    """What `advance` will ask for that is not in the cache from the step before, fetched ahead."""
    P = cell.gates + cell.drawn

    @within
    def prefetch_all(at, n, call, begin):
        prefetch_gates(call.p, at, P)

    return prefetch_all


def before_retreat(cell):
    """The same of `retreat`."""
    G, S, K, APART = cell.gates, cell.states, cell.kept, cell.apart

    @within
    def prefetch_all(at, n, call, last, ds0, begin):
        prefetch(call.dy, (at.t, at.b, at.j), 0)
        prefetch_gates(call.kept, at, K)
        prefetch_states(call.s, at, S)
        prefetch_gates(call.dp, at, G)
        if APART:
            prefetch_gates(call.dq, at, G)

    return prefetch_all


def retreat_of(cell, number, how, vectors):
    """The cell's step back, an epilogue whose sums are what came through W from step t + 1."""
    back, APART = formula(cell.back, number, vectors), cell.apart
    load, store = LOAD[how], STORE[how]
    load_sum = LOAD[whole(how)]
    _, _, activations, states, put_gates, _, put_states = access_by(cell, within, load, store)

    def adding_to(state):
        added = within(lambda k, d, x: d[k] + x if k == state else d[k])
        return tuple_of(cell.states, added, within)

    add = adding_to(0)
    add_output = add if cell.output == 0 else adding_to(cell.output)
    both = tuple_of(cell.states, within(lambda k, a, b: a[k] + b[k]), within)
    G, S = cell.gates, cell.states

    @within
    def retreat(at, n, count, tile, call, last, ds0, begin):
        t, b, j = at
        carried, flags = At(0, b, j), call.flags
        arrived = load_sum(tile.q, (tile.i, 0, tile.v), count)
        through_W = add(states(call.ds, carried, count), arrived)
        if t < 0:
            through_W = both(states(ds0, carried, count), through_W)
        elif t < last and load_scalar(flags, (t + 1, b), 1) & RESET:
            if begin.given > 0:
                put_states(through_W, call.ds, At(t + 2, b, j), count)
            else:
                put_states(both(states(ds0, carried, count), through_W), ds0, carried, count)
            for k in range(S):
                store(call.ds, (k, 0, b, j), count, 0.0)
            through_W = states(call.ds, carried, count)
        if t >= 0 and load_scalar(flags, (t, b), 1) & LIVE:
            total = add_output(through_W, load(call.dy, (t, b, j), count))
            before = states(call.s, At(entered(flags, begin, t, b), b, j), count)
            after = states(call.s, At(t + 1, b, j), count)
            δp, δq, d = back(total, activations(call.kept, at, count), before, after)
            put_gates(δp, call.dp, at, count)
            if APART:
                put_gates(δq, call.dq, at, count)
            put_states(d, call.ds, carried, count)
        else:
            if t >= 0:
                for g in range(G):
                    store(call.dp, (t, b, g, j), count, 0.0)
                    store(call.dq, (t, b, g, j), count, 0.0)
            put_states(through_W, call.ds, carried, count)

    return retreat


@once
def forward_kernel(cell, number, V, H, partial):
    """The kernel of a cell for panels of V vectors and H gates a strip; `partial` where units do
    not fill a vector.
    """
    STRIPS, units, pack = (
        cell.gates // H,
        V * lanes(number),
        column_packer(number, cell.gates, V, H),
    )
    by_cell = epilogues(advance_of, before_advance, cell, number, V, partial)
    sweep = sweep_of(number, cell.gates, V, H, by_cell)

    @jit
    def forward(arrays, in_parts, scratch, by_panels, arrived, part, parts):
        """`Device.forward`, one of `parts` shares of it.

        arrays     the fields of a Forward but for `masked`, with s (S, ·, 1, n) where in_parts
        in_parts   are samples the parts of one sequence?
        scratch    for W, which all parts pack in panels
        by_panels  do parts have panels of units, with a barrier after every step; else samples
        arrived    the counter of barriers
        """
        given = Forward(*arrays)
        (T, B), n = given.flags.shape, given.W.shape[1]
        b0, b1 = (0, B) if by_panels else slice_of(B, part, parts)
        panels = -(-n // units)
        p0, p1 = slice_of(panels, part, parts) if by_panels else (0, panels)
        at = np.empty(B, np.intp)
        a, places, W, counter = flat(given.s), flat(at), flat(scratch), flat(arrived)
        weights, flags = window(given.W), window(given.flags)
        s, c = parted(window(given.s), in_parts, T), window(given.c)
        p, kept = exchanged(window(given.p), in_parts), exchanged(window(given.kept), in_parts)
        call = Forward(p, weights, c, s, kept, flags)
        own, begin = slice_of(panels, part, parts), begin_in(given.s, T, in_parts, B * T + 1)
        every, apart = rows_of(T, B, in_parts)
        pack(weights, n, n, carve(W, 0, (panels * STRIPS, n, H, units)), *own)
        barrier(counter, parts)
        for t in range(T):
            for b in range(b0, b1):
                at[b] = (entered(flags, begin, t, b) * every + b * apart) * n
            operands = Operands(a, places, 1, W, n * H * units, n)
            sweep(t, n, operands, Share(b0, b1, p0, p1), call, begin)
            if by_panels:
                barrier(counter, (t + 2) * parts)

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
    """The kernel of a cell's way back for panels of V vectors; `clips` where δ is bounded."""
    by_cell = epilogues(retreat_of, before_retreat, cell, number, V, partial)
    sweep = sweep_of(number, 1, V, 1, by_cell)
    clip = clip_of(number, cell.apart) if clips else nothing
    units, pack = V * lanes(number), row_packer(number, V)

    @jit
    def backward(arrays, ds0, lies, scratch, by_panels, arrived, part, parts):
        """`Device.backward`, one of `parts` shares of it; arguments beside these see `forward`.

        arrays  the fields of a Backward but for `masked`, with ds (S, 1, B, n) or (S, 1 + T, B, n),
                and as clip its bounds and (parts,) counts of steps that were clipped
        ds0     (S, 1, B, n) zeros: what arrives at the initial state where samples begin anew
        lies    a Lies
        """
        given, (by_samples, in_parts) = Backward(*arrays), lies
        (T, B), (_, _, G, n) = given.flags.shape, given.dp.shape
        b0, b1 = (0, B) if by_panels else slice_of(B, part, parts)
        panels = -(-n // units)
        p0, p1 = slice_of(panels, part, parts) if by_panels else (0, panels)
        at, size = np.empty(B, np.intp), G * n * units
        a, places, W, counter = flat(given.dq), flat(at), flat(scratch), flat(arrived)
        c0, c1 = slice_of(B, part, parts)
        value, norm, clipped = given.clip
        dy, weights = exchanged(window(given.dy), by_samples), window(given.W)
        s, kept = parted(window(given.s), in_parts, T), exchanged(window(given.kept), in_parts)
        flags, ds = window(given.flags), window(given.ds)
        dp, dq = exchanged(window(given.dp), in_parts), exchanged(window(given.dq), in_parts)
        # of windows alone: an array within it would be counted at every step of every unit
        call, initial = Backward(dy, weights, s, kept, flags, dp, dq, ds, ()), window(ds0)
        # parts of one sequence begin where those before end
        own, begin = slice_of(panels, part, parts), begin_in(given.s, T, in_parts, 0)
        every, apart = rows_of(T, B, in_parts)
        pack(weights, 0, G * n, 0, n, carve(W, 0, (panels, G * n, 1, units)), *own)
        barriers = 1
        barrier(counter, parts)
        for t in range(T - 1, -2, -1):
            for b in range(b0, b1):
                at[b] = ((t + 1) * every + b * apart) * G * n
            operands = Operands(a, places, 1, W, size, 0 if t == T - 1 else G * n)
            sweep(t, n, operands, Share(b0, b1, p0, p1), call, T - 1, initial, begin)
            if by_panels:
                barriers += 1
                barrier(counter, barriers * parts)
            if clips and t >= 0:
                for b in range(c0, c1):
                    clipped[part] += clip(given.dp[t, b], given.dq[t, b], value, norm)
                if by_panels:
                    barriers += 1
                    barrier(counter, barriers * parts)

    return keep(backward, cell, number, V, partial, clips)


class Shares(NamedTuple):
    """Who does what of a call: threads share the samples, or the units, with a barrier after every
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
    can_meet = a_step >= WORTH_BARRIER * threads and panels >= threads
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


# Measured, one thread, Elman, GRU and LSTM of 32 to 256 units: how much more a step of 1, 2, …
# samples costs than their share of one of 6 or more, by the operations of a sample. A tile of few
# rows loads W for each; a small W is at hand.
FULLER = (
    (1 << 14, (1.5, 1.2, 1.2, 1.05, 1.05)),
    (1 << 16, (1.7, 1.15, 1.2, 1.05, 1.05)),
    (None, (1.9, 1.15, 1.4, 1.03, 1.15)),
)
CELL = 0.7  # nanoseconds of what a gate of one unit asks beside the product
MEETING = 350  # nanoseconds until all have met
OPERATIONS = 100  # of a thread in a nanosecond


def cost(cell, n, B, dtype, precision="fp32"):
    return cost_on(threads_for(sys.maxsize, sys.maxsize), cell, n, B, np.dtype(dtype))


@once
def cost_on(threads: int, cell, n: int, B: int, dtype) -> float:
    """`Device.cost`, where so many threads are at hand."""
    V, _ = layout(cell.gates, n, dtype.type, B)
    way = shares(cell, sys.maxsize, B, n, -(-n // (V * lanes(dtype.type))), dtype)
    rows = B if way.by_panels else -(-B // way.threads)
    one = operations(cell, 1, n)
    more = next(more for most, more in FULLER if most is None or one < most)
    share = rows * (one / OPERATIONS + CELL * cell.gates * n)
    share *= more[rows - 1] if 0 < rows <= len(more) else 1.0
    return 2 * (share / way.threads + MEETING if way.by_panels else share)


def plan(cell, n: int, dtype, clips: bool | None, B: int):
    """(kernel, panels, numbers on its desk) for B samples of a layer of n units; `clips` is None on
    the way forward.
    """
    gates = cell.gates if clips is None else 1
    return planned(cell, n, dtype, clips, layout(gates, n, dtype.type, B))


@once
def planned(cell, n: int, dtype, clips: bool | None, V_and_H: tuple[int, int]):
    number, (V, H) = dtype.type, V_and_H
    partial = n % (lanes(number) * (2 if in_pairs(V) else 1)) != 0
    kernel = (
        forward_kernel(cell, number, V, H, partial)
        if clips is None
        else backward_kernel(cell, number, V, partial, clips)
    )
    units = V * lanes(number)
    return kernel, -(-n // units), (n + units) * cell.gates * n


class Lies(NamedTuple):
    """How arrays of the way back lie."""

    by_samples: bool  # dy (B, T, n)
    in_parts: bool  # samples are the parts of one sequence


def forward(cell, call: Forward, precision="fp32"):
    share(*forward_call(cell, call, scratch))


def forward_call(cell, call: Forward, scratch) -> tuple:
    """What `share` is told: (kernel, how many threads, *arguments).

    scratch  see memory.scratch
    """
    (T, B), n, in_parts = call.flags.shape, call.W.shape[1], call.s.ndim == 3
    dtype = call.p.dtype
    kernel, panels, numbers = plan(cell, n, dtype, None, B)
    way = shares(cell, T, B, n, panels, dtype)
    arrays = call._replace(s=call.s[:, :, None])[:-1] if in_parts else call[:-1]
    return kernel, way.threads, arrays, in_parts, scratch(numbers, dtype), way.by_panels


def backward(cell, call: Backward, precision="fp32"):
    shared = backward_call(cell, call, scratch)
    share(*shared)
    clipped = shared[2][-1][-1]
    return 0 if call.clip == UNCLIPPED else sum(clipped.tolist())


def backward_call(cell, call: Backward, scratch, clipped=None) -> tuple:
    """What `share` is told: see `forward_call`.

    clipped  (threads,) int64, at least as many as share the call: how many steps each has clipped
             is added to it; None is an array of the call's own, the last number of its `arrays`
    """
    (T, B), n, in_parts = call.flags.shape, call.W.shape[1], call.s.ndim == 3
    dtype, clip = call.dp.dtype, call.clip
    number, clips = dtype.type, clip != UNCLIPPED
    kernel, panels, numbers = plan(cell, n, dtype, clips, B)
    way = shares(cell, T, B, n, panels, dtype)
    ds = call.ds if call.ds.ndim == 4 else call.ds.reshape(len(call.ds), 1, B, n)
    bounds = unbounded(number)
    if clips:
        clipped = np.zeros(way.threads, np.int64) if clipped is None else clipped
        bounds = bounds_of(clip, number, clipped)
    dy, by_samples = in_a_row(call.dy)
    s = call.s[:, :, None] if in_parts else call.s
    arrays = (dy, call.W, s, *call[3:-3], ds, bounds)
    ds0, lies = np.zeros((len(ds), 1, B, n), number), Lies(by_samples, in_parts)
    return kernel, way.threads, arrays, ds0, lies, scratch(numbers, dtype), way.by_panels


def in_a_row(dy) -> tuple[np.ndarray, bool]:
    """dE/dy (T, B, n) contiguous, and False; or without a copy (B, T, n), and True, where sample
    stands behind sample.
    """
    turned = dy.swapaxes(0, 1)
    if turned.flags.c_contiguous and not dy.flags.c_contiguous:
        return turned, True
    return np.ascontiguousarray(dy), False


def bounds_of(clip: Clip, number, clipped):
    """(value, norm, how many steps each thread has clipped) as the kernel takes them."""
    return number(clip.value), number(clip.norm), clipped


@cache
def unbounded(number):
    """The same where nothing is clipped: made once, as no kernel writes it."""
    return bounds_of(UNCLIPPED, number, np.zeros(1, np.int64))
