"""The way back of the persistent schedules: the kernel of a cell, for one plan and one reach."""

from typing import Any, NamedTuple

import numpy as np

from ... import LIVE, RESET, Backward
from ...binding.closures import each, each_over, tuple_of, tuple_over
from .launch import cuda, device_function, formula
from .persistent import AHEAD, LINE, NEVER, Line, Reach, lines_of, numbers_in, within_of, writes_of
from .persistent_clipping import marks_of, norm_clip_of
from .plans import Plan
from .pointwise import beyond_of, clamp_of, nothing, square_of
from .ptx import prefetch
from .sums import halves_of, loads_of, other, sums_of, thread_of
from .tensor_sums import multiplied_of
from .tracks import ABSENT, apart, beside, moved_of, state_start

RESET_AFTER = RESET << 1  # of a step's flags in registers: the step after it began anew


class Arrays(NamedTuple):
    """Of a thread of the way back: tracks, or places on them."""

    dy: Any
    flags: Any  # () where no step is masked
    kept: Any
    s: Any
    dp: Any
    dq: Any  # dp again, of a cell that is not `apart`
    beyond: Any  # of a call that clips; else ()


class Registers(NamedTuple):
    """What a thread of the way back keeps in registers of its unit, for every sample."""

    ds: Any  # (held · S,) dE/ds
    s_after: Any  # (held · S,) states after the step
    prefetched: Any  # (held · (1 + K + S),) dy of a step, what is kept of it, states before it
    flags: Any  # (held,) of the same step, RESET_AFTER among them
    δ: Any  # (held · G,) of the input side, where it is clipped: written once it has been
    δq: Any  # of the recurrent side, likewise
    beyond: Any  # (held,) is a number of them beyond its bound?
    square: Any  # (held,) Σ (δ/bound)² of the unit


class Step(NamedTuple):
    """Of a step back."""

    out: Any  # place of its message
    mail: Any  # of that message
    left: Any  # so many steps are left, with this one


