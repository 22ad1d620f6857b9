"""Streams, events and captured graphs.

Work is done when it is started, so no order between streams is missed here.  While a stream
captures, its work is kept instead, with the memory that it touches, and done when the graph is
launched; what CuPy refuses then, or the driver forbids, raises.
"""

import weakref
from collections.abc import Callable, Iterable
from itertools import count as numbers
from threading import get_ident, local
from time import perf_counter
from typing import Any

from . import memory
from .counts import count
from .order import LOOKING, Clock, merge

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
POINTERS = numbers(0x5700_0000, 0x40)  # of streams
OF_CUPY = (0, 1, 2)  # the legacy stream by both its names, and the one of each thread

CAPTURES: dict[int, "Capture"] = {}  # by the pointer of their stream
here = local()  # the current stream of a thread, by card


class Capture:
    """What one stream has captured so far."""

    def __init__(self, mode: int, non_blocking: bool):
        self.mode, self.non_blocking = mode, non_blocking
        self.works: list[Callable] = []
        self.touched: dict[memory.Block, weakref.ref] = {}  # block: the last who had it

    def keep(self, work: Callable, allocations: Iterable):
        self.works.append(work)
        for one in allocations:
            if one.block:  # that of another library is its own affair
                self.touched[one.block] = weakref.ref(one)


class Graph:
    """Captured work, to be done again and again in the same memory."""

    def __init__(self, works, touched):
        self._works, self._touched = works, touched
        self._taken = {block: block.taken for block in touched}

    def launch(self, stream=None):
        """Do all of it.  Raises RuntimeError where memory that it uses is no longer its own."""
        if (stream or get_current_stream()).ptr in CAPTURES:
            raise NotImplementedError("a graph within a graph")
        for block, allocation in self._touched.items():
            # in a pool of its own memory is left alone when nobody owns it
            freed = allocation() is None and block.pool is memory.DEFAULT
            if freed or block.released or block.taken != self._taken[block]:
                raise RuntimeError(
                    f"a graph is launched whose memory at {block.address:#x} has been freed: "
                    "another may have it now"
                )
        count("graphs", "launch")

        def works():
            for work in self._works:
                work()

        done_in_order(works, stream or get_current_stream(), list(self._touched))

    def upload(self, stream=None):
        """Nothing: there is no card to upload to."""


def start(work: Callable, allocations: Iterable = ()):
    """Do work that a card would do, on the current stream; where that captures, keep it."""
    stream, touched = get_current_stream(), list(allocations)
    if capture := CAPTURES.get(stream.ptr):
        capture.keep(work, touched)
        return
    if stream.ptr in (0, 1) and any(not c.non_blocking for c in CAPTURES.values()):
        raise RuntimeError(
            "cudaErrorStreamCaptureImplicit: the legacy stream is used while another captures that "
            "waits for it"
        )
    done_in_order(work, stream, [one.block or one for one in touched])


def done_in_order(work: Callable, stream, blocks: list):
    """Do work; where somebody looks at the order, what it has written is what has changed."""
    if not LOOKING:
        work()
        return
    before = [(block, block.bytes.tobytes()) for block in blocks]
    work()
    written = [block for block, was in before if block.bytes.tobytes() != was]
    for order in LOOKING:
        order.work(stream.ptr, not stream.is_non_blocking, blocks, written)


def wait_here(name: str):
    """The host waits for the current stream."""
    forbid("wait")
    count("waits", name)
    stream = get_current_stream()
    for order in LOOKING:
        order.wait(stream.ptr, not stream.is_non_blocking)


def capturing() -> bool:
    """Does the current stream capture?"""
    return get_current_stream().ptr in CAPTURES


def forbid(what: str):
    """Raise where a capture under way does not allow what is about to be done: to wait ("wait"),
    to copy from memory of the host ("copy"), to take memory from the system or give it back
    ("malloc", "free").
    """
    mine = CAPTURES.get(get_current_stream().ptr)
    stops = mine is not None and (what != "malloc" or mine.mode != RELAXED)
    if stops or any(capture.mode == GLOBAL for capture in CAPTURES.values()):
        raise RuntimeError(
            f"cudaErrorStreamCaptureUnsupported: {what} is not permitted while a stream captures"
        )


memory.forbid = forbid
memory.stream_now = lambda: get_current_stream().ptr


