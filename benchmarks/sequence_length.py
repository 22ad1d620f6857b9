"""Time and memory a step against the length of the sequence: ours should be flat, cuDNN stops at
65,535 steps; and ours with chunks of the sequence side by side, where that should pay, and within
less memory, in segments.

python -m benchmarks sequence_length [--cpu] [--quick] [--seconds 120] [--resume] [--rehearse]
"""

import ctypes
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks import _machine
from benchmarks._comparison import line, measure, memory_of
from benchmarks._contenders import ENTRIES, Case, Problem
from benchmarks._machine import CPU, REHEARSAL
from benchmarks._tables import said
from benchmarks._timing import options, run_table

NAMES = ("ours", "ours, parallel", "torch")
IN_SEGMENTS = ("ours, in segments", "ours, parallel, in segments")  # on the CPU, of the longest
# cell, n, B
NETWORKS = (("elman", 20, 16), ("lstm", 32, 1), ("elman", 20, 1), ("gru", 32, 1), ("lstm", 256, 8))
LONE = (("lstm", 64, 1), ("lstm", 256, 1))  # on the CPU too: what goes there in parallel over time
LENGTHS = (1024, 1_048_576, 131_072, 128, 16_384, 65_536, 4096, 512)
# steps: from so many on in segments, on the CPU
SEGMENTED = 131_072
# steps: beyond, torch's loop over them takes half a minute a call on the CPU; its LSTM is no loop
SLOW_STOPS, LOOPING = 16_384, ("elman", "gru")
# steps: beyond, a graph of cuDNN's kernels takes longer to build than it saves
CUDNN_STOPS, GRAPHS_STOP = 65_535, 4096
QUICK = 1, (128, 4096)  # networks and lengths on the CPU, where each takes two processes
TELLS = 1 << 20  # bytes: less is a matter of pages
ARRAYS = 40  # of (T, B, n), what a training step of an LSTM has at most on the CPU
if REHEARSAL:
    NETWORKS, LENGTHS, CUDNN_STOPS = (("elman", 5, 2), ("lstm", 4, 1)), (3, 6), 5
    QUICK, TELLS, SEGMENTED, SLOW_STOPS = (1, (3, 3000)), 1 << 18, 3000, 3000
    LONE = (("lstm", 6, 1),)


def cases(quick: bool = False) -> list[Case]:
    # first what goes in parallel over time
    networks = sorted(NETWORKS + LONE, key=lambda one: one[2]) if CPU and not quick else NETWORKS
    most, lengths = QUICK if CPU and quick else (len(networks), LENGTHS)
    return [
        Case(cell, n, B, T, m=n, threads=int(CPU))
        for T in lengths
        for cell, n, B in networks[:most]
    ]


def names(case: Case) -> list[str]:
    """Who is measured."""
    found = [*NAMES]
    if CPU:
        found += IN_SEGMENTS * (case.T >= SEGMENTED)
        return [name for name in found if name != "torch" or not too_slow(case)]
    found += ["torch, CUDA graph"] * (case.T <= GRAPHS_STOP)
    return found + ["torch, in pieces"] * (case.T > CUDNN_STOPS)


def too_slow(case: Case) -> bool:
    return CPU and case.cell in LOOPING and case.T > SLOW_STOPS


def fits(case: Case) -> bool:
    """Has the CPU twice the memory that a training step may take?"""
    return not CPU or 2 * 4 * ARRAYS * case.T * case.B * case.n < os.sysconf(
        "SC_PAGE_SIZE"
    ) * os.sysconf("SC_PHYS_PAGES")


def measured(case: Case) -> dict:
    if CPU:
        return measure(
            Problem(case),
            names(case),
            ("step",),
            also=lambda ready: memory_on_the_cpu(ready, case),
        )
    return measure(
        Problem(case), names(case), ("step", "forward"), also=lambda ready: memory(ready, case.T)
    )


def memory(ready: dict, T: int) -> dict:
    """Bytes a step of a training step. (A graph's memory is its own, and taken before.)"""
    found = {
        name: memory_of(contender, name) for name, contender in ready.items() if "graph" not in name
    }
    return {
        "memory_per_step": {
            name: amount if isinstance(amount, str) else amount / T
            for name, amount in found.items()
        }
    }


def memory_on_the_cpu(ready: dict, case: Case) -> dict:
    """The same on the CPU."""
    found = {name: grown(name, case._replace(T=0))[case.T] for name in ready}
    return {
        "memory_per_step": {
            name: size / case.T if size >= TELLS else "too little to tell"
            for name, size in found.items()
        }
    }


@cache
def grown(name: str, network: Case) -> dict[int, int]:
    """Bytes by T, from a fresh process that does nothing else and goes from the shortest to the
    longest.
    """
    lengths = [
        case.T
        for case in cases("--quick" in sys.argv)
        if case._replace(T=0) == network and fits(case) and name in names(case)
    ]
    text = json.dumps([name, network, sorted(lengths)])
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "sequence_length",
        "--cpu",
        "--grow",
        text,
        *["--rehearse"] * REHEARSAL,
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return {int(T): size for T, size in json.loads(done.stdout.splitlines()[-1]).items()}


def grow(text: str) -> dict[int, int]:
    """In that process: how much more memory than x and dy one training step holds at its peak, at
    each T.
    """
    name, network, lengths = json.loads(text)
    found = {}
    for T in (1, 2, *lengths):  # at first libraries are loaded, and kernels compiled
        problem = Problem(Case(*network)._replace(T=T))
        contender = ENTRIES[name].make(problem)
        contender.begin()
        # what is free goes back to the system, and counts when it is taken again
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
        before = held("VmRSS")
        contender.step()
        found[T] = held("VmHWM") - before
    return {T: found[T] for T in lengths}


def held(what: str) -> int:
    """Bytes of this process: VmRSS, now; VmHWM, at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def main():
    chosen = options(
        __doc__,
        lambda parser: [
            parser.add_argument("--cpu", action="store_true"),
            parser.add_argument("--grow"),
        ],
    )
    if chosen.grow:
        print(json.dumps(grow(chosen.grow)))
        return
    if CPU and chosen.quick:
        _machine.aside()
    wanted = cases(chosen.quick)
    too_long = [case._asdict() for case in wanted if not fits(case)]
    for case in too_long:
        print(f"left out, it may take more than half of the memory here: {said(case)}")
    head = "microseconds a step of ours, and the others' time over ours"
    run_table(
        "sequence_length",
        chosen,
        [case for case in wanted if fits(case)],
        measured,
        line,
        head,
        left_out=too_long,
    )


if __name__ == "__main__":
    main()
