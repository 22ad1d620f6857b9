"""Bad input gives an error that names the argument and says what came, and changes nothing; odd but good input the right result.

A row with a fifth entry is a bug of the library that is known: strict, so that whoever mends it takes the entry away.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Dense,
    DeviceError,
    Dropout,
    DtypeError,
    Embedding,
    Network,
    NonFiniteError,
    OrderError,
    Recurrent,
    ShapeError,
    optimizers,
)

T, B, M, N, K = 5, 3, 4, 6, 2  # all different, so that a message cannot name the wrong one
REFERENCE = {"device": "reference"}
RNG = np.random.default_rng(0)


def draw(*shape, dtype="float32"):
    return RNG.normal(size=shape).astype(dtype)


def but(a, place, value):
    """a with another value at one place."""
    a = a.copy()
    a[place] = value
    return a


def known(bug):
    return pytest.mark.xfail(strict=True, reason=bug)


def table(*rows):
    """(name, value, error, message): the value is refused with exactly this error, and the message says this."""
    return [pytest.param(*row[1:4], id=row[0], marks=[known(bug) for bug in row[4:]]) for row in rows]


def refuses(error, message, call):
    with pytest.raises(error, match=message) as caught:
        call()
    assert caught.type is error


def network(**options):
    return Network([RNN(M, N, **REFERENCE), Dense(N, K, **REFERENCE)], **options)


X = draw(T, B, M)
H = draw(B, N)
DOORS = {
    "RNN": lambda: RNN(M, N, **REFERENCE),
    "LSTM": lambda: LSTM(M, N, **REFERENCE),
    "GRU": lambda: GRU(M, N, **REFERENCE),
    "Recurrent": lambda: Recurrent("elman_elu", M, N, **REFERENCE),
    "Network": network,
}


@pytest.fixture(params=DOORS.values(), ids=DOORS)
def door(request):
    """A recurrent layer of each kind, and a network of two layers."""
    return request.param()


def results(model, x, dy, state=None, dstate=None, lengths=None):
    """Everything one pass forward and back gives, by name, as NumPy arrays."""
    y, last = model(x, state, lengths)
    return {"y": y} | named("last", last) | way_back(model, dy, dstate)


def way_back(model, dy, dstate=None):
    dx, first = model.backward(dy, dstate)
    return {"dx": dx} | named("first", first) | {f"d{name}": model._device.numpy(a) for name, a in model.grads.items()}


def named(name, states):
    if not isinstance(states, (list, tuple)):
        return {name: states}
    return {key: a for i, part in enumerate(states) for key, a in named(f"{name}[{i}]", part).items()}


def parameters_of(model):
    return {name: model._device.numpy(a).copy() for name, a in model.parameters.items()}


def same(got, expected):
    """Assert that two dicts of arrays, or two arrays, are bitwise the same."""
    if not isinstance(expected, dict):
        got, expected = {"it": got}, {"it": expected}
    assert list(got) == list(expected)
    for name, a in expected.items():
        assert type(got[name]) is type(a) and got[name].dtype == a.dtype, name
        assert np.array_equal(got[name], a), name


# x


@pytest.mark.parametrize(
    ("x", "error", "message"),
    table(
        ("rank 2", X[0], ShapeError, r"x has shape \(3, 4\), expected 3 axes"),
        ("rank 4", X[None], ShapeError, r"x has shape \(1, 5, 3, 4\), expected 3 axes"),
        ("a number", 1.5, ShapeError, r"x has shape \(\), expected 3 axes"),
        ("too few features", X[..., :2], ShapeError, r"x has shape \(5, 3, 2\), expected 4 on axis 2"),
        ("no time steps", X[:0], ShapeError, r"x has shape \(0, 3, 4\).*empty"),
        ("no samples", X[:, :0], ShapeError, r"x has shape \(5, 0, 4\).*empty"),
        ("no symbols", np.zeros((0, B), int), ShapeError, r"x has shape \(0, 3\).*empty"),
        ("nothing", [], ShapeError, r"x has shape \(0,\)"),
        ("ragged lists", [[[1.0] * M], [[1.0] * M] * 2], ShapeError, "x cannot be made an array.*inhomogeneous"),
        ("float64", X.astype("float64"), DtypeError, "x is float64, but this was built for float32"),
        ("float16", X.astype("float16"), DtypeError, "x is float16, but this was built for float32"),
        ("the other byte order", X.astype(X.dtype.newbyteorder()), DtypeError, "x is [<>]f4"),
        ("integers of rank 3", X.astype(int), ShapeError, r"x has shape \(5, 3, 4\) and integers, expected 2 axes"),
        ("integers of rank 1", np.arange(M), ShapeError, r"x has shape \(4,\) and integers, expected 2 axes"),
        ("a symbol too large", np.array([[0, 1, M]]), ArgumentError, r"x has the symbol 4, expected 0\.\.3"),
        ("a negative symbol", np.array([[0, -1, 2]], "int8"), ArgumentError, r"x has the symbol -1, expected 0\.\.3"),
        ("a symbol beyond 2⁶³", np.array([[2**63 + 1]], "uint64"), ArgumentError, "x has the symbol 9223372036854775809"),
        ("bool", X > 0, DtypeError, "x is bool"),
        ("bool of rank 2", X[0] > 0, DtypeError, "x is bool"),
        ("complex", X.astype("complex64"), DtypeError, "x is complex64"),
        ("objects", X.astype(object), DtypeError, "x is object"),
        ("strings", X.astype(str), DtypeError, "x is <U"),
        ("a string", "abc", DtypeError, "x is <U3"),
        ("None", None, DtypeError, "x is object"),
        ("a generator", (row for row in X), DtypeError, "x is object"),
        ("NaN", but(X, (2, 1, 3), np.nan), ArgumentError, r"x is nan at \(2, 1, 3\), expected finite"),
        ("infinity", but(X, (4, 0, 1), -np.inf), ArgumentError, r"x is -inf at \(4, 0, 1\), expected finite"),
        ("a mask", np.ma.masked_array(X, X > 1), ArgumentError, "x .*mask", "the mask of a masked array is ignored"),
    ),
)
def test_x_is_refused(door, x, error, message):
    refuses(error, message, lambda: door(x))


@pytest.mark.parametrize(
    "x",
    [
        X.astype("float16"),
        X > 0,
        pytest.param(X.astype(X.dtype.newbyteorder()), marks=known("the message of a big-endian x says to build with the dtype that is")),
    ],
    ids=["float16", "bool", "the other byte order"],
)
def test_a_message_advises_no_dtype_that_would_not_help(x):
    with pytest.raises(DtypeError, match=r"^x is") as caught:
        RNN(M, N, **REFERENCE)(x)
    assert "build with" not in str(caught.value)


def test_a_message_advises_the_dtype_that_would_help():
    refuses(DtypeError, "^x is float64, .* build with dtype='float64'$", lambda: RNN(M, N, **REFERENCE)(X.astype("float64")))


@known("x is transposed before it is searched")
def test_the_place_of_a_nan_is_the_callers_with_batch_first():
    x = but(X.swapaxes(0, 1), (2, 4, 1), np.nan)
    refuses(ArgumentError, r"x is nan at \(2, 4, 1\)", lambda: RNN(M, N, batch_first=True, **REFERENCE)(x))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    table(
        ("rank 1", X[0, 0], ShapeError, r"x has shape \(4,\)"),
        ("rank 4", X[None], ShapeError, r"x has shape \(1, 5, 3, 4\)"),
        ("no samples", X[0, :0], ShapeError, r"x has shape \(0, 4\).*empty"),
        ("float64", X.astype("float64"), DtypeError, "x is float64, but this was built for float32"),
        ("integers", X.astype(int), DtypeError, "x is int64"),
        ("a string", "abc", DtypeError, "x is <U3"),
        ("ragged lists", [[1.0, 2.0], [1.0]], ShapeError, "x cannot be made an array"),
        ("NaN", but(X, (2, 1, 3), np.nan), ArgumentError, r"x is nan at \(2, 1, 3\)"),
    ),
)
@pytest.mark.parametrize("layer", [lambda: Dense(M, K, **REFERENCE), lambda: Dropout(0.5, **REFERENCE)], ids=["Dense", "Dropout"])
def test_stateless_layers_refuse_x(layer, x, error, message):
    refuses(error, message, lambda: layer()(x))


def test_dense_refuses_other_features():
    refuses(ShapeError, r"x has shape \(3, 2\), expected 4 on axis 1", lambda: Dense(M, K, **REFERENCE)(X[0, :, :2]))


def test_a_network_of_rows_refuses_sequences():
    refuses(ShapeError, r"x has shape \(5, 3, 4\), expected 2 axes", lambda: Network([Dense(M, K, **REFERENCE)])(X))


@pytest.mark.parametrize("kind", [list, tuple, lambda a: a.tolist()], ids=["list of arrays", "tuple of arrays", "nested lists"])
def test_lists_are_arrays(door, kind):
    dy = np.ones_like(door(X)[0])
    same(results(door, kind(X), kind(dy)), results(door, X, dy))


def test_nested_lists_keep_all_digits_of_float64():
    layer, x = RNN(M, N, dtype="float64", **REFERENCE), draw(T, B, M, dtype="float64")
    same(layer(x.tolist())[0], layer(x)[0])


@pytest.mark.parametrize("integers", ["int8", "uint8", "int32", "int64", "uint64"])
def test_integers_are_one_hot_vectors(door, integers):
    symbols = np.array([[0, 3, 1], [2, 2, 0], [1, 0, 3]], integers)
    vectors = np.eye(M, dtype="float32")[symbols.astype(int)]
    dy = np.ones_like(door(vectors)[0])
    same(results(door, symbols, dy), results(door, vectors, dy))


def test_nested_lists_of_integers_are_symbols_or_whole_numbers(door):
    symbols, whole = [[0, 3, 1], [2, 2, 0]], [[[0, 3, 1, -7]]]
    same(door(symbols)[0], door(np.array(symbols))[0])
    same(door(whole)[0], door(np.array(whole, "float32"))[0])


@known("DtypeError: Stateless.__call__ takes no integers, Network.__call__ none without recurrent layers")
@pytest.mark.parametrize("kind", [lambda layer: layer, lambda layer: lambda x: Network([layer])(x)[0]], ids=["Embedding", "Network"])
def test_an_embedding_takes_symbols_without_a_recurrent_layer(kind):
    layer = Embedding(M, N, **REFERENCE)
    same(kind(layer)(np.array([3, 0, 3])), layer.parameters["V"].T[[3, 0, 3]])


def frozen(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    memory = np.frombuffer(b"\0" + a.tobytes() + bytes(8), np.uint8)
    return np.ndarray(a.shape, a.dtype, memory, offset=1)


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "every other number": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "read-only": frozen,
    "not aligned": unaligned,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_memory_layout_gives_the_same_and_stays_as_it_is(device, layout):
    layer = LSTM(M, N, device=device)
    plain = {"x": X, "dy": draw(T, B, N), "state": (H, draw(B, N)), "dstate": (draw(B, N), draw(B, N)), "lengths": np.array([5, 1, 3])}
    odd = {name: tuple(map(layout, a)) if isinstance(a, tuple) else layout(a) for name, a in plain.items()}
    same(results(layer, **odd), results(layer, **plain))
    for name, a in plain.items():
        same(named(name, odd[name]), named(name, a))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("layer", [lambda: Dense(M, K, "tanh", **REFERENCE), lambda: Dropout(0, **REFERENCE)], ids=["Dense", "Dropout"])
def test_stateless_layers_take_any_memory_layout(layer, layout):
    one = layer()
    y = one(X)
    dx = one.backward(y)
    same({"y": one(layout(X)), "dx": one.backward(layout(y))}, {"y": y, "dx": dx})


def test_what_comes_out_is_the_callers_own(door):
    y, last = door(X)
    dy = np.ones_like(y)
    expected = way_back(door, dy)
    dx, first = door.backward(dy)
    for a in (y, dx, *named("last", last).values(), *named("first", first).values()):
        a[...] = np.nan
    same(way_back(door, dy), expected)


@known("the tape holds the caller's x itself, not a copy")
def test_x_may_be_overwritten_before_backward(door):
    x = X.copy()
    dy = np.ones_like(door(X)[0])
    expected = way_back(door, dy)
    door(x)
    x[...] = 0
    same(way_back(door, dy), expected)


# lengths


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    table(
        ("longer than x", [5, 6, 1], ArgumentError, r"lengths\[1\] is 6, expected 1\.\.5"),
        ("zero", [5, 5, 0], ArgumentError, r"lengths\[2\] is 0, expected 1\.\.5"),
        ("negative", [-1, 5, 5], ArgumentError, r"lengths\[0\] is -1, expected 1\.\.5"),
        ("beyond int64", np.array([1, 2**64 - 1, 1], "uint64"), ArgumentError, r"lengths\[1\] is 18446744073709551615"),
        ("too few", [5, 5], ShapeError, r"lengths has shape \(2,\), expected \(3,\)"),
        ("one number", 5, ShapeError, r"lengths has shape \(\), expected \(3,\)"),
        ("a column", np.ones((3, 1), int), ShapeError, r"lengths has shape \(3, 1\), expected \(3,\)"),
        ("float", [5.0, 5.0, 1.0], DtypeError, "lengths is float64, expected integers"),
        ("bool", [True, True, True], DtypeError, "lengths is bool, expected integers"),
        ("strings", ["5", "5", "1"], DtypeError, "lengths is <U1, expected integers"),
        ("None among them", [5, None, 1], DtypeError, "lengths is object, expected integers"),
        ("ragged", [[1], [1, 2], [1]], ShapeError, "lengths", "NumPy's own ValueError passes through check_lengths"),
        ("a dict", {0: 5}, ShapeError, "lengths", "a dict has .get, so check_lengths takes it for CuPy's array"),
    ),
)
def test_lengths_are_refused(door, lengths, error, message):
    refuses(error, message, lambda: door(X, lengths=lengths))


@known("lengths are ignored by a network without recurrent layers")
def test_rows_have_no_lengths():
    refuses(ArgumentError, "lengths", lambda: Network([Dense(M, K, **REFERENCE)])(X[0], lengths=[1, 1, 1]))


@pytest.mark.parametrize("lengths", [[1, 5, 3], [3, 1, 5], [5, 5, 1]], ids=str)
def test_lengths_in_any_order_are_runs_one_by_one(cell, lengths):
    layer = Recurrent(cell, M, N, dtype="float64", **REFERENCE)
    x, dy = draw(T, B, M, dtype="float64"), draw(T, B, N, dtype="float64")
    state, dstate = (tuple(draw(B, N, dtype="float64") for _ in range(cell.states)) for _ in range(2))
    one_or_all = (lambda parts: parts) if cell.states > 1 else (lambda parts: parts[0])
    together = results(layer, x, dy, one_or_all(state), one_or_all(dstate), lengths)
    summed = {}
    for b, length in enumerate(lengths):
        alone = [one_or_all(tuple(s[b : b + 1] for s in states)) for states in (state, dstate)]
        for name, a in results(layer, x[:length, b : b + 1], dy[:length, b : b + 1], *alone).items():
            if name in ("y", "dx"):
                close(together[name][:length, b : b + 1], a)
                assert (together[name][length:, b] == 0).all()
            elif name.startswith(("first", "last")):
                close(together[name][b : b + 1], a)
            else:
                summed[name] = summed.get(name, 0) + a
    assert list(summed) == [f"d{name}" for name in layer.parameters]
    for name, a in summed.items():
        close(together[name], a)


@pytest.mark.parametrize(
    "lengths",
    [(5, 1, 3), np.array([5, 1, 3], "uint8"), np.array([5, 1, 3], "int16"), [np.int64(5), 1, 3]],
    ids=["tuple", "uint8", "int16", "mixed"],
)
def test_lengths_of_any_integer_kind(door, lengths):
    dy = np.ones_like(door(X)[0])
    same(results(door, X, dy, lengths=lengths), results(door, X, dy, lengths=[5, 1, 3]))


def test_full_lengths_are_none(door):
    dy = np.ones_like(door(X)[0])
    same(results(door, X, dy, lengths=[T] * B), results(door, X, dy))


@pytest.mark.parametrize("number", [np.nan, np.inf, 3e38])
def test_what_x_holds_beyond_lengths_is_ignored(door, number):
    dy, lengths = np.ones_like(door(X)[0]), [5, 1, 3]
    expected = results(door, X, dy, lengths=lengths)
    x = X.copy()
    x[np.arange(T)[:, None] >= lengths] = number
    same(results(door, x, dy, lengths=lengths), expected)
    assert all(np.isfinite(a).all() for a in expected.values())


@pytest.mark.parametrize("number", [pytest.param(np.nan, marks=known("dy is searched for NaN beyond lengths too")), 3e38])
def test_what_dy_holds_beyond_lengths_is_ignored(door, number):
    dy, lengths = np.ones_like(door(X)[0]), [5, 1, 3]
    expected = results(door, X, dy, lengths=lengths)
    dy[np.arange(T)[:, None] >= lengths] = number
    same(way_back(door, dy), {name: a for name, a in expected.items() if name != "y" and not name.startswith("last")})


# States and gradients


@pytest.mark.parametrize(
    ("state", "error", "message"),
    table(
        ("units", draw(B, 7), ShapeError, r"state\w* has shape \(3, 7\), expected 6 on axis 1"),
        ("samples", draw(4, N), ShapeError, r"state\w* has shape \(4, 6\), expected 3 on axis 0"),
        ("torch's rank", H[None], ShapeError, r"state has shape \(1, 3, 6\), expected 2 axes"),
        ("a pair", (H, H), ShapeError, r"state has shape \(2, 3, 6\), expected 2 axes"),
        ("a number", 0, ShapeError, r"state has shape \(\), expected 2 axes"),
        ("float64", H.astype("float64"), DtypeError, "state is float64, but this was built for float32"),
        ("integers", np.zeros((B, N), int), DtypeError, "state is int64"),
        ("a string", "zero", DtypeError, "state is <U4"),
        ("a dict", {}, DtypeError, "state is object"),
        ("NaN", but(H, (1, 2), np.nan), ArgumentError, r"state is nan at \(1, 2\), expected finite"),
    ),
)
@pytest.mark.parametrize("kind", [RNN, GRU])
def test_a_state_is_refused(kind, state, error, message):
    layer = kind(M, N, **REFERENCE)
    refuses(error, f"^{message}", lambda: layer(X, state))
    y, _ = layer(X)
    refuses(error, f"^d{message}", lambda: layer.backward(y, state))


@pytest.mark.parametrize(
    ("state", "error", "message"),
    table(
        ("one array", H, ShapeError, "state is a ndarray, expected a tuple of 2 arrays"),
        ("stacked", np.stack([H, H]), ShapeError, "state is a ndarray, expected a tuple of 2"),
        ("a string", "hc", ShapeError, "state is a str, expected a tuple of 2"),
        ("a number", 0, ShapeError, "state is a int, expected a tuple of 2"),
        ("three", (H, H, H), ShapeError, "state .*expected a tuple of 2"),
        ("units of c", (H, draw(B, 7)), ShapeError, r"state\[1\] has shape \(3, 7\), expected 6 on axis 1"),
        ("dtype of h", (H.astype("float64"), H), DtypeError, r"state\[0\] is float64"),
        ("no c", (H, None), DtypeError, r"state\[1\] is object"),
        ("infinity in c", (H, but(H, (0, 5), np.inf)), ArgumentError, r"state\[1\] is inf at \(0, 5\)"),
    ),
)
def test_a_pair_of_states_is_refused(state, error, message):
    layer = LSTM(M, N, **REFERENCE)
    refuses(error, f"^{message}", lambda: layer(X, state))
    y, _ = layer(X)
    refuses(error, f"^d{message}", lambda: layer.backward(y, state))


@pytest.mark.parametrize(
    ("state", "error", "message"),
    table(
        ("not a list", H, ShapeError, "state is a ndarray, expected a list of 1"),
        ("too many", [H, H], ShapeError, "state .*expected a list of 1"),
        ("units", [draw(B, 7)], ShapeError, r"state\[0\] has shape \(3, 7\), expected 6 on axis 1"),
        ("float64", [H.astype("float64")], DtypeError, r"state\[0\] is float64"),
        ("NaN", [but(H, (2, 0), np.nan)], ArgumentError, r"state\[0\] is nan at \(2, 0\)"),
    ),
)
def test_the_states_of_a_network_are_refused(state, error, message):
    net = network()
    refuses(error, f"^{message}", lambda: net(X, state))
    y, _ = net(X)
    refuses(error, f"^d{message}", lambda: net.backward(y, state))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    table(
        ("rank", lambda y: y[0], ShapeError, r"dy has shape \(3, \d\), expected 3 axes"),
        ("time steps", lambda y: y[:4], ShapeError, r"dy has shape \(4, 3, \d\), expected 5 on axis 0"),
        ("samples", lambda y: y[:, :1], ShapeError, r"dy has shape \(5, 1, \d\), expected 3 on axis 1"),
        ("units", lambda y: y[..., :1], ShapeError, r"dy has shape \(5, 3, 1\), expected \d on axis 2"),
        ("a number", lambda y: 1.0, ShapeError, r"dy has shape \(\), expected 3 axes"),
        ("float64", lambda y: y.astype("float64"), DtypeError, "dy is float64, but this was built for float32"),
        ("integers", lambda y: y.astype(int), DtypeError, "dy is int64"),
        ("a string", lambda y: "ones", DtypeError, "dy is <U4"),
        ("NaN", lambda y: but(y, (4, 2, 0), np.nan), ArgumentError, r"dy is nan at \(4, 2, 0\), expected finite"),
    ),
)
def test_dy_is_refused(door, change, error, message):
    y, _ = door(X)
    refuses(error, f"^{message}", lambda: door.backward(change(y)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    table(
        ("rank", lambda y: y[0], ShapeError, r"dy has shape \(3, \d\), expected 3 axes"),
        ("units", lambda y: y[..., :1], ShapeError, r"dy has shape \(5, 3, 1\), expected \d on axis 2"),
        ("float64", lambda y: y.astype("float64"), DtypeError, "dy is float64"),
        ("NaN", lambda y: but(y, (4, 2, 0), np.nan), ArgumentError, r"dy is nan at \(4, 2, 0\)"),
    ),
)
@pytest.mark.parametrize("layer", [lambda: Dense(M, K, **REFERENCE), lambda: Dropout(0.5, **REFERENCE)], ids=["Dense", "Dropout"])
def test_stateless_layers_refuse_dy(layer, change, error, message):
    layer = layer()
    y = layer(X)
    refuses(error, f"^{message}", lambda: layer.backward(change(y)))


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_none_is_zero(kind):
    layer = kind(M, N, **REFERENCE)
    zero = (np.zeros_like(H), np.zeros_like(H)) if kind is LSTM else np.zeros_like(H)
    y, _ = layer(X)
    same(results(layer, X, y), results(layer, X, y, zero, zero))
    same(way_back(layer, None, None if kind is LSTM else H), way_back(layer, np.zeros_like(y), zero if kind is LSTM else H))


# Order


@pytest.mark.parametrize(
    "model",
    [*DOORS.values(), lambda: Dense(M, K, **REFERENCE), lambda: Dropout(0.5, **REFERENCE)],
    ids=[*DOORS, "Dense", "Dropout"],
)
def test_backward_before_forward(model):
    model = model()
    refuses(OrderError, f"{type(model).__name__}: backward before forward", lambda: model.backward(X))


def test_delta_before_backward():
    layer = LSTM(M, N, **REFERENCE)
    refuses(OrderError, "forward", lambda: layer.delta)
    layer(X)
    refuses(OrderError, "delta is known after backward", lambda: layer.delta)


@pytest.mark.parametrize(
    "between",
    [
        lambda net: net.fit([draw(2, M)], np.zeros((1, 2, K), "float32"), epochs=1, progress=False),
        lambda net: net.layers[1](draw(7, N)),
        lambda net: net.layers[0](draw(2, 1, M)),
    ],
    ids=["fit", "a call of a later layer", "a call of the first layer"],
)
@known("Network.backward takes the tapes that its layers have now; on the CPU it then reads and writes beyond the arrays' ends")
def test_a_network_whose_tapes_were_replaced_does_not_go_backward(between):
    net = network()
    y, _ = net(X)
    between(net)
    refuses(OrderError, "Network", lambda: net.backward(y))


@known("Stateless.backward wants _like, which only a call of the layer itself sets: AttributeError")
def test_a_dense_layer_goes_backward_after_its_network_went_forward():
    net = network()
    y, _ = net(X)
    net.backward(y)
    expected = net.layers[1].grads["V"].copy()
    net.layers[1].backward(y)
    same(net.layers[1].grads["V"], expected)


def test_an_error_leaves_everything_as_it_was(door):
    y, _ = door(X)
    expected, θ = way_back(door, y), parameters_of(door)
    wrong = [
        lambda: door(X[0]),
        lambda: door(but(X, (0, 0, 0), np.nan)),
        lambda: door(X, lengths=[T + 1] * B),
        lambda: door(X[:2], state="zero"),
        lambda: door.backward(y[:2]),
        lambda: door.backward(but(y, (0, 0, 0), np.nan)),
        lambda: door.backward(2 * y, "zero"),
    ]
    for call in wrong:
        with pytest.raises(ArgumentError):
            call()
    same({f"d{name}": door._device.numpy(a) for name, a in door.grads.items()}, {name: a for name, a in expected.items() if name[1:] in θ})
    same(way_back(door, y), expected)
    same(parameters_of(door), θ)


# batch_first


@pytest.mark.parametrize("lengths", [None, [3, 5, 1]], ids=["full", "ragged"])
def test_batch_first_is_time_major_transposed(cell, lengths):
    first, major = (Recurrent(cell, M, N, batch_first=value, **REFERENCE) for value in (True, False))
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


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        (
            "dy is time-major",
            lambda layer: layer.backward(draw(T, B, N)),
            ShapeError,
            r"dy has shape \(5, 3, 6\), expected 3 on axis 0 of \(B, T, n\)",
        ),
        ("x has no features", lambda layer: layer(X[..., :1]), ShapeError, r"x has shape .* of \(B, T, m=4\)"),
        (
            "lengths count T",
            lambda layer: layer(X.swapaxes(0, 1), lengths=[1] * T),
            ShapeError,
            r"lengths has shape \(5,\), expected \(3,\)",
        ),
    ),
)
def test_batch_first_speaks_of_its_own_axes(call, error, message):
    layer = RNN(M, N, batch_first=True, **REFERENCE)
    layer(X.swapaxes(0, 1))
    refuses(error, message, lambda: call(layer))


# Building


def rnn(**options):
    return RNN(**({"input_size": M, "hidden_size": N} | REFERENCE | options))


SIZES = [0, -1, 1.5, 2.0, True, "4", None]


@pytest.mark.parametrize("size", SIZES, ids=repr)
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda size: RNN(size, N, **REFERENCE), "input_size"),
        (lambda size: LSTM(M, size, **REFERENCE), "hidden_size"),
        (lambda size: Recurrent("gru", M, size, **REFERENCE), "hidden_size"),
        (lambda size: Dense(size, K, **REFERENCE), "input_size"),
        (lambda size: Dense(M, size, **REFERENCE), "output_size"),
        (lambda size: Embedding(size, N, **REFERENCE), "symbols"),
        (lambda size: Embedding(M, size, **REFERENCE), "size"),
        (lambda size: network().fit([X[:, 0]], [X[:, 0, :K]], epochs=size), "epochs"),
        (lambda size: network().fit([X[:, 0]], [X[:, 0, :K]], batch_size=size), "batch_size"),
        (lambda size: network().evaluate([X[:, 0]], [X[:, 0, :K]], batch_size=size), "batch_size"),
        (lambda size: network().predict([X[:, 0]], batch_size=size), "batch_size"),
    ],
    ids=[
        "RNN m",
        "LSTM n",
        "Recurrent n",
        "Dense m",
        "Dense k",
        "Embedding m",
        "Embedding k",
        "fit epochs",
        "fit batch",
        "evaluate batch",
        "predict batch",
    ],
)
def test_a_size_is_a_whole_number_from_1_on(build, name, size):
    refuses(ArgumentError, f"^{name} is {size!r}, expected an integer of at least 1", lambda: build(size))


def test_numpys_integers_are_sizes():
    assert rnn(input_size=np.int64(M), hidden_size=np.uint8(N))(X)[0].shape == (T, B, N)


NO_SEED = "the seed is not checked: NumPy's error, or none, and one that does not name the argument"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    table(
        ("init", lambda: rnn(init="xavier"), ArgumentError, "init is 'xavier', expected one of 'default', 'torch'"),
        ("init of Dense", lambda: Dense(M, K, init=3, **REFERENCE), ArgumentError, "init is 3, expected one of"),
        ("activation", lambda: rnn(activation="tanhh"), ArgumentError, "activation is 'tanhh', expected one of .*tanh"),
        ("activation, no derivative", lambda: rnn(activation=np.tanh), ArgumentError, r"activation is .*tanh.*pair \(f, df\)"),
        ("activation, not a pair", lambda: rnn(activation=(np.tanh,)), ArgumentError, r"activation is .*pair \(f, df\)"),
        ("activation of Dense", lambda: Dense(M, K, None, **REFERENCE), ArgumentError, "activation is None, expected"),
        ("cell", lambda: Recurrent("lstmm", M, N, **REFERENCE), ArgumentError, "cell is 'lstmm', expected one of .*'lstm'"),
        ("a layer as cell", lambda: Recurrent(LSTM, M, N, **REFERENCE), ArgumentError, "cell is <class .*LSTM.*expected a Cell"),
        ("device", lambda: rnn(device="gpu"), DeviceError, "device is 'gpu', expected one of 'auto', 'cpu', 'cuda', 'reference'"),
        ("device of Dense", lambda: Dense(M, K, device="CPU"), DeviceError, "device is 'CPU', expected one of"),
        ("device of Dropout", lambda: Dropout(0.5, device=0), DeviceError, "device is 0, expected one of"),
        ("device of copy", lambda: rnn().copy(device="gpu"), DeviceError, "device is 'gpu'"),
        ("no device", lambda: rnn_gpu.device("cuda:0"), DeviceError, "device is 'cuda:0'"),
        ("float16", lambda: rnn(dtype="float16"), DtypeError, "dtype is 'float16', expected 'float32' or 'float64'"),
        ("int", lambda: Dense(M, K, dtype=int, **REFERENCE), DtypeError, "dtype is <class 'int'>, expected"),
        ("no dtype", lambda: Dropout(0.5, dtype="single_", **REFERENCE), DtypeError, "dtype is 'single_', expected"),
        ("dtype None", lambda: rnn(dtype=None), DtypeError, "dtype is None", "NumPy takes None for float64"),
        ("rate 1", lambda: Dropout(1, **REFERENCE), ArgumentError, "rate is 1, expected a number from 0"),
        ("rate below 0", lambda: Dropout(-0.1, **REFERENCE), ArgumentError, "rate is -0.1, expected a number from 0"),
        ("rate NaN", lambda: Dropout(np.nan, **REFERENCE), ArgumentError, "rate is nan, expected a number from 0"),
        ("rate", lambda: Dropout("half", **REFERENCE), ArgumentError, "rate is 'half', expected a number from 0"),
        ("negative seed", lambda: rnn(seed=-1), ArgumentError, "seed is -1", NO_SEED),
        ("seed", lambda: Dense(M, K, seed="a", **REFERENCE), ArgumentError, "seed is 'a'", NO_SEED),
        ("seed of Dropout", lambda: Dropout(0.5, seed=1.5, **REFERENCE), ArgumentError, "seed is 1.5", NO_SEED),
    ),
)
def test_a_layer_is_not_built(build, error, message):
    refuses(error, f"^{message}", build)


ONE = rnn()


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    table(
        ("none", [], ArgumentError, r"layers is \[\], expected a list of layers"),
        ("not a layer", [rnn(), "Dense"], ArgumentError, "layers is .*'Dense'.*, expected a list of layers"),
        ("a layer, no list", ONE, ArgumentError, "layers is .*expected a list", "TypeError: 'RNN' object is not iterable"),
        ("a number", 3, ArgumentError, "layers is 3, expected a list", "TypeError: 'int' object is not iterable"),
        ("the same twice", [ONE, Dense(N, M, **REFERENCE), ONE], ArgumentError, "the same layer twice"),
        ("sizes", [rnn(), Dense(5, K, **REFERENCE)], ShapeError, "layer 1 takes 5 features, but the one before gives 6"),
        ("sizes across Dropout", [rnn(), Dropout(0.5, **REFERENCE), rnn()], ShapeError, "layer 2 takes 4 features.* gives 6"),
        ("dtypes", [rnn(), Dense(N, K, dtype="float64", **REFERENCE)], ArgumentError, "dtype: float32, float64"),
        ("devices", [rnn(), Dense(N, K, device="cpu")], ArgumentError, "device: cpu, reference"),
        ("batch_first", [rnn(batch_first=True)], ArgumentError, "batch_first=True"),
        ("nothing to learn", [Dropout(0.5, **REFERENCE)], ArgumentError, "no layer with parameters"),
    ),
)
def test_layers_do_not_make_a_network(layers, error, message):
    refuses(error, message, lambda: Network(layers))


UNHASHABLE = "TypeError: unhashable, from `value not in options`"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    table(
        ("loss", {"loss": "mse"}, ArgumentError, "loss is 'mse', expected one of 'squared_error'"),
        ("no loss", {"loss": None}, ArgumentError, "loss is None, expected one of"),
        ("losses", {"loss": ["squared_error"]}, ArgumentError, r"loss is \['squared_error'\], expected one of", UNHASHABLE),
        ("steps", {"steps": "first"}, ArgumentError, "steps is 'first', expected one of 'every', 'last'"),
        ("a number of steps", {"steps": -1}, ArgumentError, "steps is -1, expected one of"),
    ),
)
def test_a_network_is_not_built(options, error, message):
    refuses(error, f"^{message}", lambda: network(**options))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optimizers.SGD(-0.1), "learning_rate is -0.1, expected a number from 0"),
        (lambda: optimizers.Adam(np.nan), "learning_rate is nan, expected a number from 0"),
        (lambda: optimizers.RMSprop("fast"), "learning_rate is 'fast', expected a number"),
        (lambda: optimizers.Adam(True), "learning_rate is True, expected a number"),
        (lambda: optimizers.AdamW(weight_decay=-1), "weight_decay is -1, expected a number from 0"),
        (lambda: optimizers.SGD(momentum=1), "momentum is 1, expected a number from 0"),
        (lambda: optimizers.SGD(nesterov=True), "nesterov=True needs a momentum"),
        (lambda: optimizers.RMSprop(decay=1.0), "decay is 1.0, expected a number from 0"),
        (lambda: optimizers.Adam(beta1=-0.5), "beta1 is -0.5, expected a number from 0"),
        (lambda: optimizers.Adam(beta2=1), "beta2 is 1, expected a number from 0"),
        (lambda: optimizers.Adam(epsilon=None), "epsilon is None, expected a number from 0"),
        pytest.param(
            lambda: optimizers.Adam(np.inf), "learning_rate is inf", marks=known("inf passes, and the first update makes weights NaN")
        ),
    ],
)
def test_an_optimizer_is_not_built(build, message):
    refuses(ArgumentError, f"^{message}", build)


# Parameters


@pytest.mark.parametrize(
    ("value", "error", "message"),
    table(
        ("shape", draw(M, N), ShapeError, r"U has shape \(4, 6\), expected \(6, 4\)"),
        ("a number", 3.0, ShapeError, r"U has shape \(\), expected \(6, 4\)"),
        ("float64", draw(N, M, dtype="float64"), DtypeError, "U is float64, expected float32"),
        ("integers", np.ones((N, M), int), DtypeError, "U is int64, expected float32"),
        ("ragged", [[1.0], [1.0, 2.0]], ShapeError, "U", "NumPy's own ValueError passes through"),
        ("strings", [["a"] * M] * N, DtypeError, "U", "NumPy's own ValueError passes through"),
    ),
)
def test_a_parameter_is_not_assigned(value, error, message):
    layer = rnn()
    θ = parameters_of(layer)
    refuses(error, f"^{message}", lambda: layer.parameters.__setitem__("U", value))
    same(parameters_of(layer), θ)


def test_an_unknown_parameter_is_not_assigned():
    layer = rnn()
    with pytest.raises(KeyError, match="'V' is not a parameter: there are U, W, b"):
        layer.parameters["V"] = draw(N, M)
    assert list(layer.parameters) == ["U", "W", "b"]


@known("dict.update passes by Parameters.__setitem__, and kernels believe the shape")
def test_update_is_assignment():
    layer = rnn()
    refuses(ShapeError, "U has shape", lambda: layer.parameters.update(U=draw(2, 2)))


def test_an_assigned_parameter_is_a_copy():
    layer, U = rnn(), draw(N, M)
    layer.parameters["U"] = U
    expected = layer(X)[0]
    U[...] = 0
    same(layer(X)[0], expected)


def test_a_network_hands_out_its_parameters_read_only():
    net = network()
    with pytest.raises(TypeError):
        net.parameters["0.U"] = draw(N, M)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    table(
        ("missing", lambda d: d.pop("weight_hh_l0"), ArgumentError, "state_dict has .*expected .*weight_hh_l0"),
        ("unknown", lambda d: d.update(weight_ih_l1=draw(2, 2)), ArgumentError, "state_dict has .*weight_ih_l1"),
        ("one bias", lambda d: d.pop("bias_hh_l0"), ArgumentError, "state_dict has .*expected .*bias_hh_l0"),
        ("shape", lambda d: d.update(weight_hh_l0=draw(2, 2)), ShapeError, r"state_dict gives W the shape \(2, 2\), expected \(6, 6\)"),
        ("dtype", lambda d: d.update(weight_hh_l0=draw(N, N, dtype="float64")), DtypeError, "state_dict gives W as float64"),
    ),
)
def test_torchs_parameters_are_refused(change, error, message):
    layer, state_dict = rnn(), rnn(seed=1).to_torch()
    change(state_dict)
    θ = parameters_of(layer)
    refuses(error, f"^{message}", lambda: layer.load_torch(state_dict))
    same(parameters_of(layer), θ)


# fit, evaluate and predict

XS = [draw(5, M), draw(2, M), draw(3, M)]
CLASSES = np.array([0, 1, 1])
EVERY = [np.array([0, 1, 1, 0, 1]), np.array([1, 0]), np.array([0, 0, 1])]


def classifier(steps="last"):
    return network(loss="softmax_cross_entropy", steps=steps)


def fit(net, x=XS, y=CLASSES, **options):
    return net.fit(x, y, **({"epochs": 1, "batch_size": 2, "progress": False} | options))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    table(
        ("a number", 3, ShapeError, "x is int, expected a list of samples"),
        ("a generator", (x for x in XS), ShapeError, "x is generator, expected a list of samples"),
        ("nothing", [], ShapeError, "x is empty, expected at least one sample"),
        ("too deep", X[None], ShapeError, r"x\[0\] has shape \(5, 3, 4\), expected 2 axes"),
        ("features", [XS[0], XS[1][:, :2], XS[2]], ShapeError, r"x\[1\] has shape \(2, 2\), expected 4 on axis 1"),
        ("no time steps", [XS[0], XS[1], XS[2][:0]], ShapeError, r"x\[2\] has shape \(0, 4\).*empty"),
        ("float64", [XS[0], XS[1].astype("float64"), XS[2]], DtypeError, r"x\[1\] is float64, but this was built for float32"),
        ("a string", "abc", DtypeError, r"x\[0\] is <U1"),
        ("NaN", [XS[0], but(XS[1], (1, 3), np.nan), XS[2]], ArgumentError, r"x\[1\] is nan at \(1, 3\), expected finite"),
        (
            "a symbol too large",
            [np.array([0, 3]), np.array([4]), np.array([0])],
            ArgumentError,
            r"x\[1\] has the symbol 4, expected 0\.\.3",
        ),
        ("symbols of rank 2", [np.array([[0, 3]])] * 3, ShapeError, r"x\[0\] has shape \(1, 2\) and integers"),
        (
            "numbers, then symbols",
            [draw(4, M), np.arange(4), draw(4, M)],
            DtypeError,
            r"x\[1\]",
            "the symbols are broadcast as features",
        ),
        ("symbols, then numbers", [np.arange(4), draw(2, M), np.arange(4)], DtypeError, r"x\[1\]", "NumPy's ValueError of broadcasting"),
    ),
)
@pytest.mark.parametrize("do", ["fit", "evaluate", "predict"])
def test_samples_are_refused(do, x, error, message):
    net = classifier()
    θ = parameters_of(net)
    calls = {"fit": lambda: fit(net, x), "evaluate": lambda: net.evaluate(x, CLASSES), "predict": lambda: net.predict(x)}
    if isinstance(x, (list, np.ndarray)) and 0 < len(x) < 3:
        calls |= {"fit": lambda: fit(net, x, CLASSES[: len(x)]), "evaluate": lambda: net.evaluate(x, CLASSES[: len(x)])}
    refuses(error, f"^{message}", calls[do])
    same(parameters_of(net), θ)


NO_TARGETS = "None means no targets, and the loss is taken against zeros"
ROWS = np.eye(K, dtype="float32")[CLASSES]


@pytest.mark.parametrize(
    ("y", "error", "message"),
    table(
        ("too few", CLASSES[:2], ShapeError, "y has 2 targets, expected 3, one for each sample of x"),
        ("a number", 1, ShapeError, "y is int, expected a list of samples"),
        ("nothing", [], ShapeError, "y is empty"),
        ("none", None, ArgumentError, "y is None", NO_TARGETS),
        ("a class too large", np.array([0, 1, 2]), ArgumentError, r"y\[2\] has the class 2, expected 0\.\.1"),
        ("a negative class", np.array([0, -1, 1]), ArgumentError, r"y\[1\] has the class -1, expected 0\.\.1"),
        ("classes as floats", CLASSES.astype("float32"), ShapeError, r"y\[0\] has shape \(\), expected \(2,\)"),
        ("strings", ["a", "b", "b"], DtypeError, r"y\[0\]", "ShapeError by chance: says expected (2,), not that a string came"),
        ("wide rows", np.zeros((3, 3), "float32"), ShapeError, r"y\[0\] has shape \(3,\), expected \(2,\)"),
        ("a row a step", [np.zeros((len(x), K), "float32") for x in XS], ShapeError, r"y\[0\] has shape \(5, 2\), expected \(2,\)"),
        ("float64", ROWS.astype("float64"), DtypeError, r"y\[0\] is float64, but this network was built for float32"),
        ("NaN", but(ROWS, (1, 0), np.nan), ArgumentError, r"y\[1\] is nan at \(0,\), expected finite"),
    ),
)
@pytest.mark.parametrize("do", ["fit", "evaluate", "validation"])
def test_targets_are_refused(do, y, error, message):
    net = classifier()
    θ = parameters_of(net)
    calls = {"fit": lambda: fit(net, y=y), "evaluate": lambda: net.evaluate(XS, y), "validation": lambda: fit(net, validation=(XS, y))}
    refuses(error, message, calls[do])
    same(parameters_of(net), θ)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    table(
        ("a class a sample", CLASSES, ShapeError, r"y\[0\] has shape \(\), expected \(5, 2\)"),
        (
            "too few steps",
            [EVERY[0], EVERY[1][:1], EVERY[2]],
            ShapeError,
            r"y\[1\] has shape \(1,\), expected \(2, 2\).*\(2,\) class labels",
        ),
        ("a class too large", [EVERY[0], EVERY[1], EVERY[2] + 1], ArgumentError, r"y\[2\] has the class 2, expected 0\.\.1"),
    ),
)
def test_targets_of_every_step_are_refused(y, error, message):
    refuses(error, f"^{message}", lambda: fit(classifier("every"), y=y))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    table(
        ("negative learning rate", {"learning_rate": -1e-3}, ArgumentError, "learning_rate is -0.001, expected a number from 0"),
        ("learning rate NaN", {"learning_rate": np.nan}, ArgumentError, "learning_rate is nan, expected a number from 0"),
        ("learning rate", {"learning_rate": "1e-3"}, ArgumentError, "learning_rate is '1e-3', expected a number from 0"),
        ("two learning rates", {"optimizer": optimizers.Adam(), "learning_rate": 1.0}, ArgumentError, "learning_rate is given twice"),
        ("optimizer", {"optimizer": "adamax"}, ArgumentError, "optimizer is 'adamax', expected one of 'sgd'"),
        ("optimizer's class", {"optimizer": optimizers.Adam}, ArgumentError, "optimizer is <class .*Adam.*expected one of"),
        ("optimizers", {"optimizer": ["adam"]}, ArgumentError, r"optimizer is \['adam'\]", UNHASHABLE),
        ("clip_norm", {"clip_norm": -1}, ArgumentError, "clip_norm is -1, expected a number from 0"),
        ("clip_norm NaN", {"clip_norm": np.nan}, ArgumentError, "clip_norm is nan, expected a number from 0"),
        ("clip_value", {"clip_value": "1"}, ArgumentError, "clip_value is '1', expected a number from 0"),
        ("validation", {"validation": XS}, ArgumentError, r"validation is list, expected a pair \(x, y\)"),
        ("validation is no pair", {"validation": 0.1}, ArgumentError, r"validation is float, expected a pair \(x, y\)"),
        ("validation's count", {"validation": (XS, CLASSES[:1])}, ShapeError, "validation.* 1 .*expected 3", "says y, not validation's y"),
        ("seed", {"seed": "a"}, ArgumentError, "seed is 'a'", NO_SEED),
        ("on_epoch", {"on_epoch": 3}, ArgumentError, "on_epoch is 3", "TypeError, and after an epoch has changed the weights"),
    ),
)
def test_fit_is_refused_and_changes_nothing(options, error, message):
    net = classifier()
    y, _ = net(X)
    expected, θ = way_back(net, y), parameters_of(net)
    with pytest.raises(error, match=f"^{message}") as caught:
        fit(net, **options)
    assert caught.type is error
    same(parameters_of(net), θ)
    same(way_back(net, y), expected)


@known("moments are kept by name alone; on the CPU the kernel then reads and writes beyond their ends")
def test_an_optimizer_of_another_network_is_refused():
    optimizer = optimizers.Adam()
    fit(classifier(), optimizer=optimizer)
    layers = [RNN(M, N + 1, **REFERENCE), Dense(N + 1, K, **REFERENCE)]
    wider = Network(layers, loss="softmax_cross_entropy", steps="last")
    θ = parameters_of(wider)
    refuses(ArgumentError, "optimizer", lambda: fit(wider, optimizer=optimizer))
    same(parameters_of(wider), θ)


def test_a_loss_that_is_not_finite_changes_nothing():
    net = network()
    net.parameters["1.b"][...] = 3e38  # its square is not a float32
    θ = parameters_of(net)
    refuses(NonFiniteError, "No weight has changed", lambda: fit(net, y=[np.zeros((len(x), K), "float32") for x in XS]))
    same(parameters_of(net), θ)


def trained(net, x, y):
    fit(net, x, y, shuffle=False)
    return parameters_of(net)


@pytest.mark.parametrize(
    "y",
    [
        [0, 1, 1],
        list(CLASSES),
        CLASSES.astype("uint8"),
        ROWS,
        ROWS.astype("int8"),
        ROWS.tolist(),
        [[0, 1][::-1], (0, 1), np.array([False, True])],
    ],
    ids=["integers", "NumPy's integers", "uint8", "rows", "rows of integers", "lists", "mixed rows"],
)
def test_a_class_and_its_row_are_the_same_target(y):
    same(trained(classifier(), XS, y), trained(classifier(), XS, CLASSES))


@pytest.mark.parametrize(
    "y",
    [
        [y.tolist() for y in EVERY],
        [y.astype("int16") for y in EVERY],
        [np.eye(K)[y].tolist() for y in EVERY],
    ],
    ids=["lists of integers", "int16", "lists of rows"],
)
def test_classes_of_every_step_and_their_rows_are_the_same_targets(y):
    same(trained(classifier("every"), XS, y), trained(classifier("every"), XS, EVERY))


@pytest.mark.parametrize("kind", [lambda x: [a.tolist() for a in x], tuple, lambda x: [np.asfortranarray(frozen(a)) for a in x]])
def test_samples_of_any_kind_are_the_same(kind):
    same(trained(classifier(), kind(XS), CLASSES), trained(classifier(), XS, CLASSES))


def test_one_array_is_a_list_of_its_rows():
    x = draw(3, T, M)
    same(trained(classifier(), x, CLASSES), trained(classifier(), list(x), CLASSES))
    dense = [Network([Dense(M, K, **REFERENCE)], loss="softmax_cross_entropy") for _ in range(2)]
    same(trained(dense[0], x[:, 0], CLASSES), trained(dense[1], x[:, 0].tolist(), list(CLASSES)))


def test_predictions_of_a_batch_are_those_of_each_alone():
    last, every = classifier(), classifier("every")
    batch, steps = last.predict(XS, batch_size=2), every.predict(XS, batch_size=2)
    assert batch.shape == (3, K)
    for i, x in enumerate(XS):
        y = last(x[:, None])[0][:, 0]
        close(steps[i], y, "float32")
        close(batch[i], y[-1], "float32")


def test_symbols_are_one_hot_samples():
    symbols = [np.array([0, 3, 1], "uint8"), np.array([2], "uint8"), np.array([1, 1], "uint8")]
    same(trained(classifier(), symbols, CLASSES), trained(classifier(), [np.eye(M, dtype="float32")[s] for s in symbols], CLASSES))


@known("a batch has the dtype of its first sample, and a uint8 cannot hold 300")
def test_symbols_of_different_integer_types_share_a_batch():
    net = Network([RNN(400, 2, **REFERENCE)])
    small, large = np.array([7], "uint8"), np.array([300])
    same(net.predict([small, large])[1], net.predict([large])[0])


def test_lists_of_integers_are_symbols():
    same(classifier().predict([[0, 3, 1], [2]]), classifier().predict([np.array([0, 3, 1]), np.array([2])]))


# The GPU that is not there

NO_GPU = """
import rnn_gpu
for build in (lambda: rnn_gpu.LSTM(3, 5, device="cuda"), lambda: rnn_gpu.Dropout(0.5, device="cuda"), lambda: rnn_gpu.device("cuda")):
    try:
        print("built", build())
    except rnn_gpu.DeviceError as error:
        print(error)
print(rnn_gpu.LSTM(3, 5).device)
"""


def test_cuda_without_a_gpu_is_an_error_and_auto_is_the_cpu():
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"} | {"CUDA_VISIBLE_DEVICES": "-1"}
    run = subprocess.run([sys.executable, "-P", "-c", NO_GPU], check=False, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    *refusals, auto = run.stdout.splitlines()
    assert len(refusals) == 3
    for line in refusals:
        assert line.startswith("device='cuda', but ") and "Say device='cpu', or 'auto'" in line
    assert auto == "cpu"
