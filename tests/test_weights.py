"""Weights of torch and Keras, in and out: a network gives what theirs gives. Keras's formulas are
written here a second time.
"""

import os
import re

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from door import parameters_of, refuses, same, table
from own_cells import LEAKY
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
from rnn_gpu.kernels.cells.lstm import lstm

ON = {"device": "reference", "dtype": "float64"}
T, B, M, N = 5, 3, 4, 7
X = np.random.default_rng(0).normal(size=(T, B, M))


def network():
    layers = [
        Dropout(0.5, **ON),
        Bidirectional(LSTM(M, N, **ON)),
        GRU(2 * N, 5, **ON),
        RNN(5, 3, "relu", **ON),
        Dense(3, 2, "tanh", **ON),
    ]
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


KERAS = {
    "LSTM": (LSTM, keras_lstm, 4),
    "GRU": (GRU, keras_gru, 3),
    "SimpleRNN": (RNN, keras_simple, 1),
}


@pytest.fixture(params=KERAS.values(), ids=KERAS)
def theirs(request):
    return request.param


def drawn(G, bias=True):
    rng = np.random.default_rng(3)
    shape = (2, 3 * N) if G == 3 else (G * N,)
    return [rng.normal(scale=0.4, size=s) for s in ((M, G * N), (N, G * N), shape)][
        : 3 if bias else 2
    ]


def test_weights_of_keras_give_what_its_formulas_give(theirs):
    kind, formula, G = theirs
    weights, layer = drawn(G), kind(M, N, **ON)
    layer.load_keras(weights)
    close(layer(X)[0], formula(X, *weights))
    for a, b in zip(layer.to_keras(), weights, strict=True):
        same(np.ascontiguousarray(a), b)
    layer.load_keras(drawn(G, bias=False))
    close(layer(X)[0], formula(X, *weights[:2], 0 * weights[2]))


@pytest.mark.parametrize(
    "build",
    [network, lambda: Network([Embedding(4, M, **ON), LSTM(M, N, **ON)])],
    ids=["deep", "symbols"],
)
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
    keras = pytest.importorskip(
        "keras", reason="Keras is not installed; its formulas are tested above"
    )
    keras.config.set_floatx("float64")
    layers = keras.layers
    sequences = {"return_sequences": True}
    stack = [
        layers.Bidirectional(layers.LSTM(N, **sequences)),
        layers.GRU(5, use_bias=False, **sequences),
        layers.Dropout(0.5),
    ]
    model = keras.Sequential(
        [
            keras.Input((None, M)),
            *stack,
            layers.SimpleRNN(3, activation="relu", **sequences),
            layers.Dense(2),
        ]
    )
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(scale=0.4, size=a.shape) for a in model.get_weights()])
    net = Network(
        [
            Bidirectional(LSTM(M, N, **ON)),
            GRU(2 * N, 5, **ON),
            Dropout(0.5, **ON),
            RNN(5, 3, "relu", **ON),
            Dense(3, 2, **ON),
        ]
    )
    net.load_keras(model.get_weights())
    expected = keras.ops.convert_to_numpy(model(X.swapaxes(0, 1), training=False)).swapaxes(0, 1)
    close(net(X)[0], expected, "float32")  # Keras computes a part in float32
    alone = keras.Sequential([keras.Input((None, 2 * N)), layers.GRU(5, **sequences)])
    alone.set_weights(net.layers[1].to_keras())
    between = np.ones((B, T, 2 * N))
    got, _ = net.layers[1](between.swapaxes(0, 1))
    close(got.swapaxes(0, 1), keras.ops.convert_to_numpy(alone(between)), "float32")


# Each array under its own name and shape, before anything is made of it


BIASES = {
    "one number": np.full(1, 5.0),
    "a scalar": np.float64(5),
    "zero axes": np.array(5.0),
    "too many axes": np.zeros((1, 1)),
}


