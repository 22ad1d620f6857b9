"""One long sequence in chunks side by side, parallel="auto", against step by step, over a grid of
layers and lengths.

    python -m benchmarks parallel --resume     the grid, one row after another
    python -m benchmarks parallel --n 256 --T 16384 --B 1 --m 8 --seconds 2

Step by step, "auto" and step by step again take turns. A ratio is the geometric mean of the two
over "auto", the median of all turns, with an interval in which the median of many more would be 19
times out of 20; that of the first over the last ("same") says what this tells apart: nothing where
it is not 1. Where the model decides for step by step without a look at the layer, both calls do
the same but for deciding: that is timed alone, and given as a share of a call forward of as many
steps, or fewer. As many threads as --threads says; NUMBA_NUM_THREADS must be as many at least.
Rows are kept in results/cpu/parallel.json, each as soon as it is measured; --resume leaves out
what is there of this commit. A row is marked where its interval does not lie above LEAST, or
deciding takes more than its share.
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
from rnn_gpu.layers import scan
from rnn_gpu.layers.cutting import first_cut, parallel_of

FILE = Path(__file__).parent / "results" / "cpu" / "parallel.json"
LEAST = 0.97  # "auto" against False
SIZES, LENGTHS, BATCHES = (64, 128, 256, 512), (1024, 4096, 16384, 65536), (1, 16, 64)
MOST = 2.2e9  # bytes of all activations
SHORT = 2.5e8  # the same, of a call that is timed to compare with deciding
FEW, MANY = 9, 60  # turns
KEY = ("cell", "n", "m", "T", "B", "threads", "forgets")
AUTO = parallel_of("auto", 1e-6)


def layer_of(cell: str, n: int, m: int, forgets: bool):
    """One as it is made, which forgets; or one that remembers: a forget gate that stays open, an
    update gate that does, a spectral radius of some 3.
    """
    if cell == "elman":
        layer = rnn_gpu.RNN(m, n, device="cpu")
        if not forgets:
            layer.parameters["W"][...] *= 5
    elif cell == "gru":
        layer = rnn_gpu.GRU(m, n, device="cpu")
        if not forgets:
            layer.parameters["W"][...] *= 5
    else:
        layer = rnn_gpu.LSTM(m, n, device="cpu")
        if not forgets:
            layer.parameters["b"].reshape(4, n)[1] += 8
    return layer


def turns(layer, x, dy, seconds: float) -> np.ndarray:
    """Seconds (turns, 3, 2) of step by step, "auto" and step by step again: of a call, and with
    its way back.
    """
    found, until = [], time.perf_counter() + seconds
    for turn in range(MANY + 1):
        if turn > FEW and time.perf_counter() > until:
            break
        found.append([])
        for way in (False, "auto", False):
            start = time.perf_counter()
            layer(x, parallel=way)
            forward = time.perf_counter() - start
            layer.backward(dy)
            found[-1].append((forward, time.perf_counter() - start))
    return np.array(found[1:])


def interval(ratios: np.ndarray) -> list[float]:
    """(low, median, high): between ratios of such ranks the median of many lies 19 times of 20."""
    ordered, count = np.sort(ratios), len(ratios)
    k = max(0, int(np.floor((count - 1.96 * np.sqrt(count)) / 2)))
    return [round(float(a), 3) for a in (ordered[k], np.median(ordered), ordered[count - 1 - k])]


def deciding(layer, T: int, B: int, calls: int = 200) -> float:
    """Seconds that "auto" takes to find out that neither way is worth chunks."""
    start = time.perf_counter()
    for _ in range(calls):
        first_cut(layer, T, B, AUTO)
        scan.planned(layer, T, B, AUTO)
    return (time.perf_counter() - start) / calls


def measured(case: dict, seconds: float) -> dict:
    """A row of the table."""
    cell, n, m, T, B, _, forgets = (case[name] for name in KEY)
    layer, rng = layer_of(cell, n, m, forgets), np.random.default_rng(0)
    if why := first_cut(layer, T, B, AUTO).why:
        steps = max(1, min(T, int(SHORT / activations(cell, n, 1, B))))
        x = rng.standard_normal((steps, B, m), dtype="float32")
        calls = []
        for _ in range(3):
            start = time.perf_counter()
            layer(x)
            calls.append(time.perf_counter() - start)
        took = deciding(layer, T, B)
        more = {"deciding_us": round(1e6 * took, 2), "share": round(took / min(calls), 6)}
        return case | {"sequential": why, **more, "steps_timed": steps}
    x = rng.standard_normal((T, B, m), dtype="float32")
    dy = rng.standard_normal((T, B, n), dtype="float32")
    times = turns(layer, x, dy, seconds)
    first, auto, last = times[:, 0], times[:, 1], times[:, 2]
    ratios, same = np.sqrt(first * last) / auto, first / last
    layer(x, parallel="auto")
    report = layer.parallel_report
    return case | {
        "turns": len(times),
        "milliseconds": [round(1e3 * float(t), 3) for t in times.min(0).ravel()],
        "forward": interval(ratios[:, 0]),
        "step": interval(ratios[:, 1]),
        "forward_same": interval(same[:, 0]),
        "step_same": interval(same[:, 1]),
        "chunks": report.chunks,
        "warm_up": report.warm_up,
        "repaired": report.repaired,
        "sequential": report.sequential,
    }


def loses(row: dict) -> bool:
    """Is it slower than LEAST, or may it be?"""
    if "share" in row:
        return row["share"] > 1 / LEAST - 1
    return min(row["forward"][0], row["step"][0]) < LEAST


def activations(cell: str, n: int, T: int, B: int) -> float:
    """Bytes, some."""
    return 16.0 * T * B * n * {"elman": 1, "gru": 3, "lstm": 4}[cell]


def cases(chosen):
    """The cases of the grid that fit, the shortest first."""
    ways = [True, False] if chosen.remembering else [True]
    grid = product(chosen.cell, chosen.n, chosen.T, chosen.B, chosen.threads, ways)
    fit = [each for each in grid if activations(*each[:4]) < MOST]
    for cell, n, T, B, threads, forgets in sorted(fit, key=lambda each: activations(*each[:4])):
        yield dict(zip(KEY, (cell, n, chosen.m or n, T, B, threads, forgets), strict=True))


def rows_of(commit: str | None = None) -> dict:
    """The rows that are in the file, by their case; only those of a commit."""
    rows = json.loads(FILE.read_text())["results"] if FILE.exists() else []
    rows = [row for row in rows if all(name in row for name in KEY)]
    return {key_of(row): row for row in rows if commit in (None, row["commit"])}


def key_of(row: dict) -> tuple:
    return tuple(row[name] for name in KEY)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", nargs="+", default=["elman", "gru", "lstm"])
    for name, values in {"n": SIZES, "T": LENGTHS, "B": BATCHES, "threads": [1, 2]}.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=values)
    parser.add_argument("--m", type=int, default=0, help="features of x; 0 is n")
    parser.add_argument("--remembering", action="store_true", help="layers that do not forget, too")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a row")
    parser.add_argument("--stop", type=float, default=np.inf, help="seconds, begin no row after")
    parser.add_argument("--resume", action="store_true", help="leave out rows of this commit")
    chosen, start = parser.parse_args(), time.perf_counter()
    commit = record.machine()["commit"]
    done = rows_of(commit) if chosen.resume else {}
    for case in cases(chosen):
        if key_of(case) in done:
            continue
        if time.perf_counter() - start > chosen.stop:
            print("not all: go on with --resume")
            break
        numba.set_num_threads(case["threads"])
        row = measured(case, chosen.seconds) | {"commit": commit}
        record.write(FILE.stem, FILE.parent.name, list((rows_of() | {key_of(row): row}).values()))
        mark = "*" * loses(row)
        print(*(f"{name}={value}" for name, value in row.items()), mark, flush=True)
    lost = [row for row in rows_of().values() if loses(row)]
    print(f"{len(lost)} of {len(rows_of())} rows may be slower than {LEAST}; {FILE}")


if __name__ == "__main__":
    main()
