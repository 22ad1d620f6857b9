"""An exported network gives, in ONNX Runtime, what it gives here: for any T and B, states in and
out. Skipped without them.
"""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.reference")

import rnn_gpu
from conftest import close
from door import refuses
from own_cells import LEAKY
from programs import LEAKY_FILE, NO_GPU, copied, python
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Network,
    Recurrent,
    UnsupportedError,
)
from rnn_gpu.kernels import Activation, Operator
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.onnx import export

ON = {"device": "reference"}
M, N = 3, 5
NETWORKS = {
    "LSTM": lambda: [LSTM(M, N, **ON)],
    "GRU": lambda: [GRU(M, N, **ON), Dense(N, 2, "softsign", **ON)],
    "deep": lambda: [
        Bidirectional(LSTM(M, N, **ON)),
        Dropout(0.5, **ON),
        Bidirectional(GRU(2 * N, 4, **ON)),
        RNN(8, 2, "relu", **ON),
    ],
    "reverse": lambda: [Recurrent("gru", M, N, reverse=True, **ON)],
    "symbols": lambda: [Embedding(M, 4, **ON), LSTM(4, N, **ON), Dense(N, M, **ON)],
} | {f"RNN {name}": lambda name=name: [RNN(M, N, name, **ON)] for name in ACTIVATIONS}


def scrambled(network):
    rng = np.random.default_rng(2)
    for a in network.parameters.values():
        a[...] = rng.normal(scale=0.5, size=a.shape)
    return network


def run(path, **inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(
        zip(
            (output.name for output in session.get_outputs()),
            session.run(None, inputs),
            strict=True,
        )
    )


def states(network, B):
    rng = np.random.default_rng(B)
    drawn = [
        tuple(
            rng.normal(size=(B, layer.hidden_size)).astype("float32")
            for _ in range(layer.cell.states)
        )
        for layer in network.recurrent
    ]
    return [parts if len(parts) > 1 else parts[0] for parts in drawn]


def named(name, states):
    parts = {f"{name}_{i}": s for i, s in enumerate(states) if not isinstance(s, tuple)}
    return parts | {
        f"{name}_{i}_{k}": part
        for i, s in enumerate(states)
        if isinstance(s, tuple)
        for k, part in enumerate(s)
    }


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_onnx_runtime_gives_what_the_network_gives(build, tmp_path):
    network, path = scrambled(Network(build())), str(tmp_path / "network.onnx")
    export(network, path)
    for T, B in ((7, 2), (1, 3)):
        rng = np.random.default_rng(T)
        symbols = isinstance(network.layers[0], Embedding)
        x = rng.integers(0, M, (T, B)) if symbols else rng.normal(size=(T, B, M)).astype("float32")
        s0 = states(network, B)
        y, last = network(x, s0)
        got = run(path, x=x, **named("state", s0))
        expected = {"y": y} | named("last", last)
        assert set(got) == set(expected)
        for name, a in got.items():
            close(a, expected[name], "float32")


def test_rows_without_time(tmp_path):
    network = scrambled(Network([Dense(M, 4, "elu", **ON), Dense(4, 2, "hard_sigmoid", **ON)]))
    path = str(tmp_path / "rows.onnx")
    export(network, path)
    x = np.random.default_rng(0).normal(size=(6, M)).astype("float32")
    close(run(path, x=x)["y"], network(x)[0], "float32")


def test_float64_is_float64(tmp_path):
    path = str(tmp_path / "network.onnx")
    network = scrambled(Network([LSTM(M, N, dtype="float64", **ON)]))
    export(network, path)
    x = np.random.default_rng(0).normal(size=(4, 2, M))
    y, _ = network(x)
    zero = np.zeros((2, N))
    # ONNX Runtime has none
    (got,) = onnx.reference.ReferenceEvaluator(path).run(
        ["y"], {"x": x, "state_0_0": zero, "state_0_1": zero}
    )
    assert got.dtype == "float64"
    close(got, y)


def test_what_onnx_does_not_have_is_refused(tmp_path):
    # a name of ours, another function
    own = rnn_gpu.activation(np.arctan, lambda y: np.cos(y) ** 2, name="tanh")
    for layer, message in (
        (
            Recurrent(LEAKY, M, N, **ON),
            "cell is 'leaky', which ONNX does not have: it has elman_identity, .*, gru, lstm",
        ),
        (RNN(M, N, own, **ON), "cell is 'elman_tanh', which ONNX does not have"),
        (
            Dense(M, N, own, **ON),
            "activation is 'tanh', which ONNX does not have: it has identity, sigmoid, ",
        ),
    ):
        refuses(
            UnsupportedError,
            f"^{message}",
            lambda layer=layer: export(Network([layer]), tmp_path / "no"),
        )
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_onnx_has_by_itself_but_not_within_its_rnn(tmp_path):
    own = Activation("own", np.arctan, lambda y: np.cos(y) ** 2, onnx=Operator("Atan"))
    export(Network([Dense(M, N, own, **ON)]), tmp_path / "rows.onnx")
    message = "^cell is 'elman_own', but ONNX has no Atan in its RNN: Affine, Elu"
    refuses(
        UnsupportedError, message, lambda: export(Network([RNN(M, N, own, **ON)]), tmp_path / "no")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.onnx"]


ARCTAN = """

def arctan(z):
    return np.arctan(z)


def darctan(y):
    return np.cos(y) ** 2


ACTIVATIONS["arctan"] = Activation("arctan", arctan, darctan)
"""

USE = """
import rnn_gpu, rnn_gpu.onnx
on = {"device": "reference"}
print(rnn_gpu.__file__)
layers = (
    rnn_gpu.Recurrent("leaky", 3, 4, **on),
    rnn_gpu.Recurrent("elman_arctan", 3, 4, **on),
    rnn_gpu.Dense(3, 4, "arctan", **on),
)
for layer in layers:
    for out in (lambda: rnn_gpu.onnx.export(rnn_gpu.Network([layer]), "no"), layer.to_keras):
        try:
            print(len(out()))
        except rnn_gpu.RnnGpuError as error:
            print(type(error).__name__)
"""


def test_a_new_cell_and_activation_are_refused_where_they_are_not_had_and_nothing_else_is_touched(
    tmp_path,
):
    """A copy of the library with one more cell and one more activation. Keras's SimpleRNN and Dense
    take any function.
    """
    kernels = copied(tmp_path)
    (kernels / "cells" / "leaky.py").write_text(LEAKY_FILE, encoding="utf-8")
    activations = kernels / "activations.py"
    activations.write_text(activations.read_text(encoding="utf-8") + ARCTAN, encoding="utf-8")
    path, *found = python(USE, PYTHONPATH=str(tmp_path), **NO_GPU).stdout.split()
    assert path == str(tmp_path / "rnn_gpu" / "__init__.py")
    assert found == [
        "UnsupportedError",
        "ArgumentError",
        "UnsupportedError",
        "3",
        "UnsupportedError",
        "2",
    ]
