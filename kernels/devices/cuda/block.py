"""The block schedule: W of one SM's size on the chip, a slice of the batch a block, all T steps in one launch.

A unit is `lanes` neighbouring threads. Each sums over its share of the inputs, for all gates at once; shuffles add the shares, so
that every lane has every gate and takes the step itself. Weights stand in registers as far as these go, the rest in shared
memory, thread by thread; the state of the block's rows in shared memory, twice, so that one barrier a step is enough.
What the next step needs from global memory is fetched before the sums of this one.
"""

from functools import cache
from typing import NamedTuple

from numba import cuda

from ... import LIVE
from ...binding import gather, scatter
from .launch import TOGETHER, device_function, formula
from .ptx import quad

WARP = 0xFFFFFFFF


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled. Quads are four neighbouring inputs: one 16-byte load."""

    n: int  # units
    inputs: int  # length of the vector that W multiplies: n forward, G·n backward
    outputs: int  # sums a unit takes: G forward, 1 backward
    lanes: int  # threads a unit: 1, 2, 4 or 8
    rows: int  # samples a block
    held: int  # quads of inputs a lane has weights for in registers; the others are in shared memory

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
        """Numbers in shared memory: the inputs of every row twice, and the weights that registers do not hold."""
        return 2 * self.rows * self.width + 4 * (self.quads - self.held) * self.outputs * self.threads


@cache
def sums_of(plan: Plan, number):
    """The device functions (fill, sums): weights to where the plan wants them; w · x for all outputs of this unit."""
    lanes, rows, held, outputs, threads = plan.lanes, plan.rows, plan.held, plan.outputs, plan.threads
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
    def fill(W, transposed, w, shared):
        thread = cuda.threadIdx.x
        lane, j = thread % lanes, thread // lanes
        for q in range(held):
            for o in range(outputs):
                for e in range(4):
                    w[(q * outputs + o) * 4 + e] = weight(W, transposed, j, o, (q * lanes + lane) * 4 + e)
        for q in range(held, quads):
            for o in range(outputs):
                for e in range(4):
                    place = first_weight + (((q - held) * outputs + o) * threads + thread) * 4 + e
                    shared[place] = weight(W, transposed, j, o, (q * lanes + lane) * 4 + e)
        i = thread
        while i < first_weight:
            shared[i] = ZERO  # padding stays so
            i += threads

    @device_function
    def sums(w, shared, base, total):
        """total[o] = Σ w x over all inputs, x at shared[base …]."""
        thread = cuda.threadIdx.x
        lane = thread % lanes
        for o in range(outputs):
            total[o] = ZERO
        for q in range(held):
            at = base + (q * lanes + lane) * 4
            x0, x1, x2, x3 = quad(shared, at)
            for o in range(outputs):
                k = (q * outputs + o) * 4
                total[o] += w[k] * x0
                total[o] += w[k + 1] * x1
                total[o] += w[k + 2] * x2
                total[o] += w[k + 3] * x3
        for q in range(held, quads):
            at = base + (q * lanes + lane) * 4
            x0, x1, x2, x3 = quad(shared, at)
            for o in range(outputs):
                w0, w1, w2, w3 = quad(shared, first_weight + (((q - held) * outputs + o) * threads + thread) * 4)
                total[o] += w0 * x0
                total[o] += w1 * x1
                total[o] += w2 * x2
                total[o] += w3 * x3
        by = 1
        while by < lanes:
            for o in range(outputs):
                total[o] += cuda.shfl_xor_sync(WARP, total[o], by)
            by *= 2

    return fill, sums


@cache
def forward_kernel(cell, number, plan: Plan):
    G, S, K = cell.gates, cell.states, cell.kept
    n, lanes, rows, width = plan.n, plan.lanes, plan.rows, plan.width
    step, (fill, sums) = formula(cell.step, number), sums_of(plan, number)
    HELD, STATES, GATES = max(1, plan.held * plan.outputs * 4), rows * S, rows * G
    ZERO, NOTHING = number(0), (number(0),) * K
    BIAS = " + c[{k}]" if cell.apart else ""
    gates = device_function(gather(G, "a, t, b, j", "a[t, b, {k}, j]"))
    fetched = device_function(gather(G, "a, base", "a[base + {k}]"))
    recurrent = device_function(gather(G, "total, c", "total[{k}]" + BIAS))
    carried = device_function(gather(S, "a, base", "a[base + {k}]"))
    fetch = device_function(scatter(G, "a, base", "a[base + {k}]"))
    carry = device_function(scatter(S, "a, base", "a[base + {k}]"))
    states = device_function(gather(S, "s, t, b, j", "s[{k}, t, b, j]"))
    put_states = device_function(scatter(S, "s, t, b, j", "s[{k}, t, b, j]"))
    put_kept = device_function(scatter(K, "a, t, b, j", "a[t, b, {k}, j]"))
    APART = cell.apart

    @cuda.jit(launch_bounds=plan.threads)
    def forward(p, W, c, s, kept, flags):
        T, B = p.shape[0], p.shape[1]
        lane, j, first = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes, cuda.blockIdx.x * rows
        shared = cuda.shared.array(0, number)
        w = cuda.local.array(HELD, number)
        now, ahead = cuda.local.array(STATES, number), cuda.local.array(GATES, number)
        total, bias = cuda.local.array(G, number), cuda.local.array(G, number)
        fill(W, False, w, shared)
        cuda.syncthreads()
        if APART:
            for g in range(G):
                bias[g] = c[g * n + j] if j < n else ZERO
        for r in range(rows):
            b = first + r
            if b < B and j < n:
                carry(now, r * S, states(s, 0, b, j))
                fetch(ahead, r * G, gates(p, 0, b, j))
                shared[r * width + j] = now[r * S]
        cuda.syncthreads()
        t = 0
        while t < T:
            here, there = (t & 1) * rows * width, ((t + 1) & 1) * rows * width
            for r in range(rows):
                b = first + r
                p_t = fetched(ahead, r * G)
                if b < B and j < n and t + 1 < T:
                    fetch(ahead, r * G, gates(p, t + 1, b, j))
                sums(w, shared, here + r * width, total)
                if b < B and j < n:
                    if flags[t, b] & LIVE:
                        s_next, k = step(p_t, recurrent(total, bias), carried(now, r * S))
                        carry(now, r * S, s_next)
                        if lane == 0:
                            put_kept(kept, t, b, j, k)
                    elif lane == 0:
                        put_kept(kept, t, b, j, NOTHING)
                    if lane == 0:
                        put_states(s, t + 1, b, j, carried(now, r * S))
                        shared[there + r * width + j] = now[r * S]
            cuda.syncthreads()  # the next step reads every unit
            t += 1

    return forward


@cache
def backward_kernel(cell, number, plan: Plan):
    G, S, K = cell.gates, cell.states, cell.kept
    n, lanes, rows, width = plan.n, plan.lanes, plan.rows, plan.width
    back, (fill, sums) = formula(cell.back, number), sums_of(plan, number)
    HELD, STATES = max(1, plan.held * plan.outputs * 4), rows * S
    NOTHING, APART = (number(0),) * G, cell.apart
    activations = device_function(gather(K, "a, t, b, j", "a[t, b, {k}, j]"))
    states = device_function(gather(S, "s, t, b, j", "s[{k}, t, b, j]"))
    carried = device_function(gather(S, "a, base", "a[base + {k}]"))
    carry = device_function(scatter(S, "a, base", "a[base + {k}]"))
    put_states = device_function(scatter(S, "s, t, b, j", "s[{k}, t, b, j]"))
    put_gates = device_function(scatter(G, "a, t, b, j", "a[t, b, {k}, j]"))
    share = device_function(scatter(G, "a, base, n", "a[base + {k} * n]"))

    @cuda.jit(launch_bounds=plan.threads)
    def backward(dy, W, s, kept, flags, dp, dq, ds):
        T, B = dp.shape[0], dp.shape[1]
        lane, j, first = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes, cuda.blockIdx.x * rows
        shared = cuda.shared.array(0, number)
        w = cuda.local.array(HELD, number)
        now, total = cuda.local.array(STATES, number), cuda.local.array(1, number)
        fill(W, True, w, shared)
        for r in range(rows):
            b = first + r
            if b < B and j < n:
                carry(now, r * S, states(ds, 0, b, j))
        cuda.syncthreads()
        t = T - 1
        while t >= 0:
            here = (t & 1) * rows * width
            for r in range(rows):
                b = first + r
                if b < B and j < n:
                    if flags[t, b] & LIVE:
                        now[r * S] += dy[t, b, j]
                        δp, δq, d = back(carried(now, r * S), activations(kept, t, b, j), states(s, t, b, j), states(s, t + 1, b, j))
                        carry(now, r * S, d)
                    else:
                        δp, δq = NOTHING, NOTHING
                    if lane == 0:
                        put_gates(dp, t, b, j, δp)
                        if APART:
                            put_gates(dq, t, b, j, δq)
                        share(shared, here + r * width + j, n, δq)
            cuda.syncthreads()  # Wᵀ dq reads δ of every unit
            for r in range(rows):
                sums(w, shared, here + r * width, total)
                now[r * S] += total[0]
            t -= 1
        for r in range(rows):
            b = first + r
            if b < B and j < n and lane == 0:
                put_states(ds, 0, b, j, carried(now, r * S))

    return backward
