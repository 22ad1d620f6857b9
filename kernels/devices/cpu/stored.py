"""Compiled kernels, kept from one run to the next in NUMBA_CACHE_DIR, or else in the user's
directory for caches.

Numba's own `cache=True` looks at the file that a function stands in; a kernel is made of a cell's
formulas too, wherever they stand. So a kernel's key is made of everything it is compiled from: our
sources, the formulas' code and what they refer to, the versions, the processor, and Numba's
settings.
"""

import hashlib
import os
import pickle
import re
import secrets
import stat
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite
import numba
import numpy as np

from ...description import description, formulas
from ...once import at_first, told
from ...private import (
    AppDirs,
    as_plain_data,
    compiled_of,
    config,
    cpu_target,
    keep_in,
    number_functions_from,
    serialize,
)
from .folder import OWNERS, File, Folder, mine

HERE = Path(__file__).parent
MOST = 1000  # megabytes that are kept, where RNN_GPU_CACHE_MB does not say another number

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
    texts = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    versions = numba.__version__, llvmlite.__version__, np.__version__, sys.version
    return texts, versions, cpu_target.target_context.codegen().magic_tuple()


def settings() -> list:
    """Numba's, as they are now."""
    named = sorted(
        name for name in vars(config) if name.isupper() and not NO_MATTER.fullmatch(name)
    )
    return [(name, repr(getattr(config, name))) for name in named]


def described(made_of) -> str:
    """What a kernel is made of, in words.

    Raises LookupError where there are none, or where a formula's changed since it was first seen.
    """
    for formula in formulas(made_of):
        if at_first(formula) != told(formula):
            raise LookupError(f"{formula} is compiled with what it referred to before")
    return repr((surroundings(), settings(), description(made_of)))


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


def home() -> Path:
    """Where Numba's settings, or the user's, say that such files go."""
    return Path(config.CACHE_DIR or AppDirs("rnn_gpu", appauthor=False).user_cache_dir)


def folder() -> Folder:
    """The folder of this user's kernels: other users of the same NUMBA_CACHE_DIR have their own."""
    shared = f"rnn_gpu-{os.geteuid()}" if OWNERS else "rnn_gpu"
    return Folder(home() / (shared if config.CACHE_DIR else "kernels"), most())


def clear() -> list[File]:
    """Remove this user's kernels, those too that older versions kept beside the folder; returns
    them.
    """
    gone = folder().clear()
    for path in home().glob("*"):
        if re.fullmatch("[0-9a-f]{64}", path.name):
            with suppress(OSError):
                gone.append(File(path.name, mine(path.lstat(), stat.S_ISREG).st_size, 0.0))
                path.unlink()
    return gone


def most() -> int:
    """Bytes of all kernels.  ValueError where RNN_GPU_CACHE_MB is no number of megabytes."""
    text = os.environ.get("RNN_GPU_CACHE_MB", str(MOST))
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        expected = f"expected a number of megabytes: {MOST}, or 0 to keep no kernels"
        raise ValueError(f"RNN_GPU_CACHE_MB is {text!r}, {expected}")
    return int(float(text) * 1e6)
