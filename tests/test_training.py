"""Training: the optimizers' formulas, losses by hand, clipping, repeatability, the stop before a
bad number, and real data.
"""

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from rnn_gpu import optimizers, parameters, training


def network(
    device="cpu",
    dtype="float32",
    kind=rnn_gpu.RNN,
    m=3,
    n=5,
    k=2,
    loss="squared_error",
    steps="last",
    **options,
):
    layers = [
        kind(m, n, device=device, dtype=dtype, **options),
        rnn_gpu.Dense(n, k, device=device, dtype=dtype),
    ]
    return rnn_gpu.Network(layers, loss=loss, steps=steps)


def sequences(N=6, m=3, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rng.integers(1, 6), m)).astype(dtype) for _ in range(N)]


def weights(net):
    return {name: net.backend.numpy(a).copy() for name, a in net.parameters.items()}


# Each optimizer against its published formula, three steps, written here a second time.


def by_hand(name, θ, gradients):
    η, λ, m, v = 0.1, 0.01, 0.0, 0.0
    for t, dθ in enumerate(gradients, 1):
        decayed = dθ + λ * θ
        if name == "sgd":
            θ = θ - η * decayed
        elif name in ("momentum", "nesterov"):
            v = 0.9 * v + decayed
            θ = θ - η * (v if name == "momentum" else decayed + 0.9 * v)
        elif name == "rmsprop":
            v = 0.9 * v + 0.1 * decayed**2
            θ = θ - η * decayed / (np.sqrt(v) + 1e-8)
        else:
            g = decayed if name == "adam" else dθ
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
            if name == "adamw":
                θ = θ - η * λ * θ
            θ = θ - η * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
    return θ


OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1, weight_decay=0.01),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": lambda: optimizers.RMSprop(0.1, decay=0.9, weight_decay=0.01),
    "adam": lambda: optimizers.Adam(0.1, beta1=0.8, beta2=0.95, weight_decay=0.01),
    "adamw": lambda: optimizers.AdamW(0.1, beta1=0.8, beta2=0.95, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_follow_their_formulas(name, device, dtype):
    rng = np.random.default_rng(0)
    net, optimizer = network(device, dtype), OPTIMIZERS[name]()
    gradients = [
        {key: rng.normal(size=a.shape).astype(dtype) for key, a in weights(net).items()}
        for _ in range(3)
    ]
    before = weights(net)
    for g in gradients:
        optimizer.step(
            net.backend, net.parameters, {key: net.backend.array(a, dtype) for key, a in g.items()}
        )
    for key, a in weights(net).items():
        close(a, by_hand(name, before[key].astype("float64"), [g[key] for g in gradients]), dtype)


# Losses, by their definitions.


def test_losses_are_their_definitions(device):
    rng = np.random.default_rng(1)
    x, o_size = [rng.normal(size=(T, 3)).astype("float64") for T in (4, 2)], 3
    for loss in ("squared_error", "binary_cross_entropy", "softmax_cross_entropy"):
        for steps in ("every", "last"):
            net = network(device, "float64", k=o_size, loss=loss, steps=steps)
            o = net.predict(x)
            rows = np.concatenate(o) if steps == "every" else o
            t = rng.dirichlet(np.ones(o_size), len(rows))
            y = [t[:4], t[4:]] if steps == "every" else t
            p = 1 / (1 + np.exp(-rows))
            expected = {
                "squared_error": 0.5 * ((t - rows) ** 2).sum(-1),
                "binary_cross_entropy": -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum(-1),
                "softmax_cross_entropy": -(
                    t * np.log(np.exp(rows) / np.exp(rows).sum(-1, keepdims=True))
                ).sum(-1),
            }[loss].mean()
            assert net.evaluate(x, y)["loss"] == pytest.approx(expected, rel=1e-10)


def test_accuracy_counts_right_answers():
    x = sequences(10)
    net = network(k=4, loss="softmax_cross_entropy")
    answers = net.predict(x).argmax(-1)
    answers[:3] = (answers[:3] + 1) % 4
    assert net.evaluate(x, answers, batch_size=4)["accuracy"] == pytest.approx(0.7)
    net = network(k=1, loss="binary_cross_entropy")
    answers = (net.predict(x)[:, 0] > 0).astype(int)
    answers[0] = 1 - answers[0]
    assert net.evaluate(x, answers)["accuracy"] == pytest.approx(0.9)


def test_large_logits_stay_finite():
    net = network(k=3, loss="softmax_cross_entropy")
    net.parameters["1.b"][...] = [1e4, -1e4, 0]
    assert net.evaluate(sequences(), [1] * 6)["loss"] == pytest.approx(2e4, rel=1e-3)


# Batches.


def test_a_ragged_batch_is_its_samples_one_by_one(device):
    net = network(device, "float64", kind=rnn_gpu.LSTM)
    x = sequences(dtype="float64")
    y = np.random.default_rng(2).normal(size=(6, 2))
    together = training.forward_backward(net, training.Samples(net, x, y).batch(range(6))).loss
    grads = {name: net.backend.numpy(g).copy() for name, g in net.grads.items()}
    alone, total = 0.0, dict.fromkeys(grads, 0.0)
    for i in range(6):
        alone += training.forward_backward(net, training.Samples(net, x, y).batch([i])).loss / 6
        total = {name: total[name] + net.backend.numpy(net.grads[name]) / 6 for name in total}
    assert together == pytest.approx(alone, rel=1e-12)
    for name, g in grads.items():
        close(g, total[name])


def test_predictions_do_not_depend_on_the_batch():
    net, x = network(kind=rnn_gpu.GRU, dtype="float64"), sequences(7, dtype="float64")
    close(net.predict(x, batch_size=3), net.predict(x))
    every = network(kind=rnn_gpu.GRU, dtype="float64", steps="every")
    for row, o, sequence in zip(net.predict(x), every.predict(x), x, strict=True):
        assert o.shape == (len(sequence), 2)
        close(o[-1], row)


def test_predict_leaves_backward_alone():
    net, x = network(), sequences(1)[0][:, None]
    y, _ = net(x)
    dx, _ = net.backward(np.ones_like(y))
    net.predict(sequences(4, seed=9))
    assert (net.backward(np.ones_like(y))[0] == dx).all()


# fit.


def test_fit_learns_on_every_device(device):
    """Tell whether a sequence's first number is positive."""
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(3, 1)).astype("float32") for _ in range(24)]
    y = [int(s[0, 0] > 0) for s in x]
    net = network(device, m=1, n=4, loss="softmax_cross_entropy")
    history = net.fit(x, y, epochs=12, batch_size=8, learning_rate=0.05, progress=False)
    assert history["accuracy"][-1] >= 0.9 > history["accuracy"][0]
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert len(history["step_loss"]) == 36 and len(history["loss"]) == 12


@pytest.mark.parametrize("truncate", [None, (2, 3)])
@pytest.mark.parametrize("steps", ["every", "last"])
def test_the_history_of_an_uneven_last_batch_is_what_evaluate_says(steps, truncate):
    """At a learning rate of zero: every step that the loss counts weighs the same, whichever batch
    or segment it is in.
    """
    x, rng = sequences(7, dtype="float64"), np.random.default_rng(4)
    net = network(
        dtype="float64", kind=rnn_gpu.LSTM, k=4, loss="softmax_cross_entropy", steps=steps
    )
    y = [rng.integers(0, 4, len(a)) for a in x] if steps == "every" else rng.integers(0, 4, 7)
    assert len({len(a) for a in x}) > 3
    options = {
        "epochs": 2,
        "batch_size": 3,
        "optimizer": "sgd",
        "learning_rate": 0.0,
        "progress": False,
    }
    history = net.fit(x, y, truncate=truncate, validation=(x, y), **options)
    expected = net.evaluate(x, y)
    for name, value in expected.items():
        assert history[name] + history[f"validation_{name}"] == pytest.approx(
            [value] * 4, rel=1e-12
        )


