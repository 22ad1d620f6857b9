"""memory_budget: the same gradient from segments that are computed twice, within the bytes that
`plan` said before.
"""

import sys

import numpy as np
import pytest

from conftest import close
from door import named, parameters_of, refuses, same, table
from measuring import peak
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Bidirectional,
    Dense,
    Dropout,
    Network,
    NonFiniteError,
    training,
)
from rnn_gpu.device import resolve
from rnn_gpu.kernels import Sums
from rnn_gpu.kernels.devices import reference
from rnn_gpu.kernels.devices.cpu import memory as pool
from rnn_gpu.network import memory

T, B = 13, 3


def network(device="reference", dtype="float64", loss="squared_error", noise=(), **options):
    on = {"device": device, "dtype": dtype}
    layers = [
        LSTM(4, 5, **on, **dict(noise)),
        Dropout(0.3, **on),
        GRU(5, 3, **on),
        Dropout(0.3, variational=True, **on),
        Dense(3, 2, **on),
    ]
    return Network(layers, loss=loss, **options)


def data(dtype="float64", lengths=(13, 5, 9), m=4, steps="every"):
    rng = np.random.default_rng(0)
    y = [
        rng.normal(size=(length, 2) if steps == "every" else 2).astype(dtype) for length in lengths
    ]
    return [rng.normal(size=(length, m)).astype(dtype) for length in lengths], y


def outcome(net, batch, segment):
    made = training.forward_backward(net, batch, training.Ways(segment=segment))
    number = net.backend.numpy
    return {"E": np.array(made.loss), "o": number(made.o)} | {
        name: number(g).copy() for name, g in net.grads.items()
    }, net.layers[1].passes


@pytest.fixture
def chunks_of_four(device, monkeypatch):
    monkeypatch.setitem(resolve(device).chunk.__globals__, "CHUNK_ROWS", 4 * B + 1)


@pytest.mark.parametrize("steps", ["every", "last"])
@pytest.mark.parametrize("segment", [4, 8, 16])
def test_segments_give_the_bits_of_the_whole(segment, steps, device, dtype, chunks_of_four):
    """Gradients, outputs and the loss; Dropout's masks are those of one pass."""
    x, y = data(dtype, steps=steps)
    net, other = network(device, dtype, steps=steps), network(device, dtype, steps=steps)
    expected, passes = outcome(net, training.Samples(net, x, y).batch(range(B)), None)
    got, again = outcome(other, training.Samples(other, x, y).batch(range(B)), segment)
    assert again == passes == 1
    same(got, expected)


@pytest.mark.parametrize("b", [1, 9, 300])
def test_sums_over_time_go_on_where_later_steps_stopped(b, device, dtype):
    """In whole chunks, however many rows a step has; the first may be short."""
    d, rng = resolve(device), np.random.default_rng(0)
    C = d.chunk(b)
    T = 2 * C + C // 2 + 1
    δ, a, U = (
        d.array(rng.normal(size=shape), dtype) for shape in ((T, b, 2, 7), (T, b, 5), (14, 5))
    )
    product, total = None, None
    for part in (slice(T - C, T), slice(T - 2 * C, T - C), slice(0, T - 2 * C)):
        _, product, total = d.project_back(δ[part], a[part], U, Sums(product, total))
    _, whole_product, whole_total = d.project_back(δ, a, U)
    same(d.numpy(product), d.numpy(whole_product))
    same(d.numpy(total), d.numpy(whole_total))
    δ, a = (d.numpy(one).astype("float64") for one in (δ, a))
    close(d.numpy(product), np.einsum("tbgn,tbm->gnm", δ, a).reshape(14, 5), dtype)
    close(d.numpy(total), δ.sum((0, 1)).reshape(14), dtype)


def call(net, x, dy, dstate=None, clip=None, **options):
    """All that a call and its way back give."""
    taken = options.get("reset_state") is not None
    y, states = net(x, **options)
    dx, ds = net.backward(dy, dstate, clip_step_norm=clip)
    got = (
        {"y": y}
        | named("s", states)
        | {"dx": dx}
        | named("ds", ds)
        | {"clipped": np.array(net.clipped_steps)}
        | (named("dgiven", net.dreset_state) if taken else {})
    )
    return got | {name: net.backend.numpy(g).copy() for name, g in net.grads.items()}


@pytest.mark.parametrize("how", ["plain", "mask", "training", "clip"])
def test_backward_within_a_budget_gives_the_bits_of_the_whole(how, device, chunks_of_four):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(T, B, 4)), rng.normal(size=(T, B, 2))
    state = [(rng.normal(size=(B, 5)), rng.normal(size=(B, 5))), rng.normal(size=(B, 3))]
    dstate = [(rng.normal(size=(B, 5)), rng.normal(size=(B, 5))), rng.normal(size=(B, 3))]
    options = {
        "state": state,
        "dstate": dstate,
        "training": how == "training",
        "clip": 0.5 if how == "clip" else None,
    }
    if how == "mask":
        options |= {"mask": rng.random((T, B)) < 0.7, "lengths": [13, 5, 9]}
    net, other = network(device), network(device)
    least = net.plan(T, B, ragged=how == "mask", inputs=True).bytes - 1
    expected = call(net, x, dy, **options)
    got = call(other, x, dy, **options, memory_budget=least)
    same(got, expected)
    assert (got["clipped"] > 0) == (how == "clip") and other.layers[1].passes == net.layers[
        1
    ].passes
    again, _ = other.backward(dy, dstate, clip_step_norm=options["clip"])
    same(again, expected["dx"])  # the layers remember nothing of a segment
    assert all(layer._last.tape is None for layer in other.layers)


