"""What a formula is made of, told in plain things.

They are the same in any run for the same formula, and others where anything has changed that it
reads.
"""

import builtins
import cmath
import dis
import inspect
import math
import operator
import types
from functools import lru_cache
from itertools import takewhile

import numpy as np

LIBRARIES = (builtins, math, cmath, operator, np)  # of a known version: what is theirs is named
PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    np.number,
    np.bool_,
    types.NoneType,
    types.EllipsisType,
)
COUNTS = ("argcount", "posonlyargcount", "kwonlyargcount")
CODE = ("code", "exceptiontable", "flags", "names", "varnames", "freevars", "cellvars", *COUNTS)


def description(value, above=()):
    """A value as nested tuples of plain things.

    A function is its code and all that the code reads from outside: defaults, closures, globals,
    attributes of modules.
    above   the functions that are being described, the outermost first
    Raises LookupError where that cannot be told: an object that may hold anything, a module that is
    handed on, an import.
    """
    kind = type(value).__name__
    if name := name_in_a_library(value):
        return name
    if isinstance(value, types.FunctionType):
        return ("itself", above[::-1].index(value)) if value in above else of_function(value, above)
    if hasattr(value, "py_func") and hasattr(value, "targetoptions"):
        return of_compiled(value, above)
    if isinstance(value, types.CodeType):
        return of_code(value)
    if isinstance(value, (tuple, list)):
        return kind, getattr(value, "_fields", ()), *(description(v, above) for v in value)
    if isinstance(value, (set, frozenset)):
        return kind, *sorted(repr(description(v, above)) for v in value)
    if isinstance(value, PLAIN):
        return kind, repr(value)
    raise LookupError(value)


def formulas(made_of):
    """The functions among what something is made of: those of an Activation, of a Cell."""
    if isinstance(made_of, tuple):
        for each in made_of:
            yield from formulas(each)
    elif callable(made_of) and not isinstance(made_of, type):
        yield made_of


def name_in_a_library(value) -> str:
    """What Python, its mathematics or NumPy call a function or a type; "" where it is none of
    theirs.
    """
    name = getattr(value, "__name__", None)
    if not isinstance(name, str):
        return ""
    homes = (module.__name__ for module in LIBRARIES if vars(module).get(name) is value)
    return next((f"{home}.{name}" for home in homes), "")


@lru_cache(1000)
def of_code(code):
    return *(getattr(code, f"co_{name}") for name in CODE), *map(description, code.co_consts)


def of_function(f, above):
    defaults = f.__defaults__, *sorted((f.__kwdefaults__ or {}).items())
    reads = ((path, found(f, path, (*above, f))) for path in paths(f.__code__))
    return of_code(f.__code__), description(defaults, above), *reads


def of_compiled(f, above):
    """A function of Numba's: its source, and how it is compiled."""
    if not getattr(f, "_can_compile", False) or f.locals:  # it was given types
        raise LookupError(f)
    return description(f.py_func, above), description(sorted(f.targetoptions.items()))


@lru_cache(1000)
def paths(code) -> list:
    """What code, and the code within it, reads from outside: (how, name, attribute, …)."""
    instructions = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
    within = (value for value in code.co_consts if isinstance(value, types.CodeType))
    read = {path for each in within for path in paths(each)}
    for i, one in enumerate(instructions):
        if one.opname in ("LOAD_GLOBAL", "LOAD_DEREF"):
            after = instructions[i + 1 :]
            asked = takewhile(lambda each: each.opname in ("LOAD_ATTR", "LOAD_METHOD"), after)
            read.add((one.opname, one.argval, *(each.argval for each in asked)))
        elif "IMPORT" in one.opname or one.opname in ("LOAD_NAME", "LOAD_BUILD_CLASS"):
            raise LookupError(f"{code.co_name} says {one.opname}")
    return sorted(read)


def global_of(f, name):
    return f.__globals__[name] if name in f.__globals__ else f.__builtins__[name]


def found(f, path, above):
    """The description of what a path leads to, from f's closure or globals through modules."""
    how, name, *attributes = path
    closed = dict(zip(f.__code__.co_freevars, f.__closure__ or (), strict=True))
    if how == "LOAD_DEREF" and name not in closed:
        return "its own"  # of a function around
    try:
        value = closed[name].cell_contents if how == "LOAD_DEREF" else global_of(f, name)
        while attributes and inspect.ismodule(value) and value not in LIBRARIES:
            value = getattr(value, attributes.pop(0))
    except (ValueError, KeyError, AttributeError):
        return "missing"
    if inspect.ismodule(value):
        if value not in LIBRARIES:
            raise LookupError(f"{f.__name__} hands on the module {value.__name__}")
        return value.__name__, *attributes
    return description(value, above)
