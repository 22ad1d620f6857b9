"""Gradient flow: what the tape of δ holds, what the report says of it, where a bad number began,
truncation.
"""

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from door import named
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.network.compiling import Compiled

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
    return type(layer.tape)(*map(layer.backend.numpy, layer.tape))


# The tape.


def everything(layer, x, dy, state, dstate, **options):
    layer(x, state, lengths=LENGTHS)
    dx, first = layer.backward(dy, dstate, **options)
    arrays = {"dx": dx, "delta": layer.delta, **named("first", first), **layer.grads}
    return {name: layer.backend.numpy(a) for name, a in arrays.items()}


@pytest.mark.quick_on_devices("lstm", "gru")
@pytest.mark.parametrize("name", ["elman_softsign", "lstm", "gru"])
def test_the_tape_changes_no_bit(name, device, dtype):
    layer = recurrent(name, device, dtype=dtype)
    x, dy = draw(T, B, 3).astype(dtype), draw(T, B, N, seed=1).astype(dtype)
    state, dstate = (
        as_state(stacked(draw_states(layer.cell, seed)).astype(dtype)) for seed in (10, 20)
    )
    plain = everything(layer, x, dy, state, dstate)
    taped = everything(layer, x, dy, state, dstate, tape=True)
    for name, a in plain.items():
        assert np.array_equal(a, taped[name]), name
    assert np.array_equal(layer.backend.numpy(layer.tape.delta), plain["delta"])
    assert np.array_equal(
        layer.backend.numpy(layer.tape.ds[:, 0]),
        stacked(tuple(v for k, v in plain.items() if k.startswith("first"))),
    )


def loss_of(layer, dy, dstate):
    """(x, state, lengths) -> Σ dy·y + dstate·(the last state)."""

    def loss(x, state, lengths=None):
        y, last = layer(x, state, lengths=lengths)
        return (dy[-len(y) :] * y).sum() + (stacked(dstate) * stacked(last)).sum()

    return loss


def test_delta_on_the_tape_is_the_slope_along_net(cell, device):
    """U is the identity, so that a nudge of x is one of net."""
    layer = recurrent(cell, device, m=cell.gates * N)
    layer.parameters["U"] = layer.backend.array(np.eye(cell.gates * N), "float64")
    x, dy, v = (
        draw(T, B, k, seed=seed) for seed, k in enumerate((cell.gates * N, N, cell.gates * N))
    )
    state, dstate = draw_states(cell, 10), draw_states(cell, 20)
    loss = loss_of(layer, dy, dstate)
    slope = (loss(x + STEP * v, state, LENGTHS) - loss(x - STEP * v, state, LENGTHS)) / (2 * STEP)
    layer(x, state, lengths=LENGTHS)
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
    layer(draw(T, B, 3), draw_states(CELLS[name], 10), lengths=LENGTHS)
    layer.backward(draw(T, B, N, seed=1), tape=True)
    tape = numpy_tape(layer)
    gradients = [
        np.einsum("bgj,bi->gji", δ, s).reshape(-1, N)
        for δ, s in zip(tape.delta_recurrent, tape.s[0], strict=False)
    ]
    close(tape.weight_gradient_norms, [np.linalg.norm(g) for g in gradients])
    close(layer.backend.numpy(layer.grads["W"]), sum(gradients))  # 式6


def test_beyond_lengths_ds_is_carried_and_delta_is_zero(device):
    layer = recurrent("lstm", device)
    layer(draw(T, B, 3), draw_states(layer.cell, 10), lengths=LENGTHS)
    dstate = draw_states(layer.cell, 20)
    layer.backward(draw(T, B, N, seed=1), dstate, tape=True)
    tape = numpy_tape(layer)
    for b, length in enumerate(LENGTHS):
        assert (tape.ds[:, length + 1 :, b] == stacked(dstate)[:, None, b]).all()
        assert (tape.delta[length:, b] == 0).all() and (tape.delta[:length, b] != 0).all()


