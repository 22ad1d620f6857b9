"""Which axis is which: calls of a network that is batch_first, and samples, whose axis is always
the first; what is mistaken is told of the other.
"""

import numpy as np
import pytest

from door import draw, network, refuses, results, same
from rnn_gpu import ArgumentError, Dense, Network, ShapeError, Stream, gradcheck, load

T, B, M, K = 5, 3, 4, 2
X, DY = draw(T, B, M), draw(T, B, K)
MASK = np.random.default_rng(1).random((T, B)) < 0.8


def turned(a):
    return np.ascontiguousarray(np.swapaxes(a, 0, 1))


@pytest.mark.parametrize("options", [{}, {"mask": MASK, "resets": ~MASK}], ids=str)
def test_a_network_that_is_batch_first_is_the_other_with_axes_swapped(options):
    expected = results(network(), X, DY, **options)
    swapped = {name: turned(a) for name, a in options.items()}
    got = results(network(batch_first=True), turned(X), turned(DY), **swapped)
    for name in ("y", "dx"):
        got[name] = turned(got[name])
    same(got, expected)


def test_it_stays_so_in_copies_files_and_streams(tmp_path):
    net, path = network(batch_first=True), tmp_path / "model"
    net.save(path)
    y, _ = network()(X)
    for other in (net.copy(), load(path, device="reference")):
        assert other.batch_first
        same(turned(other(turned(X))[0]), y)
    stream = Stream(net)
    same(np.concatenate([stream(turned(X[:2])), stream(turned(X[2:]))], 1), turned(y))
    stream.reset()
    same(np.stack([stream(x) for x in X]), y)


def test_samples_come_first_whatever_a_call_takes():
    x, y = turned(X), turned(DY)
    for net in (network(), network(batch_first=True)):
        net.fit(x, y, epochs=1, progress=False)
        assert len(net.predict(x)) == B
    found = [network(batch_first=first).evaluate(x, y) for first in (False, True)]
    assert found[0] == found[1]


def test_a_gradient_is_checked_time_major():
    net = network(batch_first=True).copy(dtype="float64")
    assert gradcheck(net, X.astype("float64"), DY.astype("float64")).worst < 1e-6


def test_what_is_mistaken_is_told_of_the_other():
    message = r"^y has 3 targets, expected 5, .*\(N, T, m\): is \(5, 3, 4\) meant as \(T, N, m\)"
    refuses(ShapeError, message, lambda: network(steps="last").fit(X, DY[0], progress=False))
    message = r"^lengths has shape \(5,\), expected \(3,\).*is it \(B, T, m\), say batch_first=True"
    refuses(ShapeError, message, lambda: network()(X, lengths=[2] * T))
    message = r"^lengths has shape \(5,\), .*is it \(T, B, m\), say batch_first=False"
    refuses(ShapeError, message, lambda: network(batch_first=True)(turned(X), lengths=[2] * T))


def test_rows_have_no_time():
    message = "^batch_first is True, but this network has no recurrent layer"
    layers = [Dense(M, K, device="reference")]
    refuses(ArgumentError, message, lambda: Network(layers, batch_first=True))
