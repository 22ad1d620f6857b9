"""The part of `cupy.cuda` that this library uses."""

from types import SimpleNamespace

from . import memory
from .memory import (
    Device,
    MemoryPointer,
    MemoryPool,
    UnownedMemory,
    get_allocator,
    using_allocator,
)
from .streams import (
    GLOBAL,
    RELAXED,
    THREAD_LOCAL,
    Event,
    ExternalStream,
    Graph,
    Stream,
    get_current_stream,
    get_elapsed_time,
)

__all__ = [
    "Device",
    "Event",
    "ExternalStream",
    "Graph",
    "MemoryPointer",
    "MemoryPool",
    "Stream",
    "UnownedMemory",
    "alloc",
    "get_allocator",
    "get_current_stream",
    "get_elapsed_time",
    "runtime",
    "using_allocator",
]


def alloc(size):
    """Memory of the current card."""
    return get_allocator()(size)


def properties(device):
    """What is known of a card: each is an H200."""
    return {
        "name": b"a card that is played",
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 132,
        "regsPerMultiprocessor": 65_536,
        "sharedMemPerBlockOptin": 232_448,
    }


def device_synchronize():
    memory.Device().synchronize()


runtime = SimpleNamespace(
    getDevice=memory.current,
    setDevice=memory.set_device,
    getDeviceCount=lambda: memory.CARDS,
    getDeviceProperties=properties,
    driverGetVersion=lambda: 13_000,
    deviceSynchronize=device_synchronize,
    streamCaptureModeGlobal=GLOBAL,
    streamCaptureModeThreadLocal=THREAD_LOCAL,
    streamCaptureModeRelaxed=RELAXED,
)
