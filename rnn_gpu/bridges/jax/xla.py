"""Our kernels as functions of XLA's, on its own memory: nothing is copied."""

import atexit
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import jax

from . import entrance
from .frames import EXECUTE, Frame, arrays, failure, introduce, text_of

HEADER = "xla/ffi/api/c_api.h"
MAJOR = 0  # of XLA_FFI_Api_Version: another one may order its structs in another way
TARGET = "rnn_gpu"  # the name of all our calls in XLA's programs
QUIET = 0.1  # seconds without a call, after which none is expected


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


def register(work: Callable) -> bool:
    """Have XLA's programs on the CPU call us for custom calls of TARGET; False where this XLA's
    interface is another than the one above.

    work    (text, arguments, results): the attribute of the call, and NumPy's arrays on XLA's
            memory, of which it writes the results: of calls that `entrance` does not know. What it
            raises becomes an error of XLA's, but for a KeyboardInterrupt, which Python raises as
            soon as it goes on
    """
    spoken = version()
    if spoken is None or spoken[0] != MAJOR:
        return False

    def handle(address: int, _) -> int:
        frame = Frame.from_address(address)
        if frame.extension:
            return introduce(frame, spoken)
        try:
            if frame.stage == EXECUTE:
                work(text_of(frame.attributes), *map(arrays, (frame.arguments, frame.results)))
        except BaseException as error:  # nothing can be raised through XLA
            if isinstance(error, KeyboardInterrupt):
                entrance.known[entrance.INTERRUPTED] = 1
            return failure(frame.api[0], f"rnn_gpu: {type(error).__name__}: {error}")
        return 0

    capsule = jax.ffi.pycapsule(entrance.begin(handle))
    jax.ffi.register_ffi_target(TARGET, capsule, platform="cpu")
    return True


@cache
def wait_at_the_end() -> None:
    """Have Python end only when XLA has done what it was asked for: a thread of XLA's that calls a
    Python that is no more waits for ever, and Python for it.
    """
    atexit.register(finish)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=wait_for_nothing)


def wait_for_nothing() -> None:
    """What other threads did when a process was forked, nobody does in the child."""
    atexit.unregister(finish)
    entrance.known[entrance.UNDER_WAY] = 0


def finish() -> None:
    """Wait for all arrays, then for calls whose results nobody has kept."""
    for a in jax.live_arrays():
        with suppress(RuntimeError):  # deleted, or not computed for an error
            a.block_until_ready()
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET:
        if entrance.known[entrance.UNDER_WAY]:
            quiet_since = time.monotonic()
        time.sleep(QUIET / 20)
