"""Which schedule a call uses: the row of them, and whose step takes the fewest cycles."""

from contextlib import contextmanager
from functools import cache

from ...once import once
from . import block, cluster, gemm, group, plain
from .contract import Card, Choice, Problem, Schedule
from .driver import Driver, driver

# The quickest carries out a call. A new schedule is a file, and its place here.
SCHEDULES: tuple[Schedule, ...] = (block, cluster, group, plain, gemm)
NAMES = tuple(schedule.name for schedule in SCHEDULES)

WEIGHT_REGISTERS = 152
# before Hopper: the same compiler spills there what it keeps for sm_90
EARLIER_WEIGHT_REGISTERS = 96
HOPPER = (9, 0)
LARGEST_CLUSTER = 16  # of Hopper and what came after it; above 8 a kernel must ask


def known(name: str, capability: tuple, multiprocessors: int, registers: int, shared: int) -> Card:
    """The Card of these facts. One that is newer than Hopper is taken for one: what it lacks all
    the same, a launch will tell (see tuning.py).
    """
    hopper = capability >= HOPPER
    weights = WEIGHT_REGISTERS if hopper else EARLIER_WEIGHT_REGISTERS
    largest = LARGEST_CLUSTER if hopper else 1
    return Card(name, multiprocessors, registers, shared, weights, capability, largest)


H200 = known("H200", HOPPER, 132, 65_536, 232_448)


def card() -> Card:
    """The one that is current."""
    return card_of(driver(), driver().device())


@cache
def card_of(hardware: Driver, device: int) -> Card:
    facts = hardware.facts(device)
    sizes = facts.multiprocessors, facts.registers, facts.shared
    return known(facts.name, facts.capability, *sizes)


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


@once
def decide(problem: Problem, wanted: str | None = None) -> Choice:
    """The best plan of the schedule that is `wanted`; where it has none, of all."""
    asked = named(wanted).plans(problem, asked=True) if wanted else ()
    return asked[0] if asked else ranked(problem)[0]


@once
def ranked(problem: Problem) -> tuple[Choice, ...]:
    """What every schedule can do, the fewest cycles first; of equals the first of the row."""
    found = [choice for one in SCHEDULES for choice in one.plans(problem)]
    return tuple(sorted(found, key=lambda choice: choice.cycles))
