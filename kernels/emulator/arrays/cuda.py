"""The part of `cupy.cuda` that this library uses."""

from types import SimpleNamespace

from . import memory
from .memory import Device, MemoryPointer, MemoryPool, get_allocator, using_allocator
from .streams import (
    GLOBAL,
    RELAXED,
    THREAD_LOCAL,
    Event,
    ExternalStream,
    Graph,
    Stream,
    get_current_stream,
)

__all__ = [
    "Device",
    "Event",
    "ExternalStream",
    "Graph",
    "MemoryPointer",
    "MemoryPool",
    "Stream",
    "get_allocator",
    "get_current_stream",
    "runtime",
    "using_allocator",
]


def device_synchronize():
    memory.Device().synchronize()


runtime = SimpleNamespace(
    getDevice=memory.current,
    setDevice=memory.set_device,
    getDeviceCount=lambda: memory.CARDS,
    deviceSynchronize=device_synchronize,
    streamCaptureModeGlobal=GLOBAL,
    streamCaptureModeThreadLocal=THREAD_LOCAL,
    streamCaptureModeRelaxed=RELAXED,
)
