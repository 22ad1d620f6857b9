"""The block schedule: W of one SM's size on the chip, a slice of the batch a block, all T steps in
one launch.

A unit is `lanes` neighbouring threads, which all have the sums of sums.py and take the step
themselves; the first of them writes. The state of the block's samples stands in shared memory,
twice, so that one barrier a step is enough: a step reads one half and writes the other, and none
writes a half again before all have read it and come to the barrier between.

What the next step needs from global memory is loaded before the sums of this one, and what later
steps need is fetched to the L2 cache. After the last step there is no next: that one is loaded
again, which costs less than to ask. Arrays are followed by tracks (tracks.py), and where no step is
masked, flags are not looked at: `Forward.flags` is () then.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ... import LIVE, RESET, Backward, Forward
from ...binding.closures import each, each_over, tuple_of
from ...once import once
from .compiled import factory
from .contract import Choice, Problem
from .launch import cuda, device_function, formula, launch
from .plans import QUAD, Plan, cycles, fitting
from .pointwise import beyond_of, clamp_of, nothing, shrink_of, square_of, sum_over, times_of
from .ptx import prefetch, put_shared, quad, shared_place
from .sums import halves_of, other, over_threads, sums_of, thread_of
from .tracks import ABSENT, Along, apart, beside, state_start

name = "block"
RESET_AFTER = RESET << 1  # of a step's flags in registers: the step after it began anew
AHEAD = 4  # steps between one and that whose numbers are fetched to L2
LINE = 128  # bytes that are fetched at once
NEVER = 2**31 - 1  # more steps than there are


class ForwardArrays(NamedTuple):
    """Of a thread of the way forward: tracks, or places on them."""

    p: Any
    flags: Any  # () where no step is masked
    s: Any
    kept: Any


class ForwardRegisters(NamedTuple):
    """What a thread of the way forward keeps in registers of its unit, for every sample."""

    s: Any  # (samples · S,) states
    c: Any  # (G,) bias of the recurrent side, of a cell that is `apart`
    p: Any  # (samples · (G + D),) input side of this step
    flags: Any  # (samples,) of this step
    next_p: Any  # of the next step, prefetched
    next_flags: Any


class BackArrays(NamedTuple):
    """Of a thread of the way back: tracks, or places on them."""

    dy: Any
    flags: Any  # () where no step is masked
    kept: Any
    s: Any
    dp: Any
    dq: Any  # dp again, of a cell that is not `apart`
    beyond: Any  # of a call that clips; else ()


class BackRegisters(NamedTuple):
    """What a thread of the way back keeps in registers of its unit, for every sample."""

    ds: Any  # (samples · S,) dE/ds
    s_after: Any  # (samples · S,) states after the step
    prefetched: Any  # (samples · (1 + K + S),) dy of a step, what is kept of it, states before it
    flags: Any  # (samples,) of the same step, RESET_AFTER among them
    δ: Any  # (samples · G,) of the input side, where it is clipped: written once it has been
    δq: Any  # of the recurrent side, likewise
    beyond: Any  # (samples,) is a number of them beyond its bound?
    square: Any  # (samples,) Σ (δ/bound)² of the unit


class Line(NamedTuple):
    """The 128 bytes of each step that a thread fetches to L2 for its block."""

    step: Any  # from those of a step to those of the next
    few: Any  # so few steps are left that there is none to fetch; all are few where it has no line


@device_function
def earlier_of(a, b):
    return a if a < b else b


@device_function
def get(k, a, base):
    return a[base + k]


@device_function
def put(k, value, a, base):
    a[base + k] = value


@cache
def numbers_in(count: int):
    """The functions (a, base) -> `count` numbers of registers, and (values, a, base) back."""
    return tuple_of(count, get, device_function), each_over(count, put, device_function)


@cache
def within_of(plan: Plan):
    """The device function (r, B, thread): does this thread have a unit, and a sample r?"""
    n, full, one = plan.n, plan.full, plan.samples == 1

    @device_function
    def within(r, B, thread):
        return (full or thread.j < n) and (one or thread.first + r < B)

    return within


@cache
def lines_of(plan: Plan, itemsize: int):
    """The device function (numbers, B, thread) -> the lines of so many numbers a unit that this
    block reads in a step.
    """
    samples, n, line = plan.samples, plan.n, LINE // itemsize

    @device_function
    def lines(numbers, B, thread):
        return (earlier_of(samples, B - thread.first) * numbers * n + line - 1) // line

    return lines


@factory
def forward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.forward`."""
    G, S, P, K = cell.gates, cell.states, cell.gates + cell.drawn, cell.kept
    n, samples, width, CHAINS = plan.n, plan.samples, plan.width, plan.chains
    APART, MASKED, ITEMS = cell.apart, plan.masked, LINE // number().itemsize
    step, (load_weights, sums) = formula(cell.step, number), sums_of(plan, number)
    WEIGHTS, SUMS = plan.weights, plan.sums
    this_thread, within, halves = thread_of(plan, number), within_of(plan), halves_of(plan)
    STATES, INPUTS, ZERO, NOTHING = samples * S, samples * P, number(0), (number(0),) * K
    inputs, activations, states = beside(P, n), beside(K, n), apart(S, n)
    flags, lines = beside(1, 1) if MASKED else ABSENT, lines_of(plan, number().itemsize)
    inputs_in, put_inputs_in = numbers_in(P)
    states_in, put_states_in = numbers_in(S)

    @device_function
    def recurrent_input(k, thread, registers, r):
        q = thread.total[(r * G + k) * CHAINS]
        return q + registers.c[k] if APART else q

    recurrent = tuple_of(G, recurrent_input, device_function)

    @device_function
    def tracks_of(call):
        B = call.p.shape[1]
        return ForwardArrays(
            inputs.track(call.p, B),
            flags.track(call.flags, B),
            states.track(call.s, B),
            activations.track(call.kept, B),
        )

    @device_function
    def beginning(call, thread):
        """The places of the first step."""
        b, j = thread.first, thread.j
        return ForwardArrays(
            inputs.start(call.p, 0, b, j),
            flags.start(call.flags, 0, b, 0),
            states.start(call.s, 1, b, j),
            activations.start(call.kept, 0, b, j),
        )

    @device_function
    def reads_onward(at, more, tracks):
        p, flag = inputs.onward(at.p, more, tracks.p), flags.onward(at.flags, more, tracks.flags)
        return ForwardArrays(p, flag, at.s, at.kept)

    @device_function
    def writes_onward(at, tracks):
        s, kept = (
            states.onward(at.s, True, tracks.s),
            activations.onward(at.kept, True, tracks.kept),
        )
        return ForwardArrays(at.p, at.flags, s, kept)

    @device_function
    def initial(r, call, tracks, thread):
        """The states before the first step."""
        return states.numbers(states.start(call.s, 0, thread.first, thread.j), tracks.s, r)

    @device_function
    def load_flag(r, at, tracks, registers):
        (registers.next_flags[r],) = flags.numbers(at.flags, tracks.flags, r)

    load_flags = load_flag if MASKED else nothing

    @device_function
    def load_next(r, at, tracks, registers):
        put_inputs_in(inputs.numbers(at.p, tracks.p, r), registers.next_p, r * P)
        load_flags(r, at, tracks, registers)

    @device_function
    def begin(r, call, at, tracks, thread, registers):
        """The initial state, and the first step's inputs."""
        if within(r, call.p.shape[1], thread):
            put_states_in(initial(r, call, tracks, thread), registers.s, r * S)
            load_next(r, at, tracks, registers)
            if thread.lane == 0:
                put_shared(thread.shared, thread.out, r * width, registers.s[r * S])

    @device_function
    def take(r, call, at, tracks, thread, registers):
        """What was loaded before is of this step now; load the next one's."""
        put_inputs_in(inputs_in(registers.next_p, r * P), registers.p, r * P)
        registers.flags[r] = registers.next_flags[r]
        if within(r, call.p.shape[1], thread):
            load_next(r, at, tracks, registers)

    @device_function
    def advance(r, out, call, at, tracks, thread, registers):
        """The cell's step, of one unit and sample."""
        if within(r, call.p.shape[1], thread):
            kept = NOTHING
            if not MASKED or registers.flags[r] & LIVE:
                q, before = recurrent(thread, registers, r), states_in(registers.s, r * S)
                s_next, kept = step(inputs_in(registers.p, r * P), q, before)
                put_states_in(s_next, registers.s, r * S)
            if thread.lane == 0:
                activations.put(kept, at.kept, tracks.kept, r)
                states.put(states_in(registers.s, r * S), at.s, tracks.s, r)
            if MASKED and registers.next_flags[r] & RESET:
                put_states_in(initial(r, call, tracks, thread), registers.s, r * S)
            if thread.lane == 0:
                put_shared(thread.shared, out, r * width, registers.s[r * S])

    begin_all = each(samples, begin, device_function)
    take_all = each(samples, take, device_function)
    advance_all = each(samples, advance, device_function)

    @device_function
    def few_left(call, thread):
        return AHEAD if cuda.threadIdx.x < lines(P, call.p.shape[1], thread) else NEVER

    @cuda.jit(launch_bounds=plan.threads)
    def forward(call: Forward):
        """A block has plan.shared numbers of dynamic shared memory."""
        weights, total = cuda.local.array(WEIGHTS, number), cuda.local.array(SUMS, number)
        T, thread = call.p.shape[0], this_thread(weights, total)
        registers = ForwardRegisters(
            cuda.local.array(STATES, number),
            cuda.local.array(G, number),
            cuda.local.array(INPUTS, number),
            cuda.local.array(samples, np.int32),
            cuda.local.array(INPUTS, number),
            cuda.local.array(samples, np.int32),
        )
        tracks, at, few = tracks_of(call), beginning(call, thread), few_left(call, thread)
        line = inputs.start(call.p, AHEAD, thread.first, cuda.threadIdx.x * ITEMS)
        load_weights(call.W, False, thread)
        cuda.syncthreads()
        if APART:
            for g in range(G):
                registers.c[g] = call.c[g * n + thread.j] if thread.j < n else ZERO
        begin_all(call, at, tracks, thread, registers)
        cuda.syncthreads()
        x, xs, outs = thread.x, halves(thread.shared, thread.x), halves(thread.shared, thread.out)
        out, left = other(outs, thread.out), np.int32(T)
        while left > 0:
            more = left > 1
            at = reads_onward(at, more, tracks)
            take_all(call, at, tracks, thread, registers)
            if left > few:
                prefetch(line)
            line += tracks.p.step
            sums(thread, x)
            advance_all(out, call, at, tracks, thread, registers)
            cuda.syncthreads()  # the next step reads every unit
            at = writes_onward(at, tracks)
            x, out, left = other(xs, x), other(outs, out), np.int32(left - 1)

    return forward


