"""The command `rnn-gpu`: what it leaves on disk, what it says, and how it ends."""

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import entry_points, version

import numpy as np
import pytest
from numba.core import config

import rnn_gpu
from rnn_gpu import Network, NonFiniteError, cli, datasets, load, optimizers
from rnn_gpu.kernels import store as kernel_store

PNG = b"\x89PNG\r\n\x1a\n"
TINY = ("train", "--hidden", "4", "--device", "reference")
UPDATES = 8  # of an epoch of vowels: 216 sequences in batches of 27


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """The command in an empty folder: (*arguments) -> exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["rnn-gpu", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        # colours, where they are forced
        return end.value.code or 0, *(
            re.sub(r"\x1b\[[0-9;]*m", "", text) for text in capsys.readouterr()
        )

    return command


def elsewhere(*arguments, cwd):
    """The command in a process of its own, without a GPU and without the simulator."""
    environment = {
        name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"
    } | {"CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-P", "-m", "rnn_gpu.cli", *arguments]
    return subprocess.run(
        command,
        check=False,
        env=environment,
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.fixture
def at_update(monkeypatch):
    """(k, happens): call happens(parameters) before the k-th update on a device that compiles
    nothing.
    """

    def at(k, happens):
        count, moments_of = iter(range(1, 1000)), optimizers.Optimizer.moments_of

        def asked(self, device, parameters):
            if next(count) == k:
                happens(parameters)
            return moments_of(self, device, parameters)

        monkeypatch.setattr(optimizers.Optimizer, "moments_of", asked)

    return at


def ctrl_c(parameters):
    raise KeyboardInterrupt


def spoil(parameters):
    for a in parameters.values():
        a *= -20


def bits(folder):
    return {
        name: a.tobytes()
        for name, a in load(folder / "model.safetensors", device="reference").parameters.items()
    }


def history_of(folder):
    return json.loads((folder / "history.json").read_text())


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="rnn-gpu")
    assert command.load() is cli.main


def test_train_leaves_a_model_a_history_and_a_picture(run, tmp_path):
    status, out, _ = run(
        "train", "--epochs", 2, "--hidden", 4, "--device", "cpu", "--out", tmp_path / "deep" / "er"
    )
    assert status == 0
    folder = tmp_path / "deep" / "er" / "vowels-elman-seed0-1"
    assert sorted(os.listdir(folder)) == ["history.json", "model.safetensors", "training.png"]
    assert (folder / "training.png").read_bytes().startswith(PNG)
    for name in os.listdir(folder):
        assert str(folder / name) in out

    history = history_of(folder)
    assert {
        len(history[name])
        for name in ("loss", "accuracy", "validation_loss", "validation_accuracy", "seconds")
    } == {2}
    assert {len(history[name]) for name in ("step_loss", "gradient_norm")} == {2 * UPDATES}

    network = load(folder / "model.safetensors", device="cpu")
    assert type(network.layers[0]) is rnn_gpu.RNN and network.layers[0].hidden_size == 4
    found = network.evaluate(*datasets.vowels(standardise=True)[1])
    assert history["test"] == found
    assert f"test accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}" in out


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("elman", rnn_gpu.RNN),
        pytest.param("lstm", rnn_gpu.LSTM, marks=pytest.mark.slow),
        pytest.param("gru", rnn_gpu.GRU, marks=pytest.mark.slow),
    ],
)
def test_every_run_has_a_folder_of_its_own(cell, kind, run, tmp_path):
    for seed in (0, 0, 5):
        assert run(*TINY, "--epochs", 1, "--cell", cell, "--seed", seed)[0] == 0
    folders = [tmp_path / "runs" / f"vowels-{cell}-seed{end}" for end in ("0-1", "0-2", "5-1")]
    assert sorted((tmp_path / "runs").iterdir()) == folders
    first, again, other = map(bits, folders)
    assert first == again != other
    assert type(load(folders[0] / "model.safetensors", device="reference").layers[0]) is kind


def test_the_model_that_is_kept_is_the_best_one_not_the_last(run, at_update, tmp_path):
    assert run(*TINY, "--epochs", 2)[0] == 0
    at_update(2 * UPDATES + 1, spoil)
    assert run(*TINY, "--epochs", 3)[0] == 0
    two, three = (tmp_path / "runs" / f"vowels-elman-seed0-{k}" for k in (1, 2))
    first, second, third = history_of(three)["loss"]
    assert second < first < third
    assert bits(two) == bits(three)
    assert history_of(two)["test"] == history_of(three)["test"]


def test_characters_of_the_manual(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pydoc_data.topics.topics", {"a": "abcd " * 150, "b": "dcba " * 150})
    status, out, _ = run(*TINY, "--epochs", 1, "--data", "python-manual", "--cell", "gru")
    assert status == 0
    folder = tmp_path / "runs" / "python-manual-gru-seed0-1"
    found = history_of(folder)["test"]
    bits = found["loss"] / np.log(2)
    assert 0 < bits < 2 * np.log2(6)  # six characters, the line feed among them
    assert (
        f"test accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}, {bits:.3f} bits "
        "a character" in out
    )
    assert (folder / "training.png").read_bytes().startswith(PNG)


def test_precision_reaches_the_layers(run, tmp_path):
    status, _, err = run(*TINY, "--precision", "tf32")
    assert status == 2 and "precision is 'tf32', but device is 'reference'" in err
    assert not (tmp_path / "runs").exists()


def test_without_matplotlib_there_is_no_picture_but_all_the_rest(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = run(*TINY, "--epochs", 1)
    assert status == 0 and "no picture: matplotlib is not installed" in err
    assert sorted(os.listdir(tmp_path / "runs" / "vowels-elman-seed0-1")) == [
        "history.json",
        "model.safetensors",
    ]


BAD = {
    "train --epochs 0": "--epochs",
    "train --epochs 1.5": "--epochs",
    "train --hidden -1": "--hidden",
    "train --cell transformer": "--cell",
    "train --data mnist": "--data",
    "train --device gpu": "--device",
    "train --learning-rate -1": "--learning-rate",
    "train --learning-rate fast": "--learning-rate",
    "train --seed -1": "--seed",
    "train --layers 2": "--layers",
    "train now": "now",
    "tran": "tran",
    "info --all": "--all",
    "gradflow": "MODEL",
    "gradflow nowhere": "nowhere",
    "gradflow . --samples 0": "--samples",
}


@pytest.mark.parametrize(("line", "names"), BAD.items(), ids=BAD)
def test_bad_arguments_are_named(line, names, run, tmp_path):
    status, out, err = run(*line.split())
    assert status == 2
    assert names in err and "Traceback" not in err and not out
    assert os.listdir(tmp_path) == []


def test_a_file_in_place_of_the_folder_is_named(run, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = run(*TINY, "--epochs", 1, "--out", "file")
    assert status == 2 and err.startswith("error: --out is file, ") and err.count("\n") == 1


def test_cuda_without_a_gpu_is_one_line(tmp_path):
    ended = elsewhere("train", "--device", "cuda", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: device='cuda', but ") and ended.stderr.count("\n") == 1
    assert not ended.stdout
    assert os.listdir(tmp_path) == []


def diverge(*arguments, **options):
    raise NonFiniteError("update 3: layer 0 gives nan")


def test_an_error_of_ours_is_one_line(run, monkeypatch):
    monkeypatch.setattr(Network, "fit", diverge)
    status, _, err = run(*TINY)
    assert (status, err) == (2, "error: update 3: layer 0 gives nan\n")


def test_an_error_before_the_first_epoch_leaves_no_folder(run, monkeypatch, tmp_path):
    monkeypatch.setattr(Network, "fit", diverge)
    run(*TINY)
    assert list(tmp_path.rglob("vowels*")) == []


# Ctrl-C


def test_ctrl_c_keeps_the_best_model_so_far(run, at_update, tmp_path):
    assert run(*TINY, "--epochs", 1)[0] == 0
    at_update(UPDATES + 5, ctrl_c)
    status, out, err = run(*TINY, "--epochs", 4)
    assert status == 130
    assert "stopped; the best model so far is kept" in err and "test accuracy" in out
    whole, stopped = (tmp_path / "runs" / f"vowels-elman-seed0-{k}" for k in (1, 2))
    assert sorted(os.listdir(stopped)) == ["history.json", "model.safetensors", "training.png"]
    assert bits(stopped) == bits(whole)
    assert history_of(stopped)["loss"] == history_of(whole)["loss"]
    assert history_of(stopped)["test"] == history_of(whole)["test"]


@pytest.mark.parametrize("update", [1, 5, UPDATES])
def test_ctrl_c_before_the_first_epoch_is_over_leaves_nothing(update, run, at_update, tmp_path):
    at_update(update, ctrl_c)
    status, out, err = run(*TINY, "--epochs", 4)
    assert status == 130
    assert "nothing to keep" in err and "accuracy" not in out
    assert list(tmp_path.rglob("vowels*")) == []


# gradflow


def saved(path):
    options = {"device": "reference"}
    Network(
        [rnn_gpu.LSTM(12, 4, **options), rnn_gpu.Dense(4, 9, **options)],
        loss="softmax_cross_entropy",
        steps="last",
    ).save(path)


def test_gradflow_prints_the_report_and_draws_it_beside_the_model(run, tmp_path):
    saved(tmp_path / "model.safetensors")
    status, out, _ = run("gradflow", "model.safetensors", "--samples", 4, "--device", "reference")
    assert status == 0
    train, _ = datasets.vowels(standardise=True)
    report = load(tmp_path / "model.safetensors", device="reference").gradient_flow(
        train.x[:4], train.y[:4]
    )
    assert out == f"{report}\npicture  model.gradflow.png\n"
    assert (tmp_path / "model.gradflow.png").read_bytes().startswith(PNG)


def test_gradflow_without_matplotlib_prints_the_report(run, tmp_path, monkeypatch):
    saved(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, err = run("gradflow", "model", "--samples", 2, "--device", "reference")
    assert (
        status == 0 and "layer 0 (LSTM" in out and "no picture: matplotlib is not installed" in err
    )
    assert os.listdir(tmp_path) == ["model"]


def test_gradflow_names_a_model_of_other_data_and_a_place_it_cannot_write(run, tmp_path):
    saved(tmp_path / "model")
    status, _, err = run(
        "gradflow", "model", "--samples", 2, "--device", "reference", "--data", "python-manual"
    )
    assert status == 2 and err.startswith("error: x[0] has ") and err.count("\n") == 1
    status, _, err = run(
        "gradflow", "model", "--samples", 2, "--device", "reference", "--out", "no/folder.png"
    )
    assert (
        status == 2 and err.startswith("error: --out is no/folder.png, ") and err.count("\n") == 1
    )


# info


def test_info_tells_versions_and_devices(run):
    status, out, _ = run("info")
    assert status == 0
    told = {words[0]: " ".join(words[1:]) for words in map(str.split, out.splitlines())}
    for package in ("rnn_gpu", "numpy", "numba", "numba-cuda", "matplotlib"):
        assert told[package] == version(package)
    assert told["python"] == f"{platform.python_version()} on {platform.machine()}"
    assert told["auto"] == rnn_gpu.device("auto").name
    assert told["cuda"]


def test_info_says_why_there_is_no_gpu(tmp_path):
    ended = elsewhere("info", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = {words[0]: " ".join(words[1:]) for words in map(str.split, ended.stdout.splitlines())}
    assert told["cuda"].startswith("no: ") and told["auto"] == "cpu"


@pytest.fixture
def kernels(monkeypatch, tmp_path):
    """A folder with a kernel of 1.5 MB."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    folder = kernel_store.folder()
    folder.write("kernel", bytes(1_500_000))
    return folder


