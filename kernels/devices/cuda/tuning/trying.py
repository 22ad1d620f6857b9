"""Plans are tried in another process, which is ended where it does not come back.

A kernel whose blocks wait for each other may wait for ever, and one that reads where nothing is
takes its process's card along: neither can be stopped from within.
"""

import base64
import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

from ....private import serialize
from ..contract import Choice, Problem
from ..driver import driver
from .records import Trial, identity

LIMIT = 20.0  # seconds that a plan may take on the card, all its runs; each takes milliseconds
ENDS = 10.0  # seconds until a process has ended that says nothing more
READY = 600.0  # seconds until its kernels are compiled
MODULE = __name__.rpartition(".")[0] + ".child"


class CannotTryError(Exception):
    """No plan can be tried here: the reason is no plan's."""


class Child:
    """The other process."""

    def __init__(self):
        paths = os.pathsep.join(filter(None, sys.path))  # modules are found where this one does
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": paths},
        )
        self.lines: queue.Queue = queue.Queue()
        self.complaints: deque = deque(maxlen=1)
        listen = self.listen, self.complain
        self.listeners = [threading.Thread(target=one, daemon=True) for one in listen]
        for thread in self.listeners:
            thread.start()

    def ask(self, problem: Problem, wanted: Sequence[str]):
        """For trials of these plans, on the current card."""
        try:
            told = serialize.dumps((problem, tuple(wanted), driver().device()))
        except Exception as error:  # of whatever a formula refers to
            raise CannotTryError(f"the cell cannot be told to another process: {error}") from error
        self.tell(base64.b64encode(told).decode())

    def listen(self):
        for line in self.process.stdout or ():
            self.lines.put(line)
        self.lines.put("")

    def complain(self):
        self.complaints.extend(filter(str.strip, self.process.stderr or ()))

    def tell(self, line: str):
        with suppress(OSError):  # of a process that has ended: what it says next is nothing
            assert self.process.stdin
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def said(self, limit: float) -> str:
        """Its next line; "" where it has ended.  Raises queue.Empty after `limit` seconds."""
        return self.lines.get(timeout=limit)

    def end(self, patience: float = 0.0) -> str:
        """End it, however, if it does not within so many seconds; what it complained of last."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):  # a driver that does not let go of it
            self.process.wait(ENDS)
        for thread in self.listeners:
            thread.join(1)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(OSError):
                if stream:
                    stream.close()
        return f"exit status {self.process.returncode}, {''.join(self.complaints).strip()}"


sessions: list[None] = []
waiting: list[Child] = []  # in a session: what the next problem is told


@contextmanager
def session() -> Iterator[None]:
    """All problems that are tried meanwhile are tried by one process, as long as it lives."""
    sessions.append(None)
    try:
        yield
    finally:
        sessions.pop()
        while waiting and not sessions:
            waiting.pop().end()


def tried(
    problem: Problem, choices: Sequence[Choice], marked: Callable[[Choice], AbstractContextManager]
) -> list[Trial]:
    """A Trial of each choice, in order, which is run within the context marked(choice).

    Raises CannotTryError where no process can be had that tries them.
    """
    found: list[Trial] = []
    while len(found) < len(choices):
        left = choices[len(found) :]
        guilty = some_tried(problem, left, marked, found)
        if guilty is not None:
            found.append(guilty)
    return found


def some_tried(
    problem: Problem,
    choices: Sequence[Choice],
    marked: Callable[[Choice], AbstractContextManager],
    found: list[Trial],
) -> Trial | None:
    """Append to `found` what one process tells; return the Trial of the plan at which it was lost,
    if it was.
    """
    try:
        child = waiting.pop() if waiting else Child()
    except (OSError, TypeError) as error:  # the second of a Python that does not know its path
        raise CannotTryError(f"no process can be started: {error}") from error
    complaint = "it was not heard to the end"
    try:
        child.ask(problem, [identity(one) for one in choices])
        for choice in choices:
            try:
                ready = child.said(READY)
            except queue.Empty:
                raise CannotTryError(f"nothing was compiled within {READY:g} s") from None
            if not ready:
                complaint = child.end(ENDS)
                raise CannotTryError(f"a process that would try them ended: {complaint}")
            with marked(choice):
                child.tell("go")
                try:
                    answer = child.said(LIMIT)
                except queue.Empty:
                    complaint = child.end()
                    return lost(choice, f"it did not come back within {LIMIT:g} s")
                if not answer:
                    complaint = child.end(ENDS)
                    if child.process.returncode == 1:  # an error of Python's, of the child's own
                        raise CannotTryError(f"a process that would try them ended: {complaint}")
                    return lost(choice, f"the process that tried it was lost: {complaint}")
            found.append(Trial(*json.loads(answer)))
        complaint = ""
    finally:
        if not complaint and sessions:
            waiting.append(child)
        else:
            child.end()
    return None


def lost(choice: Choice, why: str) -> Trial:
    return Trial(choice.schedule, identity(choice), None, why, bans=True)
