"""Gradient flow: what the tape of δ holds, what the report says of it, where a bad number began, truncation."""

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from door import named
from rnn_gpu.kernels.cells import CELLS

STEP = 1e-6  # of central differences, in float64
SLOPE = {"rel": 1e-6, "abs": 1e-8}
T, B, N = 5, 3, 4
LENGTHS = [5, 2, 4]


def recurrent(cell, device="reference", m=3, **options):
    return rnn_gpu.Recurrent(cell, m, N, device=device, **{"dtype": "float64"} | options)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def draw_states(cell, seed):
    return as_state(draw(cell.states, B, N, seed=seed))


def as_state(s):
    return tuple(s) if len(s) > 1 else s[0]


def stacked(state):
    return np.stack(state if isinstance(state, tuple) else (state,))


def numpy_tape(layer):
    return type(layer.tape)(*map(layer._device.numpy, layer.tape))


# The tape.


def everything(layer, x, dy, state, dstate, **options):
    layer(x, state, LENGTHS)
    dx, first = layer.backward(dy, dstate, **options)
    arrays = {"dx": dx, "delta": layer.delta, **named("first", first), **layer.grads}
    return {name: layer._device.numpy(a) for name, a in arrays.items()}


@pytest.mark.parametrize("name", ["elman_softsign", "lstm", "gru"])
def test_the_tape_changes_no_bit(name, device, dtype):
    layer = recurrent(name, device, dtype=dtype)
    x, dy = draw(T, B, 3).astype(dtype), draw(T, B, N, seed=1).astype(dtype)
    state, dstate = (as_state(stacked(draw_states(layer.cell, seed)).astype(dtype)) for seed in (10, 20))
    plain = everything(layer, x, dy, state, dstate)
    taped = everything(layer, x, dy, state, dstate, tape=True)
    for name, a in plain.items():
        assert np.array_equal(a, taped[name]), name
    assert np.array_equal(layer._device.numpy(layer.tape.delta), plain["delta"])
    assert np.array_equal(layer._device.numpy(layer.tape.ds[:, 0]), stacked(tuple(v for k, v in plain.items() if k.startswith("first"))))


def loss_of(layer, dy, dstate):
    """(x, state, lengths) -> Σ dy·y + dstate·(the last state)."""

    def loss(x, state, lengths=None):
        y, last = layer(x, state, lengths)
        return (dy[-len(y) :] * y).sum() + (stacked(dstate) * stacked(last)).sum()

    return loss


def test_delta_on_the_tape_is_the_slope_along_net(cell, device):
    """U is the identity, so that a nudge of x is one of net."""
    layer = recurrent(cell, device, m=cell.gates * N)
    layer.parameters["U"] = layer._device.array(np.eye(cell.gates * N), "float64")
    x, dy, v = (draw(T, B, k, seed=seed) for seed, k in enumerate((cell.gates * N, N, cell.gates * N)))
    state, dstate = draw_states(cell, 10), draw_states(cell, 20)
    loss = loss_of(layer, dy, dstate)
    slope = (loss(x + STEP * v, state, LENGTHS) - loss(x - STEP * v, state, LENGTHS)) / (2 * STEP)
    layer(x, state, LENGTHS)
    layer.backward(dy, dstate, tape=True)
    assert (numpy_tape(layer).delta.reshape(v.shape) * v).sum() == pytest.approx(slope, **SLOPE)


def test_ds_on_the_tape_is_the_slope_along_every_state(cell, device):
    layer = recurrent(cell, device)
    x, dy = draw(T, B, 3), draw(T, B, N, seed=1)
    state, dstate = draw_states(cell, 10), draw_states(cell, 20)
    layer(x, state)
    layer.backward(dy, dstate, tape=True)
    tape, v = numpy_tape(layer), stacked(draw_states(cell, 30))
    close(tape.ds[:, T], stacked(dstate) + np.eye(cell.states)[0][:, None, None] * dy[-1])
    for t in range(T):

        def loss(nudge, t=t):
            """What follows from the state before step t, and what step t−1 gives out."""
            s = tape.s[:, t] + nudge
            out = (dy[t - 1] * s[0]).sum() if t else 0.0
            return out + loss_of(layer, dy, dstate)(x[t:], as_state(s))

        slope = (loss(STEP * v) - loss(-STEP * v)) / (2 * STEP)
        assert (tape.ds[:, t] * v).sum() == pytest.approx(slope, **SLOPE), t


@pytest.mark.parametrize("name", ["elman_tanh", "lstm", "gru"])
def test_norms_on_the_tape_are_those_of_the_gradient_of_each_step(name, device):
    layer = recurrent(name, device)
    layer(draw(T, B, 3), draw_states(CELLS[name], 10), LENGTHS)
    layer.backward(draw(T, B, N, seed=1), tape=True)
    tape = numpy_tape(layer)
    gradients = [np.einsum("bgj,bi->gji", δ, s).reshape(-1, N) for δ, s in zip(tape.delta_recurrent, tape.s[0], strict=False)]
    close(tape.weight_gradient_norms, [np.linalg.norm(g) for g in gradients])
    close(layer._device.numpy(layer.grads["W"]), sum(gradients))  # 式6


def test_beyond_lengths_ds_is_carried_and_delta_is_zero(device):
    layer = recurrent("lstm", device)
    layer(draw(T, B, 3), draw_states(layer.cell, 10), LENGTHS)
    dstate = draw_states(layer.cell, 20)
    layer.backward(draw(T, B, N, seed=1), dstate, tape=True)
    tape = numpy_tape(layer)
    for b, length in enumerate(LENGTHS):
        assert (tape.ds[:, length + 1 :, b] == stacked(dstate)[:, None, b]).all()
        assert (tape.delta[length:, b] == 0).all() and (tape.delta[:length, b] != 0).all()


def test_the_tape_is_off_by_default_and_then_costs_nothing(device, monkeypatch):
    layer, x = recurrent("gru", device), draw(T, B, 3)
    calls, backward = [], layer._device.backward
    monkeypatch.setattr(layer._device, "backward", lambda *arguments: calls.append(arguments[8].shape[0]) or backward(*arguments))
    y, _ = layer(x)
    layer.backward(np.ones_like(y), tape=True)
    layer.backward(np.ones_like(y))
    assert calls == [1] * T + [T]
    with pytest.raises(rnn_gpu.OrderError, match="tape is known after backward"):
        _ = layer.tape
    assert f"tape=True: {8 * ((T + 1) * B * N + T)} bytes more" in layer.explain(T, B)


def test_a_network_has_a_tape_of_each_recurrent_layer():
    options = {"device": "cpu", "dtype": "float64"}
    network = rnn_gpu.Network([rnn_gpu.RNN(3, 4, **options), rnn_gpu.Dense(4, 5, **options), rnn_gpu.LSTM(5, 6, **options)])
    y, _ = network(draw(T, B, 3))
    network.backward(np.ones_like(y), tape=True)
    assert [tape.delta.shape for tape in network.tapes] == [(T, B, 1, 4), (T, B, 4, 6)]
    assert [tape.ds.shape for tape in network.tapes] == [(1, T + 1, B, 4), (2, T + 1, B, 6)]
    assert np.array_equal(network.tapes[1].ds[0, T], np.ones((B, 6)))
