"""A run of training that takes a moment: the tests of checkpoints stop it, go on with it, and
damage what it wrote.
"""

from contextlib import suppress

import numpy as np
import pytest

from rnn_gpu import GRU, Dense, Dropout, Network, NonFiniteError, optimizers

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(RNG.integers(3, 6), 3)).astype("float32") for _ in range(11)]
Y = [RNG.normal(size=(len(x), 2)).astype("float32") for x in X]
SETTINGS = {"batch_size": 3, "seed": 4, "progress": False}


def network(device="reference", kind=GRU):
    on = {"device": device}
    return Network(
        [
            Dropout(0.2, variational=True, **on),
            kind(3, 5, **on),
            Dropout(0.5, **on),
            Dense(5, 2, **on),
        ]
    )


class StopError(Exception):
    """What ends a run in the middle."""


def stopped(net, updates, path, **settings):
    """Train, writing a checkpoint after each batch, and stop before update `updates`."""

    def stop(network, update):
        if update == updates:
            raise StopError

    with pytest.raises(StopError):
        net.fit(X, Y, checkpoint=path, checkpoint_every=1, watch=stop, **SETTINGS | settings)


def fresh():
    """A network and its optimizer that have trained before."""
    net, adam = network(), optimizers.Adam()
    net.fit(X, Y, epochs=1, optimizer=adam, **SETTINGS)
    return net, adam


def goes_on(net, optimizer, path):
    with suppress(NonFiniteError):  # of 1e30, which is a number
        net.fit(X, Y, epochs=3, resume=path, optimizer=optimizer, **SETTINGS)
