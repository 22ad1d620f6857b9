"""`rnn-gpu info`, `verify` and `clear-kernels`: what this machine offers, and what it holds."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from .. import verify
from ..device import resolve, simulated, why_not
from .options import FLOAT32, Dtype

VERIFIED = ("elman_tanh", "gru", "lstm")  # one of each kind


def verify_cells(
    *,
    cell: Annotated[
        list[str] | None,
        typer.Option(
            help="A built-in cell, or module:name of your own; again for another. Default: "
            f"{', '.join(VERIFIED)}."
        ),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the kernels.")] = FLOAT32,
    n: Annotated[int, typer.Option(min=1, help="Units.")] = 7,
):
    """Run cells on everything that this machine has, and compare: formulas, gradients, CPU, the
    GPU's kernels in the simulator and as compiled code that is executed without a GPU, and a GPU.

    Exit status 1 where something is wrong.
    """
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: where one's own modules are
    failures = 0
    for one in cell or VERIFIED:
        found = verify(one, dtype=str(dtype), n=n)
        print(found)
        failures += len(found.failures)
    if failures:
        print(f"{failures} of these lines failed", file=sys.stderr)
        raise typer.Exit(1)


def info():
    """Versions, devices, and what device="auto" means on this machine."""
    for package in (
        "rnn_gpu",
        "numpy",
        "numba",
        "numba-cuda",
        "cupy-cuda13x",
        "cupy-cuda12x",
        "matplotlib",
    ):
        try:
            print(f"{package:14}{version(package)}")
        except PackageNotFoundError:
            print(f"{package:14}not installed")
    print(f"{'python':14}{platform.python_version()} on {platform.machine()}")
    reason = why_not("cuda")
    cuda = "the simulator (NUMBA_ENABLE_CUDASIM=1)" if simulated() else "a GPU"
    print(f"{'cuda':14}{'no: ' + reason if reason else cuda}")
    print(f"{'auto':14}{resolve('auto').name}")
    store = kernel_store().folder()
    kept = store.files()
    limit = f"{in_megabytes(kept)} of at most {store.most / 1e6:g} (RNN_GPU_CACHE_MB)"
    trouble = store.trouble()
    print(f"{'kernels':14}{'not kept: ' + trouble if trouble else f'{len(kept)} kept, {limit}'}")
    print(f"{'':14}in {store.path}; `rnn-gpu clear-kernels` removes them")


def clear_kernels():
    """Remove the compiled kernels that are kept on disk from run to run; they are compiled again
    when they are needed.
    """
    removed = kernel_store().clear()
    print(f"{len(removed)} files removed, {in_megabytes(removed)}")


def kernel_store():
    """Where compiled kernels are kept.  ArgumentError where the environment's bound is none."""
    why_not("cpu")
    from ..kernels import store

    return store


def in_megabytes(files) -> str:
    """How large files are together, in words."""
    return f"{sum(file.bytes for file in files) / 1e6:.1f} MB"
