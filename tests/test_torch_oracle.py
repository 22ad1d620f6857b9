"""Outputs and every gradient equal torch's, from what tests/oracle/make.py stored; s₀ ≠ 0, ragged
lengths, gradients of both ends.
"""

from pathlib import Path

import numpy as np
import pytest

import rnn_gpu
from conftest import close

STORED = np.load(Path(__file__).parent / "oracle" / "torch.npz")
KINDS = {
    "rnn_tanh": lambda **o: rnn_gpu.RNN(3, 13, "tanh", **o),
    "rnn_relu": lambda **o: rnn_gpu.RNN(3, 13, "relu", **o),
    "lstm": lambda **o: rnn_gpu.LSTM(3, 13, **o),
    "gru": lambda **o: rnn_gpu.GRU(3, 13, **o),
}


def oracle(kind, ragged):
    prefix = f"{kind}-{ragged}/"
    return {key.removeprefix(prefix): STORED[key] for key in STORED.files if key.startswith(prefix)}


def pack(states, dtype):
    parts = tuple(s.astype(dtype) for s in states)
    return parts[0] if len(parts) == 1 else parts


def unpack(state):
    return np.stack(state if isinstance(state, tuple) else (state,))


@pytest.mark.quick_on_devices("lstm")
@pytest.mark.parametrize("ragged", ["full", "ragged"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_torchs(kind, ragged, device, dtype):
    theirs = oracle(kind, ragged)
    weights = {
        name: theirs[name].astype(dtype)
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    }
    layer = KINDS[kind](device=device, dtype=dtype)
    layer.load_torch(weights)
    y, last = layer(
        theirs["x"].astype(dtype), pack(theirs["s0"], dtype), lengths=theirs.get("lengths")
    )
    dx, dstate = layer.backward(theirs["dy"].astype(dtype), pack(theirs["ds"], dtype))
    close(y, theirs["y"], dtype)
    close(unpack(last), theirs["last"], dtype)
    close(dx, theirs["dx"], dtype)
    close(unpack(dstate), theirs["ds0"], dtype)
    grads = {name: layer.backend.numpy(g) for name, g in layer.grads.items()}
    close(grads["U"], theirs["dweight_ih_l0"], dtype)
    close(grads["W"], theirs["dweight_hh_l0"], dtype)
    close(grads["b"], theirs["dbias_ih_l0"], dtype)
    close(grads.get("c", grads["b"]), theirs["dbias_hh_l0"], dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_weights_go_round(kind, dtype):
    theirs = oracle(kind, "full")
    weights = {
        name: theirs[name].astype(dtype)
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    }
    layer = KINDS[kind](device="reference", dtype=dtype)
    layer.load_torch(weights)
    back = layer.to_torch()
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert (back[name] == weights[name]).all()
    both = {"bias_ih_l0", "bias_hh_l0"}
    if kind == "gru":
        assert all((back[name] == weights[name]).all() for name in both)
    else:
        assert (
            back["bias_ih_l0"] + back["bias_hh_l0"] == weights["bias_ih_l0"] + weights["bias_hh_l0"]
        ).all()
    assert {a.dtype.name for a in back.values()} == {dtype}


def test_weights_of_another_shape_are_refused_and_nothing_changes():
    layer = rnn_gpu.LSTM(3, 13, device="reference")
    before = layer.to_torch()
    wrong = before | {"weight_hh_l0": before["weight_hh_l0"][:-1]}
    with pytest.raises(
        rnn_gpu.ShapeError, match=r"^weight_hh_l0 has shape \(51, 13\), expected \(52, 13\)"
    ):
        layer.load_torch(wrong | {"weight_ih_l0": before["weight_ih_l0"] + 1})
    with pytest.raises(rnn_gpu.ArgumentError, match="weight_ih_l1"):
        layer.load_torch(before | {"weight_ih_l1": before["weight_ih_l0"]})
    with pytest.raises(rnn_gpu.DtypeError, match="float64"):
        layer.load_torch({name: a.astype("float64") for name, a in before.items()})
    assert all((layer.to_torch()[name] == a).all() for name, a in before.items())


def test_live_torch_if_it_is_here():
    torch = pytest.importorskip(
        "torch", reason="torch is not installed; the stored oracle is tested above"
    )
    module = torch.nn.LSTM(5, 7)
    layer = rnn_gpu.LSTM(5, 7, device="cpu")
    layer.load_torch({name: p.detach().numpy() for name, p in module.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(6, 2, 5)).astype("float32")
    with torch.no_grad():
        close(layer(x)[0], module(torch.tensor(x))[0].numpy(), "float32")
