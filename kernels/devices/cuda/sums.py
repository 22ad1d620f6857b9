"""The sums of the persistent schedules: what teams of threads make of W and the vector it
multiplies.

A team is `lanes` neighbouring threads that share `units` units. Each lane sums over its share of
the inputs, for all their units, outputs and samples at once. Then shuffles add the shares and deal
the sums out: of a unit and a sample they end with one lane, as far as there are enough of both;
else some lanes repeat each other and all have them. So x is read once for several units, and few
lanes repeat a cell's step. A sum moves by one shuffle and one addition: each lane has its own unit
and its own sample first, and in place k those that the k-th neighbour has first. Nothing is chosen.

Weights stand in registers as far as these go, the rest in shared memory, thread by thread. What
runs over samples, or over weights in registers, is spelled out (`each`): an array stays in
registers only if every index is a constant, and the compiler unrolls no loop that it finds too
long.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...binding.closures import each
from .launch import cuda, device_function
from .plans import COLUMNS, QUAD, Plan
from .ptx import put_shared, quad, shared_place
from .tensor_sums import clear_halves_of, sample_of, tensor_loads_of, tensor_sums_of

ALL_LANES = 0xFFFFFFFF  # of a warp take part in a shuffle


class Thread(NamedTuple):
    """Where a thread works, and what it sums with; both ways."""

    rank: Any  # of its block among those that share the units
    lane: Any  # which of its team's threads, of 32 bits
    unit: Any  # of its block; some may have no place there
    j: Any  # that unit of the layer; beyond n where there is none
    first: Any  # sample of the block
    b: Any  # the first sample whose step it takes
    repeat: Any  # which of the lanes that take the same step
    # (plan.shared,) of the block: two halves, for even and for odd steps, of what W multiplies, a
    # sample behind the other, and of the sums of δ²; then weights
    shared: Any
    x: Any  # place in the first half of what this lane multiplies
    behind: Any  # (scattered,) in registers: how far behind x the numbers of a sample stand
    out: Any  # place in the first half of this unit and its first sample
    w: Any  # place of this thread's weights
    weights: Any  # (outputs · units · in_registers quads,) in registers
    total: Any  # (samples · units · outputs · chains,) in registers: sums of a step


@cache
def halves_of(plan: Plan):
    """The device function (shared, place in its first half) -> what that and its place in the other
    half come to: either is the sum less the other.
    """
    half = plan.half

    @device_function
    def halves(shared, place):
        return np.int32(2 * place + distance_of(shared, half))

    return halves


@device_function
def distance_of(shared, count):
    """Of `count` numbers in shared memory."""
    return np.int32(shared_place(shared, count) - shared_place(shared, 0))


@device_function
def other(both, place):
    """The same place in the other half."""
    return np.int32(both - place)


@cache
def thread_of(plan: Plan, number):
    """The device function (weights, total, behind, earlier) -> this Thread, of the samples behind
    those of earlier launches. A kernel itself makes its arrays in registers: those of a function
    end with it.
    """
    lanes, units, samples, blocks = plan.lanes, plan.units, plan.samples, plan.blocks
    n, each_block, scattered, width = plan.n, plan.units_each, plan.scattered, plan.width
    first_weight, (of_unit, _) = plan.first_weight, plan.strides
    TILED = plan.product != "fp32"

    @device_function
    def first_multiplied(shared, index, lane):
        column = sample_of(index // lanes % COLUMNS) if TILED else 0
        return shared_place(shared, column * width + lane * QUAD)

    @device_function
    def put_behind(k, shared, sample, behind):
        behind[k] = distance_of(shared, np.int64(sample ^ k) * width)

    put_all_behind = each(scattered, put_behind, device_function)

    @device_function
    def this_thread(weights, total, behind, earlier):
        index, shared = cuda.threadIdx.x, cuda.shared.array(0, number)
        lane, rank = np.int32(index % lanes), cuda.blockIdx.x % blocks
        unit = index // lanes * units + lane % units
        j = rank * each_block + unit if blocks == 1 or unit < each_block else n
        sample = lane // units % scattered
        put_all_behind(shared, sample, behind)
        first = earlier + cuda.blockIdx.x // blocks * samples
        return Thread(
            rank,
            lane,
            unit,
            j,
            first,
            first + sample,
            lane // (units * scattered),
            shared,
            first_multiplied(shared, index, lane),
            behind,
            shared_place(shared, sample * width + j * of_unit),
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
def weight_of(plan: Plan, number):
    """The device function (W, transposed, j, output, i) -> the weight of number i of the vector in
    one output of unit j; zero where one of them is not there.
    """
    n, places, vector, ZERO = plan.n, plan.places, plan.vector, number(0)
    IN_QUADS = plan.in_quads

    @device_function
    def weight(W, transposed, j, output, i):
        gate, unit = (i % QUAD, i // QUAD) if IN_QUADS else (0, i)
        while unit >= places:
            gate, unit = gate + 1, unit - places
        if j < n and unit < n and i < vector:
            return W[gate * n + unit, j] if transposed else W[output * n + j, unit]
        return ZERO

    return weight


@cache
def loads_of(plan: Plan, number):
    """The device function load_weights(W, transposed, thread): to where the plan wants them; and
    zero to all that they will multiply.
    """
    units, outputs, lanes, threads = plan.units, plan.outputs, plan.lanes, plan.threads
    in_registers, quads, first_weight = plan.in_registers, plan.quads, plan.first_weight
    each_quad, each_block = units * outputs, plan.units_each
    weight, clear_halves = weight_of(plan, number), clear_halves_of(plan, number)

    @device_function
    def of_quad(W, transposed, q, u, o, e, thread):
        """Number e of quad q of this lane, for output o of the unit in place u."""
        i = (q * lanes + thread.lane) * QUAD + e
        own = thread.lane % units
        j = thread.rank * each_block + thread.unit - own + (u ^ own)
        return weight(W, transposed, j, o, i)

    if plan.product != "fp32":
        return tensor_loads_of(plan, number, of_quad)

    @device_function
    def load_quad(q, W, transposed, thread):
        for u in range(units):
            for o in range(outputs):
                for e in range(QUAD):
                    value = of_quad(W, transposed, q, u, o, e, thread)
                    thread.weights[(q * each_quad + u * outputs + o) * QUAD + e] = value

    load_quads = each(in_registers, load_quad, device_function)

    @device_function
    def load_weights(W, transposed, thread):
        index, shared, first = cuda.threadIdx.x, thread.shared, shared_place(thread.shared, 0)
        load_quads(W, transposed, thread)
        q = in_registers
        while q < quads:
            for u in range(units):
                for o in range(outputs):
                    k = (q - in_registers) * each_quad + u * outputs + o
                    place = first_weight + (k * threads + index) * QUAD
                    for e in range(QUAD):
                        value = of_quad(W, transposed, q, u, o, e, thread)
                        put_shared(shared, first, place + e, value)
            q += 1
        clear_halves(thread)

    return load_weights


@cache
def dealing_of(plan: Plan):
    """The device function deal(total): shares of sums to sums, those of a lane's own unit and
    samples at the places that `Plan.between` says.
    """
    units, samples, outputs, chains = plan.units, plan.samples, plan.outputs, plan.chains
    scattered, of_unit, of_sample = plan.scattered, outputs * chains, plan.units * outputs * chains

    @device_function
    def nothing_left(total):
        return None

    def stage(count, place, distance, by, before):
        """Of `count` sums, each at place(k): that of the neighbour `by` lanes away is added, which
        has it `distance` behind.
        """

        @device_function
        def move(k, total):
            here = place(k)
            total[here] += cuda.shfl_xor_sync(ALL_LANES, total[here + distance], by)

        moves = each(count, move, device_function)

        @device_function
        def staged(total):
            before(total)
            moves(total)

        return staged

    deal, by = nothing_left, units // 2
    while by:
        place = unit_place_of(by, outputs, chains, of_unit, of_sample)
        deal = stage(samples * by * outputs, place, by * of_unit, by, deal)
        by //= 2
    by = scattered // 2
    while by:
        place = sample_place_of(by, outputs, chains, scattered, of_sample)
        count = samples // scattered * by * outputs
        deal = stage(count, place, by * of_sample, by * units, deal)
        by //= 2
    by = units * scattered
    while by < plan.lanes:
        place = sample_place_of(1, outputs, chains, scattered, of_sample)
        deal = stage(plan.held * outputs, place, 0, by, deal)
        by *= 2
    return deal


def unit_place_of(by: int, outputs: int, chains: int, of_unit: int, of_sample: int):
    """(k) -> place of the k-th sum: of each output, of units 0 … by − 1, of each sample."""
    return device_function(
        lambda k: (
            k // (outputs * by) * of_sample + k // outputs % by * of_unit + k % outputs * chains
        )
    )


def sample_place_of(by: int, outputs: int, chains: int, scattered: int, of_sample: int):
    """(k) -> place of the k-th sum: of each output, of `by` neighbouring samples, of every
    scattered-th of them.
    """
    return device_function(
        lambda k: (
            (k // (outputs * by) * scattered + k // outputs % by) * of_sample + k % outputs * chains
        )
    )


@cache
def sums_of(plan: Plan, number):
    """The device function sums(thread, x): W · x for all outputs of this thread's unit and samples;
    x is where those of this lane and the first sample begin in thread.shared.

    Sum o of the h-th sample stands in thread.total[h · plan.between + o · plan.chains].
    """
    if plan.product != "fp32":
        return tensor_sums_of(plan, number)
    units, outputs, samples, chains = plan.units, plan.outputs, plan.samples, plan.chains
    lanes, threads, width, scattered = plan.lanes, plan.threads, plan.width, plan.scattered
    in_registers, quads, ZERO = plan.in_registers, plan.quads, number(0)
    each_quad, deal = units * outputs, dealing_of(plan)

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
    def quad_of(r, q, x, thread):
        """Of what is in place r of a lane's samples."""
        if scattered == 1:
            return quad(thread.shared, x, r * width + q * lanes * QUAD)
        block = r // scattered * scattered
        place = np.int32(x + thread.behind[r % scattered])
        return quad(thread.shared, place, block * width + q * lanes * QUAD)

    @device_function
    def add_output(k, r, q, x, thread):
        w, base = thread.weights, (q * each_quad + k) * QUAD
        four = w[base], w[base + 1], w[base + 2], w[base + 3]
        add(thread.total, r * each_quad + k, four, x)

    add_outputs = each(each_quad, add_output, device_function)

    @device_function
    def add_sample(r, q, x, thread):
        add_outputs(r, q, quad_of(r, q, x, thread), thread)

    add_samples = each(samples, add_sample, device_function)

    @device_function
    def add_quad(q, x, thread):
        add_samples(q, x, thread)

    add_quads = each(in_registers, add_quad, device_function)

    @device_function
    def add_shared_sample(r, k, q, w, x, thread):
        add(thread.total, r * each_quad + k, w, quad_of(r, q, x, thread))

    add_shared_samples = each(samples, add_shared_sample, device_function)

    @device_function
    def add_shared_output(k, q, x, thread):
        place = ((q - in_registers) * each_quad + k) * threads * QUAD
        add_shared_samples(k, q, quad(thread.shared, thread.w, place), x, thread)

    add_shared_outputs = each(each_quad, add_shared_output, device_function)

    @device_function
    def clear(k, total):
        total[k] = ZERO

    @device_function
    def join(k, sum, total):
        total[sum * chains] += total[sum * chains + 1 + k]

    join_all = each(chains - 1, join, device_function)
    clear_all = each(samples * each_quad * chains, clear, device_function)
    join_chains = each(samples * each_quad, join_all, device_function)

    @device_function
    def sums(thread, x):
        clear_all(thread.total)
        add_quads(x, thread)
        q = in_registers
        while q < quads:
            add_shared_outputs(q, x, thread)
            q += 1
        join_chains(thread.total)
        deal(thread.total)

    return sums
