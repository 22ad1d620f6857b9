"""Clusters: blocks that reach each other's shared memory, by st.async and barrier.cluster.

What st.async sends arrives at a random later moment, in any order. It is known by the phase of the
mbarrier that counts its bytes, and by nothing else.
"""

from typing import Any, NamedTuple

import numpy as np

from .clocks import FOLLOWS, Clocks
from .findings import Kind
from .mbarriers import MBarriers
from .memory import WORD, Access, Memory

PATIENCE = 300  # moments that what is under way may stay so, while others go on
RATES = (0.0, 0.02, 0.2, 0.6, 1.0)  # the share that arrives in a moment; 0: at last


class Sent(NamedTuple):
    """What one thread has sent."""

    access: Access
    place: int  # where it will be, in all shared memory
    bar: int  # the place of the mbarrier that counts it
    values: Any
    thread: int
    known: Any  # (columns,) what the sender could follow


class Clusters:
    """All of a run."""

    def __init__(self, memory: Memory, clocks: Clocks, bars: MBarriers, random):
        self.memory, self.clocks, self.bars, self.random = memory, clocks, bars, random
        blocks, places = len(memory.threads.epoch), clocks.places
        self.ended, self.rate, self.idle = np.zeros(blocks, bool), random.choice(RATES), 0
        self.flying: list[Sent] = []
        # clocks at the last access from other blocks
        self.visited = np.zeros((blocks, clocks.size), "i4")
        self.heard: Any = None  # what relaxed waits saw
        self.arrived, self.owes = np.zeros(places.count, bool), np.zeros(places.count, bool)
        self.coming = np.zeros((blocks // places.cluster, 2, clocks.known.shape[2]), "i4")
        self.told = np.zeros_like(self.coming)
        memory.visits.append(self.visit)

    def visit(self, access: Access, owner, who):
        """Threads reach the shared memory of blocks."""
        clocks = self.clocks
        far = owner != clocks.block[who]
        if not far.any():
            return
        block, thread, columns = owner[far], who[far], clocks.threads_of(owner[far])
        seen = clocks.known[FOLLOWS, thread[:, None], columns].max(1)
        self.memory.tell(Kind.NOT_BEGUN, access, thread, seen < 1)
        self.memory.tell(Kind.ENDED, access, thread, self.ended[block])
        if "async" not in access.instruction.split()[0]:
            np.maximum.at(self.visited, (block, clocks.column[thread]), clocks.own(thread))

    # st.async

    def send(self, access: Access, address, bar, who, values):
        place, inside = self.memory.reach(access, address, who)
        counter = Access(access.space, "u8", 1, access.instruction)
        bar, counted = self.memory.reach(counter, bar, who)
        both = np.zeros(len(who), bool)
        both[inside] = True
        outside = ~both
        both[counted], both[outside] = True, False
        stride = self.bars.stride
        self.memory.tell(Kind.ELSEWHERE, access, who, both & (place // stride != bar // stride))
        self.memory.spare(access, place[both], who[both])
        values = np.stack(
            [np.broadcast_to(one, len(who)).astype(access.dtype) for one in values], axis=1
        )
        known = self.clocks.told(who)[FOLLOWS]
        self.flying += [
            Sent(access, int(place[k]), int(bar[k]), values[k], int(who[k]), known[k])
            for k in np.flatnonzero(both)
        ]

    def deliver(self, at_last=False):
        """A moment passes: some of what is under way arrives; at_last: something must."""
        if not self.flying:
            return
        self.idle += 1
        if not (at_last or self.rate or self.idle > PATIENCE):
            return
        self.idle, rate = 0, self.rate or self.random.choice((0.01, 0.5, 0.9))
        arrives = self.random.random(len(self.flying)) < rate
        if at_last:
            arrives[self.random.integers(len(arrives))] = True
        here = np.flatnonzero(arrives)
        self.random.shuffle(here)
        landing = [self.flying[k] for k in here]
        self.flying = [self.flying[k] for k in np.flatnonzero(~arrives)]
        for one in landing:
            self.land(one)

    def land(self, sent: Sent):
        access, place, text = sent.access, sent.place, sent.access.instruction
        who = np.array([sent.thread])
        if self.ended[self.bars.block(place)]:
            self.memory.tell(Kind.UNAWAITED, access, who, np.array([True]))
            return
        known = np.broadcast_to(sent.known, (2, len(sent.known)))
        bar = self.bars.found(sent.bar, sent.thread, known, text)
        size = access.size
        numbers = self.memory.bytes["shared"].view(access.dtype)
        numbers[place // size : place // size + len(sent.values)] = sent.values
        if bar is None:
            return
        for history, first in self.memory.cells(access, np.array([place]), 1):
            cells = first[0] + np.arange(size * access.count // WORD)
            wrote, was_read = history.deliver(cells, bar.actor, bar.phase + 1, sent.known)
            self.memory.tell(Kind.TWO_WRITES, access, who, wrote.any(keepdims=True))
            self.memory.tell(Kind.WRITE_AFTER_READ, access, who, was_read.any(keepdims=True))
            break  # cells of all its numbers
        self.bars.count(bar, sent.values.nbytes, sent.thread, sent.known, text)

    # mbarriers that are awaited relaxed

    def wait(self, access: Access, address, who, over, relaxed: bool):
        if relaxed and self.heard is None:
            self.heard = np.zeros_like(self.clocks.known[0])
        return self.bars.wait(access, address, who, over, self.heard if relaxed else None)

    def acquire(self, who):
        """The fence behind relaxed waits: what they saw is visible from here on."""
        if self.heard is not None:
            known = self.clocks.known[0]
            known[who] = np.maximum(known[who], self.heard[who])

    # barrier.cluster

    def arrive(self, who, releases: bool, text: str):
        access = Access("", "i4", 1, text)
        self.memory.tell(Kind.UNPAIRED, access, who, self.owes[who])
        self.arrived[who] = self.owes[who] = True
        told = self.clocks.told(who)
        coming = self.coming.transpose(1, 0, 2)
        for kind in (0, 1) if releases else (FOLLOWS,):
            np.maximum.at(coming[kind], self.clocks.cluster[who], told[kind])

    def waits(self, who, text: str):
        """Of threads at barrier.cluster.wait, those for whom not all have arrived."""
        access = Access("", "i4", 1, text)
        self.memory.tell(Kind.UNPAIRED, access, who, ~self.owes[who])
        later = self.arrived[who]
        self.passed(who[~later])
        return who[later]

    def passed(self, who):
        self.owes[who] = False
        self.clocks.hear(who, self.told[self.clocks.cluster[who]].transpose(1, 0, 2))

    def complete(self, cluster: int, done) -> bool:
        """Have all threads of a cluster arrived that have not ended?  Then they may pass."""
        own = self.threads(cluster)
        arrived = self.arrived[own]
        if not arrived.any() or not (arrived | done[own]).all():
            return False
        arrived[:] = False
        self.told[cluster], self.coming[cluster] = self.coming[cluster], 0
        return True

    def threads(self, cluster: int) -> slice:
        count = self.clocks.places.threads * self.clocks.places.cluster
        return slice(cluster * count, (cluster + 1) * count)

    # The end

    def end(self):
        """Of all blocks: has everything come, and everybody done with their memory?"""
        for sent in self.flying:
            self.memory.tell(Kind.UNAWAITED, sent.access, np.array([sent.thread]), np.array([True]))
        threads = self.clocks.places.threads
        for block, visited in enumerate(self.visited):
            own = slice(block * threads, (block + 1) * threads)
            heard = self.clocks.known[FOLLOWS, own].max(0)
            if (visited > heard[: self.clocks.size]).any():
                text = "block ends while others may reach its memory"
                self.bars.find(Kind.ENDED, text, own.start)
            for place, bar in self.bars.at.items():
                if self.bars.block(place) == block and heard[bar.column] < bar.counted:
                    self.bars.find(Kind.UNAWAITED, self.bars.name(place), own.start)
        for place, bar in self.bars.at.items():
            if bar.bytes < 0:
                self.bars.find(Kind.TOO_MUCH, f"{self.bars.name(place)} at the end", bar.by)
