"""Registers: of all threads, and of some that have parted from the others."""

import numpy as np

from .text import Instruction, Text, registers_in

# instructions that write no register
STORES = ("st", "prefetch", "red", "fence", "membar", "nanosleep")


class Registers(dict):
    """Of all threads, by name. What was never written is NaN, or an address where nothing is."""

    def __init__(self, text: Text, count: int):
        super().__init__()
        self.text, self.count = text, count

    def __missing__(self, name):
        kind = np.dtype(self.text.dtype(name))
        filled = {"f": np.nan, "b": False}.get(kind.kind, 1 << 8 * kind.itemsize - 2)
        self[name] = np.full(self.count, filled, kind)
        return self[name]

    def put(self, name, who, value):
        """The numbers of some threads. Other registers may be the same array: it is copied."""
        before = self[name]
        whole = before.copy() if np.ndim(before) else np.full(self.count, before)
        whole[who] = value
        self[name] = whole


class Some(dict):
    """The registers of some threads, taken from those of all when they are read."""

    def __init__(self, registers: Registers, who):
        super().__init__()
        self.of_all, self.who = registers, who

    def __missing__(self, name):
        value = self.of_all[name]
        self[name] = value = value[self.who] if np.ndim(value) else value
        return value

    def hand_back(self, names: set[str]):
        """What was written, to the registers of all."""
        for name in names & self.keys():
            self.of_all.put(name, self.who, self[name])


def targets(it: Instruction) -> set[str]:
    """The registers that an instruction writes."""
    if it.ends_block or it.verb in STORES or not it.operands or it.operands[0].startswith("["):
        return set()
    return registers_in(it.operands[:1])


def outliving(blocks) -> list[set[str]]:
    """Of each block, the registers it writes that another block reads, or this one before."""
    users: dict[str, set[int]] = {}
    read_first: set[str] = set()
    written: list[set[str]] = [set() for _ in blocks]
    for k, block in enumerate(blocks):
        for it in block:
            target = targets(it)
            reads = registers_in([it.guard, *(it.operands[1:] if target else it.operands)])
            read_first |= reads - written[k]
            written[k] |= target
            for name in reads | target:
                users.setdefault(name, set()).add(k)
    return [{one for one in own if len(users[one]) > 1 or one in read_first} for own in written]
