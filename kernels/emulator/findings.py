"""What is wrong with a kernel that was executed, by name."""

from enum import StrEnum
from typing import NamedTuple


class PTXError(Exception):
    """Text that is not understood, or that cannot be executed."""


class Kind(StrEnum):
    """What a card would forgive, or would not."""

    OUTSIDE = "an access outside the memory of every argument, or beyond shared memory"
    MISALIGNED = "an address that is no multiple of the access's size"
    UNWRITTEN = "memory read before it is written"
    READ_AFTER_WRITE = "race: a read of what another thread wrote, no barrier between them"
    WRITE_AFTER_READ = "race: a write of what another thread has read, no barrier between them"
    TWO_WRITES = "race: two threads write other values, no barrier between them"
    ABSENT_LANES = "a shuffle whose lanes are not all there"
    PARTED_BARRIER = "a barrier that threads of a block reach at different instructions"
    MISSED_BARRIER = "a barrier that threads of a block never reach"
    WAITS_FOR_EVER = "threads that wait for ever"
    NOT_RESIDENT = "a wait for a block that may not have begun: the launch is not cooperative"
    TORN = "a vector of which a part may be seen before the other"
    OVERWRITTEN = "a packet overwritten that a reader of the one before may not have read"
    ABSENT_BLOCK = "shared memory of a block that its cluster has not"
    NOT_BEGUN = "shared memory of a block that may not have begun"
    ENDED = "shared memory of a block that may have ended"
    UNAWAITED = "bytes sent to a block that may end before they arrive: nobody awaits them"
    ELSEWHERE = "bytes sent to one block, counted by an mbarrier of another"
    NO_MBARRIER = "an mbarrier that is not initialised, as far as its user can know"
    UNFENCED = "an mbarrier that another block uses, its init not published by a fence"
    MBARRIER_MEMORY = "an mbarrier's own memory, read or written by something else"
    WRONG_PHASE = "arrivals or bytes that an mbarrier may count in the phase before"
    TOO_MUCH = "more arrivals or bytes than an mbarrier expects"
    UNPAIRED = "barrier.cluster.arrive and wait that do not take turns"
    TRAPPED = "a thread that gives up"
    FREED = "an argument whose memory is not, or no more, allocated"


class Finding(NamedTuple):
    """What was found at one instruction."""

    kind: Kind
    space: str  # of memory: "global", "shared", "local"; "" where the kind has none
    instruction: str  # its text
    times: int  # threads, over the whole run
    block: int  # of the first thread
    thread: int  # of the block

    def __str__(self):
        space = f" ({self.space})" if self.space else ""
        first = f"{self.times} times, first in thread {self.thread} of block {self.block}"
        return f"{self.kind}{space}: {self.instruction} [{first}]"


class Findings:
    """All of a run: the same kind at the same instruction is one finding, counted."""

    def __init__(self):
        self.found: dict[tuple[Kind, str, str], Finding] = {}

    def add(self, kind: Kind, space: str, instruction: str, times: int, first: tuple[int, int]):
        """first: the block and the thread."""
        key = kind, space, instruction
        before = self.found.get(key)
        if before is None:
            self.found[key] = Finding(kind, space, instruction, times, *first)
        else:
            self.found[key] = before._replace(times=before.times + times)

    def all(self) -> tuple[Finding, ...]:
        return tuple(self.found.values())
