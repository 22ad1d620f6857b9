"""The door: arguments are checked here, once, so that no kernel has to."""

from collections.abc import Mapping, Sequence, Set
from importlib import import_module
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np

from .errors import ArgumentError, DeviceError, DtypeError, ShapeError

DTYPES = ("float32", "float64")
NUMBERS = (Real, np.generic, Sequence)  # what NumPy makes an array of numbers from, beside arrays


class Listed(Protocol):
    """Samples: a list of arrays, an array, or anything with a length and x[0] … x[N−1]."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...


def dtype_name(dtype) -> str:
    """ "float32" or "float64", from what NumPy takes for them; else DtypeError."""
    try:
        name = None if dtype is None else np.dtype(dtype).name  # NumPy takes None for float64
    except TypeError:
        name = None
    if name not in DTYPES:
        raise DtypeError(f"dtype is {dtype!r}, expected 'float32' or 'float64'")
    return name


def size(name: str, value) -> int:
    """An integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ArgumentError(f"{name} is {value!r}, expected an integer of at least 1")
    return int(value)


def seed(name: str, value) -> int:
    """An integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ArgumentError(f"{name} is {value!r}, expected an integer of at least 0")
    return int(value)


def number(name: str, value, low=-np.inf, high=np.inf, *, open_high=False) -> float:
    """A number from low to high; open_high leaves `high` itself out."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not low <= float(value) <= high or (open_high and value == high):
        raise ArgumentError(
            f"{name} is {value!r}, expected a number from {low} to "
            f"{'below ' if open_high else ''}{high}"
        )
    return float(value)


def flag(name: str, value) -> bool:
    """True or False, and nothing that Python merely takes for true, as "no"."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{name} is {value!r}, expected True or False")
    return bool(value)


def bound(name: str, value, *, optional: bool = False) -> float:
    """A finite number above 0; where it is optional, who calls lets None through."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else 0.0
    except OverflowError:  # an integer may be larger than any float
        number = np.inf
    if not 0 < number < np.inf:
        or_none = ", or None" if optional else ""
        raise ArgumentError(f"{name} is {value!r}, expected a number above 0{or_none}")
    return number


def choice(name: str, value, options) -> str:
    """One of the options."""
    if value not in tuple(options):  # which asks for no hash
        raise ArgumentError(f"{name} is {value!r}, expected one of {', '.join(map(repr, options))}")
    return value


def json_dict(name: str, value) -> dict[str, Any]:
    """A dict of what JSON holds and gives back as it was, copied; else ArgumentError, which names
    the place.
    """
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{name} is {came(value)}, expected a dict")
    return json_value(name, value)


def json_value(name: str, value) -> Any:
    """As `json_dict`, of any value; `name` is its place."""
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise ArgumentError(f"{name} has the key {strange[0]!r}, expected texts, as JSON's are")
        return {str(key): json_value(f"{name}[{key!r}]", own) for key, own in value.items()}
    if isinstance(value, list):
        return [json_value(f"{name}[{i}]", own) for i, own in enumerate(value)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and np.isfinite(value):
        return float(value)
    raise ArgumentError(
        f"{name} is {came(value)}, expected what JSON holds: dicts, lists, texts, finite numbers, "
        "booleans, None (of an array its .tolist())"
    )


def is_array(x) -> bool:
    """Has x a dtype of its own, that may have been meant? Lists and numbers have none."""
    return hasattr(x, "__array__") or (hasattr(x, "dtype") and hasattr(x, "shape"))


def on_gpu(x) -> bool:
    """Is x an array in the memory of a GPU, of whatever library."""
    if type(x) is np.ndarray:
        return False
    if hasattr(x, "__dlpack_device__"):
        return int(x.__dlpack_device__()[0]) == 2  # kDLCUDA
    return hasattr(x, "__cuda_array_interface__")


def arrays_of_cards(name: str) -> Any:
    """The module of arrays on GPUs; DeviceError, which names an argument, where it is missing."""
    try:
        return import_module("rnn_gpu.kernels.devices.cuda.launch").arrays()
    except ImportError as error:
        raise DeviceError(
            f"{name} is on a GPU, but what takes it there is not installed: {error}"
        ) from None


def as_array(name: str, x, dtype) -> Any:
    """x as NumPy's array, or CuPy's where it is on a GPU: another library's by DLPack, not copied.

    Nested lists of floats become arrays of `dtype`, of integers of int64. What has labels of its
    own is taken by position.
    """
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise ArgumentError(
            f"{name} is a masked array, expected a plain one: its mask would be ignored"
        )
    if isinstance(x, np.ndarray):
        return x
    home = arrays_of_cards(name) if on_gpu(x) else np
    if isinstance(x, home.ndarray):
        return x
    if hasattr(x, "__dlpack__"):  # on a GPU the streams of both then wait for each other
        try:
            return home.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError) as error:
            raise ArgumentError(
                f"{name}, a {type(x).__name__}, cannot be taken by DLPack: {error}"
            ) from None
    if home is not np:
        return home.asarray(x)
    if labelled(x):
        return by_position(name, x)
    if isinstance(x, (list, tuple)):
        x = [by_position(f"{name}[{i}]", a) if labelled(a) else a for i, a in enumerate(x)]
    elif isinstance(x, (str, bytes)) or not (
        isinstance(x, NUMBERS) or hasattr(x, "__array_interface__")
    ):
        raise ArgumentError(f"{name} is {came(x)}, expected an array, or lists of numbers")
    try:
        a = np.asarray(x)
    except ValueError as error:  # ragged lists
        raise ShapeError(f"{name} cannot be made an array: {error}") from None
    return a.astype(dtype) if a.dtype.kind == "f" and not is_array(x) else a


