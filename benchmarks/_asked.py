"""Which kernels are asked for, where none runs: `with asked_of(CARDS[9, 0]) as asked:`.

The library's own host code runs, on arrays that the stand-in for CuPy plays, up to the point where
a kernel is compiled or found. What a kernel would have written stays zero.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple
from unittest.mock import patch

from rnn_gpu.kernels.devices.cuda.driver import Facts, Hardware, played_by
from rnn_gpu.kernels.emulator import arrays
from rnn_gpu.kernels.emulator.arrays import memory

# of the same name as functions of the device
launching = import_module("rnn_gpu.kernels.devices.cuda.launch")
compiling = import_module("rnn_gpu.kernels.devices.cuda.compiled")

CARDS = {  # by compute capability
    (7, 5): Facts("Tesla T4", (7, 5), 40, 65_536, 65_536),
    (8, 0): Facts("NVIDIA A100", (8, 0), 108, 65_536, 166_912),
    (9, 0): Facts("NVIDIA H200", (9, 0), 132, 65_536, 232_448),
}


class Asked(NamedTuple):
    """A kernel for arguments of these kinds, which are these types of Numba's."""

    kernel: Any
    kinds: tuple
    signature: tuple
    capability: tuple

    @property
    def name(self) -> str:
        """What every machine calls it; "" where it cannot be told what it is made of."""
        names = compiling.names_of(self.kernel, self.kinds, self.capability)
        return names[0] if names else ""

    @property
    def title(self) -> str:
        """What a reader calls it."""
        made_of = getattr(self.kernel, "made_of", (self.kernel.py_func.__qualname__,))
        return made_of[0].removeprefix("rnn_gpu.kernels.devices.cuda.")


class Idle(Hardware):
    """A card that is given everything and does nothing."""

    arrays: Any = arrays
    measures = False

    def __init__(self, facts: Facts):
        super().__init__()
        self.known = facts

    def missing(self) -> str:
        return ""

    def device(self) -> int:
        return memory.current()

    def facts(self, device: int) -> Facts:
        return self.known

    def load(self, code: bytes, entry: str, shared: int) -> str:
        return entry

    def start(self, function, blocks: int, threads: int, shared: int, values: tuple, *together):
        pass

    def product(self, a, b, out, precision: str, add: bool):
        pass

    def products(self, stack, b, out, precision: str) -> Callable[[int], None]:
        return lambda t: None


@contextmanager
def asked_of(facts: Facts) -> Iterator[dict[Asked, None]]:
    """In order, each kernel that this process asks a card for meanwhile; none is compiled."""
    asked: dict[Asked, None] = {}

    def noted(kernel, kinds, signature, capability, language):
        asked[Asked(kernel, kinds, signature, tuple(capability))] = None
        return compiling.Code(b"", "")

    with (
        played_by(Idle(facts)),
        patch.object(launching, "compiled", noted),
        patch.object(memory.Allocation, "poison", lambda made: made.block.bytes.fill(0)),
    ):
        yield asked
