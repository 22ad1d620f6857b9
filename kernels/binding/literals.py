"""The literals of a formula, given the type of the kernel's numbers in a copy of its bytecode."""

import dis
import types
from typing import Any

import numpy as np


def codes(code):
    """The code of a function, and of those defined within it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from codes(value)


def retype(value, number: type | None) -> Any:
    """A number as a `number`, in tuples and in code too; anything else as it is."""
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
    """The copy of a function's code, and of what is defined within it: see retyped."""
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
