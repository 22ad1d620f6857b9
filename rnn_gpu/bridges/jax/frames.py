"""What XLA hands over when it calls out of a program, read by ctypes: no compiler is needed.

XLA's foreign function interface (jax.ffi) calls an address with a frame of structs. They are those
of xla/ffi/api/c_api.h, which jaxlib has in `jax.ffi.include_dir()`: version 0 of its interface,
whose structs only ever grow at their ends.
"""

import ctypes
import math
from ctypes import c_char, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p

import numpy as np

METADATA = 1  # XLA_FFI_Extension_Metadata
STRING = 4  # XLA_FFI_AttrType_STRING
EXECUTE = 3  # XLA_FFI_ExecutionStage_EXECUTE
INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
DTYPES = {6: np.dtype("uint8"), 11: np.dtype("float32"), 12: np.dtype("float64")}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class Version(ctypes.Structure):
    """XLA_FFI_Api_Version."""

    _fields_ = (("size", c_size_t), ("extension", c_void_p), ("major", c_int), ("minor", c_int))


class Api(ctypes.Structure):
    """XLA_FFI_Api, as far as it is used: its first function makes an error."""

    _fields_ = (
        ("size", c_size_t),
        ("extension", c_void_p),
        ("version", Version),
        ("internal", c_void_p),
        ("error", c_void_p),
    )


class Several(ctypes.Structure):
    """XLA_FFI_Args, and XLA_FFI_Rets: the addresses of buffers."""

    _fields_ = (
        ("size", c_size_t),
        ("extension", c_void_p),
        ("count", c_int64),
        ("kinds", c_void_p),
        ("at", ctypes.POINTER(c_void_p)),
    )


class Attributes(ctypes.Structure):
    """XLA_FFI_Attrs."""

    _fields_ = (
        ("size", c_size_t),
        ("extension", c_void_p),
        ("count", c_int64),
        ("kinds", ctypes.POINTER(c_int)),
        ("names", c_void_p),
        ("at", ctypes.POINTER(c_void_p)),
    )


class Frame(ctypes.Structure):
    """XLA_FFI_CallFrame, without what comes behind its attributes."""

    _fields_ = (
        ("size", c_size_t),
        ("extension", c_void_p),
        ("api", ctypes.POINTER(Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", Several),
        ("results", Several),
        ("attributes", Attributes),
    )


class Buffer(ctypes.Structure):
    """XLA_FFI_Buffer."""

    _fields_ = (
        ("size", c_size_t),
        ("extension", c_void_p),
        ("dtype", c_int),
        ("data", c_void_p),
        ("rank", c_int64),
        ("shape", ctypes.POINTER(c_int64)),
    )


class Text(ctypes.Structure):
    """XLA_FFI_ByteSpan."""

    _fields_ = (("at", c_void_p), ("length", c_size_t))


class Metadata(ctypes.Structure):
    """XLA_FFI_Metadata."""

    _fields_ = (
        ("size", c_size_t),
        ("version", Version),
        ("traits", c_uint32),
        ("state", c_int64),
    )


class Asked(ctypes.Structure):
    """XLA_FFI_Metadata_Extension: XLA asks what a handler is."""

    _fields_ = (
        ("size", c_size_t),
        ("kind", c_int),
        ("next", c_void_p),
        ("metadata", ctypes.POINTER(Metadata)),
    )


class Failure(ctypes.Structure):
    """XLA_FFI_Error_Create_Args."""

    _fields_ = (
        ("size", c_size_t),
        ("extension", c_void_p),
        ("message", c_char_p),
        ("code", c_int),
    )


def introduce(frame: Frame, spoken: tuple[int, int]) -> int:
    """XLA asks of which version the handler is.  Returns 0, no error."""
    asked = Asked.from_address(frame.extension)
    if asked.kind == METADATA:
        answer = asked.metadata[0].version
        answer.major, answer.minor = spoken
    return 0


def failure(api: Api, message: str) -> int:
    """The address of an error, which is then XLA's."""
    told = Failure(ctypes.sizeof(Failure), None, message.encode(), INTERNAL)
    return ctypes.CFUNCTYPE(c_void_p, c_void_p)(api.error)(ctypes.addressof(told))


def text_of(attributes: Attributes) -> str:
    """The one attribute of a call, a string."""
    if attributes.count != 1 or attributes.kinds[0] != STRING:
        raise TypeError(f"a call has {attributes.count} attributes, expected a string")
    text = Text.from_address(attributes.at[0])
    return ctypes.string_at(text.at, text.length).decode()


def arrays(several: Several) -> list[np.ndarray]:
    """NumPy's arrays on all of the buffers."""
    return [array(several.at[i]) for i in range(several.count)]


def array(address: int) -> np.ndarray:
    """NumPy's array on the memory of a buffer."""
    buffer = Buffer.from_address(address)
    shape, dtype = tuple(buffer.shape[: buffer.rank]), DTYPES[buffer.dtype]
    size = math.prod(shape) * dtype.itemsize
    if size == 0:  # which has no address
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, (c_char * size).from_address(buffer.data))
