"""Compiling and launching: the only place that knows whether a GPU or the simulator is behind
`numba.cuda`.
"""

import warnings
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from ...private import config, cuda_function_of

SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:
    from . import simulator

    simulator.install()

from numba import cuda as numba_cuda  # noqa: E402  the simulator is installed first
from numba.cuda import types as numba_types  # noqa: E402

from ...binding import bind  # noqa: E402
from ...binding.names import compiled_maths, interpreted_maths  # noqa: E402
from ...once import once  # noqa: E402
from ...private import NumbaPerformanceWarning  # noqa: E402

# what they say in a kernel is for Numba's compiler: to a type checker, anything
cuda: Any = numba_cuda
types: Any = numba_types

# every simulated thread is a thread of the operating system: few, but more than one block and more
# than one a block
if SIMULATED:
    THREADS, BLOCKS, ROUND_TO = 4, 3, 4
else:
    THREADS, BLOCKS = 256, 1 << 16  # of kernels that take any number
    ROUND_TO = 32  # threads of a block: whole warps
WITHOUT_ASKING = 48 << 10  # bytes of dynamic shared memory that every kernel may have


def device_function(f) -> Any:
    """f compiled to be inlined in kernels; in the simulator f as it is."""
    return f if SIMULATED else cuda.jit(device=True, forceinline=True)(f)


@cache
def maths(number):
    return interpreted_maths() if SIMULATED else compiled_maths(number, device_function)


@once
def formula(f, number) -> Any:
    """The copy of a pure function that kernels of `number` (np.float32 or np.float64) call."""
    return bind(f, number, maths(number), device_function)


def blocks_for(count: int) -> int:
    """Blocks for `count` samples, or elements in blocks of THREADS; a block takes further ones in
    turn.
    """
    return max(1, min(count, BLOCKS))


def threads_for(n: int) -> int:
    """Threads of a block for n units: whole warps, at most THREADS; a thread takes further units in
    turn.
    """
    return min(THREADS, -(-n // ROUND_TO) * ROUND_TO)


def launch(kernel, blocks: int, threads: int, *arguments, shared: int = 0):
    """Start a kernel on CuPy's current stream (in the simulator: run it), with `shared` bytes of
    dynamic shared memory.
    """
    prepared(kernel, blocks, threads, *arguments, shared=shared)()


def prepared(kernel, blocks: int, threads: int, *arguments, shared: int = 0):
    """What starts a kernel, its arrays converted once, when it is called with the arguments that
    are left.
    """
    arguments = tuple(converted(kernel, one) for one in arguments)
    if SIMULATED:
        return lambda *more: kernel[blocks, threads, 0, shared](*arguments, *more)
    if shared > WITHOUT_ASKING:
        signature = tuple(type_in(kernel, one) for one in arguments)
        ask_for_shared_memory(kernel, signature, shared)
    configured = configure(kernel, blocks, threads, arrays().cuda.get_current_stream().ptr, shared)
    return lambda *more: configured(*arguments, *more)


def converted(kernel, value):
    """Arrays as Numba takes them without asking more; tuples of them likewise."""
    if isinstance(value, tuple):
        members, kind = tuple(converted(kernel, one) for one in value), type(value)
        if not SIMULATED:
            return Typed(type_of(kind, tuple(type_in(kernel, one) for one in members)), members)
        return kind(*members) if hasattr(kind, "_fields") else members
    if SIMULATED:
        return simulator.as_device_array(value)
    return cuda.as_cuda_array(value, sync=False) if isinstance(value, arrays().ndarray) else value


class Typed:
    """A tuple of a kernel's arguments that knows its Numba type.

    The dispatcher finds the type of every argument at every launch: 0.5 µs for an array or for what
    has a `_numba_type_`, but 45 µs and more for a tuple with arrays in it.
    """

    def __init__(self, type, members: tuple):
        self._numba_type_, self.members = type, members

    def __len__(self):
        return len(self.members)

    def __iter__(self):
        return iter(self.members)


def type_in(kernel, value):
    """Numba's type of a kernel's argument: arrays and `Typed` know their own."""
    known = getattr(value, "_numba_type_", None)
    return kernel.typeof_pyval(value) if known is None else known


@cache
def type_of(kind, members: tuple):
    """Numba's type of a tuple of this kind, from those of its members."""
    return types.BaseTuple.from_types(members, kind)


@once
def configure(kernel, blocks, threads, stream, shared):
    with warnings.catch_warnings():  # few blocks are what a recurrence has
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        return kernel[blocks, threads, cuda.external_stream(stream) if stream else 0, shared]


@once
def ask_for_shared_memory(kernel, signature, shared):
    """More than 48 KB must be asked for, once a compiled kernel: Numba never does (its issue
    94).
    """
    from ...private import cuda_driver

    function = cuda_function_of(kernel.compile(signature))
    attributes = cuda_driver.binding.CUfunction_attribute
    attribute = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    cuda_driver.driver.cuKernelSetAttribute(attribute, shared, function.handle, function.device.id)


def on_stream(pointer: int):
    """A context in which arrays and kernels use the CUDA stream of another library."""
    if SIMULATED:
        return nullcontext()
    return arrays().cuda.ExternalStream(pointer)


def arrays() -> Any:
    """The module whose arrays live where the kernels run: CuPy, or NumPy under the simulator."""
    return np if SIMULATED else import_module("cupy")
