"""The memory of a card: three spaces, and what an access to each must keep.

Global memory is the arrays among a kernel's arguments, copied here with a gap between any two, and
copied back when the kernel has ended. Where a parameter is one of their addresses, the kernel gets
that of the copy, which is as far from a multiple of 512 bytes as the array itself.
"""

import ctypes
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .clocks import WEAK, Clocks, History
from .findings import Findings, Kind, PTXError
from .shadow import Shadow
from .text import Text

# A byte that nobody has written yet, here and in arrays.memory: floats of such bytes are NaNs that
# no arithmetic gives, so a kernel that reads one is found out.
UNWRITTEN = 0xFF
UNOWNED = 0xA5  # a byte between two arrays
GAP = 1 << 14  # bytes between two arrays
PAGE = 512  # bytes; arrays of CuPy begin at a multiple
WIDEST = 16  # bytes that one instruction takes
WINDOWS = {"shared": 1 << 56, "local": 1 << 57}  # where they begin among generic addresses
WORD = 4  # bytes of a cell that remembers who was there
# bits of an address in the shared memory of one block; those above, in the addresses of a cluster,
# are the block's rank + 1, or 0: the own block
OWN = 24


class Access(NamedTuple):
    """What an instruction asks of memory: `count` neighbouring numbers."""

    # "global", "shared", "local"; "cluster" where the address tells whose shared memory, "generic"
    # where it tells the space too
    space: str
    dtype: str
    count: int
    instruction: str  # its text
    level: int = WEAK  # how far it is strong

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return int(np.dtype(self.dtype).itemsize)

    @property
    def memory(self) -> str:
        """The space whose bytes they are."""
        return "shared" if self.space == "cluster" else self.space


class Threads(NamedTuple):
    """Of the whole grid, in the order of blocks."""

    block: Any  # that each belongs to
    place: Any  # of each in its block
    epoch: Any  # of each block: how many barriers it has passed

    def named(self, number) -> tuple[int, int]:
        """The block of a thread, and its place there."""
        return int(self.block[number]), int(self.place[number])


class Layout:
    """Where what a kernel declares stands in the memory of its kind."""

    def __init__(self, text: Text):
        static, end = placed([one for one in text.shared if not one.dynamic], 0)
        dynamic, self.shared = placed([one for one in text.shared if one.dynamic], end)
        local, self.local = placed(text.local, 0)
        tables, self.arrays = placed(text.tables, GAP)  # those of global memory come behind
        self.tables = [(tables[one.name], one.values) for one in text.tables]
        self.places: dict[str, int] = static | dynamic | local | tables


