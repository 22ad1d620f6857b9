"""Whose turn it is: threads that go on, that are at a barrier, that wait for what others do.

Threads with the smallest basic block go first, so that they meet again where their ways do; or
warps are drawn at random, which no program may notice. A thread that has looked in vain sleeps
until something has changed; where nothing can change any more, it is told for what it waits.
"""

from typing import Any

import numpy as np

from .findings import Kind
from .memory import Access
from .text import BRANCH, ENDS, Instruction

NEVER = 1 << 30  # no block has this number
RUNS, AT_BLOCK, AT_CLUSTER, AT_WARP, ASLEEP, DONE = range(6)
TRIES = 64  # wakings of those who sleep, in which nothing changes
TURNS = 20_000  # without an end, a barrier or a store
SPEEDS = (0.05, 0.3, 0.7, 1.0)  # of blocks, where they wait for each other


class Turns:
    """Of the threads of a machine (machine.Machine)."""

    def __init__(self, machine: Any):
        self.machine, self.order = machine, machine.order
        count, grid = machine.count, machine.grid
        self.pc, self.at = np.zeros(count, "i8"), np.zeros(count, "i8")
        self.state = np.full(count, RUNS, "i1")
        self.looks_at = np.full(count, -1, "i8")  # of who sleeps: a place, -1 where it is none
        self.looks_for: dict[int, str] = {}  # of who sleeps: the instruction
        self.tries = self.idle = self.stores = 0
        self.gave_up = False
        self.speed: Any = np.ones(grid.blocks)
        if machine.clocks and self.order is not None:
            self.speed = self.order.choice(SPEEDS, grid.blocks)
        # clusters that have begun, where the others may begin when those have ended
        self.line = self.waiting_line()
        self.begun = np.isin(machine.block // grid.cluster, self.line, invert=True)

    def waiting_line(self) -> list[int]:
        """Clusters that have not begun, the next one last."""
        grid, kernel = self.machine.grid, self.machine.kernel
        if grid.cooperative or not kernel.meets_grid:
            return []
        line = np.arange(grid.blocks // grid.cluster)
        if self.order is not None:
            self.order.shuffle(line)
        return line.tolist()[1:]

    # Who goes on

    def apart(self) -> int | None:
        """Threads at several places, until all are at one (its block), or have ended (None)."""
        machine = self.machine
        while not self.gave_up:
            if machine.clocks:
                machine.clusters.deliver()
            running = self.running()
            if not running.any():
                if (self.state == DONE).all():
                    return None
                self.stuck()
                continue
            if self.order is not None:
                running &= np.isin(machine.warp, self.drawn(np.unique(machine.warp[running])))
            self.advance(np.where(running, self.pc, NEVER))
            self.count_idle()
            together = (self.pc == self.pc[0]).all() and not self.state.any()
            if together and self.order is None and not machine.clocks:
                return int(self.pc[0])
        return None

    def running(self):
        """Who can go on: not beyond lanes of its warp that sleep, for the warp waits for those."""
        running = (self.state == RUNS) & self.begun
        asleep = self.state == ASLEEP
        if asleep.any():
            warp = self.machine.warp
            first = np.full(self.machine.warps, NEVER)
            np.minimum.at(first, warp[asleep], self.pc[asleep])
            held = running & (self.pc > first[warp])
            if (running & ~held).any() or self.machine.clusters.flying:
                return running & ~held
        return running

    def drawn(self, warps):
        """Some of the warps, at least one: seldom all, often few."""
        order, threads = self.order, self.machine.grid.threads
        speed = self.speed[warps // -(-threads // 32)]
        chosen = warps[order.random(len(warps)) < speed * order.random()]
        return chosen if len(chosen) else order.choice(warps, 1)

    def count_idle(self):
        """A loop without an end, a barrier or a store may be one for ever."""
        self.idle += 1
        if self.machine.memory.stores != self.stores:
            self.stores, self.idle = self.machine.memory.stores, 0
        if self.idle > TURNS:
            self.give_up(self.state == RUNS, "a loop in which nothing changes")

    def advance(self, places):
        """Those with the smallest block, by this block."""
        machine = self.machine
        k = int(places.min())
        who = np.flatnonzero(places == k)
        taken, last = machine.some(k, who), machine.kernel.text.blocks[k][-1]
        if last.verb in ENDS:
            self.end(who, last)
        elif last.verb == BRANCH:
            target = machine.kernel.text.labels[last.operands[0]]
            self.pc[who] = np.where(taken, target, k + 1)
        else:
            self.pc[who] = k + 1
            if last.ends_block:
                self.at[who] = k
                self.come(who, last)

    # Barriers, and the end

    def end(self, who, last: Instruction):
        self.state[who] = DONE
        self.idle = 0
        if last.op.startswith("trap"):
            access = Access("", "i4", 1, last.text)
            self.machine.memory.tell(Kind.TRAPPED, access, who, np.ones(len(who), bool))
        for block in np.unique(self.machine.block[who]):
            self.meet(block)
        if self.machine.clocks:
            self.left(who)

    def left(self, who):
        """Blocks end, and clusters; another may begin."""
        machine = self.machine
        threads, cluster = machine.grid.threads, machine.block[who] // machine.grid.cluster
        for block in np.unique(machine.block[who]):
            own = slice(block * threads, (block + 1) * threads)
            machine.clusters.ended[block] = (self.state[own] == DONE).all()
        for warp in np.unique(machine.warp[who]):
            self.meet_warp(warp)
        for one in np.unique(cluster):
            self.meet_cluster(one)
        if self.line and (self.state[self.begun] == DONE).all():
            self.begin()

    def begin(self):
        """The next cluster."""
        cluster = self.line.pop()
        self.begun |= self.machine.block // self.machine.grid.cluster == cluster
        self.tries = 0

    def come(self, who, last: Instruction):
        """Threads are at a barrier."""
        machine, self.idle = self.machine, 0
        if last.op.startswith("bar.warp"):
            self.state[who] = AT_WARP
            for warp in np.unique(machine.warp[who]):
                self.meet_warp(warp)
        elif last.op.startswith("barrier.cluster"):
            self.come_cluster(who, last)
        else:
            self.state[who] = AT_BLOCK
            for block in np.unique(machine.block[who]):
                self.meet(block)

    def come_cluster(self, who, last: Instruction):
        machine = self.machine
        if "aligned" in last.parts:
            here = np.isin(machine.warp, machine.warp[who]) & (self.state != DONE)
            here[who] = False
            partial = np.isin(machine.warp[who], machine.warp[here])
            access = Access("", "i4", 1, last.text)
            machine.memory.tell(Kind.ABSENT_LANES, access, who, partial)
        if "arrive" in last.parts:
            machine.clusters.arrive(who, "relaxed" not in last.parts, last.text)
            for cluster in np.unique(machine.block[who] // machine.grid.cluster):
                self.meet_cluster(cluster)
        else:
            self.state[machine.clusters.waits(who, last.text)] = AT_CLUSTER

    def meet_cluster(self, cluster: int):
        """Let threads pass the cluster's barrier, if all have arrived."""
        machine = self.machine
        if machine.clusters.complete(cluster, self.state == DONE):
            own = machine.clusters.threads(cluster)
            who = np.arange(own.start, own.stop)[self.state[own] == AT_CLUSTER]
            machine.clusters.passed(who)
            self.state[who] = RUNS
            self.progress()

    def meet_warp(self, warp: int):
        """Let lanes go on, if all that the barrier names are at it or have ended."""
        machine = self.machine
        lanes = np.flatnonzero(machine.warp == warp)
        waiting = lanes[self.state[lanes] == AT_WARP]
        if not len(waiting):
            return
        blocks = machine.kernel.text.blocks
        named = int(blocks[self.at[waiting[0]]][-1].operands[0], 0)
        there = (named >> machine.lane[lanes].astype("i8") & 1).astype(bool)
        if np.isin(self.state[lanes[there]], (AT_WARP, DONE)).all():
            self.state[waiting] = RUNS
            if machine.clocks:
                machine.clocks.meet(waiting)

    def meet(self, block: int):
        """Let the threads of a block go on, if all are at the barrier or have ended."""
        machine = self.machine
        first = block * machine.grid.threads
        own = slice(first, first + machine.grid.threads)
        waiting, done = self.state[own] == AT_BLOCK, self.state[own] == DONE
        if not waiting.any() or not (waiting | done).all():
            return
        places, blocks = np.unique(self.at[own][waiting]), machine.kernel.text.blocks
        text = " / ".join(f"{blocks[k][-1].text} of block {k}" for k in places)
        named = int(block), int(np.flatnonzero(waiting)[0])
        if len(places) > 1:
            machine.findings.add(Kind.PARTED_BARRIER, "", text, int(waiting.sum()), named)
        if done.any():
            machine.findings.add(Kind.MISSED_BARRIER, "", text, int(done.sum()), named)
        self.state[own][waiting] = RUNS
        machine.epoch[block] += 1
        if machine.clocks:
            machine.clocks.meet(first + np.flatnonzero(waiting))

    # Sleep

    def sleep(self, who, text: str, places):
        """Threads have looked in vain."""
        self.state[who], self.looks_at[who] = ASLEEP, places
        self.looks_for.update(dict.fromkeys(who.tolist(), text))

    def progress(self):
        """Something has changed: who sleeps may look again."""
        self.state[self.state == ASLEEP] = RUNS
        self.tries = self.idle = 0

    def stuck(self):
        """Nobody can go on: let something arrive, wake who sleeps, let others begin; at last tell
        who waits for ever.
        """
        asleep, machine = self.state == ASLEEP, self.machine
        if machine.clocks and machine.clusters.flying:
            machine.clusters.deliver(at_last=True)
        elif asleep.any() and self.tries < TRIES:
            self.state[asleep] = RUNS
            self.tries += 1
        elif self.line:
            who = np.flatnonzero(asleep)
            for text in sorted({self.looks_for[thread] for thread in who.tolist()}):
                bad = np.array([self.looks_for[thread] == text for thread in who.tolist()])
                machine.memory.tell(Kind.NOT_RESIDENT, Access("", "i4", 1, text), who, bad)
            self.begin()
        else:
            self.give_up((self.state != DONE) & self.begun, "")

    def give_up(self, who, text: str):
        """Who waits for ever, and for what."""
        machine, self.gave_up = self.machine, True
        lacks = dict(machine.bars.missing()) if machine.clocks else {}
        groups: dict[str, list[int]] = {}
        for thread in np.flatnonzero(who).tolist():
            groups.setdefault(text or self.reason(thread, lacks), []).append(thread)
        for reason, threads in groups.items():
            first = machine.memory.threads.named(threads[0])
            machine.findings.add(Kind.WAITS_FOR_EVER, "", reason, len(threads), first)

    def reason(self, thread: int, lacks: dict[int, str]) -> str:
        if self.state[thread] == ASLEEP:
            place = int(self.looks_at[thread])
            of = lacks.get(place, f"address {place:#x}" if place >= 0 else "nothing that is there")
            return f"{self.looks_for[thread]}: {of}"
        return self.machine.kernel.text.blocks[self.at[thread]][-1].text
