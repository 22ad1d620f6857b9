"""The simulator's kernels on the strict arrays: `with strict():` the cuda device of this process
has the stand-in for CuPy instead of NumPy, and what it is asked for is counted.
"""

import sys
from contextlib import ExitStack, contextmanager
from importlib import import_module

import numpy as np

from . import arrays
from .arrays.counts import count
from .arrays.operations import of, refused, taken
from .arrays.streams import start

CUDA = "rnn_gpu.kernels.devices.cuda"


@contextmanager
def instead(home, name: str, value):
    """Another value of a module's name."""
    before = getattr(home, name)
    setattr(home, name, value)
    try:
        yield
    finally:
        setattr(home, name, before)


def as_device_array(convert):
    """The simulator's conversion of a kernel's argument; an array of the host is refused."""

    def converted(value):
        if isinstance(value, arrays.ndarray):
            return convert(of(value))
        if isinstance(value, np.ndarray):
            raise refused(value, "kernel")
        return value

    return converted


def counting(prepared):
    """`launch.prepared`, its launches counted, and kept where the stream captures."""

    def prepare(kernel, blocks: int, threads: int, *arguments, shared: int = 0):
        launch = prepared(kernel, blocks, threads, *arguments, shared=shared)
        touched: list = []
        for one in leaves(arguments):
            taken(one, kernel.__name__, touched)  # and of this card

        def launched(*more):
            count("launches", kernel.__name__)
            start(lambda: launch(*more), touched)

        return launched

    return prepare


def leaves(values):
    """The arrays of a kernel's arguments, those within tuples too."""
    for one in values:
        if isinstance(one, arrays.ndarray):
            yield one
        elif isinstance(one, tuple):
            yield from leaves(one)


def on_stream(pointer: int):
    """As on a card: CuPy's work goes to another library's stream."""
    return arrays.cuda.ExternalStream(pointer)


@contextmanager
def strict():
    """Within it the cuda device has the strict arrays.  For the simulator alone."""
    launch = import_module(f"{CUDA}.launch")
    if not launch.SIMULATED:
        raise RuntimeError("the strict arrays are for the simulator: NUMBA_ENABLE_CUDASIM=1")
    others = {
        "arrays": lambda: arrays,
        "prepared": counting(launch.prepared),
        "on_stream": on_stream,
    }
    own = {name: getattr(launch, name) for name in others}
    convert = as_device_array(launch.simulator.as_device_array)
    with ExitStack() as stack:
        for home in [module for name, module in sys.modules.items() if name.startswith(CUDA)]:
            for name, other in others.items():
                if getattr(home, name, None) is own[name]:
                    stack.enter_context(instead(home, name, other))
        stack.enter_context(instead(launch.simulator, "as_device_array", convert))
        yield arrays
