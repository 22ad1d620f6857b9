"""Weights of torch and Keras, in and out: a network gives what theirs gives. Keras's formulas are written here a second time."""

import os

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from door import parameters_of, refuses, same, table
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Bidirectional,
    Dense,
    Dropout,
    DtypeError,
    Embedding,
    Network,
    Recurrent,
    ShapeError,
)
from test_bptt import leaky_back, leaky_step

ON = {"device": "reference", "dtype": "float64"}
T, B, M, N = 5, 3, 4, 7
X = np.random.default_rng(0).normal(size=(T, B, M))


def network():
    layers = [Dropout(0.5, **ON), Bidirectional(LSTM(M, N, **ON)), GRU(2 * N, 5, **ON), RNN(5, 3, "relu", **ON), Dense(3, 2, "tanh", **ON)]
    return scrambled(Network(layers))


def scrambled(model):
    rng = np.random.default_rng(7)
    for a in model.parameters.values():
        a[...] = rng.normal(scale=0.4, size=a.shape)
    return model


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def keras_lstm(x, kernel, recurrent, bias):
    """keras.layers.LSTM: blocks i f c o."""
    h, c, out = np.zeros((x.shape[1], N)), np.zeros((x.shape[1], N)), []
    for x_t in x:
        i, f, g, o = np.split(x_t @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.stack(out)


def keras_gru(x, kernel, recurrent, bias):
    """keras.layers.GRU with reset_after=True: blocks z r h, one bias a side."""
    h, out = np.zeros((x.shape[1], N)), []
    for x_t in x:
        xz, xr, xh = np.split(x_t @ kernel + bias[0], 3, axis=-1)
        hz, hr, hh = np.split(h @ recurrent + bias[1], 3, axis=-1)
        z = sigmoid(xz + hz)
        h = z * h + (1 - z) * np.tanh(xh + sigmoid(xr + hr) * hh)
        out.append(h)
    return np.stack(out)


def keras_simple(x, kernel, recurrent, bias):
    h, out = np.zeros((x.shape[1], N)), []
    for x_t in x:
        h = np.tanh(x_t @ kernel + bias + h @ recurrent)
        out.append(h)
    return np.stack(out)


KERAS = {"LSTM": (LSTM, keras_lstm, 4), "GRU": (GRU, keras_gru, 3), "SimpleRNN": (RNN, keras_simple, 1)}


@pytest.fixture(params=KERAS.values(), ids=KERAS)
def theirs(request):
    return request.param


def drawn(G, bias=True):
    rng = np.random.default_rng(3)
    shape = (2, 3 * N) if G == 3 else (G * N,)
    return [rng.normal(scale=0.4, size=s) for s in ((M, G * N), (N, G * N), shape)][: 3 if bias else 2]


def test_weights_of_keras_give_what_its_formulas_give(theirs):
    kind, formula, G = theirs
    weights, layer = drawn(G), kind(M, N, **ON)
    layer.load_keras(weights)
    close(layer(X)[0], formula(X, *weights))
    for a, b in zip(layer.to_keras(), weights, strict=True):
        same(np.ascontiguousarray(a), b)
    layer.load_keras(drawn(G, bias=False))
    close(layer(X)[0], formula(X, *weights[:2], 0 * weights[2]))


@pytest.mark.parametrize("build", [network, lambda: Network([Embedding(4, M, **ON), LSTM(M, N, **ON)])], ids=["deep", "symbols"])
@pytest.mark.parametrize("library", ["torch", "keras"])
def test_a_network_goes_out_and_comes_in_again(build, library):
    net, other = scrambled(build()), build()
    getattr(other, f"load_{library}")(getattr(net, f"to_{library}")())
    expected, got = parameters_of(net), parameters_of(other)
    for name in expected:
        close(got[name], expected[name])


@pytest.mark.filterwarnings("ignore")  # Keras's own
def test_a_network_is_keras_sequential():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="Keras is not installed; its formulas are tested above")
    keras.config.set_floatx("float64")
    layers = keras.layers
    sequences = {"return_sequences": True}
    stack = [layers.Bidirectional(layers.LSTM(N, **sequences)), layers.GRU(5, use_bias=False, **sequences), layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((None, M)), *stack, layers.SimpleRNN(3, activation="relu", **sequences), layers.Dense(2)])
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(scale=0.4, size=a.shape) for a in model.get_weights()])
    net = Network([Bidirectional(LSTM(M, N, **ON)), GRU(2 * N, 5, **ON), Dropout(0.5, **ON), RNN(5, 3, "relu", **ON), Dense(3, 2, **ON)])
    net.load_keras(model.get_weights())
    expected = keras.ops.convert_to_numpy(model(X.swapaxes(0, 1), training=False)).swapaxes(0, 1)
    close(net(X)[0], expected, "float32")  # Keras computes a part in float32
    alone = keras.Sequential([keras.Input((None, 2 * N)), layers.GRU(5, **sequences)])
    alone.set_weights(net.layers[1].to_keras())
    between = np.ones((B, T, 2 * N))
    got, _ = net.layers[1](between.swapaxes(0, 1))
    close(got.swapaxes(0, 1), keras.ops.convert_to_numpy(alone(between)), "float32")


