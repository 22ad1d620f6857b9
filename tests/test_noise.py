"""Recurrent dropout and zoneout: the cells around a cell, on every device, against a loop that
applies the masks by hand.
"""

import sys

import numpy as np
import pytest

import rnn_gpu
from conftest import RTOL, close
from door import parameters_of, refuses, results, same, table
from measuring import peak
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Bidirectional,
    Dense,
    Network,
    Recurrent,
    UnsupportedError,
    training,
)
from rnn_gpu.device import resolve
from rnn_gpu.kernels import LIVE, RESET, Backward, Clip, Forward
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.lstm import lstm
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.devices.cpu import memory as pool
from rnn_gpu.kernels.devices.cuda import schedules
from rnn_gpu.kernels.philox import words
from rnn_gpu.kernels.whole_arrays import formula
from rnn_gpu.layers.noise import Noise
from twins import OTHERS, one_pass

T, B, N = 5, 3, 7
CHOSEN = {
    "dropped gru": (dropped, CELLS["gru"]),
    "zoned lstm": (zoned, CELLS["lstm"]),
    "both, lstm": (lambda cell: dropped(zoned(cell)), CELLS["lstm"]),
    "both, elman": (lambda cell: dropped(zoned(cell)), CELLS["elman_tanh"]),
}


@pytest.fixture(params=CHOSEN.values(), ids=CHOSEN)
def drawn(request):
    return Drawn(*request.param)


@pytest.mark.quick_on_devices("both, lstm", "cuda")
@pytest.mark.parametrize("other", OTHERS)
def test_twins_agree_on_noise_and_clip_alike(drawn, other):
    expected, _, beyond = one_pass(
        "reference", drawn.noisy, "float32", pattern=1, clip=Clip(0.3, 0.5)
    )
    got, _, clipped = one_pass(other, drawn.noisy, "float32", pattern=1, clip=Clip(0.3, 0.5))
    for a, b in zip(got, expected, strict=True):
        close(a, b, "float32")
    assert clipped == beyond > 0


class Drawn:
    """A cell with noise around it, and numbers for one pass: float64, masked steps, resets."""

    def __init__(self, around, cell):
        self.cell, self.noisy, rng = cell, around(cell), np.random.default_rng(3)
        G, S = cell.gates, cell.states
        self.drops, self.zones = self.noisy.output, self.noisy.drawn >= S + self.noisy.output
        self.p, self.W = rng.normal(size=(T, B, G, N)), rng.normal(size=(G * N, N)) / 3
        self.c = rng.normal(size=G * N * cell.apart)
        self.s0, self.dy, self.ds = (
            rng.normal(size=(*shape, B, N)) for shape in ((S,), (T,), (S,))
        )
        self.m = 2.0 * (rng.random((B, N)) < 0.5) if self.drops else np.ones((B, N))
        self.z = (rng.random((T, S, B, N)) < 0.4) * 1.0 if self.zones else np.zeros((T, S, B, N))
        self.flags = (
            (rng.random((T, B)) < 0.8) * LIVE + (rng.random((T, B)) < 0.2) * RESET
        ).astype("uint8")

    def states(self, p, W, c, s0):
        """By hand: [s0, s after each step], the cell's own."""
        step, s = formula(self.cell.step), [s0]
        for t in range(T):
            before = np.where(self.flags[t, :, None] & RESET, s0, s[-1])
            q = ((self.m * before[0]) @ W.T + (c if self.cell.apart else 0)).reshape(B, -1, N)
            made, _ = step(tuple(p[t].swapaxes(0, 1)), tuple(q.swapaxes(0, 1)), tuple(before))
            after = np.where(self.z[t] == 1, before, made)
            s.append(np.where(self.flags[t, :, None] & LIVE, after, before))
        return np.array(s).swapaxes(0, 1)

    def loss(self, *θ):
        s = self.states(*θ)
        return (self.dy * s[0, 1:] * (self.flags[:, :, None] & LIVE)).sum() + (
            self.ds * s[:, -1]
        ).sum()

    def run(self, device):
        """(own states, dE/dp, dE/dW, dE/dc, dE/ds0) by the kernels of a device."""
        d, noisy, zero = resolve(device), self.noisy, np.zeros((self.drops, B, N))
        masks = [
            *([self.z] if self.zones else []),
            *([np.broadcast_to(self.m, (T, 1, B, N))] if self.drops else []),
        ]
        numbers = np.concatenate([self.p, *(mask.swapaxes(1, 2) for mask in masks)], 2)
        p, W, c, flags, dy = (
            d.array(a, a.dtype) for a in (numbers, self.W, self.c, self.flags, self.dy)
        )
        s, kept = (
            d.array(np.full(shape, np.nan), "float64")
            for shape in ((noisy.states, T + 1, B, N), (T, B, noisy.kept, N))
        )
        s[:, 0] = d.array(
            np.concatenate([self.m * self.s0[:1]] * self.drops + [self.s0]), "float64"
        )
        d.forward(noisy, Forward(p, W, c, s, kept, flags))
        dp = d.array(np.full(self.p.shape, np.nan), "float64")
        ds = d.array(np.concatenate([zero, self.ds]), "float64")
        dq = d.array(np.full(self.p.shape, np.nan), "float64") if noisy.apart else dp
        d.backward(noisy, Backward(dy, W, s, kept, flags, dp, dq, ds))
        s, dp, dq, ds = (d.numpy(a) for a in (s, dp, dq, ds))
        seen = np.where(self.flags[:, :, None] & RESET, s[0, :1], s[0, :-1])
        ds0 = ds[self.drops :].copy()
        ds0[0] += self.m * ds[0] * self.drops
        return (
            s[self.drops :],
            dp,
            np.einsum("tbgi,tbj->gij", dq, seen).reshape(-1, N),
            dq.sum((0, 1)).reshape(-1)[: self.c.size],
            ds0,
        )


