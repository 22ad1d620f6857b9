"""The command on data of one's own: tables that are read or refused, forecasts, classes, texts."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from rnn_gpu import ArgumentError, cli, data, load
from rnn_gpu.cli.choices import Chosen
from rnn_gpu.cli.forecasts import Forecasts
from rnn_gpu.cli.jobs import job_of
from rnn_gpu.cli.series import read_series

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = ("--hidden", 4, "--epochs", 2, "--device", "reference")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """The command in an empty folder: (*arguments) -> exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["rnn-gpu", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return command


def hourly(count: int, missing=()) -> str:
    """A CSV file: a day's wave with noise, hour by hour, and temperatures."""
    rng = np.random.default_rng(0)
    lines = ["time,load,temperature,note"]
    for k in range(count):
        when = np.datetime64("2024-01-01T00:00") + np.timedelta64(k, "h")
        load = 100 + 20 * np.sin(2 * np.pi * k / 24) + rng.normal()
        lines.append(f"{when},{'' if k in missing else f'{load:.3f}'},{rng.normal():.2f},x")
    return "\n".join(lines) + "\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "series.csv"
    path.write_text(hourly(400))
    return path


def chosen(path, **options) -> Chosen:
    return Chosen(str(path), **{"target": "load", "window": 24} | options).resolved()


# what comes in


def test_a_series_has_its_target_first_and_leaves_out_what_is_no_number(table):
    series = read_series(chosen(table))
    assert series.names == ("load", "temperature") and series.left_out == ("note",)
    assert series.values.shape == (400, 2) and series.known == 400
    assert series.times[1] - series.times[0] == np.timedelta64(3600, "s")
    assert series.season == (168, "last week") and series.periods == ("day", "week")


WRITTEN = {
    "semicolons and decimal commas": ("t;load\n2024-01-01;1,5\n2024-01-02;2,5\n", {"decimal": ","}),
    "tabs": ("t\tload\n2024-01-01\t1.5\n2024-01-02\t2.5\n", {}),
    "dates of one's own": ("t,load\n01.01.2024,1.5\n02.01.2024,2.5\n", {"dates": "%d.%m.%Y"}),
    "a byte order mark": ("\ufefft,load\n2024-01-01T00:00:00Z,1.5\n2024-01-02T00:00Z,2.5\n", {}),
    "quotes": ('"t","load"\r\n"2024-01-01","1.5"\r\n"2024-01-02","2.5"\r\n', {}),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_files_as_they_are_written(kind, tmp_path):
    text, options = WRITTEN[kind]
    (tmp_path / "a.csv").write_bytes(text.encode())
    series = read_series(chosen(tmp_path / "a.csv", **options))
    assert series.values[:, 0].tolist() == [1.5, 2.5]
    assert series.times.tolist() == np.array(["2024-01-01", "2024-01-02"], "M8[s]").tolist()


REFUSED = {
    "no number": ("t,load\n2024-01-01,1\n2024-01-02,x1\n", "line 3, column load: 'x1' is no num"),
    "a decimal comma": ("t;load\n2024-01-01;1,5\n", 'line 2, column load: .* say --decimal ","'),
    "infinity": ("load\n1\ninf\n", "line 3, column load: 'inf' is no number"),
    "a gap": ("load,b\n1,2\n,3\n4,5\n", "line 3, column load: a number is missing, .*--missing"),
    "a gap beside": ("load,b\n1,2\n2,NA\n4,5\n", "line 3, column b: a number is missing"),
    "a short row": ("load,b\n1,2\n3\n", "line 3 has 1 cells, expected 2"),
    "no column": ("a,b\n1,2\n3,4\n", "--target is 'load', which .* columns are a, b"),
    "no names": ("1,2\n3,4\n", "line 1 has 1, 2, expected the names"),
    "a name twice": ("load,load\n1,2\n", "line 1: its names are"),
    "no rows": ("load\n", "has no rows"),
    "two delimiters": ("t;load,b\n1;2\n", "line 1 has both ; and ,"),
    "time back": ("t,load\n2024-01-02,1\n2024-01-01,2\n", "line 3, column t: .* not later"),
    "a row that is missing": (
        "t,load\n2024-01-01,1\n2024-01-02,2\n2024-01-03,2\n2024-01-05,3\n",
        "line 5, column t: 1 rows are missing before it",
    ),
    "an odd step": (
        "t,load\n2024-01-01,1\n2024-01-02,2\n2024-01-03,2\n2024-01-03T07:00,3\n",
        "line 5, column t: 25200 seconds after the row before, expected steps of 86400 seconds",
    ),
    "a time that is none": ("t,load\n2024-01-01,1\nlater,2\n", "line 3, column t: 'later' is no t"),
    "nothing known": ("load,b\n,2\n,3\n", "column load has no number"),
    "an open quote": ('t,load\n"2024,1\n', "line 2"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_wrong_with_a_file_is_said_with_its_line(kind, tmp_path):
    text, message = REFUSED[kind]
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ArgumentError, match=message):
        read_series(chosen(tmp_path / "a.csv"))


def test_bytes_that_are_no_utf8_are_said(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"load\n\xff\n")
    with pytest.raises(ArgumentError, match="not UTF-8 at byte 5"):
        read_series(chosen(tmp_path / "a.csv"))


def test_gaps_are_steps_that_do_not_happen(tmp_path):
    """Cells that are empty, and rows that are not there: windows have the rows that are."""
    lines = hourly(400, missing=(50, 51)).splitlines(keepends=True)
    (tmp_path / "a.csv").write_text("".join(lines[:61] + lines[64:]))
    job = Forecasts(chosen(tmp_path / "a.csv", missing="mask"))
    assert job.series.values.shape == (400, 2)
    assert np.flatnonzero(np.isnan(job.series.values[:, 0])).tolist() == [50, 51, 60, 61, 62]
    train = job.parts["train"]
    there = {int(row): len(x) for row, x in zip(train.rows, train.x, strict=True)}
    assert not {50, 51, 60, 61, 62} & set(there)
    assert [there[row] for row in (49, 52, 63, 87)] == [24, 22, 19, 24]


# parts


def test_parts_follow_each_other_and_the_scaler_knows_only_the_first(table):
    job = Forecasts(chosen(table, test="0.25", validation=0.2, horizon=3))
    assert job.borders == (240, 300)
    rows = {name: (int(part.rows[0]), int(part.rows[-1])) for name, part in job.parts.items()}
    assert rows == {"train": (24, 237), "validation": (240, 297), "test": (300, 397)}
    values = job.series.values
    assert np.allclose(job.scaler.shift, values[:240].mean(0))
    assert np.allclose(job.truth("test")[5], values[305:308, 0])


def test_the_test_part_may_begin_at_a_date(table):
    job = Forecasts(chosen(table, test="2024-01-11"))
    assert job.borders[1] == 240
    with pytest.raises(ArgumentError, match="--test is 'soon', expected a share, or a date"):
        Forecasts(chosen(table, test="soon"))
    with pytest.raises(ArgumentError, match="60 to validate, 0 to test"):
        Forecasts(chosen(table, test="2025-01-01"))


def test_each_step_of_a_window_is_told_the_change_that_follows_it(table):
    job = Forecasts(chosen(table, horizon=2))
    x, y = job.sequences("train")
    assert x[0].shape == (24, 6) and y[0].shape == (24, 2)
    scaled = job.scaler.scale(job.series.values)[:, 0]
    expected = (scaled[[11, 12]] - scaled[10]) / job.change
    np.testing.assert_allclose(y[0][10], expected, rtol=1e-5)
    ends = job.at_end("train")
    np.testing.assert_allclose(ends.y[0], y[0][-1], rtol=1e-5)


def test_no_step_of_training_is_told_what_comes_later(table):
    """What is beyond its part changes neither what training sees nor what it is told."""
    before = Forecasts(chosen(table))
    lines = table.read_text().splitlines()
    for k in range(1 + before.borders[0], 401):
        time, *_ = lines[k].split(",")
        lines[k] = f"{time},9999,9999,x"
    table.write_text("\n".join(lines))
    after = Forecasts(chosen(table))
    for one, other in zip(before.sequences("train"), after.sequences("train"), strict=True):
        assert np.array_equal(one, other)
    assert before.change == after.change and before.scaler.to_dict() == after.scaler.to_dict()


def test_baselines_are_those_of_a_loop(table):
    job = Forecasts(chosen(table, horizon=2, season=24))
    v, found = job.series.values[:, 0], job.baselines("test")
    assert list(found) == ["persistence", "24 rows ago"]
    for k, row in enumerate(job.parts["test"].rows):
        np.testing.assert_allclose(found["persistence"][k], [v[row - 1]] * 2, rtol=1e-6)
        np.testing.assert_allclose(found["24 rows ago"][k], v[row - 24 : row - 22], rtol=1e-6)


def test_a_baseline_that_is_closer_than_the_model_is_named(table):
    job = Forecasts(chosen(table))
    errors = {"model": (2.0, 3.0), "persistence": (4.0, 5.0), "last week": (1.0, 2.0)}
    found = {
        what: dict(zip(("absolute", "square"), each, strict=True)) for what, each in errors.items()
    }
    assert job.said(found).endswith("\ncloser than the model: last week")
    assert "closer" not in job.said({what: found[what] for what in ("model", "persistence")})


# the commands, forecasting


def test_two_commands_make_a_forecast(run, table, tmp_path):
    status, out, _ = run("train", "--data", "series.csv", "--target", "load", *SMALL)
    assert status == 0
    folder = tmp_path / "runs" / "series-lstm-seed0-1"
    assert sorted(one.name for one in folder.iterdir()) == [
        "history.json",
        "model.safetensors",
        "training.png",
    ]
    history = json.loads((folder / "history.json").read_text())
    found = history["test"]
    assert found["persistence"]["absolute"] > 0 and "last week" in found
    assert f"{found['model']['absolute']:14.5g}" in out

    model = folder / "model.safetensors"
    status, out, _ = run("predict", model, "series.csv", "-o", "out.csv", "--device", "reference")
    assert status == 0 and (tmp_path / "out.png").read_bytes().startswith(PNG)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(rows) == 401 and rows[400]["time"] == "2024-01-17 16:00:00"
    assert rows[400]["load"] == "" and rows[400]["ahead"] == "1"
    assert [k for k, row in enumerate(rows) if row["forecast"]] == list(range(96, 401))

    status, out, _ = run("evaluate", model, "--device", "reference")
    assert status == 0 and f"{found['model']['absolute']:14.5g}" in out
    error = np.mean([abs(float(row["load"]) - float(row["forecast"])) for row in rows[300:400]])
    assert error == pytest.approx(found["model"]["absolute"], rel=1e-4)


def test_a_model_of_one_column_goes_on_by_itself(run, tmp_path):
    (tmp_path / "a.csv").write_text(hourly(200))
    assert (
        run(
            "train",
            "--data",
            "a.csv",
            "--target",
            "load",
            "--columns",
            "load",
            "--window",
            24,
            *SMALL,
        )[0]
        == 0
    )
    model = "runs/a-lstm-seed0-1/model.safetensors"
    for steps in (1, 5):
        assert run("predict", model, "a.csv", "-o", f"{steps}.csv", "--steps", steps)[0] == 0
    one, five = (
        list(csv.reader((tmp_path / f"{k}.csv").read_text().splitlines()))[201:] for k in (1, 5)
    )
    assert len(one) == 1 and len(five) == 5 and one[0] == five[0]
    # the second is what the first's file with that value gives
    extended = hourly(200) + f"2024-01-09T08:00,{one[0][2]},0,x\n"
    (tmp_path / "b.csv").write_text(extended)
    assert run("predict", model, "b.csv", "-o", "2.csv")[0] == 0
    second = list(csv.reader((tmp_path / "2.csv").read_text().splitlines()))[-1]
    assert float(second[2]) == pytest.approx(float(five[1][2]), rel=1e-4)


def test_other_columns_of_the_future_are_asked_for(run, table, tmp_path):
    assert run("train", "--data", "series.csv", "--target", "load", *SMALL)[0] == 0
    model = "runs/series-lstm-seed0-1/model.safetensors"
    status, _, err = run("predict", model, "series.csv", "--steps", 3)
    assert status == 2 and "give their 2 next rows, with load left empty" in err
    with table.open("a") as file:
        file.write("2024-01-17T16:00,,1.5,x\n2024-01-17T17:00,,2.5,x\n")
    assert run("predict", model, "series.csv", "--steps", 3)[0] == 0


def test_several_steps_at_once(run, table):
    status, out, _ = run(
        "train", "--data", "series.csv", "--target", "load", "--horizon", 4, *SMALL
    )
    assert status == 0 and "load, 1 to 4 steps ahead" in out
    model = "runs/series-lstm-seed0-1/model.safetensors"
    status, out, _ = run("predict", model, "series.csv")
    assert status == 0 and "from 2024-01-17 16:00:00 to 2024-01-17 19:00:00" in out


def test_what_is_asked_of_a_series_is_checked(run, table, tmp_path):
    for arguments, message in {
        ("--data", "series.csv"): "--target is missing",
        ("--data", "none.csv"): "--data is 'none.csv', which is no file",
        ("--data", "series.csv", "--target", "note"): "column note: 'x' is no number",
        ("--data", "series.csv", "--target", "load", "--columns", "a"): "--columns is 'a', which",
        ("--data", "series.csv", "--target", "load", "--window", 390): "too few",
        ("--data", "series.csv", "--target", "load", "--activation", "relu"): "--activation is",
        ("--data", "series.csv", "--target", "load", "--decimal", "x"): "--decimal is 'x'",
        ("--data", "series.csv", "--target", "load", "--task", "text"): "--task is text",
    }.items():
        status, out, err = run("train", *arguments)
        assert status == 2 and message in err.replace("\n", " "), arguments
        assert not out and not (tmp_path / "runs").exists()


# classes


def sequences_of_rows() -> str:
    rng = np.random.default_rng(0)
    lines = ["who,a,b,label"]
    for k in range(24):
        kind = "up" if k % 2 else "down"
        for t in range(5):
            value = t if kind == "up" else -t
            lines.append(f"s{k},{value + 0.1 * rng.normal():.3f},{rng.normal():.3f},{kind}")
    return "\n".join(lines) + "\n"


def test_sequences_of_a_table_are_classified(run, tmp_path):
    (tmp_path / "a.csv").write_text(sequences_of_rows())
    options = ("--task", "classify", "--target", "label", "--sequence", "who")
    status, out, _ = run(
        "train",
        "--data",
        "a.csv",
        *options,
        "--hidden",
        8,
        "--epochs",
        40,
        "--learning-rate",
        0.03,
        "--device",
        "reference",
    )
    assert status == 0 and "test accuracy 1.0000" in out and "most frequent class 0.5000" in out
    model = "runs/a-lstm-seed0-1/model.safetensors"
    assert load(model, device="reference").metadata["labels"] == ["down", "up"]
    lines = [line.rpartition(",")[0] for line in sequences_of_rows().splitlines()]
    (tmp_path / "b.csv").write_text("\n".join(lines))
    assert run("predict", model, "b.csv", "-o", "c.csv")[0] == 0
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [row["predicted"] for row in rows] == ["down", "up"] * 12
    status, _, err = run("evaluate", model, "b.csv")
    assert status == 2 and "without a label" in err


def test_arrays_of_numpys_are_classified(run, tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    x = rng.normal(size=(30, 4, 2)) + y[:, None, None]
    np.savez(tmp_path / "a.npz", x=x, y=y, lengths=np.full(30, 3))
    status, out, _ = run("train", "--data", "a.npz", *SMALL)
    assert status == 0 and "3 classes" in out
    model = "runs/a-lstm-seed0-1/model.safetensors"
    assert run("evaluate", model, "a.npz")[0] == 0
    np.savez(tmp_path / "b.npz", x=x)
    assert run("train", "--data", "b.npz")[0] == 2
    assert run("predict", model, "b.npz", "-o", "c.csv")[0] == 0


def test_parts_of_classes_have_every_class(tmp_path):
    y = np.repeat([0, 1], [20, 8])
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(28, 3, 1)), y=y)
    job = job_of(Chosen(str(tmp_path / "a.npz")))
    counts = {name: np.bincount(part.y).tolist() for name, part in job.parts.items()}
    assert counts == {"train": [13, 5], "validation": [2, 1], "test": [5, 2]}


# texts


def test_a_text_is_learned_and_goes_on(run, tmp_path):
    (tmp_path / "a.txt").write_text("abcd" * 400)
    options = ("--cell", "elman", "--hidden", 12, "--batch-size", 4, "--learning-rate", 0.02)
    line = ("train", "--data", "a.txt", *options, "--epochs", 10, "--device", "reference")
    status, out, _ = run(*line)
    assert status == 0 and "bits a character" in out
    model = "runs/a-elman-seed0-1/model.safetensors"
    asked = ("generate", model, "--prompt", "abca", "--length", 8, "--device", "reference")
    assert run(*asked, "--temperature", 0)[1] == "abca" + "bcdabcda\n"
    status, _, err = run("generate", model, "--prompt", "")
    assert status == 2 and "--prompt is ''" in err
    status, _, err = run("predict", model, "a.txt")
    assert status == 2 and "rnn-gpu generate" in err


def test_unknown_characters_have_a_symbol(run, tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 1200)
    assert run("train", "--data", "a.txt", *SMALL)[0] == 0
    model = "runs/a-lstm-seed0-1/model.safetensors"
    assert run("generate", model, "--prompt", "é")[0] == 0
    words = load(model, device="reference").metadata["vocabulary"]
    assert data.Vocabulary.of_dict(words).tokens == ["a", "b", "\N{REPLACEMENT CHARACTER}"]


# options from files, export, resume


def test_options_from_a_file_and_those_on_the_line_win(run, table, tmp_path):
    words = 'data = "series.csv"\ntarget = "load"\nhidden = 3\nepochs = 1\nbatch-size = 8\n'
    (tmp_path / "a.toml").write_text(words + 'device = "reference"\ntruncate = [48, 96]\n')
    status, out, _ = run("train", "--config", "a.toml", "--hidden", 5)
    assert status == 0 and "lstm, 5 units" in out and "1 epochs" in out
    said = {"data": "vowels", "hidden": 2, "epochs": 1, "device": "reference"}
    (tmp_path / "a.json").write_text(json.dumps(said))
    assert "elman, 2 units" in run("train", "--config", "a.json")[1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "layers = 2", "which has layers, expected options of this command"),
        ("a.toml", "hidden 2", "cannot be read"),
        ("a.json", "[1]", "expected options by name"),
        ("a.yaml", "hidden: 2", "ends in .toml or .json"),
        ("a.toml", 'hidden = "many"', "--hidden"),
        ("a.toml", "batch-size = 2\nbatch_size = 2", "an option twice"),
    ],
)
def test_a_file_of_options_is_checked(name, text, message, run, tmp_path):
    (tmp_path / name).write_text(text)
    status, out, err = run("train", "--config", name)
    assert status == 2 and message in err and not out


