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


class Driver(Protocol):
    """Cards, as the host sees them."""

    arrays: Any  # the module of their arrays: CuPy, or what answers as it does
    # what a kernel is for `start`: "cubin" or "ptx" where `load` takes that, or "python", where it
    # is the function of the simulator's itself
    language: str

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

    def start(self, function, blocks: int, threads: int, shared: int, values: tuple):
        """Put a launch on the current stream.

        values  parameters as CUDA's driver takes them: whole numbers of 64 bits, and NumPy's of
                their own size; in "python" the arguments
        """
        ...

    def product(self, a, b, out, precision: str, add: bool):
        """out = a b, or out += a b, of matrices (R, K), (K, C), (R, C); each of a and b contiguous,
        or the transpose of what is; precision "fp32" or "tf32".
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


class Hardware:
    """NVIDIA's driver by cuda.core, which numba-cuda needs itself; CuPy; cuBLAS by ctypes."""

    language = "cubin"

    def __init__(self):
        self._thread = threading.local()

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
        )

    def load(self, code: bytes, entry: str, shared: int) -> Any:
        from cuda.bindings import driver as cuda_driver
        from cuda.core import ObjectCode

        self._enter()
        kernel = ObjectCode.from_cubin(code, name=entry).get_kernel(entry)
        if shared > WITHOUT_ASKING:  # a kernel asks once on each card
            attribute = cuda_driver.CUfunction_attribute
            (status,) = cuda_driver.cuKernelSetAttribute(
                attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared,
                kernel_handle(kernel),
                cuda_driver.CUdevice(self.device()),
            )
            if status != cuda_driver.CUresult.CUDA_SUCCESS:
                raise RuntimeError(
                    f"{entry} is not given {shared} bytes of shared memory: {status}"
                )
        return kernel

    def start(self, function, blocks: int, threads: int, shared: int, values: tuple):
        from cuda.core import launch

        launch(stream_at(*self._place()), configuration(blocks, threads, shared), function, *values)

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
def configuration(blocks: int, threads: int, shared: int):
    from cuda.core import LaunchConfig

    return LaunchConfig(grid=blocks, block=threads, shmem_size=shared)


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