@pytest.mark.quick_on_devices("cuda")
def test_states_are_those_of_a_loop_with_the_masks_by_hand(drawn, device):
    close(drawn.run(device)[0], drawn.states(drawn.p, drawn.W, drawn.c, drawn.s0))


@pytest.mark.parametrize("schedule", schedules.NAMES)
def test_every_schedule_takes_noise(drawn, schedule):
    with schedules.only(schedule):
        got = drawn.run("cuda")
    for a, b in zip(got, drawn.run("reference"), strict=True):
        close(a, b)


@pytest.mark.quick_on_devices("cuda")
def test_gradients_with_the_masks_fixed_are_slopes(drawn, device):
    rng, ε = np.random.default_rng(4), 1e-6
    θ = drawn.p, drawn.W, drawn.c, drawn.s0
    for i, gradient in enumerate(drawn.run(device)[1:]):
        v = rng.normal(size=gradient.shape)
        ahead, behind = (
            drawn.loss(*(a + sign * ε * v if k == i else a for k, a in enumerate(θ)))
            for sign in (1, -1)
        )
        assert (gradient * v).sum() == pytest.approx((ahead - behind) / (2 * ε), rel=1e-6, abs=1e-8)


# Layers


def layer_of(kind=LSTM, device="reference", **options):
    return kind(
        4,
        N,
        **(
            {"device": device, "dtype": "float64", "recurrent_dropout": 0.3, "zoneout": 0.2}
            | options
        ),
    )


def masks_of(layer, m, z):
    """(m (B, n), z (T, S, B, n)) of a layer in place 0 and its first pass, word by word; z (S,)
    rates.
    """
    first = 1 + layer.reverse
    word = [
        words(np.asarray, T, B, N, layer.seed, (first + 2 * k) << 16, 0) / 2**32
        for k in range(1 + len(z))
    ]
    return (word[0][0] >= m) / (1 - m), np.stack(
        [drawn < rate for drawn, rate in zip(word[1:], z, strict=True)], 1
    ) * 1.0


