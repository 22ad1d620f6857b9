"""Memory of the cards: blocks with real addresses, pools that use them again, and who owns which.

An address is one of this process, a multiple of 256. `allocation_at` says what lives at one.
"""

import ctypes
import weakref
from bisect import bisect_right, insort
from contextlib import contextmanager
from threading import RLock, local
from typing import Any

import numpy as np

from .counts import count
from .order import LOOKING

ALIGNMENT = 256  # of an address, as cudaMalloc's
UNIT = 512  # bytes a pool rounds up to, as CuPy's does
CARDS = 2  # that this machine plays

here = local()  # the current card of a thread
lock = RLock()  # reentrant: a collection of garbage frees memory anywhere


def current() -> int:
    """The number of the current card."""
    return getattr(here, "card", 0)


class Block:
    """Bytes of a card that a pool has taken from the system."""

    def __init__(self, pool, size: int, card: int):
        raw = np.empty(size + ALIGNMENT, np.uint8)
        first = -raw.ctypes.data % ALIGNMENT
        self.bytes = raw[first : first + size]
        self.pool, self.card, self.address = pool, card, self.bytes.ctypes.data
        self.taken, self.released = 0, False  # how often, and given back to the system
        self.stream = stream_now()  # whose later work may have it again


class Allocation:
    """A block while it has an owner: what lives at its address.  It goes back to its pool when
    nothing refers to it.
    """

    def __init__(self, block: Block, size: int):
        self.block, self.size = block, size
        self.card, self.ptr = block.card, block.address
        block.taken += 1
        self.poison()
        LIVE.add(self)
        weakref.finalize(self, give_back, block).atexit = False

    def poison(self):
        """All bits set: a NaN of every float type."""
        self.block.bytes.fill(0xFF)

    @property
    def bytes(self) -> np.ndarray:
        """Its memory, as uint8."""
        return self.block.bytes[: self.size]

    @property
    def device_id(self) -> int:
        return self.card


class Foreign:
    """Memory of another library on a card, which says that it is there as long as this is."""

    block = None

    def __init__(self, ptr: int, bytes: np.ndarray, card: int):
        self.ptr, self.size, self.card, self.bytes = ptr, len(bytes), card, bytes
        self.address = ptr
        LIVE.add(self)
        weakref.finalize(self, LIVE.discard, ptr).atexit = False

    @property
    def device_id(self) -> int:
        return self.card


class UnownedMemory(Foreign):
    """Memory that another library gives, and takes back when nothing refers to `owner`."""

    def __init__(self, ptr, size, owner, device_id=-1):
        whole: Any = (ctypes.c_uint8 * size).from_address(ptr)
        card = current() if device_id == -1 else device_id
        super().__init__(ptr, np.frombuffer(whole, np.uint8), card)
        self._owner = owner
        count("allocations", f"{size} bytes of another library")
        self.poison()

    def poison(self):
        """All bits set: a NaN of every float type."""
        self.bytes.fill(0xFF)


def give_back(block: Block):
    """What happens when a block's owner is gone."""
    LIVE.discard(block.address)
    block.pool._take_back(block)


class Live:
    """Every allocation that there is, by address."""

    def __init__(self):
        self.addresses: list[int] = []
        self.at: dict[int, weakref.ref] = {}

    def add(self, allocation):
        with lock:
            insort(self.addresses, allocation.ptr)
            self.at[allocation.ptr] = weakref.ref(allocation)

    def discard(self, address: int):
        with lock:
            del self.addresses[bisect_right(self.addresses, address) - 1]
            del self.at[address]

    def find(self, pointer: int) -> Any:
        with lock:
            k = bisect_right(self.addresses, pointer) - 1
            found = self.at[self.addresses[k]]() if k >= 0 else None
        return found if found is not None and pointer < found.ptr + found.size else None


LIVE = Live()


