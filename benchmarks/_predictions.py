"""What to expect before measuring: the floors of the field notes, the schedules' own arithmetic,
what is published of cuDNN.

    python -m benchmarks _predictions [--write]     the first table of NOTES.md, and into it while
                                                    it has no outcome
    python -m benchmarks _predictions --count       what a step issues, counted in compiled code of
                                                    the plans that matter most, into FILE
    python -m benchmarks _predictions --check       has any of these grown since?
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import _machine  # noqa: F401  before numba
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda.contract import Choice, Problem
from rnn_gpu.kernels.devices.cuda.plans import Plan, cycles
from rnn_gpu.kernels.devices.cuda.schedules import H200, decide

CLOCK = 1980.0  # cycles a microsecond, of an H200
CELL_NAMES = {"elman": "elman_tanh", "gru": "gru", "lstm": "lstm"}
FLOORS = {
    ("elman", 128, None): 0.27,
    ("lstm", 256, 8): 0.61,
    ("lstm", 256, 32): 0.97,
    ("lstm", 256, 64): 1.39,
    ("lstm", 1024, 1): 1.35,
}
# of n ≤ 64; the notes say 0.16–0.30, and a fraction of the lower end cannot flatter
SMALL_FLOOR = 0.16
MARKS = {"block": "", "cluster": " c", "group": " l", "plain": " p", "gemm": " g"}
FILE = Path(__file__).parent / "results" / "model" / "predictions.json"
DIRECTIONS = ("forward", "backward")
COUNTED = (("elman", 256), ("elman", 512), ("gru", 256), ("lstm", 128), ("lstm", 256))
BATCHES = (1, 16)
# cycles until what a block sends to others of its cluster is there: stated, from published to slow
EXCHANGES = (240, 400, 700)
MORE = 1.05  # times the stored instructions that a step may have


class Range(NamedTuple):
    low: float
    high: float


def floor(case) -> float | None:
    """Microseconds a step that the way forward cannot beat in float32 (an estimate), where the
    notes give it.
    """
    if case.dtype != "float32" or case.layers > 1:
        return None
    known = FLOORS.get((case.cell, case.n, case.B)) or FLOORS.get((case.cell, case.n, None))
    return known or (SMALL_FLOOR if case.n <= 64 else None)


def ours(cell: str, direction: str, n: int, B: int) -> tuple[str, float] | None:
    """The schedule on an H200, and its own estimate in microseconds a step."""
    if cell not in CELL_NAMES:
        return None
    it = decide(asked(cell, direction, n, B))
    return it.schedule, it.cycles / CLOCK


def asked(cell: str, direction: str, n: int, B: int) -> Problem:
    return Problem(CELLS[CELL_NAMES[cell]], direction, n, B, 4, H200)


# Counted


def cases() -> Iterator[tuple[str, int, int, str]]:
    for cell, n in COUNTED:
        for B in BATCHES:
            for direction in DIRECTIONS:
                yield cell, n, B, direction


def modelled(cell: str, n: int, B: int, direction: str) -> dict:
    """What the table chooses, and expects."""
    it = decide(asked(cell, direction, n, B))
    low, high = cudnn(cell, direction, n)[1]
    return {
        "cell": cell,
        "n": n,
        "B": B,
        "direction": direction,
        "schedule": it.schedule,
        "plan": repr(it.plan),
        "us": round(it.cycles / CLOCK, 3),
        "cudnn_us": [low, high],
    }


def counted(cell: str, n: int, B: int, direction: str) -> dict:
    """That, and what a step of the compiled kernel issues."""
    from benchmarks import time_loop

    problem = asked(cell, direction, n, B)
    found = time_loop.row(problem)
    more = {key: found[key] for key in ("instructions", "registers", "stack")}
    more["us_counted"] = expected_of(decide(problem), problem, found["instructions"])
    return modelled(cell, n, B, direction) | more


def expected_of(choice: Choice, problem: Problem, issued: float) -> dict[str, float]:
    """Microseconds a step of a persistent kernel that issues so much, by cycles of an exchange; one
    block alone has none.
    """
    exchanges = EXCHANGES if choice.cluster > 1 else (0,)
    return {
        str(one): round(cycles(choice.plan, problem, issued, one) / CLOCK, 3) for one in exchanges
    }


def count() -> str:
    """Write FILE; the same as a table."""
    rows = []
    for case in cases():
        rows.append(counted(*case))
        print(rows[-1], file=sys.stderr, flush=True)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    body = {"card": H200.name, "cycles_a_us": CLOCK, "rows": rows}
    FILE.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return counted_table(rows)


def counted_table(rows: list[dict]) -> str:
    heads = "cell", "n", "B", "direction", "schedule", "instructions", "registers", "µs", "cuDNN"
    lines = [heads, ["---"] * len(heads)]
    for one in rows:
        times = " / ".join(f"{time:.2f}" for time in one["us_counted"].values())
        low, high = one["cudnn_us"]
        keys = "cell", "n", "B", "direction", "schedule", "instructions", "registers"
        lines.append([*(one[key] for key in keys), times, f"{low:g}–{high:g}"])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def stored() -> list[dict]:
    return json.loads(FILE.read_text(encoding="utf-8"))["rows"]


def fields(plan: str) -> dict[str, str]:
    """name -> number of a stored plan; one that plans did not have then has its default."""
    defaults = {name: repr(value) for name, value in Plan(1, 1, 1, 1, 1, 1)._asdict().items()}
    return defaults | dict(re.findall(r"(\w+)=([^,)]+)", plan))


def half() -> list[dict]:
    """Of the stored steps every other: of each cell and size one batch forward, the other back."""
    return [row for row in stored() if (row["B"] == 1) == (row["direction"] == "forward")]


def grown(rows: list[dict]) -> list[str]:
    """Which steps issue more than they did, compiled anew; of another plan, take longer."""
    found = []
    for old in rows:
        new = counted(old["cell"], old["n"], old["B"], old["direction"])
        issued, was = new["instructions"], old["instructions"]
        if fields(new["plan"]) == fields(old["plan"]):
            more = issued > MORE * was
        else:
            more = min(new["us_counted"].values()) > MORE * min(old["us_counted"].values())
        if more or new["stack"] > old["stack"]:
            what = f"{old['cell']} {old['direction']} n={old['n']} B={old['B']}"
            stack = f"{new['stack']} bytes of stack, not {old['stack']}"
            found.append(f"{what}: {issued:g} instructions, not {was:g}; {stack}")
    return found


def cudnn(cell: str, direction: str, n: int) -> tuple[str, Range]:
    """Which algorithm of cuDNN, and its published microseconds a step."""
    if direction == "forward":
        small = n <= (384 if cell == "elman" else 192)
        return (
            ("persistent", Range(0.36, 1.65) if cell == "elman" else Range(0.6, 5.6))
            if small
            else ("standard", Range(7, 13))
        )
    small = n <= (256 if cell == "elman" else 128)
    return ("persistent", Range(1, 9)) if small else ("standard", Range(9, 14))


def expected(case) -> dict:
    """floor() and ours() of a case, as a table's row has them."""
    both = {way: ours(case.cell, way, case.n, case.B) for way in ("forward", "backward")}
    return {
        "floor_us_per_step": floor(case),
        "predicted_us_per_step": {way: it[1] for way, it in both.items() if it},
    }


