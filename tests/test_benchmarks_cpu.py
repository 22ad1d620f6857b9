"""The benchmarks of the CPU: inference, training, own cells, lengths, the whole job."""

import ast
import math
import sys

import pytest

from benches import TORCH, needs_a_checkout, run, strict

pytestmark = needs_a_checkout


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory):
    """(what it printed, its files by name)"""
    folder = tmp_path_factory.mktemp("on_the_cpu")
    done = run(
        sys.executable,
        "-m",
        "benchmarks",
        "cpu",
        "--rehearse",
        "--cells",
        "lstm",
        "--threads",
        "1",
        RNN_GPU_RESULTS=str(folder),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, {
        path.name.removesuffix(".json"): path for path in (folder / "rehearsal").iterdir()
    }


@pytest.mark.slow
def test_the_cpu_has_inference_and_training_with_their_share_of_the_peak(on_the_cpu):
    body = strict(on_the_cpu[1]["cpu"])
    assert [
        (row["case"]["cell"], row["case"]["T"], row["case"]["threads"]) for row in body["results"]
    ] == [("lstm", 3, 1), ("lstm", 4, 1)]
    for row in body["results"]:
        assert row["explain"].startswith("cpu: ") and row["errors"]["judge"] == (
            "torch" if TORCH else "our reference"
        )
        assert {"y", "dx", "dU0", "dW0", "db0"} <= set(row["errors"]["ours"]) and max(
            row["errors"]["ours"].values()
        ) < 1e-5
        assert set(row["passes"]) == {"inference", "step"}
        for what, found in row["passes"].items():
            assert set(found) == {"ours", "torch"} if TORCH else {"ours"}
            flop = (3 if what == "step" else 1) * 2 * row["case"]["T"] * 2 * 4 * 5 * 10
            assert math.isclose(
                found["ours"]["gflop_per_s"], 1e-3 * flop / found["ours"]["median_us"], rel_tol=1e-4
            )
            assert math.isclose(
                found["ours"]["of_peak"],
                1e9 * found["ours"]["gflop_per_s"] / body["peak_flop_per_s"]["1"],
                rel_tol=1e-4,
            )


@pytest.mark.slow
def test_a_users_cell_is_measured_against_the_built_in_one(on_the_cpu):
    rows = strict(on_the_cpu[1]["cpu_own"])["results"]
    assert [row["case"]["cell"] for row in rows] == ["lstm"]
    for row in rows:
        assert row["not_measured"] == {} and set(row["errors"]) == {"ours", "own"}
        assert all(
            set(found) == {"ours", "own"} and found["own"]["ratio"] > 0
            for found in row["passes"].values()
        )


@pytest.mark.slow
def test_goals_of_the_cpu_are_printed_one_by_one(on_the_cpu):
    printed, files = on_the_cpu
    for goal in (
        "every case",
        "LSTM, n ≤ 64, B = 1",
        "LSTM, n ≤ 64, B > 1",
        "Elman and GRU, n ≤ 64, B = 1",
        "Elman and GRU, every case",
    ):
        assert f"\n- 1 thread, {goal}, ≥ " in printed
    assert (
        "\n- a user's activation over tanh, time ≤ 1.1: " in printed
        and "\n- a user's LSTM over the built-in one" in printed
    )
    assert "Below a goal" in files["report.md"].read_text(encoding="utf-8")


ALONE = """
import sys
sys.argv.append("--cpu")
sys.modules["torch"] = None  # importing it fails
from benchmarks import _contenders as c
from benchmarks._comparison import measure

case = c.Case("elman", 3, 2, 2, m=3, threads=1)
row = measure(c.Problem(case), ("ours", "torch"), c.ON_THE_CPU)
found = [sorted(found) for found in row["passes"].values()]
print(found, row["not_measured"], row["errors"]["judge"])
assert max(row["errors"]["ours"].values()) < 1e-5
"""


@pytest.mark.slow
def test_without_torch_the_cpu_is_measured_alone_and_judged_by_the_reference():
    done = run(sys.executable, "-c", ALONE)
    assert (
        done.stdout.strip() == "[['ours'], ['ours']] {'torch': 'not on this machine'} our reference"
    ), done.stderr
    assert done.returncode == 0, done.stderr


PLAN = """
from benchmarks import cpu

cases = cpu.cases(["elman", "lstm"], [64, 512], [1, 64], [64, 512], [1])
whole = sum(cpu.expected_seconds(case, {1: 1e11}) for case in cases)
for seconds in (whole, 0.999 * whole, 0):
    kept, left_out = cpu.planned(cases, seconds, {1: 1e11})
    assert sorted(kept + left_out) == sorted(cases)
    print(len(left_out), {case.T for case in left_out}, *left_out[:1])
"""


def test_what_the_time_does_not_allow_is_left_out_longest_first_and_never_of_the_shortest():
    done = run(sys.executable, "-c", PLAN)
    longest = (
        "{512} Case(cell='lstm', n=512, B=64, T=512, m=512, layers=1, dtype='float32', threads=1)"
    )
    assert done.stdout.splitlines() == ["0 set()", f"1 {longest}", f"8 {longest}"], done.stderr


@pytest.mark.slow
def test_lengths_on_the_cpu_carry_what_a_step_holds(tmp_path):
    done = run(
        sys.executable,
        "-m",
        "benchmarks",
        "sequence_length",
        "--cpu",
        "--rehearse",
        "--quick",
        RNN_GPU_RESULTS=str(tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    short, long = strict(tmp_path / "rehearsal" / "sequence_length.json")["results"]
    assert "too little to tell" in short["memory_per_step"].values()
    ours = {"ours", "ours, parallel", "ours, in segments", "ours, parallel, in segments"}
    # of 600 KB in all a few pages are chance: see test_memory for what segments save
    assert long["memory_per_step"]["ours, in segments"] < 1.25 * long["memory_per_step"]["ours"]
    assert set(long["memory_per_step"]) == (ours | {"torch"} if TORCH else ours)
    array = 4 * 2 * 5  # bytes a step of (T, B, n)
    assert all(4 * array < size for size in long["memory_per_step"].values()), long[
        "memory_per_step"
    ]
    assert long["memory_per_step"]["ours"] < 40 * array


OURS = "from benchmarks import train; train.TORCH.clear(); train.main()"


THEIRS = "from benchmarks import train; print(*(train.in_torch(2, k) for k in (0, 1)), sep='\\n')"


@pytest.fixture(scope="module")
def job():
    """Rows of the training job's table: who, seconds of the process, of its epochs, of compiling,
    loss, accuracy.
    """
    done = run(sys.executable, "-c", OURS, "--quick")
    lines = done.stdout.partition("| --- |")[2].splitlines()[1:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in rows] == ["ours, first run", "ours"], done.stderr
    return rows


@pytest.mark.slow
def test_the_training_job_is_timed_with_and_without_compiling(job):
    for _, process, epochs, compiling, *outcome in job:
        assert float(process) > float(epochs) + float(compiling)
        assert outcome == job[0][4:]
    assert float(job[0][3]) > float(job[1][3])


@pytest.mark.slow
@pytest.mark.skipif(not TORCH, reason="no torch here")
def test_the_training_job_is_the_same_in_torch(job):
    done = run(sys.executable, "-c", THEIRS)
    found = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert len(found) == 2, done.stderr
    for theirs in found:
        assert theirs["process_seconds"] > theirs["epoch_seconds"]
        assert math.isclose(theirs["loss"], float(job[0][4]), abs_tol=2e-4)
        assert math.isclose(theirs["accuracy"], float(job[0][5]), abs_tol=0.01)