@cache
def marks_of(clips: bool) -> Along:
    """Of Bounds, whose `beyond` has a number for each step and sample; of none where nothing is
    clipped.
    """
    if not clips:
        return ABSENT
    marks = beside(1, 1)
    track = device_function(lambda bounds, B: marks.track(bounds.beyond, B))
    start = device_function(lambda bounds, t, b, j: marks.start(bounds.beyond, t, b, j))
    return marks._replace(track=track, start=start)


@once
def norm_clip_of(cell, number, plan: Plan):
    """The device functions (put_squares, clip_norms): Σ (δ/bound)² of a step and sample by parts to
    shared memory; after a barrier, the norm within its bound, and δ written.

    What has gone through W is scaled by the same factor, rather than δ before: so there is no
    second barrier.
    """
    if not plan.clips:
        return nothing, nothing
    G, lanes, samples, chains = cell.gates, plan.lanes, plan.samples, plan.chains
    together, squares, first = plan.together, plan.squares, plan.samples * plan.width
    PARTS, QUADS, APART = together // lanes, squares // (QUAD * lanes), cell.apart
    ONE, shrink, times = number(1), shrink_of(number), times_of(G)
    gates, (gates_in, _), within = beside(G, plan.n), numbers_in(G), within_of(plan)
    marks = marks_of(True)

    @device_function
    def put_square(r, part, thread, registers):
        total = over_threads(registers.square[r], lanes, PARTS)
        if cuda.threadIdx.x % together == 0:
            put_shared(thread.shared, part, first + r * squares, total)

    @device_function
    def sum_of_quad(q, r, x, thread):
        a0, a1, a2, a3 = quad(thread.shared, x, first + r * squares + q * QUAD * lanes)
        return (a0 + a1) + (a2 + a3)

    sums_of_quads, add_up = tuple_of(QUADS, sum_of_quad, device_function), sum_over(QUADS)

    @device_function
    def clip_norm(r, x, B, at, tracks, thread, registers):
        by = shrink(over_threads(add_up(sums_of_quads(r, x, thread)), 1, lanes))
        thread.total[r * chains] *= by
        if within(r, B, thread) and thread.lane == 0:
            gates.put(times(gates_in(registers.δ, r * G), by), at.dp, tracks.dp, r)
            if APART:
                gates.put(times(gates_in(registers.δq, r * G), by), at.dq, tracks.dq, r)
            if by != ONE or registers.beyond[r]:
                marks.put((np.uint8(1),), at.beyond, tracks.beyond, r)

    return each(samples, put_square, device_function), each(samples, clip_norm, device_function)


