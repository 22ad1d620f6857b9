"""Updates that a CUDA graph does again have the bits of those that go call by call; here graphs are
those of the strict stand-in for CuPy.
"""

import gc
import warnings

import numpy as np
import pytest

from rnn_gpu import GRU, LSTM, Dense, Dropout, Embedding, Network, optimizers
from rnn_gpu.errors import NonFiniteError
from rnn_gpu.kernels.devices import cuda
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED
from rnn_gpu.kernels.devices.cuda.schedules import only
from rnn_gpu.kernels.emulator.arrays.counts import counted
from rnn_gpu.network import replay
from rnn_gpu.training import Samples, Settings, Training, Ways

pytestmark = pytest.mark.skipif(not SIMULATED, reason="the stand-in has the simulator's kernels")
if SIMULATED:
    from rnn_gpu.kernels.emulator.simulated import strict

T, B, M, N, K = 4, 2, 3, 3, 2
ON = {"device": "cuda"}
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5 * B, T, M)).astype("f"), RNG.integers(0, K, (5 * B, T))


@pytest.fixture(autouse=True)
def played():
    with strict():
        yield


def network(*layers, **options):
    layers = layers or (LSTM(M, N, **ON), Dense(N, K, **ON))
    return Network(list(layers), loss="softmax_cross_entropy", **options)


def trained(net, x=X, y=Y, optimizer=None, look=None, **settings):
    """(what `fit` would note, parameters, how many graphs were launched)."""
    settings = {"epochs": 2, "batch_size": B, "clip_norm": 0.5} | settings
    samples = Samples(net, list(x), list(y))
    training = Training(net, samples, optimizer or optimizers.Adam(), Settings(**settings))
    with counted() as counts:
        for update in training:
            if look:
                look(net, update)
    weights = [net.backend.numpy(a) for a in net.parameters.values()]
    history = {name: training.history[name] for name in ("step_loss", "gradient_norm", "accuracy")}
    return history, weights, counts.graphs


def same(one, other):
    assert one[0] == other[0]
    assert all((a == b).all() for a, b in zip(one[1], other[1], strict=True))


@pytest.fixture
def eagerly(monkeypatch):
    """Without graphs."""

    def run(*given, **options):
        with monkeypatch.context() as without:
            without.setattr(cuda, "captured", lambda action: None)
            return trained(*given, **options)

    return run


@pytest.mark.parametrize("schedule", [None, "plain", "gemm"])
def test_replayed_updates_have_the_bits_of_others(schedule, eagerly):
    with only(schedule or "block"):
        got = trained(network())
        same(got, eagerly(network()))
    assert got[2] == 9  # of ten: the first goes call by call


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": optimizers.SGD(0.1, momentum=0.9)},
        {"clip_value": 0.01},
        {"clip_step_norm": 0.01},
        {"shuffle": False, "clip_norm": None},
    ],
    ids=str,
)
def test_whatever_bounds_and_changes_the_weights(options, eagerly):
    made = options.get("optimizer")
    got = trained(network(), **options)
    other = options | ({"optimizer": made.fresh()} if made else {})
    same(got, eagerly(network(), **other))
    assert got[2] == 9


def test_other_layers_and_last_steps(eagerly):
    def build():
        layers = (
            Embedding(4, M, device="cuda"),
            GRU(M, N, device="cuda"),
            Dense(N, K, device="cuda"),
        )
        return network(*layers, steps="last")

    x, y = RNG.integers(0, 4, (6, T)), RNG.integers(0, K, 6)
    got = trained(build(), x, y)
    same(got, eagerly(build(), x, y))
    assert got[2] == 5


def test_a_smaller_last_batch_has_a_graph_of_its_own(eagerly):
    got = trained(network(), X[:5], Y[:5], epochs=4)
    same(got, eagerly(network(), X[:5], Y[:5], epochs=4))
    assert got[2] == 12 - 2


def test_an_update_is_one_wait_and_few_calls():
    """The counts that `python -m benchmarks counts` has; here of a replayed update alone."""
    net, seen = network(), []

    def look(net, update):
        seen.append(counts.table())

    with counted() as counts:
        trained(net, look=look)
    last = {name: seen[-1][name] - seen[-2][name] for name in seen[-1]}
    assert last["waits"] == last["graphs"] == last["copies_from"] == 1
    assert last["copies_to"] == 2 and last["operations"] == 2  # a batch, and the scalars
    assert last["launches"] == last["products"] == 0