@pytest.mark.parametrize("wrong", BIASES.values(), ids=BIASES)
@pytest.mark.parametrize(
    "name", ["1.bias_ih_l0", "1.bias_hh_l0_reverse", "2.bias_hh_l0", "3.bias_ih_l0", "4.bias"]
)
def test_a_bias_of_torchs_is_not_stretched(name, wrong):
    """Of an LSTM's and an RNN's two the sum is taken: NumPy would make one number as long as the
    other.
    """
    net = network()
    before, state_dict = parameters_of(net), net.to_torch()
    shape = state_dict[name].shape
    got = re.escape(str(wrong.shape))
    refuses(
        ShapeError,
        rf"^{re.escape(name)} has shape {got}, expected {re.escape(str(shape))}$",
        lambda: net.load_torch(state_dict | {name: wrong}),
    )
    same(parameters_of(net), before)


@pytest.mark.parametrize("wrong", BIASES.values(), ids=BIASES)
@pytest.mark.parametrize("i", [2, 8, 11, 13])
def test_a_bias_of_kerass_is_not_stretched_nor_passed_over(i, wrong):
    net = network()
    before, weights = parameters_of(net), net.to_keras()
    refuses(
        ShapeError,
        rf"^weights\[{i}\], the bias of layer \d, has shape ",
        lambda: net.load_keras(changed(weights, i, wrong)),
    )
    same(parameters_of(net), before)


def test_which_bias_kerass_list_lacks_is_told_by_its_shapes_or_asked():
    """Of two units a GRU's bias is as large as the kernel of the next, (2, 6)."""
    net, other = (scrambled(Network([GRU(M, 2, **ON), Dense(2, 6, **ON)])) for _ in range(2))
    weights, expected = net.to_keras(), parameters_of(net)
    other.load_keras(weights[:2] + weights[3:])
    same(parameters_of(other), expected | {name: 0 * expected[name] for name in ("0.b", "0.c")})
    two = Network([GRU(M, 2, **ON), GRU(2, 2, **ON)])
    refuses(
        ArgumentError,
        "^weights lacks a bias, and its shapes do not tell which",
        lambda: two.load_keras(two.to_keras()[:5]),
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        rnn_gpu.optimizers.SGD(0.01, momentum=0.9),
        rnn_gpu.optimizers.RMSprop(),
        rnn_gpu.optimizers.Adam(),
    ],
)
def test_the_sum_of_torchs_two_biases_moves_twice_as_far_as_our_one(optimizer):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layer, module = LSTM(M, N, **ON), torch.nn.LSTM(M, N).double()
    layer.load_torch(module.state_dict())
    layer(X)
    layer.backward(np.ones((T, B, N)))
    module(torch.from_numpy(X))[0].sum().backward()
    theirs = {name: a.detach().numpy() for name, a in module.named_parameters()}
    gradients = {f"{name} of torch": a.grad.numpy() for name, a in module.named_parameters()}
    θ = layer.parameters | {f"{name} of torch": a for name, a in theirs.items()}
    before = {name: a.copy() for name, a in θ.items()}
    for _ in range(3):
        optimizer.step(
            layer.backend, θ, {name: g.copy() for name, g in (layer.grads | gradients).items()}
        )
    moved = {name: a - before[name] for name, a in θ.items()}
    close(moved["weight_hh_l0 of torch"], moved["W"])
    close(moved["bias_ih_l0 of torch"] + moved["bias_hh_l0 of torch"], 2 * moved["b"])


def test_gates_of_any_order_go_to_keras_and_back():
    """An order that is not its own inverse: Keras's first block is our third."""
    layer = Recurrent(lstm._replace(name="turned", keras=(2, 0, 1, 3)), M, N, **ON)
    before, weights = parameters_of(layer), layer.to_keras()
    same(np.split(weights[0], 4, axis=1)[0], before["U"].reshape(4, N, M)[2].T)
    layer.load_keras(weights)
    same(parameters_of(layer), before)
    for wrong in ((0, 1, 2), (0, 0, 1, 2), (1, 2, 3, 4)):
        cell = lstm._replace(name="wrong", keras=wrong)
        refuses(
            ArgumentError,
            r"^cell 'wrong': keras is .*, expected the numbers 0 … 3, each once",
            lambda cell=cell: Recurrent(cell, M, N),
        )


