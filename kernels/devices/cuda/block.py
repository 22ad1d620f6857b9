"""The block schedule: W of one SM's size on the chip, a slice of the batch a block, all T steps in
one launch.

A unit is `lanes` neighbouring threads. Each sums over its share of the inputs, for all gates at
once; shuffles add the shares, so that every lane has every gate and takes the step itself. Weights
stand in registers as far as these go, the rest in shared memory, thread by thread; the state of the
block's rows in shared memory, twice, so that one barrier a step is enough. What the next step needs
from global memory is fetched before the sums of this one.

What runs over the block's samples, or over weights in registers, is spelled out (`repeat`): an
array stays in registers only if every index is a constant, and the compiler unrolls no loop that it
finds too long.
"""

import inspect
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda

from ... import LIVE, RESET
from ...binding.text import access, gather, repeat
from ...clipping import factor
from ...once import once
from .launch import TOGETHER, device_function, formula
from .pointwise import limit_of, square_of
from .ptx import quad

WARP = 0xFFFFFFFF
CUT = RESET << 1  # of a step's flags, in registers: the step after it began anew


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled. Quads are four neighbouring inputs: one 16-byte
    load.
    """

    n: int  # units
    inputs: int  # length of the vector that W multiplies: n forward, G·n backward
    outputs: int  # sums a unit takes: G forward, 1 backward
    lanes: int  # threads a unit: 1, 2, 4 or 8
    rows: int  # samples a block
    # quads of inputs a lane has weights for in registers; the others are in shared memory
    held: int
    clips: bool = False  # δ is clipped

    @property
    def quads(self) -> int:
        """Quads of inputs a lane."""
        return -(-self.inputs // (4 * self.lanes))

    @property
    def width(self) -> int:
        """Inputs, padded to whole quads for every lane."""
        return 4 * self.lanes * self.quads

    @property
    def threads(self) -> int:
        return -(-self.n * self.lanes // TOGETHER) * TOGETHER

    @property
    def shared(self) -> int:
        """Numbers in shared memory: inputs of every row twice, weights that registers do not hold,
        and δ² if it is clipped.
        """
        return self.squares + self.clips * 2 * self.rows * self.padded

    @property
    def padded(self) -> int:
        """Units, padded to whole quads."""
        return -(-self.n // 4) * 4

    @property
    def squares(self) -> int:
        """Where in shared memory Σ δ² of each unit begins, for every row, twice."""
        return (
            2 * self.rows * self.width + 4 * (self.quads - self.held) * self.outputs * self.threads
        )


def each_sample(rows: int, one):
    """The function that calls one(…, r) for every sample r of a block, r a constant."""
    arguments = ", ".join(list(inspect.signature(getattr(one, "py_func", one)).parameters)[:-1])
    return repeat(rows, arguments, f"one({arguments}, {{k}})", one=one)


@cache
def sums_of(plan: Plan, number):
    """The device functions (fill, sums): weights to where the plan wants them; W · x for all
    outputs of this unit and all samples.
    """
    lanes, rows, held, outputs = plan.lanes, plan.rows, plan.held, plan.outputs
    threads = plan.threads
    quads, width, n, inputs = plan.quads, plan.width, plan.n, plan.inputs
    first_weight = 2 * rows * width
    ZERO = number(0)

    @device_function
    def weight(W, transposed, j, output, i):
        """The weight of input i in one output of unit j; zero outside."""
        if j < n and i < inputs:
            return W[i, j] if transposed else W[output * n + j, i]
        return ZERO

    @device_function
    def hold(W, transposed, w, lane, j, q):
        """Quad q of this lane to registers."""
        for o in range(outputs):
            for e in range(4):
                w[(q * outputs + o) * 4 + e] = weight(
                    W, transposed, j, o, (q * lanes + lane) * 4 + e
                )

    hold_all = device_function(
        repeat(held, "W, transposed, w, lane, j", "hold(W, transposed, w, lane, j, {k})", hold=hold)
    )

    @device_function
    def fill(W, transposed, w, shared):
        thread = cuda.threadIdx.x
        lane, j = thread % lanes, thread // lanes
        hold_all(W, transposed, w, lane, j)
        q = held
        while q < quads:
            for o in range(outputs):
                for e in range(4):
                    place = first_weight + (((q - held) * outputs + o) * threads + thread) * 4 + e
                    shared[place] = weight(W, transposed, j, o, (q * lanes + lane) * 4 + e)
            q += 1
        i = thread
        while i < first_weight:
            shared[i] = ZERO  # padding stays so
            i += threads

    @device_function
    def add(total, place, w, x):
        w0, w1, w2, w3 = w
        x0, x1, x2, x3 = x
        total[place] += w0 * x0
        total[place] += w1 * x1
        total[place] += w2 * x2
        total[place] += w3 * x3

    four = device_function(gather(4, "w, base", "w[base + {k}]"))
    add_outputs = (
        "total, x, w, base, r",
        f"add(total, r * {outputs} + {{k}}, four(w, base + {{k}} * 4), x)",
    )
    add_held = device_function(repeat(outputs, *add_outputs, add=add, four=four))

    @device_function
    def held_sample(w, shared, at, total, q, r):
        add_held(total, quad(shared, at + r * width), w, q * outputs * 4, r)

    @device_function
    def shared_sample(weights, shared, at, total, o, r):
        add(total, r * outputs + o, weights, quad(shared, at + r * width))

    held_samples = device_function(
        repeat(
            rows, "w, shared, at, total, q", "one(w, shared, at, total, q, {k})", one=held_sample
        )
    )
    shared_samples = device_function(
        repeat(
            rows,
            "weights, shared, at, total, o",
            "one(weights, shared, at, total, o, {k})",
            one=shared_sample,
        )
    )
    all_held = f"some(w, shared, base + ({{k}} * {lanes} + lane) * 4, total, {{k}})"
    sum_held = device_function(
        repeat(held, "w, shared, base, lane, total", all_held, some=held_samples)
    )

    @device_function
    def sum_shared(shared, at, place, total, o):
        shared_samples(quad(shared, place + o * threads * 4), shared, at, total, o)

    shared_outputs = device_function(
        repeat(
            outputs,
            "shared, at, place, total",
            "one(shared, at, place, total, {k})",
            one=sum_shared,
        )
    )

    @device_function
    def clear(total, k):
        total[k] = ZERO

    @device_function
    def reduce(total, k):
        by = 1
        while by < lanes:
            total[k] += cuda.shfl_xor_sync(WARP, total[k], by)
            by *= 2

    clear_all = device_function(repeat(rows * outputs, "total", "clear(total, {k})", clear=clear))
    reduce_all = device_function(
        repeat(rows * outputs, "total", "reduce(total, {k})", reduce=reduce)
    )

    @device_function
    def sums(w, shared, base, total):
        """total[r·outputs + o] = Σ w x over all inputs, x of sample r at shared[base + r·width
        …].
        """
        thread = cuda.threadIdx.x
        lane = thread % lanes
        clear_all(total)
        sum_held(w, shared, base, lane, total)
        q = held
        while q < quads:
            place = first_weight + ((q - held) * outputs * threads + thread) * 4
            shared_outputs(shared, base + (q * lanes + lane) * 4, place, total)
            q += 1
        reduce_all(total)

    return fill, sums


@once
def forward_kernel(cell, number, plan: Plan):
    G, S, K = cell.gates, cell.states, cell.kept
    P = G + cell.drawn
    n, lanes, rows, width = plan.n, plan.lanes, plan.rows, plan.width
    step, (fill, sums) = formula(cell.step, number), sums_of(plan, number)
    HELD, STATES, GATES, INPUTS = max(1, plan.held * plan.outputs * 4), rows * S, rows * G, rows * P
    ZERO, NOTHING, APART = number(0), (number(0),) * K, cell.apart
    inputs, _, _, states, _, put_kept, put_states = access(cell, device_function)
    fetched = device_function(gather(P, "a, base", "a[base + {k}]"))
    recurrent = device_function(
        gather(G, "total, base, c", "total[base + {k}]" + (" + c[{k}]" if APART else ""))
    )
    carried = device_function(gather(S, "a, base", "a[base + {k}]"))
    fetch = device_function(repeat(P, "a, base, values", "a[base + {k}] = values[{k}]"))
    carry = device_function(repeat(S, "a, base, values", "a[base + {k}] = values[{k}]"))

    @device_function
    def begin(p, s, flags, shared, now, ahead, live, first, j, r):
        b = first + r
        if b < p.shape[1] and j < n:
            carry(now, r * S, states(s, 0, b, j))
            fetch(ahead, r * P, inputs(p, 0, b, j))
            live[r] = flags[0, b]
            shared[r * width + j] = now[r * S]

    @device_function
    def look_ahead(p, flags, p_t, live_t, ahead, live, first, j, t, r):
        """What was fetched is of this step now; fetch the next one's."""
        b = first + r
        fetch(p_t, r * P, fetched(ahead, r * P))
        live_t[r] = live[r]
        if b < p.shape[1] and j < n and t + 1 < p.shape[0]:
            fetch(ahead, r * P, inputs(p, t + 1, b, j))
            live[r] = flags[t + 1, b]

    @device_function
    def advance(p_t, live_t, live, s, kept, shared, now, total, bias, first, B, lane, j, t, r):
        b = first + r
        if b < B and j < n:
            if live_t[r] & LIVE:
                s_next, k = step(
                    fetched(p_t, r * P), recurrent(total, r * G, bias), carried(now, r * S)
                )
                carry(now, r * S, s_next)
                if lane == 0:
                    put_kept(kept, t, b, j, k)
            elif lane == 0:
                put_kept(kept, t, b, j, NOTHING)
            if lane == 0:
                put_states(s, t + 1, b, j, carried(now, r * S))
            if live[r] & RESET:  # of the next step
                carry(now, r * S, states(s, 0, b, j))
            if lane == 0:
                shared[(((t + 1) & 1) * rows + r) * width + j] = now[r * S]

    begin_all = device_function(each_sample(rows, begin))
    look_ahead_all = device_function(each_sample(rows, look_ahead))
    advance_all = device_function(each_sample(rows, advance))

    @cuda.jit(launch_bounds=plan.threads)
    def forward(p, W, c, s, kept, flags):
        T, B = p.shape[0], p.shape[1]
        lane, j, first = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes, cuda.blockIdx.x * rows
        shared = cuda.shared.array(0, number)
        w = cuda.local.array(HELD, number)
        now = cuda.local.array(STATES, number)
        total = cuda.local.array(GATES, number)
        bias = cuda.local.array(G, number)
        p_t = cuda.local.array(INPUTS, number)
        ahead = cuda.local.array(INPUTS, number)
        live_t = cuda.local.array(rows, np.int32)
        live = cuda.local.array(rows, np.int32)
        fill(W, False, w, shared)
        cuda.syncthreads()
        if APART:
            for g in range(G):
                bias[g] = c[g * n + j] if j < n else ZERO
        begin_all(p, s, flags, shared, now, ahead, live, first, j)
        cuda.syncthreads()
        t = 0
        while t < T:
            look_ahead_all(p, flags, p_t, live_t, ahead, live, first, j, t)
            sums(w, shared, (t & 1) * rows * width, total)
            advance_all(p_t, live_t, live, s, kept, shared, now, total, bias, first, B, lane, j, t)
            cuda.syncthreads()  # the next step reads every unit
            t += 1

    return forward


