"""The apparatus that measures: its rehearsal leaves files of the promised shape, and its report
says no more than the files do.

(No test here is named after a device: the apparatus runs the tests of devices itself.)
"""

import ast
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from shutil import rmtree

import pytest

CHECKOUT = Path(__file__).parents[1]
BENCHMARKS = CHECKOUT / "benchmarks"
TABLES = ("steps", "sequence_length", "custom", "launch", "reference_points")
OTHERS = ("smoke", "tests", "micro", "tuning")
PEER = {"custom": "torch, loop"}  # elsewhere "torch"
# without it there is no one to be measured against
TORCH = importlib.util.find_spec("torch") is not None

pytestmark = pytest.mark.skipif(
    not BENCHMARKS.exists(), reason="no benchmarks beside the tests: this is no checkout"
)


def run(*command, **environment):
    here = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    here |= {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command,
        check=False,
        cwd=CHECKOUT,
        env=here,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def strict(path):
    def refuse(constant):
        raise ValueError(f"{path.name} has {constant}, which is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


# The rehearsal


def rehearse(folder, steps, *options, **environment):
    """(what some steps printed, how each ended, all files by name)"""
    done = run(
        "bash",
        BENCHMARKS / "gpu.sh",
        "--rehearse",
        *options,
        **in_folder(folder, steps) | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed, _, summary = done.stdout.partition("== summary")
    ends = dict(line.split(": ", 1) for line in summary.splitlines()[1:])
    del ends["everything so far"]
    files = {path.name.removesuffix(".json"): path for path in (folder / "rehearsal").iterdir()}
    return printed, ends, files


def in_folder(folder, steps):
    return {"PYTHON": sys.executable, "RNN_GPU_RESULTS": str(folder), "RNN_GPU_STEPS": steps}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The rehearsal of the steps before the tables: (folder, printed, how each ended, files)"""
    folder = tmp_path_factory.mktemp("rehearsed")
    return folder, *rehearse(folder, "smoke micro tuning suite")


@pytest.fixture(scope="module")
def rehearsed(checked):
    """The whole rehearsal: (printed, how each step ended, files by name)"""
    folder, printed, ends, _ = checked
    tables, later, files = rehearse(folder, f"{' '.join(TABLES)} report")
    return printed + tables, ends | later, files


@pytest.mark.slow
def test_the_first_minute_looks_at_every_schedule(checked):
    body = strict(checked[3]["smoke"])
    assert all(one["ok"] for one in body["results"]), body["results"]
    assert {"block", "plain"} <= {one["ran"] for one in body["results"] if "ran" in one}
    assert {"python", "numba", "cuda-core", "driver's CUDA", "cuBLAS"} <= set(body["versions"])
    assert "numba" not in body["missing"] and body["unfit"] == [] and body["complete"] is True
    (first,) = (one for one in body["results"] if one["name"] == "first-call")
    assert first["first_call_seconds"] > 0 and first["wanted_seconds"] == 0.3


@pytest.mark.slow
def test_the_microbenchmarks_give_rows(checked):
    body = strict(checked[3]["micro"])
    assert body["errors"] == {}
    only_compiled = {"clusters", "clusters_async", "resident_clusters"}
    for name, rows in body["results"].items():
        assert any("us" in row for row in rows) is (name not in only_compiled), name
        errors = {row["error"].partition(":")[0] for row in rows if "error" in row}
        assert errors <= {"not on this machine"}, rows
    assert set(body["results"]) == set(body["through"]) and body["complete"] is True
    assert {"loads_of_shared_memory", "exchange_through_L2"} | only_compiled <= set(body["results"])


@pytest.mark.slow
def test_every_plan_that_is_tried_is_right(checked):
    body = strict(checked[3]["tuning"])
    assert body["errors"] == {} and body["complete"] is True
    for row in body["results"]:
        assert len(row["trials"]) > 1 and all(one["seconds"] for one in row["trials"]), row
        assert {one["wrong"] for one in row["trials"]} == {""}, row


@pytest.mark.slow
def test_every_step_of_the_rehearsal_ends_well(rehearsed):
    printed, ends, files = rehearsed
    assert [name for name, end in ends.items() if not end.startswith("exit 0 after")] == []
    assert set(ends) == {*TABLES, "smoke", "suite", "micro", "tuning", "report"}
    assert set(files) >= {*TABLES, *OTHERS, "report.md"}
    assert "no number below is a speed" in printed


def cases_of(files):
    """What each table has measured, and each microbenchmark."""
    found = {name: [row["case"] for row in strict(files[name])["results"]] for name in TABLES[:1]}
    micro = strict(files["micro"])["results"]
    return found | {name: len(rows) for name, rows in micro.items()}


@pytest.mark.slow
def test_a_run_that_is_cut_goes_on_on_another_machine(rehearsed, tmp_path):
    """From its archive alone; what was measured stays, and in the end nothing is missing."""
    steps, first, second = "micro steps", tmp_path / "first", tmp_path / "second"
    process = subprocess.Popen(
        ["bash", BENCHMARKS / "gpu.sh", "--rehearse"],
        cwd=CHECKOUT,
        env=os.environ | in_folder(first, steps) | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    cut_at = first / "rehearsal" / "steps.json"
    for _ in process.stdout:
        if cut_at.exists():
            break
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "cut after" in printed
    before = strict(cut_at)["results"]
    assert 0 < len(before) < len(cases_of(rehearsed[2])["steps"])
    with tarfile.open(first / "gpu.tar.gz") as archive:
        log = archive.extractfile("./gpu.log").read().decode()
    assert "== steps" in log and "cut after" in log
    rmtree(first / "rehearsal")
    archive = {"RNN_GPU_ARCHIVE": str(first / "gpu.tar.gz")}
    printed, ends, files = rehearse(second, steps, "--resume", **archive)
    assert ends.pop("micro") == "complete before" and set(ends) == {"steps"}
    assert cases_of(files) == cases_of(rehearsed[2])
    assert strict(files["steps"])["results"][: len(before)] == before
    printed, ends, _ = rehearse(second, steps, "--resume", **archive)
    assert ends == {"micro": "complete before", "steps": "complete before"}
    with tarfile.open(first / "gpu.tar.gz") as archive:
        assert "./rehearsal/steps.json" in archive.getnames()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TABLES, *OTHERS])
def test_a_file_says_what_it_is(rehearsed, name):
    body = strict(rehearsed[2][name])
    assert body["name"] == name
    assert body["rehearsal"] is True
    assert {"processor", "versions", "date", "commit", "threads"} <= set(body["machine"])
    assert body["results"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_every_case_with_errors_times_and_ratios(rehearsed, name):
    body = strict(rehearsed[2][name])
    assert body["complete"] is True and body["not_reached"] == []
    for row in body["results"]:
        assert "error" not in row, row
        assert {"cell", "n", "B", "T", "m", "layers", "dtype", "threads"} == set(row["case"])
        assert {one["schedule"] for one in row["schedules"].values()} <= {"block", "plain", "gemm"}
        assert 0 <= max(row["errors"]["ours"].values()) < 1e-5
        assert {"y", "dx", "dU0", "dW0", "db0"} <= set(row["errors"]["ours"])
        assert set(row["not_measured"].values()) <= {"not on this machine"}
        for found in row["passes"].values():
            ours, peer = found["ours"], PEER.get(name, "torch")
            assert (peer in found) is TORCH is (peer not in row["not_measured"])
            for theirs in (one for other, one in found.items() if other != "ours"):
                assert math.isclose(
                    theirs["ratio"], theirs["median_us"] / ours["median_us"], rel_tol=1e-4
                )
            assert ours["q1_us"] <= ours["median_us"] <= ours["q3_us"]


@pytest.mark.slow
def test_what_only_a_card_has_is_said_to_be_missing(rehearsed):
    row = strict(rehearsed[2]["steps"])["results"][0]
    assert {"torch, CUDA graph", "torch, TF32"} <= set(row["not_measured"])
    assert row["kernels"]["torch" if TORCH else "ours"] == "not on this machine"


@pytest.mark.slow
def test_lengths_carry_memory_and_go_beyond_where_cudnn_stops(rehearsed):
    rows = strict(rehearsed[2]["sequence_length"])["results"]
    assert all("ours" in row["memory_per_step"] for row in rows)
    assert any("torch, in pieces" in row["passes"]["step"] for row in rows) is TORCH


@pytest.mark.slow
def test_the_report_of_a_rehearsal_says_so(rehearsed):
    text = rehearsed[2]["report.md"].read_text(encoding="utf-8")
    assert "REHEARSAL" in text and ("not measured yet" not in text) is TORCH


# What is refused


def test_the_simulator_is_not_measured():
    done = run(sys.executable, "-m", "benchmarks", "steps", "--quick", NUMBA_ENABLE_CUDASIM="1")
    assert done.returncode != 0 and "simulator" in done.stderr and "--rehearse" in done.stderr


def test_without_a_card_nothing_is_measured(tmp_path):
    done = run(
        "bash",
        BENCHMARKS / "gpu.sh",
        PYTHON=sys.executable,
        RNN_GPU_RESULTS=str(tmp_path),
        CUDA_VISIBLE_DEVICES="-1",
    )
    assert done.returncode == 3 and "no GPU" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*/steps.json"))


@pytest.mark.slow
def test_a_rehearsal_does_not_write_among_the_results():
    done = run(
        sys.executable,
        "-m",
        "benchmarks",
        "launch",
        "--rehearse",
        RNN_GPU_RESULTS=str(BENCHMARKS / "results"),
    )
    assert done.returncode != 0 and "RNN_GPU_RESULTS" in done.stderr
    assert not (BENCHMARKS / "results" / "rehearsal").exists()


WRONG = """
import sys
sys.argv.append("--rehearse")
from benchmarks import _contenders as c
from benchmarks._comparison import measure

class Wrong(c.Ours):
    def outcome(self):
        found = super().outcome()
        return found | {"dx": found["dx"] * 1.01}

class Failing(c.Ours):
    def forward(self):
        raise RuntimeError("on purpose\\nsecond line")

c.ENTRIES |= {"wrong": c.Entry(Wrong), "failing": c.Entry(Failing)}
row = measure(c.Problem(c.Case("gru", 3, 2, 2, m=3)), ("ours", "wrong", "failing"), ("step",))
missing = row["not_measured"]
steps, judge = sorted(row["passes"]["step"]), row["errors"]["judge"]
print(steps, missing["wrong"], missing["failing"], judge, sep="|")
"""


def test_what_is_wrong_or_fails_has_an_error_and_no_speed():
    done = run(sys.executable, "-c", WRONG)
    assert (
        done.stdout.strip()
        == "['ours']|wrong beyond 0.0003: no speed|RuntimeError: on purpose|our CPU"
    ), done.stderr


REPLAYED = """
from benchmarks import _contenders as c
from benchmarks._comparison import compare
from rnn_gpu.kernels.emulator.arrays.counts import counted
from rnn_gpu.kernels.emulator.simulated import strict

with strict():
    problem = c.Problem(c.Case("lstm", 4, 2, 3, m=3, layers=2))
    replayed = c.OursReplayed(problem)
    problem.x *= -1.5
    problem.layers[0].parameters["W"][...] *= 0.9
    with counted() as counts:
        found = replayed.outcome()
    right = c.Ours(problem).outcome()
    same = all(error == 0 for error in compare(found, right).values())  # NaN is not
    print(counts.graphs, counts.launches, same, set(found) == set(right))
"""


def test_a_graph_of_our_passes_computes_them_anew():
    done = run(sys.executable, "-c", REPLAYED, NUMBA_ENABLE_CUDASIM="1")
    assert done.stdout.strip() == "1 0 True True", done.stderr


# The CPU


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
    assert long["memory_per_step"]["ours, in segments"] < long["memory_per_step"]["ours"]
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


# The microbenchmarks are compiled for a card that is not here

COMPILE = """
import json
from benchmarks import _barriers, _memories, sass
from numba.cuda import types
if lacking := sass.missing():
    raise SystemExit(lacking)

def of(dtype):
    return types.Array(getattr(types, dtype), 1, "C")

counter, words, numbers, count = of("uint32"), of("int64"), of("float32"), types.int64
kernels = {
    "meet": (_barriers.meet_kernel(), (counter, count, counter)),
    "meet_in_block": (_barriers.meet_in_block_kernel(), (count, numbers)),
    "exchange": (_barriers.exchange_kernel(), (words, count, words, counter)),
    "push": (_barriers.push_kernel(4, True), (count, numbers)),
    "async": (_barriers.async_kernel(4, False), (count, numbers)),
    "async, relaxed": (_barriers.async_kernel(4, True), (count, numbers)),
    "broadcast": (_memories.broadcast_kernel(2), (count, numbers)),
    "ahead": (_memories.ahead_kernel(4), (numbers, count, numbers)),
}
found = {}
for name, (kernel, signature) in kernels.items():
    compiled = sass.compile_kernel(kernel, signature, (9, 0))
    found[name] = [compiled.ptx, sass.OPCODE.findall(compiled.sass), compiled.stack]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_microbenchmarks_have_the_instructions_that_they_are_about():
    done = run(sys.executable, "-c", COMPILE)
    if done.returncode:
        assert "not found" in done.stderr or "cannot be imported" in done.stderr, done.stderr
        pytest.skip(done.stderr.strip())
    found = json.loads(done.stdout)
    ptx = {name: text for name, (text, _, _) in found.items()}
    sass = {name: instructions for name, (_, instructions, _) in found.items()}
    assert {"LDG.E.STRONG.GPU", "REDG.E.ADD.STRONG.GPU"} <= set(sass["meet"])
    assert {"BAR.SYNC.DEFER_BLOCKING", "LDS", "STS"} <= set(sass["meet_in_block"])
    assert {"LDG.E.64.STRONG.GPU", "STG.E.64.STRONG.GPU"} <= set(sass["exchange"])
    assert {"UCGABAR_ARV", "UCGABAR_WAIT", "LDS"} <= set(sass["push"])
    assert ".reqnctapercluster" in ptx["push"] and "mapa.shared::cluster" in ptx["push"]
    for name in ("async", "async, relaxed"):
        assert "st.async.shared::cluster" in ptx[name] and "mbarrier.try_wait" in ptx[name]
        assert {"STAS", "SYNCS.PHASECHK.TRANS64.TRYWAIT"} <= set(sass[name]), set(sass[name])
    # the barrier at the start leaves L1 invalid; a wait that acquires does so every step
    emptied = {name: found.count("CCTL.IVALL") for name, found in sass.items()}
    assert emptied["async"] > emptied["async, relaxed"] == 1
    # eight loads in the loop, none of which is narrowed or taken out of it
    assert sum(one == "LDS.128" for one in sass["broadcast"]) >= 8
    assert "prefetch.global.L2" in ptx["ahead"] and "CCTL.E.PF2" in sass["ahead"]
    assert {name: stack for name, (_, _, stack) in found.items() if stack} == {}


# Versions


@pytest.fixture
def versions(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT))
    from benchmarks import _versions

    return _versions


def test_what_is_too_old_is_said_in_a_sentence(versions):
    here = {"numba": "0.60.0", "numba-cuda": "0.30.4", "cupy-cuda13x": "14.2.0", "torch": "1.0"}
    here |= {"driver's CUDA": "12.8", "CuPy's CUDA runtime": "13.2", "numpy": "there, unknown"}
    demanded = {"numba": [">=0.61,<0.69"], "cupy-cuda13x": [">=14.0"], "numpy": [">=2.0"]}
    assert versions.unfit(here, demanded) == [
        "numba is 0.60.0 here, and >=0.61,<0.69 is needed.",
        "The driver knows CUDA 12.8, and CuPy is built for CUDA 13: a driver for CUDA 13 is "
        "needed, or cupy-cuda12x.",
    ]


def test_the_versions_here_fit_what_the_project_demands(versions):
    demanded = versions.bounds()
    assert {"python", "numba", "numba-cuda", "cupy-cuda13x", "cuda-core"} <= set(demanded)
    assert versions.unfit(versions.packages(), demanded) == []


# The suite's outcomes

TESTED = """
import pytest

def test_right(): pass
def test_wrong(): assert 1 == 2
def test_left_out(): pytest.skip("no reason")
def test_ends_the_process():
    import os
    os._exit(7)
def test_after_it(): pass
"""


def test_outcomes_are_there_when_the_process_is_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # its pytest is nobody's worker
    from benchmarks import _outcomes

    (tmp_path / "test_some.py").write_text(TESTED)
    outcomes = tmp_path / "outcomes.jsonl"
    options = ["-q", "-p", "benchmarks._outcomes", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", str(tmp_path / "test_some.py"), *options]
    first = run(*command, RNN_GPU_OUTCOMES=str(outcomes))
    assert first.returncode == 7, first.stdout
    found = {name.partition("::")[2]: one for name, one in _outcomes.read(outcomes).items()}
    assert {name: one["outcome"] for name, one in found.items()} == {
        "test_right": "passed",
        "test_wrong": "failed",
        "test_left_out": "skipped",
        "test_ends_the_process": "began",
    }
    assert "assert 1 == 2" in "".join(found["test_wrong"]["message"])
    again = run(*command, RNN_GPU_OUTCOMES=str(outcomes))  # that test comes last now
    assert again.returncode == 7
    found = {name.partition("::")[2]: one for name, one in _outcomes.read(outcomes).items()}
    assert found["test_after_it"]["outcome"] == "passed"
    assert outcomes.read_text().count("test_right") == 2


# The report


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT))
    return importlib.import_module("benchmarks.report")


def row_of(ratio, cell="lstm", n=64, B=8, T=128, peer="torch"):
    ours = {"median_us": 100.0, "q1_us": 90.0, "q3_us": 110.0, "us_per_step": 100.0 / T}
    theirs = {"median_us": 100.0 * ratio, "us_per_step": 100.0 * ratio / T, "ratio": ratio}
    return {
        "case": {"cell": cell, "n": n, "B": B, "T": T, "m": n, "layers": 1, "dtype": "float32"},
        "schedules": {"forward": {"schedule": "block"}},
        "not_measured": {"JAX scan": "not on this machine"},
        "passes": {"forward": {"ours": ours, peer: theirs}, "step": {"ours": ours, peer: theirs}},
    }


def written(folder, **tables):
    for name, rows in tables.items():
        body = {
            "name": name,
            "rehearsal": False,
            "machine": {"gpu": "A Card", "versions": {}},
            "results": rows,
        }
        (folder / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")


def test_an_empty_folder_is_not_measured_yet(report, tmp_path):
    assert "not measured yet" in report.report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_regimes_have_mean_least_and_largest(report, tmp_path):
    written(
        tmp_path,
        steps=[
            row_of(1.0, B=1),
            row_of(4.0, B=16, n=32),
            row_of(0.5, n=512),
            row_of(3.0, n=100, B=64, cell="elman"),
        ],
    )
    text = report.report(tmp_path)
    small = next(
        line
        for line in text.splitlines()
        if line.startswith("| n ≤ 64, B ≤ 16 | forward | torch |")
    )
    assert (
        "| 2 | 2.00 | 1.00 (lstm n=64 B=1 T=128 float32) | 4.00 (lstm n=32 B=16 T=128 float32) | "
        "≥ 1: met |" in small
    )
    assert "| n ≤ 128, B ≥ 32 | forward | torch | 1 | 3.00 |" in text
    assert "| n > 256 | forward | torch | 1 | 0.50 |" in text
    assert "- micro: not measured yet" in text


def test_every_case_below_one_is_listed(report, tmp_path):
    written(
        tmp_path,
        steps=[row_of(1.0), row_of(0.5, n=512)],
        custom=[row_of(0.9, cell="softsign_lstm")],
    )
    report.report(tmp_path)
    listed = (
        (tmp_path / "report.md")
        .read_text(encoding="utf-8")
        .partition("### Cases below 1.0")[2]
        .partition("###")[0]
    )
    assert "- steps, lstm n=512 B=8 T=128 float32, forward: torch 0.50" in listed
    assert "- custom, softsign_lstm n=64 B=8 T=128 float32, step: torch 0.90" in listed
    assert "n=64 B=8 T=128 float32, forward: torch 1.00" not in listed


def test_a_flat_line_is_called_flat(report, tmp_path):
    def at(T, us):
        row = row_of(2.0, T=T)
        for one in row["passes"]["step"].values():
            one["us_per_step"] = us
        return row

    written(tmp_path, sequence_length=[at(131_072, 0.52), at(128, 0.9), at(1024, 0.5)])
    assert "| 1.04 (flat) |" in report.lengths(report.load(tmp_path)["sequence_length"]["results"])
    assert "flat" not in report.lengths([at(1024, 0.5), at(131_072, 0.7)]).partition("| 1.40")[2]


def test_failures_are_told(report, tmp_path):
    broken = {"case": row_of(1.0)["case"], "error": "ValueError: no"}
    wrong = row_of(1.0, n=7) | {"not_measured": {"ours": "wrong beyond 0.0003: no speed"}}
    written(tmp_path, steps=[broken, wrong])
    report.report(tmp_path)
    told = (
        (tmp_path / "report.md")
        .read_text(encoding="utf-8")
        .partition("### Wrong")[2]
        .partition("###")[0]
    )
    assert "n=64 B=8 T=128 float32: ValueError: no" in told and "ours: wrong beyond 0.0003" in told


def test_predictions_have_an_empty_outcome_until_there_is_a_result():
    notes = (BENCHMARKS / "NOTES.md").read_text(encoding="utf-8")
    assert "No GPU has run this code yet" in notes or any(
        (BENCHMARKS / "results").glob("*/steps.json")
    )


def cpu_row(ratio, cell, n, B, threads=1):
    row = row_of(ratio, cell=cell, n=n, B=B)
    row["case"]["threads"] = threads
    row["passes"]["step"]["ours"] |= {"gflop_per_s": 50.0, "of_peak": 0.5}
    row["passes"]["step"]["torch"]["ratio_of_minima"] = ratio
    return row | {"schedules": {}}


def test_goals_of_the_cpu_are_reached_or_missed_by_so_much(report, tmp_path):
    rows = [
        cpu_row(1.5, "lstm", 64, 1),
        cpu_row(24.0, "elman", 16, 1),
        cpu_row(1.2, "gru", 512, 64),
        cpu_row(0.9, "lstm", 64, 16, threads=2),
    ]
    own = row_of(1.21, peer="own")
    written(tmp_path, cpu=rows, cpu_own=[own])
    text = report.report(tmp_path)
    assert "- 1 thread, every case, ≥ 1: reached; least 1.20 (gru n=512 B=64" in text
    assert (
        "- 1 thread, LSTM, n ≤ 64, B = 1, ≥ 2: missed by 25%, 1 of 1 cases below; least 1.50 "
        "(lstm n=64 B=1" in text
    )
    assert "- 1 thread, LSTM, n ≤ 64, B > 1, ≥ 1.2: not measured yet" in text
    assert "- 1 thread, Elman and GRU, n ≤ 64, B = 1, ≥ 20: reached; least 24.00" in text
    assert "- 1 thread, Elman and GRU, every case, ≥ 1.25: missed by 4%, 1 of 2 cases below" in text
    assert "- 1 thread, geometric mean, ≥ 3: reached; 3.51" in text
    assert (
        "- 2 threads, every case, ≥ 1: missed by 10%" in text
        and "- 2 threads, geometric mean, ≥ 3: missed by 70%" in text
    )
    assert "- a user's activation over tanh, time ≤ 1.1: not measured yet" in text
    assert "- a user's LSTM over the built-in one, time ≤ 1.1: missed by 10%; most 1.21" in text
    full = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "- lstm n=64 B=1 T=128 float32, 1 thread: 1.50 for ≥ 2; 50.0 GFLOP/s, 50% of the peak"
        in full
    )
    assert "- cpu, lstm n=64 B=16 T=128 float32, 2 threads, step: torch 0.90" in text


def test_the_map_of_the_cpu_is_drawn(report, tmp_path):
    pytest.importorskip("matplotlib")
    written(tmp_path, cpu=[cpu_row(1.5, "lstm", 64, 1), cpu_row(24.0, "elman", 16, 1)])
    report.report(tmp_path)
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", ["README.md", "docs/measured.md"])
def test_the_pages_say_of_the_cpu_what_the_files_say(page, report):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    found = report.load(BENCHMARKS / "results" / "cpu")
    told = report.five_numbers(found) if page == "README.md" else report.cpu_part(found)
    assert text.partition(report.BEGIN)[2].partition(report.END)[0].strip() == told


# The page on vanishing gradients


@pytest.mark.slow
def test_the_page_on_vanishing_gradients_has_every_cell_with_its_horizon(tmp_path):
    done = run(
        sys.executable,
        "-m",
        "benchmarks",
        "vanishing",
        "--quick",
        "--device",
        "reference",
        "--plot",
        tmp_path / "page.png",
    )
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in done.stdout.partition("| --- |")[2].splitlines()[1:]
    ]
    cells = ["Elman tanh, torch's initial weights", "Elman tanh", "Elman ReLU", "LSTM", "GRU"]
    assert [row[:2] for row in rows] == [
        [task, cell] for task in ("adding-12", "copy-2") for cell in cells
    ]
    for _, cell, error, before, horizon, after, _ in rows:
        assert float(error) > 0 and after in ("vanishing", "healthy", "exploding")
        assert (before == "vanishing" and int(horizon) > 1) == (cell == cells[0])
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_says_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(CHECKOUT)
    from benchmarks import vanishing

    results = strict(BENCHMARKS / "results" / "cpu" / "vanishing.json")["results"]
    page = (CHECKOUT / "docs" / "vanishing.md").read_text(encoding="utf-8")
    assert vanishing.table({task: results[task] for task in vanishing.TASKS}) in page


def test_the_page_says_which_remedy_trained_best(monkeypatch):
    monkeypatch.syspath_prepend(CHECKOUT)
    from benchmarks import remedies

    results = strict(BENCHMARKS / "results" / "cpu" / "remedies.json")["results"]
    assert list(results) == list(remedies.STARTS)
    assert remedies.table(results) in (CHECKOUT / "docs" / "vanishing.md").read_text(
        encoding="utf-8"
    )
    for row in results.values():
        if row["verdict"] == "exploding":  # as gradient_flow says
            assert min(
                row["loss"], key=lambda remedy: remedies.best(row["loss"][remedy])
            ).startswith("W / ")


def test_every_remedy_can_be_tried_quickly():
    name = "speakers: tanh, W × 4"
    done = run(
        sys.executable,
        "-m",
        "benchmarks",
        "remedies",
        "--quick",
        "--device",
        "reference",
        "--start",
        name,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    assert (
        said.startswith(f"| {name} | exploding, horizon ")
        and said.count(";") == 4
        and "inf" not in said
    )
