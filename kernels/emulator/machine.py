"""Executing a kernel: every thread of the grid at once.

Threads that are all at one basic block execute it together, as operations on arrays. Where a branch
parts them, those with the smallest block go first, so that they meet again where their ways do; or
warps are drawn at random, which no program may notice.
"""

from typing import NamedTuple

import numpy as np

from .findings import Finding, Findings, Kind, PTXError
from .instructions import translate
from .memory import Access, Layout, Memory, Threads
from .operands import Operands
from .registers import Registers, Some, outliving
from .text import BRANCH, DTYPES, ENDS, Instruction, Text, read
from .warps import WARP, absent, sources

NEVER = 1 << 30  # no block has this number


class Grid(NamedTuple):
    """What a launch says."""

    blocks: int
    threads: int  # of a block
    dynamic: int = 0  # bytes of shared memory


class Run(NamedTuple):
    """What is known when a kernel has ended."""

    findings: tuple[Finding, ...]  # none is well
    # several threads that write one value to one address without a barrier: no harm
    benign: int
    barriers: int  # that a block has passed, at most
    instructions: int  # executed by warps


class Kernel:
    """One kernel, read and translated.  PTXError where something in its text is not understood."""

    def __init__(self, text: str):
        self.text: Text = read(text)
        self.layout, self.written = Layout(self.text), outliving(self.text.blocks)
        # functions of a Group, of each basic block: its instructions, but for what ends it
        self.actions = [
            [self.translated(it) for it in block if not it.ends_block] for block in self.text.blocks
        ]

    @property
    def float64(self) -> list[str]:
        """The instructions that compute in float64."""
        every = (it for block in self.text.blocks for it in block)
        return [it.text for it in every if "f64" in it.parts]

    def translated(self, it: Instruction):
        return translate(Operands(it, self.text, self.layout.places))

    def run(self, grid: Grid, arguments: list, order: np.random.Generator | None = None) -> Run:
        """Execute it.

        arguments  flat, as numba-cuda hands them on (memory.flat); arrays are overwritten in place
        order      draws which warp goes on; None: all that can
        """
        return Machine(self, grid, arguments, order).run()


class Group:
    """Threads that execute a basic block."""

    def __init__(self, machine: "Machine", who, registers):
        self.machine, self.who, self.registers = machine, who, registers

    def special(self, name: str):
        value = self.machine.special[name]
        return value[self.who] if np.ndim(value) else value

    def shuffle(self, *arguments):
        return self.machine.shuffle(self.who, *arguments)