def came(x) -> str:
    """What came, in a message: None and short words as they are, else its type."""
    short = x is None or (isinstance(x, (str, Real)) and len(repr(x)) < 40)
    return repr(x) if short else f"a {type(x).__name__}"


def came_in_parts(x) -> str:
    """What came, in a message, where a list or tuple of some length was expected."""
    return f"a {type(x).__name__} of {len(x)}" if isinstance(x, (list, tuple)) else came(x)


def labelled(x) -> bool:
    """May x[0] be another than the first: has x labels of its own, as those of pandas and
    xarray?
    """
    plain = isinstance(x, (np.ndarray, np.generic)) or hasattr(x, "__dlpack__")
    return not plain and hasattr(x, "__array__")


def by_position(name: str, x) -> np.ndarray:
    """What has labels as NumPy's array of numbers, in the order in which they stand; nothing is
    cast.
    """
    a, kind = unlabelled(name, x)
    whole = "int" in kind.lower() or "bool" in kind.lower()
    # where one is missing the others become floats
    if a.dtype.kind not in ("iub" if whole else "fiubc"):
        came = f"{name} is a {type(x).__name__} of {kind} (as an array: {a.dtype})"
        raise DtypeError(f"{came}, expected numbers, none missing")
    return a


def unlabelled(name: str, x) -> tuple[np.ndarray, str]:
    """NumPy's array of what has labels, of objects too; and its dtype, which is that of all
    columns, in words.
    """
    dtypes = x.dtypes if hasattr(type(x), "columns") else [getattr(x, "dtype", "")]
    kinds = [str(dtype) for dtype in dtypes]
    if len(set(kinds)) > 1:
        columns = (f"{column} is {kind}" for column, kind in zip(x.columns, kinds, strict=True))
        raise DtypeError(
            f"{name} has columns of several dtypes, expected one: {', '.join(columns)}"
        )
    if "category" in kinds:
        came = f"{name} is a {type(x).__name__} of categories"
        raise DtypeError(f"{came}, expected numbers: take its codes")
    return np.asarray(x), kinds[0] if kinds else ""


def samples(name: str, x) -> list:
    """The N samples of a list, an array, what has labels of its own, or anything with len and x[0]
    … x[N−1].
    """
    expected = "expected a list of samples, or an array of them"
    if isinstance(x, (Mapping, Set, str, bytes)):
        raise ArgumentError(f"{name} is {came(x)}, {expected}")
    if labelled(x):
        a, _ = unlabelled(name, x)
        ragged = (
            a.dtype == object
            and a.ndim == 1
            and all(isinstance(one, (list, np.ndarray)) for one in a)
        )
        x = a if ragged else by_position(name, x)
    try:
        N = len(x)
    except TypeError:
        raise ShapeError(f"{name} is {came(x)}, {expected}") from None
    if N == 0:
        raise ShapeError(f"{name} is empty, expected at least one sample")
    try:
        return [x[i] for i in range(N)]
    except (LookupError, TypeError) as error:
        raise ArgumentError(
            f"{name} is {came(x)}, {expected}: it has no {name}[i] ({error!r})"
        ) from None


def as_kind_of(x, a):
    """a, NumPy's or CuPy's, as the kind of array that x is, not copied; lists and numbers get it as
    it is.
    """
    if type(x) is type(a) or isinstance(x, np.ndarray) or not hasattr(x, "__dlpack__"):
        return a
    own = (
        x.__array_namespace__()
        if hasattr(x, "__array_namespace__")
        else import_module(type(x).__module__.partition(".")[0])
    )
    return own.from_dlpack(a)