def test_training_goes_on_where_it_was_kept(run, table):
    common = (
        "train",
        "--data",
        "series.csv",
        "--target",
        "load",
        "--hidden",
        4,
        "--device",
        "reference",
    )
    assert run(*common, "--epochs", 3, "--out", "a", "--resume", "run.ckpt")[0] == 0
    status, out, _ = run(*common, "--epochs", 3, "--out", "b", "--resume", "run.ckpt")
    assert status == 0 and "3 epochs" in out


def test_a_model_leaves_as_onnx_with_states_that_are_zero(run, table, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert run("train", "--data", "series.csv", "--target", "load", *SMALL)[0] == 0
    model = "runs/series-lstm-seed0-1/model.safetensors"
    assert run("export", model, "a.onnx")[:2] == (0, "onnx     a.onnx\n")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    x = np.random.default_rng(0).normal(size=(7, 3, 6)).astype("float32")
    y, *_ = session.run(None, {"x": x})
    np.testing.assert_allclose(y, load(model, device="reference")(x)[0], rtol=1e-4, atol=1e-5)


PAGE = Path(__file__).parents[1] / "docs" / "howto.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the tests run outside a checkout")
def test_every_option_of_the_page_is_one():
    commands = typer.main.get_command(cli.app).commands.values()
    options = {word for one in commands for option in one.params for word in option.opts}
    options |= {word for one in commands for option in one.params for word in option.secondary_opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE.read_text("utf-8")))
    assert len(named) > 20 and named <= options


def test_the_version_is_told(run):
    import rnn_gpu

    assert run("--version")[:2] == (0, f"{rnn_gpu.__version__}\n")
