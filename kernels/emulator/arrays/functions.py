"""CuPy's functions, played: those that this library uses, and no other; each with CuPy's own
signature.
"""

import numpy as np

from .ndarrays import Capsule, ndarray
from .operations import array, of_interface, operate, told, view, write
from .streams import get_current_stream

FUNCTIONS = """
all any arange argmax argwhere array_equal asarray ascontiguousarray asnumpy broadcast_to clip
concatenate copyto count_nonzero cumsum dot empty empty_like expand_dims flatnonzero flip
from_dlpack full full_like matmul max mean min moveaxis ndim nonzero ones ones_like outer prod ravel
repeat reshape shape split squeeze stack sum swapaxes transpose where zeros zeros_like
"""
UFUNCS = """
absolute add arctan bitwise_and bitwise_or bitwise_xor cos divide equal exp expm1 floor floor_divide
greater greater_equal invert isfinite isinf isnan left_shift less less_equal log log1p logical_and
logical_not logical_or logical_xor maximum minimum multiply negative not_equal positive power
reciprocal remainder right_shift sign signbit sin sqrt square subtract tan tanh true_divide
"""
__all__ = [*FUNCTIONS.split(), *UFUNCS.split()]  # noqa: PLE0604


def ufunc(name: str):
    """CuPy's function of every number, of this name."""
    compute = getattr(np, name)

    def one(x, /, out=None, *, casting="same_kind", dtype=None):
        return operate(name, compute, x, out=out, casting=casting, dtype=dtype)

    def two(x1, x2, /, out=None, *, casting="same_kind", dtype=None):
        return operate(name, compute, x1, x2, out=out, casting=casting, dtype=dtype)

    return one if compute.nin == 1 else two


globals().update({name: ufunc(name) for name in UFUNCS.split()})


def matmul(
    *args,
    axes=None,
    axis=None,
    keepdims=False,
    casting="same_kind",
    dtype=None,
    signature=None,
    order="K",
    out=None,
):
    if axes or axis or keepdims or dtype or signature or order != "K":
        raise NotImplementedError("matmul with options")
    a, b = args
    return operate("matmul", np.matmul, a, b, out=out, field="products")


# Arrays from nothing, and from others


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order=order)


def zeros(shape, dtype=float, order="C"):
    return filled("zeros", shape, 0, dtype, order)


def ones(shape, dtype=float, order="C"):
    return filled("ones", shape, 1, dtype, order)


def full(shape, fill_value, dtype=None, order="C"):
    if dtype is None:
        dtype = fill_value.dtype if isinstance(fill_value, ndarray) else np.array(fill_value).dtype
    return filled("full", shape, fill_value, dtype, order)


def filled(name, shape, value, dtype, order):
    made = ndarray(shape, dtype, order=order)
    write(name, made, ..., value)
    return made


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return empty(*like(prototype, dtype, order, subok, shape))


def zeros_like(a, dtype=None, order="K", subok=None, shape=None):
    return zeros(*like(a, dtype, order, subok, shape))


def ones_like(a, dtype=None, order="K", subok=None, shape=None):
    return ones(*like(a, dtype, order, subok, shape))


def full_like(a, fill_value, dtype=None, order="K", subok=None, shape=None):
    shape, dtype, order = like(a, dtype, order, subok, shape)
    return full(shape, fill_value, dtype, order)


def like(a, dtype, order, subok, shape):
    """Shape, dtype and order of an array like another."""
    if subok is not None or order not in ("K", "C"):
        raise TypeError("subok is not supported yet")
    fortran = order == "K" and a.flags.f_contiguous and not a.flags.c_contiguous
    return a.shape if shape is None else shape, dtype or a.dtype, "F" if fortran else "C"


def arange(start, stop=None, step=1, dtype=None):
    return operate(
        "arange",
        lambda: np.arange(*((start,) if stop is None else (start, stop, step)), dtype=dtype),
    )


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if order not in (None, "C", "K"):
        raise NotImplementedError("asarray(order)")
    return array(a, dtype, bool(copy), blocking=blocking)


def ascontiguousarray(a, dtype=None):
    if not isinstance(a, ndarray):
        raise TypeError(f"Argument 'a' has incorrect type (expected ndarray, got {type(a)})")
    if dtype is not None and a.dtype != dtype:
        return a.astype(dtype, order="C")
    return a if a.flags.c_contiguous else a.copy()


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def from_dlpack(array, *, device=None, copy=None):
    kind, _ = array.__dlpack_device__()
    if kind != 2:
        raise BufferError("a tensor of the host: from_dlpack takes what is on a card")
    capsule = array.__dlpack__(stream=get_current_stream().ptr or 1)
    if not isinstance(capsule, Capsule):
        raise TypeError(f"a {type(capsule)}: nothing that this stand-in has made")
    return of_interface(Unstreamed(capsule.array))


