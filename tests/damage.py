"""Files taken apart and put together again: with other content and the checksum of it, or with
damage that no checksum fits.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np

import rnn_gpu
from door import parameters_of, same

NO_SUM = b'"crc32":"00000000"'


def apart(path):
    """The header of a safetensors file as a dict, its configuration, and the bytes of its
    arrays.
    """
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    return header, config_of(header), data[end:]


def config_of(header):
    try:
        return json.loads(header["__metadata__"]["config"])
    except (KeyError, ValueError):
        return None


def together(path, header, config, arrays: bytes):
    """Write what `apart` gave, with the checksum of it where there is one; config None leaves that
    of the header.
    """
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict):
        metadata |= {} if config is None else {"config": json.dumps(config)}
        metadata |= {"crc32": "00000000"} if "crc32" in metadata else {}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + arrays
    path.write_bytes(data.replace(NO_SUM, b'"crc32":"%08x"' % zlib.crc32(data), 1))


def leaves(value, at=()):
    """The place of every value within dicts and lists, and of these themselves."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, one in inside:
        yield (*at, name)
        yield from leaves(one, (*at, name))


def put(value, at, change):
    """value, but for what `change` (the dict or list there, the name) does at the place."""
    whole = inside = deepcopy(value)
    for name in at[:-1]:
        inside = inside[name]
    change(inside, at[-1])
    return whole


OTHERS = [
    -1,
    math.nan,
    math.inf,
    -math.inf,
    10**30,
    10**400,
    1.5,
    0,
    None,
    True,
    "x",
    "",
    [],
    {},
    [[[]]],
    {"custom": "x"},
]


def other(value):
    def change(inside, name):
        inside[name] = value

    return change


def gone(inside, name):
    del inside[name]


def renamed(inside, name):
    if isinstance(inside, dict):
        inside[f"{name}_"] = inside.pop(name)
    else:
        inside.reverse()


def twice(inside, name):
    inside[name] = [inside[name], inside[name]]


def any_of(rng, values):
    return values[rng.integers(len(values))]


RAW = ("flip", "cut", "more", "blank")  # the checksum then is wrong
KINDS = (*RAW, "header", "number", "gone", "renamed", "twice", "value", "value", "value")


def hurt(rng, whole: bytes, path) -> str:
    """Write the file `whole` to path with one damage, of a kind and place that rng draws.  Returns
    the kind.
    """
    path.write_bytes(whole)
    kind, data, place = any_of(rng, KINDS), bytearray(whole), int(rng.integers(len(whole)))
    if kind == "flip":
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[place:]
    elif kind == "more":
        data += rng.bytes(1 + place % 20)
    elif kind == "blank":  # a block that did not reach the disk
        data[place : place + 512] = bytes(len(data[place : place + 512]))
    if kind in RAW:
        path.write_bytes(data)
        return kind if data != whole else hurt(rng, whole, path)
    header, config, arrays = apart(path)
    if kind == "number":
        numbers = np.frombuffer(arrays, "<f4").copy()
        numbers[rng.integers(len(numbers))] = any_of(rng, [np.nan, np.inf, -np.inf, -1, 1e30])
        together(path, header, config, numbers.tobytes())
    elif kind == "header":
        places = [at for at in leaves(header) if at[-1] != "crc32"]
        change = any_of(rng, [gone, renamed, twice, *map(other, OTHERS)])
        together(path, put(header, any_of(rng, places), change), None, arrays)
    else:
        change = {"gone": gone, "renamed": renamed, "twice": twice}.get(kind) or other(
            any_of(rng, OTHERS)
        )
        together(path, header, put(config, any_of(rng, list(leaves(config))), change), arrays)
    return kind


def accepted(kind, read, *what) -> bool:
    """Is it read? Else it must be refused with an error of ours, as it must where the checksum is
    wrong.
    """
    try:
        read(*what)
    except (rnn_gpu.ArgumentError, rnn_gpu.ModelFileError):
        return False
    assert kind not in RAW
    return True


def damaged_models(network, path, times: int, seed=0):
    """Damage a model's file so many times: it is refused, or what it says is what comes out of it.
    Counts (kind, accepted).
    """
    network.save(path)
    rng, whole, counts = np.random.default_rng(seed), path.read_bytes(), Counter()

    def read(path):
        again = rnn_gpu.load(path, device="reference")
        _, config, arrays = apart(path)
        assert json.loads(json.dumps(again.config())) == config
        assert (
            b"".join(again.parameters[name].tobytes() for name in sorted(again.parameters))
            == arrays
        )

    for _ in range(times):
        kind = hurt(rng, whole, path)
        counts[kind, accepted(kind, read, path)] += 1
    return counts


def damaged_checkpoints(whole: bytes, path, make, fit, times: int, seed=0):
    """Damage a checkpoint so many times: it is refused and nothing changes, or training goes on.
    Counts (kind, accepted).

    make() -> a network and its optimizer that have trained, fit(network, optimizer, path) resumes
    """
    rng, counts, trained = np.random.default_rng(seed), Counter(), make()
    before = everything(*trained)
    for _ in range(times):
        kind = hurt(rng, whole, path)
        went_on = accepted(kind, fit, *trained, path)
        counts[kind, went_on] += 1
        if went_on:
            trained = make()
        else:
            same(everything(*trained), before)
    return counts


def everything(network, optimizer) -> dict:
    """All of both that training changes, copied."""
    moments = {
        f"{name} {k}": a.copy()
        for name, held in optimizer.state.items()
        for k, a in enumerate(held)
    }
    counts = {
        "steps": np.array(optimizer.steps),
        "passes": np.array(rnn_gpu.network.checkpoint.passes(network)),
    }
    return parameters_of(network) | moments | counts


# Killed writers

SAVES = """
network = rnn_gpu.Network([rnn_gpu.LSTM(30, 40, device="reference")])
while True:
    network.save(path)
"""
CHECKPOINTS = """
where = {"device": "reference"}
network = rnn_gpu.Network([rnn_gpu.GRU(20, 40, **where), rnn_gpu.Dense(40, 1, **where)])
x, y = [np.ones((2, 20), "float32")] * 4, [np.ones((2, 1), "float32")] * 4
network.fit(x, y, epochs=10**6, batch_size=1, checkpoint=path, checkpoint_every=1, progress=False,
            resume=path if os.path.exists(path) else None)
"""
BEGIN = """
import os, sys
import numpy as np, rnn_gpu
path = sys.argv[1]
"""


def killed(program: str, folder, times: int):
    """Kill a process that runs the program, which writes folder/file again and again, and yield
    that path, each time.

    Asserts that nothing lies beside the file but one that was being written.
    """
    environment = os.environ | {"PYTHONPATH": str(Path(rnn_gpu.__file__).parents[1])}
    path, rng, others = folder / "file", np.random.default_rng(0), 0
    for _ in range(times):
        before = path.stat().st_ino if path.exists() else None
        run = subprocess.Popen(
            [sys.executable, "-c", BEGIN + program, path], env=environment, stderr=subprocess.PIPE
        )
        end = time.monotonic() + 120
        while (
            run.poll() is None
            and time.monotonic() < end
            and (not path.exists() or path.stat().st_ino == before)
        ):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        run.kill()
        _, says = run.communicate(timeout=120)
        assert run.returncode == -signal.SIGKILL, says.decode()
        beside = sorted(set(os.listdir(folder)) - {path.name})
        assert beside in ([], [".rnn_gpu-0"])
        others += len(beside)
        yield path
    print(f"{times} kills, {others} of them while a file was being written")
