"""The mathematics of formulas: NumPy's and math's names, and what they stand for on a device."""

import math
import types
from collections.abc import Callable

import numpy as np

from .literals import retyped

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


def is_maths(value) -> bool:
    name = getattr(value, "__name__", "")
    return getattr(np, name, None) is value or getattr(math, name, None) is value


def words(maths: types.ModuleType) -> str:
    return ", ".join(sorted(name for name in vars(maths) if not name.startswith("_")))
