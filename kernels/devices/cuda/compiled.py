"""Kernels as machine code: found in the store, or compiled, whether there is a card or not.

A kernel's name in the store is made of its sources and of what its factory was given: our own
functions by their names, since all our sources are part of the name; a user's by their code. So
one machine may compile for another: `python -m benchmarks precompile` leaves a folder of cubins
that RNN_GPU_CUBINS names. What this machine has compiled itself, it keeps under versions too.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, wraps
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

from numba import cuda

from ...description import description
from ...once import once
from ...private import compiled_cuda_kernel, pretended_capability
from ...store import check_unchanged, digest, folder, named
from ...store.files import Folder, payload_of
from ...tally import counted
from ...undisturbed import undisturbed

KERNELS = Path(__file__).parents[2]
OURS = __name__.removesuffix(".devices.cuda.compiled")
MOST_CARRIED = 1 << 30  # bytes of a folder of cubins
NOT_THESE = ("cpu", "emulator")  # rooms that no kernel of a card is made in
# Of numba-cuda's settings, those that never change a kernel; see devices/cpu/stored.py.
NO_MATTER = re.compile(
    "_.*|.*NUM_THREADS|THREADING_LAYER.*|CACHE_.*|COLOR_SCHEME|SHOW_HELP|FULL_TRACEBACKS"
    "|DEVELOPER_MODE|GDB_BINARY|DISABLE_CUDA|ENABLE_CUDASIM|FORCE_CUDA_CC"
    "|DISABLE_PERFORMANCE_WARNINGS|CUDA_LOW_OCCUPANCY_WARNINGS|CUDA_WARN_ON_IMPLICIT_COPY"
    "|CUDA_LOG_.*|CUDA_DEALLOCS_.*|CUDA_ARRAY_INTERFACE_SYNC|CPU_.*"
)


class Code(NamedTuple):
    """A compiled kernel."""

    text: bytes  # a cubin, or PTX
    entry: str  # its name in there
    kept: bool = False  # was found, not compiled just now


def factory(make: Callable) -> Callable:
    """`once`, for what makes a `@cuda.jit` kernel of cells, numbers and plans: the kernel knows
    what it was made of.
    """

    @once
    @wraps(make)
    def made(*made_of):
        kernel = make(*made_of)
        kernel.made_of = (f"{make.__module__}.{make.__name__}", *made_of)
        return kernel

    return made


@once
def compiled(kernel, kinds: tuple, signature: tuple, capability: tuple, language: str) -> Code:
    """The code of a kernel for arguments of these kinds (see launch.py), which are these types of
    Numba's.
    """
    if language == "ptx":
        return compile_kernel(kernel, signature, capability, language)
    names = names_of(kernel, kinds, capability)
    found = kept(names) or compiled_anew(kernel, kinds, signature, capability)
    counted["found" if found.kept else "compiled"] += 1
    if names:
        for other in carriers:
            other.write(names[0], packed(found))
    return found


def compiled_anew(kernel, kinds: tuple, signature: tuple, capability: tuple) -> Code:
    """The cubin of a kernel, kept under this machine's name of it, whatever was kept before."""
    made = compile_kernel(kernel, signature, capability)
    if names := names_of(kernel, kinds, capability):
        folder().write(names[-1], packed(made))
    return made


carriers: list[Folder] = []  # folders that are being filled for other machines


@contextmanager
def carrying(path: Path) -> Iterator[None]:
    """All that is compiled meanwhile, or found, is also written to a folder for RNN_GPU_CUBINS."""
    folder_of_cubins = Folder(path, MOST_CARRIED)
    carriers.append(folder_of_cubins)
    try:
        yield
    finally:
        carriers.remove(folder_of_cubins)


def compile_kernel(kernel, signature: tuple, capability: tuple, language: str = "cubin") -> Code:
    """Compile a `@cuda.jit` kernel past every cache."""

    def compile():
        with for_capability(capability):
            return Code(*compiled_cuda_kernel(kernel, signature, language))

    return undisturbed(compile)


def for_capability(capability: tuple):
    """A context in which numba-cuda compiles for cards of this compute capability.

    Where a card of that kind is current, numba-cuda sees for itself; else it is told so.
    """
    if cuda.is_available() and cuda.get_current_device().compute_capability == capability:
        return nullcontext()
    return pretended_capability(capability)


def names_of(kernel, kinds: tuple, capability: tuple) -> tuple[str, ...]:
    """(the name that every machine gives this kernel, that of this machine); () where it cannot be
    told what it is made of.
    """
    made_of = getattr(kernel, "made_of", None)
    with suppress(LookupError):
        if made_of:
            check_unchanged(made_of)
            words = repr((sources(), told(made_of), told(kinds), tuple(capability)))
            return hashed(words), hashed(words + repr(here()))
    return ()


def hashed(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()


def told(value):
    """A value as nested tuples of plain things: functions of ours by name and by what they close
    over, others as `description` has them, by the bytecode of this Python.

    Raises LookupError as that does.
    """
    if isinstance(value, tuple):
        return type(value).__name__, *map(told, value)
    value = getattr(value, "py_func", value)
    home = getattr(value, "__module__", None) or ""  # None of a function that is made of its code
    ours = home.startswith(OURS) and isinstance(value, (type, FunctionType))
    if ours:
        closed = (told(cell.cell_contents) for cell in getattr(value, "__closure__", None) or ())
        return home.removeprefix(OURS), value.__qualname__, *closed
    if isinstance(value, FunctionType):
        return sys.version, description(value)
    return description(value)


@cache
def sources() -> str:
    """The digest of all that kernels are written in."""
    rooms = sorted(KERNELS.rglob("*.py"))
    own = [path for path in rooms if not set(path.relative_to(KERNELS).parts) & set(NOT_THESE)]
    return digest(own)


def here() -> tuple:
    """What compiles on this machine, and how."""
    from ...private import cuda_config

    return tuple(map(version, ("numba", "numba-cuda"))), named(cuda_config, NO_MATTER)


def packed(code: Code) -> bytes:
    return code.entry.encode() + b"\n" + code.text


def unpacked(payload: bytes | None) -> Code | None:
    if payload is None:
        return None
    entry, _, text = payload.partition(b"\n")
    return Code(text, entry.decode(), kept=True)


def kept(names: tuple[str, ...]) -> Code | None:
    """What was compiled before: on another machine, or on this."""
    if not names:
        return None
    if carried := os.environ.get("RNN_GPU_CUBINS"):
        with suppress(OSError):
            whole = (Path(carried) / f"{names[0]}.kernel").read_bytes()
            if payload := payload_of(names[0], whole):
                return unpacked(payload)
    return unpacked(folder().read(names[-1]))
