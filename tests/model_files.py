"""What the tests of model files share: networks of every kind, their bits, and what fails."""

import numpy as np

from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    Dense,
    Dropout,
    Network,
    Recurrent,
)

REFERENCE = {"device": "reference"}


def bits(network):
    return {
        name: (str(a.dtype), a.shape, np.asarray(network.backend.numpy(a)).tobytes())
        for name, a in network.parameters.items()
    }


def scramble(network):
    """The network with numbers that no seed gives: what is loaded is then not what is drawn."""
    rng = np.random.default_rng(9)
    for a in network.parameters.values():
        a[...] = rng.normal(scale=0.3, size=a.shape)
    return network


NETWORKS = {
    "RNN tanh": lambda **o: Network([RNN(3, 4, **o)]),
    "RNN relu": lambda **o: Network([RNN(3, 4, "relu", init="torch", **o)]),
    "LSTM": lambda **o: Network([LSTM(3, 4, seed=7, **o)]),
    "GRU": lambda **o: Network([GRU(3, 4, **o)]),
    "Recurrent": lambda **o: Network([Recurrent("elman_elu", 3, 4, **o)]),
    "Dense": lambda **o: Network(
        [RNN(3, 4, **o), Dense(4, 2, "softplus", init="torch", **o)], steps="last"
    ),
    "Dropout": lambda **o: Network(
        [Dropout(0.25, seed=3, **o), LSTM(3, 4, **o), Dropout(0.5, **o), Dense(4, 2, **o)]
    ),
    "deep": lambda **o: Network(
        [GRU(3, 4, **o), Recurrent("lstm", 4, 3, **o), RNN(3, 2, **o)],
        loss="softmax_cross_entropy",
        steps="last",
    ),
    "binary": lambda **o: Network(
        [LSTM(3, 2, **o), Dense(2, 1, "identity", **o)], loss="binary_cross_entropy"
    ),
}


def fail(error):
    def failing(*arguments, **options):
        raise error

    return failing
