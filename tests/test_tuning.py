"""The choice of a plan by trying: right, wrong, hanging, lost and slow plans, and what is kept of
it. Without a card: the simulator, with RNN_GPU_TUNE=1, and a schedule more, which does as it is
told.
"""

import json
import os
import subprocess
import sys
import time

import pytest

import rnn_gpu
from programs import copied, python
from rnn_gpu.cli.options import Cell
from rnn_gpu.cli.tune import tune
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda import tuning
from rnn_gpu.kernels.devices.cuda.contract import Problem
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED
from rnn_gpu.kernels.devices.cuda.schedules import H200, card, ranked
from rnn_gpu.kernels.devices.cuda.tuning import trials
from rnn_gpu.kernels.emulator.simulated import strict
from rnn_gpu.kernels.store import files, marks

pytestmark = pytest.mark.skipif(not SIMULATED, reason="trials are told what to find: simulator")
ELSEWHERE = pytest.mark.skipif(os.name != "posix", reason="signals")

# *plain* under another name, the model's favourite, whose blocks wait for each other
FAULTS = """

FAULT = os.environ.get("FAULT", "")


def forward(cell, call, choice, precision):
    if FAULT == "hangs":
        time.sleep(1000)
    if FAULT == "dies":
        os.kill(os.getpid(), 9)
    if FAULT == "refuses":
        raise RuntimeError("too many resources requested for launch")
    kernel = forward_kernel(cell, call.p.dtype.type, len(call.flags) > 0)
    launch(kernel, choice.blocks, choice.threads, call, call.W.T.copy())
    if FAULT == "wrong":
        call.s[0, -1, -1, -1] *= 1.01
    if FAULT == "slow":
        time.sleep(0.3)
    if FAULT == "writes nothing":
        call.s[0, -1] = float("nan")


def plans(problem, asked=False):
    blocks, threads = blocks_for(problem.B), threads_for(problem.n)
    cycles = 0.9 * block.plans(problem)[0].cycles
    return (Choice(name, None, blocks, threads, 0, "mine", cycles, cooperative=True),)
"""

USE = """
import json, os, subprocess, sys, warnings
import numpy as np
import rnn_gpu
from rnn_gpu.kernels.devices import cuda
from rnn_gpu.kernels.devices.cuda.tuning import trying

trying.LIMIT, begun = float(sys.argv[1]), []
popen = subprocess.Popen
trying.subprocess.Popen = lambda *given, **more: begun.append(1) or popen(*given, **more)
layers = [rnn_gpu.RNN(2, 5, device=d, dtype="float64", seed=1) for d in ("cuda", "reference")]
x = np.random.default_rng(0).normal(size=(4, 3, 2))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    y, right = (layer(x)[0] for layer in layers)
    again = layers[0](x)[0]
it = cuda.choose(layers[0].cell, "forward", 5, 3, 8)
print(json.dumps({
    "schedule": it.schedule, "why": it.why, "told": [str(one.message) for one in told],
    "processes": len(begun), "right": bool(np.allclose(y, right) and (y == again).all()),
}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A folder with a copy of the library that has this schedule."""
    path = tmp_path_factory.mktemp("library")
    folder = copied(path) / "devices" / "cuda"
    text = (folder / "plain.py").read_text(encoding="utf-8")
    text = text.replace('name = "plain"', 'name = "mine"').replace('"""The', 'r"""The', 1)
    text = text.replace(
        "from functools import cache",
        "import os\nimport time\nfrom functools import cache\nfrom . import block",
    )
    (folder / "mine.py").write_text(text + FAULTS, encoding="utf-8")
    table = folder / "schedules.py"
    text = table.read_text(encoding="utf-8")
    for old, new in (
        ("from . import block, ", "from . import block, mine, "),
        ("= (block, ", "= (mine, block, "),
    ):
        assert old in text
        text = text.replace(old, new)
    table.write_text(text, encoding="utf-8")
    return path


def settings(library, kept, fault="", **more) -> dict:
    environment = {"PYTHONPATH": library, "NUMBA_CACHE_DIR": kept, "FAULT": fault}
    environment |= {"NUMBA_ENABLE_CUDASIM": "1", "RNN_GPU_TUNE": "1", "RNN_GPU_CACHE_MB": None}
    return {name: value and str(value) for name, value in (environment | more).items()}


def used(library, kept, fault="", limit=20.0, **more) -> dict:
    """What a new process uses for one layer, and what it says of that."""
    done = python(USE, limit, **settings(library, kept, fault, **more))
    return json.loads(done.stdout.splitlines()[-1])


def test_a_plan_that_is_right_and_quick_is_used_and_kept(library, tmp_path):
    first, second = (used(library, tmp_path) for _ in range(2))
    assert first["right"] and first["processes"] == 1 and not first["told"]
    assert "measured on this card" in first["why"] and "plain" in first["why"]
    assert first["schedule"] in ("mine", "block", "plain")  # the clock of a simulator decides
    assert second == first | {"processes": 0}


