"""The host's share of a call, at few steps: time until it returns, and until the result is there.

python -m benchmarks launch [--quick] [--seconds 30] [--resume] [--rehearse]
"""

from benchmarks._comparison import line, prepared, with_ratios
from benchmarks._contenders import Case, Problem
from benchmarks._machine import REHEARSAL
from benchmarks._timing import (
    WARM_UP,
    by_the_host,
    nothing,
    of_the_host,
    options,
    run_table,
    summary,
)

NETWORKS, LENGTHS, REPEATS = (("lstm", 64, 32), ("elman", 32, 1), ("gru", 32, 8)), (1, 8, 32), 60
if REHEARSAL:
    NETWORKS, LENGTHS, REPEATS = (("lstm", 4, 2),), (1, 3), 2
NAMES = ("ours", "ours, CUDA graph", "ours, public call", "torch", "torch, CUDA graph")
CLOCKS = {
    "until it returns": of_the_host,
    "until it is done": lambda work, repeats: by_the_host(work, nothing, repeats),
}


def cases() -> list[Case]:
    return [Case(cell, n, B, T, m=n) for cell, n, B in NETWORKS for T in LENGTHS]


def measured(case: Case) -> dict:
    problem = Problem(case)
    ready, errors, absent = prepared(problem, NAMES)
    row = {"schedules": problem.schedules(), "errors": errors, "not_measured": absent, "passes": {}}
    for what in ("forward", "step"):
        for until, clock in CLOCKS.items():
            found = {name: times(contender, what, clock) for name, contender in ready.items()}
            row["passes"][f"{what} {until}"] = with_ratios(found)
    return row


def times(contender, what: str, clock) -> dict:
    contender.begin()
    for _ in range(WARM_UP):
        getattr(contender, what)()
    return summary(clock(getattr(contender, what), REPEATS))


def shown(row: dict) -> str:
    """Microseconds a call, not a step."""
    for found in row["passes"].values():
        for one in found.values():
            one.setdefault("us_per_step", one["median_us"])
    return line(row)


if __name__ == "__main__":
    run_table(
        "launch",
        options(__doc__),
        cases(),
        measured,
        shown,
        "microseconds a call of ours, and the others' time over ours",
    )
