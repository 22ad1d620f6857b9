"""The tests run compiled CPU code and CUDA kernels in one process: on a GPU where there is one,
else in the simulator.
"""

import ctypes
import os
import sys
import tomllib
from functools import cache
from pathlib import Path

# RNN_GPU_TEST_CARD=0 runs the simulator on a machine with a GPU too.


def has_gpu() -> bool:
    try:
        return (
            os.environ.get("RNN_GPU_TEST_CARD") != "0"
            and ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
        )
    except OSError:
        return False


if has_gpu():
    os.environ.setdefault("RNN_GPU_TUNE", "0")  # tests say themselves which schedules they run
else:
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # before the first import of numba

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("the same every time", derandomize=True, database=None, deadline=None)
settings.load_profile("the same every time")

pytest.register_assert_rewrite("door", "programs", "simulation")

import compiling
from door import DOORS, MODELS
from rnn_gpu.kernels.cells import CELLS

STRICT = os.environ.get("RNN_GPU_TEST_STRICT") == "1"
DEVICES = ("reference", "cpu", "cuda")
COMPILED = {"cpu", "cuda"}
# one of each kind of cell; the others differ from the first in their activation alone
REPRESENTATIVE = ("elman_tanh", "gru", "lstm")
# of twins and oracles, relative to the largest number of an array
RTOL = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture(autouse=True, scope="session")
def strict_arrays():
    """RNN_GPU_TEST_STRICT=1: in every test the cuda device of the simulator has arrays as strict as
    CuPy's, and work that may overtake other work raises.
    """
    if not STRICT:
        yield
        return
    from rnn_gpu.kernels.emulator.arrays.order import ordered
    from rnn_gpu.kernels.emulator.simulated import strict

    with strict(), ordered():
        yield


@cache
def generators() -> list[tuple[np.random.Generator, dict]]:
    """What modules of the tests draw from, and its state before the first test."""
    here = str(Path(__file__).parent)
    modules = [
        m for m in list(sys.modules.values()) if str(vars(m).get("__file__")).startswith(here)
    ]
    drawing = [vars(module).get(name) for module in modules for name in ("RNG", "rng")]
    found = {id(one): one for one in drawing if isinstance(one, np.random.Generator)}
    return [(one, one.bit_generator.state) for one in found.values()]


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order():
    """A test draws the same whichever ran before it."""
    for generator, state in generators():
        generator.bit_generator.state = state


@pytest.fixture(autouse=True)
def flags_of_torch():
    """torch's tools for tests, where one has imported them, forbid to set its flags: they did not
    to this test.
    """
    if torch := sys.modules.get("torch"):
        frozen = torch.backends.flags_frozen.__globals__  # the module itself hides them
        frozen["__allow_nonbracketed_mutation_flag"] = True


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(params=tuple(RTOL))
def dtype(request):
    return request.param


@pytest.fixture(params=CELLS.values(), ids=CELLS)
def cell(request):
    return request.param


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request):
    """A recurrent layer of each kind, and a network of two layers."""
    return request.param()


@pytest.fixture(params=DOORS.values(), ids=DOORS)
def door(request):
    """A recurrent layer, and a network."""
    return request.param()


def pytest_collection_finish(session):
    """What takes longest begins first, where it is among the tests that run."""
    if hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    if any(
        item.path.name == "test_ptx.py" and "run" in item.fixturenames for item in session.items
    ):
        compiling.begin()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    """The same, where `pytest -n` hands tests out to processes."""
    if any("test_ptx.py::" in one for one in ids):
        compiling.begin(node.workerinput["testrunuid"])


def pytest_sessionfinish(session):
    compiling.end_all()


@pytest.hookimpl(tryfirst=True)  # before pytest looks at -m
def pytest_collection_modifyitems(items):
    """Of a test that is drawn from many cells, on a device that compiles or simulates each of them,
    a few are quick: those of `quick_on_devices`, else REPRESENTATIVE.  What is stress is slow.
    """
    for item in items:
        if item.get_closest_marker("stress"):
            item.add_marker(pytest.mark.slow)
        case = set(item.callspec.id.split("-")) if hasattr(item, "callspec") else set()
        mark = item.get_closest_marker("quick_on_devices")
        if mark is None and "cell" not in item.fixturenames:
            continue
        if case & COMPILED and not case & set(mark.args if mark else REPRESENTATIVE):
            item.add_marker(pytest.mark.slow)


def close(a, b, dtype="float64"):
    """Assert that a is b to the house's tolerance for dtype, scaled by the largest number of b."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert np.isfinite(a).all()
    if b.size:
        assert np.abs(a - b).max() <= RTOL[dtype] * max(1.0, np.abs(b).max())


@pytest.fixture(scope="session")
def project():
    path = Path(__file__).parents[1] / "pyproject.toml"
    if not path.exists():
        pytest.skip("no pyproject.toml beside the tests: this is no checkout")
    return tomllib.loads(path.read_text(encoding="utf-8"))
