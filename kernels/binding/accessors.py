"""How kernels reach the numbers of one unit in a cell's arrays: tuples out of them, and back."""

from collections.abc import Callable
from typing import NamedTuple

from .closures import each_over, tuple_of


class Access(NamedTuple):
    """Functions of an array, where in it (an At), and `count` where units are many at a time."""

    inputs: Callable  # (p, at) -> G + D numbers of p (T, B, G + D, n)
    gates: Callable  # (a, at) -> G numbers of a (T, B, G, n)
    kept: Callable  # (a, at) -> K numbers of a (T, B, K, n)
    states: Callable  # (s, at) -> S numbers of s (S, T + 1, B, n)
    put_gates: Callable  # (values, a, at)
    put_kept: Callable
    put_states: Callable


def access(cell, compile: Callable) -> Access:
    """Of one unit, in arrays that are indexed."""
    beside = compile(lambda k, a, at: a[at.t, at.b, k, at.j])
    apart = compile(lambda k, a, at: a[k, at.t, at.b, at.j])

    @compile
    def put_beside(k, value, a, at):
        a[at.t, at.b, k, at.j] = value

    @compile
    def put_apart(k, value, a, at):
        a[k, at.t, at.b, at.j] = value

    return accessors(cell, compile, beside, apart, put_beside, put_apart)


def access_by(cell, compile: Callable, load: Callable, store: Callable) -> Access:
    """Of `count` neighbouring units, by load(a, index, count) and store(a, index, count, value)."""
    beside = compile(lambda k, a, at, count: load(a, (at.t, at.b, k, at.j), count))
    apart = compile(lambda k, a, at, count: load(a, (k, at.t, at.b, at.j), count))

    @compile
    def put_beside(k, value, a, at, count):
        store(a, (at.t, at.b, k, at.j), count, value)

    @compile
    def put_apart(k, value, a, at, count):
        store(a, (k, at.t, at.b, at.j), count, value)

    return accessors(cell, compile, beside, apart, put_beside, put_apart)


def accessors(cell, compile, beside, apart, put_beside, put_apart) -> Access:
    """Of all numbers of a cell, from those of the k-th: arrays (T, B, ·, n) have them beside each
    other, states (S, …) apart.
    """
    G, K, S = cell.gates, cell.kept, cell.states
    return Access(
        tuple_of(G + cell.drawn, beside, compile),
        tuple_of(G, beside, compile),
        tuple_of(K, beside, compile),
        tuple_of(S, apart, compile),
        each_over(G, put_beside, compile),
        each_over(K, put_beside, compile),
        each_over(S, put_apart, compile),
    )
