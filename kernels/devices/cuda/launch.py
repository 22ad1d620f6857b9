"""Kernels and how they are started: the only place that knows whether cards or the simulator are
behind `numba.cuda`.

In the simulator a kernel is a Python function, called on NumPy's arrays. Else it is machine code,
and its arguments are flat: of an array two words that Numba leaves zero, size, item size, pointer,
shape and strides; of a tuple those of its members.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from math import prod
from typing import Any

import numpy as np

from ...private import config
from .driver import driver, play

SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:
    from . import simulator

    simulator.install()
    play(simulator.Simulated())

from numba import cuda as numba_cuda  # noqa: E402  the simulator is installed first
from numba.cuda import types as numba_types  # noqa: E402

from ...binding import bind  # noqa: E402
from ...binding.names import compiled_maths, interpreted_maths  # noqa: E402
from ...once import once  # noqa: E402
from .compiled import compiled, compiled_anew  # noqa: E402

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


def launch(
    kernel,
    blocks: int,
    threads: int,
    *arguments,
    shared: int = 0,
    cluster: int = 1,
    cooperative: bool = False,
):
    """Start a kernel on CuPy's current stream (in the simulator: run it), with `shared` bytes of
    dynamic shared memory.

    cluster, cooperative  as `Driver.start` has them
    """
    together = {"cluster": cluster, "cooperative": cooperative}
    prepared(kernel, blocks, threads, *arguments, shared=shared, **together)()


def prepared(
    kernel,
    blocks: int,
    threads: int,
    *arguments,
    shared: int = 0,
    cluster: int = 1,
    cooperative: bool = False,
):
    """What starts a kernel, its arguments converted once, when it is called with the numbers that
    are left.
    """
    card, together = driver(), (cluster, cooperative)
    if card.language == "python":
        return lambda *more: card.start(
            kernel, blocks, threads, shared, arguments + more, *together
        )
    values, kinds = flat(arguments)

    def start(*more):
        last, last_kinds = flat(more)
        function = loaded(card, card.device(), kernel, kinds + last_kinds, shared)
        card.start(function, blocks, threads, shared, values + last, *together)

    return start


def flat(arguments: tuple) -> tuple[tuple, tuple]:
    """(the parameters of a kernel for these arguments, what kind each argument is).

    An array's kind is (its dtype, its dimensions), that of a tuple its class and then those of its
    members; a number's is its dtype.
    """
    values: list = []
    kinds = tuple(flatten(one, values) for one in arguments)
    return tuple(values), kinds


# dtype.name itself takes longer than all that is done with it
NAMES = {
    np.dtype(name): name for name in ("float32", "float64", "uint8", "uint32", "int32", "int64")
}


@lru_cache(4096)
def row_major(shape: tuple, itemsize: int) -> tuple:
    """The strides of an array of this shape without gaps."""
    return tuple(itemsize * prod(shape[k + 1 :]) for k in range(len(shape)))


def flatten(value, values: list):
    """Append a kernel's parameters of one argument to values.  Returns its kind.

    Some 100 ns an attribute of an array, and no more of them than there must be.
    """
    if isinstance(value, tuple):
        return type(value), *[flatten(one, values) for one in value]
    if isinstance(value, int):
        values.append(value)
        return "int64"
    dtype = value.dtype
    if isinstance(value, np.generic):
        values.append(value)
        return NAMES[dtype]
    shape, strides, itemsize = value.shape, value.strides, dtype.itemsize
    if strides != row_major(shape, itemsize) and not value.flags.c_contiguous:
        raise ValueError(f"a kernel is given an array of strides {strides}: not contiguous")
    values += (0, 0, value.size, itemsize, value.data.ptr, *shape, *strides)
    return NAMES[dtype], len(shape)


@lru_cache(4096)
def type_of(kind):
    """Numba's type of a kernel's argument of this kind."""
    if isinstance(kind, str):
        return getattr(types, kind)
    if isinstance(kind[0], str):
        return types.Array(getattr(types, kind[0]), kind[1], "C")
    return types.BaseTuple.from_types(tuple(map(type_of, kind[1:])), kind[0])


@once
def loaded(card, device: int, kernel, kinds: tuple, shared: int):
    """A kernel for arguments of these kinds on one card, as its driver has it; one that was kept
    and that this driver does not take is compiled anew.
    """
    capability, signature = card.facts(device).capability, tuple(map(type_of, kinds))
    code = compiled(kernel, kinds, signature, capability, card.language)
    try:
        return card.load(code.text, code.entry, shared)
    except Exception:
        if not code.kept:
            raise
    code = compiled_anew(kernel, kinds, signature, capability)
    return card.load(code.text, code.entry, shared)


def on_stream(pointer: int, number: int | None = None, allocate: Callable | None = None):
    """`Device.on_stream`."""
    return driver().stream(pointer, number, allocate)


def matmul(a, b, precision: str, out=None, add=False):
    """The product of two matrices in "fp32", which is strict, "tf32" or "bf16"; added to `out`
    where that is asked for.
    """
    if out is None:
        out = arrays().empty((len(a), b.shape[1]), a.dtype)
    driver().product(a, b, out, precision, add)
    return out


def matmuls(stack, b, out, precision: str) -> Callable[[int], None]:
    """What does out = stack[t] b when it is called with t: for a product at each step."""
    return driver().products(stack, b, out, precision)


def arrays() -> Any:
    """The module whose arrays live where the kernels run: CuPy, or NumPy under the simulator."""
    return driver().arrays
