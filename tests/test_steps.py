"""mask, resets and clipping of δ at the door, in networks and training; what they mean is said in
test_combinations.
"""

import itertools

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from door import B, M, N, T, X, draw, network, refuses, results, same, table
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Bidirectional,
    Dense,
    DtypeError,
    Network,
    Recurrent,
    ShapeError,
)
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices import reference

CHOSEN = ("elman_tanh", "lstm", "gru")


@pytest.fixture(params=CHOSEN)
def some(request):
    return CELLS[request.param]


def pattern(seed):
    """lengths, mask and resets at random; the first sample has one live step only, and the last
    none in its last part.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, T + 1, B)
    mask, resets = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.4
    mask[:, 0] = np.arange(T) == 1
    resets[-1, -1], mask[-1, -1], lengths[-1] = True, False, T
    return {"lengths": lengths, "mask": mask, "resets": resets}


@pytest.mark.quick_on_devices("GRU", "cpu")
@pytest.mark.parametrize(
    "build",
    [lambda **o: Bidirectional(LSTM(M, N, **o)), lambda **o: GRU(M, N, **o)],
    ids=["two directions", "GRU"],
)
def test_gradients_are_slopes_with_masks_and_resets(build, device):
    layer = build(device=device, dtype="float64")
    net = Network([layer, Dense(layer.output_size, 2, "softsign", device=device, dtype="float64")])
    rng = np.random.default_rng(0)
    rnn_gpu.gradcheck(
        net, rng.normal(size=(T, B, M)), rng.normal(size=(T, B, 2)), samples=4, **pattern(7)
    )


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_stands_in_a_masked_step_is_ignored(model, number):
    mask, dy = pattern(1)["mask"], np.ones_like(model(X)[0])
    x, spoiled = X.copy(), dy.copy()
    x[~mask], spoiled[~mask] = number, number
    expected = results(model, X, dy, mask=mask)
    same(results(model, x, spoiled, mask=mask), expected)
    assert (expected["y"][~mask] == 0).all() and (expected["dx"][~mask] == 0).all()
    for layer in getattr(model, "recurrent", (model,)):
        assert (layer.delta[~mask] == 0).all()


def test_masks_and_resets_that_say_nothing_change_nothing(model):
    dy, expected = np.ones_like(model(X)[0]), None
    for call in (
        {},
        {"mask": np.ones((T, B), bool)},
        {"resets": np.zeros((T, B), bool)},
        {"resets": np.arange(T)[:, None] < np.ones(B)},
    ):
        found = results(model, X, dy, **call)
        same(found, expected or found)
        expected = expected or found


def test_batch_first_holds_for_masks_and_resets():
    first, major = LSTM(M, N, device="reference", batch_first=True), LSTM(M, N, device="reference")
    for names in (("mask", "resets"), ("mask",), ("resets", "lengths")):
        call = {name: pattern(4)[name] for name in names}
        # which leaves lengths as they are
        turned = {name: np.transpose(a) for name, a in call.items()}
        same(first(X.swapaxes(0, 1), **turned)[0].swapaxes(0, 1), major(X, **call)[0])


def test_a_tape_has_masks_resets_and_clipping_too(some, device):
    layer = Recurrent(some, M, N, device=device, dtype="float64", reverse=True)
    rng = np.random.default_rng(3)
    x, dy = rng.normal(size=(T, B, M)), rng.normal(size=(T, B, N))
    for clips, seed in itertools.product(({}, {"clip_step_norm": 0.3}), (2, 4)):
        expected, counts = results(layer, x, dy, **pattern(seed), **clips), [layer.clipped_steps]
        δ = layer.backend.numpy(layer.delta).copy()
        got = results(layer, x, dy, **pattern(seed), tape=True, **clips)
        for name, a in expected.items():
            close(got[name], a)
        close(layer.backend.numpy(layer.tape.delta)[::-1], δ)
        whole = np.linalg.norm(layer.backend.numpy(layer.grads["W"]))
        assert layer.tape.weight_gradient_norms.sum() >= whole * (1 - 1e-12)
        assert counts == [layer.clipped_steps] and (layer.clipped_steps > 0) is bool(clips)


BAD = np.ones((T, B))


@pytest.mark.parametrize("name", ["mask", "resets"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    table(
        ("transposed", BAD.T == 1, ShapeError, r"has shape \(3, 5\), expected \(5, 3\), \(T, B\)"),
        ("one a step", [True] * T, ShapeError, r"has shape \(5,\), expected \(5, 3\)"),
        ("floats", BAD, DtypeError, "is float64, expected booleans"),
        ("integers", BAD.astype(int).tolist(), DtypeError, "is int64, expected booleans"),
        ("a string", "all", ArgumentError, "is 'all', expected an array"),
    ),
)
def test_masks_and_resets_are_refused(door, name, value, error, message):
    refuses(error, f"^{name} {message}", lambda: door(X, **{name: value}))


def test_rows_have_no_masks():
    rows = Network([Dense(M, 2, device="reference")])
    for name in ("mask", "resets"):
        refuses(
            ArgumentError,
            f"^{name} is given, but .* no recurrent layer",
            lambda name=name: rows(X[0], **{name: [True] * B}),
        )


# Clipping


def elman_by_hand(layer, x, dy, value, norm):
    """δ (T, B, n) of 式3, each step and sample clipped before it goes on; and how many were."""
    θ = {name: layer.backend.numpy(a) for name, a in layer.parameters.items()}
    s, δ, clipped = np.zeros((T + 1, B, N)), np.zeros((T, B, N)), 0
    for t in range(T):
        s[t + 1] = np.tanh(x[t] @ θ["U"].T + s[t] @ θ["W"].T + θ["b"])
    for t in reversed(range(T)):
        through_W = δ[t + 1] @ θ["W"] if t + 1 < T else 0
        δ[t] = (dy[t] + through_W) * (1 - s[t + 1] ** 2)
        for b in range(B):
            before = δ[t, b].copy()
            δ[t, b] = np.clip(δ[t, b], -value, value)
            δ[t, b] *= min(1, norm / np.linalg.norm(δ[t, b]))
            clipped += not np.allclose(δ[t, b], before, rtol=1e-12)
    return δ, clipped


@pytest.mark.parametrize(
    ("value", "norm"), [(0.7, None), (None, 1.2), (0.7, 1.2), (1e9, 1e9), (None, None)]
)
def test_clipping_is_what_it_says(device, value, norm):
    layer, rng = RNN(M, N, device=device, dtype="float64"), np.random.default_rng(3)
    x, dy = rng.normal(size=(T, B, M)), rng.normal(size=(T, B, N))
    δ, clipped = elman_by_hand(layer, x, dy, value or np.inf, norm or np.inf)
    layer(x)
    layer.backward(dy, clip_step_value=value, clip_step_norm=norm)
    close(layer.backend.numpy(layer.delta)[:, :, 0], δ)
    assert layer.clipped_steps == clipped
    assert (0 < clipped < T * B) is ((value or 1e9) < 1e9 or (norm or 1e9) < 1e9)


def test_the_sides_of_a_cell_that_takes_them_apart_shrink_together(device):
    """GRU: the norm is that of dE/dp; each number of both sides is bounded by itself."""
    layer, rng = GRU(M, N, device=device, dtype="float64"), np.random.default_rng(3)
    x, dy = rng.normal(size=(T, B, M)), 2 * rng.normal(size=(T, B, N))
    layer(x)
    layer.backward(dy, tape=True)
    free = [layer.backend.numpy(a)[-1] for a in (layer.tape.delta, layer.tape.delta_recurrent)]
    layer.backward(dy, tape=True, clip_step_value=0.4, clip_step_norm=0.5)
    got = [layer.backend.numpy(a)[-1] for a in (layer.tape.delta, layer.tape.delta_recurrent)]
    bounded = [np.clip(a, -0.4, 0.4) for a in free]
    norms = np.linalg.norm(bounded[0], axis=(1, 2))
    assert (norms > 0.5).any()
    for a, b in zip(got, bounded, strict=True):
        close(a, b * np.minimum(1, 0.5 / norms)[:, None, None])


@pytest.mark.quick_on_devices("elman_tanh")
@pytest.mark.parametrize(
    "clips", [{"clip_step_value": 1e30}, {"clip_step_norm": 1e30}], ids=["value", "norm"]
)
def test_bounds_that_nothing_reaches_change_no_bit(some, device, clips):
    layer = Recurrent(some, M, N, device=device)
    dy = draw(T, B, N)
    same(results(layer, X, dy, **pattern(4), **clips), results(layer, X, dy, **pattern(4)))


@pytest.mark.quick_on_devices("cuda")
def test_δ_that_is_not_finite_stays_so(device):
    """Clipping hides no explosion: the square of 1e30 overflows float32."""
    layer = RNN(M, N, "identity", device=device)
    layer(X)
    layer.backward(np.full((T, B, N), 1e30, "float32"), clip_step_norm=1.0)
    assert not np.isfinite(layer.backend.numpy(layer.grads["W"])).all()
    layer.backward(np.full((T, B, N), 1e30, "float32"), clip_step_value=0.1, clip_step_norm=1.0)
    assert np.abs(layer.backend.numpy(layer.delta)).max() <= np.float32(0.1)


def test_every_recurrent_layer_of_a_network_is_clipped():
    options = {"device": "cpu", "dtype": "float64"}
    net = Network(
        [Bidirectional(GRU(M, N, **options)), LSTM(2 * N, N, **options), Dense(N, 2, **options)]
    )
    y, _ = net(X.astype("float64"))
    net.backward(np.ones_like(y), clip_step_norm=1e-3)
    counts = [layer.clipped_steps for layer in net.recurrent]
    assert (
        net.clipped_steps == sum(counts)
        and net.layers[0].clipped_steps == sum(counts[:2])
        and counts[2] == T * B
    )
    for layer in net.recurrent:
        assert np.linalg.norm(layer.delta, axis=(2, 3)).max() <= 1e-3 * (1 + 1e-12)
    net.backward(np.ones_like(y))
    assert net.clipped_steps == 0


@pytest.mark.parametrize("name", ["clip_step_value", "clip_step_norm"])
@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, True, "1"])
def test_bounds_are_refused(door, name, value):
    y, _ = door(X)
    refuses(
        ArgumentError,
        f"^{name} is .*, expected a number above 0",
        lambda: door.backward(y, **{name: value}),
    )
    fit = network().fit
    refuses(
        ArgumentError,
        f"^{name} is ",
        lambda: fit([X[:, 0]], np.zeros((1, T, 2), "float32"), progress=False, **{name: value}),
    )


def test_fit_clips_and_counts():
    rng = np.random.default_rng(3)
    x, y = ([rng.normal(size=(t, k)).astype("float32") for t in (5, 3, 4)] for k in (M, 2))
    histories, weights = [], []
    for clips in ({}, {"clip_step_norm": 1e-4}, {"clip_step_value": 1e-4}, {"clip_step_norm": 1e9}):
        net = network()
        histories.append(
            net.fit(
                x,
                y,
                epochs=2,
                batch_size=2,
                shuffle=False,
                progress=False,
                optimizer="sgd",
                learning_rate=0.1,
                **clips,
            )
        )
        weights.append(net.parameters["0.W"])
    assert "clipped_steps" not in histories[0]
    assert [history["clipped_steps"] for history in histories[1:]] == [
        [8, 4, 8, 4],
        [8, 4, 8, 4],
        [0, 0, 0, 0],
    ]
    assert np.array_equal(weights[3], weights[0])
    assert not np.array_equal(weights[1], weights[0]) and not np.array_equal(weights[2], weights[0])


def test_segments_of_a_memory_budget_clip_alike(monkeypatch):
    monkeypatch.setattr(reference, "CHUNK_ROWS", 8)
    rng, found = np.random.default_rng(3), []
    x, y = rng.normal(size=(2, 24, M)), rng.normal(size=(2, 24, N))
    for part in (1, 0.8):
        net = Network([LSTM(M, N, device="reference", dtype="float64")])
        budget = int(part * net.plan(24, 2).bytes)
        assert (net.plan(24, 2, budget).extra > 0) is (part < 1)
        history = net.fit(
            x,
            y,
            epochs=1,
            batch_size=2,
            progress=False,
            optimizer="sgd",
            clip_step_norm=0.02,
            memory_budget=budget,
        )
        found.append((history["clipped_steps"], net.grads["0.W"]))
    assert found[0][0] == found[1][0] and 0 < found[0][0][0] < 48
    assert np.array_equal(found[1][1], found[0][1])


def test_clipping_is_no_part_of_the_box_that_is_closed(door):
    """The number of clipped steps is that of the last way back."""
    y, _ = door(X)
    door.backward(y, clip_step_norm=1e-6)
    assert door.clipped_steps == T * B
    door.backward(y)
    assert door.clipped_steps == 0
