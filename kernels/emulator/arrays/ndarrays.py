"""CuPy's ndarray, played: NumPy behind CuPy's manners."""

import functools
from typing import Any

import numpy as np

from .operations import (
    SCALARS,
    Held,
    array,
    basic,
    index,
    memory_of,
    operate,
    refused,
    sent,
    told,
    view,
    write,
)
from .streams import ExternalStream, get_current_stream, start

played: Any = None  # the module that plays CuPy, which says so itself


class Capsule:
    """What `__dlpack__` gives: only `from_dlpack` of this stand-in takes it."""

    def __init__(self, array):
        self.array = array


class ndarray(Held):
    """Numbers in the memory of a card, which NumPy cannot read unless it asks: `get`."""

    __slots__ = ()
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    T = property(lambda self: view(self, self._plain.T, "T"))

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if stream != -1:  # that of who takes it waits for ours
            ExternalStream(0 if stream in (None, 1) else stream).wait_event(
                get_current_stream().record()
            )
        return Capsule(self)

    # To the host

    def get(self, stream=None, order="C", out=None, blocking=True):
        told("get", self)
        if out is not None:
            raise NotImplementedError("get(out=…)")
        return self._plain.copy(order)

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def tobytes(self, order="C"):
        return self.get().tobytes(order)

    def __array__(self, dtype=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __complex__(self):
        return complex(self.get())

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __format__(self, spec):
        return format(self.get(), spec)

    def __reduce__(self):
        return array, (self.get(),)

    # From the host

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError(f"{arr.dtype} {arr.shape} cannot be set to {self.dtype} {self.shape}")
        sent("set")
        start(lambda: np.copyto(self._plain, arr), memory_of(self))

    # Copies and views

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        with self.device:
            return self.copy()

    def copy(self, order="C"):
        # on the current card, wherever it comes from
        return operate("copy", lambda a: a.copy(order), self, order=order, anywhere=True)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if not copy and self.dtype == dtype:
            return self
        casting = casting or "unsafe"
        return operate("astype", lambda a: a.astype(dtype, casting=casting), self, order=order)

    def reshape(self, *shape, order="C", copy=None):
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        a = self._plain.reshape(shape, order=order)
        if (not copy and np.shares_memory(a, self._plain)) or not a.size:
            return view(self, a, "reshape")
        return operate("reshape", lambda a: a.reshape(shape, order=order), self)

    def ravel(self, order="C"):
        return self.reshape(-1, order=order)

    def flatten(self, order="C"):
        return operate("flatten", lambda a: a.flatten(order), self)

    def view(self, dtype=None, type=None):
        if type is not None:
            raise NotImplementedError("view(type=…)")
        return view(self, self._plain.view() if dtype is None else self._plain.view(dtype), "view")

    def swapaxes(self, axis1, axis2):
        return view(self, self._plain.swapaxes(axis1, axis2), "swapaxes")

    def transpose(self, *axes):
        return view(self, self._plain.transpose(*axes), "transpose")

    def squeeze(self, axis=None):
        return view(self, self._plain.squeeze(axis), "squeeze")

    def fill(self, value):
        if isinstance(value, np.ndarray):
            raise refused(value, "fill")
        write("fill", self, ..., value)

    def __len__(self):
        return len(self._plain)

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, slices):
        if basic(slices):
            whole = slices if isinstance(slices, tuple) else (slices,)
            whole = whole if any(one is Ellipsis for one in whole) else (*whole, ...)
            return view(self, self._plain[whole], "getitem")
        parts = tuple(map(index, slices)) if isinstance(slices, tuple) else index(slices)
        masks = parts if isinstance(parts, tuple) else (parts,)
        if any(isinstance(one, ndarray) and one.dtype == bool for one in masks):
            told("getitem by a mask")  # how many there are
        return operate("take", lambda a, at: a[at], self, parts)

    def __setitem__(self, slices, value):
        if not basic(slices):
            many = isinstance(slices, tuple)
            slices = tuple(map(index, slices)) if many else index(slices)
        write("setitem", self, slices, value)

    # Sums over axes

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return operate("sum", np.sum, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def prod(self, axis=None, dtype=None, out=None, keepdims=None):
        keepdims = bool(keepdims)
        return operate("prod", np.prod, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def mean(self, axis=None, dtype=None, out=None, keepdims=False):
        return operate("mean", np.mean, self, axis=axis, dtype=dtype, out=out, keepdims=keepdims)

    def max(self, axis=None, out=None, keepdims=False):
        return operate("max", np.max, self, axis=axis, out=out, keepdims=keepdims)

    def min(self, axis=None, out=None, keepdims=False):
        return operate("min", np.min, self, axis=axis, out=out, keepdims=keepdims)

    def all(self, axis=None, out=None, keepdims=False):
        return operate("all", np.all, self, axis=axis, out=out, keepdims=keepdims)

    def any(self, axis=None, out=None, keepdims=False):
        return operate("any", np.any, self, axis=axis, out=out, keepdims=keepdims)

    def argmax(self, axis=None, out=None, dtype=None, keepdims=False):
        return operate("argmax", np.argmax, self, axis=axis, out=out, keepdims=keepdims)

    def argmin(self, axis=None, out=None, dtype=None, keepdims=False):
        return operate("argmin", np.argmin, self, axis=axis, out=out, keepdims=keepdims)

    def cumsum(self, axis=None, dtype=None, out=None):
        return operate("cumsum", np.cumsum, self, axis=axis, dtype=dtype, out=out)

    def clip(self, min=None, max=None, out=None):
        return operate("clip", np.clip, self, min, max, out=out)

    def take(self, indices, axis=None, out=None):
        return operate("take", np.take, self, index(indices), axis=axis, out=out)

    def repeat(self, repeats, axis=None):
        return operate("repeat", np.repeat, self, repeats, axis=axis)

    def dot(self, b, out=None):
        return operate("dot", np.dot, self, b, out=out, field="products")

    def nonzero(self):
        told("nonzero", self)
        return operate("nonzero", np.nonzero, self)

    # Operators: those of OPERATORS are given below

    def __neg__(self):
        return operate("negative", np.negative, self)

    def __pos__(self):
        return operate("positive", np.positive, self)

    def __abs__(self):
        return operate("absolute", np.absolute, self)

    def __invert__(self):
        return operate("invert", np.invert, self)

    # NumPy's functions of it are CuPy's

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        out = kwargs.get("out", ())
        if len(out) > 1:
            raise ValueError("The 'out' parameter must have exactly one array value")
        if out:
            kwargs["out"] = out[0]
        same = getattr(played, ufunc.__name__, None)
        if method != "__call__" or same is None:
            return NotImplemented
        for x in (*inputs, *out):
            if not hasattr(x, "__cuda_array_interface__") and not isinstance(
                x, (*SCALARS, np.ndarray)
            ):
                return NotImplemented
        if ufunc in COMPARISONS:
            inputs = tuple(
                x.item() if isinstance(x, np.ndarray) and not x.ndim else x for x in inputs
            )
        return same(*inputs, **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        try:
            home = functools.reduce(getattr, func.__module__.split(".")[1:], played)
            same = getattr(home, func.__name__)
        except AttributeError:
            return NotImplemented
        if not all(one in (ndarray, np.ndarray) for one in types):
            return NotImplemented
        return same(*args, **kwargs)


COMPARISONS = (np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal)
OPERATORS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "matmul": np.matmul,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "lshift": np.left_shift,
    "rshift": np.right_shift,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}


def give_operators():
    """The operators of two operands: from the left, from the right, in place."""

    def each(ufunc):
        field = "products" if ufunc is np.matmul else "operations"

        def left(self, other):
            return binary(ufunc, self, other, field)

        def right(self, other):
            return binary(ufunc, other, self, field)

        def in_place(self, other):
            return binary(ufunc, self, other, field, out=self)

        return {"": left, "r": right, "i": in_place}

    for name, ufunc in OPERATORS.items():
        for prefix, function in each(ufunc).items():
            if not prefix or (ufunc not in COMPARISONS and f"{prefix}{name}" != "imatmul"):
                setattr(ndarray, f"__{prefix}{name}__", function)


def binary(ufunc, a, b, field, **options):
    """An operator; what CuPy does not know is left to the other operand."""
    for one in (a, b):
        known = isinstance(one, (ndarray, np.ndarray, *SCALARS))
        if not known and not hasattr(one, "__cuda_array_interface__"):
            return NotImplemented
    return operate(ufunc.__name__, ufunc, a, b, field=field, **options)


give_operators()