@once
def shrink_of(cell, number, plan: Plan):
    """The device functions (clear, put_square, shrink): Σ δ² of a unit to shared memory; after a
    barrier, a sample's norm in bounds.

    What has gone through W is shrunk by the same factor, rather than δ before: so there is no
    second barrier.
    """
    if not plan.clips:
        nothing = (
            "shared",
            "shared, δ, clip, j, t, r",
            "shared, dp, dq, total, clip, first, B, lane, j, t, r",
        )
        return tuple(device_function(repeat(0, arguments, "")) for arguments in nothing)
    n, lanes, rows, padded, squares = plan.n, plan.lanes, plan.rows, plan.padded, plan.squares
    threads, end = plan.threads, plan.shared
    square, shrinking, ZERO = square_of(cell, number), formula(factor, number), number(0)
    ONE, APART = number(1), cell.apart
    _, gates, _, _, put_gates, _, _ = access(cell, device_function)
    times = device_function(gather(cell.gates, "δ, by", "δ[{k}] * by"))

    @device_function
    def clear(shared):
        i = squares + cuda.threadIdx.x
        while i < end:
            shared[i] = ZERO  # padding stays so
            i += threads

    @device_function
    def put_square(shared, δ, clip, j, t, r):
        value, norm, beyond = clip
        shared[squares + ((t & 1) * rows + r) * padded + j] = square(δ, norm)

    @device_function
    def shrink(shared, dp, dq, total, clip, first, B, lane, j, t, r):
        value, norm, beyond = clip
        b = first + r
        a, i = ZERO, 4 * lane
        while i < padded:
            a0, a1, a2, a3 = quad(shared, squares + ((t & 1) * rows + r) * padded + i)
            a += (a0 + a1) + (a2 + a3)
            i += 4 * lanes
        by = 1
        while by < lanes:
            a += cuda.shfl_xor_sync(WARP, a, by)
            by *= 2
        shrunk = shrinking(a)
        if shrunk != ONE and b < B and j < n:
            total[r] *= shrunk
            if lane == 0:
                beyond[t, b] = 1
                put_gates(dp, t, b, j, times(gates(dp, t, b, j), shrunk))
                if APART:
                    put_gates(dq, t, b, j, times(gates(dq, t, b, j), shrunk))

    return clear, put_square, shrink


