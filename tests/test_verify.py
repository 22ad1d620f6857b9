"""verify: what is said of a cell that is right, of wrong ones, and of what is not here."""

import json
import os
import re
import subprocess
import sys

import pytest

import rnn_gpu
from own_cells import LEAKY
from programs import NO_GPU, python
from rnn_gpu import verification
from rnn_gpu.cli.machine import VERIFIED
from rnn_gpu.kernels import Cell
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda import schedules
from rnn_gpu.verification import Line, Verification, address, finder, verify

# A module of a user's, with one cell.
WRITTEN = """
import numpy as np
from rnn_gpu.kernels import Cell

def step(p, q, s):
    y = np.tanh(NET)
    return (STATE,), (y,)

def back(ds, kept, s, s_next):
    δ = ds[0] * (1.0 - kept[0] * kept[0])
    return (δ,), (δ,), (0.0,)

mine = Cell("mine", gates=1, states=1, kept=1, step=step, back=BACK)
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """(name, formulas) -> the address of a cell in a module of its own."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, state="y", back="back", net="p[0] + q[0]"):
        text = WRITTEN.replace("STATE", state).replace("BACK", back).replace("NET", net)
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return f"{name}:mine"

    return write


def failure(found: Verification) -> str:
    (line,) = found.failures
    return f"{line.what}: {line.said}"


def test_a_wrong_back_is_told_in_words(written):
    found = verify(written("halved", back="lambda *a: ((0.5 * back(*a)[0][0],),) * 2 + ((0.0,),)"))
    assert found.lines[0].state == "failed" and len(found.lines) == 1
    assert re.match(
        r"formulas: DerivativeError: cell 'mine': dE/dp\[0\] is given as .* slope there is",
        failure(found),
    )


def test_a_wrong_shape_is_told_in_words(written):
    assert failure(verify(written("longer", state="y, y"))) == (
        "formulas: ArgumentError: cell 'mine': s_next of step has 2 numbers, expected 1"
    )
    said = failure(verify(written("beyond", state="p[1]")))
    assert said.startswith("formulas: IndexError in step, back or what compiles: ")


def test_a_module_that_has_no_such_cell_is_told(written):
    module = written("other").partition(":")[0]
    assert "has no attribute 'yours'" in failure(verify(f"{module}:yours"))


@pytest.mark.parametrize("name", ["lstn", "nowhere_at_all:cell", ":x"])
def test_a_name_of_nothing_is_refused(name):
    with pytest.raises(rnn_gpu.ArgumentError, match=f"cell is '{name}', expected a Cell, one of"):
        verify(name)


def test_other_arguments_are_looked_at_first():
    with pytest.raises(rnn_gpu.DtypeError, match="float16"):
        verify("lstm", dtype="float16")
    with pytest.raises(rnn_gpu.ArgumentError, match="n is 0"):
        verify("lstm", n=0)


def test_other_processes_find_a_cell_where_it_is():
    assert address(CELLS["lstm"]) == "lstm"
    assert address(LEAKY) == "own_cells:LEAKY"
    assert finder("own_cells:LEAKY")() is LEAKY


def test_what_no_other_process_can_import_is_said():
    anew = Cell(*LEAKY)
    assert anew is not LEAKY
    found = verify(anew, n=3)
    assert [line.state for line in found.lines] == ["proven"] * 3 + ["not here"] * 3
    assert "a name in a module of its own" in found.lines[-1].said and found.failures == ()


def test_a_device_that_is_off_is_named(monkeypatch):
    """And by how much."""
    whole = verification.one_pass

    def off(device, *given):
        return whole(device, *given) | (
            {"dp": whole("cpu", *given)["dp"] + 1} if device == "cpu" else {}
        )

    monkeypatch.setattr(verification, "one_pass", off)
    found = verify(Cell(*LEAKY), n=3)
    assert re.match(r"cpu: dp is off by 1\.0e\+00 of", failure(found))


