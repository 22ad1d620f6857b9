"""In a process of its own: what a training step of one recurrent layer takes, in time and memory,
against the length of its sequences.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..keeping import release

ENOUGH, LEAST = 0.25, 3  # seconds, and times, that a step is repeated


class Case(NamedTuple):
    """A layer of n units that takes n features, and batches of B sequences."""

    who: str  # "rnn_gpu" or "torch"
    cell: str
    n: int
    B: int
    device: str
    lengths: tuple[int, ...]  # ascending


def steps_of(case: Case) -> Callable[[np.ndarray], object]:
    """(x (T, B, n)) -> one step, forward and back, of the layer that is asked for."""
    if case.who == "rnn_gpu":
        from .options import CELLS

        layer = CELLS[case.cell](case.n, case.n, device=case.device)

        def step(x):
            y, _ = layer(x)
            layer.backward(y)

        return step
    torch: Any = import_module("torch")  # which need not be installed
    kind = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[case.cell]
    module = kind(case.n, case.n).to(case.device)

    def step_of_torch(x):
        given = torch.from_numpy(x).to(case.device).requires_grad_()
        y, _ = module(given)
        y.backward(y.detach())
        if case.device == "cuda":
            torch.cuda.synchronize()

    return step_of_torch


def measure(case: Case) -> dict[int, dict]:
    """By T: microseconds a time step, and bytes a time step (None where this cannot be seen)."""
    step, found = steps_of(case), {}
    rng = np.random.default_rng(0)
    for T in (2, case.lengths[0]):  # what is compiled or loaded at first counts for nothing
        step(rng.normal(size=(T, case.B, case.n)).astype("float32"))
    for T in case.lengths:
        x = rng.normal(size=(T, case.B, case.n)).astype("float32")
        release()  # what is kept for the next
        before = forget_the_peak() if case.device == "cpu" else None
        step(x)
        grown = None if before is None else max(held("VmHWM") - before, 0)
        seconds: list[float] = []
        while sum(seconds) < ENOUGH or len(seconds) < LEAST:
            start = time.perf_counter()
            step(x)
            seconds.append(time.perf_counter() - start)
        found[T] = {
            "microseconds": 1e6 * statistics.median(seconds) / T,
            "bytes": None if grown is None else grown / T,
        }
    return found


def forget_the_peak() -> int | None:
    """Bytes of this process now, from where its peak is counted; None where no system says so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return held("VmRSS")
    except OSError:
        return None


def held(what: str) -> int:
    """Bytes of this process: VmRSS, now; VmHWM, at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def main():
    """Measure the case of the command line, in JSON, and print what was found."""
    print(json.dumps(measure(Case(*json.loads(sys.argv[1])))))
