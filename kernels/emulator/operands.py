"""What an instruction reads and writes: registers, numbers that stand in the text, addresses.

A register holds a NumPy array over the threads that execute an instruction, or one number where
all of them agree. Here an operand becomes a function of those threads (machine.Group).
"""

import re
from collections.abc import Callable

import numpy as np

from .clocks import OF_BLOCK, OF_CLUSTER, OF_GRID
from .findings import PTXError
from .text import DTYPES, Instruction, Text

SPECIAL = {  # registers that the card sets, and their names in a Grid
    "%tid.x": "thread",
    "%ntid.x": "threads",
    "%ctaid.x": "block",
    "%nctaid.x": "blocks",
    "%laneid": "lane",
    "%dynamic_smem_size": "dynamic",
    "%cluster_ctarank": "rank",
    "%cluster_ctaid.x": "rank",
    "%cluster_nctarank": "size",
    "%cluster_nctaid.x": "size",
    "%clusterid.x": "cluster",
    "%nclusterid.x": "clusters",
}
OTHER = ("y", "z")  # dimensions
ALWAYS_ZERO = tuple(
    f"%{name}.{one}" for name in ("tid", "ctaid", "cluster_ctaid", "clusterid") for one in OTHER
)
ALWAYS_ONE = tuple(
    f"%{name}.{one}" for name in ("ntid", "nctaid", "cluster_nctaid", "nclusterid") for one in OTHER
)
OF_SHARED = {"shared::cta": "shared", "shared::cluster": "cluster"}
SCOPES = {"cta": OF_BLOCK, "cluster": OF_CLUSTER, "gpu": OF_GRID, "gl": OF_GRID, "sys": OF_GRID}
WHOLE = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)U?")
BITS = {"0f": ("u4", "f4"), "0F": ("u4", "f4"), "0d": ("u8", "f8"), "0D": ("u8", "f8")}


class Operands:
    """Those of one instruction."""

    def __init__(self, it: Instruction, text: Text, places: dict[str, int]):
        self.it, self.text, self.type = it, text, it.type
        self.places = places  # addresses of what the kernel declares

    def unknown(self) -> PTXError:
        return PTXError(f"not understood: {self.it.text}")

    # Reading

    def get(self, operand: str, kind: str = "") -> Callable:
        """The operand as numbers of `kind`, by default of the instruction's type."""
        dtype = DTYPES[kind or self.type]
        if operand in SPECIAL:
            name = SPECIAL[operand]
            return lambda here: here.special(name).astype(dtype)
        if operand.startswith("!"):
            negated = self.get(operand[1:], kind)
            return lambda here: ~negated(here)
        if operand.startswith("%") and operand not in (*ALWAYS_ZERO, *ALWAYS_ONE):
            return self.register(operand, dtype)
        value = self.number(operand, dtype)
        return lambda here: value

    def register(self, name: str, dtype: str) -> Callable:
        have = self.text.dtype(name)
        if have == dtype:
            return lambda here: here.registers[name]
        if "?" in (have, dtype):
            raise self.unknown()
        if have[1:] == dtype[1:]:
            return lambda here: here.registers[name].view(dtype)
        if have[0] in "iu" and dtype[0] in "iu":
            return lambda here: here.registers[name].astype(dtype)
        raise self.unknown()

    def number(self, operand: str, dtype: str):
        """What stands in the text."""
        if operand in ALWAYS_ZERO or operand in ALWAYS_ONE:
            return np.dtype(dtype).type(operand in ALWAYS_ONE)
        if operand[:2] in BITS:
            whole, real = BITS[operand[:2]]
            return np.dtype(whole).type(int(operand[2:], 16)).view(real)
        if operand in self.places:
            return np.dtype(dtype).type(self.places[operand])
        if not WHOLE.fullmatch(operand):
            raise self.unknown()
        value = int(operand.rstrip("U"), 0)
        if dtype == "?":
            return np.bool_(value)
        size = int(dtype[1:])
        return np.dtype(f"u{size}").type(value % (1 << 8 * size)).view(dtype)

    def inputs(self, count: int, kind: str = "") -> list[Callable]:
        """Those behind the first, which is written."""
        return [self.get(operand, kind) for operand in self.it.operands[1 : 1 + count]]

    # Writing

    def put(self, kind: str = "", operand: str = "") -> Callable:
        """(here, value): write numbers of `kind` to a register, by default to the first operand."""
        name = operand or self.it.operands[0]
        have, want = DTYPES[kind or self.type], self.text.dtype(name)

        def as_it_is(here, value):
            here.registers[name] = value

        def as_bits(here, value):
            here.registers[name] = value.view(want)

        def converted(here, value):
            here.registers[name] = value.astype(want)

        if have == want:
            return as_it_is
        if "?" in (have, want):
            raise self.unknown()
        return as_bits if have[1:] == want[1:] else converted

    def puts(self, operand: str, kind: str = "") -> list[tuple[int, Callable]]:
        """Of one register, or of several between braces: (place, how it is written)."""
        return [
            (place, self.put(kind, name))
            for place, name in enumerate(members(operand))
            if name != "_"
        ]

    # Memory

    def address(self, operand: str) -> Callable:
        """That of `[register + offset]`, as signed numbers of 64 bits."""
        base, _, offset = operand.strip("[] ").partition("+")
        kind = "s64"
        if base.startswith("%") and self.text.dtype(base)[1:] == "4":
            kind = "u32"
        start = self.get(base, kind)
        moved = np.int64(int(offset, 0) if offset else 0)
        return lambda here: start(here).astype("i8") + moved

    def scope(self, default: int) -> int:
        """How far it is strong, where it says so."""
        return next((SCOPES[part] for part in self.it.parts if part in SCOPES), default)

    def space(self) -> str:
        for part in self.it.parts:
            if part in ("global", "shared", "local", "param"):
                return part
            if part in OF_SHARED:
                return OF_SHARED[part]
        return "generic"


def members(operand: str) -> list[str]:
    """The names between braces, or the one name."""
    return [name.strip() for name in operand.strip("{}").split(",")]
