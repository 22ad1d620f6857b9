"""What to expect before measuring: the floors of the field notes, the schedules' own arithmetic,
what is published of cuDNN.

python -m benchmarks._predictions [--write]      the first table of NOTES.md, and into it while it
has no outcome
"""

import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks import _machine  # noqa: F401  before numba
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda.contract import Problem
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
MARKS = {"block": "", "plain": " p", "gemm": " g"}


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
    problem = Problem(CELLS[CELL_NAMES[cell]], direction, n, B, 4, H200)
    it = decide(problem)
    return it.schedule, it.cycles / CLOCK


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
            for direction in ("forward", "backward"):
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
    made = table((16, 32, 64, 128, 160, 192, 256, 384, 512, 768, 1024), (1, 128, 256))
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
