"""The tutorial's chapters on BP: a fully connected net of sigmoids, ½Σ(t − y)², one sample a step;
式3, 式4, 式5 number by number.
"""

import numpy as np
import pytest

import rnn_gpu

# Nodes as in the tutorial: inputs 1 2 3, hidden 4 5 6 7, outputs 8 9.
INPUTS, HIDDEN, OUTPUTS = (1, 2, 3), (4, 5, 6, 7), (8, 9)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.fixture
def worked():
    """The worked example by its own formulas, one number at a time."""
    rng = np.random.default_rng(1)
    w = {
        (j, i): rng.normal()
        for above, below in ((HIDDEN, INPUTS), (OUTPUTS, HIDDEN))
        for j in above
        for i in (*below, "b")
    }
    x = {1: 0.3, 2: -0.8, 3: 0.5}
    t = {8: 1.0, 9: 0.0}
    a = {j: sigmoid(sum(w[j, i] * x[i] for i in INPUTS) + w[j, "b"]) for j in HIDDEN}
    y = {j: sigmoid(sum(w[j, i] * a[i] for i in HIDDEN) + w[j, "b"]) for j in OUTPUTS}
    δ = {j: y[j] * (1 - y[j]) * (t[j] - y[j]) for j in OUTPUTS}  # 式3
    δ |= {i: a[i] * (1 - a[i]) * sum(w[k, i] * δ[k] for k in OUTPUTS) for i in HIDDEN}  # 式4
    return w, x, t, a, y, δ


def build(w, device):
    layers = [
        rnn_gpu.Dense(3, 4, "sigmoid", device=device, dtype="float64"),
        rnn_gpu.Dense(4, 2, "sigmoid", device=device, dtype="float64"),
    ]
    for layer, above, below in zip(layers, (HIDDEN, OUTPUTS), (INPUTS, HIDDEN), strict=True):
        layer.parameters["V"] = layer.backend.array(
            [[w[j, i] for i in below] for j in above], "float64"
        )
        layer.parameters["b"] = layer.backend.array([w[j, "b"] for j in above], "float64")
    return rnn_gpu.Network(layers, loss="squared_error")


def test_one_step_of_sgd_is_the_worked_example(worked, device):
    w, x, t, a, y, δ = worked
    η = 0.7
    network = build(w, device)
    out, _ = network(np.array([[x[i] for i in INPUTS]]))
    assert out[0] == pytest.approx([y[8], y[9]], abs=1e-14)

    network.fit(
        [[x[i] for i in INPUTS]],
        [[t[8], t[9]]],
        epochs=1,
        batch_size=1,
        optimizer="sgd",
        learning_rate=η,
        progress=False,
    )

    def new(j, i):
        layer, above, below = (0, HIDDEN, INPUTS) if j in HIDDEN else (1, OUTPUTS, HIDDEN)
        name = f"{layer}.b" if i == "b" else f"{layer}.V"
        place = (above.index(j),) if i == "b" else (above.index(j), below.index(i))
        return float(network.parameters[name][place])

    # 式5, for the three weights that the tutorial writes out
    assert new(8, 4) == pytest.approx(w[8, 4] + η * δ[8] * a[4], abs=1e-14)
    assert new(4, 1) == pytest.approx(w[4, 1] + η * δ[4] * x[1], abs=1e-14)
    assert new(4, "b") == pytest.approx(w[4, "b"] + η * δ[4], abs=1e-14)
    # and for every other one; a bias is the weight of an input that is always 1
    inputs = x | a | {"b": 1.0}
    for j, i in w:
        assert new(j, i) == pytest.approx(w[j, i] + η * δ[j] * inputs[i], abs=1e-14)


def test_delta_is_minus_the_tutorials_delta(worked, device):
    w, x, t, a, y, δ = worked
    network = build(w, device)
    out, _ = network(np.array([[x[i] for i in INPUTS]]))
    network.backward(out - np.array([[t[8], t[9]]]))
    assert -np.asarray(network.layers[1].backend.numpy(network.grads["1.b"])) == pytest.approx(
        [δ[8], δ[9]], abs=1e-14
    )
    assert -np.asarray(network.layers[0].backend.numpy(network.grads["0.b"])) == pytest.approx(
        [δ[j] for j in HIDDEN], abs=1e-14
    )


def test_per_sample_sgd_visits_samples_in_order():
    """batch_size=1 and shuffle=False is the tutorial's loop: the second sample sees the weights
    that the first one left.
    """
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(4, 3)), rng.random((4, 2))
    network = rnn_gpu.Network([rnn_gpu.Dense(3, 2, "sigmoid", device="cpu", dtype="float64")])
    V, b = (network.parameters[name].copy() for name in ("0.V", "0.b"))
    network.fit(
        x,
        t,
        epochs=2,
        batch_size=1,
        shuffle=False,
        optimizer="sgd",
        learning_rate=0.5,
        progress=False,
    )
    for _ in range(2):
        for xi, ti in zip(x, t, strict=True):
            y = sigmoid(V @ xi + b)
            δ = y * (1 - y) * (ti - y)
            V, b = V + 0.5 * np.outer(δ, xi), b + 0.5 * δ
    assert network.parameters["0.V"] == pytest.approx(V, abs=1e-13)
    assert network.parameters["0.b"] == pytest.approx(b, abs=1e-13)
