"""Training goes on from a checkpoint bit for bit; a process killed while it writes one leaves the one before whole."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rnn_gpu
from door import parameters_of, refuses, same, table
from rnn_gpu import GRU, LSTM, ArgumentError, Dense, Dropout, ModelFileError, Network, load, optimizers

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(RNG.integers(3, 6), 3)).astype("float32") for _ in range(11)]
Y = [RNG.normal(size=(len(x), 2)).astype("float32") for x in X]
SETTINGS = {"batch_size": 3, "seed": 4, "progress": False}


def network(device="reference", kind=GRU):
    on = {"device": device}
    return Network([Dropout(0.2, variational=True, **on), kind(3, 5, **on), Dropout(0.5, **on), Dense(5, 2, **on)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint"


class StopError(Exception):
    """What ends a run in the middle."""


def stopped(net, updates, path, **settings):
    """Train, writing a checkpoint after each batch, and stop before update `updates`."""

    def stop(network, update):
        if update == updates:
            raise StopError

    with pytest.raises(StopError):
        net.fit(X, Y, checkpoint=path, checkpoint_every=1, watch=stop, **SETTINGS | settings)


@pytest.mark.parametrize("updates", [1, 5, 8], ids=["first epoch", "in the middle", "a whole number of epochs"])
def test_training_goes_on_bit_for_bit(updates, device, path):
    whole = network(device)
    expected = whole.fit(X, Y, epochs=3, **SETTINGS)
    stopped(network(device), updates, path, epochs=3)
    again = network(device)
    for a in again.parameters.values():
        a[...] = np.nan  # all comes from the file
    history = again.fit(X, Y, epochs=3, resume=path, **SETTINGS)
    for name in ("step_loss", "gradient_norm", "loss"):
        assert history[name] == expected[name]
    same(parameters_of(again), parameters_of(whole))


OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1),
    "nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: optimizers.RMSprop(0.01),
    "adamw": lambda: optimizers.AdamW(0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_goes_on_bit_for_bit(make, path):
    expected = network(kind=LSTM).fit(X, Y, epochs=2, optimizer=make(), truncate=(2, 3), **SETTINGS)["step_loss"]
    stopped(network(kind=LSTM), 4, path, epochs=2, optimizer=make(), truncate=(2, 3))
    again = network(kind=LSTM).fit(X, Y, epochs=2, optimizer=make(), truncate=(2, 3), resume=path, **SETTINGS)["step_loss"]
    assert again == expected


def test_a_finished_run_is_trained_longer(path):
    expected = network().fit(X, Y, epochs=3, **SETTINGS)["step_loss"]
    network().fit(X, Y, epochs=2, checkpoint=path, **SETTINGS)
    assert network().fit(X, Y, epochs=3, resume=path, checkpoint=path, **SETTINGS)["step_loss"] == expected
    again = network()
    assert again.fit(X, Y, epochs=3, resume=path, **SETTINGS)["step_loss"] == expected  # nothing is left to do


def test_a_checkpoint_is_written_after_each_epoch_and_so_many_batches(path, monkeypatch):
    written = []
    monkeypatch.setattr(
        rnn_gpu.checkpoint, "save", lambda path, net, opt, settings, position: written.append((position.epoch, position.batch))
    )
    network().fit(X, Y, epochs=2, checkpoint=path, **SETTINGS)
    assert written == [(1, 0), (2, 0)]
    written.clear()
    network().fit(X, Y, epochs=1, checkpoint=path, checkpoint_every=3, **SETTINGS)
    assert written == [(0, 3), (1, 0)]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    table(
        ("batch_size", {"batch_size": 4}, ArgumentError, "resume is .*a checkpoint with batch_size=3, but here batch_size is 4"),
        ("seed", {"seed": 5}, ArgumentError, "resume is .* seed=4, but here seed is 5"),
        ("shuffle", {"shuffle": False}, ArgumentError, "resume is .* shuffle=True, but here shuffle is False"),
        ("truncate", {"truncate": (2, 2)}, ArgumentError, "resume is .* truncate=None"),
        ("samples", {"x": X[:4], "y": Y[:4]}, ArgumentError, "resume is .* samples=11, but here samples is 4"),
        ("optimizer", {"optimizer": "sgd"}, ArgumentError, "resume is .* optimizer='Adam', but here optimizer is 'SGD'"),
        ("every", {"resume": None, "checkpoint_every": 2}, ArgumentError, "checkpoint_every is given, but no checkpoint"),
        ("no batches", {"checkpoint": "c", "checkpoint_every": 0}, ArgumentError, "checkpoint_every is 0, expected an integer"),
    ),
)
def test_another_run_is_refused_and_nothing_changes(changes, error, message, path):
    network().fit(X, Y, epochs=1, checkpoint=path, **SETTINGS)
    net = network()
    before = parameters_of(net)
    arguments = {"x": X, "y": Y, "resume": path} | SETTINGS | changes
    refuses(error, f"^{message}", lambda: net.fit(**arguments))
    same(parameters_of(net), before)


def test_another_network_or_file_is_refused(path, tmp_path):
    network().fit(X, Y, epochs=1, checkpoint=path, **SETTINGS)
    refuses(ArgumentError, "^resume is .*network=", lambda: network(kind=LSTM).fit(X, Y, resume=path, **SETTINGS))
    refuses(ModelFileError, "its format is 'rnn_gpu checkpoint 1'", lambda: load(path))
    network().save(tmp_path / "model")
    refuses(ModelFileError, "its format is 'rnn_gpu 1'", lambda: network().fit(X, Y, resume=tmp_path / "model", **SETTINGS))
    path.write_bytes(path.read_bytes()[:-7])
    refuses(ModelFileError, "is damaged", lambda: network().fit(X, Y, resume=path, **SETTINGS))


# In a process of its own: each child of `fork` is killed when so many bytes are written.
KILLED = """
import io, os, signal, sys
import numpy as np, rnn_gpu

class Killed(io.FileIO):
    def write(self, data):
        super().write(data[: int(share * len(data))])
        os.kill(os.getpid(), signal.SIGKILL)

on = {"device": "reference"}
net = rnn_gpu.Network([rnn_gpu.GRU(3, 5, **on), rnn_gpu.Dense(5, 2, **on)])
x = [np.ones((4, 3), "float32")] * 4
y = [np.ones((4, 2), "float32")] * 4
net.fit(x, y, epochs=1, checkpoint=sys.argv[1], progress=False)
before = open(sys.argv[1], "rb").read()
for share in (0, 0.001, 0.5, 1):
    child = os.fork()
    if not child:
        os.fdopen = Killed
        net.fit(x, y, epochs=2, checkpoint=sys.argv[1], resume=sys.argv[1], progress=False)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert open(sys.argv[1], "rb").read() == before
    assert len(net.fit(x, y, epochs=1, resume=sys.argv[1], progress=False)["loss"]) == 1
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_killed_while_it_writes_leaves_the_checkpoint_before(path):
    environment = os.environ | {"PYTHONPATH": str(Path(rnn_gpu.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