def test_what_was_written_between_updates_is_seen(eagerly):
    def halve(net, update):
        if update.number == 4:
            net.layers[0].parameters["W"][...] *= 0.5

    got = trained(network(), look=halve)
    same(got, eagerly(network(), look=halve))
    assert got[2] == 9


def test_the_learning_rate_may_change(eagerly):
    def run(trained):
        made = optimizers.Adam()

        def slower(net, update):
            made.learning_rate *= 0.8

        return trained(network(), optimizer=made, look=slower)

    got = run(trained)
    same(got, run(eagerly))
    assert got[2] == 9


def test_other_calls_between_updates_do_no_harm(eagerly):
    def evaluate(net, update):
        net(X[:2].swapaxes(0, 1))
        net.backward(np.ones((T, 2, K), "f"))

    same(trained(network(), look=evaluate), eagerly(network(), look=evaluate))


def test_gradients_of_a_replayed_update_may_be_looked_at(eagerly):
    def grads_of(run):
        seen = []
        run(
            network(),
            look=lambda net, update: seen.append({k: g.get() for k, g in net.grads.items()}),
        )
        return seen

    for one, other in zip(grads_of(trained), grads_of(eagerly), strict=True):
        assert one.keys() == other.keys() and all((one[k] == other[k]).all() for k in one)


@pytest.mark.parametrize(
    "how",
    [
        {"truncate": (2, 2)},
        {"layers": lambda: (LSTM(M, N, device="cuda", zoneout=0.1), Dense(N, K, device="cuda"))},
        {
            "layers": lambda: (
                LSTM(M, N, device="cuda"),
                Dropout(0.5, device="cuda"),
                Dense(N, K, device="cuda"),
            )
        },
        {"x": [X[0], X[1][:3]] * 5, "y": [Y[0], Y[1][:3]] * 5, "shuffle": False},
    ],
    ids=["truncate", "zoneout", "dropout", "ragged"],
)
def test_what_is_not_the_same_work_each_time_goes_call_by_call(how, eagerly):
    how = dict(how)
    layers = how.pop("layers", lambda: ())
    got = trained(network(*layers()), **how)
    same(got, eagerly(network(*layers()), **how))
    assert got[2] == 0


def test_what_is_not_finite_is_named_and_no_weight_has_changed():
    """By the arrays of the graph, in which the bad update stands."""
    net, before = network(), {}

    def look(net, update):
        if update.number == 3:
            net.layers[1].parameters["V"][0, 0] = np.inf
            before.update({name: a.get() for name, a in net.parameters.items()})

    with pytest.raises(NonFiniteError, match=r"update 4: parameter V of layer 1.*No weight has"):
        trained(net, look=look)
    assert all((a.get() == before[name]).all() for name, a in net.parameters.items())


def test_segments_go_call_by_call():
    net = network()
    batch = Samples(net, list(X), list(Y)).batch(range(B))
    ways = Ways()
    assert replay.may_be_kept(net, batch, ways)
    for other in (
        {"segment": 2},
        {"states": [0]},
        {"taped": True},
        {"parallel": 1},
    ):
        assert not replay.may_be_kept(net, batch, ways._replace(**other))
    assert not replay.may_be_kept(net, batch, ways, changes=False)
    assert not replay.may_be_kept(net, batch._replace(whole=None), ways)


def test_a_capture_that_fails_is_told_once_and_training_goes_on(monkeypatch, eagerly):
    def fails(action):
        raise RuntimeError("not permitted")

    with monkeypatch.context() as broken:
        broken.setattr(cuda, "captured", fails)
        with pytest.warns(RuntimeWarning, match="goes call by call: not permitted") as told:
            got = trained(network())
    assert len(told) == 1 and got[2] == 0
    same(got, eagerly(network()))


def test_graphs_are_few_and_let_go():
    x = [RNG.normal(size=(t, M)).astype("f") for t in (2, 3, 4, 5, 6, 7) for _ in range(B)]
    y = [RNG.integers(0, K, len(a)) for a in x]
    net = network()
    training = Training(
        net, Samples(net, x, y), optimizers.Adam(), Settings(epochs=3, batch_size=B, shuffle=False)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in training:
            pass
    kept = training._replays.kept
    assert len(kept) == replay.MOST
    pool = next(iter(kept.values())).replay.pool
    assert pool.used_bytes() > 0
    del kept
    training._replays = None
    net.remember(None)
    gc.collect()
    assert pool.used_bytes() == 0