def table(sizes, batches) -> str:
    """Markdown: a line a cell, size and direction; microseconds a step for each batch, and torch's
    time over ours to expect.
    """
    heads = [
        "cell",
        "n",
        "direction",
        *(f"B={B}" for B in batches),
        "cuDNN",
        "torch over ours",
        "outcome",
    ]
    lines = [heads, ["---"] * len(heads)]
    for cell in CELL_NAMES:
        for n in sizes:
            for direction in DIRECTIONS:
                found = [ours(cell, direction, n, B) for B in batches]
                algorithm, published = cudnn(cell, direction, n)
                times = [time for _, time in found]
                low, high = published.low / max(times), published.high / min(times)
                shown = [f"{time:.2f}{MARKS[schedule]}" for schedule, time in found]
                cudnns = f"{algorithm}, {published.low:g}–{published.high:g}"
                lines.append(
                    [
                        cell,
                        n,
                        direction,
                        *shown,
                        cudnns,
                        f"{low:.2g}–{high:.2g}, middle {(low * high) ** 0.5:.2g}",
                        "",
                    ]
                )
    return "\n".join("| " + " | ".join(map(str, line)).rstrip() + " |" for line in lines)


def main():
    if "--count" in sys.argv:
        print(count())
        return
    if "--check" in sys.argv:
        print("\n".join(grown(stored())) or "no step has grown")
        return
    made = table((16, 32, 64, 128, 160, 192, 256, 384, 512, 768, 1024), (1, 16, 64, 256))
    notes = Path(__file__).with_name("NOTES.md")
    print(made)
    if "--write" in sys.argv:
        before, head, rest = notes.read_text(encoding="utf-8").partition(made.partition("\n")[0])
        old, _, after = rest.partition("\n\n")
        if any(not line.endswith("| |") for line in old.strip().splitlines()[1:]):
            sys.exit("NOTES.md has outcomes: a prediction is not changed after the measurement")
        notes.write_text(f"{before}{made}\n\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
