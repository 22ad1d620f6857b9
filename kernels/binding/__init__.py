"""How a pure function of numbers becomes a device's own.

A formula is written once, in ordinary Python with NumPy's or math's names. `bind` makes the copy
that one device compiles: its literals have the kernel's type, `np` and `math` are the device's
maths, and the functions it calls are bound likewise.

names      the mathematics that formulas have
literals   the types of numbers that stand in a formula
closures   functions of a cell's G, S and K numbers, whose count is known when they are made
accessors  how kernels reach the numbers of one unit in a cell's arrays
"""

import dis
import itertools
import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .closures import Index
from .literals import codes, retype, retyped
from .names import compiled_maths, is_maths, words


def check(f: Callable):
    """Raise ValueError if f cannot be bound for a compiled device: what it uses is not there, or
    cannot be typed.
    """
    bind(f, np.float64, compiled_maths(np.float64, lambda g: g), lambda g: g)


def bind(
    f: Callable,
    number: type | None,
    maths: types.ModuleType,
    compile: Callable,
    own: Mapping[Callable, Callable] = types.MappingProxyType({}),
) -> Callable:
    """Return f as one device compiles it.

    f        a pure function of numbers or tuples of numbers; already jitted functions are taken
             back to their source
    number   the type of every literal (np.float32 keeps float64 out of the kernel), or None to
             leave them
    maths    what the names `np` and `math`, and functions imported from them, stand for
    compile  what makes a device function of a plain one
    own      functions that the device has its own of, each with that
    """
    done: dict[Callable, Callable | None] = {}  # None: under way

    def meaning(value) -> Any:
        if value is np or value is math:
            return maths
        value = getattr(value, "py_func", value)
        if isinstance(value, types.FunctionType):
            if value in own:
                return own[value]
            if value not in done:
                done[value] = None
                done[value] = compile(rebuild(value))
            if done[value] is None:
                raise ValueError(
                    f"{value.__name__} calls itself: a formula that is compiled into a kernel "
                    "cannot"
                )
            return done[value]
        if callable(value) and is_maths(value):
            return getattr(maths, value.__name__, value)
        return int(value) if isinstance(value, Index) else retype(value, number)

    def rebuild(g):
        if g.__code__.co_kwonlyargcount:
            raise ValueError(
                f"{g.__name__} has keyword-only arguments: a formula that is compiled into a "
                "kernel cannot"
            )
        code = retyped(g, number).__code__
        loaded = set()
        for each in codes(g.__code__):
            instructions = list(dis.get_instructions(each))
            for one, after in itertools.pairwise(instructions):
                if one.opname == "LOAD_GLOBAL":
                    loaded.add(one.argval)
                    asked = after.argval if after.opname in ("LOAD_ATTR", "LOAD_METHOD") else "pi"
                    if g.__globals__.get(one.argval) in (np, math) and not hasattr(maths, asked):
                        raise ValueError(
                            f"{g.__name__} uses {one.argval}.{asked}, which kernels do not have: "
                            f"they have {words(maths)}"
                        )
        names = {name: meaning(g.__globals__[name]) for name in loaded if name in g.__globals__}
        cells = tuple(types.CellType(meaning(cell.cell_contents)) for cell in g.__closure__ or ())
        bound = types.FunctionType(
            code, g.__globals__ | names, g.__name__, retype(g.__defaults__, number), cells
        )
        bound.__module__ = g.__module__
        return bound

    return meaning(f)
