"""The CUDA compiler in a process of its own, which begins when the tests begin: it takes minutes,
and most of them leave a processor idle. Of `pytest -n` the process that hands tests out begins it,
and leaves what came in a folder for the one that needs it.
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import NamedTuple

SASS = Path(__file__).parents[1] / "benchmarks" / "sass.py"
PATIENCE = 1800.0  # seconds without one more kernel; each takes one or two where nothing else runs
# -P: rnn_gpu as installed, wherever that is
COMMAND = [sys.executable, "-P", SASS, "--json", "--quick", "--guilty"]
LAST = ["nice", "-n", "10"] if os.name == "posix" else []  # other tests come first

running: list[subprocess.Popen] = []
begun: list[Future] = []
folders: list[Path] = []  # what others read


class Run(NamedTuple):
    lines: list[dict]  # one for each kernel × dtype × compute capability that was compiled
    unfinished: str  # why there are not more of them; "" where they are all there
    status: int | None  # with which the process ended by itself


def begin(session: str = ""):
    """Compile every kernel, once; `begun` has the Run that is to come. The processes of a session
    of `pytest -n` find it too.
    """
    if begun:
        return
    future = Future()
    begun.append(future)
    if session:
        folders.append(folder_of(session))
        folders[0].mkdir()
        future.add_done_callback(leave)

    def run():
        try:
            with TemporaryDirectory() as folder:
                future.set_result(compiled([*LAST, *COMMAND], PATIENCE, Path(folder)))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()


def folder_of(session: str) -> Path:
    return Path(gettempdir(), f"rnn_gpu-{session}")


def leave(future: Future):
    """Write the Run down for the others: whole, or not at all."""
    error = future.exception()
    run = Run([], f"{type(error).__name__}: {error}", None) if error else future.result()
    for folder in folders:
        (folder / "coming").write_text(json.dumps(run), encoding="utf-8")
        (folder / "coming").rename(folder / "run.json")


def awaited(session: str = "") -> Run:
    """The Run: of the process that hands tests out, where it has begun one."""
    folder = folder_of(session)
    if not session or not folder.exists():
        begin()
        return begun[0].result()
    while not (folder / "run.json").exists():
        time.sleep(0.2)
    return Run(*json.loads((folder / "run.json").read_text(encoding="utf-8")))


def end(process):
    """Stop a process that has not ended, and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_all():
    """Leave nothing behind, when the tests end."""
    for process in running:
        end(process)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def compiled(command, patience: float, cwd: Path) -> Run:
    """Run what prints {"planned": number} and then the line of a kernel at a time, for as long as
    lines come.
    """
    environment = {
        name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"
    }
    complaints, arrived = cwd / "stderr", queue.Queue()
    with complaints.open("w") as stderr:
        options = {"env": environment, "cwd": cwd, "encoding": "utf-8", "start_new_session": True}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, **options)
    running.append(process)

    def listen():
        with process.stdout:
            for text in process.stdout:
                arrived.put(text)
        arrived.put(None)

    threading.Thread(target=listen, daemon=True).start()
    said, status = [], None
    try:
        while (text := arrived.get(timeout=patience)) is not None:
            said.append(json.loads(text))
        status = process.wait(patience)
    except (queue.Empty, subprocess.TimeoutExpired):
        pass
    finally:
        end(process)
    planned, lines = said[0]["planned"] if said else 0, said[1:]
    if status is None:
        why = f"slow machine, or a compiler that hangs: none in the last {patience:g} s"
    else:
        why = (
            f"the process ended with status {status}: "
            f"{complaints.read_text(encoding='utf-8').strip()}"
        )
    whole = planned and len(lines) == planned
    return Run(lines, "" if whole else f"{len(lines)} of {planned} kernels done; {why}", status)
