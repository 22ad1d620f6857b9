"""The report of gradient flow: what it measures, the bounds it gives, what it says."""

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from rnn_gpu import GRU, LSTM, RNN, Bidirectional, Dense, Network
from rnn_gpu.network.gradient_flow import HIGH, LOW, local_norms

M, N = 3, 5
SLACK = 1 + 1e-9  # of a bound, for rounding
GATED = {"lstm": LSTM, "gru": GRU}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def network(layer, steps="last"):
    return Network(
        [layer, Dense(layer.output_size, 2, device=layer.recurrent[0].device, dtype="float64")],
        steps=steps,
    )


def samples(T=30, count=4, steps="last", lengths=None):
    lengths = lengths or [T] * count
    x = [draw(length, M, seed=i) for i, length in enumerate(lengths)]
    return x, [
        draw(*((length, 2) if steps == "every" else (2,)), seed=50 + i)
        for i, length in enumerate(lengths)
    ]


def recurrent(cell, seed=0, scale=1.0, device="reference"):
    """A layer with weights and biases scaled up, out of the tame range that it starts in."""
    layer = rnn_gpu.Recurrent(cell, M, N, device=device, dtype="float64", seed=seed)
    for k, name in enumerate(("U", "W", "b")):
        layer.parameters[name] = layer.backend.array(
            scale * draw(*layer.parameters[name].shape, seed=seed + k), "float64"
        )
    return layer


