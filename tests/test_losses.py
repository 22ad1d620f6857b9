"""Losses: what they are the sum and the mean of, yours among them, and class labels that stay
numbers.
"""

import re
import tracemalloc

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from door import parameters_of, refuses, same
from rnn_gpu import (
    GRU,
    ArgumentError,
    Dense,
    DerivativeError,
    ModelFileError,
    Network,
    gradcheck,
    optimizers,
)
from rnn_gpu.training import Samples, train_step

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(T, 3)) for T in (4, 7, 5, 6)]
COUNTS = [RNG.integers(0, 5, (len(x), 2)).astype("float64") for x in X]


def network(loss, device="reference", k=2, dtype="float64"):
    on = {"device": device, "dtype": dtype}
    return Network([GRU(3, 5, **on), Dense(5, k, **on)], loss=loss)


def log_cosh(o, t):
    return np.log(np.cosh(o - t))


def dlog_cosh(o, t):
    return np.tanh(o - t)


BY_HAND = {
    "squared_error": lambda o, t: 0.5 * (t - o) ** 2,
    "mae": lambda o, t: abs(t - o),
    "poisson": lambda o, t: np.exp(o) - t * o,
    "huber": lambda o, t: np.where(abs(t - o) < 1, 0.5 * (t - o) ** 2, abs(t - o) - 0.5),
    "huber(0.5)": lambda o, t: np.where(
        abs(t - o) < 0.5, 0.5 * (t - o) ** 2, 0.5 * (abs(t - o) - 0.25)
    ),
    (log_cosh, dlog_cosh): log_cosh,
}


def name_of(loss) -> str:
    return loss if isinstance(loss, str) else loss[0].__name__


@pytest.mark.parametrize("loss", BY_HAND, ids=name_of)
def test_a_loss_is_the_sum_over_outputs_and_the_mean_over_rows(loss, device):
    net = network(loss, device)
    o = np.concatenate(net.predict(X))
    expected = BY_HAND[loss](o, np.concatenate(COUNTS)).sum(-1).mean()
    assert net.evaluate(X, COUNTS) == {"loss": pytest.approx(expected, rel=1e-10)}
    E, grads = net.gradient(X, COUNTS)
    other, expected = network(loss).gradient(X, COUNTS)
    assert other == pytest.approx(E, rel=1e-10)
    for name, g in expected.items():
        close(net.backend.numpy(grads[name]), g)


@pytest.mark.parametrize("loss", BY_HAND, ids=name_of)
def test_its_gradient_is_its_slope(loss):
    x, y = RNG.normal(size=(4, 2, 3)), RNG.integers(0, 5, (4, 2, 2)).astype("float64")
    assert gradcheck(network(loss), x, y).worst < 1e-6


def test_every_loss_learns():
    for loss in BY_HAND:
        net = network(loss, "cpu", dtype="float32")
        y = [a.astype("float32") for a in COUNTS]
        x = [a.astype("float32") for a in X]
        history = net.fit(x, y, epochs=40, learning_rate=0.03, progress=False)
        assert history["loss"][-1] < history["loss"][0] - 0.1, loss


def test_a_slope_that_is_none_is_refused_with_its_worst_point():
    message = r"^loss 'log_cosh': df/do is given as .* at o = .*, t = .*, but its slope there is"
    refuses(DerivativeError, message, lambda: network((log_cosh, log_cosh)))
    refuses(DerivativeError, message, lambda: rnn_gpu.loss(log_cosh, lambda o, t: 2 * (o - t)))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("huber(0)", "δ of huber is 0.0, expected a number above 0"),
        ("huber(nan)", "δ of huber is nan, expected a number above 0"),
        ("huber(half)", "loss is 'huber\\(half\\)', expected one of 'squared_error'"),
        ((log_cosh,), "loss is .*, expected one of .*, a Loss or a pair"),
        ((lambda o, t: np.log(o * 0 - 1), dlog_cosh), "loss '<lambda>' is no number for outputs"),
        ((lambda o, t: np.linalg.norm(o), dlog_cosh), "loss '<lambda>': .*linalg"),
    ],
)
def test_what_is_no_loss_is_refused(loss, message):
    refuses(ArgumentError, f"^{message}", lambda: network(loss))


