"""Which plans are right and the quickest on this card: what the library tries at first use.

    python -m benchmarks tuning [--seconds 120] [--resume] [--rehearse]

Each row has the trials of a problem beside the cycles that the model expects. What was found is
kept in the store, where the steps after this one find it.
"""

import argparse
import os
import traceback
import warnings
from itertools import product

from benchmarks import _machine
from benchmarks._machine import REHEARSAL, first_line
from benchmarks._timing import Budget
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda.contract import Problem
from rnn_gpu.kernels.devices.cuda.schedules import card, ranked
from rnn_gpu.kernels.devices.cuda.tuning import find, session
from rnn_gpu.kernels.devices.cuda.tuning.records import identity

NAMES = ("lstm", "gru", "elman_tanh")
DIRECTIONS = ("forward", "backward")
SIZES, BATCHES = (256, 128, 64, 512, 1024), (32, 1, 256)
if REHEARSAL:
    SIZES, BATCHES = (5,), (3,)


def problems() -> list[Problem]:
    """Those that say most first."""
    return [
        Problem(CELLS[name], direction, n, B, 4, card())
        for B, n, name, direction in product(BATCHES, SIZES, NAMES, DIRECTIONS)
    ]


def key(problem: Problem) -> str:
    return f"{problem.cell.name} {problem.direction} n={problem.n} B={problem.B}"


def row(problem: Problem) -> dict:
    """What was tried of one problem, and what is chosen."""
    found = find(*problem[:5], problem.clips, problem.masked, problem.precision)
    expected = {identity(one): one.cycles for one in ranked(problem)}
    trials = [one._asdict() | {"cycles": expected.get(one.plan)} for one in found.trials]
    chosen, why = found.choice, "" if trials else found.choice.why
    return {
        "problem": key(problem),
        "chosen": identity(chosen),
        "cycles": chosen.cycles,
        "why": why,
        "trials": trials,
    }


def shown(one: dict) -> str:
    tried = ", ".join(
        f"{trial['schedule']} "
        + (f"{1e6 * trial['seconds']:.3g} µs" if trial["seconds"] else trial["wrong"])
        for trial in one["trials"]
    )
    return f"{one['problem']}: {one['chosen']}; {tried or one['why']}"


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    chosen = parser.parse_args()
    _machine.require_card()
    os.environ["RNN_GPU_TUNE"] = "1"
    budget, errors = Budget(chosen.seconds), {}
    rows = ((chosen.resume and _machine.earlier("tuning")) or {}).get("results", [])
    left = [one for one in problems() if key(one) not in {row["problem"] for row in rows}]
    path = None
    with session(), warnings.catch_warnings():
        warnings.simplefilter("always")  # each schedule that is banned is told
        while left and budget.left > 0:
            problem = left.pop(0)
            try:
                rows.append(row(problem))
                print(shown(rows[-1]), flush=True)
            except Exception as error:
                traceback.print_exc()
                errors[key(problem)] = first_line(error)
            path = _machine.write("tuning", rows, errors=errors, complete=not left)
    wrong = sum(bool(trial["wrong"]) for one in rows for trial in one["trials"])
    print(
        f"tuning: {len(rows)} problems, {wrong} plans not used, {len(errors)} failed, "
        f"{len(left)} not reached -> {path}"
    )


if __name__ == "__main__":
    main()