NOISE = {"recurrent_dropout": 0.3, "zoneout": 0.2}


@pytest.mark.parametrize("noise", [{}, NOISE], ids=["plain", "noisy"])
def test_segments_go_on_from_given_states(noise, device, chunks_of_four):
    """Within, and with the first step of some; what arrives there is of all steps."""
    rng = np.random.default_rng(0)
    x, dy, begins = rng.normal(size=(T, B, 4)), rng.normal(size=(T, B, 2)), rng.random((T, B)) < 0.3
    begins[::3] = np.eye(-(-T // 3), B, dtype=bool)  # T is cut before step 5
    begins[5] = [False, True, False]
    h, c, g, dh, dc, dg = (rng.normal(size=(T, B, n)) for n in (5, 5, 3, 5, 5, 3))
    options = {"resets": begins, "reset_state": [(h, c), g], "lengths": [13, 8, 9]}
    options |= {"dstate": [(dh[0], dc[0]), dg[0]], "training": bool(noise)}
    net, other = network(device, noise=noise), network(device, noise=noise)
    least = net.plan(T, B, ragged=True, inputs=True, reset_state=True).bytes - 1
    expected = call(net, x, dy, **options)
    same(call(other, x, dy, **options, memory_budget=least), expected)
    (dh, _), dg = other.dreset_state
    assert dh[5, 1].any() and dg[5, 1].any() and not dh[~begins].any()
    same(other.layers[0].dreset_state[0], dh)
    bytes = net.plan(T, B, inputs=True, reset_state=True).bytes
    assert bytes > net.plan(T, B, inputs=True).bytes


NETWORKS = {
    "LSTM": ([LSTM, Dense], (8, 32, 3)),
    "GRUs": ([GRU, GRU, Dense], (5, 16, 24, 10)),
    "RNN": ([RNN, Dense], (20, 64, 2)),
}


@pytest.mark.parametrize("share", [1.0, 0.6, 0.4])
@pytest.mark.parametrize(
    ("kinds", "sizes"),
    [
        pytest.param(*network, id=name, marks=[pytest.mark.slow] * (name != "RNN"))
        for name, network in NETWORKS.items()
    ],
)
def test_the_plan_is_right_to_ten_percent(kinds, sizes, share, monkeypatch):
    monkeypatch.setattr(pool, "LASTING", sys.maxsize)  # memory that is used again is not seen
    T, B = 700, 4
    layers = [kind(m, n, device="cpu") for kind, m, n in zip(kinds, sizes, sizes[1:], strict=False)]
    net = Network(layers, loss="softmax_cross_entropy")
    allowed = int(share * net.plan(T, B).bytes)
    planned = net.plan(T, B, allowed)
    assert planned.bytes <= allowed and (planned.extra == 0) == (share == 1) == (
        planned.segment == T
    )
    x = [
        np.random.default_rng(i).normal(size=(T, net.input_size)).astype("float32")
        for i in range(B)
    ]
    samples = training.Samples(net, x, [np.zeros(T, int)] * B)
    # compiles, and leaves gradients
    ways = training.Ways(segment=planned.cut)
    training.forward_backward(net, samples.batch(range(B)), ways)
    net.remember(None)
    measured = peak(lambda: training.forward_backward(net, samples.batch(range(B)), ways))
    assert planned.bytes == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("given", [False, True], ids=["plain", "reset_state"])
def test_the_plan_of_a_call_is_right_to_ten_percent(given, monkeypatch):
    monkeypatch.setattr(pool, "LASTING", sys.maxsize)
    T, B = 3000, 4
    net = Network([LSTM(8, 32, device="cpu"), Dense(32, 3, device="cpu")])
    x, dy, h = (np.ones((T, B, size), "float32") for size in (8, 3, 32))
    options = {"resets": np.arange(T * B).reshape(T, B) % 50 == 7, "reset_state": [(h, h)]}
    options, told = options if given else {}, {"inputs": True, "reset_state": given}
    for share in (1.0, 0.6 if given else 0.4):
        planned = net.plan(T, B, int(share * net.plan(T, B, **told).bytes), **told)
        assert (planned.extra == 0) == (share == 1)
        options["memory_budget"] = planned.bytes
        call(net, x, dy, **options)
        net.remember(None)
        measured = peak(lambda options=options: (net(x, **options), net.backward(dy)))
        assert planned.bytes == pytest.approx(measured, rel=0.1)


def test_fit_within_a_budget_trains_as_without(device, monkeypatch):
    monkeypatch.setitem(resolve(device).chunk.__globals__, "CHUNK_ROWS", 8)

    def train(**options):
        net, (x, y) = network(device), data(lengths=(13, 5, 9, 13))
        history = net.fit(x, y, epochs=2, batch_size=2, progress=False, **options)
        return history["step_loss"], parameters_of(net)

    budget = (
        network(device).plan(13, 2, ragged=True).bytes
        + network(device).plan(9, 2, ragged=True).bytes
    ) // 2
    (free, θ), (within, other) = train(), train(memory_budget=budget)
    assert within == free
    same(other, θ)


@pytest.mark.parametrize("T", [70_000, 200_000])
def test_a_call_and_its_way_back_on_very_many_steps_have_the_bits_of_the_whole(T):
    net = Network([LSTM(1, 5, device="cpu"), Dense(5, 1, device="cpu")])
    x, dy = np.random.default_rng(0).normal(size=(2, T, 1, 1)).astype("float32")
    budget = net.plan(T, 1, inputs=True).bytes // 4
    assert net.plan(T, 1, budget, inputs=True).segment < T // 4
    same(call(net, x, dy, memory_budget=budget), call(net, x, dy))


def test_two_hundred_thousand_steps_run_in_a_third_of_the_memory():
    T = 200_000
    net = Network([RNN(1, 13, device="cpu"), Dense(13, 1, device="cpu")], steps="last")
    x = [np.random.default_rng(0).normal(size=(T, 1)).astype("float32")]
    planned = net.plan(T, 1, "15MB")
    assert net.plan(T, 1).bytes > 35e6 and planned.segment < T // 3
    history = net.fit(x, [[1.0]], epochs=1, memory_budget="15MB", progress=False)
    assert len(history["step_loss"]) == 1 and np.isfinite(history["gradient_norm"]).all()


def test_what_is_not_finite_stops_before_the_update(monkeypatch):
    monkeypatch.setattr(reference, "CHUNK_ROWS", 12)
    net, (x, y) = network(), data()
    y[1][2] = 1e200
    before = parameters_of(net)
    with pytest.raises(
        NonFiniteError,
        match=r"update 0: the loss is inf, or a gradient is not finite .*No weight has changed",
    ):
        net.fit(
            x, y, epochs=1, memory_budget=net.plan(13, 3, ragged=True).bytes - 1, progress=False
        )
    assert all((a == before[name]).all() for name, a in parameters_of(net).items())
    o = np.zeros((3, 2, 4))
    o[1:, 1, 2] = np.nan
    assert memory.first_bad(o, np.nan) == "the network gives nan at time step 1, sample 1, output 2"


X, Y = data()
BOTH = Network([Bidirectional(RNN(4, 5, device="reference"))])


@pytest.mark.parametrize(
    ("call", "message"),
    table(
        (
            "too small",
            lambda net: net.plan(9, 1, "1KB"),
            r"memory_budget is '1KB', but T = 9 steps of 1 samples need at least \d+ bytes",
        ),
        (
            "fit",
            lambda net: net.fit(X, Y, memory_budget="1KB"),
            "memory_budget is '1KB', but T = 13 steps of 3 samples need",
        ),
        (
            "truncate",
            lambda net: net.fit(X, Y, memory_budget="1MB", truncate=(2, 2)),
            "memory_budget is given, and truncate",
        ),
        (
            "watch",
            lambda net: net.fit(X, Y, memory_budget="1MB", watch=print),
            "memory_budget is given, and watch",
        ),
        (
            "reverse",
            lambda net: Network([Bidirectional(RNN(4, 5, device="cpu"))]).plan(9, 1, 500),
            "memory_budget is 500, which needs segments",
        ),
        ("T", lambda net: net.plan(0, 1), "T is 0, expected an integer"),
        (
            "call",
            lambda net: net(np.ones((9, 1, 4)), memory_budget="1KB"),
            "memory_budget is '1KB', but T = 9 steps of 1 samples need",
        ),
        (
            "resets",
            lambda net: long(net, resets=np.ones((300, 1), bool)),
            "memory_budget needs segments, and resets is given",
        ),
        (
            "resets of a layer",
            lambda net: long(
                net,
                T=3000,
                resets=np.ones((3000, 1), bool),
                reset_state=[None, np.ones((3000, 1, 3))],
            ),
            "memory_budget needs segments, and resets is given: .* its reset_state",
        ),
        (
            "tape",
            lambda net: (long(net), net.backward(np.ones((300, 1, 2)), tape=True)),
            "tape is True, but the network was called with",
        ),
    ),
)
def test_a_budget_that_cannot_be_kept_is_refused(call, message):
    refuses(ArgumentError, f"^{message}", lambda: call(network()))


def long(net, T=300, **options):
    planned = net.plan(T, 1, inputs=True, reset_state="reset_state" in options)
    net(np.ones((T, 1, 4)), memory_budget=planned.bytes - 1, **options)


def test_budgets_are_bytes_or_words():
    assert [memory.budget(b) for b in (7, "7B", "2KB", "1.5 MB", "2GB")] == [
        7,
        7,
        2000,
        1_500_000,
        2_000_000_000,
    ]
