"""Inference and training on the CPU: cell × n × B × T × threads, ours against torch's, by the calls
that a user makes.

    python -m benchmarks cpu [--quick] [--cells lstm] [--n 16 64] [--B 1] [--T 64] [--threads 1 2]
    [--seconds 480] [--resume] [--rehearse]

The input has n features. Then a cell and an activation of the user's against the built-in ones, and
the goals one by one. What the time does not allow is left out beforehand, the longest first, and
listed. A part of the table goes to a temporary folder.
"""

import sys
import time
from itertools import product

import numba
import numpy as np

from benchmarks import _machine, report
from benchmarks._comparison import line, measure, prepared, times_of, with_ratios
from benchmarks._contenders import ON_THE_CPU, Case, Problem, hold
from benchmarks._machine import REHEARSAL
from benchmarks._timing import ROUNDS, SETTLING, how_often, options, run_table

TABLE = {
    "cells": ["elman", "lstm", "gru"],
    "n": [16, 64, 128, 256, 512, 1024],
    "B": [1, 16, 64],
    "T": [64, 512],
    "threads": [1, 2],
}
QUICK = {"n": [16, 64], "B": [1, 16], "T": [64], "threads": [1]}
OWN_SIZES = ((16, 1), (64, 1), (64, 16), (256, 16))  # n, B of a cell of the user's, at 64 steps
SGEMM = 2048  # rows of the matrices whose product is the peak
if REHEARSAL:
    TABLE |= {"n": [5], "B": [2], "T": [3, 4]}
    QUICK, OWN_SIZES, SGEMM = {}, ((5, 2),), 64
OWN = {"elman": "softsign_elman", "lstm": "own_lstm"}
NAMES = ("ours", "torch")
GATES = {"elman": 1, "gru": 3, "lstm": 4}
STEP = 20e-6  # seconds that a step of torch's layers takes at any size
COMPILE = 20.0  # seconds for all kernels
OWN_SHARE = 0.12  # of the time, for a user's cells


def flop(case: Case, what: str) -> int:
    """Of the products with U and W; a training step has two more of each."""
    once = 2 * case.T * case.B * GATES[case.cell] * case.n * (case.n + case.m)
    return once if what == "inference" else 3 * once


def peak(threads: int) -> float:
    """FLOP/s of a large product of float32 matrices, the best of five: torch's where it is there,
    or else NumPy's, of all threads.
    """
    hold(threads)
    a = np.ones((SGEMM, SGEMM), np.float32)
    try:
        import torch

        torch.set_num_threads(threads)
        a = torch.from_numpy(a)
    except ImportError:
        pass
    times = []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * SGEMM**3 / min(times[1:])


def expected_seconds(case: Case, peaks: dict) -> float:
    """What measuring a case will take: two contenders, each compared once, then timed."""
    once = {what: flop(case, what) / peaks[case.threads] + case.T * STEP for what in ON_THE_CPU}
    timed = sum(
        seconds * (2 + how_often(seconds)) + ROUNDS * max(seconds, SETTLING)
        for seconds in once.values()
    )
    return len(NAMES) * (once["step"] + timed)


def planned(cases: list[Case], seconds: float, peaks: dict) -> tuple[list[Case], list[Case]]:
    """(what is measured, what is left out): of all but the shortest T, the longest to measure
    first, until the rest fits.
    """
    expected = {case: expected_seconds(case, peaks) for case in cases}
    left_out, total = [], sum(expected.values())
    for case in sorted(cases, key=expected.get, reverse=True):
        if total > seconds and case.T > cases[0].T:
            left_out.append(case)
            total -= expected[case]
    return [case for case in cases if case not in left_out], left_out


def cases(cells, n, B, T, threads) -> list[Case]:
    """The shorter T first, so that what the time does not reach is the longest."""
    return [
        Case(cell, n, B, T, m=n, threads=k) for T, n, B, cell, k in product(T, n, B, cells, threads)
    ]


def measured(case: Case, peaks: dict) -> dict:
    row = measure(Problem(case), NAMES, ON_THE_CPU)
    for what, found in row["passes"].items():
        for one in found.values():
            one["gflop_per_s"] = 1e-3 * flop(case, what) / one["median_us"]
            one["of_peak"] = 1e9 * one["gflop_per_s"] / peaks[case.threads]
    return row


def own(case: Case) -> dict:
    """A user's cell against the built-in one of the same size: each compared with the reference,
    then timed in turn.
    """
    ready, errors, absent = {}, {}, {}
    for name, cell in {"ours": case.cell, "own": OWN[case.cell]}.items():
        found, errors[name], missing = prepared(Problem(case._replace(cell=cell)), ("ours",))
        ready |= {name: found["ours"]} if found else {}
        absent |= {name: missing["ours"]} if missing else {}
    passes = {what: with_ratios(times_of(ready, what, case.T)) for what in ON_THE_CPU}
    return {"schedules": {}, "errors": errors, "not_measured": absent, "passes": passes}


def add(parser):
    for name, values in TABLE.items():
        kind = {"choices": values} if name == "cells" else {"type": positive}
        parser.add_argument(f"--{name}", nargs="+", default=None, help=f"of {values}", **kind)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main():
    chosen = options(__doc__, add)
    given = {name: getattr(chosen, name) for name in TABLE if getattr(chosen, name)}
    wanted = TABLE | (QUICK if chosen.quick else {}) | given
    if wanted != TABLE:
        _machine.aside()
    here = numba.config.NUMBA_NUM_THREADS
    threads = [k for k in wanted["threads"] if k <= here]
    if more := sorted(set(wanted["threads"]) - set(threads)):
        print(
            f"Numba has {here} thread{'s' * (here > 1)} here: nothing is measured with "
            f"{', '.join(map(str, more))}"
        )
    if not threads:
        sys.exit("--threads leaves nothing to measure")
    peaks = {k: peak(k) for k in threads}
    print(
        "peak, a large sgemm: "
        + ", ".join(
            f"{1e-9 * most:.1f} GFLOP/s with {k} thread{'s' * (k > 1)}" for k, most in peaks.items()
        )
    )
    chosen.seconds, of_own = chosen.seconds * (1 - OWN_SHARE), chosen.seconds * OWN_SHARE
    kept, left_out = planned(
        cases(**wanted | {"threads": threads}), chosen.seconds - COMPILE, peaks
    )
    for case in left_out:
        print(f"left out, {expected_seconds(case, peaks):.0f} s: {report.said(case._asdict())}")
    facts = {"peak_flop_per_s": peaks, "left_out": [case._asdict() for case in left_out]}
    heading = (
        "microseconds a step of ours, and torch's time over ours; step is forward and backward"
    )
    run_table("cpu", chosen, kept, lambda case: measured(case, peaks), line, heading, **facts)
    chosen.seconds = of_own
    sizes = [
        Case(cell, n, B, min(wanted["T"]), m=n, threads=threads[0])
        for n, B in OWN_SIZES
        for cell in OWN
        if cell in wanted["cells"]
    ]
    run_table(
        "cpu_own",
        chosen,
        sizes,
        own,
        line,
        "microseconds a step of the built-in cell, and the time of the user's own over it",
    )
    print(report.report(_machine.folder()))


if __name__ == "__main__":
    main()
