"""Building layers and networks, and their parameters: sizes, dtypes, devices, seeds and shapes are
checked, and named when refused.
"""

import numpy as np
import pytest

import rnn_gpu
from door import (
    REFERENCE,
    B,
    K,
    M,
    N,
    T,
    X,
    but,
    draw,
    network,
    parameters_of,
    refuses,
    rnn,
    same,
    table,
)
from programs import NO_GPU, python
from rnn_gpu import (
    LSTM,
    ArgumentError,
    Dense,
    DeviceError,
    Dropout,
    DtypeError,
    Embedding,
    Network,
    Recurrent,
    ShapeError,
)

# Layers


@pytest.mark.parametrize("size", [0, -1, 1.5, 2.0, True, "4", None], ids=repr)
def test_a_size_is_a_whole_number_from_1_on(size):
    refuses(
        ArgumentError,
        f"^input_size is {size!r}, expected an integer of at least 1",
        lambda: rnn(input_size=size),
    )


@pytest.mark.parametrize("size", [0, 1.5])
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("hidden_size", lambda size: LSTM(M, size, **REFERENCE)),
        ("input_size", lambda size: Dense(size, K, **REFERENCE)),
        ("output_size", lambda size: Dense(M, size, **REFERENCE)),
        ("symbols", lambda size: Embedding(size, N, **REFERENCE)),
        ("size", lambda size: Embedding(M, size, **REFERENCE)),
    ],
)
def test_every_size_is_checked(name, build, size):
    refuses(
        ArgumentError, f"^{name} is {size}, expected an integer of at least 1", lambda: build(size)
    )


def test_numpys_integers_are_sizes():
    assert rnn(input_size=np.int64(M), hidden_size=np.uint8(N))(X)[0].shape == (T, B, N)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    table(
        (
            "init",
            lambda: rnn(init="xavier"),
            ArgumentError,
            "init is 'xavier', expected one of 'default', 'torch', 'tutorial'",
        ),
        (
            "init of Dense",
            lambda: Dense(M, K, init=3, **REFERENCE),
            ArgumentError,
            "init is 3, expected one of",
        ),
        (
            "activation",
            lambda: rnn(activation="tanhh"),
            ArgumentError,
            "activation is 'tanhh', expected one of .*tanh",
        ),
        (
            "activation, no derivative",
            lambda: rnn(activation=np.tanh),
            ArgumentError,
            r"activation is .*tanh.*pair \(f, df\)",
        ),
        (
            "activation, not a pair",
            lambda: rnn(activation=(np.tanh,)),
            ArgumentError,
            r"activation is .*pair \(f, df\)",
        ),
        (
            "activation of Dense",
            lambda: Dense(M, K, None, **REFERENCE),
            ArgumentError,
            "activation is None, expected",
        ),
        (
            "cell",
            lambda: Recurrent("lstmm", M, N, **REFERENCE),
            ArgumentError,
            "cell is 'lstmm', expected one of .*'lstm'",
        ),
        (
            "a layer as cell",
            lambda: Recurrent(LSTM, M, N, **REFERENCE),
            ArgumentError,
            "cell is <class .*LSTM.*expected a Cell",
        ),
        (
            "device",
            lambda: rnn(device="gpu"),
            DeviceError,
            "device is 'gpu', expected one of 'auto', 'cpu', 'cuda', 'reference'",
        ),
        (
            "device of Dense",
            lambda: Dense(M, K, device="CPU"),
            DeviceError,
            "device is 'CPU', expected one of",
        ),
        (
            "device of Dropout",
            lambda: Dropout(0.5, device=0),
            DeviceError,
            "device is 0, expected one of",
        ),
        ("device of copy", lambda: rnn().copy(device="gpu"), DeviceError, "device is 'gpu'"),
        ("no device", lambda: rnn_gpu.device("cuda:0"), DeviceError, "device is 'cuda:0'"),
        (
            "float16",
            lambda: rnn(dtype="float16"),
            DtypeError,
            "dtype is 'float16', expected 'float32' or 'float64'",
        ),
        (
            "int",
            lambda: Dense(M, K, dtype=int, **REFERENCE),
            DtypeError,
            "dtype is <class 'int'>, expected",
        ),
        (
            "no dtype",
            lambda: Dropout(0.5, dtype="single_", **REFERENCE),
            DtypeError,
            "dtype is 'single_', expected",
        ),
        ("dtype None", lambda: rnn(dtype=None), DtypeError, "dtype is None, expected"),
        (
            "rate 1",
            lambda: Dropout(1, **REFERENCE),
            ArgumentError,
            "rate is 1, expected a number from 0",
        ),
        (
            "rate below 0",
            lambda: Dropout(-0.1, **REFERENCE),
            ArgumentError,
            "rate is -0.1, expected a number from 0",
        ),
        (
            "rate NaN",
            lambda: Dropout(np.nan, **REFERENCE),
            ArgumentError,
            "rate is nan, expected a number from 0",
        ),
        (
            "rate",
            lambda: Dropout("half", **REFERENCE),
            ArgumentError,
            "rate is 'half', expected a number from 0",
        ),
        (
            "negative seed",
            lambda: rnn(seed=-1),
            ArgumentError,
            "seed is -1, expected an integer of at least 0",
        ),
        (
            "seed",
            lambda: Dense(M, K, seed="a", **REFERENCE),
            ArgumentError,
            "seed is 'a', expected an integer",
        ),
        (
            "seed of Dropout",
            lambda: Dropout(0.5, seed=1.5, **REFERENCE),
            ArgumentError,
            "seed is 1.5, expected an integer",
        ),
    ),
)
def test_a_layer_is_not_built(build, error, message):
    refuses(error, f"^{message}", build)


