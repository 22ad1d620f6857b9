"""Executing a kernel: every thread of the grid at once.

Threads that are all at one basic block execute it together, as operations on arrays. Where a branch
parts them, some take their turn (turns.py).
"""

from typing import NamedTuple

import numpy as np

from .clocks import MBARRIERS, Clocks, Places
from .clusters import Clusters
from .findings import Finding, Findings, Kind, PTXError
from .instructions import translate
from .mbarriers import MBarriers
from .memory import Access, Layout, Memory, Threads
from .operands import Operands
from .registers import Registers, Some, outliving
from .strong import Strong
from .text import BRANCH, DTYPES, ENDS, Instruction, Text, read
from .turns import Turns
from .warps import WARP, absent, sources

MOST_CLOCKS = 1 << 26  # numbers: what every thread knows of every other


class Grid(NamedTuple):
    """What a launch says."""

    blocks: int
    threads: int  # of a block
    dynamic: int = 0  # bytes of shared memory
    cluster: int = 1  # blocks of a cluster
    cooperative: bool = False  # are all blocks there at once, or the launch refused?


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
        # are its threads in order by more than the barriers of a block, with any block's?
        self.ordered = any(it.orders for it in self.text.instructions) or self.text.cluster > 0
        self.meets_grid = any(it.meets_grid for it in self.text.instructions)
        # functions of a Group, of each basic block: its instructions, but for what ends it
        self.actions = [
            [self.translated(it) for it in block if not it.ends_block] for block in self.text.blocks
        ]

    @property
    def float64(self) -> list[str]:
        """The instructions that compute in float64."""
        return [it.text for it in self.text.instructions if "f64" in it.parts]

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
        if kernel.text.cluster not in (0, grid.cluster) or grid.blocks % grid.cluster:
            own = kernel.text.cluster or "any"
            raise PTXError(
                f"{grid.blocks} blocks in clusters of {grid.cluster}, compiled for {own}"
            )
        count = self.count = grid.blocks * grid.threads
        each = np.arange(count, dtype="i4")
        self.all, self.block, place = each, each // grid.threads, each % grid.threads
        self.lane = place % WARP
        self.warp = self.block * -(-grid.threads // WARP) + place // WARP
        self.epoch = np.zeros(grid.blocks, "i4")
        self.findings, threads = Findings(), Threads(self.block, place, self.epoch)
        self.clocks = self.clocked() if kernel.ordered else None
        self.memory = Memory(kernel.layout, threads, grid.dynamic, self.findings, self.clocks)
        self.parameters = self.typed(self.memory.take(list(map(plain, arguments))))
        self.registers, self.instructions = Registers(kernel.text, count), 0
        rank, cluster = self.block % grid.cluster, self.block // grid.cluster
        self.special = {
            "thread": place,
            "block": self.block,
            "lane": self.lane,
            "rank": rank,
            "cluster": cluster,
            "threads": np.int64(grid.threads),
            "blocks": np.int64(grid.blocks),
            "dynamic": np.int64(grid.dynamic),
            "size": np.int64(grid.cluster),
            "clusters": np.int64(grid.blocks // grid.cluster),
        }
        self.warps = int(self.warp[-1]) + 1
        self.turns = Turns(self)
        if self.clocks:
            random = np.random.default_rng(0) if order is None else order
            self.bars = MBarriers(self.memory, self.clocks, self.turns.progress)
            self.clusters = Clusters(self.memory, self.clocks, self.bars, random)
            self.strong = Strong(self.memory, self.clocks, self.turns)

    def clocked(self) -> Clocks:
        """Clocks of all threads that can be in order."""
        grid, kernel = self.grid, self.kernel
        society = grid.blocks if kernel.meets_grid else grid.cluster
        counts = any(it.verb == "mbarrier" for it in kernel.text.instructions)
        bars = MBARRIERS if counts else 0
        if self.count * society * (grid.threads + bars) > MOST_CLOCKS:
            raise PTXError(f"more threads than can be followed: {grid.blocks} x {grid.threads}")
        return Clocks(Places(self.count, grid.threads, grid.cluster, society, bars))

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
            k = 0 if self.order is None and not self.clocks else self.turns.apart()
            while k is not None:
                self.together(k)
                k = self.turns.apart()
        if self.clocks and not self.turns.gave_up:
            self.clusters.end()
            self.strong.end()
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
                self.turns.end(self.all, last)
                return
            if last.verb == BRANCH:
                target = self.kernel.text.labels[last.operands[0]]
                if np.all(taken):
                    k = target
                elif not np.any(taken):
                    k += 1
                else:
                    self.turns.pc[:] = np.where(taken, target, k + 1)
                    return
            else:
                self.epoch += last.ends_block
                k += 1

    def some(self, k: int, who):
        """Some threads, by block k; returns whether its branch is taken, by thread."""
        registers, blocks = Some(self.registers, who), self.kernel.text.blocks
        taken = self.execute(k, Group(self, who, registers))
        self.instructions += len(np.unique(self.warp[who])) * len(blocks[k])
        registers.hand_back(self.kernel.written[k])
        return taken

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
        if self.clocks:
            self.clocks.follow(who, np.minimum(source, self.count - 1))
        return sent[source], there


def plain(number):
    """A whole number as Python's; others as they are."""
    return int(number) if isinstance(number, np.integer) else number