def test_a_network_is_torchs_module_list():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    net = network()
    modules = [
        torch.nn.Dropout(),
        torch.nn.LSTM(M, N, bidirectional=True),
        torch.nn.GRU(2 * N, 5),
        torch.nn.RNN(5, 3, nonlinearity="relu"),
    ]
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


def changed(arrays, i, a):
    return [*arrays[:i], a, *arrays[i + 1 :]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        (
            "no layer",
            lambda n: n.load_torch({"a.weight": X}),
            ArgumentError,
            r"state_dict has a.weight, expected names .* 0. … 4",
        ),
        (
            "missing",
            lambda n: n.load_torch(without(n.to_torch(), "4.weight")),
            ArgumentError,
            "state_dict has bias, expected weight, bias",
        ),
        (
            "nothing",
            lambda n: n.load_torch({}),
            ArgumentError,
            "state_dict has nothing, expected weight_ih_l0",
        ),
        (
            "Dropout",
            lambda n: n.load_torch(n.to_torch() | {"0.weight": X}),
            ArgumentError,
            "state_dict has weight, expected ",
        ),
        (
            "shape",
            lambda n: n.load_torch(n.to_torch() | {"4.weight": X[0]}),
            ShapeError,
            r"4.weight has shape \(3, 4\), expected \(2, 3\)",
        ),
        (
            "dtype",
            lambda n: n.load_torch({k: a.astype("float32") for k, a in n.to_torch().items()}),
            DtypeError,
            "1.weight_ih_l0 is float32",
        ),
        (
            "too many",
            lambda n: n.load_keras([*n.to_keras(), X]),
            ArgumentError,
            r"weights has 1 arrays too many.*\(5, 3, 4\)",
        ),
        (
            "too few",
            lambda n: n.load_keras(n.to_keras()[:9]),
            ArgumentError,
            "weights has 9 arrays, expected 14: the kernel of layer 3 is missing",
        ),
        (
            "Keras's kernel",
            lambda n: n.load_keras([np.ones((5, 28)), *n.to_keras()[1:]]),
            ShapeError,
            r"weights\[0\], the kernel of layer 1, has shape \(5, 28\), expected \(4, 28\)",
        ),
        (
            "Keras's bias",
            lambda n: n.load_keras(changed(n.to_keras(), 11, np.ones(7))),
            ShapeError,
            r"weights\[11\], the bias of layer 3, has shape \(7,\), expected \(3,\)",
        ),
        (
            "Keras's other bias, where one is missing",
            lambda n: n.load_keras([*changed(n.to_keras(), 5, np.ones(20))[:13]]),
            ShapeError,
            r"weights\[5\], the bias of the reverse direction of layer 1, has shape \(20,\), "
            r"expected \(28,\)",
        ),
        (
            "Keras's dtype",
            lambda n: n.load_keras(changed(n.to_keras(), 4, X.astype("f"))),
            DtypeError,
            r"weights\[4\] is float32",
        ),
        (
            "reset before",
            lambda n: n.layers[2].load_keras([*n.layers[2].to_keras()[:2], np.zeros(15)]),
            ArgumentError,
            r"weights\[2\] is one bias, of a GRU with reset_after=False",
        ),
        (
            "cell",
            lambda n: Recurrent(LEAKY, 3, 2, **ON).to_keras(),
            ArgumentError,
            "cell is 'leaky', which Keras does not have",
        ),
    ),
)
def test_weights_that_do_not_fit_are_refused_and_nothing_changes(call, error, message):
    net = network()
    before = parameters_of(net)
    refuses(error, f"^{message}", lambda: call(net))
    same(parameters_of(net), before)
