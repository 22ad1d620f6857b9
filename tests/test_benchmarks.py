"""The apparatus that measures: its rehearsal leaves files of the promised shape.

(No test here is named after a device: the apparatus runs the tests of devices itself.)
"""

import json
import math
import os
import signal
import subprocess
import sys
import tarfile
from shutil import rmtree

import pytest

from benches import BENCHMARKS, CHECKOUT, TORCH, needs_a_checkout, run, strict

pytestmark = needs_a_checkout

TABLES = ("steps", "sequence_length", "custom", "launch", "reference_points")
OTHERS = ("smoke", "tests", "micro", "tuning")
PEER = {"custom": "torch, loop"}  # elsewhere "torch"


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


# The microbenchmarks are compiled for a card that is not here

COMPILE = """
import json
from benchmarks import _barriers, _disassembly, _memories, sass
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
    found[name] = [compiled.ptx, _disassembly.OPCODE.findall(compiled.sass), compiled.stack]
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
