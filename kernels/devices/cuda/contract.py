"""The contract of a schedule: a way to carry a layer through its time steps on a GPU.

A schedule is a file of this folder that answers `Schedule`, and stands in the row of
schedules.py.
"""

from typing import Any, NamedTuple, Protocol

from ... import Backward, Cell, Forward

GROUP = 16  # multiprocessors that a cluster may span (a GPC), or two more


class Card(NamedTuple):
    """What the choice of a schedule looks at."""

    name: str
    multiprocessors: int
    registers: int  # of 32 bits, a multiprocessor
    shared: int  # bytes that a block may have
    # registers of a thread that weights may take, so that the compiler still keeps them there (read
    # off SASS)
    weight_registers: int
    capability: tuple[int, int] = (9, 0)  # compute capability
    cluster: int = 1  # blocks of a thread-block cluster, at most; 1 where there are none

    def at_once(self, cluster: int) -> int:
        """How many clusters of so many blocks run at a time, a block a multiprocessor.

        An estimate: a cluster lies within a group of 16 to 18 multiprocessors, and of those one
        may be smaller.
        """
        if cluster == 1:
            return self.multiprocessors
        groups = self.multiprocessors // GROUP
        return max(1, groups * (GROUP // cluster) - (cluster == GROUP))


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
    precision: str = "fp32"  # of products: "fp32", which is strict, "tf32" or "bf16"


class Choice(NamedTuple):
    """A schedule with everything that a launch needs, the reason, and what it is expected to
    cost.
    """

    schedule: str
    plan: Any  # what the schedule fixes when its kernel is compiled; None where that is nothing
    blocks: int
    threads: int  # of a block
    shared: int  # bytes of dynamic shared memory
    why: str
    # of the card's clock, in which the whole call goes one step on, all waves of blocks: modelled
    cycles: float
    cluster: int = 1  # neighbouring blocks that are a thread-block cluster
    cooperative: bool = False  # all blocks must be resident: they wait for each other

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

    def plans(self, problem: Problem, asked: bool = False) -> tuple[Choice, ...]:
        """Each way in which it could carry out a call, the best first; () where it cannot.

        asked  it was asked for by name: that is the reason it gives. The last of the row always has
               an answer.
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
