"""Compiled kernels, executed: what the simulator cannot see, the code that a card gets.

`executed.py` runs in a process of its own, without the simulator. Without NVIDIA's compiler the
tests are skipped; RNN_GPU_REQUIRE_PTX=1 makes them fail instead.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from conftest import RTOL
from executed import GROUPS, MANY, MISSING, PLANTED, PLANTED_SHARED
from programs import NO_GPU, copied
from rnn_gpu.kernels.emulator.findings import Kind

PROGRAM = Path(__file__).with_name("executed.py")
PATIENCE = 3600
slow, stress = pytest.mark.slow, pytest.mark.stress


@cache
def lines(group: str, library: str = "") -> list[dict]:
    """What the program says of a group of cases; with the library of another folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in NO_GPU}
    environment = inherited | {name: value for name, value in NO_GPU.items() if value is not None}
    environment |= {"PYTHONPATH": library} if library else {}
    command = [sys.executable, PROGRAM, group]
    options = {"env": environment, "capture_output": True, "encoding": "utf-8"}
    done = subprocess.run(command, check=False, timeout=PATIENCE, **options)
    if done.returncode == MISSING:
        missing = pytest.fail if os.environ.get("RNN_GPU_REQUIRE_PTX") == "1" else pytest.skip
        missing(done.stderr)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == 1 + said[0]["planned"]
    return said[1:]


EVERY = [
    "quick",
    pytest.param("others", marks=slow),
    *(pytest.param(group.__name__, marks=stress) for group in MANY),
]


def test_every_group_is_looked_at():
    named = {one if isinstance(one, str) else one.values[0] for one in EVERY}
    small = {"small", "small group", "small cluster"}
    assert named | small | {"planted", "planted_shared"} == set(GROUPS)


def most(line):
    """The error that a case may have: tensor cores' numbers have few bits."""
    return {"tf32": 3e-3, "bf16": 2e-2}.get(line["product"], RTOL[line["dtype"]])


@pytest.mark.parametrize("group", EVERY)
def test_executed_kernels_compute_what_the_reference_does(group):
    wrong = {one["case"]: one for one in lines(group) if not one["error"] <= most(one)}
    assert wrong == {}
    assert all(one.get("clipped alike", True) for one in lines(group))
    assert all(one["launches"] > 0 for one in lines(group))


@pytest.mark.parametrize("group", EVERY)
def test_no_access_of_an_executed_kernel_is_wrong(group):
    assert {one["case"]: one["findings"] for one in lines(group) if one["findings"]} == {}


# barriers without which every access is in order all the same: in gemm, where a block has no other
# sample after its first; forward in block and group, where who waits for the first message comes to
# another barrier
NEEDLESS = {f"{schedule}, kernel 1: barrier 0 left out" for schedule in ("plain", "gemm")}
NEEDLESS.add("block, kernel 0: barrier 1 left out")
NEEDLESS_SHARED = {"group, kernel 0: barrier 1 left out"}
FAULTY = [
    pytest.param("planted", PLANTED, NEEDLESS, marks=slow),
    pytest.param("planted_shared", PLANTED_SHARED, NEEDLESS_SHARED, marks=stress),
]


@pytest.mark.parametrize("group, healthy, needless", FAULTY)
def test_every_planted_fault_is_found(group, healthy, needless):
    """Also where the numbers stay right; kernels without one have none of their own."""
    said = lines(group)
    faulty = [one for one in said if "fault" in one]
    missed = {one["fault"] for one in faulty if not set(one["kinds"]) & set(one["expected"])}
    assert missed == needless
    right = [one for one in faulty if one["error"] <= RTOL["float32"] and one["kinds"]]
    assert len(right) > 10 and len(faulty) > 30
    well = [one for one in said if "fault" not in one]
    assert len(well) == len(healthy) and all(one["findings"] == [] for one in well)


SOURCES = {  # file, what is put in place of what stands there, what is found in which schedule
    "no barrier between steps": (
        "block.py",
        {"cuda.syncthreads()  # the next step reads every unit": "pass"},
        Kind.READ_AFTER_WRITE,
        "block",
    ),
    "one half of packets for two": (
        "group.py",
        {
            "// one + behind": "// one % half + behind",
            "at = mail.begins + np.int64(number_at(np.uint32(i + k * threads)))\n"
            "        values[k], there": "at = np.int64(number_at(np.uint32(i + k * threads)))\n"
            "        values[k], there",
        },
        Kind.OVERWRITTEN,
        "group",
    ),
    "one mbarrier for two halves": (
        "cluster.py",
        {"Mail(other(mail.both, mail.full), mail.both": "Mail(mail.full, mail.both"},
        Kind.WAITS_FOR_EVER,
        "cluster",
    ),
    "a last state that nobody awaits": (
        "persistent_forward.py",
        {"if more:\n                hand_on_all": "if left > 0:\n                hand_on_all"},
        Kind.UNAWAITED,
        "cluster",
    ),
    "blocks that may come one after another": (
        "group.py",
        {"shared=shared, cooperative=True)": "shared=shared)"},
        Kind.NOT_RESIDENT,
        "group",
    ),
    "another sample's state": (
        "plain.py",
        {"total += A[j, i] * x[k, t, b, j]": "total += A[j, i] * x[k, t, (b + 1) % x.shape[2], j]"},
        Kind.READ_AFTER_WRITE,
        "plain",
    ),
}


@slow
@pytest.mark.parametrize("fault", SOURCES.values(), ids=SOURCES)
def test_a_fault_in_the_source_of_a_kernel_is_found(fault, tmp_path):
    """In a copy of the library."""
    file, changes, kind, schedule = fault
    path = copied(tmp_path) / "devices" / "cuda" / file
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    cases = f"small {schedule}" if f"small {schedule}" in GROUPS else "small"
    for one in lines(cases, str(tmp_path)):
        wrong = [text for text in one["findings"] if text.startswith(kind)]
        assert bool(wrong) == (schedule in one["case"].split())
