"""Where a measurement runs and where its file goes: a GPU, the CPU (`--cpu`), or the rehearsal on a
machine without a GPU.

Imported before numba: `--rehearse` turns the CUDA simulator on. There every size is tiny, CuPy's
part is NumPy's and cuDNN's is torch's on the CPU; what a rehearsal writes is marked so and never
lands among the results.
"""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

REHEARSAL = "--rehearse" in sys.argv
CPU = "--cpu" in sys.argv or Path(sys.argv[0]).stem == "cpu"  # python -m benchmarks cpu
# python -m benchmarks precompile: what would run on a card is compiled for it, and nothing runs
COMPILING = Path(sys.argv[0]).stem == "precompile"
HOST = CPU or REHEARSAL or COMPILING  # what is called is done when it returns
if REHEARSAL:
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
# only `tuning` tries plans; what it has found the others use
os.environ.setdefault("RNN_GPU_TUNE", "0")
# JAX would take three quarters of the GPU's memory
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from benchmarks import record  # noqa: E402

ROOMS = ("kernels", "rnn_gpu", "benchmarks")
NOT_HERE = "not on this machine"
QUERY = {
    "gpu": "name",
    "driver": "driver_version",
    "sm_clock_max": "clocks.max.sm",
    "memory": "memory.total",
}


def why_no_card() -> str:
    """What keeps measurements from running here; "" where they can."""
    from rnn_gpu.device import simulated, why_not

    if simulated() and not REHEARSAL:
        return (
            "the CUDA simulator is on (NUMBA_ENABLE_CUDASIM), and it has no speed worth measuring"
        )
    return why_not("cuda")


def require_card():
    if not CPU and (reason := why_no_card()):
        sys.exit(
            f"nothing can be measured here: {reason}. --rehearse runs the same code in the "
            "simulator."
        )


@cache
def gpu() -> dict:
    """Name, driver and clock of the GPU as the driver tells them; {} where it tells nothing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY.values())}", "--format=csv,noheader"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    first = run.stdout.strip().splitlines()[:1]
    return (
        dict(zip(QUERY, (part.strip() for part in first[0].split(",")), strict=False))
        if first
        else {}
    )


@cache
def machine() -> dict:
    """The circumstances of a measurement: `record.machine`, and the GPU."""
    try:
        facts = record.machine()
    except FileNotFoundError:  # no git
        facts = {"processor": record.processor(), "commit": ""}
    # a bare tree knows none
    facts |= {
        "threads": os.cpu_count(),
        "commit": facts["commit"] or os.environ.get("RNN_GPU_COMMIT", ""),
        "sources": sources(),
    }
    return facts if HOST else facts | gpu()


def sources() -> str:
    """What the library and the measurements are written in, as a few letters: a commit may have
    been changed since, and a bare tree has none.
    """
    root = Path(__file__).parents[1]
    files = [path for room in ROOMS for path in sorted(root.glob(f"{room}/**/*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


@cache
def place() -> str:
    """The kind of machine, a folder's name: "h200", "cpu"."""
    if REHEARSAL:
        return "rehearsal"
    if CPU:
        return "cpu"
    name = gpu().get("gpu", "")
    if not name and not why_no_card():
        from rnn_gpu.kernels.devices.cuda.schedules import card

        name = card().name
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("nvidia-") or "gpu"


@cache
def folder() -> Path:
    """Where result files go: RNN_GPU_RESULTS or benchmarks/results, then the kind of machine."""
    root = os.environ.get("RNN_GPU_RESULTS") or (
        tempfile.mkdtemp(prefix="rehearsal-") if REHEARSAL else record.RESULTS
    )
    if REHEARSAL and Path(root).resolve().is_relative_to(record.RESULTS.resolve()):
        sys.exit(
            f"a rehearsal measures nothing, so it does not write into {record.RESULTS}: set "
            "RNN_GPU_RESULTS to another folder"
        )
    return Path(root) / place()


def aside():
    """Let result files go to a temporary folder (if RNN_GPU_RESULTS names none): what is measured
    is a part of a table.
    """
    os.environ.setdefault("RNN_GPU_RESULTS", tempfile.mkdtemp(prefix="part-"))


def write(name: str, results, **more) -> Path:
    """Write NAME.json at once (a run may be cut at any moment), and return its path."""
    path = folder() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"name": name, "rehearsal": REHEARSAL, "machine": machine(), **more, "results": results}
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(
        json.dumps(plain(body), indent=1, allow_nan=False, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    unfinished.replace(path)
    return path


def read(name: str):
    """What NAME.json holds, or None."""
    try:
        return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def earlier(name: str) -> dict | None:
    """What NAME.json holds, where it is of this machine, this commit and these libraries."""
    old, any_day = read(name) or {}, {"date": None}
    here = plain(machine()) | any_day
    same = old.get("rehearsal") == REHEARSAL and old.get("machine", {}) | any_day == here
    return old if same else None


FILES = {"suite": "tests"}  # of the steps of gpu.sh, where it has another name


def left(steps: list[str]) -> list[str]:
    """The steps that have no whole result of this machine, commit and libraries."""
    return [name for name in steps if not (earlier(FILES.get(name, name)) or {}).get("complete")]


def plain(value):
    """A value as JSON can hold it: numbers to six digits, what is not finite as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else str(number)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


if __name__ == "__main__":  # python -m benchmarks._machine [--rehearse] steps...
    print(*left([name for name in sys.argv[1:] if not name.startswith("-")]))
