"""Compiling and launching: the only place that knows whether a GPU or the simulator is behind `numba.cuda`."""

import warnings
from functools import cache

import numpy as np
from numba.core import config

SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:
    from . import simulator

    simulator.install()

from numba import cuda  # noqa: E402  the simulator is installed first
from numba.core.errors import NumbaPerformanceWarning  # noqa: E402

from ...binding import bind, compiled_maths, interpreted_maths  # noqa: E402

if SIMULATED:  # every simulated thread is a thread of the operating system: few, but more than one block and more than one a block
    THREADS, BLOCKS = 4, 3
else:
    THREADS, BLOCKS = 256, 1 << 16


def device_function(f):
    """f compiled to be inlined in kernels; in the simulator f as it is."""
    return f if SIMULATED else cuda.jit(device=True, forceinline=True)(f)


@cache
def maths(number):
    return interpreted_maths() if SIMULATED else compiled_maths(number, device_function)


@cache
def formula(f, number):
    """The copy of a pure function that kernels of `number` (np.float32 or np.float64) call."""
    return bind(f, number, maths(number), device_function)


def threads_for(n: int) -> int:
    """Threads of a block for n units: whole warps, at most THREADS; a thread takes further units in turn."""
    return THREADS if SIMULATED else min(THREADS, -(-n // 32) * 32)


def launch(kernel, blocks: int, threads: int, *arguments):
    """Start a kernel on CuPy's current stream (in the simulator: run it)."""
    blocks = max(1, min(blocks, BLOCKS))
    if SIMULATED:
        kernel[blocks, threads](*map(simulator.as_device_array, arguments))
        return
    import cupy

    configured = configure(kernel, blocks, threads, cupy.cuda.get_current_stream().ptr)
    configured(*(cuda.as_cuda_array(a, sync=False) if isinstance(a, cupy.ndarray) else a for a in arguments))


@cache
def configure(kernel, blocks, threads, stream):
    with warnings.catch_warnings():  # few blocks are what a recurrence has
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        return kernel[blocks, threads, cuda.external_stream(stream) if stream else 0]


def arrays():
    """The module whose arrays live where the kernels run: CuPy, or NumPy under the simulator."""
    if SIMULATED:
        return np
    import cupy

    return cupy