def allocation_at(pointer: int) -> np.ndarray:
    """The bytes from an address to the end of what was allocated there, as uint8, the memory
    itself.  Raises LookupError where nothing lives.
    """
    found = LIVE.find(pointer)
    if found is None:
        raise LookupError(f"no allocation holds the address {pointer:#x}")
    return found.bytes[pointer - found.ptr :]


class MemoryPointer:
    """Where an array's first element lies: `ptr` is 0 where it has none."""

    def __init__(self, mem, offset):
        self.mem, self._offset = mem, offset

    @property
    def ptr(self) -> int:
        return 0 if self.mem is None else self.mem.ptr + self._offset

    @property
    def device_id(self) -> int:
        return current() if self.mem is None else self.mem.device_id

    @property
    def device(self):
        return Device(self.device_id)


class MemoryPool:
    """Blocks that are used again, of each card."""

    def __init__(self, allocator=None):
        if allocator is not None:
            raise NotImplementedError("a pool above another allocator")
        self._free: list[Block] = []
        self._total = dict.fromkeys(range(CARDS), 0)

    def malloc(self, size):
        """Memory of the current card, every float in it NaN."""
        if not size:
            return MemoryPointer(None, 0)
        count("allocations", f"{size} bytes")
        rounded, card = -(-size // UNIT) * UNIT, current()
        with lock:
            like = card, rounded, stream_now()
            fitting = [b for b in self._free if (b.card, len(b.bytes), b.stream) == like]
            if fitting:
                self._free.remove(fitting[-1])
                block = fitting[-1]
            else:
                forbid("malloc")
                block = Block(self, rounded, card)
                self._total[card] += rounded
        return MemoryPointer(Allocation(block, size), 0)

    def _take_back(self, block: Block):
        with lock:
            self._free.append(block)

    def free_bytes(self):
        with lock:
            return sum(len(block.bytes) for block in self._free if block.card == current())

    def total_bytes(self):
        return self._total[current()]

    def used_bytes(self):
        return self.total_bytes() - self.free_bytes()

    def n_free_blocks(self):
        return sum(block.card == current() for block in self._free)

    def free_all_blocks(self, stream=None):
        """Give what nobody owns back to the system."""
        forbid("free")
        with lock:
            for block in self._free:
                block.released = True
                self._total[block.card] -= len(block.bytes)
            self._free.clear()


def forbid(what: str):
    """Raise where a stream that captures does not allow this; streams.py puts its own here."""


def stream_now() -> int:
    """The current stream's pointer; streams.py puts its own here."""
    return 0


DEFAULT = MemoryPool()
allocators = local()


def get_allocator():
    """What memory is taken from, in this thread."""
    return getattr(allocators, "current", DEFAULT.malloc)


@contextmanager
def using_allocator(allocator=None):
    """Take memory from another allocator, in this thread."""
    before = get_allocator()
    allocators.current = allocator or DEFAULT.malloc
    try:
        yield
    finally:
        allocators.current = before


def get_default_memory_pool():
    """The pool of all who ask for no other."""
    return DEFAULT


class Device:
    """A card by its number; without one the current.  It has no hash, as CuPy 14's."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, device=None):
        self.id = current() if device is None else getattr(device, "id", device)
        self._before: list[int] = []

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __enter__(self):
        self._before.append(current())
        return self.use()

    def __exit__(self, *_):
        here.card = self._before.pop()

    def use(self):
        set_device(self.id)
        return self

    @property
    def compute_capability(self) -> str:
        return "90"

    def synchronize(self):
        """Wait for all that this card does."""
        forbid("wait")
        count("waits", "Device.synchronize")
        for order in LOOKING:
            order.wait_for_all()

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


def set_device(number: int):
    """Make another card the current of this thread."""
    if not 0 <= number < CARDS:
        raise RuntimeError(f"cudaErrorInvalidDevice: {number}, of {CARDS} cards")
    here.card = number
