"""Every two options of `fit` together: the CPU trains as the reference does and goes on from a
checkpoint bit for bit, or the two are refused at the door with a sentence.
"""

from itertools import combinations

import numpy as np
import pytest

from conftest import close
from door import parameters_of
from rnn_gpu import GRU, ArgumentError, Dense, Network
from rnn_gpu.callbacks import Callback, EarlyStopping

RNG = np.random.default_rng(0)
N, T = 6, 7
X, Y = RNG.normal(size=(N, T, 3)), RNG.integers(0, 3, (N, T))
LIVE = RNG.random((N, T)) < 0.8
LIVE[:, :3] = True


class Looks(Callback):
    """Looks at gradients and tapes."""

    tapes = True

    def on_gradients(self, training, number):
        assert np.isfinite(training.network.tapes[0].weight_gradient_norms).all()


class Kill(Callback):
    """Ends training by an error at the gradients of an update."""

    def on_gradients(self, training, number):
        if training.position.epoch == 1 and training.position.batch == 1:
            raise KeyboardInterrupt


def made(epoch):
    for i in range(0, N, 2):
        yield X[i : i + 2], Y[i : i + 2]


def right(outputs, targets):
    return (outputs.argmax(-1) == targets).mean()


OPTIONS = {
    "batches that are made": {"x": made, "y": None, "batch_size": None},
    "updates": {"updates": 17, "epochs": None},
    "a schedule": {"learning_rate": lambda update: 0.3 / (1 + update)},
    "a share": {"validation": 0.34},
    "truncate": {"truncate": (2, 3)},
    "memory_budget": {"memory_budget": "1GB"},
    "clip_step_norm": {"clip_step_norm": 0.05},
    "sample_weight": {"sample_weight": [1, 2, 0, 0.5, 1, 3]},
    "class_weight": {"class_weight": {1: 2.0}},
    "ignore_index": {"ignore_index": 2},
    "burn_in": {"burn_in": 2},
    "metrics": {"metrics": {"right": right}},
    "mask": {"mask": LIVE},
    "resets": {"resets": ~LIVE},
    "reset_state": {"resets": ~LIVE, "reset_state": [RNG.normal(size=(N, T, 4))]},
    "state": {"state": [RNG.normal(size=(N, 4))]},
    "stateful": {"stateful": True, "shuffle": False},
    "early stopping": {"callbacks": [EarlyStopping("loss", patience=1)]},
    "a look at tapes": {"callbacks": [Looks()]},
}
REFUSED = {
    ("batches that are made", "a share"): "validation is 0.34, a share of samples, but x makes",
    ("batches that are made", "sample_weight"): "sample_weight is given, but x makes batches",
    ("batches that are made", "mask"): "mask is given, but x makes batches",
    ("batches that are made", "resets"): "resets is given, but x makes batches",
    ("batches that are made", "reset_state"): "resets is given, but x makes batches",
    ("batches that are made", "state"): "state is given, but x makes batches",
    ("truncate", "memory_budget"): "memory_budget is given, and truncate, which is for",
    ("truncate", "resets"): "resets is given, and truncate: what goes on",
    ("memory_budget", "resets"): "resets is given, and memory_budget: what goes on",
    ("memory_budget", "a look at tapes"): "memory_budget is given, and a callback with tapes",
    ("resets", "stateful"): "resets is given, and stateful: what goes on",
}


def fit(device, one, other, **more):
    on = {"device": device, "dtype": "float64"}
    net = Network([GRU(3, 4, **on), Dense(4, 3, **on)], loss="softmax_cross_entropy")
    given = {"x": X, "y": Y, "batch_size": 2, "epochs": 3, "learning_rate": 0.1, "progress": False}
    both = OPTIONS[one] | OPTIONS[other]
    callbacks = [each for name in (one, other) for each in OPTIONS[name].get("callbacks", ())]
    both["callbacks"] = callbacks + more.pop("callbacks", [])
    history = net.fit(**given | both | more)
    numbers = {name: np.array(a) for name, a in history.items() if "seconds" not in name}
    return parameters_of(net) | numbers


PAIRS = [pair for pair in combinations(OPTIONS, 2) if pair != ("a share", "stateful")]


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_two_options_go_together_or_are_refused(pair, tmp_path):
    if pair in REFUSED:
        with pytest.raises(ArgumentError, match=f"^{REFUSED[pair]}"):
            fit("reference", *pair)
        return
    expected, path = fit("reference", *pair), tmp_path / "checkpoint"
    got = fit("cpu", *pair)
    assert list(got) == list(expected)
    for name, a in expected.items():
        close(got[name], a, "float64")
    with pytest.raises(KeyboardInterrupt):
        fit("reference", *pair, checkpoint=path, checkpoint_every=1, callbacks=[Kill()])
    again = fit("reference", *pair, resume=path)
    for name, a in expected.items():
        assert np.array_equal(again[name], a), name


def test_a_share_leaves_whole_batches_for_what_goes_on():
    """Of 6 samples in batches of 2: a third, and not a half."""
    assert "loss" in fit("reference", "a share", "stateful")
    with pytest.raises(ArgumentError, match="stateful is True, but 3 samples are no whole number"):
        fit("reference", "a share", "stateful", validation=0.5)


def test_every_pair_that_is_refused_is_one():
    assert set(REFUSED) <= set(PAIRS)
