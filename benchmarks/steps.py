"""Microseconds a step: cell × n × B × T, ours against cuDNN (eager, under a CUDA graph, TF32) and
JAX's scan.

    python -m benchmarks steps [--quick] [--seconds 300] [--resume] [--rehearse]

The input has n features. Best regime first: sizes whose W fits one multiprocessor.
"""

from benchmarks._comparison import kernels_of, line, measure
from benchmarks._contenders import Case, Problem
from benchmarks._machine import REHEARSAL
from benchmarks._timing import options, run_table

CELLS = ("lstm", "gru", "elman")
LENGTHS = (1024, 128)  # both of one size follow one another: they share the compiled kernels
TIERS = (  # (sizes, batches), each for every cell before the next
    ((64, 128, 32, 16), (32, 1, 256)),
    ((64, 128, 32, 16), (8, 64, 128)),
    ((256, 192, 160), (32, 1, 256)),
    ((512, 1024), (32, 1)),
    ((256, 192, 160), (8, 64, 128)),
    ((384, 768), (32, 1)),
    ((512, 1024, 384, 768), (8, 64, 128, 256)),
)
if REHEARSAL:
    LENGTHS, TIERS = (4,), (((5,), (3,)), ((3,), (1,)))
NAMES = ("ours", "ours, CUDA graph", "torch", "torch, CUDA graph")
SHORT_NAMES = ("torch, TF32", "torch, CUDA graph, TF32", "ours, public call")  # also, at 128 steps
JAX = ("JAX scan", "JAX scan, TF32")  # also, in a few cases: it takes seconds to compile
LOOKED_INTO = ("ours", "torch", "torch, TF32")  # in the same few cases: the kernels that ran


def cases() -> list[Case]:
    return [
        Case(cell, n, B, T, m=n)
        for sizes, batches in TIERS
        for B in batches
        for n in sizes
        for cell in CELLS
        for T in LENGTHS
    ]


def measured(case: Case) -> dict:
    names = NAMES + SHORT_NAMES * (case.T < 1024)
    few = case.B == 3 if REHEARSAL else (case.T, case.B) == (128, 32) and case.n in (64, 256)
    return (
        measure(Problem(case), names + JAX, also=kernels) if few else measure(Problem(case), names)
    )


def kernels(ready: dict) -> dict:
    return {"kernels": {name: kernels_of(ready[name]) for name in LOOKED_INTO if name in ready}}


if __name__ == "__main__":
    run_table(
        "steps",
        options(__doc__),
        cases(),
        measured,
        line,
        "microseconds a step of ours, and the others' time over ours",
    )