def test_training_is_bitwise_repeatable_and_the_seed_matters():
    def train(seed):
        net = network(kind=rnn_gpu.LSTM)
        history = net.fit(
            sequences(20),
            np.zeros((20, 2), "float32"),
            epochs=2,
            batch_size=6,
            seed=seed,
            progress=False,
        )
        return history["step_loss"], weights(net)

    (a, first), (b, second), (c, _) = train(1), train(1), train(2)
    assert a == b != c
    assert all((first[name] == second[name]).all() for name in first)


def test_the_simulated_gpu_trains_as_the_cpu_does():
    """The same loss curve to 1e-4 for the first 20 steps, on real data."""
    train, _ = rnn_gpu.datasets.vowels(standardise=True)
    chosen = range(0, 270, 14)

    def curve(device):
        net = network(device, kind=rnn_gpu.RNN, m=12, n=6, k=9, loss="softmax_cross_entropy")
        settings = {"epochs": 5, "batch_size": 5, "learning_rate": 3e-3, "progress": False}
        return net.fit([train.x[i] for i in chosen], train.y[::14], **settings)["step_loss"]

    cuda, cpu = curve("cuda"), curve("cpu")
    assert len(cuda) == 20
    assert cuda == pytest.approx(cpu, abs=1e-4)
    assert cpu[-1] < cpu[0]


def test_vowels_are_learnt_on_the_cpu():
    train, test = rnn_gpu.datasets.vowels(standardise=True)
    net = network(m=12, n=64, k=9, loss="softmax_cross_entropy")
    net.fit(train.x, train.y, epochs=15, batch_size=27, learning_rate=3e-3, progress=False)
    assert net.evaluate(test.x, test.y)["accuracy"] > 0.93


def test_symbols_are_learnt():
    """The next letter of a cycle of four."""
    x = [np.arange(i, i + 9) % 4 for i in range(4)]
    y = [(s + 1) % 4 for s in x]
    layers = [
        rnn_gpu.Embedding(4, 3, device="cpu"),
        rnn_gpu.GRU(3, 8, device="cpu"),
        rnn_gpu.Dense(8, 4, device="cpu"),
    ]
    net = rnn_gpu.Network(layers, loss="softmax_cross_entropy")
    net.fit(x, y, epochs=60, learning_rate=0.05, progress=False)
    assert net.evaluate(x, y)["accuracy"] == 1.0


def test_embedding_is_a_column_a_symbol(device):
    layers = [rnn_gpu.Embedding(4, 3, device=device), rnn_gpu.RNN(3, 2, device=device)]
    net, symbols = rnn_gpu.Network(layers), np.array([[1, 3], [0, 0], [2, 1]])
    y, _ = net(symbols)
    V = layers[0].backend.numpy(layers[0].parameters["V"])
    vectors, _ = layers[1](V.T[symbols])
    close(y, vectors, "float32")


def test_clip_value_bounds_each_number_and_clip_norm_all_together():
    x, y = sequences(), 100 * np.ones((6, 2), "float32")

    def first_update(**clip):
        net = network()
        before = weights(net)
        history = net.fit(
            x, y, epochs=1, optimizer="sgd", learning_rate=1.0, progress=False, **clip
        )
        return {name: before[name] - a for name, a in weights(net).items()}, history[
            "gradient_norm"
        ][0]

    free, norm = first_update()
    by_value, _ = first_update(clip_value=0.5)
    by_norm, norm_before = first_update(clip_norm=2.0)
    both, _ = first_update(clip_value=0.5, clip_norm=0.1)
    assert norm == pytest.approx(norm_before) and norm > 2
    assert norm == pytest.approx(np.sqrt(sum((g**2).sum() for g in free.values())), rel=1e-4)
    for name in free:
        assert by_value[name] == pytest.approx(np.clip(free[name], -0.5, 0.5), abs=2e-5)
        assert by_norm[name] == pytest.approx(free[name] * 2 / norm, abs=2e-5)
    assert np.sqrt(sum((g**2).sum() for g in both.values())) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(
    "clip", [{"clip_norm": 2.0}, {"clip_value": 0.5}, {"clip_value": 1e10, "clip_norm": 2.0}]
)
def test_gradients_whose_squares_overflow_are_clipped_not_refused(clip, device):
    """1e20 is a number of float32, 1e40 is not."""
    net = rnn_gpu.Network([rnn_gpu.Dense(3, 2, device=device)], loss="softmax_cross_entropy")
    before, x = weights(net), np.full((1, 3), 1e20, "float32")
    history = net.fit(x, [0], epochs=1, optimizer="sgd", learning_rate=1.0, progress=False, **clip)
    moved = {name: before[name] - a for name, a in weights(net).items()}
    assert 1e19 < history["gradient_norm"][0] < 1e21
    if "clip_norm" in clip:
        assert np.sqrt(sum((a**2).sum() for a in moved.values())) == pytest.approx(2, rel=1e-5)
    else:
        assert np.abs(moved["0.V"]) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "adamw"])
