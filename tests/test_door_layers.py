"""lengths, states, dy and the order of calls: a bad one is refused by name and changes nothing, an
odd but good one does its work.
"""

import numpy as np
import pytest

from door import (
    DOORS,
    REFERENCE,
    STATELESS,
    B,
    H,
    K,
    M,
    N,
    T,
    X,
    but,
    draw,
    network,
    parameters_of,
    refuses,
    results,
    rnn,
    same,
    table,
    way_back,
)
from rnn_gpu import (
    LSTM,
    RNN,
    ArgumentError,
    Dense,
    DtypeError,
    Network,
    OrderError,
    Recurrent,
    ShapeError,
)

# lengths


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    table(
        ("longer than x", [5, 6, 1], ArgumentError, r"lengths\[1\] is 6, expected 1\.\.5"),
        ("zero", [5, 5, 0], ArgumentError, r"lengths\[2\] is 0, expected 1\.\.5"),
        ("negative", [-1, 5, 5], ArgumentError, r"lengths\[0\] is -1, expected 1\.\.5"),
        (
            "beyond int64",
            np.array([1, 2**64 - 1, 1], "uint64"),
            ArgumentError,
            r"lengths\[1\] is 18446744073709551615",
        ),
        ("too few", [5, 5], ShapeError, r"lengths has shape \(2,\), expected \(3,\)"),
        ("one number", 5, ShapeError, r"lengths has shape \(\), expected \(3,\)"),
        (
            "a column",
            np.ones((3, 1), int),
            ShapeError,
            r"lengths has shape \(3, 1\), expected \(3,\)",
        ),
        ("float", [5.0, 5.0, 1.0], DtypeError, "lengths is float64, expected integers"),
        ("bool", [True, True, True], DtypeError, "lengths is bool, expected integers"),
        ("strings", ["5", "5", "1"], DtypeError, "lengths is <U1, expected integers"),
        ("None among them", [5, None, 1], DtypeError, "lengths is object, expected integers"),
        (
            "ragged",
            [[1], [1, 2], [1]],
            ShapeError,
            "lengths cannot be made an array.*inhomogeneous",
        ),
        (
            "a dict",
            {0: 5},
            ArgumentError,
            "lengths is a dict, expected an array, or lists of numbers",
        ),
    ),
)
def test_lengths_are_refused(door, lengths, error, message):
    refuses(error, f"^{message}", lambda: door(X, lengths=lengths))


def test_rows_have_no_lengths():
    rows = Network([Dense(M, K, **REFERENCE)])
    refuses(
        ArgumentError,
        "^lengths is given, but .* no recurrent layer",
        lambda: rows(X[0], lengths=[1, 1, 1]),
    )


@pytest.mark.parametrize(
    "lengths",
    [(5, 1, 3), np.array([5, 1, 3], "uint8"), np.array([5, 1, 3], "int16"), [np.int64(5), 1, 3]],
    ids=["tuple", "uint8", "int16", "mixed"],
)
def test_lengths_of_any_integer_kind(door, lengths):
    dy = np.ones_like(door(X)[0])
    same(results(door, X, dy, lengths=lengths), results(door, X, dy, lengths=[5, 1, 3]))


def test_full_lengths_are_none(model):
    dy = np.ones_like(model(X)[0])
    same(results(model, X, dy, lengths=[T] * B), results(model, X, dy))


@pytest.mark.parametrize("number", [np.nan, np.inf, 3e38])
def test_what_x_holds_beyond_lengths_is_ignored(model, number):
    dy, lengths = np.ones_like(model(X)[0]), [5, 1, 3]
    expected = results(model, X, dy, lengths=lengths)
    x = X.copy()
    x[np.arange(T)[:, None] >= lengths] = number
    same(results(model, x, dy, lengths=lengths), expected)
    assert all(np.isfinite(a).all() for a in expected.values())


@pytest.mark.parametrize("number", [np.nan, np.inf, 3e38])
def test_what_dy_holds_beyond_lengths_is_ignored(model, number):
    dy, lengths = np.ones_like(model(X)[0]), [5, 1, 3]
    expected = results(model, X, dy, lengths=lengths)
    dy[np.arange(T)[:, None] >= lengths] = number
    same(
        way_back(model, dy),
        {name: a for name, a in expected.items() if name != "y" and not name.startswith("last")},
    )


# States and gradients


