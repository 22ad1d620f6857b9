"""`rnn-gpu bench`: time and memory of a training step on this machine, ours and torch's."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .. import ArgumentError
from ..device import resolve
from .measured import Case
from .options import AUTO, NO_PICTURE, Cell, OnDevice, Threads, writable

LENGTHS = "128,512,2048"
CHILD = "from rnn_gpu.cli.measured import main; main()"
LSTM = Cell("lstm")


def bench(
    *,
    cell: Annotated[Cell, typer.Option(help="Of the layer.")] = LSTM,
    hidden: Annotated[int, typer.Option(min=1, help="Units, and features.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Sequences side by side.")] = 16,
    lengths: Annotated[str, typer.Option(help="Numbers of time steps, T.")] = LENGTHS,
    device: OnDevice = AUTO,
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("bench.png"),
):
    """Measure a training step, forward and back, of one recurrent layer against the length of its
    sequences: microseconds and bytes a time step, ours and torch's where it is installed.
    """
    on = resolve(str(device)).name
    writable("--out", out)
    Ts = tuple(sorted({whole_number(one) for one in lengths.split(",")}))
    names = ["rnn_gpu"] + ["torch"] * (find_spec("torch") is not None and on in ("cpu", "cuda"))
    found = {name: run(Case(name, str(cell), hidden, batch, on, Ts), threads) for name in names}
    count = threads or os.cpu_count()
    where = f"{platform.processor() or platform.machine()}, {count} threads" if on == "cpu" else on
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    title = f"{cell}, {hidden} units, {batch} sequences, float32; {where}; {versions}"
    print(f"{title}\n{table(found, Ts)}")
    if any(each["bytes"] == 0 for case in found.values() for each in case.values()):
        print("?: too little to tell, or not seen here")
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy > 0.75 * (os.cpu_count() or 1):
        print(f"others work on this machine too (load {busy:.1f}): measure again when it is idle")
    if len(names) < 2:
        print("torch is not installed, or knows no such device: nothing to compare with")
    try:
        from .pictures import bench_picture

        bench_picture(out, title, found)
        print(f"picture  {out}")
    except ImportError:
        print(NO_PICTURE, file=sys.stderr)


def whole_number(word: str) -> int:
    """One of `--lengths`."""
    if not word.strip().isdigit() or int(word) < 1:
        raise ArgumentError(f"--lengths has {word!r}, expected numbers of steps as {LENGTHS}")
    return int(word)


def run(case: Case, threads: int | None) -> dict[int, dict]:
    """Measure in a new process, which holds nothing else."""
    some = str(threads) if threads else None
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
    environment = {**os.environ, **(dict.fromkeys(names, some) if some else {})}
    line = [sys.executable, "-c", CHILD, json.dumps(case)]
    done = subprocess.run(line, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ArgumentError(f"{case.who} cannot be measured on {case.device}: {last[0]}")
    return {int(T): each for T, each in json.loads(done.stdout.splitlines()[-1]).items()}


def table(found: dict, lengths) -> str:
    """Microseconds and bytes a time step, by T."""
    head = "".join(f"{name + ', µs a step':>22}{name + ', KB a step':>22}" for name in found)
    both = len(found) > 1
    lines = [f"{'T':>8}{head}" + (f"{'torch / ours':>14}" if both else "")]
    for T in lengths:
        cells, times = "", []
        for each in found.values():
            times.append(each[T]["microseconds"])
            size = each[T]["bytes"]
            cells += f"{times[-1]:22.1f}" + (f"{size / 1e3:22.1f}" if size else f"{'?':>22}")
        lines.append(f"{T:>8}{cells}" + (f"{times[1] / times[0]:14.2f}" if both else ""))
    return "\n".join(lines)