@pytest.mark.parametrize("scale", [0.2, 0.6, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_never_below_what_is_measured(cell, scale, seed):
    if cell.name in (
        "elman_identity",
        "elman_relu",
        "elman_leaky_relu",
        "elman_elu",
        "elman_softplus",
    ):
        scale /= 4  # no ceiling: the way forward would overflow
    (flow,) = network(recurrent(cell, seed, scale)).gradient_flow(*samples(12)).layers
    assert (flow.state.max(1) <= SLACK * flow.bound).all()
    assert flow.state.shape == (13, 3) and flow.delta.shape == (12, 3)
    if cell.name.startswith("elman"):
        assert flow.around == 0 and (flow.delta.max(1) <= SLACK * flow.bound[:-1]).all()


def test_the_bound_of_an_elman_layer_is_the_tutorials_and_is_reached():
    """(β_W β_f)^(T−k), to the digit where W is orthogonal and f the identity."""
    (flow,) = (
        network(RNN(M, N, "identity", device="reference", dtype="float64"))
        .gradient_flow(*samples())
        .layers
    )
    assert (flow.weight_norm, flow.slope) == (pytest.approx(1.0), 1.0)
    close(flow.delta, np.ones((30, 3)))
    layer = recurrent("elman_softsign", scale=0.8)
    net, (x, y) = network(layer), samples()
    (flow,) = net.gradient_flow(x, y).layers
    s, _ = layer(np.stack(x, 1))
    assert flow.slope == pytest.approx(((1 - np.abs(s)) ** 2).max())
    assert flow.weight_norm == pytest.approx(
        np.sqrt(np.linalg.eigvalsh(layer.parameters["W"].T @ layer.parameters["W"]).max())
    )
    close(flow.bound, (flow.weight_norm * flow.slope) ** np.arange(31))


def lstm_norms(kept, s, s_next):
    """‖A‖ and ‖D‖ of a unit as docs/bptt.md writes them out."""
    (i, f, g, o), (_, c), r = kept, s, np.tanh(s_next[1])
    ρ = o * (1 - r * r)
    u = np.sqrt((g * i * (1 - i)) ** 2 + (c * f * (1 - f)) ** 2 + (i * (1 - g * g)) ** 2)
    e = r * o * (1 - o)
    trace, determinant = u**2 * (1 + ρ**2) + e**2, (u * e) ** 2  # of AᵀA
    return np.sqrt((trace + np.sqrt(trace**2 - 4 * determinant)) / 2), f * np.sqrt(1 + ρ**2)


def gru_norms(kept, s, s_next):
    (r, z, n, q_n), (h,) = kept, s
    δ_n = (1 - z) * (1 - n * n)
    return np.sqrt(
        ((h - n) * z * (1 - z)) ** 2 + (δ_n * q_n * r * (1 - r)) ** 2 + (δ_n * r) ** 2
    ), z


@pytest.mark.parametrize(("name", "by_hand"), [("lstm", lstm_norms), ("gru", gru_norms)])
def test_the_norms_of_gated_cells_are_those_derived_in_the_docs(name, by_hand):
    layer = recurrent(name)
    y, _ = layer(draw(4, 3, M))
    layer.backward(np.ones_like(y), tape=True)
    tape = layer.tape
    expected = by_hand(np.moveaxis(tape.kept, 2, 0), tape.s[:, :-1], tape.s[:, 1:])
    _, A, D = local_norms(layer.cell, tape)
    close(A, expected[0])
    close(D, expected[1])


@pytest.mark.parametrize("lengths", [None, [9, 4, 6]], ids=["full", "ragged"])
@pytest.mark.parametrize("steps", ["every", "last"])
def test_the_curve_is_the_product_of_jacobians(steps, lengths, device):
    """式3, sample by sample, from the last step of each; a loss at other steps does not enter."""
    layer = RNN(M, N, "sigmoid", device=device, dtype="float64")
    net, (x, y) = network(layer, steps), samples(9, 3, steps, lengths)
    report = net.gradient_flow(x, y)
    W, V = (net.backend.numpy(net.parameters[name]) for name in ("0.W", "1.V"))
    total, curves = sum(map(len, x)) if steps == "every" else len(x), []
    for sequence, target, o in zip(x, y, net.predict(x), strict=True):
        s = net.backend.numpy(layer(sequence[:, None])[0])[:, 0]
        error = (o - target) if steps == "last" else (o - target)[-1]
        δ = [V.T @ error / total * s[-1] * (1 - s[-1])]
        for t in range(len(s) - 2, -1, -1):
            δ.append(W.T @ δ[-1] * s[t] * (1 - s[t]))
        curves.append(np.array(δ))
    norms = [np.linalg.norm(δ, axis=1) / np.linalg.norm(δ[0]) for δ in curves]
    for L, row in enumerate(report.layers[0].delta):
        here = sorted(norm[L] for norm in norms if len(norm) > L)
        close(row[[0, -1]], np.quantile(here, (0.25, 0.75), method="nearest"))
        close(report.layers[0].heat[L], np.mean([np.abs(δ[L]) for δ in curves if len(δ) > L], 0))


def test_the_network_stays_as_it_is():
    layer = RNN(M, N, device="reference", dtype="float64")
    net, x = network(layer), draw(4, 2, M)
    y, _ = net(x)
    before = net.backward(np.ones_like(y))[0], layer.delta.copy()
    net.gradient_flow(*samples())
    assert np.array_equal(net.backward(np.ones_like(y))[0], before[0]) and np.array_equal(
        layer.delta, before[1]
    )


def test_devices_give_the_same_report(device):
    layer = recurrent("lstm", device=device)
    net, (x, y) = network(layer), samples(7, 3, lengths=[7, 3, 5])
    got, expected = (one.gradient_flow(x, y).layers[0] for one in (net, net.copy("reference")))
    for a, b in zip(got, expected, strict=True):
        close(a, b) if isinstance(b, (np.ndarray, float)) else None
    assert (got.name, got.verdict, got.horizon) == (
        expected.name,
        expected.verdict,
        expected.horizon,
    )


# The largest Lyapunov exponent.


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.2])
def test_the_exponent_of_a_linear_layer_is_the_logarithm_of_its_spectral_radius(scale, device):
    """W is far from normal: its norm says nothing of its powers."""
    layer = RNN(M, N, "identity", device=device, dtype="float64")
    W = np.diag(scale * np.array([1, 0.02, -0.02, 0.01, 0])) + np.triu(np.full((N, N), 2.0), 1)
    layer.parameters["W"] = layer.backend.array(W, "float64")
    (flow,) = network(layer).gradient_flow(*samples(48, 2)).layers
    assert flow.lyapunov == pytest.approx(np.log(scale), abs=1e-8) and flow.weight_norm > 4


