"""Strong accesses: what threads of any blocks tell each other through global memory.

A relaxed access is seen whole, and says nothing of other memory. A release, or a store behind a
fence, tells what its thread knows, and an acquire of it, or a load before a fence, hears that. A
thread that looks twice at the same number sleeps until something has changed.

A *packet* is a number of 64 bits that is stored at once, a value and a tag. Who overwrites one must
know that all have read it who do: by what they have sent since.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .clocks import FOLLOWS, SYNCHRONISED, Clocks
from .findings import Kind
from .memory import Access, Memory, located
from .turns import Turns

PACKET = 8  # bytes


class Told:
    """What stores have told, by place."""

    def __init__(self, clocks: Clocks):
        self.clocks, self.width = clocks, clocks.known.shape[2]
        self.number: dict[tuple[str, int], int] = {}
        self.known = np.zeros((64, 2, self.width), "i4")
        self.level, self.by = np.zeros(64, "i4"), np.zeros(64, "i4")

    def at(self, memory: str, place, new: bool):
        """The numbers of places; where nothing was told 0, unless `new` gives it one."""
        known = self.number
        if new:
            for one in place.tolist():
                known.setdefault((memory, one), len(known) + 1)
            if len(known) >= len(self.level):
                self.grow(len(known))
        return np.array([known.get((memory, one), 0) for one in place.tolist()], "i8")

    def grow(self, more: int):
        self.known = np.concatenate([self.known, np.zeros((more, 2, self.width), "i4")])
        self.level, self.by = (
            np.concatenate([one, np.zeros(more, "i4")]) for one in (self.level, self.by)
        )


class Overwritten(NamedTuple):
    """A packet that was overwritten, not known to have been read by who had looked at it."""

    access: Access  # what overwrote it
    by: int
    read_at: int  # by the clock of who read


class Strong:
    """All of a run."""

    def __init__(self, memory: Memory, clocks: Clocks, turns: Turns):
        self.memory, self.clocks, self.turns = memory, clocks, turns
        count = clocks.places.count
        self.told = Told(clocks)
        # what relaxed loads saw, and what is told behind a fence of some scope
        self.heard = np.zeros((count, self.told.width), "i4")
        self.fenced, self.level = np.zeros_like(self.heard), np.zeros(count, "i4")
        # the last look of each thread, by instruction: (place, number)
        self.looks: dict[str, tuple] = {}
        # when each packet was read, by thread
        self.readers: dict[int, dict[int, int]] = {}
        self.suspects: dict[tuple[int, int], Overwritten] = {}  # by place and who has read

    def reach(self, access: Access, address, who) -> tuple[Access, Any, Any]:
        access, address = located(access, address)
        torn = np.full(len(who), access.count > 1 and access.size < PACKET)
        self.memory.tell(Kind.TORN, access, who, torn)
        return access, *self.memory.reach(access, address, who)

    # Accesses

    def load(self, access: Access, address, who, acquires: bool) -> list:
        access, place, inside = self.reach(access, address, who)
        values = self.memory.read(access, place, inside, who)
        self.hear(access, place[inside], who[inside], acquires)
        if access.size == PACKET and access.memory == "global":
            self.look_at_packets(access, place[inside], who[inside])
        whole = sum(bits(value) * np.uint64(2 * k + 1) for k, value in enumerate(values))
        self.look(access, place, who, whole)
        return values

    def store(self, access: Access, address, who, values, releases: bool):
        access, place, inside = self.reach(access, address, who)
        there, writers = place[inside], who[inside]
        if access.size == PACKET and access.memory == "global":
            self.overwrite_packets(access, there, writers)
        self.memory.write(access, place, inside, who, values)
        self.tell(access, there, writers, releases, over=False)
        self.turns.progress()

    def change(self, access: Access, address, who, f: Callable, given, kinds: tuple[bool, bool]):
        """An atomic operation, one thread after another; returns what was there.

        kinds  (acquires, releases)
        """
        acquires, releases = kinds
        access, place, inside = self.reach(access, address, who)
        found = np.zeros(len(who), access.dtype)
        given = [np.broadcast_to(one, len(who)).astype(access.dtype) for one in given]
        changed = False
        for k in np.arange(len(who))[inside].tolist():
            one, at = who[k : k + 1], place[k : k + 1]
            (old,) = self.memory.read(access, at, slice(None), one)
            new = np.array([f(old[0], *(row[k] for row in given))]).astype(access.dtype)
            found[k] = old[0]
            self.hear(access, at, one, acquires)
            self.memory.write(access, at, slice(None), one, [new])
            self.tell(access, at, one, releases, over=True)
            changed |= bool(bits(new)[0] != bits(old)[0])
        if changed:
            self.turns.progress()
        else:
            self.look(access, place, who, bits(found))
        return found

    def fence(self, who, level: int):
        known = self.clocks.known[SYNCHRONISED]
        known[who] = np.maximum(known[who], self.heard[who])
        self.fenced[who], self.level[who] = self.clocks.told(who)[SYNCHRONISED], level

    # What is told

    def tell(self, access: Access, place, who, releases: bool, over: bool):
        """Stores tell what their threads know; over: also what was told there before."""
        number = self.told.at(access.memory, place, new=True)
        level = np.full(len(who), access.level)
        known = self.clocks.told(who)
        if not releases:
            known[SYNCHRONISED], level = self.fenced[who], np.minimum(level, self.level[who])
        known = known.transpose(1, 0, 2)
        if over:
            known = np.maximum(known, self.told.known[number])
            level = np.maximum(level, self.told.level[number])
        self.told.known[number], self.told.level[number], self.told.by[number] = known, level, who

    def hear(self, access: Access, place, who, acquires: bool):
        number = self.told.at(access.memory, place, new=False)
        number, who = number[number > 0], who[number > 0]
        if not len(who):
            return
        known, told = self.clocks.known, self.told.known[number]
        known[FOLLOWS, who] = np.maximum(known[FOLLOWS, who], told[:, FOLLOWS])
        level = np.minimum(access.level, self.told.level[number])
        reached = level >= self.clocks.distance(self.told.by[number], who)
        who, told = who[reached], told[reached, SYNCHRONISED]
        into = known[SYNCHRONISED] if acquires else self.heard
        into[who] = np.maximum(into[who], told)

    # Looking again

    def look(self, access: Access, place, who, numbers):
        """Who sees what it has seen there by the same instruction, sleeps."""
        text = access.instruction
        if text not in self.looks:
            count = self.clocks.places.count
            self.looks[text] = np.full(count, -1, "i8"), np.zeros(count, "u8")
        places, seen = self.looks[text]
        vain = (places[who] == place) & (seen[who] == numbers)
        places[who], seen[who] = place, numbers
        if vain.any():
            self.turns.sleep(who[vain], text, place[vain])

    def look_at_packets(self, access: Access, place, who):
        times = self.clocks.own(who).tolist()
        for at, thread, time in zip(place.tolist(), who.tolist(), times, strict=True):
            before = self.suspects.pop((at, thread), None)
            # who has done nothing since looks again, for it was not what it waits for
            if before and before.read_at != time:
                self.accuse(before)
            self.readers.setdefault(at, {})[thread] = time

    def overwrite_packets(self, access: Access, place, who):
        known = self.clocks.known[FOLLOWS]
        for at, thread in zip(place.tolist(), who.tolist(), strict=True):
            for reader, time in self.readers.pop(at, {}).items():
                heard = known[thread, self.clocks.column[reader]] >= time
                if reader != thread and not heard:
                    self.suspects[at, reader] = Overwritten(access, thread, time)

    def accuse(self, one: Overwritten):
        self.memory.tell(Kind.OVERWRITTEN, one.access, np.array([one.by]), np.array([True]))

    def end(self):
        """Who never looked again has read what was there."""
        for one in self.suspects.values():
            self.accuse(one)


def bits(numbers):
    """As unsigned whole numbers of 64 bits."""
    return numbers.view(f"u{numbers.dtype.itemsize}").astype("u8")
