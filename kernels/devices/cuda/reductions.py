"""An update without a wait: loss and slope, norms of all gradients, and the change of all weights.

A sum over a grid is left in parts, one a block: nothing is atomic, and no block waits for another.
The kernel that needs the sum adds the parts up, in the same order in each of its blocks. How many
there are depends on sizes alone, so an update has the same bits on every card, every time.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ... import Change, Limits, Report
from ...binding.closures import each_over, tuple_of, tuple_over
from ...clipping import bounded
from ...losses import Loss, are_labels, exp_below, log_above, value_and_slope
from ...once import once
from .compiled import factory
from .launch import SIMULATED, THREADS, arrays, cuda, device_function, formula, launch

PARTS = 3 if SIMULATED else 256  # blocks whose sums are added up later, at most
MOST_BLOCKS = 4 * PARTS  # of the kernel that adds them up, each of its blocks anew
WARP = min(32, THREADS)
WARPS = THREADS // WARP
ALL_LANES = 0xFFFFFFFF
LIMITS = len(Limits._fields)
SUMS, NORMS = 2, 3  # numbers of a part
MOST_ARRAYS = 60  # of one launch: a kernel's parameters have 4 KB, an array takes 56 bytes of them
INF, ZERO, YES = np.float64(np.inf), np.float64(0), np.float64(1)


def parts_for(blocks: int) -> int:
    """Blocks of a kernel that leaves parts, which takes what is left in turn."""
    return max(1, min(blocks, PARTS))


# Sums over threads


@device_function
def add(a, b):
    return a + b


@device_function
def larger(a, b):
    return a if a > b else b


def lane_wide(combine: Callable) -> Any:
    """The device function (value, lanes) -> that of `lanes` neighbours of a warp, in each."""

    @device_function
    def combined(value, lanes):
        by = lanes // 2
        while by:
            value = combine(value, cuda.shfl_xor_sync(ALL_LANES, value, by))
            by //= 2
        return value

    return combined


def block_wide(combine: Callable) -> Any:
    """The device function (value, room) -> that of all threads of a block combined, in each.

    room (WARPS,) is shared memory. The block has THREADS.
    """
    over_lanes = lane_wide(combine)

    @device_function
    def combined(value, room):
        thread, value = cuda.threadIdx.x, over_lanes(value, WARP)
        if thread % WARP == 0:
            room[thread // WARP] = value
        cuda.syncthreads()
        whole, i = room[0], 1
        while i < WARPS:
            whole = combine(whole, room[i])
            i += 1
        cuda.syncthreads()  # all have read before room is written again
        return whole

    return combined


sum_of_block, largest_of_block = block_wide(add), block_wide(larger)
sum_of_lanes, largest_of_lanes = lane_wide(add), lane_wide(larger)


def added_up(combine: Callable, over_block: Callable) -> Any:
    """The device function (parts, column, room) -> a column of parts combined, in each thread."""

    @device_function
    def whole(parts, column, room):
        value, i = ZERO, cuda.threadIdx.x
        while i < len(parts):
            value = combine(value, parts[i, column])
            i += THREADS
        return over_block(value, room)

    return whole


total_of, largest_of = added_up(add, sum_of_block), added_up(larger, largest_of_block)


# The loss


@once
def log_sum_of(loss: Loss, number) -> Any:
    """The device function (o, row, lane, lanes) -> ln Σ exp(o) of a row, by neighbouring lanes; a
    number that nobody looks at where the loss does not.
    """
    if loss.classes != "exclusive":
        return device_function(lambda o, row, lane, lanes: o[row, 0])
    term, together = formula(exp_below, number), formula(log_above, number)
    LOWEST, NOTHING = number(-np.inf), number(0)

    @device_function
    def log_sum(o, row, lane, lanes):
        largest, j = LOWEST, lane
        while j < o.shape[1]:
            largest = larger(o[row, j], largest)  # not NaN, which the sum will be
            j += lanes
        largest = largest_of_lanes(largest, lanes)
        total, j = NOTHING, lane
        while j < o.shape[1]:
            total += term(o[row, j], largest)
            j += lanes
        return together(sum_of_lanes(total, lanes), largest)

    return log_sum


@device_function
def comes_first(a, i, b, j):
    """Does NumPy's argmax take a at i rather than b at j: NaN is the largest, of equals the first
    counts.
    """
    equal = a == b or (a != a and b != b)
    return a > b or (a != a and b == b) or (equal and i < j)


@device_function
def argmax(a, row, lane, lanes):
    """Where a row is largest, by neighbouring lanes, in each."""
    at = lane if lane < a.shape[1] else 0
    best, j = a[row, at], lane + lanes
    while j < a.shape[1]:
        if comes_first(a[row, j], j, best, at):
            best, at = a[row, j], j
        j += lanes
    by = lanes // 2
    while by:
        other = cuda.shfl_xor_sync(ALL_LANES, best, by)
        there = cuda.shfl_xor_sync(ALL_LANES, at, by)
        if comes_first(other, there, best, at):
            best, at = other, there
        by //= 2
    return at


@once
def target_of(number, labels: bool) -> Any:
    """The device function (target, row, j) -> the target of an output, of rows (R, k), or of class
    labels (R,).
    """
    NOTHING, ONE = number(0), number(1)

    @device_function
    def of_label(target, row, j):
        return ONE if target[row] == j else NOTHING

    return of_label if labels else device_function(lambda target, row, j: target[row, j])


@once
def hit_of(loss: Loss, number, labels: bool) -> Any:
    """The device function (o, target, row, lane, lanes) -> is the most likely class of a row the
    target's, by neighbouring lanes, in each.
    """
    NOTHING, HALF = number(0), number(0.5)

    @device_function
    def of_class(o, target, row, lane, lanes):
        return argmax(o, row, lane, lanes) == target[row]

    @device_function
    def exclusive(o, target, row, lane, lanes):
        return argmax(o, row, lane, lanes) == argmax(target, row, lane, lanes)

    @device_function
    def binary(o, target, row, lane, lanes):
        misses, j = 0, lane
        while j < o.shape[1]:
            misses += (o[row, j] > NOTHING) != (target[row, j] > HALF)
            j += lanes
        return sum_of_lanes(misses, lanes) == 0

    of_none = device_function(lambda o, target, row, lane, lanes: False)
    of_classes = of_class if labels else exclusive
    return {"exclusive": of_classes, "binary": binary, "": of_none}[loss.classes]


@factory
def loss_kernel(kind: Loss, number, labels: bool):
    """The kernel of `Device.loss`."""
    both, log_sum_of_row = formula(value_and_slope(kind), number), log_sum_of(kind, number)
    hit_of_row, NOTHING = hit_of(kind, number, labels), number(0)
    target_at = target_of(number, labels)

    @cuda.jit
    def loss(o, target, weight, total, do, sums, lanes):
        """`Device.loss`, of rows o (R, k), target (R, k) or (R,), weight (R,), each by `lanes`
        neighbours of a warp.  Overwrites do and sums (blocks, 2).
        """
        room = cuda.shared.array(WARPS, np.float64)
        rows, k = o.shape
        lane, own, group = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes, THREADS // lanes
        E, right = ZERO, ZERO
        first = cuda.blockIdx.x * group
        while first < rows:  # the same for all lanes of a warp, which exchange numbers
            row = min(first + own, rows - 1)
            log_sum = log_sum_of_row(o, row, lane, lanes)
            hit = hit_of_row(o, target, row, lane, lanes)
            if first + own < rows:
                w = weight[row]
                scale = w / total[0]
                if lane == 0 and hit:
                    right += np.float64(w)
                j = lane
                while j < k:
                    slope = NOTHING
                    if w != NOTHING:
                        value, slope = both(o[row, j], target_at(target, row, j), log_sum)
                        E += np.float64(value) * np.float64(w)
                        slope *= scale
                    do[row, j] = slope
                    j += lanes
            first += cuda.gridDim.x * group
        E, right = sum_of_block(E, room), sum_of_block(right, room)
        if cuda.threadIdx.x == 0:
            sums[cuda.blockIdx.x, 0] = E
            sums[cuda.blockIdx.x, 1] = right

    return loss


def lanes_for(k: int) -> int:
    """Threads that share a row of k numbers: a power of two, within a warp."""
    return min(WARP, 1 << (k - 1).bit_length())


def loss(kind: Loss, o, target, weight, total):
    T, B, k = o.shape
    rows, lanes = T * B, lanes_for(k)
    blocks = parts_for(-(-rows * lanes // THREADS))
    do, sums = arrays().empty(o.shape, o.dtype), arrays().empty((blocks, SUMS), np.float64)
    labels = are_labels(o, target)
    flat = o.reshape(rows, k), target.reshape(rows) if labels else target.reshape(rows, k)
    more = (weight.reshape(rows), total, do.reshape(rows, k), sums, lanes)
    launch(loss_kernel(kind, o.dtype.type, labels), blocks, THREADS, *flat, *more)
    return do, sums


# Norms of gradients


@factory
def norms_kernel(number):
    """The kernel of `Device.norms`."""
    within_bound = formula(bounded, number)

    @cuda.jit
    def norms(grads, scalars, parts):
        """`Device.norms`, of a tuple of arrays (·,).  Overwrites parts (blocks, 3)."""
        room = cuda.shared.array(WARPS, np.float64)
        bound = number(scalars[0])
        square, within, peak = ZERO, ZERO, ZERO
        for p in range(len(grads)):
            g = grads[p]
            for i in range(cuda.grid(1), g.size, cuda.gridsize(1)):
                here = np.float64(g[i])
                left = np.float64(within_bound(g[i], bound))
                square += here * here
                within += left * left
                peak = larger(abs(left), peak)
        square, within = sum_of_block(square, room), sum_of_block(within, room)
        peak = largest_of_block(peak, room)
        if cuda.threadIdx.x == 0:
            parts[cuda.blockIdx.x, 0] = square
            parts[cuda.blockIdx.x, 1] = within
            parts[cuda.blockIdx.x, 2] = peak

    return norms


def norms(grads: Sequence, scalars):
    groups = grouped(grads, MOST_ARRAYS)
    blocks = parts_for(blocks_over(grads))
    parts = arrays().empty((len(groups) * blocks, NORMS), np.float64)
    kernel = norms_kernel(grads[0].dtype.type)
    for k, group in enumerate(groups):
        own = parts[k * blocks : (k + 1) * blocks]
        launch(kernel, blocks, THREADS, flattened(group), scalars, own)
    return parts


def blocks_over(grads: Sequence) -> int:
    """Blocks of THREADS that would have a number each of the largest array."""
    return -(-max(g.size for g in grads) // THREADS)


def grouped(values: Sequence, most: int) -> list[tuple]:
    """values by up to `most`."""
    return [tuple(values[first : first + most]) for first in range(0, len(values), most)]


def flattened(group: Sequence) -> tuple:
    """Contiguous arrays of any shape as (·,)."""
    return tuple(a if a.ndim == 1 else a.reshape(-1) for a in group)


# The change of all weights


@factory
def update_kernel(f: Callable, number, moments: int, scalars: int):
    """The kernel of `Device.update`, of a formula of so many moments and numbers."""
    apply, within_bound = formula(f, number), formula(bounded, number)
    many, ONE = moments > 0, number(1)
    get = tuple_over(moments, device_function(lambda k, kind, p, i: kind[p][i]), device_function)

    @device_function
    def put_moment(k, kind, p, i, values):
        kind[p][i] = values[k + 1]

    @device_function
    def number_at(k, scalars):
        return number(scalars[LIMITS + k])

    put = each_over(moments, put_moment, device_function)
    numbers = tuple_of(scalars, number_at, device_function)

    @cuda.jit
    def update(parameters, moments, grads, scalars, sums, norms, report, first):
        """`Device.update`, of tuples of arrays (·,), those of the moments by kind; from the
        parameter `first` on.  Overwrites report.
        """
        room = cuda.shared.array(WARPS, np.float64)
        E, right = total_of(sums, 0, room), total_of(sums, 1, room)
        square, within = total_of(norms, 0, room), total_of(norms, 1, room)
        peak, norm = number(largest_of(norms, 2, room)), math.sqrt(within)
        value, bound, largest = scalars[0], scalars[1], scalars[2]
        factor = number(bound / norm) if norm > bound else ONE
        taken = abs(E) < INF and square < INF and not np.float64(peak * factor) > largest
        if cuda.grid(1) == 0:
            report[0], report[1], report[2] = E, right, square
            report[3], report[4] = (YES if taken else ZERO), ZERO
        if taken:
            given, clip = numbers(scalars), number(value)
            clips = value < INF or factor != ONE
            for p in range(first, len(parameters)):
                θ, g = parameters[p], grads[p]
                for i in range(cuda.grid(1), θ.size, cuda.gridsize(1)):
                    dθ = within_bound(g[i], clip) * factor
                    if clips:
                        g[i] = dθ
                    values = apply(*((θ[i],) + get(moments, p, i) + (dθ,) + given))
                    θ[i] = values[0] if many else values
                    put(moments, p, i, values)

    return update


def update(change: Change, sums, norms, changes: bool = True):
    kinds, number = len(change.moments[0]), change.grads[0].dtype.type
    kernel = update_kernel(change.formula, number, kinds, change.scalars.size - LIMITS)
    report = arrays().empty(len(Report._fields), np.float64)
    blocks = min(blocks_over(change.grads), MOST_BLOCKS) if changes else 1
    each = zip(change.parameters, change.moments, change.grads, strict=True)
    for group in grouped(tuple(each), MOST_ARRAYS // (2 + kinds)):
        parameters, moments, grads = zip(*group, strict=True)
        by_kind = tuple(flattened(kind) for kind in zip(*moments, strict=True))
        first = 0 if changes else len(parameters)
        given = (flattened(parameters), by_kind, flattened(grads), change.scalars)
        launch(kernel, blocks, THREADS, *given, sums, norms, report, first)
    return report
