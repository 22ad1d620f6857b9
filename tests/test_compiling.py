"""Compiling is told whole: before training begins, and nothing of it later."""

import numpy as np
import pytest

from programs import words
from rnn_gpu import GRU, Dense, Network, optimizers
from rnn_gpu.network import progress
from rnn_gpu.network.compiling import Compiled, compiling, kinds
from rnn_gpu.training import Samples, Settings, Training

LOOK = """
import numpy as np
from rnn_gpu import RNN, Dense, Network
from rnn_gpu.callbacks import Callback
from rnn_gpu.kernels.tally import counted

class Look(Callback):
    def on_begin(self, training):
        self.before = sum(counted.values())

    def on_end(self, training, error):
        print(self.before > 0, sum(counted.values()) - self.before)
"""
TRAIN = f"""
{LOOK}
rng = np.random.default_rng(0)
layers = [RNN(3, 65, device="cpu"), Dense(65, 5, device="cpu")]
network = Network(layers, loss="softmax_cross_entropy", steps="last")
lengths = rng.integers(20, 30, 70)
x = [rng.normal(size=(T, 3)).astype("float32") for T in lengths]
y = rng.integers(0, 5, 70)
more = dict(validation=(x[:40], y[:40]), truncate=(8, 12), callbacks=[Look()], progress=False)
network.fit(x, y, epochs=1, batch_size=32, **more)
"""


def test_nothing_is_compiled_once_training_has_begun():
    """Of a full batch and a smaller one, of every window of them, of validation: some of them are
    shared by threads, others not.
    """
    assert words(TRAIN) == ["True", "0"]


MADE = f"""
{LOOK}
def batches(epoch):
    calls.append(epoch)
    for _ in range(2):
        yield np.ones((32, 20, 3), "float32"), np.ones((32, 20, 5), "float32")

calls = []
network = Network([RNN(3, 65, device="cpu"), Dense(65, 5, device="cpu")])
history = network.fit(batches, epochs=2, callbacks=[Look()], progress=False)
print(calls, len(history["step_loss"]))
"""


def test_of_batches_that_are_made_the_first_is_compiled_for_and_trained_on():
    assert words(MADE) == ["True", "0", "[0,", "1]", "4"]


def network(device="reference"):
    return Network([GRU(3, 5, device=device), Dense(5, 2, device=device)])


def samples_of(net, *lengths):
    x = [np.zeros((T, 3), "float32") for T in lengths]
    return Samples(net, x, [np.zeros((T, 2), "float32") for T in lengths])


@pytest.mark.parametrize(
    "lengths, expected",
    [
        ((4,) * 7, [(4, 3), (4, 1)]),
        ((4,) * 6, [(4, 3)]),
        ((4, 4), [(4, 2)]),
        ((9, 2, 5, 3, 7), [(5, 3), (9, 3), (3, 2), (9, 2)]),
    ],
)
def test_a_batch_of_each_kind(lengths, expected):
    """Full ones and the smaller one, of long sequences and of short ones."""
    shapes = [batch.x.shape[:2] for batch in kinds(samples_of(network(), *lengths), 3)]
    assert shapes == expected


def test_no_weight_changes_and_no_moment_is_made():
    net = network("cpu")
    before = {name: a.copy() for name, a in net.parameters.items()}
    adam = optimizers.Adam()
    training = Training(net, samples_of(net, 4, 5), adam, Settings())
    done = training.compile([training.samples])
    assert done.seconds == training.history["compile_seconds"][0] > 0
    assert (adam.steps, adam.state) == (0, {})
    assert all((net.parameters[name] == a).all() for name, a in before.items())


def test_weights_that_overflow_are_left_to_training():
    """Compiling runs updates, but judges none: the first update of training names the place."""
    net = network("cpu")
    net.parameters["0.U"][...] = np.nan
    Training(net, samples_of(net, 4, 5), optimizers.Adam(), Settings()).compile()


def test_what_was_compiled_and_what_was_found_are_counted(monkeypatch):
    monkeypatch.setattr("rnn_gpu.network.compiling.counted", counts := {"compiled": 5, "found": 1})
    with compiling() as done:
        counts |= {"compiled": 7, "found": 4}
        assert (done.compiled, done.found) == (0, 0)
    assert (done.compiled, done.found) == (2, 3) and done.seconds > 0


@pytest.mark.parametrize(
    "done, said",
    [
        (Compiled(7, 3, 12.34), "compiled 7, found 3 on disk: 12.3 s"),
        (Compiled(7, 0, 12.34), "compiled 7: 12.3 s"),
        (Compiled(0, 3, 0.34), "found 3 on disk: 0.3 s"),
        (Compiled(0, 0, 0.01), "all are there: 0.0 s"),
    ],
)
def test_it_is_told_in_words(done, said, capsys, monkeypatch):
    monkeypatch.setattr(Training, "compile", lambda *_, **__: done)
    net = network("cpu")
    training = Training(net, samples_of(net, 4), optimizers.Adam(), Settings())
    progress.compile_all(training, [], says=True)
    assert capsys.readouterr().err == f"kernels for cpu, float32 … {said}\n"
    progress.compile_all(training, [], says=False)
    assert capsys.readouterr().err == ""


def test_a_device_that_compiles_nothing_says_nothing(capsys):
    net = network()
    training = Training(net, samples_of(net, 4), optimizers.Adam(), Settings())
    progress.compile_all(training, [], says=True)
    assert capsys.readouterr().err == "" and len(training.history["compile_seconds"]) == 1
