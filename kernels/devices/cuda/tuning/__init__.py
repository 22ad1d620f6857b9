"""The choice of a plan on the card that is there: modelled, then tried, then kept on disk.

At the first use of a cell of some size, the best plans of the model are run on the card for some
milliseconds, on made-up data, compared with *plain*, and timed. What was found is kept (records.py)
and not asked again. With RNN_GPU_TUNE=0 nothing is tried: what was found before is used, and else
the model trusted. RNN_GPU_TUNE=1 asks in the simulator too.

Nobody has run these kernels on every card. So a schedule whose numbers are not those of *plain*, or
that does not come back, is never used again on cards of that kind. Plans are tried in a process of
their own (trying.py), and before each the mark of store/marks.py is written: what takes the whole
machine along is found at the next start. Where no mark can be kept, or no process be had, plans
whose blocks wait for each other are not used.
"""

import json
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ....once import once
from ....store import folder, marks
from ..contract import Choice, Problem
from ..driver import driver
from ..graphs import capturing
from ..schedules import NAMES, card, decide, forced, ranked
from . import records
from .records import Trial, identity
from .trying import CannotTryError, session, tried  # noqa: F401  the second for many problems

MOST = 4  # plans that are tried, *plain* among them
OF_A_SCHEDULE = 2  # of them, at most
WORTH = 3.0  # times the modelled cycles of the best: what takes longer is not tried
FAR = 40.0  # the same of *plain*: longer, so that its time can be compared
PATIENCE = 300.0  # seconds that is waited for another process that tries plans

turn = threading.RLock()  # of this process's threads


def wanted() -> str:
    """What RNN_GPU_TUNE says: "0", "1", or "" where it says nothing.  ValueError where it is
    something else.
    """
    text = os.environ.get("RNN_GPU_TUNE", "")
    if text not in ("", "0", "1"):
        raise ValueError(
            f"RNN_GPU_TUNE is {text!r}, expected '0' (no kernels are tried: the model chooses), "
            "'1' (they are tried, in the simulator too), or nothing (they are tried on a GPU)"
        )
    return text


def choose(
    cell,
    direction: str,
    n: int,
    B: int,
    itemsize: int,
    clips: bool = False,
    masked: bool = False,
    precision: str = "fp32",
) -> Choice:
    """The schedule and plan of one call, as a Problem has it, on the card that is current."""
    problem = Problem(cell, direction, n, B, itemsize, card(), clips, masked, precision)
    if forced:
        return decide(problem, forced[-1])
    settled = settled_of(driver(), problem)
    if not settled:
        with turn:
            if not settled:
                found = settle(problem)
                if not found.lasting:
                    return found.choice
                settled = settled_of(driver(), problem)  # anew, where a schedule was banned
                settled.append(found.choice)
    return settled[0]


@once
def settled_of(hardware, problem: Problem) -> list[Choice]:
    """Where the choice of a problem is kept in this process, once it is made."""
    return []


class Found(NamedTuple):
    """A choice; is it for all calls of this process?"""

    choice: Choice
    lasting: bool = True
    trials: tuple[Trial, ...] = ()

    @property
    def trial(self) -> Trial | None:
        """Of the choice; None where it was not tried."""
        mine = identity(self.choice)
        return next((one for one in self.trials if one.plan == mine), None)


def find(cell, direction: str, n: int, B: int, itemsize: int, *options) -> Found:
    """What is known of the choice of a call, tried where it was not; options as of `choose`."""
    with turn:
        return settle(Problem(cell, direction, n, B, itemsize, card(), *options))


def settle(problem: Problem) -> Found:
    """The choice of a problem, tried where it can be."""
    mode = wanted()
    if not driver().measures and mode != "1":
        return Found(modelled(ranked(problem)))
    try:
        name = records.of_problem(records.of_range(problem))
        found = records.trials(name)
    except LookupError:
        name, found = "", []
    if found:
        return measured(problem, found)
    if mode == "0":
        return Found(modelled(allowed(problem)))
    if not name:
        return Found(careful(problem, "not tried: it cannot be told what the cell is made of"))
    if capturing():
        return Found(careful(problem, "not tried while a stream is captured"), lasting=False)
    try:
        with marks.held(folder(), records.of_trials(), PATIENCE) as mark:
            look_back(mark)
            found = records.trials(name) or try_all(records.of_range(problem), mark)
            records.keep(name, found)
            return measured(problem, found)
    except (OSError, CannotTryError) as error:
        return Found(careful(problem, f"not tried: {error}"))


