"""precision="tf32" or "bf16": products of float32 matrices on device="cuda" as these define them,
and nothing else; "fp32" is strict.
"""

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from door import draw
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Bidirectional,
    Dense,
    DeviceError,
    Dropout,
    Embedding,
    ModelFileError,
    Network,
    Recurrent,
)
from rnn_gpu.kernels import Backward, Forward
from rnn_gpu.kernels.devices import cuda
from rnn_gpu.kernels.devices.cuda import precision
from rnn_gpu.kernels.devices.cuda.driver import driver
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED
from rnn_gpu.kernels.devices.cuda.schedules import only

T, B, M, N = 4, 3, 5, 7
CUDA = {"device": "cuda", "precision": "tf32"}
LAYERS = {
    "Recurrent": lambda **o: Recurrent("elman_elu", M, N, **o),
    "RNN": lambda **o: RNN(M, N, **o),
    "LSTM": lambda **o: LSTM(M, N, **o),
    "GRU": lambda **o: GRU(M, N, **o),
    "Dense": lambda **o: Dense(M, N, "tanh", **o),
    "Embedding": lambda **o: Embedding(M, N, **o),
}
simulated = pytest.mark.skipif(not SIMULATED, reason="a GPU rounds as it likes")


def tf32(a):
    """The definition, number by number: the significand to 11 bits, ties to even."""
    significand, exponent = np.frexp(np.asarray(a, np.float64))
    return np.ldexp(np.round(significand * 2.0**11), exponent - 11).astype(np.float32)


def bf16(a):
    """The same to 8 bits."""
    significand, exponent = np.frexp(np.asarray(a, np.float64))
    return np.ldexp(np.round(significand * 2.0**8), exponent - 8).astype(np.float32)


ROUNDINGS = {"fp32": lambda a: a, "tf32": tf32, "bf16": bf16}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def build(request):
    return request.param


def test_rounding_is_to_the_nearest_number_of_10_bits_ties_to_even():
    rng = np.random.default_rng(0)
    a = np.ldexp(rng.normal(size=999), rng.integers(-60, 60, 999)).astype(np.float32)
    ties = np.array(
        [1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 2 - 2**-11, 2 - 2**-24, 0.0, -0.0], np.float32
    )
    for values in (a, ties):
        assert np.array_equal(precision.rounded(values), tf32(values))
        assert np.array_equal(precision.rounded(values, "bf16"), bf16(values))
    assert (precision.rounded(ties)[:4] == [1, 1 + 2**-9, -1, 2]).all()
    special = np.array(
        [np.nan, np.inf, -np.inf, np.uint32(0x7FFFFFFF).view(np.float32)], np.float32
    )
    assert np.array_equal(precision.rounded(special), special, equal_nan=True)


@simulated
@pytest.mark.parametrize("name", ROUNDINGS)
def test_gemms_are_of_rounded_operands_and_strict_by_default(cell, name, monkeypatch):
    """Each product of a layer, from the arrays that entered it; bit for bit."""
    once = ROUNDINGS[name]
    layer = Recurrent(cell, M, N, device="cuda", precision=name)
    x, dy = draw(T, B, M), draw(T, B, N)
    seen = {}

    def spy(name, product):
        def spied(*arguments, **options):
            result = product(*arguments, **options)
            # a layer may write over it
            seen[name] = arguments, result[1] if isinstance(result, tuple) else result.copy()
            return result

        monkeypatch.setattr(layer.backend, name, spied)

    spy("project", layer.backend.project)
    spy("project_back", layer.backend.project_back)  # the last one is that of W
    layer(x)
    dx, _ = layer.backward(dy)
    θ, δ = layer.parameters, layer.delta.reshape(T * B, -1)
    p = once(x.reshape(T * B, M)) @ once(θ["U"]).T + θ["b"]
    assert np.array_equal(seen["project"][1], p.reshape(T, B, -1, N))
    assert np.array_equal(layer.grads["U"], once(δ).T @ once(x.reshape(T * B, M)))
    (dq, s, *_), dW = seen["project_back"]
    assert np.array_equal(layer.grads["W"], dW) and np.array_equal(
        dW, once(dq.reshape(T * B, -1)).T @ once(s.reshape(T * B, N))
    )
    assert np.array_equal(dx, (once(δ) @ once(θ["U"])).reshape(T, B, M))
    assert np.array_equal(layer.grads["b"], δ.sum(0))