# Networks

ONE = rnn()


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    table(
        ("none", [], ArgumentError, r"layers is \[\], expected a list of layers"),
        (
            "not a layer",
            [rnn(), "Dense"],
            ArgumentError,
            "layers is .*'Dense'.*, expected a list of layers",
        ),
        (
            "a layer, no list",
            ONE,
            ArgumentError,
            r"layers is RNN\(4, 6, device='reference'\).*, expected a list of layers",
        ),
        ("a number", 3, ArgumentError, "layers is 3, expected a list of layers"),
        (
            "the same twice",
            [ONE, Dense(N, M, **REFERENCE), ONE],
            ArgumentError,
            "layers has the same layer twice",
        ),
        (
            "sizes",
            [rnn(), Dense(5, K, **REFERENCE)],
            ShapeError,
            "layer 1 takes 5 features, but the one before gives 6",
        ),
        (
            "sizes across Dropout",
            [rnn(), Dropout(0.5, **REFERENCE), rnn()],
            ShapeError,
            "layer 2 takes 4 features.* gives 6",
        ),
        (
            "dtypes",
            [rnn(), Dense(N, K, dtype="float64", **REFERENCE)],
            ArgumentError,
            "layers .*dtype: float32, float64",
        ),
        (
            "devices",
            [rnn(), Dense(N, K, device="cpu")],
            ArgumentError,
            "layers .*device: cpu, reference",
        ),
        ("batch_first", [rnn(batch_first=True)], ArgumentError, "a layer says batch_first=True"),
        (
            "nothing to learn",
            [Dropout(0.5, **REFERENCE)],
            ArgumentError,
            "layers has no layer with parameters",
        ),
    ),
)
def test_layers_do_not_make_a_network(layers, error, message):
    refuses(error, f"^{message}", lambda: Network(layers))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    table(
        ("loss", {"loss": "mse"}, ArgumentError, "loss is 'mse', expected one of 'squared_error'"),
        ("no loss", {"loss": None}, ArgumentError, "loss is None, expected one of"),
        (
            "losses",
            {"loss": ["squared_error"]},
            ArgumentError,
            r"loss is \['squared_error'\], expected one of",
        ),
        (
            "steps",
            {"steps": "first"},
            ArgumentError,
            "steps is 'first', expected one of 'every', 'last'",
        ),
        ("a number of steps", {"steps": -1}, ArgumentError, "steps is -1, expected one of"),
    ),
)
def test_a_network_is_not_built(options, error, message):
    refuses(error, f"^{message}", lambda: network(**options))


# Parameters


@pytest.mark.parametrize(
    ("value", "error", "message"),
    table(
        ("shape", draw(M, N), ShapeError, r"U has shape \(4, 6\), expected \(6, 4\)"),
        ("a number", 3.0, ShapeError, r"U has shape \(\), expected \(6, 4\)"),
        ("float64", draw(N, M, dtype="float64"), DtypeError, "U is float64, expected float32"),
        ("integers", np.ones((N, M), int), DtypeError, "U is int64, expected float32"),
        ("ragged", [[1.0], [1.0, 2.0]], ShapeError, "U cannot be made an array.*inhomogeneous"),
        ("strings", [["a"] * M] * N, DtypeError, "U is <U1, expected float32"),
    ),
)
def test_a_parameter_is_not_assigned(value, error, message):
    layer = rnn()
    θ = parameters_of(layer)
    refuses(error, f"^{message}", lambda: layer.parameters.__setitem__("U", value))
    same(parameters_of(layer), θ)


def test_an_unknown_parameter_is_not_assigned():
    layer = rnn()
    with pytest.raises(KeyError, match="'V' is not a parameter: there are U, W, b"):
        layer.parameters["V"] = draw(N, M)
    assert list(layer.parameters) == ["U", "W", "b"]


@pytest.mark.parametrize("method", ["update", "__ior__"])
def test_update_is_assignment(method):
    layer, U = rnn(), draw(N, M)
    held = layer.parameters["U"]
    refuses(
        ShapeError,
        r"^U has shape \(2, 2\), expected \(6, 4\)",
        lambda: getattr(layer.parameters, method)({"U": draw(2, 2)}),
    )
    getattr(layer.parameters, method)({"U": U})
    assert layer.parameters["U"] is held and np.array_equal(held, U)


