"""The contract of a schedule: a way to carry a layer through its time steps on a GPU.

A schedule is a file of this folder that answers `Schedule`, and stands in the row of
schedules.py.
"""

from typing import Any, NamedTuple, Protocol

from ... import Backward, Cell, Forward


class Card(NamedTuple):
    """What the choice of a schedule looks at."""

    name: str
    multiprocessors: int
    registers: int  # of 32 bits, a multiprocessor
    shared: int  # bytes that a block may have
    # registers of a thread that weights may take, so that the compiler still keeps them there (read
    # off SASS)
    weight_registers: int


class Problem(NamedTuple):
    """A call, as far as the choice of its schedule depends on it."""

    cell: Cell
    direction: str  # "forward" or "backward"
    n: int  # units
    B: int  # samples
    itemsize: int  # bytes a number
    card: Card
    clips: bool = False  # δ is clipped
    masked: bool = False  # some step does not happen, or begins anew


class Choice(NamedTuple):
    """A schedule with everything that a launch needs, and the reason."""

    schedule: str
    plan: Any  # what the schedule fixes when its kernel is compiled; None where that is nothing
    blocks: int
    threads: int  # of a block
    shared: int  # bytes of dynamic shared memory
    why: str

    @property
    def grid(self) -> str:
        return f"{self.blocks} blocks of {self.threads} threads"


class Bounds(NamedTuple):
    """`Backward.clip` as kernels that clip take it; others take ()."""

    value: Any  # of each number of δ
    per_norm: Any  # 1 over that of ‖δ‖ of one step and sample
    beyond: Any  # (T, B) uint8, zero; set where a step is clipped


class Schedule(Protocol):
    """One way through time."""

    name: str  # as `only` and `explain` say it

    def plan(self, problem: Problem, asked: bool = False) -> Choice | None:
        """How it would carry out a call; None where it cannot.

        Nor where one further down the row is quicker, unless it was asked for by name. The last of
        the row always has an answer.
        """
        ...

    def forward(self, cell: Cell, call: Forward, choice: Choice, precision: str) -> None:
        """What `Device.forward` says, with () as call.masked, and as call.flags where that was
        False.
        """
        ...

    def backward(self, cell: Cell, call: Backward, choice: Choice, precision: str) -> None:
        """What `Device.backward` says, with call.ds (S, 1, B, n), Bounds or () as call.clip, and
        the rest as in `forward`.
        """
        ...

    def describe(self, choice: Choice) -> str:
        """Its launches and their grid, in words."""
        ...