def test_gradients_whose_squares_are_kept_stop_where_those_overflow(optimizer, device):
    """An infinite mean of squares would hold a weight for ever, and be NaN after the next
    update.
    """
    net = rnn_gpu.Network([rnn_gpu.Dense(3, 2, device=device)], loss="softmax_cross_entropy")
    before, x = weights(net), np.full((1, 3), 1e20, "float32")
    keeps = (
        r"keeps squares of gradients, which overflow beyond 1\.84e\+19 in float32; the norm is "
        r".*No weight has changed"
    )
    with pytest.raises(rnn_gpu.NonFiniteError, match=f"(?i)^update 0: {optimizer} {keeps}"):
        net.fit(x, [0], epochs=3, optimizer=optimizer, progress=False)
    assert all(np.array_equal(a, before[name]) for name, a in weights(net).items())
    net.fit(x, [0], epochs=3, optimizer=optimizer, clip_norm=1.0, progress=False)
    assert all(np.isfinite(a).all() for a in weights(net).values())


def test_validation_and_on_epoch():
    seen = []
    net, x = network(k=2, loss="softmax_cross_entropy"), sequences(8)
    held_out = (sequences(4, seed=1), [0, 1, 1, 0])
    history = net.fit(
        x,
        [0, 1] * 4,
        epochs=3,
        validation=held_out,
        progress=False,
        on_epoch=lambda n, h: seen.append((n, len(h["loss"]))),
    )
    assert seen == [(net, 1), (net, 2), (net, 3)]
    assert history["validation_loss"][-1] == pytest.approx(net.evaluate(*held_out)["loss"])
    assert history["validation_accuracy"][-1] == net.evaluate(*held_out)["accuracy"]


def test_the_bar_says_what_compiles_and_how_it_goes(capsys):
    network().fit(sequences(), np.zeros((6, 2), "float32"), epochs=1)
    said = capsys.readouterr().err
    assert "kernels for cpu, float32 … " in said and "epoch 1/1" in said


# Finite or stop.


def test_nan_in_a_weight_stops_before_the_update(device):
    net, x, y = network(device, kind=rnn_gpu.LSTM), sequences(), np.zeros((6, 2), "float32")
    net.parameters["1.V"][1, 2] = np.nan
    before = weights(net)
    with pytest.raises(
        rnn_gpu.NonFiniteError,
        match=r"update 0: parameter V of layer 1 \(Dense\) is not finite at \(1, 2\)",
    ):
        training.train_step(net, training.Samples(net, x, y).batch(range(6)), optimizers.Adam())
    for name, a in weights(net).items():
        assert np.array_equal(a, before[name], equal_nan=True)