@pytest.mark.parametrize(
    ("state", "error", "message"),
    table(
        ("units", draw(B, 7), ShapeError, r"state has shape \(3, 7\), expected 6 on axis 1"),
        ("samples", draw(4, N), ShapeError, r"state has shape \(4, 6\), expected 3 on axis 0"),
        ("torch's rank", H[None], ShapeError, r"state has shape \(1, 3, 6\), expected 2 axes"),
        ("a pair", (H, H), ShapeError, r"state has shape \(2, 3, 6\), expected 2 axes"),
        ("a number", 0, ShapeError, r"state has shape \(\), expected 2 axes"),
        (
            "float64",
            H.astype("float64"),
            DtypeError,
            "state is float64, but this was built for float32",
        ),
        ("integers", np.zeros((B, N), int), DtypeError, "state is int64"),
        ("a string", "zero", ArgumentError, "state is 'zero', expected an array"),
        ("a dict", {}, ArgumentError, "state is a dict, expected an array"),
        (
            "NaN",
            but(H, (1, 2), np.nan),
            ArgumentError,
            r"state is nan at \(1, 2\), expected finite",
        ),
    ),
)
def test_a_state_is_refused(state, error, message):
    refuses_state(rnn(), state, error, message)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    table(
        ("one array", H, ShapeError, "state is a ndarray, expected a tuple of 2 arrays"),
        ("stacked", np.stack([H, H]), ShapeError, "state is a ndarray, expected a tuple of 2"),
        ("a string", "hc", ShapeError, "state is 'hc', expected a tuple of 2"),
        ("a number", 0, ShapeError, "state is 0, expected a tuple of 2"),
        ("three", (H, H, H), ShapeError, "state is a tuple of 3, expected a tuple of 2 arrays"),
        ("a dict", {"h": H, "c": H}, ShapeError, "state is a dict, expected a tuple of 2 arrays"),
        (
            "units of c",
            (H, draw(B, 7)),
            ShapeError,
            r"state\[1\] has shape \(3, 7\), expected 6 on axis 1",
        ),
        ("dtype of h", (H.astype("float64"), H), DtypeError, r"state\[0\] is float64"),
        ("no c", (H, None), ArgumentError, r"state\[1\] is None, expected an array"),
        (
            "infinity in c",
            (H, but(H, (0, 5), np.inf)),
            ArgumentError,
            r"state\[1\] is inf at \(0, 5\)",
        ),
    ),
)
def test_a_pair_of_states_is_refused(state, error, message):
    refuses_state(LSTM(M, N, **REFERENCE), state, error, message)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    table(
        ("not a list", H, ShapeError, "state is a ndarray, expected a list of 1"),
        (
            "too many",
            [H, H],
            ShapeError,
            "state is a list of 2, expected a list of 1: one a recurrent layer",
        ),
        ("units", [draw(B, 7)], ShapeError, r"state\[0\] has shape \(3, 7\), expected 6 on axis 1"),
        ("float64", [H.astype("float64")], DtypeError, r"state\[0\] is float64"),
        ("NaN", [but(H, (2, 0), np.nan)], ArgumentError, r"state\[0\] is nan at \(2, 0\)"),
    ),
)
def test_the_states_of_a_network_are_refused(state, error, message):
    refuses_state(network(), state, error, message)


