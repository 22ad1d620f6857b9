"""The block schedule: W of one SM's size on the chip, a slice of the batch a block, all T steps in
one launch.

A unit is `lanes` neighbouring threads. Each sums over its share of the inputs, for all gates at
once; shuffles add the shares, so that every lane has every gate and takes the step itself. Weights
stand in registers as far as these go, the rest in shared memory, thread by thread; the state of the
block's samples in shared memory, twice, so that one barrier a step is enough. What the next step
needs from global memory is prefetched before the sums of this one.

What runs over the block's samples, or over weights in registers, is spelled out (`each`): an array
stays in registers only if every index is a constant, and the compiler unrolls no loop that it finds
too long.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ... import LIVE, RESET, At, Backward, Forward
from ...binding.accessors import access
from ...binding.closures import each, each_over, tuple_of
from ...clipping import factor
from ...once import once
from .compiled import factory
from .contract import Choice, Problem
from .launch import cuda, device_function, formula, launch
from .plans import QUAD, Plan, best
from .pointwise import nothing, square_of, times_of, value_clip_of
from .ptx import quad

name = "block"
ALL_LANES = 0xFFFFFFFF  # of a warp take part in a shuffle
RESET_AFTER = RESET << 1  # of a step's flags in registers: the step after it began anew


class Thread(NamedTuple):
    """Where a thread works, and what it sums with; both ways."""

    lane: Any  # which of the unit's threads
    j: Any  # unit; those beyond n do nothing but reach the barriers
    first: Any  # sample of the block
    # (plan.shared,) of the block: what W multiplies at even and at odd steps, a sample behind the
    # other; then weights; then Σ δ² of each unit, at even and at odd steps
    shared: Any
    weights: Any  # (outputs · in_registers quads,) in registers
    total: Any  # (samples · outputs,) in registers: sums of a step


class ForwardRegisters(NamedTuple):
    """What a thread of the way forward keeps in registers of its unit, for every sample."""

    s: Any  # (samples · S,) states
    c: Any  # (G,) bias of the recurrent side, of a cell that is `apart`
    p: Any  # (samples · (G + D),) input side of this step
    flags: Any  # (samples,) of this step
    next_p: Any  # of the next step, prefetched
    next_flags: Any


class BackRegisters(NamedTuple):
    """What a thread of the way back keeps in registers of its unit, for every sample."""

    ds: Any  # (samples · S,) dE/ds
    s_after: Any  # (samples · S,) states after the step
    prefetched: Any  # (samples · (1 + K + S),) dy of a step, what is kept of it, states before it
    flags: Any  # (samples,) of the same step, RESET_AFTER among them


@device_function
def get(k, a, base):
    return a[base + k]


@device_function
def put(k, value, a, base):
    a[base + k] = value


@device_function
def over_lanes(a, lanes):
    """The sum of a over the lanes of a unit, which all of them get."""
    by = 1
    while by < lanes:
        a += cuda.shfl_xor_sync(ALL_LANES, a, by)
        by *= 2
    return a


@cache
def sums_of(plan: Plan, number):
    """The device functions (load_weights, sums): weights to where the plan wants them; W · x for
    all outputs of this unit and all samples.
    """
    n, inputs, outputs = plan.n, plan.inputs, plan.outputs
    lanes, samples, threads = plan.lanes, plan.samples, plan.threads
    in_registers, quads, width = plan.in_registers, plan.quads, plan.width
    first_weight, ZERO = plan.first_weight, number(0)

    @device_function
    def weight(W, transposed, j, output, i):
        """The weight of input i in one output of unit j; zero outside."""
        if j < n and i < inputs:
            return W[i, j] if transposed else W[output * n + j, i]
        return ZERO

    @device_function
    def load_quad(q, W, transposed, thread):
        """Quad q of this lane to registers."""
        for o in range(outputs):
            for e in range(QUAD):
                i = (q * lanes + thread.lane) * QUAD + e
                thread.weights[(q * outputs + o) * QUAD + e] = weight(W, transposed, thread.j, o, i)

    load_quads = each(in_registers, load_quad, device_function)

    @device_function
    def load_weights(W, transposed, thread):
        """All that this thread multiplies by; and zero to what it will multiply."""
        index, shared = cuda.threadIdx.x, thread.shared
        load_quads(W, transposed, thread)
        q = in_registers
        while q < quads:
            for o in range(outputs):
                place = first_weight + (((q - in_registers) * outputs + o) * threads + index) * QUAD
                for e in range(QUAD):
                    i = (q * lanes + thread.lane) * QUAD + e
                    shared[place + e] = weight(W, transposed, thread.j, o, i)
            q += 1
        i = index
        while i < first_weight:
            shared[i] = ZERO  # padding stays so
            i += threads

    @device_function
    def add(total, place, w, x):
        """A quad of products."""
        w0, w1, w2, w3 = w
        x0, x1, x2, x3 = x
        total[place] += w0 * x0
        total[place] += w1 * x1
        total[place] += w2 * x2
        total[place] += w3 * x3

    @device_function
    def add_output(o, r, q, x, thread):
        w, base = thread.weights, (q * outputs + o) * QUAD
        add(thread.total, r * outputs + o, (w[base], w[base + 1], w[base + 2], w[base + 3]), x)

    add_outputs = each(outputs, add_output, device_function)

    @device_function
    def add_sample(r, q, base, thread):
        add_outputs(r, q, quad(thread.shared, base + r * width), thread)

    add_samples = each(samples, add_sample, device_function)

    @device_function
    def add_quad(q, base, thread):
        add_samples(q, base + (q * lanes + thread.lane) * QUAD, thread)

    add_quads = each(in_registers, add_quad, device_function)

    @device_function
    def add_shared_sample(r, o, w, base, thread):
        add(thread.total, r * outputs + o, w, quad(thread.shared, base + r * width))

    add_shared_samples = each(samples, add_shared_sample, device_function)

    @device_function
    def add_shared_output(o, place, base, thread):
        w = quad(thread.shared, place + o * threads * QUAD)
        add_shared_samples(o, w, base, thread)

    add_shared_outputs = each(outputs, add_shared_output, device_function)

    @device_function
    def clear(k, total):
        total[k] = ZERO

    @device_function
    def reduce(k, total):
        total[k] = over_lanes(total[k], lanes)

    clear_all = each(samples * outputs, clear, device_function)
    reduce_all = each(samples * outputs, reduce, device_function)

    @device_function
    def sums(thread, base):
        """thread.total[r·outputs + o] = Σ w x over all inputs, x of sample r at
        thread.shared[base + r·width …].
        """
        clear_all(thread.total)
        add_quads(base, thread)
        q = in_registers
        while q < quads:
            place = first_weight
            place += ((q - in_registers) * outputs * threads + cuda.threadIdx.x) * QUAD
            add_shared_outputs(place, base + (q * lanes + thread.lane) * QUAD, thread)
            q += 1
        reduce_all(thread.total)

    return load_weights, sums


@factory
def forward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.forward`."""
    G, S, P, APART = cell.gates, cell.states, cell.gates + cell.drawn, cell.apart
    n, lanes, samples, width = plan.n, plan.lanes, plan.samples, plan.width
    step, (load_weights, sums) = formula(cell.step, number), sums_of(plan, number)
    WEIGHTS = max(1, plan.in_registers * plan.outputs * QUAD)
    STATES, SUMS, INPUTS = samples * S, samples * G, samples * P
    ZERO, NOTHING = number(0), (number(0),) * cell.kept
    inputs, _, _, states, _, put_kept, put_states = access(cell, device_function)
    inputs_in, put_inputs_in = tuple_of(P, get, device_function), each_over(P, put, device_function)
    states_in, put_states_in = tuple_of(S, get, device_function), each_over(S, put, device_function)

    @device_function
    def recurrent_input(k, thread, registers, r):
        q = thread.total[r * G + k]
        return q + registers.c[k] if APART else q

    recurrent = tuple_of(G, recurrent_input, device_function)

    @device_function
    def prefetch(r, at, call, registers):
        put_inputs_in(inputs(call.p, at), registers.next_p, r * P)
        registers.next_flags[r] = call.flags[at.t, at.b]

    @device_function
    def begin(r, call, thread, registers):
        """The initial state, and the first step's inputs."""
        b, j = thread.first + r, thread.j
        if b < call.p.shape[1] and j < n:
            put_states_in(states(call.s, At(0, b, j)), registers.s, r * S)
            prefetch(r, At(0, b, j), call, registers)
            thread.shared[r * width + j] = registers.s[r * S]

    @device_function
    def take_prefetched(r, t, call, thread, registers):
        """What was prefetched is of step t now; prefetch the next one's."""
        b, j = thread.first + r, thread.j
        put_inputs_in(inputs_in(registers.next_p, r * P), registers.p, r * P)
        registers.flags[r] = registers.next_flags[r]
        if b < call.p.shape[1] and j < n and t + 1 < call.p.shape[0]:
            prefetch(r, At(t + 1, b, j), call, registers)

    @device_function
    def advance(r, t, call, thread, registers):
        """The cell's step, of one unit and sample."""
        lane, b, j = thread.lane, thread.first + r, thread.j
        if b < call.p.shape[1] and j < n:
            at = At(t, b, j)
            if registers.flags[r] & LIVE:
                q, before = recurrent(thread, registers, r), states_in(registers.s, r * S)
                s_next, kept = step(inputs_in(registers.p, r * P), q, before)
                put_states_in(s_next, registers.s, r * S)
                if lane == 0:
                    put_kept(kept, call.kept, at)
            elif lane == 0:
                put_kept(NOTHING, call.kept, at)
            if lane == 0:
                put_states(states_in(registers.s, r * S), call.s, At(t + 1, b, j))
            if registers.next_flags[r] & RESET:
                put_states_in(states(call.s, At(0, b, j)), registers.s, r * S)
            if lane == 0:
                thread.shared[(((t + 1) & 1) * samples + r) * width + j] = registers.s[r * S]

    begin_all = each(samples, begin, device_function)
    take_all = each(samples, take_prefetched, device_function)
    advance_all = each(samples, advance, device_function)

    @cuda.jit(launch_bounds=plan.threads)
    def forward(call: Forward):
        """A block has plan.shared numbers of dynamic shared memory."""
        T, j = call.p.shape[0], cuda.threadIdx.x // lanes
        thread = Thread(
            cuda.threadIdx.x % lanes,
            j,
            cuda.blockIdx.x * samples,
            cuda.shared.array(0, number),
            cuda.local.array(WEIGHTS, number),
            cuda.local.array(SUMS, number),
        )
        registers = ForwardRegisters(
            cuda.local.array(STATES, number),
            cuda.local.array(G, number),
            cuda.local.array(INPUTS, number),
            cuda.local.array(samples, np.int32),
            cuda.local.array(INPUTS, number),
            cuda.local.array(samples, np.int32),
        )
        load_weights(call.W, False, thread)
        cuda.syncthreads()
        if APART:
            for g in range(G):
                registers.c[g] = call.c[g * n + j] if j < n else ZERO
        begin_all(call, thread, registers)
        cuda.syncthreads()
        t = 0
        while t < T:
            take_all(t, call, thread, registers)
            sums(thread, (t & 1) * samples * width)
            advance_all(t, call, thread, registers)
            cuda.syncthreads()  # the next step reads every unit
            t += 1

    return forward


