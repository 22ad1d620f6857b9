"""An activation that no library has (softsign), in an Elman network and an LSTM: ours against the
best a user of torch can write.

python -m benchmarks custom [--quick] [--seconds 120] [--resume] [--rehearse]
"""

from benchmarks._comparison import line, measure
from benchmarks._contenders import Case, Problem
from benchmarks._machine import REHEARSAL
from benchmarks._timing import options, run_table

SIZES = ((64, 32, 128), (32, 1, 128), (100, 128, 128), (64, 32, 1024))  # n, B, T
if REHEARSAL:
    SIZES = ((5, 2, 4),)
NAMES = (
    "ours",
    *(
        f"torch, loop{how}"
        for how in ("", ", script", ", CUDA graph", ", compiled", ", compiled, CUDA graph")
    ),
)


def cases() -> list[Case]:
    return [
        Case(cell, n, B, T, m=n)
        for n, B, T in SIZES
        for cell in ("softsign_elman", "softsign_lstm")
    ]


def measured(case: Case) -> dict:
    return measure(Problem(case), NAMES)


if __name__ == "__main__":
    run_table(
        "custom",
        options(__doc__),
        cases(),
        measured,
        line,
        "microseconds a step of ours, and the others' time over ours",
    )