def test_the_tape_is_off_by_default_and_then_costs_nothing(device, monkeypatch):
    layer, x = recurrent("gru", device), draw(T, B, 3)
    calls, backward = [], layer.backend.backward
    monkeypatch.setattr(
        layer.backend,
        "backward",
        lambda cell, call, *more: calls.append(len(call.dy)) or backward(cell, call, *more),
    )
    y, _ = layer(x)
    layer.backward(np.ones_like(y), tape=True)
    layer.backward(np.ones_like(y))
    assert calls == [1] * T + [T]
    with pytest.raises(rnn_gpu.OrderError, match="tape is known after backward"):
        _ = layer.tape
    assert f"tape=True: {8 * ((T + 1) * B * N + T)} bytes more" in layer.explain(T, B)


def test_a_network_has_a_tape_of_each_recurrent_layer():
    options = {"device": "cpu", "dtype": "float64"}
    network = rnn_gpu.Network(
        [
            rnn_gpu.RNN(3, 4, **options),
            rnn_gpu.Dense(4, 5, **options),
            rnn_gpu.LSTM(5, 6, **options),
        ]
    )
    y, _ = network(draw(T, B, 3))
    network.backward(np.ones_like(y), tape=True)
    assert [tape.delta.shape for tape in network.tapes] == [(T, B, 1, 4), (T, B, 4, 6)]
    assert [tape.ds.shape for tape in network.tapes] == [(1, T + 1, B, 4), (2, T + 1, B, 6)]
    assert np.array_equal(network.tapes[1].ds[0, T], np.ones((B, 6)))


# Truncated BPTT.


def network(kind=rnn_gpu.RNN, device="cpu", steps="every", dtype="float64", n=N, **options):
    layers = [
        kind(3, n, device=device, dtype=dtype, **options),
        rnn_gpu.Dense(n, 2, device=device, dtype=dtype),
    ]
    return rnn_gpu.Network(layers, steps=steps)


def samples(steps="every", dtype="float64", lengths=(7, 3, 5)):
    x = [draw(length, 3, seed=i).astype(dtype) for i, length in enumerate(lengths)]
    return x, [
        draw(length, 2, seed=9 + i).astype(dtype)
        if steps == "every"
        else draw(2, seed=9 + i).astype(dtype)
        for i, length in enumerate(lengths)
    ]