class Memory:
    """All of it, for one run of a kernel."""

    legal: np.ndarray  # of each byte of global memory: belongs it to an argument?
    # of each word of shared memory: belongs it to an mbarrier?  None where there are none
    reserved: Any = None

    def __init__(
        self,
        layout: Layout,
        threads: Threads,
        dynamic: int,
        findings: Findings,
        clocks: Clocks | None = None,
    ):
        """clocks  where threads are in order by more than the barriers of a block"""
        self.layout, self.threads, self.findings, self.benign = layout, threads, findings, 0
        self.clocks, self.visits, self.stores = clocks, [], 0
        count = len(threads.block)
        self.limit = {"shared": layout.shared + dynamic, "local": layout.local}
        self.stride = {space: up(limit, WIDEST) for space, limit in self.limit.items()}
        owners = {"shared": len(threads.epoch), "local": count}
        self.bytes = {
            space: np.full(self.stride[space] * each + WIDEST, UNWRITTEN, "u1")
            for space, each in owners.items()
        }
        self.shadows: dict[tuple[str, int], Shadow | History] = {}

    # Arguments

    def take(self, arguments: list) -> list:
        """Copy the arrays among flat arguments; returns the arguments with the copies' addresses.

        An array is 0, 0, its size, bytes of a number, its address; then its shape and strides.
        """
        at = list(array_places(arguments))
        self.spans = merged([(arguments[k], arguments[k] + extent(arguments, k)) for k in at])
        self.copies, top = [], self.layout.arrays + GAP
        for low, high in self.spans:
            self.copies.append(up(top, PAGE) + low % PAGE)
            top = self.copies[-1] + high - low + GAP
        self.bytes["global"] = np.full(up(top, 8), UNOWNED, "u1")
        self.legal = np.zeros(len(self.bytes["global"]), bool)
        for place, (low, high) in zip(self.copies, self.spans, strict=True):
            self.own(place, host(low, high))
        for place, values in self.layout.tables:
            self.own(place, np.frombuffer(values, "u1"))
        taken = list(arguments)
        for k in at:
            taken[k] = self.copy_of(arguments[k])
        return taken

    def own(self, place: int, values):
        self.bytes["global"][place : place + len(values)] = values
        self.legal[place : place + len(values)] = True

    def copy_of(self, address: int) -> int:
        """Where the array at an address is here; of an empty one, where nothing is."""
        for place, (low, high) in zip(self.copies, self.spans, strict=True):
            if low <= address < high:
                return place + address - low
        return PAGE

    def give_back(self):
        """The copies' bytes to the arrays."""
        for place, (low, high) in zip(self.copies, self.spans, strict=True):
            host(low, high)[:] = self.bytes["global"][place : place + high - low]

    # Accesses

    def tell(self, kind: Kind, access: Access, who, bad):
        """A finding of the threads that are bad, if there are any."""
        if bad.any():
            first = self.threads.named(who[np.flatnonzero(bad)[0]])
            self.findings.add(kind, access.space, access.instruction, int(bad.sum()), first)

    def reach(self, access: Access, address, who) -> tuple[Any, Any]:
        """(where the bytes of each thread begin in those of the space, which threads may be there).

        Who may not is told of, and gets the first.
        """
        size, space = access.size * access.count, access.space
        address = np.broadcast_to(address, len(who))
        self.tell(Kind.MISALIGNED, access, who, address % size != 0)
        address = address - address % access.size
        if space == "cluster":
            return self.reach_block(access, address, who)
        end = len(self.legal) if space == "global" else self.limit[space]
        inside = (address >= 0) & (address + size <= end)
        if space == "global":
            first = np.where(inside, address, 0)
            inside &= self.legal[first] & self.legal[first + inside * (size - 1)]
        self.tell(Kind.OUTSIDE, access, who, ~inside)
        place = np.where(inside, address, 0)
        if space != "global":
            owner = self.threads.block[who] if space == "shared" else who
            place += owner.astype("i8") * self.stride[space]
        return place, slice(None) if inside.all() else inside

    def reach_block(self, access: Access, address, who) -> tuple[Any, Any]:
        """`reach` of addresses that name a block of the cluster."""
        named, address = address >> OWN, address & (1 << OWN) - 1
        cluster = self.clocks.places.cluster if self.clocks else 1
        block, end = self.threads.block[who], address + access.size * access.count
        there = (named >= 0) & (named <= cluster)
        self.tell(Kind.ABSENT_BLOCK, access, who, ~there)
        self.tell(Kind.OUTSIDE, access, who, there & (end > self.limit["shared"]))
        inside = there & (end <= self.limit["shared"])
        owner = np.where(inside & (named > 0), block // cluster * cluster + named - 1, block)
        for visit in self.visits:
            visit(access, owner, who)
        place = np.where(inside, address, 0) + owner.astype("i8") * self.stride["shared"]
        return place, slice(None) if inside.all() else inside

    def spare(self, access: Access, place, who):
        """An mbarrier's memory is nobody else's."""
        if self.reserved is not None and access.memory == "shared":
            size = access.size * access.count
            hit = self.reserved[place // WORD] | self.reserved[(place + size - 1) // WORD]
            self.tell(Kind.MBARRIER_MEMORY, access, who, hit)

    def load(self, access: Access, address, who) -> list:
        """The numbers of each thread; what is outside is any."""
        access, address = located(access, address)
        return self.read(access, *self.reach(access, address, who), who)

    def read(self, access: Access, place, inside, who) -> list:
        """`load` of what is reached."""
        there, readers = place[inside], who[inside]
        self.spare(access, there, readers)
        for shadow, cells in self.cells(access, there, access.count):
            if access.space != "global":
                self.tell(Kind.UNWRITTEN, access, readers, ~shadow.written(cells))
            raced = shadow.read(cells, readers, access.level)
            self.tell(Kind.READ_AFTER_WRITE, access, readers, raced)
        numbers = self.bytes[access.memory].view(access.dtype)
        values = [numbers[place // access.size + k] for k in range(access.count)]
        if access.space == "global" and access.dtype in ("f4", "f8"):
            for value in values:
                untouched = value[inside].view(f"i{access.size}") == -1
                self.tell(Kind.UNWRITTEN, access, readers, untouched)
        return values

    def store(self, access: Access, address, who, values):
        """Overwrites what is inside."""
        access, address = located(access, address)
        self.write(access, *self.reach(access, address, who), who, values)

    def write(self, access: Access, place, inside, who, values):
        """`store` to what is reached."""
        there, writers = place[inside], who[inside]
        self.spare(access, there, writers)
        self.stores += 1
        numbers = self.bytes[access.memory].view(f"u{access.size}")
        for k, value in enumerate(values):
            value = np.broadcast_to(value, len(who)).astype(access.dtype)[inside]
            value, at = value.view(f"u{access.size}"), there // access.size + k
            before = numbers[at]
            numbers[at] = value
            changed, lost = before != value, numbers[at] != value
            self.note_write(access, there + k * access.size, writers, changed, lost)

    def note_write(self, access: Access, place, who, changed, lost):
        """changed: where the value is another than before; lost: than is there now."""
        for shadow, cells in self.cells(access, place, 1):
            earlier, now, was_read = shadow.write(cells, who, access.level)
            two = (earlier & changed) | (now & lost)
            self.tell(Kind.TWO_WRITES, access, who, two)
            self.benign += int((earlier | now).sum()) - int(two.sum())
            self.tell(Kind.WRITE_AFTER_READ, access, who, was_read & changed)

    def cells(self, access: Access, place, count: int) -> Iterator[tuple[Any, Any]]:
        """(shadow, cells) of an access: words, or bytes where numbers are smaller."""
        cell = WORD if access.size >= WORD else 1
        key = access.memory, cell
        if key not in self.shadows:
            cells = len(self.bytes[access.memory]) // cell + 1
            block, epoch = self.threads.block, self.threads.epoch
            known = self.clocks
            self.shadows[key] = History(cells, known) if known else Shadow(cells, block, epoch)
        for k in range(access.size * count // cell):
            yield self.shadows[key], place // cell + k


def located(access: Access, address):
    """An access by generic addresses as one of a space, with addresses there."""
    if access.space != "generic":
        return access, address
    for space, start in WINDOWS.items():
        inside = (address >= start) & (address < 2 * start)
        if np.all(inside):
            far = space == "shared" and np.any(address - start >= 1 << OWN)
            return access._replace(space="cluster" if far else space), address - start
        if np.any(inside):
            raise PTXError(f"addresses of several spaces at once: {access.instruction}")
    return access._replace(space="global"), address


# Places


def up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def placed(variables, start: int) -> tuple[dict[str, int], int]:
    """Addresses of variables from `start` on, and where the last ends."""
    places = {}
    for one in variables:
        places[one.name] = up(start, one.align)
        start = places[one.name] + one.size
    return places, start


def array_places(arguments: list):
    """Where flat arguments have the address of an array."""
    k = 4
    while k < len(arguments):
        before = arguments[k - 4 : k]
        whole = all(isinstance(one, int) for one in (*before, arguments[k]))
        if whole and before[:2] == [0, 0] and before[3] in (1, 2, 4, 8) and before[2] >= 0:
            yield k
            k += 4
        k += 1


def extent(arguments: list, k: int) -> int:
    """Bytes of the array whose address is argument k."""
    return arguments[k - 2] * arguments[k - 1]


def merged(spans) -> list[tuple[int, int]]:
    """Spans of memory, those that overlap as one."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(span for span in spans if span[0] < span[1]):
        if found and low < found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], high)
        else:
            found.append((low, high))
    return found


def host(low: int, high: int):
    """The bytes of this process from one address to another."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))


def flat(*values) -> list:
    """Arguments as numba-cuda hands them to a kernel: an array's numbers, members of tuples."""
    found: list = []
    for value in values:
        if isinstance(value, tuple):
            found += flat(*value)
        elif isinstance(value, np.ndarray):
            if not value.flags.c_contiguous:
                raise PTXError("expected C-contiguous arrays")
            found += [0, 0, value.size, value.itemsize, value.ctypes.data]
            found += [*value.shape, *value.strides]
        else:
            found.append(value)
    return found
