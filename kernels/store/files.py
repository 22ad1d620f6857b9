"""A folder of files that only its owner can have written, each behind its digest, all within a
bound.

What is in these files is unpickled and run. So nothing is read that another user could have put
there, nor what is not, bit by bit, what was written.
"""

import hashlib
import os
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

MARK = b"rnn_gpu kernel\n"
HEAD = len(MARK) + hashlib.sha256().digest_size
ENDING, UNFINISHED, MARKED = ".kernel", ".part", ".mark"
ABANDONED = 3600  # seconds after which nobody goes on writing
OWNERS = hasattr(os, "geteuid")  # not on Windows, where a folder of the user's is his alone
WARY = 0
for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    WARY |= getattr(os, flag, 0)  # where the system has it


class File(NamedTuple):
    name: str
    bytes: int
    used: float  # when it was last read or written, in seconds, as time.time()


class Folder:
    """Bytes by name.

    Where the folder is not its user's alone, or cannot be made, nothing is found and nothing is
    kept.
    path    of the folder; it is made when something is kept
    most    bytes of all files: those that were not used for longest go first
    """

    def __init__(self, path: Path, most: int):
        self.path, self.most = path, most

    def read(self, name: str) -> bytes | None:
        """What was kept under this name; None where there is nothing, or something else."""
        whole = name + ENDING
        with (
            suppress(OSError),
            self.entered() as here,
            opened(self.at(here, whole), os.O_RDONLY, here) as at,
        ):
            if mine(os.fstat(at), stat.S_ISREG).st_size > self.most:
                return None
            with open(at, "rb", closefd=False) as file:
                text = file.read()
            payload = payload_of(name, text)
            if payload is not None:
                with suppress(OSError):
                    os.utime(at if os.utime in os.supports_fd else self.path / whole)
                return payload
        return None

    def write(self, name: str, payload: bytes):
        """Keep these bytes, in place of what has this name: whole, or not at all."""
        if HEAD + len(payload) > self.most:
            return
        with suppress(OSError):
            self.make()
            with self.entered() as here:
                whole = self.at(here, name + ENDING)
                part = self.at(here, f"{name}.{secrets.token_hex(8)}{UNFINISHED}")
                try:
                    with (
                        opened(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, here) as descriptor,
                        open(descriptor, "wb", closefd=False) as file,
                    ):
                        file.write(head(name, payload) + payload)
                    os.replace(part, whole, src_dir_fd=here, dst_dir_fd=here)
                except BaseException:
                    removed(part, here)
                    raise
                self.trim(here)

    def make(self):
        """Make the folder, where it is not there.  Raises OSError where it cannot be."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self.path.mkdir(0o700)

    def trim(self, here):
        """Remove what was not used for longest, down to the bound, and what was never finished."""
        files = sorted(self.listed(here), key=lambda file: file.used)
        total = sum(file.bytes for file in files)
        for file in files:
            abandoned = file.name.endswith(UNFINISHED) and file.used < time.time() - ABANDONED
            if (total > self.most or abandoned) and removed(self.at(here, file.name), here):
                total -= file.bytes

    def files(self) -> list[File]:
        """Of kernels that are kept."""
        with suppress(OSError), self.entered() as here:
            return [file for file in self.listed(here) if file.name.endswith(ENDING)]
        return []

    def clear(self) -> list[File]:
        """Remove all files; returns those that were there."""
        with suppress(OSError), self.entered() as here:
            return [file for file in self.listed(here) if removed(self.at(here, file.name), here)]
        return []

    def trouble(self) -> str:
        """Why nothing is read nor kept here; "" where it can be, or the folder is yet to be
        made.
        """
        try:
            with self.entered():
                return ""
        except FileNotFoundError:
            return ""
        except OSError as error:
            return error.strerror or str(error)

    @contextmanager
    def entered(self):
        """A descriptor of the folder, the same one whatever is put in its place; None where there
        are none.
        """
        if os.open not in os.supports_dir_fd:
            mine(os.stat(self.path), stat.S_ISDIR)
            yield None
            return
        with opened(self.path, os.O_RDONLY | os.O_DIRECTORY, None) as here:
            mine(os.fstat(here), stat.S_ISDIR)
            yield here

    def at(self, here, name: str):
        return self.path / name if here is None else name

    def listed(self, here):
        with os.scandir(self.path if here is None else here) as entries:
            for entry in entries:
                if entry.name.endswith((ENDING, UNFINISHED, MARKED)):
                    with suppress(FileNotFoundError):  # another process removed it
                        status = entry.stat(follow_symlinks=False)
                        yield File(entry.name, status.st_size, status.st_mtime)


@contextmanager
def opened(path, flags: int, here):
    """A descriptor of a file or folder itself, not of what a link there points to."""
    descriptor = os.open(path, flags | WARY, 0o600, dir_fd=here)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def mine(status, kind):
    """The status; OSError unless it is of this kind, this user's, and writable by nobody else."""
    if not kind(status.st_mode):
        raise OSError("it is something else")
    if OWNERS and status.st_uid != os.geteuid():
        raise PermissionError(f"it belongs to user {status.st_uid}")
    if OWNERS and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("others may write to it")
    return status


def removed(path, here) -> bool:
    """Remove a file; is it gone? Another process may have been first."""
    try:
        os.unlink(path, dir_fd=here)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def payload_of(name: str, text: bytes) -> bytes | None:
    """What a whole file of this name holds; None where it is not what was written."""
    payload = text[HEAD:]
    return payload if text[:HEAD] == head(name, payload) else None


def head(name: str, payload: bytes) -> bytes:
    """What stands before a payload: of this name, so that no file passes for another."""
    return MARK + hashlib.sha256(name.encode() + payload).digest()
