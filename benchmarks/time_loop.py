"""Instructions of the loop over time, in what the recurrent kernels become for an H200: read, not
run.

    python -m benchmarks time_loop before     the table, and into results/sass/loops.json
    python -m benchmarks time_loop after --cell lstm --n 64

What a warp issues in a step, every branch of it counted as taken, whether or not a call ever takes
it; a loop within the step (weights in shared memory, what *plain* multiplies) is counted apart,
once.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks import sass
from benchmarks._disassembly import time_loop
from benchmarks._every_kernel import given, signature
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda import block, cluster, plain
from rnn_gpu.kernels.devices.cuda.contract import Choice, Problem
from rnn_gpu.kernels.devices.cuda.schedules import H200, decide

FILE = Path(__file__).parent / "results" / "sass" / "loops.json"
NAMES, SIZES, B = ("elman_tanh", "gru", "lstm"), (64, 128, 256), 64
CASES = (("forward", False), ("backward", False), ("backward", True))  # direction, clips
KEY = ("cell", "n", "direction", "clips", "masked")
SHAPE = ("blocks", "lanes", "units", "samples", "in_registers")
HEADS = (
    "cell",
    "n",
    "way",
    "schedule",
    "blocks, lanes, units, samples, quads in registers",
    "registers",
    "instructions a step",
    "of them in loops within",
)


def made(problem: Problem, choice: Choice):
    """(the kernel that carries a problem out, how many barriers a step of it has)."""
    forward, number = problem.direction == "forward", np.float32
    if choice.plan:
        made_by = {"block": block, "cluster": cluster}[choice.schedule]
        factory = made_by.forward_kernel if forward else made_by.backward_kernel
        return factory(problem.cell, number, choice.plan), 1
    if forward:
        return plain.forward_kernel(problem.cell, number, problem.masked), 1
    kernel = plain.backward_kernel(problem.cell, number, problem.clips, problem.masked)
    return kernel, 3 if problem.clips else 1


def row(problem: Problem) -> dict:
    """What one kernel becomes."""
    choice = decide(problem)
    kernel, barriers = made(problem, choice)
    taken = given(problem.clips, problem.masked)
    compiled = sass.compile_kernel(kernel, signature(kernel, taken, np.float32), (9, 0))
    loop = time_loop(compiled.sass)
    return {
        "cell": problem.cell.name,
        "n": problem.n,
        "B": problem.B,
        "direction": problem.direction,
        "clips": problem.clips,
        "masked": problem.masked,
        "schedule": choice.schedule,
        "plan": choice.plan and choice.plan._asdict(),
        "registers": compiled.registers,
        "stack": compiled.stack,
        "instructions": loop.a_step(barriers),
        "within": loop.within,
        "opcodes": dict(loop.once.most_common()),
    }


def table(rows: list[dict]) -> str:
    """As Markdown."""
    lines = [" | ".join(HEADS), " | ".join("---" for _ in HEADS)]
    for one in rows:
        way = one["direction"] + ", clipping" * one["clips"] + ", masked" * one["masked"]
        plan = one["plan"] or {}
        shape = ", ".join(str(plan[key]) for key in SHAPE if plan)
        within = ", ".join(map(str, one["within"]))
        parts = (one["cell"], one["n"], way, one["schedule"], shape, one["registers"])
        lines.append(" | ".join(map(str, (*parts, f"{one['instructions']:g}", within))))
    return "\n".join(f"| {line} |" for line in lines)


def keep(name: str, rows: list[dict]):
    """Into the file under a name, in the place of rows of the same kernels."""
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    kernels = {tuple(row[key] for key in KEY): row for row in kept.get(name, [])}
    kernels |= {tuple(row[key] for key in KEY): row for row in rows}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(kept | {name: list(kernels.values())}, indent=1, ensure_ascii=False)
    FILE.write_text(text + "\n", encoding="utf-8")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks time_loop", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("name", help="of the rows in the file, such as before and after")
    parser.add_argument("--cell", choices=NAMES, nargs="+", default=NAMES)
    parser.add_argument("--n", type=int, nargs="+", default=SIZES)
    parser.add_argument("--masked", action="store_true", help="kernels that look at flags")
    options = parser.parse_args(arguments)
    if lacking := sass.missing():
        print(lacking, file=sys.stderr)
        return sass.MISSING
    cases = itertools.product(options.cell, options.n, CASES)
    problems = [
        Problem(CELLS[name], way, n, B, 4, H200, clips, options.masked)
        for name, n, (way, clips) in cases
    ]
    rows = []
    for problem in problems:
        rows.append(row(problem))
        keep(options.name, rows)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
