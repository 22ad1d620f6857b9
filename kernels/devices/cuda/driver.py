"""What a card does for the host: its arrays (CuPy), its kernels (CUDA's driver), its products
(cuBLAS).

All of it goes through the one `Driver` that `driver()` returns. `Hardware` is the real one; where
kernels/emulator plays the card, another answers the same questions.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol

from ...private import kernel_handle
from . import cublas


class Facts(NamedTuple):
    """What is known of one card."""

    name: str
    capability: tuple[int, int]  # compute capability
    multiprocessors: int
    registers: int  # of 32 bits, a multiprocessor
    shared: int  # bytes that a block may have
    version: int = 0  # of the driver


class Driver(Protocol):
    """Cards, as the host sees them."""

    arrays: Any  # the module of their arrays: CuPy, or what answers as it does
    # what a kernel is for `start`: "cubin" or "ptx" where `load` takes that, or "python", where it
    # is the function of the simulator's itself
    language: str
    measures: bool  # does the time that kernels take say something? Only on a card

    def missing(self) -> str:
        """Why there is no card; "" where there is one."""
        ...

    def device(self) -> int:
        """The number of the card that is current in this thread."""
        ...

    def facts(self, device: int) -> Facts: ...

    def load(self, code: bytes, entry: str, shared: int) -> Any:
        """The kernel `entry` of machine code, for the current card, allowed `shared` bytes of
        dynamic shared memory a block.
        """
        ...

    def start(
        self,
        function,
        blocks: int,
        threads: int,
        shared: int,
        values: tuple,
        cluster: int = 1,
        cooperative: bool = False,
    ):
        """Put a launch on the current stream.

        values       parameters as CUDA's driver takes them: whole numbers of 64 bits, and NumPy's
                     of their own size; in "python" the arguments
        cluster      blocks that reach each other's shared memory
        cooperative  blocks wait for each other: RuntimeError where not all can be on the card at
                     once, as where no cluster can
        """
        ...

    def product(self, a, b, out, precision: str, add: bool):
        """out = a b, or out += a b, of matrices (R, K), (K, C), (R, C); each of a and b contiguous,
        or the transpose of what is; precision "fp32", "tf32" or
        "bf16".
        """
        ...

    def products(self, stack, b, out, precision: str) -> Callable[[int], None]:
        """What does out = stack[t] b when it is called with t, on the stream that is current now;
        stack (T, R, K) contiguous.
        """
        ...

    def stream(
        self, pointer: int, device: int | None, allocate: Callable | None
    ) -> AbstractContextManager:
        """`Device.on_stream`."""
        ...


WITHOUT_ASKING = 48 << 10  # bytes of dynamic shared memory that every kernel may have
PORTABLE, MOST_OF_A_CLUSTER = 8, 16  # blocks: without being asked, and at most


def check_clusters(facts: Facts, blocks: int, cluster: int):
    """Raise RuntimeError where no such card takes such a grid of clusters."""
    if cluster > 1 and facts.capability < (9, 0):
        raise RuntimeError(
            f"clusters of {cluster} blocks on {facts.name}, of compute capability "
            f"{'.'.join(map(str, facts.capability))}: only cards from 9.0 have clusters"
        )
    if not 1 <= cluster <= MOST_OF_A_CLUSTER:
        raise RuntimeError(
            f"clusters of {cluster} blocks: a card takes 1 to {MOST_OF_A_CLUSTER} a cluster"
        )
    if blocks % cluster:
        raise RuntimeError(f"{blocks} blocks are no whole number of clusters of {cluster}")


def check_resident(blocks: int, cluster: int, cooperative: bool, blocks_held: int, clusters_held):
    """Raise RuntimeError where blocks would wait for some that are not on the card: it holds
    `blocks_held` at once, or where there are clusters `clusters_held` of them.
    """
    if cluster > 1 and clusters_held < 1:
        raise RuntimeError(
            f"a cluster of {cluster} blocks does not find room on this card: their registers and "
            "shared memory must be free on neighbouring multiprocessors at once"
        )
    held = cluster * clusters_held if cluster > 1 else blocks_held
    if cooperative and blocks > held:
        raise RuntimeError(
            f"{blocks} blocks are to wait for each other, but this card holds {held} of them at "
            "once: the others would never come"
        )


class Hardware:
    """NVIDIA's driver by cuda.core, which numba-cuda needs itself; CuPy; cuBLAS by ctypes."""

    language, measures = "cubin", True

    def __init__(self):
        self._thread = threading.local()
        self._known: dict[tuple, Any] = {}  # grids whose blocks wait for each other

    @cached_property
    def arrays(self) -> Any:
        import cupy

        return cupy

    def missing(self) -> str:
        from numba import cuda

        if not cuda.is_available():
            return "Numba sees no GPU (no driver, or no CUDA toolkit beside it)"
        try:
            _ = self.arrays
        except ImportError as error:
            return f"CuPy cannot be imported ({error})"
        return ""

    def device(self) -> int:
        return self.arrays.cuda.runtime.getDevice()

    def facts(self, device: int) -> Facts:
        known = self.arrays.cuda.runtime.getDeviceProperties(device)
        return Facts(
            known["name"].decode(),
            (known["major"], known["minor"]),
            known["multiProcessorCount"],
            known["regsPerMultiprocessor"],
            known["sharedMemPerBlockOptin"],
            self.arrays.cuda.runtime.driverGetVersion(),
        )

    def load(self, code: bytes, entry: str, shared: int) -> Any:
        from cuda.core import ObjectCode

        self._enter()
        kernel = ObjectCode.from_cubin(code, name=entry).get_kernel(entry)
        if shared > WITHOUT_ASKING:  # a kernel asks once on each card
            self._ask(kernel, "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES", shared)
        return kernel

    def start(
        self,
        function,
        blocks: int,
        threads: int,
        shared: int,
        values: tuple,
        cluster: int = 1,
        cooperative: bool = False,
    ):
        from cuda.core import launch

        stream = stream_at(*self._place())
        if cluster == 1 and not cooperative:
            how = configuration(blocks, threads, shared)
        else:
            how = self._together(function, (blocks, threads, shared), cluster, cooperative)
        launch(stream, how, function, *values)

    def _together(self, function, grid: tuple[int, int, int], cluster: int, cooperative: bool):
        """The configuration of a grid whose blocks wait for each other, once it is known that they
        come.
        """
        key = self.device(), int(kernel_handle(function)), grid, cluster, cooperative
        if key not in self._known:
            blocks, threads, shared = grid
            check_clusters(self.facts(self.device()), blocks, cluster)
            if cluster > PORTABLE:
                self._ask(function, "CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED", 1)
            how, occupancy, clusters = (
                configuration(*grid, cluster, cooperative),
                function.occupancy,
                0,
            )
            if cluster > 1:
                clusters = occupancy.max_active_clusters(how, stream=stream_at(*self._place()))
            each = occupancy.max_active_blocks_per_multiprocessor(threads, shared)
            held = each * self.facts(self.device()).multiprocessors
            check_resident(blocks, cluster, cooperative, held, clusters)
            self._known[key] = how
        return self._known[key]

    def _ask(self, kernel, attribute: str, value: int):
        """Have the driver allow a kernel something on the current card."""
        from cuda.bindings import driver as cuda_driver

        named = getattr(cuda_driver.CUfunction_attribute, attribute)
        device = cuda_driver.CUdevice(self.device())
        (status,) = cuda_driver.cuKernelSetAttribute(named, value, kernel_handle(kernel), device)
        if status != cuda_driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"a kernel is not given {value} by {attribute}: {status}")

    def _enter(self):
        """Make the card's context current, where this thread has made no call of CUDA yet: memory
        from CuPy's pool needs none.
        """
        if not getattr(self._thread, "entered", False):
            runtime = self.arrays.cuda.runtime
            runtime.setDevice(runtime.getDevice())
            self._thread.entered = True

    def product(self, a, b, out, precision: str, add: bool):
        cublas.products(self, *self._place(), (a, b, out), precision, add)(0)

    def products(self, stack, b, out, precision: str) -> Callable[[int], None]:
        if not len(stack):
            return lambda t: None
        step = stack.strides[0]
        return cublas.products(self, *self._place(), (stack[0], b, out), precision, False, step)

    def _place(self) -> tuple[int, int]:
        """(the current card, its current stream), where this thread may work."""
        self._enter()
        return self.device(), self.arrays.cuda.get_current_stream().ptr

    def cublas(self) -> Any:
        """The library, as ctypes has it: functions that return a status."""
        return cublas.library()

    @contextmanager
    def stream(self, pointer: int, device: int | None, allocate: Callable | None):
        cuda = self.arrays.cuda
        with cuda.Device(device), ExitStack() as stack:
            if hasattr(cuda.Stream, "from_external"):  # CuPy 14
                stack.enter_context(cuda.Stream.from_external(Foreign(pointer)))
            else:
                stack.enter_context(cuda.ExternalStream(pointer))
            if allocate:
                stack.enter_context(cuda.using_allocator(self.memory_of(allocate)))
            yield

    def memory_of(self, allocate: Callable) -> Callable:
        """CuPy's kind of allocator, of another library's."""
        cuda = self.arrays.cuda

        def memory(size: int):
            if not size:
                return cuda.MemoryPool().malloc(0)
            address, owner = allocate(size)
            return cuda.MemoryPointer(cuda.UnownedMemory(address, size, owner, self.device()), 0)

        return memory


class Foreign(NamedTuple):
    """A stream of another library, by CUDA's protocol for them."""

    pointer: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


@lru_cache(256)
def stream_at(device: int, pointer: int):
    """cuda.core's stream; one handle means another stream on another card."""
    from cuda.core import Stream

    return Stream.from_handle(pointer)


@lru_cache(1024)
def configuration(
    blocks: int, threads: int, shared: int, cluster: int = 1, cooperative: bool = False
):
    from cuda.core import LaunchConfig

    if cluster == 1:
        return LaunchConfig(blocks, None, threads, shared, cooperative)
    return LaunchConfig(blocks // cluster, cluster, threads, shared, cooperative)


_drivers: list[Driver] = [Hardware()]


def driver() -> Driver:
    """What answers for the cards of this process."""
    return _drivers[-1]


def play(other: Driver):
    """From here on another driver answers, for good."""
    _drivers.append(other)


@contextmanager
def played_by(other: Driver) -> Iterator[Driver]:
    """Another driver answers, in all threads."""
    _drivers.append(other)
    try:
        yield other
    finally:
        _drivers.remove(other)
