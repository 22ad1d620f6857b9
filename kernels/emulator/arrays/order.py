"""Whether work on one stream may overtake work on another: `with ordered():` an operation that
touches memory which another stream has not finished with, for all that anybody has waited for,
raises.

Each stream, event and thread of the host knows how far it has waited for every stream (a vector
clock). The legacy stream waits for all that block, and they for it.
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import contextmanager
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

Clock = dict[int, int]  # how much of each stream's work is done before


class Touched:
    """The last work of each stream on one block of memory, and the last that wrote there."""

    def __init__(self):
        self.any: Clock = {}
        self.wrote: Clock = {}


class Order:
    """What is known of the order of all work since it began to look."""

    def __init__(self):
        self.streams: dict[int, Clock] = defaultdict(dict)
        self.hosts: dict[int, Clock] = defaultdict(dict)  # by thread
        self.blocking: set[int] = {0, 1}
        self.memory: WeakKeyDictionary[Any, Touched] = WeakKeyDictionary()

    def begin(self, stream: int, blocking: bool) -> Clock:
        """The clock of a stream that is given work, by this thread: it knows what that knows."""
        clock = self.streams[stream]
        merge(clock, self.hosts[get_ident()])
        if blocking:
            self.blocking.add(stream)
        if stream in (0, 1):
            for other in self.blocking:
                merge(clock, self.streams[other])
        elif blocking:
            merge(clock, self.streams[0])
        clock[stream] = clock.get(stream, 0) + 1
        return clock

    def work(self, stream: int, blocking: bool, blocks: Iterable, written: Iterable):
        """Work on a stream that touches these blocks.  Raises RuntimeError where it may come before
        other work is done.
        """
        clock, written = self.begin(stream, blocking), set(written)
        for block in blocks:
            touched = self.memory.setdefault(block, Touched())
            before = touched.any if block in written else touched.wrote
            for other, number in before.items():
                if other != stream and clock.get(other, 0) < number:
                    does = "writes" if block in written else "reads"
                    raise RuntimeError(
                        f"work on stream {stream:#x} {does} memory at {block.address:#x}, and may "
                        f"come before work on it on stream {other:#x}"
                    )
            touched.any[stream] = clock[stream]
            if block in written:
                touched.wrote[stream] = clock[stream]

    def wait(self, stream: int, blocking: bool):
        """This thread waits for a stream."""
        merge(self.hosts[get_ident()], self.begin(stream, blocking))

    def wait_for_all(self):
        """This thread waits for a card."""
        for clock in list(self.streams.values()):
            merge(self.hosts[get_ident()], clock)


def merge(clock: Clock, other: Clock):
    """What the other knows is known."""
    for stream, number in list(other.items()):
        clock[stream] = max(clock.get(stream, 0), number)


LOOKING: list[Order] = []


@contextmanager
def ordered():
    """Look at the order of all that is done within it, of every thread."""
    order = Order()
    LOOKING.append(order)
    try:
        yield order
    finally:
        LOOKING.remove(order)