@pytest.mark.parametrize("name", GATED)
def test_the_exponent_of_a_gated_layer_at_rest_is_that_of_its_jacobian(name):
    layer = recurrent(name, scale=0.4)
    cell, x = layer.cell, np.full((200, 1, M), 0.3)
    _, s = layer(x)
    s = np.concatenate(s if isinstance(s, tuple) else (s,), 1)[0]  # where it has come to rest

    def step(s):
        parts = tuple(part[None] for part in np.split(s, cell.states))
        _, after = layer(x[:1], parts if len(parts) > 1 else parts[0])
        return np.concatenate(after if isinstance(after, tuple) else (after,), 1)[0]

    J = np.array([(step(s + 1e-6 * e) - step(s - 1e-6 * e)) / 2e-6 for e in np.eye(len(s))]).T
    (flow,) = network(layer).gradient_flow([x[:, 0]], np.zeros((1, 2))).layers
    assert flow.lyapunov == pytest.approx(np.log(np.abs(np.linalg.eigvals(J)).max()), rel=0.03)


# What it says.


def judged(layer, T=60, **options):
    (flow,) = network(layer).gradient_flow(*samples(T, **options)).layers
    return flow


def elman(activation="tanh", scale=None, **options):
    layer = RNN(M, N, activation, device="reference", dtype="float64", **options)
    if scale:
        layer.parameters["W"][...] *= scale
    return layer


def test_verdict_and_horizon_are_those_of_the_measured_curve():
    linear = {scale: judged(elman("identity", scale)) for scale in (0.5, 1.0, 2.0)}
    assert [flow.verdict for flow in linear.values()] == ["vanishing", "healthy", "exploding"]
    # 2^±10 is the first outside 1e-3 … 1e3
    assert [flow.horizon for flow in linear.values()] == [10, None, 10]
    assert (
        linear[0.5].delta[9, 1] > LOW > linear[0.5].delta[10, 1]
        and linear[2.0].delta[9, 1] < HIGH < linear[2.0].delta[10, 1]
    )


def test_a_gradient_that_overflows_is_exploding_not_an_error(tmp_path):
    layer = RNN(M, N, "identity", device="reference")
    layer.parameters["W"][...] *= 1e3
    layer.parameters["U"][...] = 0  # the states stay zero
    x, y = samples(30)
    report = Network([layer]).gradient_flow(
        [a.astype("float32") for a in x], np.ones((4, 30, N), "float32")
    )
    (flow,) = report.layers
    assert (flow.verdict, flow.horizon) == ("exploding", 2) and np.isfinite(flow.delta).all()
    report.plot(tmp_path / "flow.png")


def test_saturated_and_dead_units_are_counted():
    layer = elman("relu")
    layer.parameters["b"][...] = [-99, -99, 99, 99, 99]
    assert (judged(layer).saturated, judged(layer).dead) == (0.4, 0.4)
    layer = elman("tanh")
    layer.parameters["b"][...] = [-9, 9, 0, 0, 0]
    flow = judged(layer)
    assert 0.4 <= flow.saturated < 0.5 and flow.dead == 0


def test_a_layer_that_passes_nothing_on_is_vanishing_from_the_start(tmp_path):
    layer = elman("relu")
    layer.parameters["b"][...] = -99
    report = network(layer).gradient_flow(*samples(5))
    (flow,) = report.layers
    assert (flow.verdict, flow.horizon, flow.dead, flow.lyapunov) == ("vanishing", 0, 1, -np.inf)
    report.plot(tmp_path / "flow.png")


def doubling(samples=4):
    """A ReLU layer that doubles its state, and as many samples; in the last one all units rest at
    step 20.
    """
    layer = elman("relu", 2.0)
    layer.parameters["U"][...], layer.parameters["b"][...] = 1, 0
    x = np.full((samples, 30, M), 0.1)
    x[-1, 20] = -1e9
    return network(layer), x, np.ones((samples, 2))


def test_a_sample_in_which_all_units_rest_does_not_hide_what_the_others_do():
    """The mean of logarithms with one of them −∞ said "exploding" beside an exponent of −∞."""
    (flow,) = doubling()[0].gradient_flow(*doubling()[1:]).layers
    assert (flow.verdict, flow.silent) == ("exploding", 0.25)
    assert flow.lyapunov == pytest.approx(np.log(2))
    assert "+0.693 a step, the largest exponent; in 25% of the samples nothing comes back" in str(
        flow
    )
    net, x, y = doubling(2)
    (flow,) = net.gradient_flow(x[1:], y[1:]).layers
    assert (flow.verdict, flow.silent, flow.lyapunov) == ("vanishing", 1, -np.inf)