@once
def norm_clip_in_shared_of(cell, number, plan: Plan):
    """The device functions (clear, put_square, clip_norm): Σ δ² of a unit to shared memory; after a
    barrier, the norm of a step and sample within its bound.

    What has gone through W is scaled by the same factor, rather than δ before: so there is no
    second barrier.
    """
    if not plan.clips:
        return nothing, nothing, nothing
    n, lanes, samples, padded = plan.n, plan.lanes, plan.samples, plan.padded
    first_square, end, threads = plan.first_square, plan.shared, plan.threads
    APART = cell.apart
    square, shrinking, ZERO = square_of(cell.gates), formula(factor, number), number(0)
    ONE, times = number(1), times_of(cell.gates)
    _, gates, _, _, put_gates, _, _ = access(cell, device_function)

    @device_function
    def clear(shared):
        i = first_square + cuda.threadIdx.x
        while i < end:
            shared[i] = ZERO  # padding stays so
            i += threads

    @device_function
    def put_square(r, t, thread, δ, norm):
        thread.shared[first_square + ((t & 1) * samples + r) * padded + thread.j] = square(δ, norm)

    @device_function
    def clip_norm(r, t, call, thread):
        b, j, lane = thread.first + r, thread.j, thread.lane
        a, i = ZERO, QUAD * lane
        while i < padded:
            base = first_square + ((t & 1) * samples + r) * padded
            a0, a1, a2, a3 = quad(thread.shared, base + i)
            a += (a0 + a1) + (a2 + a3)
            i += QUAD * lanes
        by = shrinking(over_lanes(a, lanes))
        if by != ONE and b < call.dp.shape[1] and j < n:
            thread.total[r] *= by
            if lane == 0:
                at = At(t, b, j)
                call.clip.beyond[t, b] = 1
                put_gates(times(gates(call.dp, at), by), call.dp, at)
                if APART:
                    put_gates(times(gates(call.dq, at), by), call.dq, at)

    return clear, put_square, each(samples, clip_norm, device_function)


