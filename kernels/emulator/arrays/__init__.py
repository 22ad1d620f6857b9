"""A strict stand-in for the module `cupy`, where there is no card: this package takes its place.

NumPy computes behind CuPy's manners: nothing becomes a NumPy array by itself, arrays of the host
are refused in every operation, what NumPy gives as a scalar is an array of 0 axes, `empty` is NaN,
a Device has no hash.  Only what this library uses of CuPy is here, with CuPy's own names and
signatures.  Memory has real addresses (`memory.allocation_at`), a stream can capture (streams.py),
and everything is counted (`counts.counted`).
"""

import sys

from . import cuda, functions, linalg, ndarrays
from .functions import *  # noqa: F403  its __all__
from .functions import absolute  # type: ignore[attr-defined]
from .memory import get_default_memory_pool
from .ndarrays import ndarray
from .operations import array

abs = absolute
__all__ = [  # noqa: PLE0604  those of functions are strings
    "abs",
    "array",
    "cuda",
    "get_default_memory_pool",
    "linalg",
    "ndarray",
    *functions.__all__,
]
ndarrays.played = sys.modules[__name__]
