"""What was found out about plans on a card, kept on disk beside the kernels.

A name in the store is made of the card, the driver, our sources and the versions that compile: any
change of these asks anew, as it does of kernels.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from ....store import folder
from ..compiled import here, sources, told
from ..contract import Choice, Problem
from ..driver import driver

MOST_SAMPLES = 1024  # above which all batches are taken for alike


class Trial(NamedTuple):
    """One plan on a card."""

    schedule: str
    plan: str  # `identity` of its choice
    seconds: float | None  # of a step of the call; None where it was not timed
    wrong: str = ""  # why it is not used
    # that is no refusal of this plan, but what its schedule must not do: it is never used again
    bans: bool = False

    def __str__(self) -> str:
        time = f"{self.seconds * 1e6:.3g} µs a step" if self.seconds is not None else "not timed"
        return f"{self.schedule} {time}" + f" ({self.wrong})" * bool(self.wrong)


def identity(choice: Choice) -> str:
    """What tells plans of one problem apart, whatever the batch."""
    return repr((choice.schedule, choice.plan, choice.threads, choice.cluster))


def of_range(problem: Problem) -> Problem:
    """The problem that stands for a range of batches: of powers of two the next."""
    return problem._replace(B=min(MOST_SAMPLES, 1 << max(0, problem.B - 1).bit_length()))


def surroundings() -> tuple:
    """The current card, and what its kernels are made by."""
    facts = driver().facts(driver().device())
    return tuple(facts), sources(), here(), os.environ.get("RNN_GPU_CUBINS", "")


def named(*words) -> str:
    return hashlib.sha256(repr((*words, surroundings())).encode()).hexdigest()


def of_problem(problem: Problem) -> str:
    """The name of what was found of a range of batches.  LookupError where it cannot be told what
    its cell is made of.
    """
    return named("plans", told(problem.cell), *problem[1:])


def of_schedule(schedule: str) -> str:
    """The name of why a schedule is not used."""
    return named("ban", schedule)


def of_trials() -> str:
    """The name of the mark that one process at a time has on cards of this kind."""
    return named("under trial")


def read(name: str):
    """What was kept; None where that is nothing, or something else."""
    kept = folder().read(name)
    with suppress(ValueError):  # of another form: not ours
        return None if kept is None else json.loads(kept)
    return None


def trials(name: str) -> list[Trial]:
    """Those that were kept under this name."""
    with suppress(TypeError):
        return [Trial(*one) for one in read(name) or ()]
    return []


def keep(name: str, value):
    folder().write(name, json.dumps(value, ensure_ascii=False).encode())


def right(found: Sequence[Trial]) -> list[Trial]:
    """Those that may be used, the quickest first."""
    timed = [one for one in found if one.seconds is not None and not one.wrong]
    return sorted(timed, key=lambda one: one.seconds or 0.0)