def test_counts_below_zero_are_refused():
    y = [-a for a in COUNTS]
    message = r"^y\[0\] has -4.0, expected counts of at least 0"
    refuses(ArgumentError, message, lambda: network("poisson").fit(X, y, progress=False))


@pytest.mark.parametrize("loss", BY_HAND, ids=name_of)
def test_a_file_knows_the_loss(loss, tmp_path):
    net, path = network(loss), tmp_path / "model"
    net.save(path)
    own = [] if isinstance(loss, str) else [rnn_gpu.loss(loss)]
    again = rnn_gpu.load(path, device="reference", custom=own)
    assert again.evaluate(X, COUNTS) == net.evaluate(X, COUNTS)
    assert again.loss == net.loss == net.copy().loss == rnn_gpu.loss(loss).name
    if own:
        with pytest.raises(ModelFileError, match=r"loss is 'log_cosh', a formula of the user's"):
            rnn_gpu.load(path, device="reference")


# Class labels


LABELS = [RNG.integers(0, 4, len(x)) for x in X]
SOFTMAX = "softmax_cross_entropy"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("truncate", [None, (2, 3)])
def test_labels_train_as_their_rows_do(truncate, dtype, device):
    """To the last bit: weights, history and what is measured."""
    found = []
    for y in (LABELS, [np.eye(4)[labels].astype(dtype) for labels in LABELS]):
        net, x = network(SOFTMAX, device, 4, dtype), [a.astype(dtype) for a in X]
        options = {"epochs": 2, "batch_size": 3, "truncate": truncate, "progress": False}
        history = net.fit(x, y, validation=(x, y), **options)
        history = {name: np.array(a) for name, a in history.items() if "seconds" not in name}
        found.append(history | parameters_of(net))
    same(*found)


def test_labels_among_rows_become_rows():
    net = network(SOFTMAX, k=4)
    y = [LABELS[0], np.eye(4)[LABELS[1]], *LABELS[2:]]
    assert net.evaluate(X, y) == net.evaluate(X, LABELS)
    assert not Samples(net, X, y).labels and Samples(net, X, LABELS).labels


def test_labels_that_are_not_finite_are_named():
    net = network(SOFTMAX, k=4)
    net.parameters["1.b"][2] = np.inf
    with pytest.raises(rnn_gpu.NonFiniteError, match=r"parameter b of layer 1"):
        net.fit(X, LABELS, progress=False)
    net = network(SOFTMAX, k=4, dtype="float32")
    net.parameters["1.b"][:] = [3e38, -3e38, 0, 0]
    x, where = [a.astype("float32") for a in X], "time step 0, sample 0, output 1: -3e+38 for 1"
    batch = Samples(net, x, [labels * 0 + 1 for labels in LABELS]).batch(range(4))
    with pytest.raises(rnn_gpu.NonFiniteError, match=re.escape(f"the loss is inf at {where}")):
        train_step(net, batch, optimizers.SGD())


def test_a_vocabulary_takes_no_row_for_a_word():
    """10,000 words: of 20,000 tokens the targets alone would take 800 MB as rows."""
    words, steps = 10_000, 100
    on = {"device": "cpu"}
    net = Network([rnn_gpu.Embedding(words, 4, **on), GRU(4, 4, **on), Dense(4, words, **on)],
                  loss=SOFTMAX)  # fmt: skip
    x = RNG.integers(0, words, (200, steps))
    tracemalloc.start()
    samples = Samples(net, x, (x + 1) % words)
    batch = samples.batch(range(2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.target.shape == (steps, 2) and batch.target.dtype == "int32"
    assert peak < 20_000 * 8 * 6 + 3 * batch.x.nbytes
