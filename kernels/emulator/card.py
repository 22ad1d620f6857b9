"""The card that is not there, as the host's driver: an H200 whose kernels are executed here.

    with card() as played:
        layer = rnn_gpu.LSTM(3, 5, device="cuda")
        layer(x)
    played.findings()

Kernels are compiled for compute capability 9.0 by numba-cuda, which needs NVIDIA's compiler (the
extra `sass`) but no driver; arrays are those of `arrays`, cuBLAS is `blas`. So the library's own
code runs to the last call that it makes of a card.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..devices.cuda.driver import (
    WITHOUT_ASKING,
    Facts,
    Hardware,
    check_clusters,
    check_resident,
    played_by,
)
from ..devices.cuda.precision import rounded
from ..devices.cuda.schedules import H200
from ..private import config, cuda_nvvm
from . import arrays
from .arrays import streams
from .arrays.memory import LIVE, allocation_at
from .blas import Blas
from .findings import Finding, Kind
from .machine import Grid, Kernel, Run
from .memory import array_places, extent

MOST_THREADS = 1024  # of a block
# what a multiprocessor of compute capability 9.0 holds, and takes for itself of a block's memory
THREADS_HELD, BLOCKS_HELD, RESERVED = 2048, 32, 1024
NEIGHBOURS = 16  # multiprocessors among which a cluster finds its place, at least
ADVICE = "pip install 'numba-cuda[cu13]', which needs no driver"


class Function(NamedTuple):
    """A kernel that was loaded."""

    kernel: Kernel
    entry: str
    shared: int  # bytes of dynamic shared memory that it may have


class Launch(NamedTuple):
    """What was started, and what came of it."""

    entry: str
    grid: Grid
    run: Run


class Card(Hardware):
    """`Hardware` without hardware."""

    language, measures = "ptx", False

    def __init__(self, order: np.random.Generator | None = None):
        """order  draws which warp goes on; None: all that can."""
        super().__init__()
        self.order = order
        self.loaded: list[Function] = []
        self.launches: list[Launch] = []

    @cached_property
    def arrays(self) -> Any:
        return arrays

    def missing(self) -> str:
        if config.ENABLE_CUDASIM:
            return "the simulator is on, and it compiles nothing"
        try:
            cuda_nvvm.NVVM()
        except (ImportError, OSError, RuntimeError) as error:
            said = str(error).strip().splitlines()[0]
            return f"NVIDIA's compiler is not found ({said}): {ADVICE}"
        return ""

    def facts(self, device: int) -> Facts:
        return Facts(H200.name, (9, 0), H200.multiprocessors, H200.registers, H200.shared)

    def load(self, code: bytes, entry: str, shared: int) -> Function:
        self.loaded.append(Function(Kernel(code.decode()), entry, shared))
        return self.loaded[-1]

    def start(
        self,
        function: Function,
        blocks: int,
        threads: int,
        shared: int,
        values: tuple,
        cluster: int = 1,
        cooperative: bool = False,
    ):
        """Execute a kernel at once, so that no other stream's work can come between; where the
        stream captures, when the graph is launched.
        """
        most = max(function.shared, WITHOUT_ASKING)
        if not (blocks > 0 < threads <= MOST_THREADS and 0 <= shared <= min(most, H200.shared)):
            asked = f"{blocks} blocks of {threads} threads, {shared} bytes of shared memory each"
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: {function.entry} is given {asked}")
        grid, given = Grid(blocks, threads, shared, cluster, cooperative), list(values)
        check(function, grid, self.facts(0))
        touched = [given[k] for k in array_places(given) if extent(given, k)]
        start(lambda: self.execute(function, grid, given), touched)

    def execute(self, function: Function, grid: Grid, values: list):
        """Run a kernel, and keep what came of it."""
        freed = tuple(unallocated(function.entry, values))
        if freed:  # reading there might end this process
            run = Run(freed, 0, 0, 0)
        else:
            run = function.kernel.run(grid, values, self.order)
        self.launches.append(Launch(function.entry, grid, run))

    @cached_property
    def library(self) -> Blas:
        return Blas(memory_of, rounded, start)

    def cublas(self) -> Any:
        return self.library

    def findings(self) -> list[Finding]:
        """Of all launches so far."""
        return [one for launch in self.launches for one in launch.run.findings]


def check(function: Function, grid: Grid, facts: Facts):
    """Raise RuntimeError where no card takes this grid of clusters, or not all of its blocks at
    once where they wait for each other. What registers allow is not known of a text.
    """
    check_clusters(facts, grid.blocks, grid.cluster)
    own = function.kernel.text.cluster
    if own not in (0, grid.cluster):
        raise RuntimeError(
            f"CUDA_ERROR_INVALID_CLUSTER_SIZE: {function.entry} is compiled for clusters of {own} "
            f"blocks, and launched in clusters of {grid.cluster}"
        )
    shared = function.kernel.layout.shared + grid.dynamic + RESERVED
    each = min(THREADS_HELD // grid.threads, BLOCKS_HELD, (H200.shared + RESERVED) // shared)
    clusters = facts.multiprocessors // NEIGHBOURS * (NEIGHBOURS * each // grid.cluster)
    held = each * facts.multiprocessors
    check_resident(grid.blocks, grid.cluster, grid.cooperative, held, clusters)


def start(work: Callable, addresses):
    """Do work on the current stream, or keep it, and what is allocated at the addresses that it
    touches: a graph's memory lives as long as that does.
    """
    found = [one for one in map(LIVE.find, addresses) if one is not None]

    def held():
        work()
        return found

    streams.start(held, found)


def memory_of(address: int, size: int):
    """The bytes of an allocation; LookupError where they are nobody's."""
    found = allocation_at(address)
    if len(found) < size:
        raise LookupError(f"{size} bytes at {address:#x}, of which {len(found)} are allocated")
    return found[:size]


def unallocated(entry: str, values: list) -> Iterator[Finding]:
    """A finding of each array among flat arguments that is not the card's memory."""
    for k in array_places(values):
        if size := extent(values, k):
            try:
                memory_of(values[k], size)
            except LookupError as error:
                yield Finding(Kind.FREED, "global", f"{entry}: {error}", 1, 0, 0)


@contextmanager
def card(order: np.random.Generator | None = None) -> Iterator[Card]:
    """A context in which device="cuda" is a card that this machine plays, in all threads.

    Raises RuntimeError where nothing can be compiled for it.
    """
    played = Card(order)
    if reason := played.missing():
        raise RuntimeError(f"no card can be played: {reason}")
    with played_by(played):
        yield played