def test_an_exponent_of_another_sign_than_the_verdict_is_explained():
    """W far from normal: its powers grow first, by what stands above the diagonal, and shrink in
    the end.
    """
    layer = elman("identity")
    layer.parameters["W"][...] = np.diag(np.full(N, 0.6)) + np.triu(np.full((N, N), 30.0), 1)
    flow = judged(layer, 100)
    assert flow.verdict == "exploding" and flow.lyapunov < 0
    assert "the verdict is of the curve: it grows at first, in the long run it would shrink" in str(
        flow
    )
    net, x, y = doubling(5)
    x[1:] = x[-1]  # now in four samples of five nothing comes back
    (flow,) = net.gradient_flow(x, y).layers
    assert flow.verdict == "vanishing" and flow.lyapunov > 0
    assert (
        "and the exponent of a vector that still comes back; in 80% of the samples nothing comes "
        "back" in str(flow)
    )
    assert "verdict" not in str(judged(elman("identity", 2.0)))


def test_how_loose_the_bound_is_is_said():
    flow = judged(elman("identity", 2.0), 30)
    assert "bound        2 · 1 = 2 a step, 1 times what is measured after 30 steps" in str(flow)
    flow = judged(elman("tanh", 1.5), 30)
    assert (
        f"a step, {flow.bound[30] / flow.state[30, 1]:.3g} times what is measured after 30 steps"
        in str(flow)
    )
    assert flow.bound[30] > 10 * flow.state[30, 1]
    layer = elman("relu")
    layer.parameters["b"][...] = -99
    assert "a step, and nothing comes back" in str(judged(layer, 5))


@pytest.mark.parametrize("T", [1, 2, 3])
def test_few_steps_of_one_sample_are_enough(T, tmp_path):
    report = network(LSTM(M, N, device="reference", dtype="float64")).gradient_flow(*samples(T, 1))
    (flow,) = report.layers
    assert flow.delta.shape == (T, 3) and flow.bound.shape == (T + 1,) and flow.verdict == "healthy"
    report.plot(tmp_path / "flow.png")


ELMAN = {
    "torch's start": lambda: elman("sigmoid", init="torch"),
    "sigmoid": lambda: elman("sigmoid"),
    "relu": lambda: elman("relu", 0.5),
}


@pytest.mark.parametrize("build", ELMAN.values(), ids=ELMAN)
def test_the_remedy_of_an_elman_layer_whose_gradient_vanishes_is_a_cell_with_gates(build):
    flow = judged(build())
    assert flow.verdict == "vanishing" and flow.remedy == "3. a cell with gates"
    layer = eval(flow.code, {"rnn_gpu": rnn_gpu})
    assert type(layer) is GRU and (layer.input_size, layer.hidden_size) == (M, N)
    assert judged(layer.copy("cpu", "float64")).horizon > flow.horizon


def test_what_is_healthy_needs_no_remedy():
    assert judged(elman("identity")).code == ""


def growing_step(p, q, s):
    f = np.tanh(p[0] + q[0])
    return (1.4 * s[0] + f,), (f,)


def growing_back(ds, kept, s, s_next):
    δ = ds[0] * (1 - kept[0] ** 2)
    return (δ,), (δ,), (1.4 * ds[0],)


def scaled(kind, scale, *arguments, **options):
    """A layer of 16 units that hears little of x, so that its states are its own."""
    layer = kind(M, 16, *arguments, device="reference", dtype="float64", **options)
    layer.parameters["W"][...] *= scale
    layer.parameters["U"][...] *= 0.1
    return layer


EXPLODING = {
    "identity": lambda: scaled(RNN, 2.0, "identity"),
    "tanh": lambda: scaled(RNN, 4.0),
    "relu": lambda: scaled(RNN, 1.5, "relu"),
    "lstm": lambda: scaled(LSTM, 16.0),
    "gru": lambda: scaled(GRU, 16.0),
    "both": lambda: Bidirectional(scaled(RNN, 4.0), scaled(RNN, 4.0, reverse=True)),
}


@pytest.mark.parametrize("build", EXPLODING.values(), ids=EXPLODING)
def test_the_remedy_of_what_explodes_is_a_smaller_W(build):
    net = network(build())
    for flow in net.gradient_flow(*samples(40)).layers:
        assert (
            flow.verdict == "exploding"
            and flow.lyapunov > 0
            and flow.remedy.startswith("1. initial weights, W that much smaller")
        )
        exec(flow.code, {"network": net})
    for flow in net.gradient_flow(*samples(40)).layers:
        assert flow.verdict != "exploding"


