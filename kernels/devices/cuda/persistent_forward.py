"""The way forward of the persistent schedules: the kernel of a cell, for one plan and one reach."""

from typing import Any, NamedTuple

import numpy as np

from ... import LIVE, RESET, Forward
from ...binding.closures import each, tuple_of
from .launch import cuda, device_function, formula
from .persistent import (
    AHEAD,
    LINE,
    NEVER,
    Reach,
    lines_of,
    numbers_in,
    within_of,
    writes_of,
)
from .plans import Plan
from .pointwise import nothing
from .ptx import prefetch, put_shared, shared_place
from .sums import halves_of, loads_of, other, sums_of, thread_of
from .tensor_sums import multiplied_of
from .tracks import ABSENT, apart, beside, moved_of


class Arrays(NamedTuple):
    """Of a thread: tracks, or places on them."""

    p: Any
    flags: Any  # () where no step is masked
    s: Any
    kept: Any


class Registers(NamedTuple):
    """What a thread keeps of its unit, for every sample that it holds."""

    s: Any  # (held · S,) states
    c: Any  # (G,) bias of the recurrent side, of a cell that is `apart`
    p: Any  # (held · (G + D),) input side of this step
    flags: Any  # (held,) of this step
    next_p: Any  # of the next step, prefetched
    next_flags: Any