def take(device, name: str, a, dtype):
    """a, NumPy's or CuPy's, as a contiguous array of the device."""
    if device.name != "cuda" and on_gpu(a):
        raise DeviceError(
            f"{name} is on a GPU, but device is {device.name!r}: say device='cuda', or copy "
            f"{name} to the host"
        )
    return device.array(a, dtype)


def give(device, like, a, ours: bool = True):
    """a, an array of the device, as the kind of array that `like`, which came in, is.

    ours  a stays ours: what goes out is a copy; False hands it over
    """
    if type(like) is type(a):
        return device.copy(a) if ours else a
    own = a if on_gpu(like) else device.numpy(a)
    return as_kind_of(like, device.copy(a) if ours and own is a else own)


def floats(
    name: str, x, dtype: str, shape: tuple[int | None, ...], axes: str, batch: int | None = None
) -> Any:
    """x as an array of `dtype` and shape; None in `shape` is any size of at least 1, on axis
    `batch` of at least 0.

    `axes` names them in messages.
    """
    a = as_array(name, x, dtype)
    if a.shape == shape and a.dtype == dtype and 0 not in shape:
        return a
    if a.dtype.kind in "iu" and not is_array(x):  # a list has no dtype that could have been meant
        a = a.astype(dtype)
    if a.dtype != dtype:
        convert = (
            f", or build with dtype={a.dtype.name!r}"
            if a.dtype.name in DTYPES and a.dtype.name != dtype
            else ""
        )
        raise DtypeError(
            f"{name} is {a.dtype}, but this was built for {dtype}: convert it{convert}"
        )
    if a.ndim != len(shape):
        raise ShapeError(f"{name} has shape {a.shape}, expected {len(shape)} axes, {axes}")
    if 0 in a.shape and any(size == 0 and axis != batch for axis, size in enumerate(a.shape)):
        raise ShapeError(f"{name} has shape {a.shape}, {axes}: an axis is empty")
    for axis, expected in enumerate(shape):
        if expected is not None and a.shape[axis] != expected:
            raise ShapeError(
                f"{name} has shape {a.shape}, expected {expected} on axis {axis} of {axes}"
            )
    return a


def are_symbols(x, a, rank: int) -> bool:
    """Do integers a, made from x, stand for one-hot vectors? A list of another rank is a list of
    whole numbers.
    """
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
        raise ShapeError(
            f"{name} has shape {x.shape} and integers, expected {rank} axes, {shape_axes}, of "
            f"symbols 0..{classes - 1}"
        )
    if any(size == 0 and axis != batch for axis, size in enumerate(x.shape)):
        raise ShapeError(f"{name} has shape {x.shape}, {shape_axes}: an axis is empty")
    if x.size == 0:
        return x
    low, high = int(x.min()), int(x.max())
    if low < 0 or high >= classes:
        raise ArgumentError(
            f"{name} has the symbol {low if low < 0 else high}, expected 0..{classes - 1}"
        )
    return x


def one_hot(x, classes: int, dtype: str):
    """Integers (…) -> (…, classes), 1 at the integer and 0 elsewhere."""
    return (np.asarray(x)[..., None] == np.arange(classes)).astype(dtype)


def booleans(name: str, values, shape: tuple[int, ...], axes: str, otherwise: bool):
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


def check_lengths(lengths, T: int, B: int, batch_first: bool = False):
    """lengths as int64 (B,), each in 1..T; None stays None."""
    if lengths is None:
        return None
    a = as_array("lengths", lengths, "float64")
    a = a.get() if hasattr(a, "__cuda_array_interface__") else a
    if a.shape != (B,):
        order, other = ("(B, T, m)", "(T, B, m)") if batch_first else ("(T, B, m)", "(B, T, m)")
        said = f". x is taken as {order}: is it {other}, say batch_first={not batch_first}"
        raise ShapeError(
            f"lengths has shape {a.shape}, expected ({B},): one for each sample"
            + (said if a.shape == (T,) else "")
        )
    if a.size and a.dtype.kind not in "iu":
        raise DtypeError(f"lengths is {a.dtype}, expected integers")
    wrong = np.flatnonzero((a < 1) | (a > T))
    if wrong.size:
        raise ArgumentError(
            f"lengths[{wrong[0]}] is {a[wrong[0]]}, expected 1..{T}, the number of time steps of x"
        )
    return a.astype(np.int64)