RNG = np.random.default_rng(0)
X, DY = RNG.normal(size=(T, B, 4)), RNG.normal(size=(T, B, N))
STATES = RNG.normal(size=(2, B, N))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_layer_is_the_loop_with_philox_masks(device, reverse):
    layer = layer_of(device=device, zoneout=(0.4, 0.1), reverse=reverse, seed=9)
    y, last = layer(X, tuple(STATES), training=True)
    θ = {name: layer.backend.numpy(a) for name, a in layer.parameters.items()}
    m, z = masks_of(layer, 0.3, (0.4, 0.1))
    s, step, ys = STATES, formula(lstm.step), []
    for t in reversed(range(T)) if reverse else range(T):
        p, q = (
            a.reshape(B, 4, N).swapaxes(0, 1)
            for a in (X[t] @ θ["U"].T + θ["b"], (m * s[0]) @ θ["W"].T)
        )
        s = z[t] * s + (1 - z[t]) * np.array(step(tuple(p), tuple(q), tuple(s))[0])
        ys.append(s[0])
    close(y, np.array(ys[::-1] if reverse else ys))
    close(np.array(last), s)


@pytest.mark.quick_on_devices("LSTM", "cuda")
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_gradients_of_a_layer_are_slopes_while_its_masks_stay(kind, device):
    layer, twin, ε, rng = layer_of(kind, device), layer_of(kind), 1e-6, np.random.default_rng(1)
    S, resets = layer.cell.states, rng.random((T, B)) < 0.2
    θ = {name: layer.backend.numpy(a).copy() for name, a in layer.parameters.items()} | {
        "x": X,
        "s": STATES[:S],
    }

    def carry(layer, θ):
        layer.passes = 0
        state = tuple(θ["s"]) if S > 1 else θ["s"][0]
        y, last = layer(θ["x"], state, lengths=[3, T, 4], resets=resets, training=True)
        return (y * DY).sum() + (np.array(last).reshape(S, B, N) * STATES[:S]).sum()

    def loss(θ):
        for name in twin.parameters:
            twin.parameters[name] = θ[name]
        return carry(twin, θ)

    carry(layer, θ)
    dx, ds = layer.backward(DY, tuple(STATES) if S > 1 else STATES[0])
    gradients = {name: layer.backend.numpy(g) for name, g in layer.grads.items()} | {
        "x": dx,
        "s": np.reshape(ds, (S, B, N)),
    }
    for name, gradient in gradients.items():
        v = rng.normal(size=gradient.shape)
        slope = (loss(θ | {name: θ[name] + ε * v}) - loss(θ | {name: θ[name] - ε * v})) / (2 * ε)
        assert (gradient * v).sum() == pytest.approx(slope, rel=1e-6, abs=1e-8), name


def test_the_tape_shows_the_cells_own_states_and_what_plain_backward_gives(device):
    layer = layer_of(device=device)
    got = []
    for tape in (False, True):
        layer.passes = 0
        y, _ = layer(X, tuple(STATES), training=True)
        dx, ds = layer.backward(DY, tape=tape)
        got.append((dx, *ds, *(layer.backend.numpy(g) for g in layer.grads.values())))
    for a, b in zip(*got, strict=True):
        close(a, b)
    tape = type(layer.tape)(*map(layer.backend.numpy, layer.tape))
    assert tape.kept.shape == (T, B, 4, N) and tape.s.shape == tape.ds.shape == (2, T + 1, B, N)
    close(tape.s[0, 1:], y)
    close(tape.ds[:, 0], np.array(ds))


def test_rates_of_zero_change_no_bit_and_draw_nothing(device):
    plain = LSTM(4, N, device=device, dtype="float64")
    layer = layer_of(device=device, recurrent_dropout=0, zoneout=(0, 0.0))
    same(results(layer, X, DY), results(plain, X, DY))
    y, _ = layer(X, training=True)
    assert (
        (y == plain(X)[0]).all()
        and layer.passes == 0
        and layer.cell is layer._last.tape.cell is lstm
    )


