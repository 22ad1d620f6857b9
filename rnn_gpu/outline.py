"""What objects say of themselves at the prompt: the call that makes them again; shapes and counts,
no arrays.
"""

import inspect
from collections.abc import Mapping

import numpy as np


def call(made, values: dict) -> str:
    """The call that makes an object of these values: what must be given by place, and what is not
    the default.
    """
    words = []
    for name, parameter in inspect.signature(type(made)).parameters.items():
        value = getattr(values.get(name), "name", values.get(name))  # a formula by its name
        if name in values and value != parameter.default:
            optional = parameter.default is not parameter.empty
            words.append(f"{name}={value!r}" if optional else repr(value))
    return f"{type(made).__name__}({', '.join(words)})"


def sizes(arrays: Mapping[str, np.ndarray]) -> str:
    """Parameters by name: their shapes, and how many numbers they are."""
    shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in arrays.items())
    return f"{shapes}: {count(arrays)}" if arrays else count(arrays)


def count(arrays: Mapping[str, np.ndarray]) -> str:
    """How many numbers parameters are, in words."""
    return f"{sum(a.size for a in arrays.values()):,} parameters" if arrays else "no parameters"


def fields(self) -> str:
    """The `__repr__` of a named tuple that holds arrays."""
    words = (f"{name}={brief(value)}" for name, value in zip(self._fields, self, strict=True))
    return f"{type(self).__name__}({', '.join(words)})"


def brief(value) -> str:
    """An array by dtype and shape, a formula by its name, a list of arrays by its first and its
    length.
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, list) and value and hasattr(value[0], "dtype"):
        return f"[{brief(value[0])}, … {len(value)} arrays]"
    return repr(getattr(value, "name", value))


def series(lists: Mapping[str, list[float]]) -> list[str]:
    """A line for each list: how many numbers, the last, the least and the largest."""
    width = max(map(len, lists), default=0)
    rows = []
    for name, values in lists.items():
        ends = f"last {values[-1]:.6g}, {min(values):.6g} … {max(values):.6g}" if values else ""
        rows.append(f"{name:<{width}}  {len(values):>6}  {ends}".rstrip())
    return rows
