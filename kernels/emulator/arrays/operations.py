"""What every operation of the stand-in does: take arrays of the card, and only those, have NumPy
compute, place the result in memory of the card, and count.
"""

from typing import Any

import numpy as np

from . import memory
from .counts import count
from .streams import capturing, forbid, start, wait_here

SCALARS = (bool, int, float, complex, np.generic)


class Held:
    """Numbers in the memory of a card: their memory, and what NumPy sees of it.

    The class that is made of it is the kind of array that operations give.
    """

    __slots__ = ("__weakref__", "_base", "_memory", "_plain")
    kind: Any = None
    _base: Any
    _memory: Any
    _plain: Any

    def __init_subclass__(cls):
        Held.kind = cls

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        memptr = memory.get_allocator()(size) if memptr is None else memptr
        self._base, self._memory = None, memptr.mem
        raw: Any = (
            np.empty(0, np.uint8)
            if memptr.mem is None
            else memptr.mem.bytes[memptr.ptr - memptr.mem.ptr :]
        )
        if strides is None:
            self._plain = raw[:size].view(dtype).reshape(shape, order=order or "C")
        else:
            self._plain = np.ndarray(shape, dtype, raw, 0, strides)

    # What it is

    shape = property(lambda self: self._plain.shape)
    dtype = property(lambda self: self._plain.dtype)
    ndim = property(lambda self: self._plain.ndim)
    size = property(lambda self: self._plain.size)
    itemsize = property(lambda self: self._plain.itemsize)
    nbytes = property(lambda self: self._plain.nbytes)
    strides = property(lambda self: self._plain.strides)
    flags = property(lambda self: self._plain.flags)
    base = property(lambda self: self._base)

    @property
    def data(self) -> memory.MemoryPointer:
        if self._memory is None:
            return memory.MemoryPointer(None, 0)
        return memory.MemoryPointer(self._memory, self._plain.ctypes.data - self._memory.ptr)

    @property
    def device(self) -> memory.Device:
        return memory.Device(memory.current() if self._memory is None else self._memory.card)

    @property
    def __cuda_array_interface__(self) -> dict:
        contiguous = self._plain.flags.c_contiguous
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "data": (self.data.ptr, False),
            "strides": None if contiguous else self.strides,
            "version": 3,
            "stream": 1,
        }

    def __dlpack_device__(self):
        return 2, self.device.id  # kDLCUDA


def refused(value, name: str) -> TypeError:
    """What CuPy raises for what is not in the memory of a card."""
    return TypeError(f"Unsupported type {type(value)} in cupy.{name}")


def sent(name: str):
    """A copy from the host's pageable memory, by way of CuPy's own pinned memory: nobody waits."""
    forbid("copy")
    count("copies_to", name)


def told(name: str, a: Any = None):
    """The host waits for numbers of the card: those of a, or one that it needs for a shape."""
    forbid("wait")
    start(lambda: None, [] if a is None else memory_of(a))
    wait_here(name)
    count("copies_from", name)


def basic(slices) -> bool:
    """Does an index give a view: numbers, slices, None and `...` alone?"""
    whole = slices if isinstance(slices, tuple) else (slices,)
    plain = (slice, int, np.integer, type(None), type(Ellipsis))
    return all(isinstance(one, plain) and not isinstance(one, bool) for one in whole)


def index(one):
    """An index as CuPy takes it: a list or an array of the host is copied to the card."""
    return array(one) if isinstance(one, (list, np.ndarray, bool, np.bool_)) else one


def of(a) -> np.ndarray:
    """The memory of an array as NumPy sees it, for what plays a card's kernels and libraries."""
    return a._plain


def memory_of(a) -> list:
    """The allocation behind an array; none behind an empty one."""
    return [] if a._memory is None else [a._memory]


def view(a: Any, plain: np.ndarray, name: str) -> Any:
    """Another array of the same memory."""
    count("views", name)
    made = Held.kind.__new__(Held.kind)
    made._plain, made._memory = plain, a._memory
    made._base = a if a._base is None else a._base
    return made