class Machine:
    """A kernel under way."""

    def __init__(self, kernel: Kernel, grid: Grid, arguments: list, order):
        self.kernel, self.grid, self.order = kernel, grid, order
        count = self.count = grid.blocks * grid.threads
        each = np.arange(count, dtype="i4")
        self.all, self.block, place = each, each // grid.threads, each % grid.threads
        self.lane = place % WARP
        self.warp = self.block * -(-grid.threads // WARP) + place // WARP
        self.epoch = np.zeros(grid.blocks, "i4")
        self.findings, threads = Findings(), Threads(self.block, place, self.epoch)
        self.memory = Memory(kernel.layout, threads, grid.dynamic, self.findings)
        self.parameters = self.typed(self.memory.take(list(map(plain, arguments))))
        self.registers, self.instructions = Registers(kernel.text, count), 0
        self.special = {
            "thread": place,
            "block": self.block,
            "lane": self.lane,
            "threads": np.int64(grid.threads),
            "blocks": np.int64(grid.blocks),
            "dynamic": np.int64(grid.dynamic),
        }
        self.warps = int(self.warp[-1]) + 1
        self.pc, self.at = np.zeros(count, "i8"), np.zeros(count, "i8")
        self.waiting, self.done = np.zeros(count, bool), np.zeros(count, bool)

    def typed(self, numbers: list) -> list:
        """Parameters as numbers of their types."""
        kinds = [kind for kind, _ in self.kernel.text.parameters]
        if len(numbers) != len(kinds):
            raise PTXError(f"{len(numbers)} numbers for a kernel of {len(kinds)} parameters")
        return [
            np.array(number).astype(DTYPES[kind])[()]
            for number, kind in zip(numbers, kinds, strict=True)
        ]

    def run(self) -> Run:
        with np.errstate(all="ignore"):
            k = 0 if self.order is None else self.apart()
            while k is not None:
                self.together(k)
                k = self.apart()
        self.memory.give_back()
        findings, benign = self.findings.all(), self.memory.benign
        return Run(findings, benign, int(self.epoch.max()), self.instructions)

    def execute(self, k: int, group: Group):
        """A basic block, but for what ends it; returns whether its branch is taken, by thread."""
        for act in self.kernel.actions[k]:
            act(group)
        last = self.kernel.text.blocks[k][-1]
        if last.verb != BRANCH or not last.guard:
            return True
        value = group.registers[last.guard.lstrip("!")]
        return ~value if last.guard.startswith("!") else value

    def together(self, k: int):
        """All threads, from block k on, until they part or end."""
        group, blocks = Group(self, self.all, self.registers), self.kernel.text.blocks
        while True:
            taken, last = self.execute(k, group), blocks[k][-1]
            self.instructions += self.warps * len(blocks[k])
            if last.verb in ENDS:
                self.done[:] = True
                return
            if last.verb == BRANCH:
                target = self.kernel.text.labels[last.operands[0]]
                if np.all(taken):
                    k = target
                elif not np.any(taken):
                    k += 1
                else:
                    self.pc[:] = np.where(taken, target, k + 1)
                    return
            else:
                self.epoch += last.ends_block
                k += 1

    def apart(self) -> int | None:
        """Threads at several places, until all are at one (its block), or have ended (None)."""
        while not self.done.all():
            running = ~(self.waiting | self.done)
            if not running.any():
                raise PTXError("threads wait for ever")
            if self.order is not None:
                running &= np.isin(self.warp, drawn(self.order, np.unique(self.warp[running])))
            self.advance(np.where(running, self.pc, NEVER))
            together = (self.pc == self.pc[0]).all() and not (self.waiting | self.done).any()
            if together and self.order is None:
                return int(self.pc[0])
        return None

    def advance(self, places):
        """Those with the smallest block, by this block."""
        k = int(places.min())
        who = np.flatnonzero(places == k)
        registers = Some(self.registers, who)
        taken, last = self.execute(k, Group(self, who, registers)), self.kernel.text.blocks[k][-1]
        self.instructions += len(np.unique(self.warp[who])) * len(self.kernel.text.blocks[k])
        registers.hand_back(self.kernel.written[k])
        if last.verb in ENDS:
            self.done[who] = True
        elif last.verb == BRANCH:
            target = self.kernel.text.labels[last.operands[0]]
            self.pc[who] = np.where(taken, target, k + 1)
        else:
            self.pc[who] = k + 1
            self.waiting[who], self.at[who] = last.ends_block, k
        if last.ends_block and last.verb != BRANCH:
            for block in np.unique(self.block[who]):
                self.meet(block)

    def meet(self, block: int):
        """Let the threads of a block go on, if all are at the barrier or have ended."""
        own = slice(block * self.grid.threads, (block + 1) * self.grid.threads)
        waiting, done = self.waiting[own], self.done[own]
        if not waiting.any() or not (waiting | done).all():
            return
        places = np.unique(self.at[own][waiting])
        text = " / ".join(f"{self.kernel.text.blocks[k][-1].text} of block {k}" for k in places)
        first = int(block), int(np.flatnonzero(waiting)[0])
        if len(places) > 1:
            self.findings.add(Kind.PARTED_BARRIER, "", text, int(waiting.sum()), first)
        if done.any():
            self.findings.add(Kind.MISSED_BARRIER, "", text, int(done.sum()), first)
        waiting[:] = False
        self.epoch[block] += 1

    def shuffle(self, who, mode: str, values, by, c, mask, text: str):
        """(what each lane gets, whether it comes from the lane that it asks)."""
        lane = self.lane[who]
        by, c = (np.broadcast_to(one, len(who)).astype("i8") for one in (by, c))
        source, there = sources(mode, lane, by, c)
        source = who - lane + source
        missing = absent(who, lane, self.block, mask, source)
        self.memory.tell(Kind.ABSENT_LANES, Access("", "i4", 1, text), who, missing)
        sent = np.zeros(self.count + WARP, "i4")
        sent[who] = values
        return sent[source], there


def drawn(order: np.random.Generator, warps):
    """Some of the warps, at least one: seldom all, often few."""
    chosen = warps[order.random(len(warps)) < order.random()]
    return chosen if len(chosen) else order.choice(warps, 1)


def plain(number):
    """A whole number as Python's; others as they are."""
    return int(number) if isinstance(number, np.integer) else number