@factory
def backward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.backward`."""
    G, S, K, APART, OUTPUT = cell.gates, cell.states, cell.kept, cell.apart, cell.output
    n, samples, width, CHAINS = plan.n, plan.samples, plan.width, plan.chains
    MASKED, CLIPS, ITEMS = plan.masked, plan.clips, LINE // number().itemsize
    back, (load_weights, sums) = formula(cell.back, number), sums_of(plan, number)
    WEIGHTS, SUMS = plan.weights, plan.sums
    this_thread, within, halves = thread_of(plan, number), within_of(plan), halves_of(plan)
    put_squares, clip_norms = norm_clip_of(cell, number, plan)
    beyond, clamp, square = beyond_of(G), clamp_of(cell, number), square_of(G)
    STEP = 1 + K + S  # numbers of one step and sample that are prefetched
    STATES, PREFETCHED, GATES = samples * S, samples * STEP, samples * G if CLIPS else 1
    ZERO, NOTHING, NO_STATES = number(0), (number(0),) * G, (number(0),) * S
    outputs, activations, gates, states = beside(1, n), beside(K, n), beside(G, n), apart(S, n)
    flags, marks = beside(1, 1) if MASKED else ABSENT, marks_of(CLIPS)
    _, put_gates_in = numbers_in(G)
    kept_in, put_kept_in = numbers_in(K)
    states_in, put_states_in = numbers_in(S)
    lines, together = lines_of(plan, number().itemsize), plan.together
    both = tuple_of(S, device_function(lambda k, a, b: a[k] + b[k]), device_function)

    @device_function
    def put_gate_in_shared(k, δ, thread, out, r):
        put_shared(thread.shared, out, r * width + k * n, δ)

    put_gates_in_shared = each_over(G, put_gate_in_shared, device_function)

    @device_function
    def tracks_of(call):
        back = -call.dp.shape[1]
        return BackArrays(
            outputs.track(call.dy, back),
            flags.track(call.flags, back),
            activations.track(call.kept, back),
            states.track(call.s, back),
            gates.track(call.dp, back),
            gates.track(call.dq, back),
            marks.track(call.clip, back),
        )

    @device_function
    def beginning(call, thread):
        """The places of the last step."""
        t, b, j = call.dp.shape[0] - 1, thread.first, thread.j
        return BackArrays(
            outputs.start(call.dy, t, b, j),
            flags.start(call.flags, t, b, 0),
            activations.start(call.kept, t, b, j),
            states.start(call.s, t, b, j),
            gates.start(call.dp, t, b, j),
            gates.start(call.dq, t, b, j),
            marks.start(call.clip, t, b, 0),
        )

    @device_function
    def reads_onward(at, more, tracks):
        return BackArrays(
            outputs.onward(at.dy, more, tracks.dy),
            flags.onward(at.flags, more, tracks.flags),
            activations.onward(at.kept, more, tracks.kept),
            states.onward(at.s, more, tracks.s),
            at.dp,
            at.dq,
            at.beyond,
        )

    @device_function
    def writes_onward(at, tracks):
        return BackArrays(
            at.dy,
            at.flags,
            at.kept,
            at.s,
            gates.onward(at.dp, True, tracks.dp),
            gates.onward(at.dq, True, tracks.dq),
            marks.onward(at.beyond, True, tracks.beyond),
        )

    @device_function
    def load_flag(r, at, tracks, registers):
        (flag,) = flags.numbers(at.flags, tracks.flags, r)
        registers.flags[r] = flag | (registers.flags[r] & RESET) << 1

    load_flags = load_flag if MASKED else nothing

    @device_function
    def load_step(r, at, tracks, registers):
        base = r * STEP
        (registers.prefetched[base],) = outputs.numbers(at.dy, tracks.dy, r)
        kept = activations.numbers(at.kept, tracks.kept, r)
        put_kept_in(kept, registers.prefetched, base + 1)
        put_states_in(states.numbers(at.s, tracks.s, r), registers.prefetched, base + 1 + K)
        load_flags(r, at, tracks, registers)

    @device_function
    def begin(r, call, at, tracks, thread, registers):
        """dE/ds after the last step, and what that step needs."""
        registers.flags[r], registers.square[r] = 0, ZERO
        if within(r, call.dp.shape[1], thread):
            T, b, j = call.dp.shape[0], thread.first, thread.j
            ds, s = states.start(call.ds, 0, b, j), states.start(call.s, T, b, j)
            put_states_in(
                states.numbers(ds, states.track(call.ds, call.dp.shape[1]), r), registers.ds, r * S
            )
            put_states_in(states.numbers(s, tracks.s, r), registers.s_after, r * S)
            load_step(r, at, tracks, registers)

    @device_function
    def clear_ds(r, call, thread):
        """call.ds has been read; from here on it is the gradient of the initial state."""
        if within(r, call.dp.shape[1], thread) and thread.lane == 0:
            place = states.start(call.ds, 0, thread.first, thread.j)
            states.put(NO_STATES, place, states.track(call.ds, call.dp.shape[1]), r)

    @device_function
    def add_to_initial(r, call, thread, registers):
        """dE/ds that arrives at an initial state to its gradient."""
        if thread.lane == 0:
            ds, track = states_in(registers.ds, r * S), states.track(call.ds, call.dp.shape[1])
            place = states.start(call.ds, 0, thread.first, thread.j)
            if MASKED:
                ds = both(states.numbers(place, track, r), ds)
            states.put(ds, place, track, r)

    @device_function
    def put_δ(r, δp, δq, at, tracks):
        gates.put(δp, at.dp, tracks.dp, r)
        if APART:
            gates.put(δq, at.dq, tracks.dq, r)

    @device_function
    def clip_values(r, δp, δq, call, registers):
        """(δp, δq), each number within its bound; and what `clip_norm` needs."""
        value = call.clip.value
        registers.beyond[r] = beyond(δp, value) or (APART and beyond(δq, value))
        δp, δq = clamp(δp, value), clamp(δq, value)
        put_gates_in(δp, registers.δ, r * G)
        put_gates_in(δq, registers.δq, r * G)
        registers.square[r] = square(δp, call.clip.per_norm)
        return δp, δq

    within_bounds = (
        clip_values if CLIPS else device_function(lambda r, δp, δq, call, registers: (δp, δq))
    )

    @device_function
    def retreat(r, out, call, at, tracks, thread, registers):
        """The cell's step back, of one unit and sample, but for what passes through W."""
        if within(r, call.dp.shape[1], thread):
            base, δp, δq = r * STEP, NOTHING, NOTHING
            now, dy = registers.flags[r], registers.prefetched[base]
            kept = kept_in(registers.prefetched, base + 1)
            before = states_in(registers.prefetched, base + 1 + K)
            following = states_in(registers.s_after, r * S)
            put_states_in(before, registers.s_after, r * S)
            load_step(r, at, tracks, registers)
            if MASKED and now & RESET_AFTER:
                add_to_initial(r, call, thread, registers)
                put_states_in(NO_STATES, registers.ds, r * S)
            if MASKED and now & RESET:
                place = states.start(call.s, 0, thread.first, thread.j)
                before = states.numbers(place, tracks.s, r)
            if not MASKED or now & LIVE:
                registers.ds[r * S + OUTPUT] += dy
                δp, δq, d = back(states_in(registers.ds, r * S), kept, before, following)
                put_states_in(d, registers.ds, r * S)
            δp, δq = within_bounds(r, δp, δq, call, registers)
            if thread.lane == 0:
                put_gates_in_shared(δq, thread, out, r)
                if not CLIPS:
                    put_δ(r, δp, δq, at, tracks)

    @device_function
    def add_through_W(r, thread, registers):
        registers.ds[r * S] += thread.total[r * CHAINS]

    @device_function
    def finish(r, call, thread, registers):
        """What is left after the first step arrives at the initial state."""
        if within(r, call.dp.shape[1], thread):
            add_to_initial(r, call, thread, registers)

    begin_all = each(samples, begin, device_function)
    clear_ds_all = each(samples, clear_ds, device_function) if MASKED else nothing
    retreat_all = each(samples, retreat, device_function)
    through_W_all = each(samples, add_through_W, device_function)
    finish_all = each(samples, finish, device_function)

    @device_function
    def first_line(call, tracks, thread):
        """(place of the line that this thread fetches, its Line): of what is kept, then of dy, then
        of each state.
        """
        index, t, b = cuda.threadIdx.x, call.dp.shape[0] - 1 - AHEAD, thread.first
        of_kept, of_one = lines(K, call.dp.shape[1], thread), lines(1, call.dp.shape[1], thread)
        if index < of_kept:
            place = activations.start(call.kept, t, b, index * ITEMS)
            return place, Line(tracks.kept.step, np.int32(AHEAD))
        index -= of_kept
        if index < of_one:
            place = outputs.start(call.dy, t, b, index * ITEMS)
            return place, Line(tracks.dy.step, np.int32(AHEAD))
        k, index = index // of_one - 1, index % of_one
        place = state_start(k, call.s, t, b, index * ITEMS, n)
        return place, Line(tracks.s.step, np.int32(AHEAD if k < S else NEVER))

    @cuda.jit(launch_bounds=plan.threads)
    def backward(call: Backward):
        """call.ds is (S, 1, B, n). A block has plan.shared numbers of dynamic shared memory."""
        weights, total = cuda.local.array(WEIGHTS, number), cuda.local.array(SUMS, number)
        T, B, thread = call.dp.shape[0], call.dp.shape[1], this_thread(weights, total)
        registers = BackRegisters(
            cuda.local.array(STATES, number),
            cuda.local.array(STATES, number),
            cuda.local.array(PREFETCHED, number),
            cuda.local.array(samples, np.int32),
            cuda.local.array(GATES, number),
            cuda.local.array(GATES, number),
            cuda.local.array(samples, np.bool_),
            cuda.local.array(samples, number),
        )
        tracks, at = tracks_of(call), beginning(call, thread)
        place, line = first_line(call, tracks, thread)
        load_weights(call.W, True, thread)
        begin_all(call, at, tracks, thread, registers)
        cuda.syncthreads()
        clear_ds_all(call, thread)
        x, xs = thread.x, halves(thread.shared, thread.x)
        out, outs = thread.out, halves(thread.shared, thread.out)
        part = shared_place(thread.shared, cuda.threadIdx.x // together)
        parts, left = halves(thread.shared, part), np.int32(T)
        while left > 0:
            more = left > 1
            at = reads_onward(at, more, tracks)
            retreat_all(out, call, at, tracks, thread, registers)
            put_squares(part, thread, registers)
            cuda.syncthreads()  # Wᵀ dq reads δ of every unit
            if left > line.few:
                prefetch(place)
            place += line.step
            sums(thread, x)
            clip_norms(x, B, at, tracks, thread, registers)
            through_W_all(thread, registers)
            at = writes_onward(at, tracks)
            x, out, part = other(xs, x), other(outs, out), other(parts, part)
            left = np.int32(left - 1)
        finish_all(call, thread, registers)

    return backward


def plans(problem: Problem, asked: bool = False) -> tuple[Choice, ...]:
    return tuple(choice_of(plan, problem) for plan in fitting(problem))


def choice_of(plan: Plan, problem: Problem) -> Choice:
    why = (
        f"W fits one multiprocessor: {plan.in_registers} of {plan.quads} quads of weights a "
        "lane in registers, the rest in shared memory"
    )
    blocks, shared = -(-problem.B // plan.samples), plan.shared * problem.itemsize
    return Choice(name, plan, blocks, plan.threads, shared, why, cycles(plan, problem))


def forward(cell, call: Forward, choice: Choice, precision: str):
    kernel = forward_kernel(cell, call.p.dtype.type, choice.plan)
    launch(kernel, choice.blocks, choice.threads, call, shared=choice.shared)


def backward(cell, call: Backward, choice: Choice, precision: str):
    kernel = backward_kernel(cell, call.dp.dtype.type, choice.plan)
    launch(kernel, choice.blocks, choice.threads, call, shared=choice.shared)


def describe(choice: Choice) -> str:
    lanes, samples = choice.plan.lanes, choice.plan.samples
    return (
        f"one launch whatever T: {choice.grid}, {lanes} lanes a unit, {samples} samples a block, "
        f"{choice.shared} bytes of shared memory"
    )