def current_streams() -> list:
    """The current stream of each card, of this thread."""
    if not hasattr(here, "current"):
        here.current = [Stream.null] * memory.CARDS
    return here.current


def get_current_stream(device_id=-1):
    """The current stream of a card, or of the current card."""
    return current_streams()[memory.current() if device_id == -1 else device_id]


class BaseStream:
    """A stream by its pointer; two of one pointer are equal."""

    is_non_blocking: Any = False

    def __init__(self, ptr, device_id):
        self.ptr, self.device_id = ptr, device_id
        self._before: list[tuple] = []

    def __eq__(self, other):
        return isinstance(other, BaseStream) and self.ptr == other.ptr

    def __hash__(self):
        return self.ptr

    def __repr__(self):
        return f"<{type(self).__name__} {self.ptr} (device {self.device_id})>"

    def __enter__(self):
        card = memory.current()
        self._before.append((card, current_streams()[card]))
        return self.use()

    def __exit__(self, *_):
        card, stream = self._before.pop()
        current_streams()[card] = stream

    def __cuda_stream__(self):
        return 0, self.ptr

    def use(self):
        """Make it the current stream of the current card."""
        card = memory.current()
        if self.device_id not in (-1, card):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with "
                f"the current device ({card})"
            )
        current_streams()[card] = self
        return self

    @property
    def done(self) -> bool:
        return True

    def synchronize(self):
        """Wait for what it has been given."""
        forbid("wait")
        count("waits", "Stream.synchronize")
        for order in LOOKING:
            order.wait(self.ptr, not self.is_non_blocking)

    def record(self, event=None):
        """An event at this point of the stream."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        """Later work waits for an event; the host does not."""
        for order in LOOKING:
            merge(order.streams[self.ptr], event._clock)

    def begin_capture(self, mode=None):
        """Keep the work that comes, instead of doing it."""
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.ptr in CAPTURES:
            raise RuntimeError("cudaErrorIllegalState: the stream captures already")
        CAPTURES[self.ptr] = Capture(RELAXED if mode is None else mode, self.is_non_blocking)

    def end_capture(self) -> Graph:
        """What was kept, as a graph."""
        capture = CAPTURES.pop(self.ptr)
        return Graph(capture.works, capture.touched)

    def is_capturing(self) -> bool:
        return self.ptr in CAPTURES


class Stream(BaseStream):
    """A stream of our own."""

    null: "Stream"
    ptds: "Stream"

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        ptr = 0 if null else 2 if ptds else next(POINTERS)
        super().__init__(ptr, -1 if ptr in OF_CUPY else memory.current())
        self.is_non_blocking = non_blocking

    @staticmethod
    def from_external(obj):
        """The stream of another library, by CUDA's protocol for them."""
        _, pointer = obj.__cuda_stream__()
        return ExternalStream(pointer)


Stream.null, Stream.ptds = Stream(null=True), Stream(ptds=True)


class ExternalStream(BaseStream):
    """The stream of another library, by its pointer; but for the streams of all, it is taken to
    wait for none.
    """

    @property
    def is_non_blocking(self):
        return self.ptr not in OF_CUPY

    def __init__(self, ptr, device_id=-1):
        super().__init__(ptr, device_id)


class Event:
    """A point of a stream."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        if interprocess and not disable_timing:
            raise ValueError("Timing must be disabled for interprocess events")
        self._clock: Clock = {}
        self.recorded = None if disable_timing else 0.0  # seconds; 0: not yet

    @property
    def done(self) -> bool:
        return True

    def record(self, stream=None):
        """Stand at this point of a stream."""
        if self.recorded is not None:
            self.recorded = perf_counter()
        stream = stream or get_current_stream()
        for order in LOOKING:
            self._clock = dict(order.begin(stream.ptr, not stream.is_non_blocking))

    def synchronize(self):
        """Wait for the work before it."""
        forbid("wait")
        count("waits", "Event.synchronize")
        for order in LOOKING:
            merge(order.hosts[get_ident()], self._clock)


def get_elapsed_time(begin: Event, end: Event) -> float:
    """Milliseconds between two events."""
    if not (begin.recorded and end.recorded):
        raise ValueError("both events are recorded before, and measure time")
    return 1e3 * (end.recorded - begin.recorded)