def test_a_network_is_torchs_module_list():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    net = network()
    modules = [torch.nn.Dropout(), torch.nn.LSTM(M, N, bidirectional=True), torch.nn.GRU(2 * N, 5), torch.nn.RNN(5, 3, nonlinearity="relu")]
    theirs = torch.nn.ModuleList([*modules, torch.nn.Linear(3, 2)]).double().eval()
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in net.to_torch().items()})
    x = torch.from_numpy(X)
    for module in theirs[1:4]:
        x, _ = module(x)
    close(net(X)[0], torch.tanh(theirs[4](x)).detach().numpy())
    other = Network([*rnn_gpu.stack(LSTM, M, N, bidirectional=True, **ON)])
    other.load_torch({f"0.{name}": a for name, a in theirs[1].state_dict().items()})
    close(other(X)[0], theirs[1](torch.from_numpy(X))[0].detach().numpy())


# Errors


def without(d, name):
    return {key: a for key, a in d.items() if key != name}


LEAKY = rnn_gpu.cell("leaky", gates=1, states=1, kept=1, step=leaky_step, back=leaky_back)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        ("no layer", lambda n: n.load_torch({"a.weight": X}), ArgumentError, r"state_dict has a.weight, expected names .* 0. … 4"),
        ("missing", lambda n: n.load_torch(without(n.to_torch(), "4.weight")), ArgumentError, "state_dict has bias, expected weight, bias"),
        ("nothing", lambda n: n.load_torch({}), ArgumentError, "state_dict has nothing, expected weight_ih_l0"),
        ("Dropout", lambda n: n.load_torch(n.to_torch() | {"0.weight": X}), ArgumentError, "state_dict has weight, expected "),
        (
            "shape",
            lambda n: n.load_torch(n.to_torch() | {"4.weight": X[0]}),
            ShapeError,
            r"state_dict gives 4.V the shape \(3, 4\), expected",
        ),
        ("dtype", lambda n: n.load_torch({k: a.astype("float32") for k, a in n.to_torch().items()}), DtypeError, "state_dict gives 1.U as"),
        ("too many", lambda n: n.load_keras([*n.to_keras(), X]), ArgumentError, r"weights has 1 arrays too many.*\(5, 3, 4\)"),
        ("too few", lambda n: n.load_keras(n.to_keras()[:9]), ArgumentError, "weights has 2 arrays too few"),
        ("Keras's shape", lambda n: n.load_keras([np.ones((5, 28)), *n.to_keras()[1:]]), ShapeError, r"weights gives 1.U .*\(28, 5\)"),
        (
            "reset before",
            lambda n: n.layers[2].load_keras([*n.layers[2].to_keras()[:2], np.zeros(15)]),
            ArgumentError,
            "weights has one bias, of a GRU with reset_after=False",
        ),
        (
            "blocks",
            lambda n: n.layers[2].load_keras([np.zeros((14, 16)), np.zeros((5, 15))]),
            ShapeError,
            r"weights has matrices of \(14, 16\)",
        ),
        ("cell", lambda n: Recurrent(LEAKY, 3, 2, **ON).to_keras(), ArgumentError, "cell is 'leaky', which Keras does not have"),
    ),
)
def test_weights_that_do_not_fit_are_refused_and_nothing_changes(call, error, message):
    net = network()
    before = parameters_of(net)
    refuses(error, f"^{message}", lambda: call(net))
    same(parameters_of(net), before)