def test_explosion_names_layer_step_sample_state_and_unit(device):
    """A ReLU network that doubles its state overflows float32 at a step that can be computed."""
    net = network(device, n=2, activation="relu", steps="every")
    layer = net.layers[0]
    layer.parameters["U"][...] = 0
    layer.parameters["W"] = layer.backend.array(np.array([[0, 0], [0, 1e13]]), "float32")
    layer.parameters["b"] = layer.backend.array([0, 1.0], "float32")
    x = [np.zeros((2, 3), "float32"), np.zeros((6, 3), "float32")]
    before = weights(net)
    batch = training.Samples(
        net, x, [np.zeros((2, 2), "float32"), np.zeros((6, 2), "float32")]
    ).batch([0, 1])
    # 1, 1e13, 1e26, 1e39 > 3.4e38
    where = r"layer 0 \(RNN\) gives inf at time step 3, sample 1, state 0, unit 1"
    with pytest.raises(rnn_gpu.NonFiniteError, match=where):
        training.train_step(net, batch, optimizers.SGD())
    assert all((weights(net)[name] == a).all() for name, a in before.items())


def test_an_exploding_gradient_names_the_step_where_delta_broke(device):
    """States stay 0, δ grows by 1e13 a step on its way back from the last one."""
    net = network(device, n=2, activation="identity", steps="last")
    layer = net.layers[0]
    layer.parameters["W"] = layer.backend.array(np.array([[1e13, 0], [0, 0]]), "float32")
    layer.parameters["b"][...] = 0
    net.parameters["1.V"][...] = 1
    x, y = [np.zeros((6, 3), "float32")], np.ones((1, 2), "float32")
    with pytest.raises(
        rnn_gpu.NonFiniteError,
        match=r"δ of layer 0 \(RNN\) is -inf at time step 2, sample 0, gate 0, unit 0",
    ):
        training.train_step(net, training.Samples(net, x, y).batch([0]), optimizers.SGD())


# Initial values.


def test_default_initialisation():
    layer = rnn_gpu.LSTM(30, 20, device="cpu", dtype="float64", seed=3)
    U, W, b = (layer.parameters[name] for name in "UWb")
    for gate in range(4):
        w = W[20 * gate : 20 * gate + 20]
        assert w @ w.T == pytest.approx(np.eye(20), abs=1e-12)
    assert np.abs(U).max() <= np.sqrt(6 / 50) and np.abs(U).max() > 0.95 * np.sqrt(6 / 50)
    assert (b.reshape(4, 20) == [[0], [1], [0], [0]]).all()
    assert (rnn_gpu.RNN(3, 4, "relu", device="cpu").parameters["W"] == np.eye(4)).all()
    assert (rnn_gpu.LSTM(30, 20, device="cpu", dtype="float64", seed=4).parameters["W"] != W).any()


def test_orthogonal_matrices_are_drawn_uniformly():
    """Haar: all entries have the mean 0, a determinant is 1 as often as −1. QR alone has signs of
    its own.
    """
    rng, count, n = np.random.default_rng(0), 600, 4
    drawn = np.stack([parameters.orthogonal(rng, n) for _ in range(count)])
    # five standard deviations of the mean of an entry
    assert np.abs(drawn.mean(0)).max() < 5 * (count * n) ** -0.5
    assert abs(np.linalg.det(drawn).mean()) < 5 * count**-0.5
    assert drawn @ drawn.swapaxes(1, 2) == pytest.approx(
        np.broadcast_to(np.eye(n), drawn.shape), abs=1e-12
    )


def test_torch_initialisation():
    layer = rnn_gpu.GRU(30, 25, device="cpu", init="torch")
    for a in layer.parameters.values():
        assert 0.19 < np.abs(a).max() <= 0.2 and abs(a.mean()) < 0.05


@pytest.mark.parametrize("kind", [rnn_gpu.RNN, rnn_gpu.LSTM, rnn_gpu.GRU])
def test_tutorial_initialisation(kind):
    layer = kind(30, 25, device="cpu", init="tutorial")
    readout = rnn_gpu.Dense(30, 25, device="cpu", init="tutorial")
    for a, limit in (
        (layer.parameters["U"], 1e-4),
        (layer.parameters["W"], 1e-4),
        (readout.parameters["V"], 0.1),
    ):
        assert 0.97 * limit < np.abs(a).max() <= limit and abs(a.mean()) < 0.1 * limit
    assert all(
        (a == 0).all()
        for name, a in [*layer.parameters.items(), *readout.parameters.items()]
        if name in "bc"
    )