@once
def backward_kernel(cell, number, plan: Plan):
    G, S, K = cell.gates, cell.states, cell.kept
    n, lanes, rows, width = plan.n, plan.lanes, plan.rows, plan.width
    back, (fill, sums) = formula(cell.back, number), sums_of(plan, number)
    HELD, STATES = max(1, plan.held * plan.outputs * 4), rows * S
    NOTHING, APART, OUTPUT = (number(0),) * G, cell.apart, cell.output
    limited = limit_of(cell, number, plan.clips)
    clear, put_square, shrink = shrink_of(cell, number, plan)
    NO_STATES = (number(0),) * S
    FETCHED = 1 + K + S  # dy, activations and states of one step
    AHEAD = rows * FETCHED
    _, _, activations, states, put_gates, _, put_states = access(cell, device_function)
    both = device_function(gather(S, "a, b", "a[{k}] + b[{k}]"))
    fetch_activations = device_function(
        repeat(K, "a, base, values", "a[base + 1 + {k}] = values[{k}]")
    )
    fetched_activations = device_function(gather(K, "a, base", "a[base + 1 + {k}]"))
    fetch_states = device_function(
        repeat(S, "a, base, values", f"a[base + {1 + K} + {{k}}] = values[{{k}}]")
    )
    fetched_states = device_function(gather(S, "a, base", f"a[base + {1 + K} + {{k}}]"))
    carried = device_function(gather(S, "a, base", "a[base + {k}]"))
    carry = device_function(repeat(S, "a, base, values", "a[base + {k}] = values[{k}]"))
    share = device_function(repeat(G, "a, base, n, values", "a[base + {k} * n] = values[{k}]"))

    @device_function
    def fetch(ahead, base, dy, kept, s, t, b, j):
        ahead[base] = dy[t, b, j]
        fetch_activations(ahead, base, activations(kept, t, b, j))
        fetch_states(ahead, base, states(s, t, b, j))

    @device_function
    def begin(dy, s, kept, flags, ds, now, after, ahead, live, first, T, B, j, r):
        b = first + r
        if b < B and j < n:
            carry(now, r * S, states(ds, 0, b, j))
            carry(after, r * S, states(s, T, b, j))
            fetch(ahead, r * FETCHED, dy, kept, s, T - 1, b, j)
            live[r] = flags[T - 1, b]

    @device_function
    def empty(ds, first, B, lane, j, r):
        """ds has been read; from here on it is the gradient of the initial state."""
        b = first + r
        if b < B and j < n and lane == 0:
            put_states(ds, 0, b, j, NO_STATES)

    @device_function
    def hand_over(ds, now, lane, b, j, r):
        if lane == 0:
            put_states(ds, 0, b, j, both(states(ds, 0, b, j), carried(now, r * S)))

    @device_function
    def retreat(
        dy,
        s,
        kept,
        flags,
        dp,
        dq,
        ds,
        clip,
        shared,
        now,
        after,
        ahead,
        live,
        first,
        B,
        lane,
        j,
        t,
        r,
    ):
        b = first + r
        if b < B and j < n:
            live_t, dy_t = live[r], ahead[r * FETCHED]
            kept_t = fetched_activations(ahead, r * FETCHED)
            s_t, s_next = fetched_states(ahead, r * FETCHED), carried(after, r * S)
            carry(after, r * S, s_t)
            if t > 0:
                fetch(ahead, r * FETCHED, dy, kept, s, t - 1, b, j)
                live[r] = flags[t - 1, b] | (live_t & RESET) << 1
            if live_t & CUT:
                hand_over(ds, now, lane, b, j, r)
                carry(now, r * S, NO_STATES)
            if live_t & RESET:
                s_t = states(s, 0, b, j)
            if live_t & LIVE:
                now[r * S + OUTPUT] += dy_t
                δp, δq, d = back(carried(now, r * S), kept_t, s_t, s_next)
                carry(now, r * S, d)
                δp, δq = limited(δp, clip, t, b), limited(δq, clip, t, b)
            else:
                δp, δq = NOTHING, NOTHING
            if lane == 0:
                put_gates(dp, t, b, j, δp)
                if APART:
                    put_gates(dq, t, b, j, δq)
                share(shared, ((t & 1) * rows + r) * width + j, n, δq)
                put_square(shared, δp, clip, j, t, r)

    @device_function
    def through_W(now, total, r):
        now[r * S] += total[r]

    @device_function
    def finish(ds, now, first, B, lane, j, r):
        b = first + r
        if b < B and j < n:
            hand_over(ds, now, lane, b, j, r)

    begin_all = device_function(each_sample(rows, begin))
    empty_all = device_function(each_sample(rows, empty))
    shrink_all = device_function(each_sample(rows, shrink))
    retreat_all = device_function(each_sample(rows, retreat))
    through_W_all = device_function(each_sample(rows, through_W))
    finish_all = device_function(each_sample(rows, finish))

    @cuda.jit(launch_bounds=plan.threads)
    def backward(dy, W, s, kept, flags, dp, dq, ds, clip):
        T, B = dp.shape[0], dp.shape[1]
        lane, j, first = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes, cuda.blockIdx.x * rows
        shared = cuda.shared.array(0, number)
        w = cuda.local.array(HELD, number)
        now = cuda.local.array(STATES, number)
        after = cuda.local.array(STATES, number)
        ahead = cuda.local.array(AHEAD, number)
        live = cuda.local.array(rows, np.int32)
        total = cuda.local.array(rows, number)
        fill(W, True, w, shared)
        clear(shared)
        begin_all(dy, s, kept, flags, ds, now, after, ahead, live, first, T, B, j)
        cuda.syncthreads()
        empty_all(ds, first, B, lane, j)
        t = T - 1
        while t >= 0:
            retreat_all(
                dy,
                s,
                kept,
                flags,
                dp,
                dq,
                ds,
                clip,
                shared,
                now,
                after,
                ahead,
                live,
                first,
                B,
                lane,
                j,
                t,
            )
            cuda.syncthreads()  # Wᵀ dq reads δ of every unit
            sums(w, shared, (t & 1) * rows * width, total)
            shrink_all(shared, dp, dq, total, clip, first, B, lane, j, t)
            through_W_all(now, total)
            t -= 1
        finish_all(ds, now, first, B, lane, j)

    return backward
