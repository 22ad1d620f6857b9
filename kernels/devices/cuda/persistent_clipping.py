"""Clipping of δ in the persistent schedules' way back."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ...binding.closures import each, tuple_of
from ...once import once
from .launch import cuda, device_function
from .persistent import Reach, numbers_in, within_of, writes_of
from .plans import QUAD, Plan
from .pointwise import nothing, shrink_of, sum_over, times_of
from .ptx import quad, shared_place
from .sums import over_threads
from .tracks import ABSENT, Along, beside


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


class Clipping(NamedTuple):
    """Device functions. Σ (δ/bound)² of a step and sample goes by parts to shared memory, as δ
    does; then the norm is held within its bound, and δ written.

    What has gone through W is scaled by the same factor, rather than δ before: so nobody waits
    twice in a step.
    """

    first_part: Callable  # (thread) -> place in the first half of the part that it knows
    first_share: Callable  # (thread) -> that of the first quad of parts that it adds up
    put_squares: Callable  # (part, mail, thread, registers)
    clip_norms: Callable  # (share, B, at, tracks, thread, registers)


@device_function
def no_place(thread):
    return np.int32(0)


@once
def norm_clip_of(cell, number, plan: Plan, reach: Reach) -> Clipping:
    if not plan.clips:
        return Clipping(no_place, no_place, nothing, nothing)
    G, APART, lanes, units = cell.gates, cell.apart, plan.lanes, plan.units
    scattered, repeats, sharers = plan.scattered, plan.repeats, plan.sharers
    held, between = plan.held, plan.between
    together, parts, squares = plan.together, plan.parts, plan.squares
    first, QUADS = plan.samples * plan.width, squares // (QUAD * sharers)
    ONE, shrink, times = number(1), shrink_of(number), times_of(G)
    gates, (gates_in, _), within = beside(G, plan.n), numbers_in(G), within_of(plan)
    marks, writes = marks_of(True), writes_of(plan)
    publish = reach.publisher(together // scattered)

    @device_function
    def sample(thread):
        return thread.lane // units % scattered

    @device_function
    def share(thread):
        """Which of the lanes of its team with the same samples this is."""
        return thread.lane % units + thread.repeat * units

    @device_function
    def first_part(thread):
        part = thread.rank * parts + cuda.threadIdx.x // together
        return shared_place(thread.shared, first + sample(thread) * squares + part)

    @device_function
    def first_share(thread):
        place = first + sample(thread) * squares + share(thread) * QUAD
        return shared_place(thread.shared, place)

    @device_function
    def put_square(h, part, mail, thread, registers):
        total = over_threads(registers.square[h], 1, units)
        total = over_threads(total, lanes, together // lanes)
        which = share(thread) + cuda.threadIdx.x % together // lanes * sharers
        publish(mail, thread, True, which, part, h * scattered * squares, total)

    @device_function
    def sum_of_quad(q, h, at, thread):
        a0, a1, a2, a3 = quad(thread.shared, at, h * scattered * squares + q * QUAD * sharers)
        return (a0 + a1) + (a2 + a3)

    sums_of_quads, add_up = tuple_of(QUADS, sum_of_quad, device_function), sum_over(QUADS)

    @device_function
    def clip_norm(h, share, B, at, tracks, thread, registers):
        total = over_threads(add_up(sums_of_quads(h, share, thread)), 1, units)
        by = shrink(over_threads(total, units * scattered, repeats))
        thread.total[h * between] *= by
        if within(h, B, thread) and writes(thread):
            gates.put(times(gates_in(registers.δ, h * G), by), at.dp, tracks.dp, h * scattered)
            if APART:
                gates.put(times(gates_in(registers.δq, h * G), by), at.dq, tracks.dq, h * scattered)
            if by != ONE or registers.beyond[h]:
                marks.put((np.uint8(1),), at.beyond, tracks.beyond, h * scattered)

    return Clipping(
        first_part,
        first_share,
        each(held, put_square, device_function),
        each(held, clip_norm, device_function),
    )
