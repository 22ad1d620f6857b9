"""Where the numbers of a thread stand in an array, step by step.

What is fixed while a kernel runs is reckoned before its loop over time. From a step to the next a
distance is added, once an array; the numbers of a step's units and samples stand at constant
distances from there.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from ...binding.closures import each_over, tuple_of, tuple_over
from .launch import device_function
from .ptx import distance, flat, load, place, store


class Track(NamedTuple):
    """Through an array."""

    a: Any  # the array, flat
    step: Any  # from a step to the next


class Along(NamedTuple):
    """Functions of arrays of one shape, all C-contiguous. A place is that of the first number of a
    step, of unit j and sample b; of states a tuple, one each. r is a sample of the block.
    """

    # (a, B) -> its Track, back in time where B is negative. B is given, so that arrays of one shape
    # have one distance
    track: Callable
    start: Callable  # (a, t, b, j) -> place; t may lie before the first step or behind the last
    onward: Callable  # (place, go, track) -> place of the next step, or the same if not go
    numbers: Callable  # (place, track, r) -> the numbers of one unit, a tuple
    put: Callable  # (values, place, track, r)


@cache
def beside(count: int, n: int) -> Along:
    """Of arrays (T, B, count, n), or (T, B, n) where count is 1."""

    @device_function
    def track(a, B):
        return Track(flat(a), distance(a, B * count * n))

    @device_function
    def start(a, t, b, j):
        return place(a, (t * a.shape[1] + b) * count * n + j)

    @device_function
    def onward(place, go, track):
        return place + (track.step if go else 0)

    @device_function
    def number(k, place, track, r):
        return load(track.a, place, (r * count + k) * n)

    @device_function
    def put_number(k, value, place, track, r):
        store(track.a, place, (r * count + k) * n, value)

    numbers = tuple_of(count, number, device_function)
    return Along(track, start, onward, numbers, each_over(count, put_number, device_function))


@device_function
def state_start(k, a, t, b, j, n):
    """The place of one of the states of n units."""
    return place(a, ((k * a.shape[1] + t) * a.shape[2] + b) * n + j)


@cache
def apart(count: int, n: int) -> Along:
    """Of states: arrays (count, T, B, n)."""

    @device_function
    def track(a, B):
        return Track(flat(a), distance(a, B * n))

    @device_function
    def start(k, a, t, b, j):
        return state_start(k, a, t, b, j, n)

    @device_function
    def onward(k, place, go, track):
        return place + (track.step if go else 0)

    @device_function
    def number(k, place, track, r):
        return load(track.a, place, r * n)

    @device_function
    def put_number(k, value, places, track, r):
        store(track.a, places[k], r * n, value)

    return Along(
        track,
        tuple_of(count, start, device_function),
        tuple_over(count, onward, device_function),
        tuple_over(count, number, device_function),
        each_over(count, put_number, device_function),
    )


@cache
def moved_of(count: int):
    """The device function (places, by) -> the places that stand by a distance behind."""
    return tuple_over(count, device_function(lambda k, place, by: place + by), device_function)


@device_function
def nowhere(*arguments):
    """The track, the places and the numbers of an array that a kernel has not got."""
    return ()


ABSENT = Along(*(nowhere,) * 5)
