"""Compiled kernels, kept from one run to the next in NUMBA_CACHE_DIR, or else in the user's directory for caches.

Numba's own `cache=True` looks at the file that a function stands in; a kernel is made of a cell's formulas too, wherever they
stand. So a kernel's key is made of everything it is compiled from: our sources, the formulas' code and what they refer to,
the versions, and the processor.
"""

import contextlib
import hashlib
import os
import pickle
import secrets
import sys
import tempfile
import types
from functools import cache
from itertools import count
from pathlib import Path

import numba
import numpy as np
from numba.core import config, serialize
from numba.core.bytecode import FunctionIdentity
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.misc.appdirs import AppDirs

HERE = Path(__file__).parent

# Numba tells functions of one name apart by a number, counted from 1 in every run; the linker knows nothing else of them, and
# takes the function of this run for that of the run a kernel was stored in, where the numbers meet. From chance on they do not.
FunctionIdentity._unique_ids = count(secrets.randbits(60))


@cache
def surroundings() -> tuple:
    """What every kernel is compiled from: our sources, versions, the processor."""
    sources = [*sorted(HERE.glob("*.py")), *(HERE.parents[1] / name for name in ("__init__.py", "binding.py", "clipping.py"))]
    texts = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return texts, numba.__version__, np.__version__, sys.version, cpu_target.target_context.codegen().magic_tuple()


def description(value, above=()):
    """A value as nested tuples of plain things that are the same for the same formula in any run; LookupError where it cannot be."""
    value = getattr(value, "py_func", value)
    if isinstance(value, types.FunctionType):
        if value in above:
            return "itself"
        above = (*above, value)
        named = [value.__globals__[name] for name in sorted(names(value.__code__)) if name in value.__globals__]
        closed = [cell.cell_contents for cell in value.__closure__ or ()]
        return description(value.__code__, above), *(description(v, above) for v in (value.__defaults__, *closed, *named))
    if isinstance(value, types.CodeType):
        return value.co_code, value.co_names, value.co_varnames, *(description(v, above) for v in value.co_consts)
    if isinstance(value, (tuple, list)):
        return tuple(description(v, above) for v in value)
    if isinstance(value, types.ModuleType | types.BuiltinFunctionType | type | np.ufunc):
        return value.__name__
    if value is None or isinstance(value, (bool, int, float, str, bytes, np.number)):
        return type(value).__name__, repr(value)
    raise LookupError(value)


def names(code) -> set[str]:
    """What a function and those within it look up by name."""
    return {*code.co_names}.union(*(names(value) for value in code.co_consts if isinstance(value, types.CodeType)))


class Stored:
    """What Numba asks for a compiled kernel before it compiles, and gives it to after."""

    def __init__(self, key: str):
        self.key, self.cache_path = key, config.CACHE_DIR or AppDirs("rnn_gpu", appauthor=False).user_cache_dir

    def path(self, signature) -> Path:
        return Path(self.cache_path) / hashlib.sha256(f"{self.key}{signature}".encode()).hexdigest()

    def load_overload(self, signature, target_context):
        target_context.refresh()
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(self.path(signature).read_bytes()))
        except (OSError, EOFError, pickle.UnpicklingError, ImportError):  # not there, cut off, of a module that is not here
            return None

    def save_overload(self, signature, compiled):
        if compiled.library.has_dynamic_globals:
            return
        with contextlib.suppress(OSError):  # where nothing can be written, nothing is kept
            os.makedirs(self.cache_path, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.cache_path) as beside:
                whole = Path(beside) / "kernel"
                whole.write_bytes(serialize.dumps(compiled._reduce()))
                os.replace(whole, self.path(signature))


def keep(kernel, *made_of):
    """The kernel, stored under its name and what it is made of: cells, types, numbers."""
    with contextlib.suppress(LookupError):
        kernel._cache = Stored(repr((surroundings(), kernel.__name__, description(made_of))))
    return kernel