def modelled(choices: tuple[Choice, ...], how: str = "modelled") -> Choice:
    best = choices[0]
    return best._replace(why=f"{best.why}; {how}, {best.cycles:,.0f} cycles a step")


def careful(problem: Problem, why_not: str) -> Choice:
    """The best of the model whose blocks do not wait for each other."""
    return modelled(tuple(c for c in allowed(problem) if not waits(c)), f"modelled ({why_not})")


def waits(choice: Choice) -> bool:
    """Do its blocks wait for each other?"""
    return choice.cooperative or choice.cluster > 1


def measured(problem: Problem, found) -> Found:
    """The quickest of those that were tried and that this batch has; else the model's."""
    there = {identity(choice): choice for choice in allowed(problem)}
    told = ", ".join(map(str, found))
    for trial in records.right(found):
        if best := there.get(trial.plan):
            why = f"{best.why}; measured on this card: {told}"
            return Found(best._replace(why=why), trials=tuple(found))
    return Found(careful(problem, f"of those tried none is for this batch: {told}"))


# What is tried


def candidates(problem: Problem) -> tuple[Choice, ...]:
    """The best plans of the model, not too many of one schedule, nor two much alike; *plain*, which
    judges them, is the last, where its time is not far beyond theirs.
    """
    found: dict[tuple, Choice] = {}
    plans = allowed(problem)
    for choice in plans:
        of_it = sum(one.schedule == choice.schedule for one in found.values())
        worth = choice.cycles <= WORTH * plans[0].cycles and choice.schedule != "plain"
        if worth and of_it < OF_A_SCHEDULE and len(found) < MOST - 1:
            found.setdefault(kind(choice), choice)
    judge = decide(problem, "plain")
    near = judge.cycles <= FAR * plans[0].cycles
    return *found.values(), *(judge,) * near


def kind(choice: Choice) -> tuple:
    """What a model that errs should not be asked twice: of plans that share the units among blocks
    how many these are, of others how many lanes a unit has; and what their products are.
    """
    names = ("blocks", 1), ("lanes", 1), ("product", "")
    blocks, lanes, product = (getattr(choice.plan, *name) for name in names)
    return choice.schedule, blocks, lanes * (blocks == 1), product


def try_all(problem: Problem, mark: marks.Mark) -> list[Trial]:
    """Try the candidates, the mark telling of each while it runs; ban what must not be used."""

    @contextmanager
    def marked(choice: Choice) -> Iterator[None]:
        mark.write(json.dumps([choice.schedule, described(problem, choice)]).encode())
        try:
            yield
        finally:
            mark.wipe()

    choices = candidates(problem)
    found = tried(problem, choices, marked)
    for choice, trial in zip(choices, found, strict=True):
        if trial.bans and trial.schedule != "plain":
            ban(trial.schedule, f"{described(problem, choice)}: {trial.wrong}")
    return found


def described(problem: Problem, choice: Choice) -> str:
    cell, direction, n, B, itemsize, _, clips, masked, precision = problem
    options = ", clips" * clips + ", masked" * masked
    return (
        f"{cell.name} {direction}, n={n}, B={B}, float{8 * itemsize}, {precision}{options}, "
        f"{choice.plan or 'no plan'}"
    )


def look_back(mark: marks.Mark):
    """Who left the mark of a trial was lost with it: that schedule is not tried again."""
    if said := mark.said():
        schedule, what = json.loads(said)
        ban(schedule, f"{what}: the process that tried it, or the machine, did not live on")
        mark.wipe()


# What is not used

bans: dict[str, str] = {}  # why, or ""; by the name of the record, which tells cards apart


def allowed(problem: Problem) -> tuple[Choice, ...]:
    """What every schedule can do that may be used on this card, the best first."""
    used = {name for name in NAMES if not banned(name)}
    return tuple(choice for choice in ranked(problem) if choice.schedule in used)


def banned(schedule: str) -> str:
    """Why a schedule is not used on cards of this kind; "" where it is."""
    name = records.of_schedule(schedule)
    if name not in bans:
        bans[name] = str(records.read(name) or "")
    return bans[name]


def ban(schedule: str, why: str):
    """Never use a schedule again on cards of this kind, and say so."""
    name = records.of_schedule(schedule)
    bans[name] = why
    records.keep(name, why)
    settled_of.cache_clear()
    where = card().name
    warnings.warn(
        f"the schedule {schedule!r} is not used on {where} from now on: {why}. Results are right "
        "without it, and slower. Please report this line with what `rnn-gpu info` prints.",
        RuntimeWarning,
        stacklevel=2,
    )
