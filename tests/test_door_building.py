"""Building networks, and parameters: layers and shapes are checked, and named when refused.

Options of building are in the table of refused.py.
"""

import numpy as np
import pytest

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
    ArgumentError,
    Dense,
    Dropout,
    DtypeError,
    Network,
    ShapeError,
)

# Layers


def test_numpys_integers_are_sizes():
    assert rnn(input_size=np.int64(M), hidden_size=np.uint8(N))(X)[0].shape == (T, B, N)


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