def test_info_tells_where_kernels_are_kept_how_many_and_how_to_remove_them(run, kernels):
    status, out, _ = run("info")
    assert status == 0
    assert "kernels       1 kept, 1.5 MB of at most 1000 (RNN_GPU_CACHE_MB)" in out
    assert f"in {kernels.path}; `rnn-gpu clear-kernels` removes them" in out


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
def test_info_tells_why_no_kernels_are_kept(run, kernels):
    kernels.path.chmod(0o777)
    assert "kernels       not kept: others may write to it\n" in run("info")[1]


def test_kernels_are_removed(run, kernels):
    assert run("clear-kernels")[:2] == (0, "1 files removed, 1.5 MB\n")
    assert kernels.files() == []
    assert run("clear-kernels")[:2] == (0, "0 files removed, 0.0 MB\n")


def test_a_bound_of_the_kernels_that_is_no_number_is_said_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("RNN_GPU_CACHE_MB", "lots")
    for arguments in (("info",), TINY[:1] + ("--device", "cpu")):
        ended = elsewhere(*arguments, cwd=tmp_path)
        assert ended.returncode == 2
        assert (
            ended.stderr
            == "error: RNN_GPU_CACHE_MB is 'lots', expected a number of megabytes: 1000, "
            "or 0 to keep no kernels\n"
        )


