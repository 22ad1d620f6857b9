"""A Stream gives, step by step, what one call on the whole sequence gives, and keeps nothing but
the states.
"""

import gc
import tracemalloc

import numpy as np
import pytest

from conftest import close
from door import named, refuses, same, table
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Network,
    ShapeError,
    Stream,
)
from rnn_gpu.device import resolve
from rnn_gpu.kernels import Forward
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cpu import recurrence, threads

T, B, M, N = 7, 3, 5, 13
X = np.random.default_rng(0).normal(size=(T, B, M)).astype("float32")


def network(device="reference", **options):
    on = {"device": device} | options
    return Network([LSTM(M, N, **on), Dropout(0.5, **on), GRU(N, 4, **on), Dense(4, 2, **on)])


def test_steps_one_by_one_are_the_sequence_at_once(device, dtype):
    net, x = network(device, dtype=dtype), X.astype(dtype)
    s0 = [(X[0, :, :1] + np.ones((B, N), dtype), -np.ones((B, N), dtype)), np.ones((B, 4), dtype)]
    s0 = [tuple(a.astype(dtype) for a in s) if isinstance(s, tuple) else s for s in s0]
    y, last = net(x, s0)
    stream = Stream(net, state=s0)
    close(np.stack([stream(step) for step in x]), y, dtype)
    for name, a in named("s", stream.state).items():
        close(a, named("s", last)[name], dtype)
    stream.reset(s0)
    close(np.concatenate([stream(x[:2]), stream(x[2:6]), stream(x[6:])]), y, dtype)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("b", [1, pytest.param(B, marks=pytest.mark.slow), 9])
def test_on_the_cpu_pieces_give_the_bits_of_the_whole(b, count, dtype, monkeypatch):
    """Whatever tiles and threads the whole takes: the sum of a row does not depend on the rows
    beside it.
    """
    on = {"device": "cpu", "dtype": dtype}
    x = np.random.default_rng(2).normal(size=(2 * T, b, M)).astype(dtype)
    net = Network([RNN(M, 7, **on), LSTM(7, N, **on), GRU(N, 33, **on), Dense(33, 3, "tanh", **on)])
    with monkeypatch.context() as patch:
        patch.setattr(threads, "ENOUGH", 1)
        patch.setattr(recurrence, "WORTH_BARRIER", 1)
        patch.setattr(threads, "most", lambda: count)
        whole, _ = net(x)
    stream = Stream(net)
    same(np.stack([stream(step) for step in x]), whole)
    stream.reset()
    same(np.concatenate([stream(x[:2]), stream(x[2:3]), stream(x[3:])]), whole)


@pytest.mark.parametrize("name", ["elman_tanh", "lstm", "gru"])
def test_the_recurrence_of_pieces_is_bitwise_that_of_the_whole(name, device):
    cell, d, rng, n = CELLS[name], resolve(device), np.random.default_rng(1), 5
    p = d.array(rng.normal(size=(T, B, cell.gates, n)), "float32")
    W = d.array(rng.normal(size=(cell.gates * n, n)), "float32")
    c = d.array(rng.normal(size=cell.gates * n if cell.apart else 0), "float32")

    def run(pieces):
        states = [d.array(np.ones((cell.states, B, n)), "float32")]
        for piece in pieces:
            s = d.empty((cell.states, len(piece) + 1, B, n), "float32")
            s[:, 0] = states[-1]
            kept = d.empty((len(piece), B, cell.kept, n), "float32")
            flags = d.array(np.ones((len(piece), B)), "uint8")
            d.forward(cell, Forward(piece, W, c, s, kept, flags))
            states += [d.array(s[:, t + 1], "float32") for t in range(len(piece))]
        return np.stack([d.numpy(s) for s in states])

    same(run([p[:3], p[3:4], p[4:]]), run([p]))


def test_thousands_of_steps_take_no_memory():
    stream, held = Stream(network("cpu")), []
    tracemalloc.start()
    for _ in range(2):
        for _ in range(2000):
            stream(X[0])
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    states = B * (2 * N + 4) * 4
    assert held[1] - held[0] < 20 * states  # not 2000 times


def test_a_piece_of_many_steps_is_not_kept_alive():
    stream = Stream(network())
    stream(np.ones((50, B, M), "float32"))
    assert all(s.base is None or s.base.size == s.size for s in stream._s)


def test_symbols_stream_too():
    net = Network([Embedding(4, 3, device="reference"), RNN(3, 2, device="reference")])
    symbols = np.array([[1, 3], [0, 0], [2, 1]])
    stream = Stream(net)
    close(np.stack([stream(step) for step in symbols]), net(symbols)[0], "float32")


def test_a_stream_leaves_backward_alone():
    net = network()
    y, _ = net(X)
    expected, _ = net.backward(np.ones_like(y))
    Stream(net)(X)
    same(net.backward(np.ones_like(y))[0], expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        ("a layer", lambda: Stream(LSTM(M, N)), ArgumentError, "network is .*expected a Network"),
        (
            "rows",
            lambda: Stream(Network([Dense(M, N)])),
            ArgumentError,
            "network is .*that has a recurrent layer",
        ),
        (
            "reverse",
            lambda: Stream(Network([Bidirectional(LSTM(M, N))])),
            ArgumentError,
            "recurrent layer 1 of network goes in reverse",
        ),
        (
            "features",
            lambda: Stream(network())(X[0, :, :2]),
            ShapeError,
            r"x has shape \(1, 3, 2\), expected 5 on axis 2",
        ),
        (
            "states",
            lambda: Stream(network(), state=[X[0]])(X),
            ShapeError,
            "state is a list of 1, expected a list of 2",
        ),
    ),
)
def test_what_cannot_stream_is_refused(call, error, message):
    refuses(error, f"^{message}", call)


def test_another_number_of_samples_is_refused_until_reset():
    stream = Stream(network())
    stream(X[0])
    refuses(
        ShapeError,
        r"^x has 2 samples, but this stream goes on with 3: reset\(\)",
        lambda: stream(X[0, :2]),
    )
    stream.reset()
    assert stream(X[0, :2]).shape == (2, 2)
