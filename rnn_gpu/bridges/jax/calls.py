"""The recurrence as two of JAX's primitives, forward and back: what `jit`, `vmap` and `grad` make
of them, and how XLA's programs on the CPU call our kernels.

A primitive's parameters are a `How`. A program that XLA compiled has it as a text, so that nothing
hidden belongs to a program: built-in cells by name, others by one of their own.
"""

import json
import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple, NoReturn
from uuid import uuid4

import jax
import numpy as np
from jax import core
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from ...device import resolve
from ...errors import DeviceError, UnsupportedError
from ...kernels import Backward, Cell, Clip, Forward
from ...kernels.cells import CELLS
from ...kernels.sharing import AtMost
from .xla import register, wait_at_the_end

PREPARED = 1 << 22  # numbers of the largest array of the call that compiles a program's kernels
OWN: dict[str, Cell] = {}  # by the names that they have in programs: cells that are not built in
NAMES: dict[Cell, str] = {}


class How(NamedTuple):
    """What a call needs beside arrays."""

    cell: Cell
    masked: bool  # see Forward
    clip: Clip
    # that share a call, at most: Numba's number is each thread's own, and a call may come in one of
    # XLA's
    threads: int

    @property
    def text(self) -> str:
        """The same in words, for `how_of` of this process; of any where the cell is built in."""
        return json.dumps([name_of(self.cell), self.masked, self.clip, self.threads])


def name_of(cell: Cell) -> str:
    """What programs call the cell."""
    if CELLS.get(cell.name) is cell:
        return cell.name
    name = NAMES.setdefault(cell, f"{cell.name} {uuid4().hex}")
    OWN[name] = cell
    return name


@lru_cache(maxsize=1024)
def how_of(text: str) -> How:
    """The How of a text.  UnsupportedError where its cell is of another process."""
    name, masked, clip, threads = json.loads(text)
    if name not in CELLS and name not in OWN:
        raise UnsupportedError(
            f"a program calls the cell {name}, which is of another process: only built-in cells "
            "are known to all"
        )
    return How(CELLS.get(name) or OWN[name], masked, Clip(*clip), threads)


# The work


def go_forward(text: str, given, results) -> None:
    """p (T, B, G, n), W (G·n, n), c (G·n,) or (0,), s0 (S, B, n), flags (T, B) -> s (S, T+1, B, n),
    kept (T, B, K, n), which are overwritten.
    """
    (p, W, c, s0, flags), (s, kept), how = given, results, how_of(text)
    s[:, 0] = s0
    if s0.size:
        with AtMost(how.threads):
            resolve("cpu").forward(how.cell, Forward(p, W, c, s, kept, flags, how.masked))


def go_back(text: str, given, results) -> None:
    """dy (T, B, n), W, s, kept, flags, ds (S, B, n) -> dp (T, B, G, n), of a cell that is apart dq
    too, ds0 (S, B, n), which are overwritten.
    """
    (dy, W, s, kept, flags, ds), (dp, *dq, ds0), how = given, results, how_of(text)
    ds0[...] = ds
    if ds.size:
        δq = dq[0] if how.cell.apart else dp
        call = Backward(dy, W, s, kept, flags, dp, δq, ds0, how.clip, how.masked)
        with AtMost(how.threads):
            resolve("cpu").backward(how.cell, call)


def forward_shapes(p, W, c, s0, flags, *, how):
    """Of s and kept."""
    (T, B, _, n), S = p.shape, s0.shape[0]
    return (S, T + 1, B, n), (T, B, how.cell.kept, n)


def backward_shapes(dy, W, s, kept, flags, ds, *, how):
    """Of dp, dq of a cell that is apart, and ds0."""
    T, B, n = dy.shape
    return ((T, B, how.cell.gates, n),) * (2 if how.cell.apart else 1) + (ds.shape,)


class Call(NamedTuple):
    """One of the two, and the axes of its arguments and results by letters: T steps, U of them and
    the first state, B samples.
    """

    primitive: Primitive
    target: str  # its name in XLA's programs
    work: Callable  # (text, arguments, results)
    shapes: Callable  # of the results
    given: tuple[str, ...]
    results: tuple[str, ...]


FORWARD = Call(
    Primitive("rnn_gpu_forward"),
    "rnn_gpu_forward",
    go_forward,
    forward_shapes,
    ("TBGn", "Gn", "G", "SBn", "TB"),
    ("SUBn", "TBKn"),
)
BACKWARD = Call(
    Primitive("rnn_gpu_backward"),
    "rnn_gpu_backward",
    go_back,
    backward_shapes,
    ("TBn", "Gn", "SUBn", "TBKn", "TB", "SBn"),
    ("TBGn", "TBGn", "SBn"),
)


# What JAX asks of a primitive


def abstract(call, *avals, how):
    """The results as JAX knows them before they are computed."""
    return [core.ShapedArray(shape, avals[0].dtype) for shape in call.shapes(*avals, how=how)]


