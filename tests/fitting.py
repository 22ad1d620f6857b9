"""What the tests of `fit` share: samples of several lengths, a small network, and all that training
leaves.
"""

import numpy as np

from conftest import close
from door import parameters_of
from rnn_gpu import GRU, Dense, Network
from rnn_gpu.callbacks import Callback

RNG = np.random.default_rng(0)
LENGTHS = (4, 7, 5, 6, 3, 7)
X = [RNG.normal(size=(T, 3)) for T in LENGTHS]
LABELS = [RNG.integers(0, 3, T) for T in LENGTHS]
CLASSES = [0, 2, 1, 1, 2, 0]
NUMBERS = [RNG.normal(size=(T, 3)) for T in LENGTHS]
LIVE = [RNG.random(T) < 0.7 for T in LENGTHS]
for live in LIVE:
    live[1] = True
SOFTMAX = "softmax_cross_entropy"


def network(steps="every", loss=SOFTMAX, device="reference", layers=(), k=3, kind=GRU):
    on = {"device": device, "dtype": "float64"}
    return Network([*layers, kind(3, 4, **on), Dense(4, k, **on)], loss=loss, steps=steps)


def trained(net, x, y, **options):
    """All that training leaves, by name, as arrays; by plain steps on all samples at once."""
    given = {
        "epochs": 3,
        "batch_size": 99,
        "shuffle": False,
        "optimizer": "sgd",
        "learning_rate": 0.3,
        "progress": False,
    }
    history = net.fit(x, y, **given | options)
    numbers = {name: np.array(a) for name, a in history.items() if "seconds" not in name}
    return parameters_of(net) | numbers


def alike(got, expected):
    assert list(got) == list(expected)
    for name, a in expected.items():
        close(got[name], a, "float64")


class Kill(Callback):
    """Ends training by an error at the gradients of an update."""

    def __init__(self, number):
        self.number = number

    def on_gradients(self, training, number):
        if number == self.number:
            raise KeyboardInterrupt
