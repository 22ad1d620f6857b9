"""Cases that others have published numbers of, on their machines: measured here, ours and cuDNN's.

python -m benchmarks reference_points [--quick] [--seconds 120] [--resume] [--rehearse]
"""

from benchmarks._comparison import line, measure
from benchmarks._contenders import Case, Problem
from benchmarks._machine import REHEARSAL
from benchmarks._timing import options, run_table

POINTS = {
    Case("lstm", 256, 10, 512, m=128, layers=6): "KernelBench: six layers",
    Case("lstm", 512, 16, 25, m=512): "DeepBench",
    Case("elman", 1760, 16, 50, m=1760): "DeepBench",
    Case("lstm", 768, 16, 1024, m=768): "FlashRNN; cuDNN in float16, an H100: 1.96 µs a step",
    Case("gru", 1024, 32, 1500, m=1024): "DeepBench",
}
if REHEARSAL:
    POINTS = {Case("lstm", 4, 2, 3, m=3, layers=2): "two layers", Case("gru", 5, 2, 3, m=5): ""}
NAMES = ("ours", "torch", "torch, CUDA graph", "torch, TF32", "torch, CUDA graph, TF32")


def cases() -> list[Case]:
    return list(POINTS)


def measured(case: Case) -> dict:
    return {"published": POINTS[case]} | measure(Problem(case), NAMES)


if __name__ == "__main__":
    run_table(
        "reference_points",
        options(__doc__),
        cases(),
        measured,
        line,
        "microseconds a step of ours, and the others' time over ours",
    )
