"""The sums of the block schedule: what a unit's lanes make of W and the vector it multiplies.

A unit is `lanes` neighbouring threads. Each sums over its share of the inputs, for all outputs at
once; shuffles add the shares, so that every lane has them all. Weights stand in registers as far as
these go, the rest in shared memory, thread by thread.

What runs over the block's samples, or over weights in registers, is spelled out (`each`): an array
stays in registers only if every index is a constant, and the compiler unrolls no loop that it finds
too long.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...binding.closures import each
from .launch import cuda, device_function
from .plans import QUAD, Plan
from .ptx import put_shared, quad, shared_place

ALL_LANES = 0xFFFFFFFF  # of a warp take part in a shuffle


class Thread(NamedTuple):
    """Where a thread works, and what it sums with; both ways."""

    lane: Any  # which of the unit's threads, of 32 bits
    j: Any  # unit; those beyond n do nothing but reach the barriers
    first: Any  # sample of the block
    # (plan.shared,) of the block: two halves, for even and for odd steps, of what W multiplies, a
    # sample behind the other, and of the sums of δ²; then weights
    shared: Any
    x: Any  # place in the first half of what this lane multiplies
    out: Any  # place in the first half of this unit
    w: Any  # place of this thread's weights
    weights: Any  # (outputs · in_registers quads,) in registers
    total: Any  # (samples · outputs · chains,) in registers: sums of a step


@cache
def halves_of(plan: Plan):
    """The device function (shared, place in its first half) -> what that and its place in the other
    half come to: either is the sum less the other.
    """
    half = plan.half

    @device_function
    def halves(shared, place):
        return np.int32(2 * place + shared_place(shared, half) - shared_place(shared, 0))

    return halves


@device_function
def other(both, place):
    """The same place in the other half."""
    return np.int32(both - place)


@cache
def thread_of(plan: Plan, number):
    """The device function (weights, total) -> this Thread. A kernel itself makes its arrays in
    registers: those of a function end with it.
    """
    lanes, samples, first_weight = plan.lanes, plan.samples, plan.first_weight

    @device_function
    def this_thread(weights, total):
        index, shared = cuda.threadIdx.x, cuda.shared.array(0, number)
        lane, j = np.int32(index % lanes), index // lanes
        return Thread(
            lane,
            j,
            cuda.blockIdx.x * samples,
            shared,
            shared_place(shared, lane * QUAD),
            shared_place(shared, j),
            shared_place(shared, first_weight + index * QUAD),
            weights,
            total,
        )

    return this_thread


@device_function
def over_threads(a, first, count):
    """The sum of a over `count` threads that stand `first` apart, which all of them get."""
    by = first
    while by < first * count:
        a += cuda.shfl_xor_sync(ALL_LANES, a, by)
        by *= 2
    return a


@cache
def sums_of(plan: Plan, number):
    """The device functions (load_weights, sums): weights to where the plan wants them; W · x for
    all outputs of this unit and all samples.
    """
    n, inputs, outputs = plan.n, plan.inputs, plan.outputs
    lanes, samples, threads, chains = plan.lanes, plan.samples, plan.threads, plan.chains
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
        index, shared, first = cuda.threadIdx.x, thread.shared, shared_place(thread.shared, 0)
        load_quads(W, transposed, thread)
        q = in_registers
        while q < quads:
            for o in range(outputs):
                place = first_weight + (((q - in_registers) * outputs + o) * threads + index) * QUAD
                for e in range(QUAD):
                    i = (q * lanes + thread.lane) * QUAD + e
                    put_shared(shared, first, place + e, weight(W, transposed, thread.j, o, i))
            q += 1
        i = index
        while i < first_weight:
            put_shared(shared, first, i, ZERO)  # padding stays so
            i += threads

    @device_function
    def add(total, sum, w, x):
        """A quad of products, to the chains of one sum in turn."""
        w0, w1, w2, w3 = w
        x0, x1, x2, x3 = x
        first = sum * chains
        total[first] += w0 * x0
        total[first + 1 % chains] += w1 * x1
        total[first + 2 % chains] += w2 * x2
        total[first + 3 % chains] += w3 * x3

    @device_function
    def add_output(o, r, q, x, thread):
        w, base = thread.weights, (q * outputs + o) * QUAD
        add(thread.total, r * outputs + o, (w[base], w[base + 1], w[base + 2], w[base + 3]), x)

    add_outputs = each(outputs, add_output, device_function)

    @device_function
    def add_sample(r, q, x, thread):
        behind = r * width + q * lanes * QUAD
        add_outputs(r, q, quad(thread.shared, x, behind), thread)

    add_samples = each(samples, add_sample, device_function)

    @device_function
    def add_quad(q, x, thread):
        add_samples(q, x, thread)

    add_quads = each(in_registers, add_quad, device_function)

    @device_function
    def add_shared_sample(r, o, q, w, x, thread):
        behind = r * width + q * lanes * QUAD
        add(thread.total, r * outputs + o, w, quad(thread.shared, x, behind))

    add_shared_samples = each(samples, add_shared_sample, device_function)

    @device_function
    def add_shared_output(o, q, x, thread):
        w = quad(thread.shared, thread.w, ((q - in_registers) * outputs + o) * threads * QUAD)
        add_shared_samples(o, q, w, x, thread)

    add_shared_outputs = each(outputs, add_shared_output, device_function)

    @device_function
    def clear(k, total):
        total[k] = ZERO

    @device_function
    def join(k, sum, total):
        total[sum * chains] += total[sum * chains + 1 + k]

    join_all = each(chains - 1, join, device_function)

    @device_function
    def reduce(sum, total):
        join_all(sum, total)
        total[sum * chains] = over_threads(total[sum * chains], 1, lanes)

    clear_all = each(samples * outputs * chains, clear, device_function)
    reduce_all = each(samples * outputs, reduce, device_function)

    @device_function
    def sums(thread, x):
        """thread.total[(r·outputs + o)·chains] = Σ w x over all inputs; x is where those of this
        lane and the first sample begin in thread.shared.
        """
        clear_all(thread.total)
        add_quads(x, thread)
        q = in_registers
        while q < quads:
            add_shared_outputs(q, x, thread)
            q += 1
        reduce_all(thread.total)

    return load_weights, sums