def backward_of(cell, number, plan: Plan, reach: Reach):
    """The kernel (call): `Device.backward`."""
    G, S, K, APART, OUTPUT = cell.gates, cell.states, cell.kept, cell.apart, cell.output
    n, width, (_, STRIDE) = plan.n, plan.width, plan.strides
    MASKED, CLIPS, ITEMS = plan.masked, plan.clips, LINE // number().itemsize
    GIVEN, moved = plan.given, moved_of(S)
    HELD, SCATTERED, BETWEEN = plan.held, plan.scattered, plan.between
    back, load_weights = formula(cell.back, number), loads_of(plan, number)
    sums, WEIGHTS, SUMS = sums_of(plan, number), plan.weights, plan.sums
    this_thread, within, halves = thread_of(plan, number), within_of(plan), halves_of(plan)
    clipping = norm_clip_of(cell, number, plan, reach)
    publish, writes = reach.publisher(plan.repeats), writes_of(plan)
    multiplied = multiplied_of(plan)
    begin_mail, wait, have_read, next_mail = reach.begin, reach.wait, reach.read, reach.onward
    enter, earlier = reach.enter, reach.earlier
    beyond, clamp, square = beyond_of(G), clamp_of(cell, number), square_of(G)
    STEP = 1 + K + S  # numbers of one step and sample that are prefetched
    STATES, PREFETCHED, GATES = HELD * S, HELD * STEP, HELD * G if CLIPS else 1
    ZERO, NOTHING, NO_STATES = number(0), (number(0),) * G, (number(0),) * S
    outputs, activations, gates, states = beside(1, n), beside(K, n), beside(G, n), apart(S, n)
    flags, marks = beside(1, 1) if MASKED else ABSENT, marks_of(CLIPS)
    _, put_gates_in = numbers_in(G)
    kept_in, put_kept_in = numbers_in(K)
    states_in, put_states_in = numbers_in(S)
    lines, own_line = lines_of(plan, number().itemsize)
    both = tuple_of(S, device_function(lambda k, a, b: a[k] + b[k]), device_function)

    @device_function
    def publish_gate(k, δ, mail, thread, here, out, h):
        behind = h * SCATTERED * width + k * STRIDE
        publish(mail, thread, here, thread.repeat, out, behind, multiplied(δ))

    publish_gates = each_over(G, publish_gate, device_function)
    if plan.in_quads and reach.publisher_of_four:
        publish_quad = reach.publisher_of_four(plan.repeats)
        one = device_function(lambda k, a: multiplied(a))
        all_multiplied = tuple_over(G, one, device_function)

        @device_function
        def publish_gates(δ, mail, thread, here, out, h):
            four = all_multiplied(δ)
            publish_quad(mail, thread, here, thread.repeat, out, h * SCATTERED * width, four)

    @device_function
    def tracks_of(call):
        back = -call.dp.shape[1]
        return Arrays(
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
        t, b, j = call.dp.shape[0] - 1, thread.b, thread.j
        return Arrays(
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
        return Arrays(
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
        return Arrays(
            at.dy,
            at.flags,
            at.kept,
            at.s,
            gates.onward(at.dp, True, tracks.dp),
            gates.onward(at.dq, True, tracks.dq),
            marks.onward(at.beyond, True, tracks.beyond),
        )

    @device_function
    def load_flag(h, at, tracks, registers):
        (flag,) = flags.numbers(at.flags, tracks.flags, h * SCATTERED)
        registers.flags[h] = flag | (registers.flags[h] & RESET) << 1

    load_flags = load_flag if MASKED else nothing

    @device_function
    def load_step(h, at, tracks, registers):
        base = h * STEP
        (registers.prefetched[base],) = outputs.numbers(at.dy, tracks.dy, h * SCATTERED)
        kept = activations.numbers(at.kept, tracks.kept, h * SCATTERED)
        put_kept_in(kept, registers.prefetched, base + 1)
        before = states.numbers(at.s, tracks.s, h * SCATTERED)
        put_states_in(before, registers.prefetched, base + 1 + K)
        load_flags(h, at, tracks, registers)

    @device_function
    def begin(h, call, at, tracks, thread, registers):
        """dE/ds after the last step, and what that step needs."""
        registers.flags[h], registers.square[h] = 0, ZERO
        if within(h, call.dp.shape[1], thread):
            T, b, j = call.dp.shape[0], thread.b, thread.j
            ds, s = states.start(call.ds, 0, b, j), states.start(call.s, T, b, j)
            track = states.track(call.ds, call.dp.shape[1])
            put_states_in(states.numbers(ds, track, h * SCATTERED), registers.ds, h * S)
            put_states_in(states.numbers(s, tracks.s, h * SCATTERED), registers.s_after, h * S)
            load_step(h, at, tracks, registers)

    @device_function
    def clear_ds(h, call, thread):
        """call.ds has been read; from here on it is the gradient of the initial state."""
        if within(h, call.dp.shape[1], thread) and writes(thread):
            place = states.start(call.ds, 0, thread.b, thread.j)
            states.put(NO_STATES, place, states.track(call.ds, call.dp.shape[1]), h * SCATTERED)

    @device_function
    def add_to_initial(h, call, thread, registers, at):
        """dE/ds that arrives at an initial state, or a given one, to its gradient at `at` in ds."""
        if writes(thread):
            ds, track = states_in(registers.ds, h * S), states.track(call.ds, call.dp.shape[1])
            place = states.start(call.ds, at, thread.b, thread.j)
            if MASKED and not GIVEN:
                ds = both(states.numbers(place, track, h * SCATTERED), ds)
            states.put(ds, place, track, h * SCATTERED)

    @device_function
    def put_δ(h, δp, δq, at, tracks):
        gates.put(δp, at.dp, tracks.dp, h * SCATTERED)
        if APART:
            gates.put(δq, at.dq, tracks.dq, h * SCATTERED)

    @device_function
    def clip_values(h, δp, δq, call, registers):
        """(δp, δq), each number within its bound; and what `clip_norm` needs."""
        value = call.clip.value
        registers.beyond[h] = beyond(δp, value) or (APART and beyond(δq, value))
        δp, δq = clamp(δp, value), clamp(δq, value)
        put_gates_in(δp, registers.δ, h * G)
        put_gates_in(δq, registers.δq, h * G)
        registers.square[h] = square(δp, call.clip.per_norm)
        return δp, δq

    within_bounds = (
        clip_values if CLIPS else device_function(lambda h, δp, δq, call, registers: (δp, δq))
    )

    @device_function
    def initial(call, at, tracks, thread):
        """The place of the states before the first step."""
        return states.start(call.s, 0, thread.b, thread.j)

    @device_function
    def given(call, at, tracks, thread):
        """The place of those that the step has begun with: T + 2 behind those before the one
        before, where `at` is; back in time a step is negative.
        """
        return moved(at.s, -(call.dp.shape[0] + 2) * tracks.s.step)

    begins_at = given if GIVEN else initial

    @device_function
    def retreat(h, step, call, at, tracks, thread, registers):
        """The cell's step back, of one unit and sample, but for what passes through W."""
        here, δq = within(h, call.dp.shape[1], thread), NOTHING
        if here:
            base, δp = h * STEP, NOTHING
            now, dy = registers.flags[h], registers.prefetched[base]
            kept = kept_in(registers.prefetched, base + 1)
            before = states_in(registers.prefetched, base + 1 + K)
            following = states_in(registers.s_after, h * S)
            put_states_in(before, registers.s_after, h * S)
            load_step(h, at, tracks, registers)
            if MASKED and now & RESET_AFTER:
                add_to_initial(h, call, thread, registers, step.left + 1 if GIVEN else 0)
                put_states_in(NO_STATES, registers.ds, h * S)
            if MASKED and now & RESET:
                place = begins_at(call, at, tracks, thread)
                before = states.numbers(place, tracks.s, h * SCATTERED)
            if not MASKED or now & LIVE:
                registers.ds[h * S + OUTPUT] += dy
                δp, δq, d = back(states_in(registers.ds, h * S), kept, before, following)
                put_states_in(d, registers.ds, h * S)
            δp, δq = within_bounds(h, δp, δq, call, registers)
            if not CLIPS and writes(thread):
                put_δ(h, δp, δq, at, tracks)
        publish_gates(δq, step.mail, thread, here, step.out, h)

    @device_function
    def add_through_W(h, thread, registers):
        registers.ds[h * S] += thread.total[h * BETWEEN]

    @device_function
    def finish(h, call, thread, registers):
        """What is left after the first step arrives at the initial state."""
        if within(h, call.dp.shape[1], thread):
            add_to_initial(h, call, thread, registers, 0)

    begin_all = each(HELD, begin, device_function)
    clear_ds_all = each(HELD, clear_ds, device_function) if MASKED and not GIVEN else nothing
    retreat_all = each(HELD, retreat, device_function)
    through_W_all = each(HELD, add_through_W, device_function)
    finish_all = each(HELD, finish, device_function)

    @device_function
    def first_line(call, tracks, thread):
        """(place of the line that this thread fetches, its Line): of what is kept, then of dy, then
        of each state.
        """
        index, t, b = own_line(thread), call.dp.shape[0] - 1 - AHEAD, thread.first
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
        """call.ds is (S, 1, B, n) or (S, 1 + T, B, n). A block has plan.shared numbers of dynamic
        shared memory.
        """
        enter()
        weights, total = cuda.local.array(WEIGHTS, number), cuda.local.array(SUMS, number)
        behind = cuda.local.array(SCATTERED, np.int32)
        T, B, thread = (
            call.dp.shape[0],
            call.dp.shape[1],
            this_thread(weights, total, behind, earlier(call)),
        )
        registers = Registers(
            cuda.local.array(STATES, number),
            cuda.local.array(STATES, number),
            cuda.local.array(PREFETCHED, number),
            cuda.local.array(HELD, np.int32),
            cuda.local.array(GATES, number),
            cuda.local.array(GATES, number),
            cuda.local.array(HELD, np.bool_),
            cuda.local.array(HELD, number),
        )
        tracks, at = tracks_of(call), beginning(call, thread)
        place, line = first_line(call, tracks, thread)
        load_weights(call.W, True, thread)
        begin_all(call, at, tracks, thread, registers)
        mail = begin_mail(thread, call, False)
        clear_ds_all(call, thread)
        x, xs = thread.x, halves(thread.shared, thread.x)
        out, outs = thread.out, halves(thread.shared, thread.out)
        part, shares = clipping.first_part(thread), clipping.first_share(thread)
        parts, both_shares = halves(thread.shared, part), halves(thread.shared, shares)
        left = np.int32(T)
        while left > 0:
            more = left > 1
            at = reads_onward(at, more, tracks)
            retreat_all(Step(out, mail, left), call, at, tracks, thread, registers)
            clipping.put_squares(part, mail, thread, registers)
            if left > line.few:
                prefetch(place)
            place += line.step
            wait(mail)
            mail = next_mail(mail)
            sums(thread, x)
            clipping.clip_norms(shares, B, at, tracks, thread, registers)
            have_read()
            through_W_all(thread, registers)
            at = writes_onward(at, tracks)
            x, out = other(xs, x), other(outs, out)
            part, shares = other(parts, part), other(both_shares, shares)
            left = np.int32(left - 1)
        finish_all(call, thread, registers)

    return backward
