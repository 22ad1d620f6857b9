"""A mark on disk that something is being tried: it outlives the process that dies of it.

What is tried may take the process along, or the machine. So what it is is written before, and
wiped away after: who finds it written, and nobody holding it, knows how that ended.
"""

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .files import HEAD, MARKED, Folder, head, mine, opened, payload_of

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

BEYOND = 1 << 30  # the byte of a file that is locked, where bytes are: none that is read
LOOK = 0.05  # seconds after which is looked again whether another process lets go


class Mark:
    """One that this process holds."""

    def __init__(self, name: str, descriptor: int):
        self.name, self.descriptor = name, descriptor

    def said(self) -> bytes | None:
        """What was written and never wiped away; None where there is nothing, or what was not
        written to its end: then nothing was tried yet.
        """
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        size = os.fstat(self.descriptor).st_size
        return payload_of(self.name, os.read(self.descriptor, size)) if size > HEAD else None

    def write(self, payload: bytes):
        """On the disk when this returns, in place of what was written before."""
        self.wipe()
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        os.write(self.descriptor, head(self.name, payload) + payload)
        os.fsync(self.descriptor)

    def wipe(self):
        os.ftruncate(self.descriptor, 0)
        os.fsync(self.descriptor)


@contextmanager
def held(folder: Folder, name: str, patience: float) -> Iterator[Mark]:
    """The mark of this name, for this process alone; no other has it, nor keeps it by dying.

    Raises OSError where nothing can be kept; TimeoutError, one of these, where another process
    holds it for longer than `patience` seconds.
    """
    if folder.most < HEAD:
        raise OSError("nothing is kept on disk: RNN_GPU_CACHE_MB is 0")
    folder.make()
    end = time.monotonic() + patience
    with (
        folder.entered() as here,
        opened(folder.at(here, name + MARKED), os.O_RDWR | os.O_CREAT, here) as descriptor,
    ):
        mine(os.fstat(descriptor), stat.S_ISREG)
        while not taken(descriptor):
            if time.monotonic() > end:
                raise TimeoutError(f"another process has held it for {patience:g} seconds")
            time.sleep(LOOK)
        try:
            yield Mark(name, descriptor)
        finally:
            with suppress(OSError):
                let_go(descriptor)


def taken(descriptor: int) -> bool:
    """Take a file for this process; is it?  It is let go when the process ends, however."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, BEYOND, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def let_go(descriptor: int):
    if sys.platform == "win32":
        os.lseek(descriptor, BEYOND, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