def array(obj: Any, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    """An array from one of a card, or of the host, or from numbers."""
    if subok or ndmin or order not in ("K", "C", None):
        raise NotImplementedError("array(order, subok, ndmin)")
    if hasattr(obj, "__cuda_array_interface__") and not isinstance(obj, Held.kind):
        obj = of_interface(obj)
    if isinstance(obj, Held.kind):
        here = obj.device.id == memory.current()
        if dtype is not None and obj.dtype != dtype:
            return (obj if here else obj.copy()).astype(dtype)
        return obj.copy() if copy or not here else obj
    if isinstance(obj, (list, tuple)) and any(isinstance(one, Held) for one in obj):
        raise NotImplementedError("array of a list of arrays of the card")
    plain = np.asarray(obj, dtype)
    if plain.dtype.kind not in "fiubc":
        raise ValueError(f"Unsupported dtype {plain.dtype}")
    made = Held.kind(plain.shape, plain.dtype)
    sent("array")
    start(lambda: np.copyto(of(made), plain), memory_of(made))
    if blocking:
        wait_here("array, blocking")
    return made


def of_interface(obj) -> Any:
    """The array that another library describes, without a copy."""
    says = obj.__cuda_array_interface__
    pointer, _ = says["data"]
    if says.get("stream") is not None:
        wait_here("__cuda_array_interface__ with a stream")
    allocation = memory.LIVE.find(pointer) if pointer else None
    if pointer and allocation is None:
        raise RuntimeError(f"cudaErrorInvalidValue: nothing lives at {pointer:#x}")
    offset = pointer - allocation.ptr if allocation else 0
    where = memory.MemoryPointer(allocation, offset)
    made = Held.kind(says["shape"], says["typestr"], where, says.get("strides"))
    made._base = obj
    return made


def taken(value, name: str, touched: list, anywhere: bool = False) -> Any:
    """An argument of an operation as NumPy takes it; the memory it lies in is added to `touched`.

    Raises TypeError for an array of the host, ValueError for one of another card.
    """
    if not isinstance(value, Held) and hasattr(value, "__cuda_array_interface__"):
        value = of_interface(value)
    if isinstance(value, Held):
        if value._memory is not None:
            card, now = value._memory.card, memory.current()
            if card != now and not anywhere:
                raise ValueError(
                    f"Peer access unavailable: an array of card {card} in cupy.{name}, while the "
                    f"current card is {now}"
                )
            touched.append(value._memory)
        return value._plain
    if isinstance(value, (list, tuple)):
        parts = [taken(one, name, touched, anywhere) for one in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    plain = (*SCALARS, str, type(None), slice, type(Ellipsis), type, np.dtype)
    if isinstance(value, np.ndarray) or not isinstance(value, plain):
        raise refused(value, name)
    return value


def operate(
    name, compute, *arguments, out=None, field="operations", order="C", anywhere=False, **options
):
    """What `compute` of NumPy makes of arrays of the card, as an array of the card, of 0 axes
    where NumPy has a scalar.

    out       written instead, where it is given
    order     of the result in memory; "K" is that which NumPy gives it
    anywhere  arrays of other cards are welcome
    """
    count(field, name)
    if field == "products" and capturing():
        raise NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported"
        )
    touched: list = []
    plain = [taken(one, name, touched, anywhere) for one in arguments]
    options = {key: taken(one, name, touched) for key, one in options.items()}

    def work(**more):
        with np.errstate(all="ignore"):  # a card does not warn
            return compute(*plain, **options, **more)

    if out is not None:
        if not isinstance(out, Held):
            raise TypeError("return arrays must be of ArrayType")
        target = taken(out, name, touched)
        for one in plain:
            apart(target, one, name)
        if capturing():
            work(out=np.empty_like(target))  # what would be refused is refused now
        start(lambda: work(out=target), touched)
        return out
    result = work()
    if isinstance(result, tuple):
        return tuple(map(placed, result))
    made = like(result, order)
    target = made._plain  # and not `made`, which its owner may let go of
    once_more = work if capturing() else lambda: result
    start(lambda: np.copyto(target, once_more()), [*touched, *memory_of(made)])
    return made


def like(result, order: str) -> Any:
    """A new array of the current card for what NumPy has computed."""
    result = np.asarray(result)
    fortran = order == "F" or (order == "K" and not result.flags.c_contiguous)
    fortran = fortran and result.flags.f_contiguous
    return Held.kind(result.shape, result.dtype, order="F" if fortran else "C")


def placed(result) -> Any:
    """What NumPy has computed, whose shape the host has waited for, as an array of the card."""
    made = like(result, "C")
    made._plain[...] = result
    return made


def write(name: str, a: Any, slices, value):
    """a[slices] = value."""
    count("operations", name)
    touched: list = []
    target, at = taken(a, name, touched), taken(slices, name, touched)
    if isinstance(value, (list, tuple)):
        raise refused(value, name)
    plain = taken(value, name, touched)
    if basic(slices):
        apart(target[at], plain, name)

    def work(target=target):
        with np.errstate(all="ignore"):
            target[at] = plain

    if capturing():
        work(np.empty_like(target))  # what would be refused is refused now
    start(work, touched)


def apart(written, read, name: str):
    """Raise where an operation reads what it writes from other places: on a card nobody knows
    which comes first.
    """
    if not isinstance(written, np.ndarray) or not isinstance(read, np.ndarray):
        return
    same = (written.ctypes.data, written.shape, written.strides) == (
        read.ctypes.data,
        read.shape,
        read.strides,
    )
    if not same and np.shares_memory(written, read):
        raise RuntimeError(f"cupy.{name} reads memory that it writes, from other places")