class Unstreamed:
    """An array whose description names no stream to wait for: with DLPack streams wait, not the
    host.
    """

    def __init__(self, a):
        self.a = a

    @property
    def __cuda_array_interface__(self):
        return self.a.__cuda_array_interface__ | {"stream": None}


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    return operate(
        "concatenate", np.concatenate, tuple(tup), axis=axis, out=out, dtype=dtype, casting=casting
    )


def stack(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    return operate("stack", np.stack, tuple(tup), axis=axis, out=out, dtype=dtype, casting=casting)


def where(condition, x=None, y=None):
    if x is None and y is None:
        return condition.nonzero()
    if not isinstance(condition, ndarray):
        raise AttributeError(f"a {type(condition)} has no astype, which cupy.where asks for")
    return operate("where", np.where, condition, x, y)


def clip(a, a_min, a_max, out=None):
    return operate("clip", np.clip, a, a_min, a_max, out=out)


def outer(a, b, out=None):
    return operate("outer", np.outer, a, b, out=out)


def dot(a, b, out=None):
    return operate("dot", np.dot, a, b, out=out, field="products")


def repeat(a, repeats, axis=None):
    return a.repeat(repeats, axis)


# Other views of the same memory


def broadcast_to(array, shape):
    return view(array, np.broadcast_to(array._plain, shape), "broadcast_to")


def swapaxes(a, axis1, axis2):
    return a.swapaxes(axis1, axis2)


def moveaxis(a, source, destination):
    return view(a, np.moveaxis(a._plain, source, destination), "moveaxis")


def transpose(a, axes=None):
    return a.transpose(axes)


def expand_dims(a, axis):
    return view(a, np.expand_dims(a._plain, axis), "expand_dims")


def squeeze(a, axis=None):
    return a.squeeze(axis)


def ravel(a, order="C"):
    return a.ravel(order)


def reshape(a, newshape, order="C", *, copy=None):
    return a.reshape(newshape, order=order, copy=copy)


def flip(a, axis=None):
    return view(a, np.flip(a._plain, axis), "flip")


def split(ary, indices_or_sections, axis=0):
    parts = np.split(ary._plain, indices_or_sections, axis)
    return [view(ary, part, "split") for part in parts]


# Sums over axes


def sum(a, axis=None, dtype=None, out=None, keepdims=False):
    return a.sum(axis, dtype, out, keepdims)


def prod(a, axis=None, dtype=None, out=None, keepdims=False):
    return a.prod(axis, dtype, out, keepdims)


def mean(a, axis=None, dtype=None, out=None, keepdims=False):
    return a.mean(axis, dtype, out, keepdims)


def max(a, axis=None, out=None, keepdims=False):
    return a.max(axis, out, keepdims)


def min(a, axis=None, out=None, keepdims=False):
    return a.min(axis, out, keepdims)


def all(a, axis=None, out=None, keepdims=False):
    return a.all(axis, out, keepdims)


def any(a, axis=None, out=None, keepdims=False):
    return a.any(axis, out, keepdims)


def argmax(a, axis=None, dtype=None, out=None, keepdims=False):
    return a.argmax(axis, out, dtype, keepdims)


def cumsum(a, axis=None, dtype=None, out=None):
    return a.cumsum(axis, dtype, out)


def count_nonzero(a, axis=None):
    return operate("count_nonzero", lambda a: np.asarray(np.count_nonzero(a, axis)), a)


def array_equal(a1, a2, equal_nan=False):
    return operate("array_equal", np.array_equal, a1, a2, equal_nan=equal_nan)


# What only the host can answer


def nonzero(a):
    return a.nonzero()


def flatnonzero(a):
    told("flatnonzero", a)
    return operate("flatnonzero", np.flatnonzero, a)


def argwhere(a):
    told("argwhere", a)
    return operate("argwhere", np.argwhere, a)


def shape(a):
    return a.shape if hasattr(a, "shape") else np.shape(a)


def ndim(a):
    return a.ndim if hasattr(a, "ndim") else np.ndim(a)


def copyto(dst, src, casting="same_kind", where=None):
    if where is not None:
        raise NotImplementedError("copyto(where)")
    dst[...] = src