def truncated_by_hand(net, x, y, k1, k2):
    """dE/dW and E of one tanh layer and its readout, loss by loss and step by step: 式3 and 式5."""
    U, W, b, V, c = (net.parameters[name] for name in ("0.U", "0.W", "0.b", "1.V", "1.b"))
    dW, E, total = np.zeros_like(W), 0.0, sum(map(len, x))
    for sequence, target in zip(x, y, strict=True):
        s = [np.zeros(len(W))]
        for a in sequence:
            s.append(np.tanh(U @ a + b + W @ s[-1]))
        for t, wanted in enumerate(target):
            end = min((t // k1 + 1) * k1, max(map(len, x)))  # of the segment that step t is in
            error = V @ s[t + 1] + c - wanted
            E += 0.5 * error @ error / total
            ds = V.T @ error / total
            for k in range(t, max(0, end - k2) - 1, -1):
                δ = ds * (1 - s[k + 1] ** 2)
                dW += np.outer(δ, s[k])
                ds = W.T @ δ
    return E, dW


@pytest.mark.parametrize("truncate", [(1, 1), (2, 2), (1, 3), (2, 3), (3, 5), (2, 7), (9, 9)])
def test_truncated_gradients_are_those_of_the_formulas(truncate, device):
    net, (x, y) = network(device=device), samples()
    E, grads = net.gradient(x, y, truncate=truncate)
    expected, dW = truncated_by_hand(net.copy("cpu"), x, y, *truncate)
    assert pytest.approx(expected, rel=1e-12) == E
    close(net.backend.numpy(grads["0.W"]), dW)
    full = net.backend.numpy(net.gradient(x, y)[1]["0.W"])
    assert np.array_equal(net.backend.numpy(grads["0.W"]), full) == (truncate[1] >= 7)


@pytest.mark.parametrize(("kind", "steps"), [(rnn_gpu.LSTM, "every"), (rnn_gpu.GRU, "last")])
def test_a_cut_beyond_the_first_step_is_full_bptt_to_the_last_bit(kind, steps, device):
    net, (x, y) = network(kind, device, steps, "float32"), samples(steps, "float32")
    E, grads = net.gradient(x, y)
    for k1 in (1, 3, 7, 20):
        cut, truncated = net.gradient(x, y, truncate=(k1, max(k1, 7)))
        assert cut == E
        for name, g in grads.items():
            assert np.array_equal(net.backend.numpy(g), net.backend.numpy(truncated[name])), name
    # the state is carried on
    assert net.gradient(x, y, truncate=(2, 2))[0] == pytest.approx(E, rel=1e-5)


def history_of_fit(net, x, y, **options):
    history = net.fit(x, y, epochs=2, batch_size=2, progress=False, **options)
    return history, {name: net.backend.numpy(a).copy() for name, a in net.parameters.items()}


@pytest.mark.parametrize("steps", ["every", "last"])
def test_fit_with_a_cut_beyond_the_first_step_is_fit(steps):
    whole, weights = history_of_fit(network(rnn_gpu.LSTM, steps=steps), *samples(steps))
    history, cut = history_of_fit(
        network(rnn_gpu.LSTM, steps=steps), *samples(steps), truncate=(7, 8)
    )
    assert history["step_loss"] == whole["step_loss"] and history["loss"] == whole["loss"]
    assert all(np.array_equal(a, weights[name]) for name, a in cut.items())


def test_fit_updates_after_every_k1_steps_and_carries_the_state():
    """At a learning rate of zero, what the segments lose together is the loss of the whole."""
    net, (x, y) = network(rnn_gpu.LSTM, steps="every"), samples(lengths=(7, 7))
    history, _ = history_of_fit(net, x, y, truncate=(2, 3), optimizer="sgd", learning_rate=0.0)
    assert len(history["step_loss"]) == 2 * 4
    assert history["loss"] == pytest.approx([net.evaluate(x, y)["loss"]] * 2)
    net, (x, y) = network(rnn_gpu.LSTM, steps="last"), samples("last", lengths=(7, 3))
    history, _ = history_of_fit(net, x, y, truncate=(2, 3), optimizer="sgd", learning_rate=0.0)
    # the loss counts step 2 of one sample and step 6 of the other
    assert len(history["step_loss"]) == 2 * 2
    assert history["loss"] == pytest.approx([net.evaluate(x, y)["loss"]] * 2)


@pytest.mark.parametrize(
    ("truncate", "message"),
    [
        (3, r"truncate is 3, expected a pair \(k1, k2\)"),
        ((3, 0), r"truncate\[1\] is 0, expected an integer of at least 1"),
        ((3, 2), r"truncate is \(3, 2\), expected k1 <= k2"),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused(truncate, message):
    for call in (network().gradient, network().fit):
        with pytest.raises(rnn_gpu.ArgumentError, match=message):
            call(*samples(), truncate=truncate)
    rows = rnn_gpu.Network([rnn_gpu.Dense(3, 2, device="cpu")])
    with pytest.raises(rnn_gpu.ArgumentError, match="no recurrent layer: there is no time to cut"):
        rows.gradient(np.zeros((4, 3), "float32"), np.zeros((4, 2), "float32"), truncate=(2, 2))
    with pytest.raises(rnn_gpu.ArgumentError, match="a layer goes from the last step to the first"):
        network(reverse=True).gradient(*samples(), truncate=(2, 2))


def test_watch_sees_every_update_before_it_happens():
    net, (x, y), seen = network(rnn_gpu.GRU), samples(), []

    def watch(network, update):
        seen.append(
            (
                update,
                network.tapes[0].delta.shape[:2],
                network.parameters["0.W"].copy(),
                network.grads["0.W"].copy(),
            )
        )

    before = net.parameters["0.W"].copy()
    net.fit(
        x,
        y,
        epochs=1,
        batch_size=2,
        shuffle=False,
        optimizer="sgd",
        learning_rate=0.5,
        progress=False,
        watch=watch,
    )
    assert [(update, shape) for update, shape, *_ in seen] == [(0, (7, 2)), (1, (5, 1))]
    for (*_, W, dW), after in zip(seen, [seen[1][2], net.parameters["0.W"]], strict=True):
        close(after, W - 0.5 * dW)
    assert np.array_equal(seen[0][2], before)
    with pytest.raises(
        rnn_gpu.ArgumentError,
        match=r"watch is 3, expected a function of \(network, number of the update\)",
    ):
        net.fit(x, y, watch=3)


# The first bad number.


def two_layers(kind, device, dtype="float64", reverse=False):
    options = {"device": device, "dtype": dtype}
    layers = [
        kind(3, N, reverse=reverse, **options),
        kind(N, N, **options),
        rnn_gpu.Dense(N, 2, **options),
    ]
    return rnn_gpu.Network(layers)


def plant(monkeypatch, layer, function, place, value=np.nan):
    """Let p, which "project" of the layer's device returns, or δ, which its "backward" fills, have
    `value` at a place.
    """
    device = layer.backend
    true = getattr(device, function)

    def planting(first, second, *more):
        result = true(first, second, *more)
        if function == "project":
            target, weights, mine = result, second, layer.parameters["U"]
        else:
            target, weights, mine = second.dp, second.W, layer.parameters["W"]
        if weights is mine and len(target) > place[0]:
            target[place] = value
        return result

    monkeypatch.setattr(device, function, planting)


def stops(net, x, y, message):
    before = {name: net.backend.numpy(a).copy() for name, a in net.parameters.items()}
    with pytest.raises(rnn_gpu.NonFiniteError, match=message):
        net.fit(x, y, epochs=1, optimizer="sgd", shuffle=False, progress=False)
    assert all(
        np.array_equal(net.backend.numpy(net.parameters[name]), a) for name, a in before.items()
    )


def not_at_all(training, held_out=(), taped=False):
    training.history["compile_seconds"].append(0.0)
    return Compiled()


@pytest.fixture
def compiled(monkeypatch):
    """fit without its first update on a copy, which has weights of its own to plant in."""
    monkeypatch.setattr("rnn_gpu.network.training.Training.compile", not_at_all)


@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize(
    ("kind", "gate", "found"),
    [
        (rnn_gpu.RNN, 0, "state 0"),
        *((rnn_gpu.LSTM, g, f"gate {g}") for g in range(4)),
        *((rnn_gpu.GRU, g, f"gate {g}") for g in range(3)),
    ],
)
def test_a_planted_nan_is_found_where_it_is(kind, gate, found, i, compiled, monkeypatch):
    net, (x, y) = two_layers(kind, "cpu"), samples()
    plant(monkeypatch, net.layers[i], "project", (3, 2, gate, 1))
    stops(
        net,
        x,
        y,
        rf"update 0: layer {i} \({kind.__name__}\) gives nan at time step 3, sample 2, {found}, "
        r"unit 1; one step before it was -?\d",
    )


def test_a_planted_nan_is_found_on_every_device(device, compiled, monkeypatch):
    net, (x, y) = two_layers(rnn_gpu.LSTM, device, "float32"), samples(dtype="float32")
    plant(monkeypatch, net.layers[0], "project", (5, 0, 2, 3))
    stops(
        net,
        x,
        y,
        r"layer 0 \(LSTM\) gives nan at time step 5, sample 0, gate 2, unit 3; one step before it "
        r"was -?0\.\d+\. No weight",
    )


def test_a_planted_nan_in_delta_is_found_where_it_is(device, compiled, monkeypatch):
    net, (x, y) = two_layers(rnn_gpu.GRU, device), samples()
    plant(monkeypatch, net.layers[0], "backward", (4, 2, 1, 3))
    # its last step: nothing before
    stops(
        net,
        x,
        y,
        r"δ of layer 0 \(GRU\) is nan at time step 4, sample 2, gate 1, unit 3\. No weight",
    )
    monkeypatch.undo()
    monkeypatch.setattr("rnn_gpu.network.training.Training.compile", not_at_all)
    plant(monkeypatch, net.layers[1], "backward", (1, 1, 2, 0), -np.inf)
    stops(
        net,
        x,
        y,
        r"δ of layer 1 \(GRU\) is -inf at time step 1, sample 1, gate 2, unit 0; one step before "
        r"it was -?\d",
    )


def test_of_two_bad_numbers_the_earlier_in_time_is_named(compiled, monkeypatch):
    """Layer 1 at step 2 cannot come of layer 0 at step 4; within a step layer 0 is first."""
    net, (x, y) = two_layers(rnn_gpu.LSTM, "cpu"), samples()
    plant(monkeypatch, net.layers[0], "project", (4, 0, 0, 0))
    plant(monkeypatch, net.layers[1], "project", (2, 0, 3, 0))
    stops(net, x, y, r"layer 1 \(LSTM\) gives nan at time step 2, sample 0, gate 3, unit 0")
    plant(monkeypatch, net.layers[0], "project", (2, 2, 1, 2))
    stops(net, x, y, r"layer 0 \(LSTM\) gives nan at time step 2, sample 2, gate 1, unit 2")


def test_after_a_reverse_layer_the_next_one_is_later_at_every_step(compiled, monkeypatch):
    """Layer 0 breaks at step 1, its last but one; layer 1, which reads all of it first, at step
    0.
    """
    net, (x, y) = two_layers(rnn_gpu.LSTM, "cpu", reverse=True), samples(lengths=(7, 7, 7))
    plant(monkeypatch, net.layers[0], "project", (1, 2, 1, 2))
    plant(monkeypatch, net.layers[1], "project", (0, 0, 0, 0))
    stops(
        net,
        x,
        y,
        r"layer 0 \(LSTM\) gives nan at time step 1, sample 2, gate 1, unit 2; one step before it "
        r"was 0\.",
    )
    monkeypatch.undo()
    monkeypatch.setattr("rnn_gpu.network.training.Training.compile", not_at_all)
    # of its own steps: time step 0, where its way back begins
    plant(monkeypatch, net.layers[0], "backward", (6, 1, 0, 0))
    plant(monkeypatch, net.layers[0], "backward", (2, 1, 3, 0))
    stops(
        net,
        x,
        y,
        r"δ of layer 0 \(LSTM\) is nan at time step 0, sample 1, gate 0, unit 0\. No weight",
    )


def test_the_step_is_that_of_the_sequence_where_bptt_is_truncated(compiled, monkeypatch):
    net, (x, y) = two_layers(rnn_gpu.LSTM, "cpu"), samples(lengths=(7,))
    plant(monkeypatch, net.layers[0], "project", (2, 0, 3, 1))
    # of the window 1 … 3
    with pytest.raises(
        rnn_gpu.NonFiniteError, match=r"update 1: .* at time step 3, sample 0, gate 3, unit 1"
    ):
        net.fit(x, y, epochs=1, truncate=(2, 3), progress=False)


def test_a_loss_that_overflows_names_the_output(compiled):
    net, (x, y) = network(dtype="float32"), samples(dtype="float32")
    y[1][2, 1] = 1e30
    stops(
        net,
        x,
        y,
        r"the loss is inf at time step 2, sample 1, output 1: -?\d\.\d+ for 1e\+30\. No weight",
    )


def test_a_loss_whose_sum_overflows_says_so(compiled):
    net, (x, y) = network(), samples()
    y = [1e154 * np.ones_like(a) for a in y]
    stops(net, x, y, "the loss is inf, though that of every output is finite")