@pytest.mark.parametrize(
    ("fault", "limit", "why"),
    [
        ("wrong", 20.0, "s differs from that of 'plain' by"),
        ("writes nothing", 20.0, "s differs from that of 'plain' by nan"),
        ("hangs", 2.0, "did not come back within 2 s"),
        pytest.param("dies", 20.0, "the process that tried it was lost", marks=ELSEWHERE),
    ],
)
def test_a_schedule_that_must_not_be_used_is_not_used_again(library, tmp_path, fault, limit, why):
    first = used(library, tmp_path, fault, limit)
    assert first["right"] and first["schedule"] != "mine"
    (told,) = first["told"]
    assert "'mine' is not used on" in told and why in told and "report" in told
    # nor by others, in whom nothing is wrong, for another call
    second = used(library, tmp_path)
    assert second["schedule"] != "mine" and second["right"]
    assert second["processes"] == 0 and not second["told"]


@pytest.mark.parametrize("fault", ["slow", "refuses"])
def test_a_plan_that_is_slow_or_refused_is_not_used_and_no_fault(library, tmp_path, fault):
    found = used(library, tmp_path, fault)
    assert found["right"] and found["schedule"] != "mine" and not found["told"]
    assert "mine" in found["why"]


@ELSEWHERE
def test_a_mark_that_is_found_counts_as_failed(library, tmp_path):
    """Of a process that was killed in the middle of a trial; so is what it began."""
    environment = os.environ | settings(library, tmp_path, "hangs")
    environment = {name: value for name, value in environment.items() if value is not None}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", USE, "1000"], env=environment, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.rglob("*.mark")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    found = used(library, tmp_path)
    assert found["schedule"] != "mine" and found["right"]
    (told,) = found["told"]
    assert "did not live on" in told and "elman_tanh forward, n=5, B=4, float64" in told
    assert not any(path.stat().st_size for path in tmp_path.rglob("*.mark"))


def test_where_nothing_can_be_kept_nothing_waits(library, tmp_path):
    """A folder that others may write to, and a store of no size."""
    loose = tmp_path / f"rnn_gpu-{os.geteuid()}"
    loose.mkdir()
    loose.chmod(0o777)
    for kept in ({}, {"RNN_GPU_CACHE_MB": "0"}):
        found = used(library, tmp_path, **kept)
        assert found["schedule"] == "block" and found["right"] and not found["processes"]
        assert "not tried: " in found["why"]


def test_a_damaged_record_is_asked_anew(library, tmp_path):
    assert used(library, tmp_path)["processes"] == 1
    damaged = [
        path
        for path in tmp_path.rglob("*.kernel")
        if b"measured" in path.read_bytes() or b'["mine"' in path.read_bytes()
    ]
    assert damaged
    for path in damaged:
        text = bytearray(path.read_bytes())
        text[-5] ^= 1
        path.write_bytes(text)
    found = used(library, tmp_path)
    assert found["processes"] == 1 and found["right"]


def test_the_environment_says_whether_plans_are_tried(library, tmp_path):
    """In the simulator nothing is, unless that is asked for; the model may be trusted."""
    for value in (None, "0"):
        found = used(library, tmp_path, RNN_GPU_TUNE=value)
        assert found["schedule"] == "mine" and found["processes"] == 0
        assert "mine; modelled, " in found["why"]


def test_another_value_is_refused_at_the_door(monkeypatch):
    monkeypatch.setenv("RNN_GPU_TUNE", "yes")
    with pytest.raises(rnn_gpu.ArgumentError, match="RNN_GPU_TUNE is 'yes', expected '0'"):
        rnn_gpu.LSTM(2, 3, device="cuda")


def test_two_processes_agree(library, tmp_path):
    """One tries, the other waits for what it finds."""
    environment = settings(library, tmp_path)
    inherited = {
        name: value for name, value in (os.environ | environment).items() if value is not None
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", USE, "20"],
            env=inherited,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        for _ in range(2)
    ]
    first, second = (json.loads(one.communicate(timeout=100)[0].splitlines()[-1]) for one in both)
    assert sorted((first["processes"], second["processes"])) == [0, 1]
    assert first["why"] == second["why"] and first["schedule"] == second["schedule"]


# In this process


@pytest.fixture
def tunes(monkeypatch, tmp_path):
    """Plans are tried in this test, what is found is kept apart, and nobody else sees it."""
    monkeypatch.setenv("RNN_GPU_TUNE", "1")
    monkeypatch.setattr("rnn_gpu.kernels.store.home", lambda: tmp_path)
    tuning.settled_of.cache_clear()
    yield tmp_path
    tuning.settled_of.cache_clear()
    tuning.bans.clear()


def never(*given):
    raise AssertionError("nothing is tried here")


