"""The benchmarks' report and pages say no more than the files of results do."""

import importlib
import json
import sys

import pytest

from benches import BENCHMARKS, CHECKOUT, needs_a_checkout, run, strict

pytestmark = needs_a_checkout


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
    assert "flat" not in report.lengths([at(131_072, 0.5), at(1_048_576, 0.5)])


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
