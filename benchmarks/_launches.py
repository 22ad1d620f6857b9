"""Microbenchmarks: what the host pays for a launch."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks._machine import COMPILING, NOT_HERE, REHEARSAL, first_line
from benchmarks._ptx import SIMULATED, cuda, kernel_of
from benchmarks._timing import arrays, of_the_host, summary, timed
from rnn_gpu.kernels.devices import cuda as device
from rnn_gpu.kernels.devices.cuda.launch import launch, prepared

THREADS = 4 if SIMULATED else 32
REPEATS = 2 if REHEARSAL or COMPILING else 200
IN_A_GRAPH = 20  # launches


@kernel_of
def empty_kernel(count: int):
    """Takes 4 or 8 arrays, and does nothing."""

    @cuda.jit
    def take_4(a, b, c, d):
        return

    @cuda.jit
    def take_8(a, b, c, d, e, f, g, h):
        return

    return {4: take_4, 8: take_8}[count]


def launches() -> Iterator[dict]:
    """What the host pays for one launch of an empty kernel: ours, arguments converted anew or once;
    Numba's; a CUDA graph's, of one launch and of more.
    """
    for count in (4, 8):
        kernel = empty_kernel(count)
        given = [device.array(np.zeros((2, 3)), np.float32) for _ in range(count)]
        once = prepared(kernel, 1, THREADS, *given)
        ways: dict[str, Callable[[], Callable]] = {
            "ours": lambda k=kernel, g=given: lambda: launch(k, 1, THREADS, *g),
            "ours, arguments prepared": lambda o=once: o,
            "Numba, its own arrays": lambda k=kernel, g=given: by_numba(k, g, own=True),
            "Numba, CuPy's arrays": lambda k=kernel, g=given: by_numba(k, g, own=False),
            "a CUDA graph": lambda o=once: replayed(o, 1),
            f"a CUDA graph of {IN_A_GRAPH}": lambda o=once: replayed(o, IN_A_GRAPH),
        }
        for how, make in ways.items():
            yield {"how": how, "arrays": count} | tried(make, how)


def tried(make: Callable[[], Callable], how: str) -> dict:
    """The host's microseconds of a call of what is made, and those on the card."""
    only_a_card = not how.startswith("ours")
    if only_a_card and (SIMULATED or COMPILING):
        return {"error": NOT_HERE}
    try:
        work = make()
        for _ in range(3):
            work()
        found = summary(of_the_host(work, REPEATS))
        return {"us": found["median_us"]} | found | {"card": timed(work)}
    except Exception as error:
        return {"error": first_line(error)}


def by_numba(kernel, given: list, own: bool) -> Callable:
    """A launch by Numba's dispatcher, of its own arrays or of CuPy's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one block is what is meant
        configured = kernel[1, THREADS]
    taken = [cuda.as_cuda_array(a, sync=False) for a in given] if own else given
    return lambda: configured(*taken)


def replayed(work: Callable, count: int) -> Callable:
    """A replay of so many launches, captured once."""
    stream = arrays().cuda.Stream(non_blocking=True)
    work()  # loads the kernel
    with stream:
        stream.begin_capture()
        for _ in range(count):
            work()
        graph = stream.end_capture()
    return lambda: graph.launch(stream=arrays().cuda.get_current_stream())
