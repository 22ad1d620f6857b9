"""A layer's way forward and back as four of JAX's primitives: what `jit`, `vmap` and `grad` make of
them, and how XLA's programs on the CPU call our kernels.

A primitive's parameters are a `How`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from ...errors import DeviceError, UnsupportedError
from . import jobs
from .jobs import How
from .xla import TARGET, register, wait_at_the_end

COUNTS = "a number of each thread, in bytes"  # in place of axes
COUNT_BYTES = 8

# Shapes of results


def project_shapes(x, U, b, *, how):
    """Of p."""
    (T, B, _), G = x.shape, how.cell.gates
    return ((T, B, G, U.shape[0] // G),)


def forward_shapes(p, W, c, s0, flags, *, how):
    """Of s and kept."""
    (T, B, _, n), (S, U, _, _) = p.shape, s0.shape
    return (S, T + U, B, n), (T, B, how.cell.kept, n)


def back_shapes(dy, W, s, kept, flags, ds, *, how):
    """Of dp, ds0, what was counted, and of a cell that is apart dq."""
    (T, B, n), (S, U, _, _) = dy.shape, s.shape
    dp = T, B, how.cell.gates, n
    counts = how.threads if how.counted else 0, COUNT_BYTES
    return (dp, (S, U - T, B, n), counts) + ((dp,) if how.cell.apart else ())


def sums_shapes(δ, a, M, *, how):
    """Of δ M, dM and Σ δ."""
    return a.shape if how.below else (0,), M.shape, (M.shape[0] if how.bias else 0,)


def sums_by_jax(δ, a, M, *, how):
    """`sums` as JAX maps it over samples, each with sums of its own."""
    da = jnp.einsum("tbgn,gnm->tbm", δ, M.reshape(*δ.shape[2:], -1)) if how.below else M[:0, 0]
    dM = jnp.einsum("tbgn,tbm->gnm", δ, a).reshape(M.shape)
    return da, dM, δ.sum((0, 1)).reshape(-1) if how.bias else M[:0, 0]


class Call(NamedTuple):
    """One of the four, and the axes of its arguments and results by letters: T steps, U the first
    state and maybe more, B samples.
    """

    name: str  # of what is done, in jobs.WORK
    shapes: Callable  # of the results
    given: tuple[str, ...]
    results: tuple[str, ...]
    by_jax: Callable | None = None  # the same, where results have no samples

    def __call__(self, *given, how: How):
        """Its results, a list."""
        return PRIMITIVES[self.name].bind(*given, how=how)


PROJECT = Call("project", project_shapes, ("TBm", "Gm", "G"), ("TBGn",))
FORWARD = Call("forward", forward_shapes, ("TBGn", "Gn", "G", "SUBn", "TB"), ("SUBn", "TBKn"))
BACK = Call(
    "back",
    back_shapes,
    ("TBn", "Gn", "SUBn", "TBKn", "TB", "SBn"),
    ("TBGn", "SUBn", COUNTS, "TBGn"),
)
SUMS = Call("sums", sums_shapes, ("TBGn", "TBm", "Gm"), ("TBm", "Gm", "G"), sums_by_jax)
CALLS = PROJECT, FORWARD, BACK, SUMS
PRIMITIVES = {call.name: Primitive(f"rnn_gpu_{call.name}") for call in CALLS}


# What JAX asks of a primitive


def abstract(call, *avals, how):
    """The results as JAX knows them before they are computed."""
    shapes, of_counts = call.shapes(*avals, how=how), np.dtype(np.uint8)
    return [
        core.ShapedArray(shape, of_counts if its == COUNTS else avals[0].dtype)
        for shape, its in zip(shapes, call.results, strict=False)
    ]


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
    return jax.ffi.ffi_lowering(TARGET)(context, *operands, layer=prepared(call, context, how))


def lower_to_callback(call, context, *operands, how):
    """JAX's call of Python, which copies what it hands over: slower, and right with any XLA."""
    text = prepared(call, context, how)
    results = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in context.avals_out]

    def work(*given):
        made = [np.empty(result.shape, result.dtype) for result in results]
        jobs.do(text, [np.array(a) for a in given], made)
        return made

    back = partial(jax.pure_callback, work, results)
    return mlir.lower_fun(back, multiple_results=True)(context, *operands)


def prepared(call, context, how: How) -> str:
    """The text of the call; its kernels are compiled now, not in a thread of XLA's."""
    wait_at_the_end()
    text = jobs.text_of(call.name, how, (context.avals_in, context.avals_out))
    jobs.prepare(text)
    return text


def batched(call, given, axes, *, how):
    """Samples of samples are samples, where all have the same weights; else one after the other."""
    if call.by_jax:
        return jax.vmap(partial(call.by_jax, how=how), axes)(*given), [0] * len(call.results)
    size = next(a.shape[axis] for a, axis in zip(given, axes, strict=True) if axis is not None)
    together = not how.counted and all(
        axis is None or "B" in its for axis, its in zip(axes, call.given, strict=True)
    )
    given = [
        a if together and "B" not in its else in_front(a, axis, size)
        for a, axis, its in zip(given, axes, call.given, strict=True)
    ]
    if not together:
        results = jax.lax.map(lambda row: call(*row, how=how), given)
        return results, [0] * len(results)
    folded = [
        fold(a, its.index("B")) if "B" in its else a
        for a, its in zip(given, call.given, strict=True)
    ]
    results = call(*folded, how=how)
    places = [None if its == COUNTS else its.index("B") for its in call.results[: len(results)]]
    return [
        a if at is None else unfold(a, at, size) for a, at in zip(results, places, strict=True)
    ], places


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
    p = PRIMITIVES[call.name]
    p.multiple_results = True
    p.def_impl(partial(xla.apply_primitive, p))
    p.def_abstract_eval(partial(abstract, call))
    batching.primitive_batchers[p] = partial(batched, call)
    ad.primitive_jvps[p] = refuse_second
    mlir.register_lowering(p, refuse_device)
    lower = lower_to_ffi if CALLED else lower_to_callback
    mlir.register_lowering(p, partial(lower, call), platform="cpu")


CALLED = register(jobs.do)
for one in CALLS:
    known_to_jax(one)
