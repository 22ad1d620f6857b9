"""A plugin of pytest (-p benchmarks._outcomes): each test's outcome is a line of a file as soon as
it is there, and tests that have one already are left out.

RNN_GPU_OUTCOMES names the file. A test that began in an earlier run and has no outcome, which it
may have ended, comes last.
"""

import json
import os
from pathlib import Path

FILE = "RNN_GPU_OUTCOMES"
MESSAGE = 8  # lines of it that are kept
WORKER = "PYTEST_XDIST_WORKER" in os.environ  # the process that gave it the test writes


def read(path: Path) -> dict[str, dict]:
    """What the file says of each test: its outcome, "began" where it has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, dict] = {}
    for line in lines:
        try:
            one = json.loads(line)
        except ValueError:  # cut while it was written
            continue
        if found.get(one["name"], one)["outcome"] in (
            "began",
            "passed",
        ):  # an error after it counts
            found[one["name"]] = one
    return found


def append(name: str, outcome: str, message: list[str]):
    if not WORKER:
        with open(os.environ[FILE], "a", encoding="utf-8") as file:
            line = {"name": name, "outcome": outcome, "message": message}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def pytest_sessionstart(session):
    """Every process of a run leaves out the same tests, whatever ends meanwhile."""
    known = os.environ.setdefault(f"{FILE}_BEFORE", f"{os.environ[FILE]}.before")
    if not WORKER:
        path = Path(os.environ[FILE])
        Path(known).write_bytes(path.read_bytes() if path.exists() else b"")


def pytest_collection_modifyitems(config, items):
    before = read(Path(os.environ[f"{FILE}_BEFORE"]))
    outcomes = {name: one["outcome"] for name, one in before.items()}
    done = [item for item in items if outcomes.get(item.nodeid, "began") != "began"]
    config.hook.pytest_deselected(items=done)
    left = [item for item in items if item not in set(done)]
    items[:] = sorted(left, key=lambda item: item.nodeid in outcomes)


def pytest_runtest_logstart(nodeid):
    append(nodeid, "began", [])


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        text = report.longrepr
        text = text[2] if isinstance(text, tuple) else str(text or "")
        lines = [line[:200] for line in text.splitlines() if line.strip()]
        append(report.nodeid, outcome, lines[-MESSAGE:])
