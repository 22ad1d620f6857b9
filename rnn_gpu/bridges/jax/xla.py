"""Calls out of XLA's compiled programs into Python, on XLA's own memory: nothing is copied, and no
compiler is needed, for what XLA hands over is read by ctypes.

XLA's foreign function interface (jax.ffi) calls an address with a frame of structs. They are those
of xla/ffi/api/c_api.h, which jaxlib has in `jax.ffi.include_dir()`: version 0 of its interface,
whose structs only ever grow at their ends.
"""

import atexit
import ctypes
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from ctypes import c_char, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path

import jax
import numpy as np

HEADER = "xla/ffi/api/c_api.h"
MAJOR = 0  # of XLA_FFI_Api_Version: another one may order its structs in another way
METADATA = 1  # XLA_FFI_Extension_Metadata
STRING = 4  # XLA_FFI_AttrType_STRING
EXECUTE = 3  # XLA_FFI_ExecutionStage_EXECUTE
INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
DTYPES = {6: np.dtype("uint8"), 11: np.dtype("float32"), 12: np.dtype("float64")}
HANDLER = ctypes.CFUNCTYPE(c_void_p, c_void_p)  # XLA_FFI_Handler
UNDER_WAY: list[int] = []  # calls, by the addresses of their frames
QUIET = 0.1  # seconds without a call, after which none is expected
HANDLERS = []  # that XLA has the addresses of: they are called as long as the process lives


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


def version() -> tuple[int, int] | None:
    """Major and minor number of this XLA's interface, as its header has them; None without one.

    Only the header is asked: JAX may register handlers when it first looks for devices, and finds
    none at all where XLA then refuses one.
    """
    try:
        text = (Path(jax.ffi.include_dir()) / HEADER).read_text(encoding="utf-8")
        major, minor = (
            int(re.findall(rf"^#define XLA_FFI_API_{part} (\d+)", text, re.M)[0])
            for part in ("MAJOR", "MINOR")
        )
    except (OSError, IndexError):
        return None
    return major, minor


def register(name: str, work: Callable) -> bool:
    """Have XLA's programs on the CPU call `work` for custom calls of this name; False where this
    XLA's interface is another than the one above.

    work    (text, arguments, results): the attribute of the call, and NumPy's arrays on XLA's
            memory, of which it writes the results. What it raises becomes an error of XLA's
    """
    spoken = version()
    if spoken is None or spoken[0] != MAJOR:
        return False

    def handle(address: int):
        frame = Frame.from_address(address)
        if frame.extension:
            return introduce(frame, spoken)
        UNDER_WAY.append(address)
        try:
            if frame.stage == EXECUTE:
                work(text_of(frame.attributes), *map(arrays, (frame.arguments, frame.results)))
        except BaseException as error:  # nothing can be raised through XLA
            return failure(frame.api[0], f"rnn_gpu: {type(error).__name__}: {error}")
        finally:
            UNDER_WAY.remove(address)
        return None

    handler = HANDLER(handle)
    HANDLERS.append(handler)
    capsule = jax.ffi.pycapsule(ctypes.cast(handler, c_void_p).value)
    jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return True


@cache
def wait_at_the_end() -> None:
    """Have Python end only when XLA has done what it was asked for: a thread of XLA's that calls a
    Python that is no more waits for ever, and Python for it.
    """
    atexit.register(finish)


def finish() -> None:
    """Wait for all arrays, then for calls whose results nobody has kept."""
    for a in jax.live_arrays():
        with suppress(RuntimeError):  # deleted, or not computed for an error
            a.block_until_ready()
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET:
        if UNDER_WAY:
            quiet_since = time.monotonic()
        time.sleep(QUIET / 20)


def introduce(frame: Frame, spoken: tuple[int, int]) -> None:
    """XLA asks of which version the handler is."""
    asked = Asked.from_address(frame.extension)
    if asked.kind == METADATA:
        answer = asked.metadata[0].version
        answer.major, answer.minor = spoken


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
