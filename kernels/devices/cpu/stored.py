"""Compiled kernels of the CPU in the store.

Numba's own `cache=True` looks at the file that a function stands in; a kernel is made of a cell's
formulas too, wherever they stand. So a kernel's key is made of everything it is compiled from: our
sources, the formulas' code and what they refer to, the versions, the processor, and Numba's
settings.
"""

import hashlib
import pickle
import re
import secrets
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite
import numba
import numpy as np

from ...description import description
from ...private import (
    as_plain_data,
    cache_of,
    compiled_of,
    config,
    cpu_target,
    keep_in,
    number_functions_from,
    serialize,
)
from ...store import check_unchanged, digest, folder, named

HERE = Path(__file__).parent

# Numba tells functions of one name apart by a number, counted from 1 in every run; the linker knows
# nothing else of them, and takes the function of this run for that of the run a kernel was stored
# in, where the numbers meet. From chance on they do not.
number_functions_from(secrets.randbits(60))

# Of Numba's settings, those that change with the day and never the code of a kernel. Any other may:
# one too many in the key costs a compilation, one too few is a wrong kernel.
NO_MATTER = re.compile(
    "_.*|CUDA_.*|.*NUM_THREADS|THREADING_LAYER.*|CACHE_.*|COLOR_SCHEME|SHOW_HELP|FULL_TRACEBACKS"
    "|DEVELOPER_MODE|GDB_BINARY|DISABLE_CUDA|ENABLE_CUDASIM|FORCE_CUDA_CC|DISABLE_PERFORMANCE_WARNINGS"
)


@cache
def surroundings() -> tuple:
    """What every kernel is compiled from: our sources, versions, the processor."""
    kernels = HERE.parents[1]
    sources = [
        *sorted(HERE.glob("*.py")),
        *sorted((kernels / "binding").glob("*.py")),
        *(kernels / name for name in ("__init__.py", "clipping.py", "private.py")),
    ]
    versions = numba.__version__, llvmlite.__version__, np.__version__, sys.version
    return digest(sources), versions, cpu_target.target_context.codegen().magic_tuple()


def described(made_of) -> str:
    """What a kernel is made of, in words.

    Raises LookupError where there are none, or where a formula's changed since it was first seen.
    """
    check_unchanged(made_of)
    return repr((surroundings(), named(config, NO_MATTER), description(made_of)))


class Stored:
    """What Numba asks for a compiled kernel before it compiles, and gives it to after.

    key     what the kernel is made of, its name first
    """

    def __init__(self, key: tuple):
        self.key, self.words, self.folder = key, described(key), folder()
        self.cache_path = str(self.folder.path)  # Numba's name for it

    def name(self, signature) -> str:
        return hashlib.sha256(f"{self.words}{signature}".encode()).hexdigest()

    def unchanged(self) -> bool:
        with suppress(LookupError):
            return described(self.key) == self.words
        return False

    def load_overload(self, signature, target_context):
        kept = self.folder.read(self.name(signature)) if self.unchanged() else None
        if kept is None:
            return None
        target_context.refresh()
        try:
            return compiled_of(target_context, pickle.loads(kept))
        except MemoryError:
            raise
        except Exception:  # of a module that is not here, say: what cannot be loaded is compiled
            return None

    def save_overload(self, signature, compiled):
        if compiled.library.has_dynamic_globals or not self.unchanged():
            return
        with suppress(pickle.PicklingError, TypeError, AttributeError):  # of what it refers to
            self.folder.write(self.name(signature), serialize.dumps(as_plain_data(compiled)))


def keep(kernel, *made_of):
    """The kernel, stored under its name and what it is made of: cells, types, numbers."""
    with suppress(LookupError):
        keep_in(kernel, Stored((kernel.__name__, *made_of)))
    return kernel


def keep_with(kernel, *parts):
    """The kernel, stored under what the kernels are made of that it consists of; not stored where
    one of them is not.
    """
    found = [cache_of(part) for part in parts]
    if all(isinstance(each, Stored) for each in found):
        keep(kernel, *(each.key for each in found))
    return kernel
