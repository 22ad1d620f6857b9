"""Files: named arrays and a configuration in one, written whole or not at all, with a checksum.

The file is safetensors': 8 bytes that say how long the header is, the header in JSON, the arrays
one behind the other; other programs read it as such. The "crc32" among its metadata is that of the
whole file with zeros in its own place: it finds every flipped bit, and all damage within 32 bits;
of any other damage it misses one case in 4·10⁹.
"""

import errno
import itertools
import json
import math
import os
import stat
import zlib
from contextlib import contextmanager, suppress

import numpy as np

from ..errors import ArgumentError, DeviceError, ModelFileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = "rnn_gpu"  # followed by the version: 2 has a checksum, 1 had none
DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
CHUNK = 1 << 18  # bytes that are read, and summed while they are in the cache
LONGEST = 10**8  # bytes of a header, as for other readers
NO_SUM = b'"crc32":"00000000"'
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
THERE = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def path_of(name: str, path) -> str:
    """path as a str; ArgumentError, which names the argument, for what is none."""
    try:
        return os.fsdecode(path)
    except TypeError:
        raise ArgumentError(f"{name} is {path!r}, expected a path") from None


@contextmanager
def blaming(path, says: str):
    """What goes wrong within is the fault of the file at path: its words may make anything fail."""
    try:
        yield
    except (DeviceError, FileNotFoundError, ModelFileError, PermissionError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        reason = f"there is no {reason}" if isinstance(error, KeyError) else reason
        reason = reason if len(reason) < 500 else f"{reason[:500]} …"
        raise ModelFileError(f"{path} {says}: {reason}") from error


# Reading


def read(path, format: str = FORMAT, name: str = "path") -> tuple[dict[str, np.ndarray], dict, int]:
    """The arrays, the configuration and the version of a file that `write` wrote.

    name  of the argument, in the message where path is none
    Raises ModelFileError; FileNotFoundError and PermissionError are Python's own.
    """
    path = path_of(name, path)
    with blaming(path, "is damaged, or not a model file"):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # to open a pipe would wait for a writer
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise ModelFileError(f"{path} is {what}, expected a model file")
        with open(path, "rb", buffering=0) as file:
            return parse(file, format, path)


def parse(file, format: str, path):
    """As `read`, of an open file; what is wrong with it raises anything, see `blaming`."""
    size = os.fstat(file.fileno()).st_size
    start = bytearray(8)
    fill(start, file)
    length = int.from_bytes(start, "little")
    if length > min(size - 8, LONGEST):
        raise ValueError(f"its header has {length} bytes, the file {size}")
    header = bytearray(length)
    fill(header, file)
    words = json.loads(header.decode(), object_pairs_hook=without_twins)
    metadata = words.pop("__metadata__", {})
    said = metadata.get("format")
    if said not in (f"{format} 1", f"{format} 2"):
        versions = f"its format is {said!r}, expected '{format} 2' or '{format} 1'"
        raise ModelFileError(f"{path} is not a model of ours: {versions}")
    expected = ("config", "crc32", "format") if said.endswith("2") else ("config", "format")
    if sorted(metadata) != list(expected):
        raise ValueError(f"its metadata are {', '.join(metadata)}, expected {', '.join(expected)}")
    arrays = laid_out(words, size - 8 - length)
    found = zlib.crc32(start + unsummed(header, metadata.get("crc32")))
    for a in arrays.values():
        found = fill(a.reshape(-1).view(np.uint8), file, found)
    if "crc32" in metadata and metadata["crc32"] != f"{found:08x}":
        raise ValueError(f"its checksum is {metadata['crc32']}, but its bytes have {found:08x}")
    return arrays, json.loads(metadata["config"], object_pairs_hook=without_twins), int(said[-1])


def fill(buffer, file, found: int = 0) -> int:
    """Fill the buffer, bytes, from the file; carry on the checksum `found`."""
    view = memoryview(buffer)
    for first in range(0, len(view), CHUNK):
        part = view[first : first + CHUNK]
        if file.readinto(part) != len(part):
            raise ValueError("it ends too early")
        found = zlib.crc32(part, found)
    return found


def unsummed(header: bytearray, crc32: str | None) -> bytearray:
    """The header with zeros where its checksum stands."""
    return header if crc32 is None else header.replace(with_sum(crc32), NO_SUM)


def with_sum(crc32: str) -> bytes:
    """The checksum as it stands in the header."""
    return NO_SUM.replace(b"00000000", crc32.encode())


def without_twins(pairs) -> dict:
    """JSON's pairs as a dict, of which none may have the name of another."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("it has two values of one name")
    return dict(pairs)


def laid_out(words: dict, size: int) -> dict[str, np.ndarray]:
    """New arrays for those of the header, in their order in the file; they must fill its `size`
    bytes.
    """
    arrays, end = {}, 0
    for name, its in sorted(words.items(), key=lambda item: item[1]["data_offsets"]):
        if its["dtype"] not in DTYPES:
            raise ValueError(f"{name} is of dtype {its['dtype']!r}, expected {' or '.join(DTYPES)}")
        dtype, shape = DTYPES[its["dtype"]], its["shape"]
        if not all(type(count) is int and count >= 0 for count in shape):
            raise ValueError(f"{name} has the shape {shape}")
        first, end = end, end + math.prod(shape) * dtype.itemsize
        if its["data_offsets"] != [first, end] or end > size:
            came = f"{its['data_offsets']} of {size}"
            raise ValueError(f"{name} has the bytes {came}, expected {[first, end]}")
        arrays[name] = np.empty(shape, dtype)
    if end != size:
        raise ValueError(f"its arrays have {end} bytes, the file has {size} for them")
    return arrays


# Writing


def write(path, arrays: dict[str, np.ndarray], config: dict, format: str = FORMAT):
    """Write beside the file that path leads to, then rename: readers see the old one or the new
    one.

    The permissions of a file that was there stay; a link to it stays a link. OSError names path.
    """
    of_size = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    words = json.dumps(config, default=plain)
    first = header(of_size, {"format": f"{format} 2", "config": words, "crc32": "00000000"})
    parts = [np.ascontiguousarray(a).reshape(-1).view(np.uint8).data for _, a in of_size]
    found = zlib.crc32(first)
    for part in parts:
        found = zlib.crc32(part, found)
    with replacing(path) as file:
        file.write(first.replace(NO_SUM, with_sum(f"{found:08x}")))
        for part in parts:
            file.write(part)


def in_json(config):
    """config as it comes out of a file."""
    return json.loads(json.dumps(config, default=plain))


def plain(value):
    """NumPy's numbers and arrays as Python's."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    came = f"{value!r} is {type(value).__name__}"
    raise ArgumentError(f"{came}, expected what JSON can hold: it is to be written to a file")


def header(arrays, metadata: dict[str, str]) -> bytes:
    """What stands before the arrays, one behind the other."""
    names, end = {dtype: name for name, dtype in DTYPES.items()}, 0
    words: dict[str, dict] = {"__metadata__": metadata}
    for name, a in arrays:
        first, end = end, end + a.nbytes
        words[name] = {"dtype": names[a.dtype], "shape": a.shape, "data_offsets": [first, end]}
    text = json.dumps(words, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def check_place(name: str, path):
    """Raise ArgumentError, which names the argument, unless a file can be written at path."""
    try:
        with replacing(path, name, check=True):
            pass
    except OSError as error:
        reason = f"where no file can be written: {error.strerror or error}"
        raise ArgumentError(f"{name} is {os.fsdecode(path)!r}, {reason}") from None


@contextmanager
def replacing(path, name: str = "path", check: bool = False):
    """A file beside the one that path leads to, whose place it takes once all is written.

    If anything fails, it is gone, and the other as it was.

    name   of the argument, in the message where path is none
    check  True only tries: nothing takes a place
    """
    path = path_of(name, path)
    place, permissions = place_of(name, path)
    try:
        handle, beside = beside_it(os.path.dirname(place))
        own = os.fstat(handle)
        with os.fdopen(handle, "wb") as file:
            try:
                if permissions is not None:
                    os.chmod(beside, permissions)
                yield file
                file.flush()
                os.fsync(file.fileno())
                if not fcntl:
                    file.close()  # Windows renames only what is closed
                if not check:
                    os.replace(beside, place)
            finally:
                if not fcntl:
                    file.close()
                if is_at(beside, own):
                    os.unlink(beside)
        keep_names(os.path.dirname(place))
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, path) from error


def place_of(name: str, path: str) -> tuple[str, int | None]:
    """Where the file is, links followed, and its permissions; None if there is none yet."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    except ValueError as error:  # a null byte, half a character
        raise ArgumentError(f"{name} is {path!r}, expected a path: {error}") from None
    place = os.path.realpath(path)
    if os.path.isdir(place):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", path)
    if mode is not None and not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "what is there is no regular file", path)
    if not os.path.isdir(folder := os.path.dirname(place)):
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {folder!r}", path)
    return place, None if mode is None else stat.S_IMODE(mode)


def beside_it(folder: str) -> tuple[int, str]:
    """A new file, locked: its handle, and its name, the first of ours that no writer has.

    What a killed writer left, nobody has locked: it is removed. So there are never more of them
    than there were writers at once.
    """
    for k in itertools.count():
        name = os.path.join(folder, f".rnn_gpu-{k}")
        while not os.path.lexists(name) or abandoned(name):
            with suppress(FileExistsError):
                handle = os.open(name, NEW, 0o666)  # less what umask takes
                if locked(handle) is not False and is_at(name, os.fstat(handle)):
                    return handle, name
                os.close(handle)  # before it was locked, somebody took it for abandoned
    raise AssertionError  # count() has no end


def locked(handle: int) -> bool | None:
    """Lock the file, without waiting.  False if another has; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some file systems of networks
        return None
    return True


def abandoned(name: str) -> bool:
    """Remove what a writer left that was killed; False if one lives, or if that cannot be known."""
    try:
        handle = os.open(name, THERE)
    except FileNotFoundError:
        return True
    except OSError:  # another user's
        return False
    try:
        if not locked(handle):
            return False
        if is_at(name, os.fstat(handle)):
            os.unlink(name)
    except PermissionError:  # another user's, in a folder of all
        return False
    finally:
        os.close(handle)
    return True


def is_at(name: str, file: os.stat_result) -> bool:
    """Has this file that name? While it is open and locked, that stays so."""
    try:
        return os.path.samestat(os.lstat(name), file)
    except FileNotFoundError:
        return False


def keep_names(folder: str):
    """Let the folder survive a loss of power, too; Windows, where it cannot be opened, sees to
    that.
    """
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