@pytest.mark.quick_on_devices("reference")
def test_outside_training_dropout_is_off_and_zoneout_its_mean(device):
    assert (
        layer_of(device=device, zoneout=0)(X)[0] == LSTM(4, N, device=device, dtype="float64")(X)[0]
    ).all()
    layer = RNN(4, N, device=device, dtype="float64", zoneout=0.25)
    y, _ = layer(X)
    θ, h = {name: layer.backend.numpy(a) for name, a in layer.parameters.items()}, np.zeros((B, N))
    for t in range(T):
        h = 0.25 * h + 0.75 * np.tanh(X[t] @ θ["U"].T + θ["b"] + h @ θ["W"].T)
        close(y[t], h)
    rnn_gpu.gradcheck(layer, X, DY)


@pytest.mark.quick_on_devices("reference")
def test_a_share_of_the_units_stays(device):
    x = np.random.default_rng(2).normal(size=(12, 5, 4))
    y, _ = GRU(4, 33, device=device, dtype="float64", zoneout=0.2)(
        x, np.ones((5, 33)), training=True
    )
    stayed = y == np.concatenate([np.ones((1, 5, 33)), y[:-1]])
    assert stayed.mean() == pytest.approx(0.2, abs=0.03)
    for axis in range(3):
        assert (np.diff(stayed, axis=axis) != 0).mean() == pytest.approx(2 * 0.2 * 0.8, abs=0.05)


def network(device="reference", dtype="float64"):
    on = {"device": device, "dtype": dtype, "recurrent_dropout": 0.3}
    dense = Dense(3, 2, device=device, dtype=dtype)
    return Network([LSTM(4, 5, zoneout=(0.3, 0.1), **on), GRU(5, 3, zoneout=0.2, **on), dense])


def data(dtype="float64", count=4):
    rng = np.random.default_rng(0)
    return [[rng.normal(size=(3 + i, k)).astype(dtype) for i in range(count)] for k in (4, 2)]


@pytest.mark.quick_on_devices("cuda")
def test_the_training_run_is_the_references(device, dtype):
    def curve(device):
        return network(device, dtype).fit(*data(dtype), epochs=2, batch_size=2, progress=False)[
            "step_loss"
        ]

    assert curve(device) == pytest.approx(curve("reference"), rel=10 * RTOL[dtype])


@pytest.mark.quick_on_devices("cuda")
@pytest.mark.parametrize("segment", [2, 4])
def test_segments_have_the_masks_of_one_pass_and_its_bits(segment, device, monkeypatch):
    monkeypatch.setitem(resolve(device).chunk.__globals__, "CHUNK_ROWS", 8)  # chunks of two steps
    expected, got = [], []
    for found, cut in ((expected, None), (got, segment)):
        net = network(device)
        batch = training.Samples(net, *data()).batch(range(4))
        made = training.forward_backward(net, batch, training.Ways(segment=cut))
        assert [layer.passes for layer in net.recurrent] == [1, 1]
        found += [np.array(made.loss), *map(net.backend.numpy, (made.o, *net.grads.values()))]
    for a, b in zip(got, expected, strict=True):
        same(a, b)


@pytest.mark.quick_on_devices("cuda")
def test_training_goes_on_bit_for_bit(tmp_path, device):
    whole, half, rest = (network(device) for _ in range(3))
    options = {"batch_size": 2, "progress": False, "shuffle": True}
    whole.fit(*data(), epochs=3, **options)
    half.fit(*data(), epochs=1, checkpoint=tmp_path / "run", **options)
    rest.fit(*data(), epochs=3, resume=tmp_path / "run", **options)
    same(parameters_of(rest), parameters_of(whole))


def test_layers_passes_and_directions_have_masks_of_their_own():
    layer = layer_of(GRU, zoneout=0.5)
    first, second = layer(X, training=True)[0], layer(X, training=True)[0]
    assert (first != second).any()
    both = Bidirectional(
        *(
            layer_of(GRU, zoneout=0.5, recurrent_dropout=0, seed=1, reverse=reverse)
            for reverse in (False, True)
        )
    )
    y, _ = both(X, [np.ones((B, N))] * 2, training=True)
    steps = (
        np.concatenate([np.ones((1, B, N)), y[:, :, :N]]),
        np.concatenate([y[:, :, N:], np.ones((1, B, N))]),
    )
    stayed = [np.diff(s, axis=0) == 0 for s in steps]
    assert (stayed[0] != stayed[1]).mean() == pytest.approx(0.5, abs=0.15)
    double = Bidirectional(GRU(N, 3, device="reference", dtype="float64"))
    assert [one.place for one in Network([layer, double]).recurrent] == [0, 1, 1]