# bench


def test_bench_prints_a_table_and_draws_it(run, tmp_path):
    line = ("bench", "--hidden", 4, "--batch", 2, "--lengths", "8,4", "--device", "reference")
    status, out, _ = run(*line)
    assert status == 0 and (tmp_path / "bench.png").read_bytes().startswith(PNG)
    rows = [words.split() for words in out.splitlines()[2:4]]
    assert [row[0] for row in rows] == ["4", "8"]
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
def test_bench_measures_torch_beside_ours(run):
    pytest.importorskip("torch")
    status, out, _ = run("bench", "--hidden", 16, "--lengths", "64,2048", "--device", "cpu")
    assert status == 0 and "torch / ours" in out
    rows = [line.split() for line in out.splitlines()[2:4]]
    assert {len(row) for row in rows} == {6} and all(float(row[5]) > 0 for row in rows)


@pytest.mark.parametrize("lengths", ["0", "many", "4,,8"])
def test_bench_takes_lengths_that_are_numbers(lengths, run):
    status, out, err = run("bench", "--lengths", lengths)
    assert status == 2 and "--lengths has" in err and not out


def test_the_versions_are_one():
    assert rnn_gpu.__version__ == version("rnn_gpu")


def test_help_names_the_commands(run):
    status, out, _ = run("--help")
    assert status == 0 and "train" in out and "gradflow" in out and "info" in out
