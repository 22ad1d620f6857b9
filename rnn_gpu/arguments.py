"""The door: arguments are checked here, once, so that no kernel has to."""

from importlib import import_module
from numbers import Integral, Real

import numpy as np

from .errors import ArgumentError, DeviceError, DtypeError, ShapeError

DTYPES = ("float32", "float64")


def dtype_name(dtype) -> str:
    try:
        name = None if dtype is None else np.dtype(dtype).name  # NumPy takes None for float64
    except TypeError:
        name = None
    if name not in DTYPES:
        raise DtypeError(f"dtype is {dtype!r}, expected 'float32' or 'float64'")
    return name


def size(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ArgumentError(f"{name} is {value!r}, expected an integer of at least 1")
    return int(value)


def seed(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ArgumentError(f"{name} is {value!r}, expected an integer of at least 0")
    return int(value)


def number(name: str, value, low=-np.inf, high=np.inf, *, open_high=False) -> float:
    inside = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high and not (open_high and value == high)
    if not inside:
        raise ArgumentError(f"{name} is {value!r}, expected a number from {low} to {'below ' if open_high else ''}{high}")
    return float(value)


def bound(name: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < np.inf:
        raise ArgumentError(f"{name} is {value!r}, expected a number above 0, or None")
    return float(value)


def choice(name: str, value, options) -> str:
    if value not in tuple(options):  # which asks for no hash
        raise ArgumentError(f"{name} is {value!r}, expected one of {', '.join(map(repr, options))}")
    return value


def is_array(x) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape")


def on_gpu(x) -> bool:
    if type(x) is np.ndarray:
        return False
    if hasattr(x, "__dlpack_device__"):
        return int(x.__dlpack_device__()[0]) == 2  # kDLCUDA
    return hasattr(x, "__cuda_array_interface__")


def as_array(name: str, x, dtype: str):
    """x as NumPy's array, or CuPy's where it is on a GPU: another library's by DLPack, not copied.

    Nested lists of floats become arrays of `dtype`, of integers of int64.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise ArgumentError(f"{name} is a masked array, expected a plain one: its mask would be ignored")
    if isinstance(x, np.ndarray):
        return x
    if on_gpu(x):
        try:
            return import_module("rnn_gpu.kernels.devices.cuda.launch").arrays().asarray(x)
        except ImportError as error:
            raise DeviceError(f"{name} is on a GPU, but what takes it there is not installed: {error}") from None
    if hasattr(x, "__dlpack__"):
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError) as error:
            raise ArgumentError(f"{name}, a {type(x).__name__}, cannot be taken by DLPack: {error}") from None
    try:
        a = np.asarray(x)
    except ValueError as error:  # ragged lists
        raise ShapeError(f"{name} cannot be made an array: {error}") from None
    return a.astype(dtype) if a.dtype.kind == "f" and not is_array(x) else a


def as_kind_of(x, a):
    """a, NumPy's or CuPy's, as the kind of array that x is, not copied; lists and numbers get it as it is."""
    if type(x) is type(a) or isinstance(x, np.ndarray) or not hasattr(x, "__dlpack__"):
        return a
    own = x.__array_namespace__() if hasattr(x, "__array_namespace__") else import_module(type(x).__module__.partition(".")[0])
    return own.from_dlpack(a)


def take(device, name: str, a, dtype):
    """a, NumPy's or CuPy's, as a contiguous array of the device."""
    if device.name != "cuda" and on_gpu(a):
        raise DeviceError(f"{name} is on a GPU, but device is {device.name!r}: say device='cuda', or copy {name} to the host")
    return device.array(a, dtype)


def floats(name: str, x, dtype: str, shape: tuple[int | None, ...], axes: str, batch: int | None = None):
    """x as an array of `dtype` and shape; None in `shape` is any size of at least 1, on axis `batch` of at least 0.

    `axes` names them in messages.
    """
    a = as_array(name, x, dtype)
    if a.dtype.kind in "iu" and not is_array(x):  # a list has no dtype that could have been meant
        a = a.astype(dtype)
    if a.dtype != dtype:
        convert = f", or build with dtype={a.dtype.name!r}" if a.dtype.name in DTYPES and a.dtype.name != dtype else ""
        raise DtypeError(f"{name} is {a.dtype}, but this was built for {dtype}: convert it{convert}")
    if a.ndim != len(shape):
        raise ShapeError(f"{name} has shape {a.shape}, expected {len(shape)} axes, {axes}")
    if 0 in a.shape and any(size == 0 and axis != batch for axis, size in enumerate(a.shape)):
        raise ShapeError(f"{name} has shape {a.shape}, {axes}: an axis is empty")
    for axis, (got, expected) in enumerate(zip(a.shape, shape, strict=True)):
        if expected is not None and got != expected:
            raise ShapeError(f"{name} has shape {a.shape}, expected {expected} on axis {axis} of {axes}")
    return a


def are_symbols(x, a, rank: int) -> bool:
    """Do integers a, made from x, stand for one-hot vectors? A list of another rank is a list of whole numbers."""
    return a.dtype.kind in "iu" and (is_array(x) or a.ndim == rank)


def finite(name: str, a):
    """Raise ArgumentError, with the first place, if a has NaN or infinity."""
    good = np.isfinite(a)
    if not good.all():
        place = tuple(int(i[0]) for i in (~good).nonzero())
        raise ArgumentError(f"{name} is {float(a[place])} at {place}, expected finite numbers")


def symbols(name: str, x, classes: int, shape_axes: str, rank: int, batch: int | None = None):
    """Integers in [0, classes), of the given rank; axis `batch` may be empty."""
    if x.ndim != rank:
        raise ShapeError(f"{name} has shape {x.shape} and integers, expected {rank} axes, {shape_axes}, of symbols 0..{classes - 1}")
    if any(size == 0 and axis != batch for axis, size in enumerate(x.shape)):
        raise ShapeError(f"{name} has shape {x.shape}, {shape_axes}: an axis is empty")
    if x.size == 0:
        return x
    low, high = int(x.min()), int(x.max())
    if low < 0 or high >= classes:
        raise ArgumentError(f"{name} has the symbol {low if low < 0 else high}, expected 0..{classes - 1}")
    return x


def one_hot(x, classes: int, dtype: str):
    """Integers (…) -> (…, classes), 1 at the integer and 0 elsewhere."""
    return (np.asarray(x)[..., None] == np.arange(classes)).astype(dtype)


def booleans(name: str, values, shape: tuple[int, int], axes: str, otherwise: bool):
    """values as NumPy's booleans of this shape; None is `otherwise` everywhere."""
    if values is None:
        return np.full(shape, otherwise)
    a = as_array(name, values, "float64")
    a = a.get() if hasattr(a, "__cuda_array_interface__") else a
    if a.shape != shape:
        raise ShapeError(f"{name} has shape {a.shape}, expected {shape}, ({axes})")
    if a.dtype != bool:
        raise DtypeError(f"{name} is {a.dtype}, expected booleans")
    return a


def check_lengths(lengths, T: int, B: int):
    """lengths as int64 (B,), each in 1..T; None stays None."""
    if lengths is None:
        return None
    a = as_array("lengths", lengths, "float64")
    a = a.get() if hasattr(a, "__cuda_array_interface__") else a
    if a.shape != (B,):
        raise ShapeError(f"lengths has shape {a.shape}, expected ({B},): one for each sample")
    if a.size and a.dtype.kind not in "iu":
        raise DtypeError(f"lengths is {a.dtype}, expected integers")
    wrong = np.flatnonzero((a < 1) | (a > T))
    if wrong.size:
        raise ArgumentError(f"lengths[{wrong[0]}] is {a[wrong[0]]}, expected 1..{T}, the number of time steps of x")
    return a.astype(np.int64)
