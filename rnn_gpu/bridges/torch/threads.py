"""torch's own threads, to share calls of ours.

After all that torch has its threads share, those of GNU OpenMP look for more for some milliseconds,
on the cores where threads of ours would work; each barrier of a call then waits for one that has
half a core. So the same threads do both.
"""

import os
from ctypes import CDLL, c_void_p, cast
from functools import cache
from pathlib import Path

import torch

from ...kernels.devices.cpu.by_address import Way
from ...kernels.sharing import AtMost, Pool
from .private import EXTENSION

# the last one is of LLVM's and Intel's OpenMP, which have GNU's names too
FUNCTIONS = "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "kmp_set_blocktime"
FORKED = 0x40  # PF_FORKNOEXEC, among the flags of a process of Linux


def as_torch_shares() -> AtMost:
    """A context whose calls are shared by at most torch.get_num_threads() threads: torch's own,
    where these can be had.
    """
    return AtMost(torch.get_num_threads(), pool())


def pays(way: Way, T: int, B: int) -> bool:
    """Does a call on T steps of B samples go by addresses?"""
    if way.is_short(T, B):
        return True
    with as_torch_shares():
        return way.shares(T, B) is not None


def carried_by(way: Way, T: int, B: int, *arguments) -> None:
    """Way.forward, shared as torch's own calls are."""
    if way.is_short(T, B):
        way.forward(T, B, *arguments)
        return
    with as_torch_shares():
        way.forward(T, B, *arguments)


def retreated_by(way: Way, T: int, B: int, *arguments) -> int:
    """Way.backward, likewise."""
    if way.is_short(T, B):
        return way.backward(T, B, *arguments)
    with as_torch_shares():
        return way.backward(T, B, *arguments)


@cache
def pool() -> Pool | None:
    """torch's threads; None where they are not GNU OpenMP's, and in a forked process, where that
    waits for threads which are no more.
    """
    try:
        if is_forked():
            return None
        libraries = [CDLL(None), CDLL(EXTENSION, os.RTLD_NOLOAD | os.RTLD_LAZY)]
    except OSError:  # where there is no /proc
        return None
    for library in libraries:
        parallel, number, size, others = (address_of(library, name) for name in FUNCTIONS)
        if parallel and number and size and not others and is_torchs(library):
            return Pool(parallel, number, size, os.getpid())
    return None


def is_forked() -> bool:
    """Has this process begun as the copy of another, whose threads OpenMP may take for its own?"""
    flags = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6]
    return bool(int(flags) & FORKED)


def address_of(library, name: str) -> int:
    """The address of a function that the library offers, itself or by another; else 0."""
    try:
        return cast(getattr(library, name), c_void_p).value or 0
    except AttributeError:
        return 0


def is_torchs(library) -> bool:
    """Is torch's number of threads that of this OpenMP, of which several may be loaded?"""
    before = torch.get_num_threads()
    library.omp_set_num_threads(before + 1)
    after = torch.get_num_threads()
    library.omp_set_num_threads(before)
    return after == before + 1 and torch.get_num_threads() == before
