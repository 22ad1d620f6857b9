"""Kernels by text: what is left of it until cuda is rewritten."""

from collections.abc import Callable
from typing import NamedTuple


def define(name: str, text: str, **names) -> Callable:
    """The function `name` that `text` defines. Kernels know no generator expressions, so what
    counts gates is spelled out.
    """
    names["__name__"] = __name__  # where Numba looks for it again
    exec(compile(text, f"<rnn_gpu {name}>", "exec"), names)
    return names[name]


def gather(count: int, arguments: str, element: str, **names) -> Callable:
    """(arguments) -> the tuple of `element` for k = 0 … count−1."""
    items = "".join(element.format(k=k) + ", " for k in range(count))
    return define("gather", f"def gather({arguments}):\n    return ({items})\n", **names)


class Access(NamedTuple):
    """How kernels reach the numbers of one step t, sample b, unit j: tuples from arrays, and back
    into them.
    """

    inputs: Callable  # (p, t, b, j) -> G + D numbers of p (T, B, G + D, n)
    gates: Callable  # (a, t, b, j) -> G numbers of a (T, B, G, n)
    kept: Callable  # (a, t, b, j) -> K numbers of a (T, B, K, n)
    states: Callable  # (s, t, b, j) -> S numbers of s (S, T+1, B, n)
    put_gates: Callable  # (a, t, b, j, values)
    put_kept: Callable
    put_states: Callable


def access(
    cell, compile: Callable, load: Callable | None = None, store: Callable | None = None
) -> Access:
    """The accessors of a cell's arrays as one device compiles them.

    With load(a, index, count) and store(a, index, count, value) they take one argument more,
    `count` after j.
    """
    beside, apart = "(t, b, {k}, j)", "({k}, t, b, j)"
    counts = ((cell.gates, beside), (cell.kept, beside), (cell.states, apart))
    if load is None:
        arguments, get, put = "a, t, b, j", "a[{}]", "a[{}] = values[{{k}}]"
    else:
        arguments, get = "a, t, b, j, count", "load(a, {}, count)"
        put = "store(a, {}, count, values[{{k}}])"
    reads = (
        gather(count, arguments, get.format(index), load=load)
        for count, index in ((cell.gates + cell.drawn, beside), *counts)
    )
    writes = (
        repeat(count, arguments + ", values", put.format(index), store=store)
        for count, index in counts
    )
    return Access(*map(compile, (*reads, *writes)))


def repeat(count: int, arguments: str, statement: str, **names) -> Callable:
    """(arguments) -> None; does `statement` for k = 0 … count−1, spelled out where it must not be
    left to a compiler to unroll.
    """
    lines = "".join(f"    {statement.format(k=k)}\n" for k in range(count)) or "    pass\n"
    return define("repeat", f"def repeat({arguments}):\n{lines}", **names)


def elementwise_source(outputs: int, inputs: int, scalars: int, loop: str) -> str:
    """The text of kernel(o0, …, x0, …, a0, …): o0[i], … = f(x0[i], …, a0, …) for i in `loop`."""
    o, x, a = (
        [f"{letter}{k}" for k in range(count)]
        for letter, count in (("o", outputs), ("x", inputs), ("a", scalars))
    )
    targets = ", ".join(f"{name}[i]" for name in o)
    values = ", ".join([f"{name}[i]" for name in x] + a)
    return (
        f"def kernel({', '.join(o + x + a)}):\n    for i in {loop}:\n        {targets} = "
        f"f({values})\n"
    )