def test_noise_is_kept_by_copies_and_files(tmp_path):
    net = network()
    net.save(tmp_path / "model")
    for other in (net.copy(), rnn_gpu.load(tmp_path / "model", device="reference")):
        assert [layer.noise for layer in other.recurrent] == [
            Noise(0.3, (0.3, 0.1)),
            Noise(0.3, (0.2,)),
        ]
        x = data()[0][0][:, None]
        assert (other(x, training=True)[0] == network()(x, training=True)[0]).all()
        assert (other(x)[0] == net(x)[0]).all()


def test_a_stream_and_the_gradients_flow_take_zoneouts_mean():
    net, x = network(), data()[0][3][:, None]
    stream = rnn_gpu.Stream(net)
    close(np.array([stream(step) for step in x]), net(x)[0])
    report = net.gradient_flow(*data())
    assert np.isfinite([flow.lyapunov for flow in report.layers]).all()
    plain = Network(
        [
            LSTM(4, 5, device="reference", dtype="float64"),
            GRU(5, 3, device="reference", dtype="float64"),
            net.layers[2],
        ]
    )
    assert all(
        a.lyapunov != b.lyapunov
        for a, b in zip(report.layers, plain.gradient_flow(*data()).layers, strict=True)
    )


REFUSED = table(
    (
        "zoneout of one state",
        {"zoneout": (0.1, 1)},
        r"^zoneout\[1\] is 1, expected a number from 0 to below 1",
    ),
    (
        "too many rates",
        {"zoneout": (0.1, 0.1, 0.1)},
        "^zoneout has 3 rates, expected a number, or 2: one a state of the cell",
    ),
    (
        "a seed beyond the key",
        {"seed": 2**32},
        "^seed is 4294967296, expected an integer of at most 4294967295",
    ),
)


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_bad_noise_is_refused(options, message):
    refuses(ArgumentError, message, lambda: layer_of(**options))


def test_a_cell_that_draws_is_not_for_layers():
    refuses(
        ArgumentError,
        "^cell 'zoned_lstm' has drawn=2 and output=0",
        lambda: Recurrent(zoned(lstm), 4, N, device="reference"),
    )


def test_onnx_has_no_zoneout(tmp_path):
    onnx = pytest.importorskip("rnn_gpu.onnx")
    refuses(
        UnsupportedError,
        r"^zoneout is \(0.3, 0.1\)",
        lambda: onnx.export(network(), tmp_path / "model.onnx"),
    )


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param({"recurrent_dropout": 0.2}, marks=pytest.mark.slow),
        {"recurrent_dropout": 0.2, "zoneout": 0.1},
    ],
    ids=["dropout", "both"],
)
@pytest.mark.parametrize("kind", [LSTM, pytest.param(GRU, marks=pytest.mark.slow)])
def test_the_plan_knows_of_noise(kind, noise, monkeypatch):
    monkeypatch.setattr(pool, "LASTING", sys.maxsize)
    net = Network(
        [kind(8, 32, device="cpu", **noise), Dense(32, 3, device="cpu")],
        loss="softmax_cross_entropy",
    )
    x = [np.random.default_rng(i).normal(size=(500, 8)).astype("float32") for i in range(4)]
    samples = training.Samples(net, x, [np.zeros(500, int)] * 4)
    training.forward_backward(net, samples.batch(range(4)))
    net.remember(None)
    measured = peak(lambda: training.forward_backward(net, samples.batch(range(4))))
    assert net.plan(500, 4).bytes == pytest.approx(measured, rel=0.1)