def forward_of(cell, number, plan: Plan, reach: Reach):
    """The kernel (call): `Device.forward`."""
    G, S, P, K = cell.gates, cell.states, cell.gates + cell.drawn, cell.kept
    n, samples, width, CHAINS = plan.n, plan.samples, plan.width, plan.chains
    HELD, SCATTERED, BETWEEN = plan.held, plan.scattered, plan.between
    APART, MASKED, ITEMS = cell.apart, plan.masked, LINE // number().itemsize
    GIVEN, moved = plan.given, moved_of(S)
    step, load_weights, sums = (
        formula(cell.step, number),
        loads_of(plan, number),
        sums_of(plan, number),
    )
    WEIGHTS, SUMS, THREADS = plan.weights, plan.sums, plan.threads
    this_thread, within, halves = thread_of(plan, number), within_of(plan), halves_of(plan)
    STATES, INPUTS, ZERO, NOTHING = HELD * S, HELD * P, number(0), (number(0),) * K
    inputs, activations, states = beside(P, n), beside(K, n), apart(S, n)
    flags, writes = beside(1, 1) if MASKED else ABSENT, writes_of(plan)
    lines, own_line = lines_of(plan, number().itemsize)
    publish, multiplied = reach.publisher(plan.repeats), multiplied_of(plan)
    begin_mail, wait, have_read, next_mail = reach.begin, reach.wait, reach.read, reach.onward
    enter, earlier = reach.enter, reach.earlier
    inputs_in, put_inputs_in = numbers_in(P)
    states_in, put_states_in = numbers_in(S)

    @device_function
    def recurrent_input(k, thread, registers, h):
        q = thread.total[h * BETWEEN + k * CHAINS]
        return q + registers.c[k] if APART else q

    recurrent = tuple_of(G, recurrent_input, device_function)

    @device_function
    def tracks_of(call):
        B = call.p.shape[1]
        return Arrays(
            inputs.track(call.p, B),
            flags.track(call.flags, B),
            states.track(call.s, B),
            activations.track(call.kept, B),
        )

    @device_function
    def beginning(call, thread):
        """The places of the first step."""
        b, j = thread.b, thread.j
        return Arrays(
            inputs.start(call.p, 0, b, j),
            flags.start(call.flags, 0, b, 0),
            states.start(call.s, 1, b, j),
            activations.start(call.kept, 0, b, j),
        )

    @device_function
    def reads_onward(at, more, tracks):
        p, flag = inputs.onward(at.p, more, tracks.p), flags.onward(at.flags, more, tracks.flags)
        return Arrays(p, flag, at.s, at.kept)

    @device_function
    def writes_onward(at, tracks):
        s, kept = (
            states.onward(at.s, True, tracks.s),
            activations.onward(at.kept, True, tracks.kept),
        )
        return Arrays(at.p, at.flags, s, kept)

    @device_function
    def initial(h, call, tracks, thread):
        """The states before the first step."""
        place = states.start(call.s, 0, thread.b, thread.j)
        return states.numbers(place, tracks.s, h * SCATTERED)

    @device_function
    def given(h, call, at, tracks, thread):
        """The states that the next step begins with: T + 1 behind those that this one leaves."""
        place = moved(at.s, (call.p.shape[0] + 1) * tracks.s.step)
        return states.numbers(place, tracks.s, h * SCATTERED)

    begins_with = (
        given
        if GIVEN
        else device_function(lambda h, call, at, tracks, thread: initial(h, call, tracks, thread))
    )

    @device_function
    def load_flag(h, at, tracks, registers):
        (registers.next_flags[h],) = flags.numbers(at.flags, tracks.flags, h * SCATTERED)

    load_flags = load_flag if MASKED else nothing

    @device_function
    def load_next(h, at, tracks, registers):
        numbers = inputs.numbers(at.p, tracks.p, h * SCATTERED)
        put_inputs_in(numbers, registers.next_p, h * P)
        load_flags(h, at, tracks, registers)

    @device_function
    def begin(h, call, at, tracks, thread, registers):
        """The initial state, and the first step's inputs."""
        if within(h, call.p.shape[1], thread):
            put_states_in(initial(h, call, tracks, thread), registers.s, h * S)
            load_next(h, at, tracks, registers)

    @device_function
    def put_initial(call, thread):
        """What W multiplies first: state 0 of all units, in every block."""
        shared, first, r = thread.shared, shared_place(thread.shared, 0), 0
        while r < samples and thread.first + r < call.p.shape[1]:
            j = cuda.threadIdx.x
            while j < n:
                state = multiplied(call.s[0, 0, thread.first + r, j])
                put_shared(shared, first, r * width + j, state)
                j += THREADS
            r += 1

    @device_function
    def take(h, call, at, tracks, thread, registers):
        """What was loaded before is of this step now; load the next one's."""
        put_inputs_in(inputs_in(registers.next_p, h * P), registers.p, h * P)
        registers.flags[h] = registers.next_flags[h]
        if within(h, call.p.shape[1], thread):
            load_next(h, at, tracks, registers)

    @device_function
    def advance(h, more, call, at, tracks, thread, registers):
        """The cell's step, of one unit and sample; are there more steps?"""
        if within(h, call.p.shape[1], thread):
            kept = NOTHING
            if not MASKED or registers.flags[h] & LIVE:
                q, before = recurrent(thread, registers, h), states_in(registers.s, h * S)
                s_next, kept = step(inputs_in(registers.p, h * P), q, before)
                put_states_in(s_next, registers.s, h * S)
            if writes(thread):
                activations.put(kept, at.kept, tracks.kept, h * SCATTERED)
                states.put(states_in(registers.s, h * S), at.s, tracks.s, h * SCATTERED)
            if MASKED and (more or not GIVEN) and registers.next_flags[h] & RESET:
                before = begins_with(h, call, at, tracks, thread)
                put_states_in(before, registers.s, h * S)

    @device_function
    def hand_on(h, out, mail, B, thread, registers):
        """What W multiplies in the next step, to all who need it."""
        here = within(h, B, thread)
        state = multiplied(registers.s[h * S]) if here else ZERO
        publish(mail, thread, here, thread.repeat, out, h * SCATTERED * width, state)

    begin_all = each(HELD, begin, device_function)
    take_all = each(HELD, take, device_function)
    advance_all = each(HELD, advance, device_function)
    hand_on_all = each(HELD, hand_on, device_function)

    @device_function
    def few_left(call, thread):
        return np.int32(AHEAD if own_line(thread) < lines(P, call.p.shape[1], thread) else NEVER)

    @cuda.jit(launch_bounds=plan.threads)
    def forward(call: Forward):
        """A block has plan.shared numbers of dynamic shared memory."""
        enter()
        weights, total = cuda.local.array(WEIGHTS, number), cuda.local.array(SUMS, number)
        behind = cuda.local.array(SCATTERED, np.int32)
        T, thread = call.p.shape[0], this_thread(weights, total, behind, earlier(call))
        registers = Registers(
            cuda.local.array(STATES, number),
            cuda.local.array(G, number),
            cuda.local.array(INPUTS, number),
            cuda.local.array(HELD, np.int32),
            cuda.local.array(INPUTS, number),
            cuda.local.array(HELD, np.int32),
        )
        tracks, at, few = tracks_of(call), beginning(call, thread), few_left(call, thread)
        line = inputs.start(call.p, AHEAD, thread.first, own_line(thread) * ITEMS)
        load_weights(call.W, False, thread)
        cuda.syncthreads()
        put_initial(call, thread)
        if APART:
            for g in range(G):
                registers.c[g] = call.c[g * n + thread.j] if thread.j < n else ZERO
        begin_all(call, at, tracks, thread, registers)
        mail = begin_mail(thread, call, True)
        x, xs, outs = thread.x, halves(thread.shared, thread.x), halves(thread.shared, thread.out)
        out, left = other(outs, thread.out), np.int32(T)
        while left > 0:
            more = left > 1
            at = reads_onward(at, more, tracks)
            take_all(call, at, tracks, thread, registers)
            if left > few:
                prefetch(line)
            line += tracks.p.step
            wait(mail)
            mail = next_mail(mail)
            sums(thread, x)
            have_read()
            advance_all(more, call, at, tracks, thread, registers)
            if more:
                hand_on_all(out, mail, call.p.shape[1], thread, registers)
            at = writes_onward(at, tracks)
            x, out, left = other(xs, x), other(outs, out), np.int32(left - 1)

    return forward
