"""Time and memory a step against the length of the sequence: ours should be flat, cuDNN stops at 65,535 steps.

python -m benchmarks sequence_length [--quick] [--seconds 120] [--resume] [--rehearse]
"""

from benchmarks._contenders import Case, Problem, line, measure, memory_of
from benchmarks._machine import REHEARSAL
from benchmarks._timing import run_table

NETWORKS = (("elman", 20, 16), ("lstm", 32, 1), ("elman", 20, 1), ("gru", 32, 1), ("lstm", 256, 8))  # cell, n, B
LENGTHS = (1024, 131_072, 128, 16_384, 65_536, 4096, 512)
CUDNN_STOPS, GRAPHS_STOP = 65_535, 4096  # steps: beyond, a graph of cuDNN's kernels takes longer to build than it saves
if REHEARSAL:
    NETWORKS, LENGTHS, CUDNN_STOPS = (("elman", 5, 2), ("lstm", 4, 1)), (3, 6), 5


def cases() -> list[Case]:
    return [Case(cell, n, B, T, m=n) for T in LENGTHS for cell, n, B in NETWORKS]


def measured(case: Case) -> dict:
    names = ["ours", "torch"]
    names += ["torch, CUDA graph"] * (case.T <= GRAPHS_STOP) + ["torch, in pieces"] * (case.T > CUDNN_STOPS)
    return measure(Problem(case), names, ("step", "forward"), also=lambda ready: memory(ready, case.T))


def memory(ready: dict, T: int) -> dict:
    """Bytes a step of a training step. (A graph's memory is its own, and taken before.)"""
    found = {name: memory_of(contender, name) for name, contender in ready.items() if "graph" not in name}
    return {"memory_per_step": {name: amount if isinstance(amount, str) else amount / T for name, amount in found.items()}}


if __name__ == "__main__":
    run_table("sequence_length", __doc__, cases(), measured, line, "microseconds a step of ours, and the others' time over ours")