def test_an_assigned_parameter_is_a_copy():
    layer, U = rnn(), draw(N, M)
    layer.parameters["U"] = U
    expected = layer(X)[0]
    U[...] = 0
    same(layer(X)[0], expected)


def test_a_layer_keeps_its_parameters():
    layer = rnn()
    for call in (
        lambda θ: θ.pop("U"),
        lambda θ: θ.popitem(),
        lambda θ: θ.clear(),
        lambda θ: θ.__delitem__("U"),
    ):
        with pytest.raises(TypeError, match="fixed names"):
            call(layer.parameters)
    assert list(layer.parameters) == ["U", "W", "b"]


def test_a_network_hands_out_its_parameters_read_only():
    net = network()
    with pytest.raises(TypeError):
        net.parameters["0.U"] = draw(N, M)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    table(
        (
            "missing",
            lambda d: d.pop("weight_hh_l0"),
            ArgumentError,
            "state_dict has .*expected .*weight_hh_l0",
        ),
        (
            "unknown",
            lambda d: d.update(weight_ih_l1=draw(2, 2)),
            ArgumentError,
            "state_dict has .*weight_ih_l1",
        ),
        (
            "one bias",
            lambda d: d.pop("bias_hh_l0"),
            ArgumentError,
            "state_dict has .*expected .*bias_hh_l0",
        ),
        (
            "shape",
            lambda d: d.update(weight_hh_l0=draw(2, 2)),
            ShapeError,
            r"weight_hh_l0 has shape \(2, 2\), expected \(6, 6\)",
        ),
        (
            "dtype",
            lambda d: d.update(weight_hh_l0=draw(N, N, dtype="float64")),
            DtypeError,
            "weight_hh_l0 is float64",
        ),
    ),
)
def test_torchs_parameters_are_refused(change, error, message):
    layer, state_dict = rnn(), rnn(seed=1).to_torch()
    change(state_dict)
    θ = parameters_of(layer)
    refuses(error, f"^{message}", lambda: layer.load_torch(state_dict))
    same(parameters_of(layer), θ)


def test_torchs_parameters_are_a_mapping_by_name():
    for came, says in (
        ([draw(N, M)], "a list of 1"),
        (None, "None"),
        ({0: draw(N, M)}, "a dict"),
        ("weights", "'weights'"),
    ):
        refuses(
            ArgumentError,
            f"^state_dict is {says}, expected arrays by torch's names",
            lambda came=came: rnn().load_torch(came),
        )


def test_kerass_parameters_are_a_list():
    for came, says in (
        (None, "None"),
        ({}, "a dict"),
        (draw(N, M), "a ndarray"),
        ("weights", "'weights'"),
    ):
        refuses(
            ArgumentError,
            f"^weights is {says}, expected a list of arrays",
            lambda came=came: rnn().load_keras(came),
        )


TAKE = {
    "parameter": lambda net, a: net.layers[0].parameters.__setitem__("U", a),
    "update": lambda net, a: net.layers[0].parameters.update(U=a),
    "a layer's state_dict": lambda net, a: net.layers[0].load_torch(
        net.layers[0].to_torch() | {"weight_ih_l0": a}
    ),
    "a network's state_dict": lambda net, a: net.load_torch(net.to_torch() | {"0.weight_ih_l0": a}),
    "Keras": lambda net, a: net.load_keras([a.T, *net.to_keras()[1:]]),
}
TAKEN_AS = dict(
    zip(TAKE, ("U", "U", "weight_ih_l0", "0.weight_ih_l0", r"weights\[0\]"), strict=True)
)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("way", TAKE)
def test_a_weight_that_is_not_finite_is_named_where_it_comes_in(way, number):
    net = network()
    θ, place = parameters_of(net), r"\(1, 2\)" if way == "Keras" else r"\(2, 1\)"
    bad = but(draw(N, M), (2, 1), number)
    refuses(
        ArgumentError,
        f"^{TAKEN_AS[way]} is {number} at {place}, expected finite numbers",
        lambda: TAKE[way](net, bad),
    )
    same(parameters_of(net), θ)


# The GPU that is not there

BUILDS = """
import rnn_gpu
builds = (
    lambda: rnn_gpu.LSTM(3, 5, device="cuda"),
    lambda: rnn_gpu.Dropout(0.5, device="cuda"),
    lambda: rnn_gpu.device("cuda"),
)
for build in builds:
    try:
        print("built", build())
    except rnn_gpu.DeviceError as error:
        print(error)
print(rnn_gpu.LSTM(3, 5).device)
"""


def test_cuda_without_a_gpu_is_an_error_and_auto_is_the_cpu():
    *refusals, auto = python(BUILDS, **NO_GPU).stdout.splitlines()
    assert len(refusals) == 3
    for line in refusals:
        assert line.startswith("device='cuda', but ") and "Say device='cpu', or 'auto'" in line
    assert auto == "cpu"