@pytest.mark.parametrize("n", [64, 200, 512])
def test_few_plans_are_tried_and_no_two_alike(n):
    problem = Problem(CELLS["gru"], "backward", n, 16, 4, H200)
    plans = tuning.candidates(problem)
    others = [one for one in plans if one.schedule != "plain"]
    assert 1 <= len(others) <= 3 and plans[: len(others)] == tuple(others)
    assert len(plans) - len(others) == (n < 200)  # where *plain* takes far longer it only judges
    assert others[0] == ranked(problem)[0]
    assert len(set(map(tuning.kind, others))) == len(others)
    assert all(one.cycles <= tuning.WORTH * others[0].cycles for one in others)


def test_nothing_is_tried_while_a_stream_is_captured(tunes, monkeypatch):
    monkeypatch.setattr(tuning, "capturing", lambda: True)
    with monkeypatch.context() as within:
        within.setattr(tuning, "tried", never)
        assert "captured" in tuning.choose(CELLS["gru"], "forward", 5, 3, 8).why
    monkeypatch.setattr(tuning, "capturing", lambda: False)
    assert "measured" in tuning.choose(CELLS["gru"], "forward", 5, 3, 8).why


@pytest.mark.parametrize(
    ("direction", "clips", "masked"), [("forward", False, True), ("backward", True, True)]
)
def test_all_options_of_a_kernel_are_tried(tunes, direction, clips, masked):
    """And a user's own cell, which only this process has, under dropout."""

    def step(p, q, s):
        f = p[0] + q[0]
        return (s[0] + 0.25 * (f - s[0]),), (f,)

    def back(ds, kept, s, s_next):
        return (0.25 * ds[0],), (0.25 * ds[0],), (0.75 * ds[0],)

    own = CELLS["elman_tanh"]._replace(name="own", step=step, back=back)
    for cell in (own, CELLS["gru"]):
        it = tuning.choose(cell, direction, 5, 3, 4, clips, masked)
        assert "measured" in it.why and "refused" not in it.why and "differs" not in it.why
    # of a range of batches, not of one
    assert (
        tuning.choose(own, direction, 5, 4, 4, clips, masked).why
        == tuning.choose(own, direction, 5, 3, 4, clips, masked).why
    )


@pytest.mark.parametrize(
    ("direction", "precision"), [("forward", "fp32"), ("backward", "fp32"), ("forward", "tf32")]
)
def test_trials_work_on_arrays_as_strict_as_those_of_a_card(direction, precision):
    """And take the time by events."""
    options = direction == "backward", True, precision
    problem = Problem(CELLS["lstm"], direction, 5, 8, 4, card(), *options)
    choices = tuple(ranked(problem)[:2])
    with strict():
        found = [one for one in trials.tried(problem, choices) if not isinstance(one, int)]
    assert [one.wrong for one in found] == ["", ""]
    assert all(one.seconds and one.seconds > 0 for one in found)


def test_the_command_tries_what_a_model_needs(tunes, tmp_path, capsys):
    layer = rnn_gpu.GRU(2, 5, zoneout=0.1, device="cuda")
    path = tmp_path / "model.safetensors"
    rnn_gpu.Network([rnn_gpu.Bidirectional(layer), rnn_gpu.Dense(10, 1, device="cuda")]).save(path)
    tune(model=path, batch=[3])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["cell", "n", "B", "way"]
    assert [line.split()[3] for line in lines] == ["forward", "backward"]  # both layers are alike
    assert all("plain" in line and "µs a step" in line for line in lines)
    assert "measured on this card" in layer.explain(T=4, B=3)
    with pytest.raises(rnn_gpu.ArgumentError, match="either a MODEL or --cell"):
        tune(model=path, cell=Cell("lstm"))


def test_the_command_says_where_nothing_is_tried(monkeypatch):
    for value in ("", "0"):
        monkeypatch.setenv("RNN_GPU_TUNE", value)
        with pytest.raises(rnn_gpu.ArgumentError, match=f"RNN_GPU_TUNE is '{value}'.*nothing is"):
            tune(cell=Cell("lstm"))


def test_a_mark_is_for_one_at_a_time(tmp_path):
    folder = files.Folder(tmp_path / "kept", 1 << 20)
    with marks.held(folder, "name", 0.1) as mark:
        assert mark.said() is None
        mark.write(b"this")
        assert mark.said() == b"this"
        with pytest.raises(TimeoutError), marks.held(folder, "name", 0.1):
            pass
        with marks.held(folder, "other", 0.1):
            pass
    with marks.held(folder, "name", 0.1) as mark:
        assert mark.said() == b"this"
        mark.wipe()
        assert mark.said() is None
    path = tmp_path / "kept" / "name.mark"
    path.write_bytes(b"half of what was wri")
    with marks.held(folder, "name", 0.1) as mark:
        assert mark.said() is None
