"""Layers, networks, streams and optimizers travel: by pickle, deepcopy, a process that is spawned,
joblib.
"""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

from door import MODELS, STATELESS, M, N, T, X, draw, network, parameters_of, refuses, results, same
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    DeviceError,
    Dropout,
    Embedding,
    Network,
    OrderError,
    Stream,
    device,
    optimizers,
)
from rnn_gpu.kernels.cells import CELLS

WAYS = {"pickle": lambda value: pickle.loads(pickle.dumps(value)), "deepcopy": copy.deepcopy}
NOISY = {"recurrent_dropout": 0.5, "zoneout": 0.1, "device": "reference"}
BUILDS = MODELS | {
    "Bidirectional": lambda: Bidirectional(GRU(M, N, device="reference")),
    "own activation": lambda: RNN(M, N, (np.arctan, darctan), device="reference"),
    "with noise": lambda: Network(
        [LSTM(M, N, **NOISY), Dropout(0.5, device="reference"), GRU(N, N, device="reference")]
    ),
    "symbols": lambda: Network(
        [Embedding(M, N, device="reference"), GRU(N, N, device="reference")]
    ),
}


def darctan(y):
    return np.cos(y) ** 2


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def travelled(request):
    return request.param


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_model_computes_what_it_did_before(build, travelled):
    model = build()
    for a in model.parameters.values():
        a += 0.1
    y, _ = model(X, training=True)
    model.backward(y)
    again = travelled(model)
    assert type(again) is type(model) and again.device == model.device
    # what a pass remembers stays
    refuses(OrderError, "backward before forward", lambda: again.backward(y))
    same(parameters_of(again), parameters_of(model))
    same(results(again, X, y), results(model, X, y))
    same(again(X, training=True)[0], model(X, training=True)[0])


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_copy_has_weights_of_its_own(build):
    model = build()
    before, again = parameters_of(model), copy.deepcopy(model)
    again.fit([draw(T, M)], [draw(T, again.output_size)], epochs=1, progress=False) if isinstance(
        again, Network
    ) else None
    for a in again.parameters.values():
        a += 1
    same(parameters_of(model), before)


def test_both_directions_share_their_parameters_with_the_layer(travelled):
    layer = travelled(Bidirectional(GRU(M, N, device="reference")))
    assert layer.parameters["W"] is layer.recurrent[0].parameters["W"]
    assert layer.parameters["W_reverse"] is layer.recurrent[1].parameters["W"]


def test_a_cell_of_ours_comes_back_as_itself(cell, travelled):
    assert travelled(cell) is CELLS[cell.name]


@pytest.mark.parametrize("build", STATELESS.values(), ids=STATELESS)
def test_layers_that_know_no_time_travel(build, travelled):
    layer = build()
    same(travelled(layer)(X), layer(X))


@pytest.mark.parametrize(
    "kind", [optimizers.SGD, optimizers.RMSprop, optimizers.Adam, optimizers.AdamW]
)
def test_an_optimizer_goes_on_where_it_was(kind, travelled):
    def train(net, optimizer):
        net.fit(x, y, epochs=1, optimizer=optimizer, progress=False)

    x, y = [draw(T, M) for _ in range(3)], [draw(T, 2) for _ in range(3)]
    net, optimizer = network(), kind(0.1)
    train(net, optimizer)
    other, its = travelled(net), travelled(optimizer)
    train(net, optimizer)
    train(other, its)
    assert its.steps == optimizer.steps == 2
    same(parameters_of(other), parameters_of(net))


def test_a_stream_goes_on_where_it_was(travelled):
    stream = Stream(network())
    stream(X[:2])
    again = travelled(stream)
    same(again(X[2:]), stream(X[2:]))


def test_a_compiled_model_travels_to_a_process_that_is_spawned():
    net = Network([LSTM(M, N, device="cpu")])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(output_of, (net, X))
    same(found, net(X)[0])


def output_of(net, x):
    return net(x)[0]


def test_joblib_sends_networks_to_its_workers():
    joblib = pytest.importorskip("joblib")
    net = Network([LSTM(M, N, device="cpu")])
    found = joblib.Parallel(n_jobs=2)(
        joblib.delayed(output_of)(net, scale * X) for scale in (np.float32(1), np.float32(2))
    )
    same(found[0], net(X)[0])
    same(found[1], net(2 * X)[0])


def test_a_model_of_a_device_that_is_not_here_says_so(monkeypatch):
    data = pickle.dumps(network(), protocol=pickle.HIGHEST_PROTOCOL)
    monkeypatch.setattr("rnn_gpu.layers.base.resolve", lambda *arguments: device("gpu"))
    refuses(DeviceError, "^device is 'gpu'", lambda: pickle.loads(data))
