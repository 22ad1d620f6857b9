"""The tests that touch the GPU, on the GPU, their outcome as JSON.

python -m benchmarks suite [--seconds 150] [--resume] [--rehearse]
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks import _machine, _outcomes
from benchmarks._machine import REHEARSAL

TESTS = Path(__file__).parents[1] / "tests"
# files about other things
ELSEWHERE = ("benchmarks", "emulator", "executed", "house", "packaging", "private", "ptx")
WANTED = ["tests", "-k", "(cuda or gpu or schedule or oracle)"]
WANTED[-1] += "".join(f" and not test_{name}" for name in ELSEWHERE)
if REHEARSAL:
    WANTED = ["tests/test_schedules.py", "-k", "fit"]
WORKERS = 8  # processes, where pytest-xdist is there: compiling takes longer than running
LAST = 25  # lines of what pytest printed that are kept
NOTHING_TO_DO = 5  # pytest's exit status where every test was left out
PATIENCE = 10  # seconds in which pytest ends after it was interrupted


def run(outcomes: Path, seconds: float) -> tuple[list[str], int]:
    """Run the tests that the file of outcomes lacks; (the end of what pytest printed, its exit
    status).
    """
    parallel = (
        ["-n", str(min(WORKERS, os.cpu_count() or 1))]
        if find_spec("xdist") and not REHEARSAL
        else []
    )
    # -W default: on a new machine a warning of a library is no failure of a kernel
    options = ["-q", "--tb=short", "-W", "default", "-p", "benchmarks._outcomes"]
    log = outcomes.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *WANTED, *options, *parallel],
            cwd=TESTS.parent,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {_outcomes.FILE: str(outcomes)},
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                status = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                status = -signal.SIGKILL
        finally:  # also where this process is told to end
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return log.read_text(errors="replace").strip().splitlines()[-LAST:], status


def results_of(outcomes: Path) -> dict:
    """How many tests ended how, and what those say that are not right."""
    tests = list(_outcomes.read(outcomes).values())
    kinds = ("passed", "failed", "error", "skipped", "began")
    counts = {kind: sum(one["outcome"] == kind for one in tests) for kind in kinds}
    skipped = {one["message"][-1] for one in tests if one["outcome"] == "skipped"}
    return {
        **counts,
        "failures": [one for one in tests if one["outcome"] in ("failed", "error", "began")],
        "why_skipped": sorted(skipped),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--resume", action="store_true", help="only tests without an outcome")
    chosen = parser.parse_args()
    if not TESTS.exists() or not find_spec("pytest"):
        sys.exit(
            f"suite: {'pytest is not installed' if TESTS.exists() else f'there is no {TESTS}'}"
        )
    _machine.require_card()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    outcomes = _machine.folder() / "tests.jsonl"
    outcomes.parent.mkdir(parents=True, exist_ok=True)
    if not (chosen.resume and _machine.earlier("tests")):
        outcomes.unlink(missing_ok=True)
    # a run that is cut leaves outcomes whose machine is known
    _machine.write("tests", results_of(outcomes), complete=False)
    started = time.monotonic()
    tail, status = run(outcomes, chosen.seconds)
    taken = time.monotonic() - started
    results = results_of(outcomes) | {"exit_status": status, "seconds": taken, "tail": tail}
    path = _machine.write("tests", results, complete=status in (0, 1, NOTHING_TO_DO))
    for test in results["failures"][:12]:
        print(f"{test['outcome'].upper()} {test['name']}: {' / '.join(test['message'][-2:])}")
    print("\n".join(tail[-3:]))
    kinds = ("passed", "failed", "error", "skipped", "began")
    counts = ", ".join(f"{results[kind]} {kind}" for kind in kinds)
    print(f"tests: {counts} in {taken:.0f} s -> {path}")
    sys.exit(status if status != NOTHING_TO_DO else 0)


if __name__ == "__main__":
    main()
