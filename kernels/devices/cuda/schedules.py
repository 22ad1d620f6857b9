"""Which schedule a call uses: the row of them, and who comes first."""

from contextlib import contextmanager
from functools import cache

from ...once import once
from . import block, gemm, plain
from .contract import Card, Choice, Problem, Schedule
from .driver import Driver, driver

# The first that has an answer carries out a call. A new schedule is a file, and its place here.
SCHEDULES: tuple[Schedule, ...] = (block, plain, gemm)
NAMES = tuple(schedule.name for schedule in SCHEDULES)

H200 = Card("H200", multiprocessors=132, registers=65_536, shared=232_448, weight_registers=152)
# before Hopper: the same compiler spills there what it keeps for sm_90
EARLIER_WEIGHT_REGISTERS = 96


def card() -> Card:
    """The one that is current."""
    return card_of(driver(), driver().device())


@cache
def card_of(hardware: Driver, device: int) -> Card:
    facts = hardware.facts(device)
    hopper = facts.capability >= (9, 0)
    weights = H200.weight_registers if hopper else EARLIER_WEIGHT_REGISTERS
    return Card(facts.name, facts.multiprocessors, facts.registers, facts.shared, weights)


forced: list[str] = []


@contextmanager
def only(schedule: str):
    """Use one schedule whatever the row says: for tests and benchmarks. ("block" where W fits.)"""
    if schedule not in NAMES:
        raise ValueError(f"schedule is {schedule!r}, expected one of {', '.join(NAMES)}")
    forced.append(schedule)
    try:
        yield
    finally:
        forced.pop()


def named(name: str) -> Schedule:
    return SCHEDULES[NAMES.index(name)]


def choose(
    cell, direction: str, n: int, B: int, itemsize: int, clips: bool = False, masked: bool = False
) -> Choice:
    """The schedule of one call.  direction is "forward" or "backward"; clips, whether that clips
    δ; masked, whether some step does not happen, or begins anew.
    """
    problem = Problem(cell, direction, n, B, itemsize, card(), clips, masked)
    return decide(problem, forced[-1] if forced else None)


@once
def decide(problem: Problem, wanted: str | None = None) -> Choice:
    """What the schedule that is `wanted` answers; where it has no answer, the first that has."""
    if wanted and (choice := named(wanted).plan(problem, asked=True)):
        return choice
    return next(choice for one in SCHEDULES if (choice := one.plan(problem)))
