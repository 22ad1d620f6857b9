"""Compiling and launching: the only place that knows whether a GPU or the simulator is behind
`numba.cuda`.
"""

import warnings
from contextlib import nullcontext
from functools import cache

import numpy as np
from numba.core import config

SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:
    from . import simulator

    simulator.install()

from numba import cuda  # noqa: E402  the simulator is installed first
from numba.core.errors import NumbaPerformanceWarning  # noqa: E402

from ...binding import bind  # noqa: E402
from ...binding.names import compiled_maths, interpreted_maths  # noqa: E402
from ...once import once  # noqa: E402

# every simulated thread is a thread of the operating system: few, but more than one block and more
# than one a block
if SIMULATED:
    THREADS, BLOCKS, TOGETHER = 4, 3, 4
else:
    THREADS, BLOCKS = 256, 1 << 16  # of kernels that take any number
    TOGETHER = 32  # threads come in multiples of it
WITHOUT_ASKING = 48 << 10  # bytes of shared memory


def device_function(f):
    """f compiled to be inlined in kernels; in the simulator f as it is."""
    return f if SIMULATED else cuda.jit(device=True, forceinline=True)(f)


@cache
def maths(number):
    return interpreted_maths() if SIMULATED else compiled_maths(number, device_function)


@once
def formula(f, number):
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
    return min(THREADS, -(-n // TOGETHER) * TOGETHER)


def launch(kernel, blocks: int, threads: int, *arguments, shared: int = 0):
    """Start a kernel on CuPy's current stream (in the simulator: run it), with `shared` bytes of
    dynamic shared memory.
    """
    prepared(kernel, blocks, threads, *arguments, shared=shared)()


def prepared(kernel, blocks: int, threads: int, *arguments, shared: int = 0):
    """What starts a kernel, its arrays converted once, when it is called with the arguments that
    are left.
    """
    arguments = converted(arguments)
    if SIMULATED:
        return lambda *more: kernel[blocks, threads, 0, shared](*arguments, *more)
    import cupy

    if shared > WITHOUT_ASKING:
        ask_for_shared_memory(kernel, tuple(map(kernel.typeof_pyval, arguments)), shared)
    configured = configure(kernel, blocks, threads, cupy.cuda.get_current_stream().ptr, shared)
    return lambda *more: configured(*arguments, *more)


def converted(value):
    """Arrays as Numba takes them without asking more; tuples likewise."""
    if isinstance(value, tuple):
        return tuple(map(converted, value))
    if SIMULATED:
        return simulator.as_device_array(value)
    return cuda.as_cuda_array(value, sync=False) if isinstance(value, arrays().ndarray) else value


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
    from numba.cuda.cudadrv.driver import binding, driver

    function = kernel.compile(signature)._codelibrary.get_cufunc()
    attribute = binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    driver.cuKernelSetAttribute(attribute, shared, function.handle, function.device.id)


def on_stream(pointer: int):
    """A context in which arrays and kernels use the CUDA stream of another library."""
    if SIMULATED:
        return nullcontext()
    import cupy

    return cupy.cuda.ExternalStream(pointer)


def arrays():
    """The module whose arrays live where the kernels run: CuPy, or NumPy under the simulator."""
    if SIMULATED:
        return np
    import cupy

    return cupy
