"""The simulator's kernels on the strict arrays: `with strict():` the cuda device of this process
has the stand-in for CuPy instead of NumPy, and what it is asked for is counted.
"""

from importlib import import_module
from typing import Any

from ..devices.cuda import cublas
from ..devices.cuda.driver import Hardware, played_by
from ..devices.cuda.simulator import Simulated
from . import arrays
from .arrays import memory
from .arrays.counts import count
from .arrays.operations import taken
from .arrays.streams import start

# of the same name as a function of the device
launch = import_module("rnn_gpu.kernels.devices.cuda.launch")


class Strict(Simulated):
    """The simulator as a Driver whose arrays are as strict as CuPy's; what a card refuses of a
    kernel or a product is refused.
    """

    arrays = arrays
    stream: Any = Hardware.stream
    memory_of = Hardware.memory_of

    def device(self) -> int:
        return memory.current()

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
        name = function.__name__
        launch.flat(values)  # where that is not possible, no card can have them
        touched: list = []
        plain = plain_of(values, name, touched)
        count("launches", name)
        grid = blocks, threads, shared, plain, cluster, cooperative
        start(lambda: Simulated.start(self, function, *grid), touched)

    def product(self, a, b, out, precision: str, add: bool):
        touched: list = []
        left, right, into = plain_of((a, b, out), "product", touched)
        for one in (a, b, out):
            cublas.matrix(one)  # refuses what BLAS cannot read
        count("products", precision)
        start(lambda: Simulated.product(self, left, right, into, precision, add), touched)


def plain_of(value, name: str, touched: list) -> Any:
    """A kernel's arguments as NumPy's arrays of the same memory, in tuples of the same kind."""
    if isinstance(value, tuple):
        parts = [plain_of(one, name, touched) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return taken(value, name, touched)


STRICT = Strict()


def strict():
    """A context in which the cuda device has the strict arrays.  For the simulator alone."""
    if not launch.SIMULATED:
        raise RuntimeError("the strict arrays are for the simulator: NUMBA_ENABLE_CUDASIM=1")
    return played_by(STRICT)
