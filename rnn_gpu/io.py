"""Files: named arrays and a configuration in one safetensors file, written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .errors import ModelFileError

FORMAT = "rnn_gpu 1"


def write(path, arrays: dict[str, np.ndarray], config: dict, format: str = FORMAT):
    """Write beside `path`, then rename onto it: whoever reads sees the old file or the new one."""
    path = Path(path)
    metadata = {"format": format, "config": json.dumps(config)}
    data = sorted_header(save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata))
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~umask())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def sorted_header(data: bytes) -> bytes:
    """The same file, its header in alphabetical order: safetensors' own order is that of a random hash."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def read(path, format: str = FORMAT) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the configuration of a file that `write` wrote.  Raises ModelFileError, or FileNotFoundError."""
    if os.path.isdir(path):
        raise ModelFileError(f"{path} is a folder, expected a model file")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != format:
                raise ModelFileError(f"{path} is not a model of ours: its format is {metadata.get('format')!r}, expected {format!r}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["config"])  # noqa: SIM118  no mapping
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged, or not a model file: {error}") from error