def test_a_process_that_breaks_is_a_failure():
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    command = [sys.executable, "-c", "import sys; sys.exit('no memory')"]
    (line,) = verification.answer("GPU", subprocess.Popen(command, **streams))
    assert line == Line("failed", "GPU", "its process ended with 1: no memory")


def command(*arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if name not in NO_GPU}
    given = [sys.executable, "-P", "-m", "rnn_gpu.cli", "verify", *arguments]
    options = {"capture_output": True, "encoding": "utf-8", "cwd": cwd, "env": environment}
    return subprocess.run(given, check=False, timeout=600, **options)


def test_the_command_fails_with_the_finding(written, tmp_path):
    done = command("--cell", written("doubled", state="y + y"), cwd=tmp_path)
    assert done.returncode == 1 and "1 of these lines failed" in done.stderr
    assert done.stdout.startswith("cell doubled:mine, float32, n = 7\nfailed  formulas")
    assert command("--cell", "lstn", cwd=tmp_path).returncode == 2


def test_cells_of_the_command_are_built_in():
    assert set(VERIFIED) <= set(CELLS)


# What needs the compiler

LOOK = """
import json, sys
from rnn_gpu import verification
from rnn_gpu.kernels.devices.cuda import schedules
from rnn_gpu.kernels.emulator.card import Card

row = zip(schedules.NAMES, schedules.SCHEDULES, strict=True)
schedules.NAMES, schedules.SCHEDULES = zip(*(one for one in row if one[0] in {names}), strict=True)
load, change = Card.load, {change}
Card.load = lambda self, code, entry, shared: load(self, change(code), entry, shared)
verification.main("executed code", *sys.argv[1:])
"""


PATIENCE = 600  # seconds; it takes 25 where nothing else runs


def executed(cell, change="bytes", names=schedules.NAMES, **environment) -> list[Line]:
    """The lines of compiled code of these schedules, its text changed before it is executed."""
    text, options = LOOK.format(change=change, names=names), NO_GPU | environment
    done = python(text, cell, "float32", "7", patience=PATIENCE, **options)
    lines = [Line(*line) for line in json.loads(done.stdout.splitlines()[-1])]
    if lines[0].state == "not here":
        assert "pip install 'numba-cuda[cu13]'" in lines[0].said
        missing = pytest.fail if os.environ.get("RNN_GPU_REQUIRE_PTX") == "1" else pytest.skip
        missing(lines[0].said)
    return lines


@pytest.mark.slow
def test_executed_code_is_proven_and_a_barrier_that_is_missing_found():
    assert [line.state for line in executed("elman_tanh")] == ["proven"] * len(schedules.NAMES)
    barriers = "(b'bar.sync', b'barrier.cluster')"
    lines = executed(
        "elman_tanh",
        f"lambda code: [code := code.replace(one, b'// ' + one) for one in {barriers}][-1]",
    )
    assert [line.state for line in lines] == ["failed"] * len(schedules.NAMES)
    for line in lines:
        first = "an mbarrier that is not initialised" if "cluster" in line.what else "race: "
        assert line.said.startswith(first)


@pytest.mark.slow
def test_float64_in_a_float32_kernel_is_told(written, tmp_path):
    cell = written("wide", net="len(s) * (p[0] + q[0])")  # a whole number that is no literal
    lines = executed(cell, names=("block", "plain"), PYTHONPATH=str(tmp_path))
    assert len(lines) == 2
    for line in lines:
        assert line.state == "failed"
        assert re.match(r"\d+ instructions compute in float64, the first `\w+", line.said)


@pytest.mark.slow
def test_a_cell_that_is_right_is_proven_on_all_that_is_here():
    found = verify("own_cells:LEAKY", dtype="float64")
    assert found.failures == ()
    assert {line.what for line in found.lines if line.state == "proven"} >= {
        "formulas",
        "gradients",
        "cpu",
        *(f"simulator: {schedule}" for schedule in schedules.NAMES),
    }
    assert str(found).startswith("cell own_cells:LEAKY, float64, n = 7\nproven")
