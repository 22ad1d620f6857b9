"""Compiled kernels, kept from one run to the next in NUMBA_CACHE_DIR, or else in the user's
directory for caches.

A kernel's key is made of everything it is compiled from: our sources, the formulas' code and what
they refer to, versions, the processor, and Numba's settings. Each device says what belongs to its
own; where the files lie, and how many, is one thing for all.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..description import formulas
from ..once import at_first, told
from ..private import AppDirs, config
from .files import OWNERS, File, Folder, mine

MOST = 1000  # megabytes that are kept, where RNN_GPU_CACHE_MB does not say another number


def digest(sources: Iterable[Path]) -> str:
    """Of the texts of these files, in this order."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def named(settings, no_matter: re.Pattern) -> list:
    """The settings of a module in capitals as they are now, but for those that never change the
    code of a kernel.
    """
    names = sorted(name for name in vars(settings) if name.isupper())
    return [
        (name, repr(getattr(settings, name))) for name in names if not no_matter.fullmatch(name)
    ]


def check_unchanged(made_of):
    """Raises LookupError where what a formula refers to has changed since it was first seen."""
    for formula in formulas(made_of):
        if at_first(formula) != told(formula):
            raise LookupError(f"{formula} is compiled with what it referred to before")


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
