"""One long sequence in chunks side by side, parallel="auto", against step by step: the least of
several calls of each, which take turns, over a grid of layers and lengths.

    python -m benchmarks parallel              the grid, one row after another
    python -m benchmarks parallel --n 256 --T 16384 --B 1 --m 8 --seconds 2

As many threads as numba has: set OMP_, MKL_, OPENBLAS_ and NUMBA_NUM_THREADS to as many. Rows that
ended are in results/cpu/parallel.json, which a later call adds to. A row whose ratio is below LEAST
is marked.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import numba
import numpy as np

import rnn_gpu
from benchmarks import record

FILE = Path(__file__).parent / "results" / "cpu" / "parallel.json"
KINDS = {"elman": rnn_gpu.RNN, "gru": rnn_gpu.GRU, "lstm": rnn_gpu.LSTM}
GATES = {"elman": 1, "gru": 3, "lstm": 4}
LEAST = 0.97  # "auto" against False
SIZES, LENGTHS, BATCHES = (32, 64, 128, 256, 512), (1024, 4096, 16384, 65536), (1, 4, 16, 64)
MOST = 2e9  # bytes of all activations
FEW, MANY = 3, 60  # repeats
KEY = ("cell", "n", "m", "T", "B", "threads")


def turns(layer, x, dy, seconds: float) -> dict:
    """The least seconds of a call, and of one with its way back, without and with chunks."""
    least = {way: [np.inf, np.inf] for way in (False, "auto")}
    until = time.perf_counter() + seconds
    for repeat in range(MANY):
        if repeat > FEW and time.perf_counter() > until:
            break
        for way, found in least.items():
            start = time.perf_counter()
            layer(x, parallel=way)
            forward = time.perf_counter() - start
            layer.backward(dy)
            if repeat:
                found[:] = min(found[0], forward), min(found[1], time.perf_counter() - start)
    return least


def measured(cell: str, n: int, m: int, T: int, B: int, seconds: float) -> dict:
    """A row of the table."""
    layer, rng = KINDS[cell](m, n, device="cpu"), np.random.default_rng(0)
    x = rng.standard_normal((T, B, m), dtype="float32")
    dy = rng.standard_normal((T, B, n), dtype="float32")
    (forward, step), (forward_cut, step_cut) = turns(layer, x, dy, seconds).values()
    report = layer.parallel_report
    return {
        "cell": cell,
        "n": n,
        "m": m,
        "T": T,
        "B": B,
        "threads": numba.get_num_threads(),
        "milliseconds": [round(1e3 * each, 3) for each in (forward, forward_cut, step, step_cut)],
        "forward": round(forward / forward_cut, 3),
        "step": round(step / step_cut, 3),
        "chunks": report.chunks,
        "warm_up": report.warm_up,
        "repaired": report.repaired,
        "sequential": report.sequential,
    }


def cases(chosen):
    """(cell, n, m, T, B) of the grid that fit."""
    for n, T, B, (cell, gates) in product(chosen.n, chosen.T, chosen.B, GATES.items()):
        if 16 * T * B * n * gates < MOST:
            yield cell, n, chosen.m or n, T, B


def kept(rows: list[dict]):
    """Write these rows, and those that are there of other cases."""
    before = json.loads(FILE.read_text())["results"] if FILE.exists() else []
    new = {tuple(row[name] for name in KEY): row for row in rows}
    old = {tuple(row[name] for name in KEY): row for row in before}
    return record.write(FILE.stem, FILE.parent.name, list((old | new).values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, values in {"n": SIZES, "T": LENGTHS, "B": BATCHES}.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=values)
    parser.add_argument("--m", type=int, default=0, help="features of x; 0 is n")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a row")
    parser.add_argument("--stop", type=float, default=np.inf, help="seconds, begin no row after")
    chosen, rows, start = parser.parse_args(), [], time.perf_counter()
    for case in cases(chosen):
        if time.perf_counter() - start > chosen.stop:
            break
        rows.append(measured(*case, chosen.seconds))
        mark = " *" if min(rows[-1]["forward"], rows[-1]["step"]) < LEAST else ""
        print(*(f"{name}={value}" for name, value in rows[-1].items()), mark, flush=True)
    print(kept(rows))


if __name__ == "__main__":
    main()