def refuses_state(model, state, error, message):
    refuses(error, f"^{message}", lambda: model(X, state))
    y, _ = model(X)
    refuses(error, f"^d{message}", lambda: model.backward(y, state))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    table(
        ("rank", lambda y: y[0], ShapeError, r"dy has shape \(3, \d\), expected 3 axes"),
        (
            "time steps",
            lambda y: y[:4],
            ShapeError,
            r"dy has shape \(4, 3, \d\), expected 5 on axis 0",
        ),
        (
            "samples",
            lambda y: y[:, :1],
            ShapeError,
            r"dy has shape \(5, 1, \d\), expected 3 on axis 1",
        ),
        (
            "units",
            lambda y: y[..., :1],
            ShapeError,
            r"dy has shape \(5, 3, 1\), expected \d on axis 2",
        ),
        ("a number", lambda y: 1.0, ShapeError, r"dy has shape \(\), expected 3 axes"),
        (
            "float64",
            lambda y: y.astype("float64"),
            DtypeError,
            "dy is float64, but this was built for float32",
        ),
        ("integers", lambda y: y.astype(int), DtypeError, "dy is int64"),
        ("a string", lambda y: "ones", ArgumentError, "dy is 'ones', expected an array"),
        (
            "NaN",
            lambda y: but(y, (4, 2, 0), np.nan),
            ArgumentError,
            r"dy is nan at \(4, 2, 0\), expected finite",
        ),
    ),
)
def test_dy_is_refused(door, change, error, message):
    y, _ = door(X)
    refuses(error, f"^{message}", lambda: door.backward(change(y)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    table(
        ("rank", lambda y: y[0], ShapeError, r"dy has shape \(3, \d\), expected 3 axes"),
        (
            "units",
            lambda y: y[..., :1],
            ShapeError,
            r"dy has shape \(5, 3, 1\), expected \d on axis 2",
        ),
        ("float64", lambda y: y.astype("float64"), DtypeError, "dy is float64"),
        ("NaN", lambda y: but(y, (4, 2, 0), np.nan), ArgumentError, r"dy is nan at \(4, 2, 0\)"),
    ),
)
@pytest.mark.parametrize("build", STATELESS.values(), ids=STATELESS)
def test_stateless_layers_refuse_dy(build, change, error, message):
    layer = build()
    y = layer(X)
    refuses(error, f"^{message}", lambda: layer.backward(change(y)))


@pytest.mark.parametrize("kind", [RNN, LSTM], ids=["one state", "two states"])
def test_none_is_zero(kind):
    layer = kind(M, N, **REFERENCE)
    zero = (np.zeros_like(H), np.zeros_like(H)) if kind is LSTM else np.zeros_like(H)
    dstate = (H, H) if kind is LSTM else H
    y, _ = layer(X)
    same(results(layer, X, y), results(layer, X, y, zero, zero))
    same(way_back(layer, None, dstate), way_back(layer, np.zeros_like(y), dstate))
    same(way_back(layer, None, None), way_back(layer, np.zeros_like(y), zero))


# Order


@pytest.mark.parametrize("build", (DOORS | STATELESS).values(), ids=DOORS | STATELESS)
def test_backward_before_forward(build):
    model = build()
    refuses(
        OrderError, f"^{type(model).__name__}: backward before forward", lambda: model.backward(X)
    )


def test_delta_before_backward():
    layer = LSTM(M, N, **REFERENCE)
    refuses(OrderError, "forward", lambda: layer.delta)
    layer(X)
    refuses(OrderError, "delta is known after backward", lambda: layer.delta)


def test_a_network_does_not_go_back_after_fit():
    net = network()
    y, _ = net(X)
    net.fit([draw(2, M)], np.zeros((1, 2, K), "float32"), epochs=1, progress=False)
    refuses(
        OrderError, "^Network: backward before forward; call it on x first", lambda: net.backward(y)
    )


def test_a_network_goes_back_whatever_its_layers_did_in_between():
    net = network()
    y, _ = net(X)
    expected = way_back(net, y)
    net(X)
    net.layers[1](draw(7, N))
    net.layers[0](draw(2, 1, M))
    same(way_back(net, y), expected)


def test_a_dense_layer_goes_backward_after_its_network_went_forward():
    net = network()
    y, _ = net(X)
    net.backward(y)
    expected = net.layers[1].grads["V"].copy()
    net.layers[1].backward(y)
    same(net.layers[1].grads["V"], expected)


def test_an_error_leaves_everything_as_it_was(model):
    y, _ = model(X)
    expected, θ = way_back(model, y), parameters_of(model)
    wrong = [
        lambda: model(X[0]),
        lambda: model(but(X, (0, 0, 0), np.nan)),
        lambda: model(X, lengths=[T + 1] * B),
        lambda: model(X[:2], state="zero"),
        lambda: model.backward(y[:2]),
        lambda: model.backward(but(y, (0, 0, 0), np.nan)),
        lambda: model.backward(2 * y, "zero"),
    ]
    for call in wrong:
        with pytest.raises(ArgumentError):
            call()
    same(
        {f"d{name}": model.backend.numpy(a) for name, a in model.grads.items()},
        {f"d{name}": expected[f"d{name}"] for name in θ},
    )
    same(way_back(model, y), expected)
    same(parameters_of(model), θ)


# batch_first


@pytest.mark.parametrize("lengths", [None, [3, 5, 1]], ids=["full", "ragged"])
def test_batch_first_is_time_major_transposed(cell, lengths):
    first, major = (
        Recurrent(cell, M, N, batch_first=value, **REFERENCE) for value in (True, False)
    )
    dy = draw(T, B, N)
    state, dstate = (tuple(draw(B, N) for _ in range(cell.states)) for _ in range(2))
    if cell.states == 1:
        (state,), (dstate,) = state, dstate
    got = results(first, X.swapaxes(0, 1), dy.swapaxes(0, 1), state, dstate, lengths)
    got |= {name: got[name].swapaxes(0, 1) for name in ("y", "dx")}
    same(got, results(major, X, dy, state, dstate, lengths))


def test_batch_first_takes_symbols():
    symbols = np.array([[0, 3, 1, 2], [2, 2, 0, 1]])
    first, major = (LSTM(M, N, batch_first=value, **REFERENCE) for value in (True, False))
    same(first(symbols)[0].swapaxes(0, 1), major(symbols.T)[0])


XB, YB = X.swapaxes(0, 1), draw(B, T, N)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        (
            "features",
            lambda layer: layer(XB[..., :1]),
            ShapeError,
            r"x has shape \(3, 5, 1\), expected 4 on axis 2 of \(B, T, m=4\)",
        ),
        (
            "lengths",
            lambda layer: layer(XB, lengths=[1] * T),
            ShapeError,
            r"lengths has shape \(5,\), expected \(3,\)",
        ),
        (
            "dy",
            lambda layer: layer.backward(draw(T, B, N)),
            ShapeError,
            r"dy has shape \(5, 3, 6\), expected 3 on axis 0 of \(B, T, n\)",
        ),
        (
            "NaN in x",
            lambda layer: layer(but(XB, (2, 4, 1), np.nan)),
            ArgumentError,
            r"x is nan at \(2, 4, 1\)",
        ),
        (
            "NaN in dy",
            lambda layer: layer.backward(but(YB, (2, 4, 1), np.nan)),
            ArgumentError,
            r"dy is nan at \(2, 4, 1\)",
        ),
    ),
)
def test_batch_first_speaks_of_its_own_axes(call, error, message):
    layer = rnn(batch_first=True)
    layer(XB)
    refuses(error, f"^{message}", lambda: call(layer))
