"""CUDA graphs: work of the host's calls, captured once and done again by one."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from .launch import arrays


class Replay(NamedTuple):
    """A captured graph. While it lives, its memory is nobody else's."""

    graph: Any
    pool: Any  # that all arrays of the captured work are from
    stream: Any  # that captured

    def __call__(self):
        """Do the work again, on the current stream."""
        self.graph.launch()


def captured(action: Callable[[], Any]) -> tuple[Any, Callable[[], None]] | None:
    """`Device.captured`: None in the simulator on NumPy's arrays, which has no streams.

    Memory comes from a pool of the graph's own: what it frees on the way serves its own later
    work, and nobody else's.
    """
    cuda = getattr(arrays(), "cuda", None)
    if cuda is None:
        return None
    pool, stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)
    with stream, cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        try:
            made = action()
        except BaseException:
            with suppress(Exception):  # of a capture that is broken already
                stream.end_capture()
            raise
        graph = stream.end_capture()
    return made, Replay(graph, pool, stream)


def capturing() -> bool:
    """Is the work of the current stream being captured, rather than done?"""
    cuda = getattr(arrays(), "cuda", None)
    return cuda is not None and cuda.get_current_stream().is_capturing()


def wait():
    """Wait for the current stream."""
    if cuda := getattr(arrays(), "cuda", None):
        cuda.get_current_stream().synchronize()
