"""The job of README.md, `rnn-gpu train`, against the same job written in torch: seconds and
accuracy, a process each.

    python -m benchmarks train [--quick]

Ours runs first with an empty cache of compiled kernels, then in turn with torch, at its own number
of threads and at one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from . import record
from .report import jobs

TORCH = {"torch": 0, "torch, one thread": 1}  # threads


def timed(command: list, **environment) -> tuple[float, str]:
    """Seconds of a process, and what it prints."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        check=True,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    return time.perf_counter() - start, done.stdout


def ours(epochs: int, cache: Path) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = ["rnn_gpu.cli", "train", "--device", "cpu", "--epochs", epochs, "--out", folder]
        seconds, _ = timed(command, NUMBA_CACHE_DIR=str(cache))
        history = json.loads(next(Path(folder).glob("*/history.json")).read_text())
    return {
        "process_seconds": seconds,
        "epoch_seconds": sum(history["seconds"]),
        "compile_seconds": history["compile_seconds"][0],
        "loss": min(history["validation_loss"]),
        "accuracy": history["test"]["accuracy"],
    }


def in_torch(epochs: int, threads: int) -> dict:
    seconds, printed = timed(["benchmarks.train_torch", "--epochs", epochs, "--threads", threads])
    return {"process_seconds": seconds} | json.loads(printed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 epochs, once, not recorded")
    quick = parser.parse_args().quick
    epochs, repeats = (2, 1) if quick else (60, 3)
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as cache:
        runs["ours, first run"] = [ours(epochs, cache)]
        for _ in range(repeats):
            runs.setdefault("ours", []).append(ours(epochs, cache))
            for name, threads in TORCH.items() if find_spec("torch") else ():
                runs.setdefault(name, []).append(in_torch(epochs, threads))
    rows = {
        name: {key: float(np.median([one[key] for one in found])) for key in found[0]}
        for name, found in runs.items()
    }
    print(jobs(rows))
    if not quick:
        print(record.write("train", "cpu", rows))


if __name__ == "__main__":
    main()
