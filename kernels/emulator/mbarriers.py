"""mbarriers: phases that are over when enough threads have arrived and enough bytes have come."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .clocks import FOLLOWS, OF_BLOCK, OF_CLUSTER, SYNCHRONISED, WEAK, Clocks
from .findings import Kind, PTXError
from .memory import WORD, Access, Memory

MOST_BYTES = (1 << 20) - 1  # that one can count


class MBarrier:
    """One, and what its phases tell.

    A phase tells what they know who arrived in it, and that the bytes it counted are there.
    """

    def __init__(self, place: int, actor: int, count: int, by: int, clocks: Clocks):
        self.place, self.actor, self.count, self.by = place, actor, count, by
        self.column, self.since = int(clocks.column[actor]), int(clocks.own(by))
        width = clocks.known.shape[2]
        self.pending, self.bytes, self.phase = count, 0, 0  # bytes that are still expected
        # what the phase under way, and the last that is over, tell
        self.coming, self.known = np.zeros((2, width), "i4"), np.zeros((2, width), "i4")
        self.fenced = False  # may another block use it?
        self.foreign = False  # has another block sent bytes, or arrived?
        self.counted = 0  # the last phase that counts bytes of st.async


class MBarriers:
    """All of a run."""

    def __init__(self, memory: Memory, clocks: Clocks, progress: Callable[[], None]):
        self.memory, self.clocks, self.progress = memory, clocks, progress
        self.findings = memory.findings
        self.stride = memory.stride["shared"]
        self.at: dict[int, MBarrier] = {}  # by its place in all shared memory
        memory.reserved = np.zeros(len(memory.bytes["shared"]) // WORD + 1, bool)

    def block(self, place: int) -> int:
        return place // self.stride

    def name(self, place: int) -> str:
        return f"mbarrier {place % self.stride} of block {self.block(place)}"

    def find(self, kind: Kind, text: str, thread: int):
        self.findings.add(kind, "shared", text, 1, self.memory.threads.named(thread))

    def each(self, access: Access, address, who) -> Iterator[tuple[int, int, int]]:
        """(number in the row, place, thread) of threads whose address is one."""
        place, inside = self.memory.reach(access, address, who)
        numbers = np.arange(len(who))[inside]
        return zip(numbers.tolist(), place[inside].tolist(), who[inside].tolist(), strict=True)

    def begin(self, access: Access, address, who, count):
        """mbarrier.init: `count` arrivals a phase."""
        count = np.broadcast_to(count, len(who))
        for k, place, thread in self.each(access, address, who):
            block, known = self.block(place), list(self.at)
            own = known.index(place) if place in known else len(known)
            number = sum(self.block(one) == block for one in known[:own])
            most = self.clocks.places.mbarriers
            if number >= most:
                raise PTXError(f"more than {most} mbarriers of a block: {access.instruction}")
            actor = self.clocks.places.count + block * most + number
            self.at[place] = MBarrier(place, actor, int(count[k]), thread, self.clocks)
            self.memory.reserved[place // WORD : place // WORD + 2] = True

    def publish(self, who):
        """fence.mbarrier_init: other blocks may use what these threads have begun."""
        for bar in self.at.values():
            bar.fenced |= bar.by in who

    def found(self, place: int, thread: int, known, text: str) -> MBarrier | None:
        """The mbarrier at a place, for a thread with what it knows (2, columns)."""
        bar = self.at.get(place)
        if bar is None:
            self.find(Kind.NO_MBARRIER, text, thread)
            return None
        begun = known[SYNCHRONISED, self.clocks.column[bar.by]] >= bar.since
        if thread != bar.by and not begun:
            self.find(Kind.NO_MBARRIER, text, thread)
        foreign = self.clocks.block[thread] != self.block(place)
        if foreign and not bar.fenced:
            self.find(Kind.UNFENCED, text, thread)
        return bar

    def arrive(self, access: Access, address, who, arrivals, expected, releases: bool):
        """Count arrivals, and bytes that are expected; returns each thread's token."""
        arrivals, expected = (np.broadcast_to(one, len(who)) for one in (arrivals, expected))
        tokens, text = np.zeros(len(who), "u8"), access.instruction
        for k, place, thread in self.each(access, address, who):
            known = self.clocks.known[:, thread]
            if bar := self.found(place, thread, known, text):
                tokens[k] = bar.phase
                if arrivals[k]:
                    self.tell(bar, thread, known, access.level if releases else WEAK, text)
                bar.bytes += int(expected[k])
                bar.pending -= int(arrivals[k])
                self.turn(bar, thread, text)
        return tokens

    def tell(self, bar: MBarrier, thread: int, known, level: int, text: str):
        """A phase tells what a thread knows that arrives."""
        if known[FOLLOWS, bar.column] < bar.phase:
            self.find(Kind.WRONG_PHASE, text, thread)
        foreign = self.clocks.block[thread] != self.block(bar.place)
        bar.foreign |= bool(foreign)
        np.maximum(bar.coming[FOLLOWS], known[FOLLOWS], out=bar.coming[FOLLOWS])
        if level >= (OF_CLUSTER if foreign else OF_BLOCK):
            np.maximum(bar.coming, known, out=bar.coming)
        self.clocks.tick(thread)

    def count(self, bar: MBarrier, sent: int, thread: int, known, text: str):
        """Bytes have come, from a thread that knew so much (columns,) of who follows whom."""
        if known[bar.column] < bar.phase:
            self.find(Kind.WRONG_PHASE, text, thread)
        np.maximum(bar.coming[FOLLOWS], known, out=bar.coming[FOLLOWS])
        bar.counted = bar.phase + 1
        bar.foreign |= bool(self.clocks.block[thread] != self.block(bar.place))
        bar.bytes -= sent
        self.turn(bar, thread, text)

    def turn(self, bar: MBarrier, thread: int, text: str):
        """The next phase, where nothing is missing in this one."""
        surplus = bar.pending == 0 and bar.bytes < 0
        if surplus or bar.pending < 0 or abs(bar.bytes) > MOST_BYTES:
            self.find(Kind.TOO_MUCH, f"{text}: {self.name(bar.place)}", thread)
            bar.pending, bar.bytes = max(bar.pending, 0), max(bar.bytes, 0)
        if bar.pending == 0 and bar.bytes == 0:
            bar.phase += 1
            bar.pending = bar.count
            bar.coming[:, bar.column] = bar.phase
            bar.known[:] = bar.coming
            self.progress()

    def wait(self, access: Access, address, who, over: Callable, heard: Any):
        """Whether a phase is over, by thread, and the place that each looks at (-1: none).

        over   (phase, the threads' numbers in the row) -> whether that is what they wait for
        heard  (threads, columns) gets what a relaxed wait saw; None where the wait acquires
        """
        answer, places = np.zeros(len(who), bool), np.full(len(who), -1)
        at: dict[int, list[tuple[int, int]]] = {}
        for k, place, thread in self.each(access, address, who):
            at.setdefault(place, []).append((k, thread))
        for place, both in at.items():
            rows, threads = np.array(both).T
            bars = [
                self.found(place, thread, self.clocks.known[:, thread], access.instruction)
                for thread in threads.tolist()
            ]
            if bar := bars[0]:
                answer[rows], places[rows] = over(bar.phase, rows), place
                self.acquire(bar, threads[answer[rows]], access.level, heard)
        return answer, places

    def acquire(self, bar: MBarrier, who, level: int, heard):
        """What the last phase tells, to threads that saw it."""
        follows = self.clocks.known[FOLLOWS]
        follows[who] = np.maximum(follows[who], bar.known[FOLLOWS])
        told = bar.known[SYNCHRONISED]
        if level < OF_CLUSTER:  # of this block's threads alone
            own = np.zeros(len(told), bool)
            own[self.clocks.threads_of(self.block(bar.place))] = True
            own[bar.column] = not bar.foreign
            told = np.where(own, told, 0)
        known = self.clocks.known[SYNCHRONISED] if heard is None else heard
        known[who] = np.maximum(known[who], told)

    def missing(self) -> Iterator[tuple[int, str]]:
        """(place, what it lacks) of each that waits for something."""
        for place, bar in self.at.items():
            lacks = f"{bar.pending} arrivals and {bar.bytes} bytes in phase {bar.phase}"
            yield place, f"{self.name(place)} lacks {lacks}"