def test_where_W_is_not_to_blame_δ_of_every_step_is_bounded_by_what_enters():
    cell = rnn_gpu.cell("growing", gates=1, states=1, kept=1, step=growing_step, back=growing_back)
    layer = rnn_gpu.Recurrent(cell, M, N, device="reference", dtype="float64")
    layer.parameters["W"][...] = 0  # the state grows by itself
    net, (x, y) = network(layer), samples(30, 40)
    (flow,) = net.gradient_flow(x, y).layers
    assert flow.verdict == "exploding" and flow.code.startswith("network.fit(x, y, clip_step_norm=")
    net.gradient(x[:32], y[:32])  # one batch of fit's
    entering = np.median(np.linalg.norm(layer.delta[-1], axis=(1, 2)))
    # of 40 samples, not of these 32
    assert float(flow.code.split("=")[1][:-1]) == pytest.approx(entering, rel=0.3)
    history = net.fit(
        x, y, epochs=1, progress=False, clip_step_norm=float(flow.code.split("=")[1][:-1])
    )
    assert min(history["clipped_steps"]) > 0


@pytest.mark.parametrize("kind", [*GATED.values(), lambda *a, **k: Bidirectional(GRU(*a, **k))])
def test_the_remedy_of_a_gated_cell_opens_its_gate(kind):
    net = network(kind(M, N, device="reference", dtype="float64"))
    for name, a in net.parameters.items():
        if name.startswith("0.b"):
            a[...] = 0
    before = net.gradient_flow(*samples(60))
    for flow in before.layers:
        assert flow.verdict == "vanishing" and "gate keeps more of the state" in flow.remedy
        exec(flow.code, {"network": net})
    for flow, then in zip(net.gradient_flow(*samples(60)).layers, before.layers, strict=True):
        assert flow.verdict == "healthy" or flow.horizon > 1.3 * then.horizon


def test_a_network_has_a_row_for_each_recurrent_layer_in_its_order():
    options = {"device": "reference", "dtype": "float64"}
    net = Network(
        [LSTM(M, 4, **options), Bidirectional(RNN(4, N, **options)), Dense(2 * N, 2, **options)],
        steps="last",
    )
    report = net.gradient_flow(*samples(9, lengths=[9, 5]))
    names = [
        "layer 0 (LSTM, lstm, 4 units)",
        "layer 1 (RNN, elman_tanh, 5 units)",
        "layer 1 (RNN, reverse, elman_tanh, 5 units)",
    ]
    assert [flow.name for flow in report.layers] == names
    # no loss reaches the reverse layer's last step, the first in time: a random vector is carried
    for flow in report.layers:
        assert flow.delta.shape == (9, 3) and (flow.delta > 0).all()
        assert flow.name in str(report) and flow.verdict in str(report)
    assert report.loss == pytest.approx(net.evaluate(*samples(9, lengths=[9, 5]))["loss"])


def test_the_plot_has_the_curve_the_bound_the_horizon_and_the_heat(tmp_path):
    net = network(elman("identity", 0.5))
    report = net.gradient_flow(*samples())
    curve, heat, _ = report.plot(tmp_path / "flow.png").axes
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    labels = [text.get_text() for text in curve.get_legend().get_texts()]
    assert (
        labels[0].startswith("‖δ_k‖ / ‖δ_T‖ measured")
        and "bound: 1 times what is measured after 30 steps" in labels
    )
    assert "horizon: 10 steps" in labels and curve.get_yscale() == "log"
    close(curve.lines[0].get_ydata(), report.layers[0].delta[:, 1])
    assert heat.images[0].get_array().shape == (N, 30)
    # the last step is on the right
    assert heat.images[0].get_array()[0, -1] == pytest.approx(np.log10(report.layers[0].heat[0, 0]))


def test_what_has_no_gradient_flow_is_refused():
    rows = Network([Dense(M, 2, device="reference")])
    with pytest.raises(rnn_gpu.ArgumentError, match="no recurrent layer"):
        rows.gradient_flow(np.zeros((2, M), "float32"), np.zeros((2, 2), "float32"))
    layer = elman("identity")
    layer.parameters["W"][...] *= 1e200
    with pytest.raises(
        rnn_gpu.NonFiniteError,
        match=r"gradient_flow: layer 0 \(RNN\) gives -?inf at time step 2, .*; one step before it",
    ):
        network(layer).gradient_flow(*samples())
