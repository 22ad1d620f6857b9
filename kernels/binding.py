"""How a pure function of numbers becomes a device's own.

A formula is written once, in ordinary Python with NumPy's or math's names. `bind` makes the copy
that one device compiles: its literals have the kernel's type, `np` and `math` are the device's
maths, and the functions it calls are bound likewise.
"""

import dis
import itertools
import math
import types
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SAME_NAME = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sqrt",
    "tanh",
    "sinh",
    "cosh",
    "tan",
    "sin",
    "cos",
    "floor",
    "ceil",
    "fabs",
]
NAMES = {name: name for name in SAME_NAME} | {  # NumPy's name: math's name
    "arctan": "atan",
    "arcsin": "asin",
    "arccos": "acos",
    "arctanh": "atanh",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "absolute": "fabs",
    "abs": "fabs",
    "hypot": "hypot",
    "power": "pow",
    "arctan2": "atan2",
}
CONSTANTS = ("pi", "e", "tau", "inf", "nan")


def where(condition, a, b):
    return a if condition else b


def maximum(a, b):
    return a if a >= b or a != a else b  # NaN passes through, as in NumPy


def minimum(a, b):
    return a if a <= b or a != a else b


def sign(a):
    return a if a != a else (1.0 if a > 0.0 else (-1.0 if a < 0.0 else 0.0))


def square(a):
    return a * a


def compiled_maths(number: type, compile: Callable) -> types.ModuleType:
    """The maths of a compiled device: math's functions under NumPy's names too, constants as
    `number`s.
    """
    module = types.ModuleType("maths")
    for of_numpy, of_math in NAMES.items():
        setattr(module, of_numpy, getattr(math, of_math))
        setattr(module, of_math, getattr(math, of_math))
    for helper in (where, maximum, minimum, sign, square):
        setattr(module, helper.__name__, compile(retyped(helper, number)))
    for name in CONSTANTS:
        setattr(module, name, number(getattr(math, name)))
    return module


def interpreted_maths() -> types.ModuleType:
    """NumPy under math's names too: for whole arrays and for the simulator, where nothing is
    compiled.
    """
    module = types.ModuleType("maths")
    vars(module).update(
        {name: value for name, value in vars(np).items() if not name.startswith("_")}
    )
    vars(module).update({of_math: getattr(np, of_numpy) for of_numpy, of_math in NAMES.items()})
    vars(module).update({name: getattr(math, name) for name in CONSTANTS})
    return module


def check(f: Callable):
    """Raise ValueError if f cannot be bound for a compiled device: what it uses is not there, or
    cannot be typed.
    """
    bind(f, np.float64, compiled_maths(np.float64, lambda g: g), lambda g: g)


def bind(f: Callable, number: type | None, maths: types.ModuleType, compile: Callable) -> Callable:
    """Return f as one device compiles it.

    f        a pure function of numbers or tuples of numbers; already jitted functions are taken
             back to their source
    number   the type of every literal (np.float32 keeps float64 out of the kernel), or None to
             leave them
    maths    what the names `np` and `math`, and functions imported from them, stand for
    compile  what makes a device function of a plain one
    """
    done: dict[Callable, Callable | None] = {}  # None: under way

    def meaning(value):
        if value is np or value is math:
            return maths
        value = getattr(value, "py_func", value)
        if isinstance(value, types.FunctionType):
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
        return retype(value, number)

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


def is_maths(value) -> bool:
    name = getattr(value, "__name__", "")
    return getattr(np, name, None) is value or getattr(math, name, None) is value


def words(maths: types.ModuleType) -> str:
    return ", ".join(sorted(name for name in vars(maths) if not name.startswith("_")))


def codes(code):
    """The code of a function, and of those defined within it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from codes(value)


def retype(value, number: type | None):
    if number is None:
        return value
    if isinstance(value, tuple):
        items = [retype(item, number) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, types.CodeType):
        return retyped_code(value, number)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        return value
    return number(value)


def retyped(f: types.FunctionType, number: type | None) -> types.FunctionType:
    """The copy of f whose literals are `number`s: `1 - y` is float64 to Numba even where y is
    float32.

    Integers that index (`p[0]`), count (`range(3)`) or are exponents (`y**2`) stay integers.
    """
    if number is None:
        return f
    return types.FunctionType(
        retyped_code(f.__code__, number), f.__globals__, f.__name__, f.__defaults__, f.__closure__
    )


def retyped_code(code: types.CodeType, number: type) -> types.CodeType:
    constants = [retype(value, number) for value in code.co_consts]
    words = bytearray(code.co_code)
    instructions, added = list(dis.get_instructions(code)), {}
    load_constant = dis.opmap["LOAD_CONST"]
    counting = False  # between `range` and its call
    for one, after in zip(instructions, instructions[1:] + instructions[-1:], strict=True):
        counting = (
            counting or (one.opname, one.argval) == ("LOAD_GLOBAL", "range")
        ) and not one.opname.startswith("CALL")
        whole = one.opname in ("LOAD_CONST", "LOAD_SMALL_INT") and type(one.argval) is int
        if whole and (
            counting or after.opname == "BINARY_SUBSCR" or after.argrepr in ("**", "**=", "[]")
        ):
            value = one.argval
        # Python 3.14: small integers are not among the constants
        elif one.opname == "LOAD_SMALL_INT":
            value = number(one.argval)
        else:
            continue
        index = added.setdefault((type(value), value), len(constants))
        if index == len(constants):
            constants.append(value)
        if index > 255:
            raise ValueError(
                f"{code.co_name} has too many literals to be compiled into a kernel: split it in "
                "two functions"
            )
        words[one.offset : one.offset + 2] = bytes((load_constant, index))
    return code.replace(co_consts=tuple(constants), co_code=bytes(words))


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
