"""The contract of a device, walked; and that a device is one file."""

import inspect
from typing import Protocol

import numpy as np
import pytest

from programs import KERNELS, NO_GPU, copied, python
from rnn_gpu import DeviceError
from rnn_gpu.device import resolve
from rnn_gpu.kernels import devices
from rnn_gpu.kernels.devices import Array, Device

FUNCTIONS = {
    name: f for name, f in vars(Device).items() if inspect.isfunction(f) and name[0] != "_"
}


def parameters(f):
    f = getattr(f, "py_func", f)
    return [(one.name, one.default) for one in inspect.signature(f).parameters.values()]


def test_every_file_of_devices_is_discovered():
    files = {path.stem for path in (KERNELS / "devices").glob("*") if path.name[0] != "_"}
    assert set(devices.NAMES) == files >= {"reference", "cpu", "cuda"}


@pytest.mark.parametrize("name", devices.NAMES)
def test_a_device_keeps_the_contract(name):
    """Every function, with the contract's parameters and defaults; and it says nothing twice."""
    device = devices.find(name)
    assert device.name == name and device.preference >= 0
    assert 0 < device.copying < 10 and device.waking >= 0
    for what, f in FUNCTIONS.items():
        _, *expected = parameters(f)
        assert parameters(getattr(device, what)) == expected, (name, what)
        assert f.__doc__ != getattr(device, what).__doc__, (name, what)


def test_the_contract_says_what_each_function_is_for():
    assert len(FUNCTIONS) > 15
    assert [what for what, f in FUNCTIONS.items() if not f.__doc__] == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_answer_what_the_library_asks(device, dtype):
    d = resolve(device)
    a = d.array(np.arange(6.0).reshape(2, 3), dtype)
    inherited = {"__dict__", "__weakref__", *vars(Protocol), *vars(type("Empty", (Protocol,), {}))}
    members = set(vars(Array)) - inherited
    assert {"shape", "__dlpack__", "__len__", "sum"} <= members
    assert [what for what in members if not hasattr(a, what)] == []
    assert a.shape == (2, 3) and (a.ndim, a.size, len(a)) == (2, 6, 2) and a.dtype == dtype
    assert d.numpy(a.T.reshape(-1)).tolist() == [0, 3, 1, 4, 2, 5]
    assert d.numpy(a.sum(0)).tolist() == [3, 5, 7] and float(a.sum()) == 15
    b = a.copy()
    b[:, 1:] = 9
    b += a
    assert d.numpy(b).tolist() == [[0, 10, 11], [6, 13, 14]] and d.numpy(a)[0, 1] == 1
    assert a.astype(np.float64).dtype == np.float64
    assert a.reshape(-1).view(np.uint8).size == 6 * a.dtype.itemsize


MIRROR = """
from .reference import *

name, preference = "mirror", 9
"""

ABSENT = """
from .reference import *

name, preference = "absent", 99


def missing(precision="fp32"):
    return "it is not built"
"""

USE = """
import numpy as np, rnn_gpu
x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("f")
grads = []
for device in ("mirror", "reference"):
    layer = rnn_gpu.LSTM(3, 4, device=device)
    layer(x)
    layer.backward(np.ones((5, 2, 4), "f"))
    grads.append(layer.grads["W"])
print((grads[0] == grads[1]).all(), rnn_gpu.LSTM(3, 4, device="auto").device)
try:
    rnn_gpu.LSTM(3, 4, device="absent")
except rnn_gpu.DeviceError as error:
    print(str(error).replace(" ", "_"))
"""


def test_a_device_is_one_file(tmp_path):
    """A copy of the library with two more files in kernels/devices has two more devices, of which
    one says that it is missing.
    """
    folder = copied(tmp_path) / "devices"
    (folder / "mirror.py").write_text(MIRROR, encoding="utf-8")
    (folder / "absent.py").write_text(ABSENT, encoding="utf-8")
    same, auto, error = python(USE, PYTHONPATH=str(tmp_path), **NO_GPU).stdout.split()
    assert (same, auto) == ("True", "mirror")
    assert error.startswith("device='absent',_but_it_is_not_built.")


def test_a_name_that_no_device_has_is_refused():
    with pytest.raises(DeviceError, match="device is 'tpu', expected one of 'auto', 'cpu', 'cuda'"):
        resolve("tpu")


LETTING_GO = """
import rnn_gpu
try:
    rnn_gpu.device("cuda")
except rnn_gpu.DeviceError:
    pass
rnn_gpu.device("auto")
print(rnn_gpu.release())
"""


def test_memory_is_let_go_of_where_a_device_was_looked_for_and_is_missing():
    assert python(LETTING_GO, **NO_GPU).stdout.split() == ["0"]
