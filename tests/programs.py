"""What the tests share that start Python anew: how a program ends and what it prints, and a copy of
the library that has more files.
"""

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

import rnn_gpu

LIBRARY = Path(rnn_gpu.__file__).parent
KERNELS = Path(rnn_gpu.kernels.__file__).parent
# no GPU is seen, and none simulated
NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1", "NUMBA_ENABLE_CUDASIM": None}


def python(text: str, *arguments, options=("-P",), cwd=None, patience=120, **environment):
    """A program that has ended by itself within so many seconds, and well: its stdout and stderr.

    options      of the interpreter; -P: what lies in the working directory is not found
    environment  what is other than here; None: what is taken away
    """
    inherited = {name: value for name, value in os.environ.items() if name not in environment}
    done = subprocess.run(
        [sys.executable, *options, "-c", text, *map(str, arguments)],
        env=inherited | {name: value for name, value in environment.items() if value is not None},
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=patience,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout} {done.stderr}"
    return done


COMPILER = """
try:
    from numba.cuda.cudadrv import nvvm
    nvvm.NVVM()
except (ImportError, RuntimeError) as error:
    print(error)
"""


def need_compiler():
    """Skip what needs NVIDIA's compiler where it is missing; RNN_GPU_REQUIRE_PTX=1: fail."""
    why_not = python(COMPILER, NUMBA_ENABLE_CUDASIM=None).stdout
    if why_not:
        assert not os.environ.get("RNN_GPU_REQUIRE_PTX"), why_not
        pytest.skip(f"no compiler: {why_not}")


def words(text, **environment):
    """What a new interpreter prints."""
    return python(text, **NO_GPU | environment).stdout.split()


def copied(folder: Path) -> Path:
    """Copy the library into a folder, which may stand on PYTHONPATH then; returns its kernels."""
    ignore = ignore_patterns("__pycache__", "kernels")
    copytree(LIBRARY, folder / "rnn_gpu", ignore=ignore)
    return copytree(KERNELS, folder / "rnn_gpu" / "kernels", ignore=ignore)


# A file of kernels/cells
LEAKY_FILE = """
import numpy as np

from .. import Cell


def step(p, q, s):
    f = np.tanh(p[0] + q[0])
    return (s[0] + 0.25 * (f - s[0]),), (f,)


def back(ds, kept, s, s_next):
    δ = 0.25 * ds[0] * (1 - kept[0] ** 2)
    return (δ,), (δ,), (0.75 * ds[0],)


CELLS = (Cell("leaky", gates=1, states=1, kept=1, step=step, back=back),)
"""