@factory
def backward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.backward`."""
    G, S, K, APART, OUTPUT = cell.gates, cell.states, cell.kept, cell.apart, cell.output
    n, lanes, samples, width = plan.n, plan.lanes, plan.samples, plan.width
    back, (load_weights, sums) = formula(cell.back, number), sums_of(plan, number)
    CLIPS, within_bounds = plan.clips, value_clip_of(cell, number, plan.clips)
    clear, put_square, clip_norms = norm_clip_in_shared_of(cell, number, plan)
    WEIGHTS = max(1, plan.in_registers * plan.outputs * QUAD)
    STEP = 1 + K + S  # numbers of one step and sample that are prefetched
    STATES, PREFETCHED = samples * S, samples * STEP
    NOTHING, NO_STATES = (number(0),) * G, (number(0),) * S
    _, _, activations, states, put_gates, _, put_states = access(cell, device_function)
    kept_in, put_kept_in = tuple_of(K, get, device_function), each_over(K, put, device_function)
    states_in, put_states_in = tuple_of(S, get, device_function), each_over(S, put, device_function)
    both = tuple_of(S, device_function(lambda k, a, b: a[k] + b[k]), device_function)

    @device_function
    def put_gate_in_shared(k, δ, shared, place):
        shared[place + k * n] = δ

    put_gates_in_shared = each_over(G, put_gate_in_shared, device_function)

    @device_function
    def prefetch(r, at, call, registers):
        base = r * STEP
        registers.prefetched[base] = call.dy[at.t, at.b, at.j]
        put_kept_in(activations(call.kept, at), registers.prefetched, base + 1)
        put_states_in(states(call.s, at), registers.prefetched, base + 1 + K)

    @device_function
    def begin(r, T, call, thread, registers):
        """dE/ds after the last step, and what that step needs.

        T is handed on: where each sample takes it from a shape, three instructions more are left.
        """
        b, j = thread.first + r, thread.j
        if b < call.dp.shape[1] and j < n:
            put_states_in(states(call.ds, At(0, b, j)), registers.ds, r * S)
            put_states_in(states(call.s, At(T, b, j)), registers.s_after, r * S)
            prefetch(r, At(T - 1, b, j), call, registers)
            registers.flags[r] = call.flags[T - 1, b]

    @device_function
    def clear_ds(r, call, thread):
        """call.ds has been read; from here on it is the gradient of the initial state."""
        b, j = thread.first + r, thread.j
        if b < call.dp.shape[1] and j < n and thread.lane == 0:
            put_states(NO_STATES, call.ds, At(0, b, j))

    @device_function
    def add_to_initial(r, b, call, thread, registers):
        """dE/ds that arrives at an initial state to its gradient."""
        at = At(0, b, thread.j)
        if thread.lane == 0:
            put_states(both(states(call.ds, at), states_in(registers.ds, r * S)), call.ds, at)

    @device_function
    def retreat(r, t, call, thread, registers):
        """The cell's step back, of one unit and sample, but for what passes through W."""
        b, j = thread.first + r, thread.j
        if b < call.dp.shape[1] and j < n:
            at, base = At(t, b, j), r * STEP
            flags, dy = registers.flags[r], registers.prefetched[base]
            kept = kept_in(registers.prefetched, base + 1)
            before = states_in(registers.prefetched, base + 1 + K)
            after = states_in(registers.s_after, r * S)
            put_states_in(before, registers.s_after, r * S)
            if t > 0:
                prefetch(r, At(t - 1, b, j), call, registers)
                registers.flags[r] = call.flags[t - 1, b] | (flags & RESET) << 1
            if flags & RESET_AFTER:
                add_to_initial(r, b, call, thread, registers)
                put_states_in(NO_STATES, registers.ds, r * S)
            if flags & RESET:
                before = states(call.s, At(0, b, j))
            if flags & LIVE:
                registers.ds[r * S + OUTPUT] += dy
                δp, δq, d = back(states_in(registers.ds, r * S), kept, before, after)
                put_states_in(d, registers.ds, r * S)
                δp, δq = within_bounds(δp, call.clip, at), within_bounds(δq, call.clip, at)
            else:
                δp, δq = NOTHING, NOTHING
            if thread.lane == 0:
                put_gates(δp, call.dp, at)
                if APART:
                    put_gates(δq, call.dq, at)
                put_gates_in_shared(δq, thread.shared, ((t & 1) * samples + r) * width + j)
                if CLIPS:
                    put_square(r, t, thread, δp, call.clip.norm)

    @device_function
    def add_through_W(r, thread, registers):
        registers.ds[r * S] += thread.total[r]

    @device_function
    def finish(r, call, thread, registers):
        """What is left after the first step arrives at the initial state."""
        b = thread.first + r
        if b < call.dp.shape[1] and thread.j < n:
            add_to_initial(r, b, call, thread, registers)

    begin_all = each(samples, begin, device_function)
    clear_ds_all = each(samples, clear_ds, device_function)
    retreat_all = each(samples, retreat, device_function)
    through_W_all = each(samples, add_through_W, device_function)
    finish_all = each(samples, finish, device_function)

    @cuda.jit(launch_bounds=plan.threads)
    def backward(call: Backward):
        """call.ds is (S, 1, B, n). A block has plan.shared numbers of dynamic shared memory."""
        T = call.dp.shape[0]
        thread = Thread(
            cuda.threadIdx.x % lanes,
            cuda.threadIdx.x // lanes,
            cuda.blockIdx.x * samples,
            cuda.shared.array(0, number),
            cuda.local.array(WEIGHTS, number),
            cuda.local.array(samples, number),
        )
        registers = BackRegisters(
            cuda.local.array(STATES, number),
            cuda.local.array(STATES, number),
            cuda.local.array(PREFETCHED, number),
            cuda.local.array(samples, np.int32),
        )
        load_weights(call.W, True, thread)
        clear(thread.shared)
        begin_all(T, call, thread, registers)
        cuda.syncthreads()
        clear_ds_all(call, thread)
        t = T - 1
        while t >= 0:
            retreat_all(t, call, thread, registers)
            cuda.syncthreads()  # Wᵀ dq reads δ of every unit
            sums(thread, (t & 1) * samples * width)
            clip_norms(t, call, thread)
            through_W_all(thread, registers)
            t -= 1
        finish_all(call, thread, registers)

    return backward


def plan(problem: Problem, asked: bool = False) -> Choice | None:
    found = best(problem)
    if found is None:
        return None
    why = (
        f"W fits one multiprocessor: {found.in_registers} of {found.quads} quads of weights a "
        "lane in registers, the rest in shared memory"
    )
    blocks, shared = -(-problem.B // found.samples), found.shared * problem.itemsize
    return Choice(name, found, blocks, found.threads, shared, why)


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
