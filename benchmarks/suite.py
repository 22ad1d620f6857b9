"""The tests that touch the GPU, on the GPU, their outcome as JSON.

python -m benchmarks suite [--seconds 150] [--rehearse]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from benchmarks import _machine
from benchmarks._machine import REHEARSAL

TESTS = Path(__file__).parents[1] / "tests"
WANTED = ["tests", "-k", "cuda or gpu or schedule or oracle"]
if REHEARSAL:
    WANTED = ["tests/test_schedules.py", "-k", "fit"]
WORKERS = 8  # processes, where pytest-xdist is there: compiling takes longer than running


def run(seconds: float) -> tuple[list[dict], list[str], int]:
    """(outcome of each test, the end of what pytest printed, its exit status)"""
    parallel = (
        ["-n", str(min(WORKERS, os.cpu_count() or 1))]
        if find_spec("xdist") and not REHEARSAL
        else []
    )
    with tempfile.TemporaryDirectory() as folder:
        junit, log = Path(folder, "junit.xml"), Path(folder, "log")
        # -W default: on a new machine a warning of a library is no failure of a kernel
        command = [
            sys.executable,
            "-m",
            "pytest",
            *WANTED,
            "-v",
            "--tb=short",
            "-W",
            "default",
            f"--junitxml={junit}",
            *parallel,
        ]
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                cwd=TESTS.parent,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                # pytest writes its report when it is interrupted
                process.send_signal(signal.SIGINT)
                try:
                    status = process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    status = process.wait()
        lines = log.read_text(errors="replace").strip().splitlines()
        return outcomes(junit) if junit.exists() else outcomes_so_far(lines), lines[-25:], status


def outcomes_so_far(lines: list[str]) -> list[dict]:
    """What pytest -v has printed of each test, where it came to no report."""
    found = []
    for line in lines:
        name = next((word for word in line.split() if "::" in word), "")
        outcome = next(
            (kind for kind in ("PASSED", "FAILED", "ERROR", "SKIPPED") if kind in line.split()), ""
        )
        if name and outcome:
            found.append({"name": name, "outcome": outcome.lower(), "message": []})
    return found


def outcomes(junit: Path) -> list[dict]:
    """Name, outcome and first lines of the message of every test in a junit file."""
    found = []
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        bad = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        lines = (
            [bad.get("message") or "", *(bad.text or "").splitlines()] if bad is not None else []
        )
        message = [line[:200] for line in lines if line.strip()][:8]
        outcome = (
            {"failure": "failed", "error": "error"}.get(bad.tag, bad.tag)
            if bad is not None
            else "passed"
        )
        found.append(
            {
                "name": f"{case.get('classname')}::{case.get('name')}",
                "outcome": outcome,
                "message": message,
            }
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--rehearse", action="store_true")
    seconds = parser.parse_args().seconds
    if not TESTS.exists() or not find_spec("pytest"):
        sys.exit(
            f"suite: {'pytest is not installed' if TESTS.exists() else f'there is no {TESTS}'}"
        )
    _machine.require_card()
    started = time.monotonic()
    tests, tail, status = run(seconds)
    taken = time.monotonic() - started
    counts = {
        kind: sum(test["outcome"] == kind for test in tests)
        for kind in ("passed", "failed", "error", "skipped")
    }
    bad = [test for test in tests if test["outcome"] in ("failed", "error")]
    skipped = sorted(
        {test["message"][0] for test in tests if test["outcome"] == "skipped" and test["message"]}
    )
    results = {
        **counts,
        "exit_status": status,
        "seconds": taken,
        "failures": bad,
        "why_skipped": skipped,
        "tail": tail,
    }
    path = _machine.write("tests", results, complete=taken < seconds)
    for test in bad[:12]:
        print(f"FAIL {test['name']}: {' / '.join(test['message'][:2])}")
    print("\n".join(tail[-3:]))
    print(
        f"tests: {', '.join(f'{count} {kind}' for kind, count in counts.items())} in {taken:.0f} "
        f"s -> {path}"
    )
    sys.exit(status)


if __name__ == "__main__":
    main()