@simulated
@pytest.mark.parametrize("schedule", ["block", "plain", "gemm"])
def test_the_product_of_a_step_is_in_tf32_in_the_gemm_schedule_alone(cell, schedule):
    """p and δ that TF32 holds exactly, so that only the product of a step can differ."""
    rng = np.random.default_rng(1)
    G, S, K = cell.gates, cell.states, cell.kept
    W, c = (
        rng.normal(size=shape).astype("float32")
        for shape in ((G * N, N), G * N if cell.apart else 0)
    )
    p, flags = rng.normal(size=(T, B, G, N)).astype("float32"), np.ones((T, B), "uint8")

    def run(name):
        s, kept = np.zeros((S, T + 1, B, N), "float32"), np.empty((T, B, K, N), "float32")
        s[:, 0] = 0.3
        cuda.forward(cell, Forward(p, W, c, s, kept, flags), name)
        dp, ds = np.empty_like(p), np.full((S, B, N), 0.7, "float32")
        dq = np.empty_like(p) if cell.apart else dp
        cuda.backward(cell, Backward(p[:, :, 0], W, s, kept, flags, dp, dq, ds), name)
        return s[:, 1], ds

    with only(schedule):
        (s, ds), (s_strict, ds_strict) = run("tf32"), run("fp32")
    assert np.array_equal(s, s_strict) == np.array_equal(ds, ds_strict) == (schedule != "gemm")
    if schedule == "gemm":
        s_rounded = np.empty((S, 2, B, N), "float32")
        s_rounded[:, 0] = tf32(np.full((S, B, N), 0.3, "float32"))
        s_exact = s_rounded.copy()
        s_exact[1:, 0] = 0.3  # what does not pass through W is not rounded
        with only("gemm"):
            kept = np.empty((1, B, K, N), "float32")
            cuda.forward(cell, Forward(p[:1], tf32(W), c, s_exact, kept, flags[:1]))
        if cell.name != "gru":  # where state 0 enters the cell by W alone
            close(s, s_exact[:, 1], "float32")
        assert 1e-6 < np.abs(s - s_strict).max() < 3e-2


def test_tf32_is_near(build):
    strict, near = build(device="cuda"), build(**CUDA)
    x, dy = draw(T, B, M), draw(T, B, N)
    for layer in (strict, near):
        layer(x)
        layer.backward(dy)
    for name, g in strict.grads.items():
        a, b = strict.backend.numpy(g), near.backend.numpy(near.grads[name])
        assert np.abs(a - b).max() < 2e-2 * np.abs(a).max()
        if SIMULATED:
            assert (a != b).any() or name in ("b", "c")


# The door


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"device": "cpu", "precision": "tf32"},
            "precision is 'tf32', but device is 'cpu' and dtype 'float32': that is for 'cuda'",
        ),
        ({"device": "reference", "precision": "tf32"}, "device is 'reference'"),
        ({"device": "cuda", "dtype": "float64", "precision": "tf32"}, "dtype 'float64'"),
        (
            {"device": "cuda", "precision": "fp16"},
            "precision is 'fp16', expected one of 'fp32', 'tf32', 'bf16'",
        ),
        ({"device": "cuda", "precision": None}, "precision is None, expected"),
    ],
)
def test_precision_is_refused(build, options, message):
    with pytest.raises(ArgumentError, match=message):
        build(**options)


def test_an_old_gpu_is_refused(monkeypatch):
    old = driver().facts(0)._replace(capability=(7, 5))
    monkeypatch.setattr(type(driver()), "facts", lambda self, device: old)
    why = r"this GPU is older than compute capability 8\.0 and has none"
    with pytest.raises(DeviceError, match=f"precision='tf32', but {why}. Say precision='fp32'"):
        RNN(M, N, **CUDA)


def test_layers_of_a_network_agree():
    with pytest.raises(
        ArgumentError, match="layers have different values of precision: fp32, tf32"
    ):
        Network([RNN(M, N, **CUDA), Dense(N, 2, device="cuda")])
    Network([Dropout(0.5, device="cuda"), RNN(M, N, **CUDA)])  # Dropout multiplies no matrices


def test_copies_and_files_keep_the_precision(build, tmp_path):
    layer = build(**CUDA)
    assert layer.copy().precision == layer.config()["precision"] == "tf32"
    assert layer.copy(device="cpu", precision="fp32").device == "cpu"
    with pytest.raises(ArgumentError, match="device is 'cpu'"):
        layer.copy(device="cpu")
    Network([layer]).copy(precision="fp32").save(tmp_path / "strict")
    assert rnn_gpu.load(tmp_path / "strict", device="cpu").layers[0].precision == "fp32"
    assert (
        rnn_gpu.load(tmp_path / "strict", device="cuda", precision="tf32").layers[0].precision
        == "tf32"
    )
    Network([Dropout(0.1, device="cuda"), layer]).save(tmp_path / "model")
    assert rnn_gpu.load(tmp_path / "model", device="cuda").layers[1].precision == "tf32"
    assert (
        rnn_gpu.load(tmp_path / "model", device="cpu", precision="fp32").layers[1].precision
        == "fp32"
    )
    with pytest.raises(ModelFileError, match=r"device is 'cpu'.*Say precision='fp32'"):
        rnn_gpu.load(tmp_path / "model", device="cpu")
    with pytest.raises(ArgumentError, match="precision is 'half'"):
        rnn_gpu.load(tmp_path / "model", device="cpu", precision="half")


def test_two_directions_have_one_precision(tmp_path):
    both = Bidirectional(GRU(M, N, **CUDA))
    assert [both.precision, *(layer.precision for layer in both.copy().recurrent)] == ["tf32"] * 3
    with pytest.raises(ArgumentError, match="reverse has precision='fp32', but forward has 'tf32'"):
        Bidirectional(GRU(M, N, **CUDA), GRU(M, N, device="cuda", reverse=True))
    Network([both]).save(tmp_path / "model")
    again = rnn_gpu.load(tmp_path / "model", device="cpu", precision="fp32").layers[0]
    assert [layer.precision for layer in again.recurrent] == ["fp32"] * 2


def test_explain_says_the_precision():
    layer = LSTM(M, N, **CUDA)
    assert "in TF32" in layer.explain(T, B)
    assert "in strict float32" in layer.copy(precision="fp32").explain(T, B)
    assert "in strict float64" in layer.copy(precision="fp32", dtype="float64").explain(T, B)