def refuse_second(primals, tangents, *, how) -> NoReturn:
    """Raise UnsupportedError: the two are not differentiated, but are a derivative."""
    raise UnsupportedError(
        "a derivative of a derivative, or one by forward mode: the kernels give first derivatives "
        "by reverse mode; for others write the layer with jax.lax.scan"
    )


def refuse_device(context, *operands, how) -> NoReturn:
    """Raise DeviceError: the program is for another platform than the CPU."""
    platforms = ", ".join(context.module_context.platforms)
    raise DeviceError(
        f"rnn_gpu.jax runs on JAX's CPU, but this program is for {platforms}: put its arrays there,"
        " jax.device_put(x, jax.devices('cpu')[0]), or begin with"
        " jax.config.update('jax_platforms', 'cpu')"
    )


def lower_to_ffi(call, context, *operands, how):
    """XLA's own call of our kernels."""
    prepare(call, context.avals_in, how)
    return jax.ffi.ffi_lowering(call.target)(context, *operands, layer=how.text)


def lower_to_callback(call, context, *operands, how):
    """JAX's call of Python, which copies what it hands over: slower, and right with any XLA."""
    prepare(call, context.avals_in, how)
    results = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in context.avals_out]

    def work(*given):
        made = [np.empty(result.shape, result.dtype) for result in results]
        call.work(how.text, [np.array(a) for a in given], made)
        return made

    back = partial(jax.pure_callback, work, results)
    return mlir.lower_fun(back, multiple_results=True)(context, *operands)


def prepare(call, avals, how: How) -> None:
    """Compile the kernels now, not in a thread of XLA's: by a call of these sizes, short."""
    wait_at_the_end()
    shapes = [aval.shape for aval in avals]
    if all(isinstance(size, int) for shape in shapes for size in shape):
        run(call, tuple(shapes), avals[0].dtype.name, how)


@lru_cache(maxsize=256)
def run(call, shapes, dtype: str, how: How) -> None:
    """The call on zeros, of as few steps as need little memory and all of its kernels."""
    T, a_step = shapes[0][0], math.prod(shapes[0][1:])
    steps = min(T, 1 + PREPARED // max(1, a_step))
    arrays = []
    for axes, shape in zip(call.given, shapes, strict=True):
        sizes = dict(zip(axes, shape, strict=False)) | {"T": steps, "U": steps + 1}
        shape = [sizes[axis] for axis in axes[: len(shape)]]
        arrays.append(np.zeros(shape, np.uint8 if axes == "TB" else dtype))
    results = [np.empty(shape, dtype) for shape in call.shapes(*arrays, how=how)]
    call.work(how.text, arrays, results)


def batched(call, given, axes, *, how):
    """Samples of samples are samples, where all have the same weights; else one after the other."""
    size = next(a.shape[axis] for a, axis in zip(given, axes, strict=True) if axis is not None)
    together = all(axis is None or "B" in its for axis, its in zip(axes, call.given, strict=True))
    given = [
        a if together and "B" not in its else in_front(a, axis, size)
        for a, axis, its in zip(given, axes, call.given, strict=True)
    ]
    if not together:
        results = jax.lax.map(lambda row: call.primitive.bind(*row, how=how), given)
        return results, [0] * len(results)
    folded = [
        fold(a, its.index("B")) if "B" in its else a
        for a, its in zip(given, call.given, strict=True)
    ]
    results = call.primitive.bind(*folded, how=how)
    places = [its.index("B") for its in call.results[: len(results) - 1] + call.results[-1:]]
    return [unfold(a, at, size) for a, at in zip(results, places, strict=True)], places


def in_front(a, axis, size: int):
    """a with the axis that is mapped over in front; one that has none is repeated."""
    if axis is None:
        return jax.numpy.broadcast_to(a, (size, *a.shape))
    return jax.numpy.moveaxis(a, axis, 0)


def fold(a, at: int):
    """a (V, …), whose samples are axis `at` behind V, with V·B samples in their place."""
    a = jax.numpy.moveaxis(a, 0, at)
    return a.reshape(*a.shape[:at], a.shape[at] * a.shape[at + 1], *a.shape[at + 2 :])


def unfold(a, at: int, size: int):
    """V·B samples at axis `at` as (…, V, B, …)."""
    return a.reshape(*a.shape[:at], size, a.shape[at] // size, *a.shape[at + 1 :])


def known_to_jax(call: Call) -> None:
    """Tell JAX what it is to make of the primitive."""
    p = call.primitive
    p.multiple_results = True
    p.def_impl(partial(xla.apply_primitive, p))
    p.def_abstract_eval(partial(abstract, call))
    batching.primitive_batchers[p] = partial(batched, call)
    ad.primitive_jvps[p] = refuse_second
    mlir.register_lowering(p, refuse_device)
    lower = lower_to_ffi if register(call.target, call.work) else lower_to_callback
    mlir.register_lowering(p, partial(lower, call), platform="cpu")


known_to_jax(FORWARD)
known_to_jax(BACKWARD)
