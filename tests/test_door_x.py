"""x: what is no x is refused by name and by what came; lists, integers and odd memory layouts give
the right result.
"""

import numpy as np
import pytest

from door import (
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
    frozen,
    named,
    refuses,
    results,
    rnn,
    same,
    table,
    way_back,
)
from rnn_gpu import LSTM, ArgumentError, Dense, DtypeError, Embedding, Network, ShapeError

# Refused


@pytest.mark.parametrize(
    ("x", "error", "message"),
    table(
        ("rank 2", X[0], ShapeError, r"x has shape \(3, 4\), expected 3 axes"),
        ("rank 4", X[None], ShapeError, r"x has shape \(1, 5, 3, 4\), expected 3 axes"),
        ("a number", 1.5, ShapeError, r"x has shape \(\), expected 3 axes"),
        (
            "too few features",
            X[..., :2],
            ShapeError,
            r"x has shape \(5, 3, 2\), expected 4 on axis 2",
        ),
        ("no time steps", X[:0], ShapeError, r"x has shape \(0, 3, 4\).*empty"),
        ("no symbols", np.zeros((0, B), int), ShapeError, r"x has shape \(0, 3\).*empty"),
        ("nothing", [], ShapeError, r"x has shape \(0,\)"),
        (
            "ragged lists",
            [[[1.0] * M], [[1.0] * M] * 2],
            ShapeError,
            "x cannot be made an array.*inhomogeneous",
        ),
        (
            "float64",
            X.astype("float64"),
            DtypeError,
            "x is float64, but this was built for float32",
        ),
        (
            "float16",
            X.astype("float16"),
            DtypeError,
            "x is float16, but this was built for float32",
        ),
        ("the other byte order", X.astype(X.dtype.newbyteorder()), DtypeError, "x is [<>]f4"),
        (
            "integers of rank 3",
            X.astype(int),
            ShapeError,
            r"x has shape \(5, 3, 4\) and integers, expected 2 axes",
        ),
        (
            "integers of rank 1",
            np.arange(M),
            ShapeError,
            r"x has shape \(4,\) and integers, expected 2 axes",
        ),
        (
            "a symbol too large",
            np.array([[0, 1, M]]),
            ArgumentError,
            r"x has the symbol 4, expected 0\.\.3",
        ),
        (
            "a negative symbol",
            np.array([[0, -1, 2]], "int8"),
            ArgumentError,
            r"x has the symbol -1, expected 0\.\.3",
        ),
        (
            "a symbol beyond 2⁶³",
            np.array([[2**63 + 1]], "uint64"),
            ArgumentError,
            "x has the symbol 9223372036854775809",
        ),
        ("bool", X > 0, DtypeError, "x is bool"),
        ("bool of rank 2", X[0] > 0, DtypeError, "x is bool"),
        ("complex", X.astype("complex64"), DtypeError, "x is complex64"),
        ("objects", X.astype(object), DtypeError, "x is object"),
        ("strings", X.astype(str), DtypeError, "x is <U"),
        ("a string", "abc", ArgumentError, "x is 'abc', expected an array, or lists of numbers"),
        ("None", None, ArgumentError, "x is None, expected an array"),
        ("a generator", (row for row in X), ArgumentError, "x is a generator, expected an array"),
        ("a dict", dict(enumerate(X)), ArgumentError, "x is a dict, expected an array"),
        ("a set", {1.0}, ArgumentError, "x is a set, expected an array"),
        (
            "NaN",
            but(X, (2, 1, 3), np.nan),
            ArgumentError,
            r"x is nan at \(2, 1, 3\), expected finite",
        ),
        (
            "infinity",
            but(X, (4, 0, 1), -np.inf),
            ArgumentError,
            r"x is -inf at \(4, 0, 1\), expected finite",
        ),
        (
            "a mask",
            np.ma.masked_array(X, X > 1),
            ArgumentError,
            "x is a masked array, expected a plain one",
        ),
    ),
)
def test_x_is_refused(door, x, error, message):
    refuses(error, f"^{message}", lambda: door(x))


@pytest.mark.parametrize(
    "x",
    [X.astype("float16"), X > 0, X.astype(X.dtype.newbyteorder())],
    ids=["float16", "bool", "byte order"],
)
def test_a_message_advises_no_dtype_that_would_not_help(x):
    with pytest.raises(DtypeError, match=r"^x is") as caught:
        rnn()(x)
    assert "build with" not in str(caught.value)


def test_a_message_advises_the_dtype_that_would_help():
    refuses(
        DtypeError,
        "^x is float64, .* build with dtype='float64'$",
        lambda: rnn()(X.astype("float64")),
    )


@pytest.mark.parametrize(
    ("x", "error", "message"),
    table(
        ("rank 1", X[0, 0], ShapeError, r"x has shape \(4,\)"),
        ("rank 4", X[None], ShapeError, r"x has shape \(1, 5, 3, 4\)"),
        (
            "float64",
            X.astype("float64"),
            DtypeError,
            "x is float64, but this was built for float32",
        ),
        ("integers", X.astype(int), DtypeError, "x is int64"),
        ("a string", "abc", ArgumentError, "x is 'abc', expected an array"),
        ("None", None, ArgumentError, "x is None, expected an array"),
        ("ragged lists", [[1.0, 2.0], [1.0]], ShapeError, "x cannot be made an array"),
        ("NaN", but(X, (2, 1, 3), np.nan), ArgumentError, r"x is nan at \(2, 1, 3\)"),
    ),
)
@pytest.mark.parametrize("build", STATELESS.values(), ids=STATELESS)
def test_stateless_layers_refuse_x(build, x, error, message):
    refuses(error, f"^{message}", lambda: build()(x))


def test_dense_refuses_other_features():
    refuses(
        ShapeError,
        r"^x has shape \(3, 2\), expected 4 on axis 1",
        lambda: Dense(M, K, **REFERENCE)(X[0, :, :2]),
    )


def test_a_network_of_rows_refuses_sequences():
    refuses(
        ShapeError,
        r"^x has shape \(5, 3, 4\), expected 2 axes",
        lambda: Network([Dense(M, K, **REFERENCE)])(X),
    )


# Lists and integers


@pytest.mark.parametrize(
    "kind",
    [list, tuple, lambda a: a.tolist()],
    ids=["list of arrays", "tuple of arrays", "nested lists"],
)
def test_lists_are_arrays(door, kind):
    dy = np.ones_like(door(X)[0])
    same(results(door, kind(X), kind(dy)), results(door, X, dy))


def test_nested_lists_keep_all_digits_of_float64():
    layer, x = rnn(dtype="float64"), draw(T, B, M, dtype="float64")
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


@pytest.mark.parametrize(
    "kind",
    [lambda layer: layer, lambda layer: lambda x: Network([layer])(x)[0]],
    ids=["Embedding", "Network"],
)
def test_an_embedding_takes_symbols_without_a_recurrent_layer(kind):
    layer = Embedding(M, N, **REFERENCE)
    same(kind(layer)(np.array([3, 0, 3])), layer.parameters["V"].T[[3, 0, 3]])


# Memory


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
    plain = {
        "x": X,
        "dy": draw(T, B, N),
        "state": (H, draw(B, N)),
        "dstate": (draw(B, N), draw(B, N)),
        "lengths": np.array([5, 1, 3]),
    }
    odd = {
        name: tuple(map(layout, a)) if isinstance(a, tuple) else layout(a)
        for name, a in plain.items()
    }
    same(results(layer, **odd), results(layer, **plain))
    for name, a in plain.items():
        same(named(name, odd[name]), named(name, a))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("build", STATELESS.values(), ids=STATELESS)
def test_stateless_layers_take_any_memory_layout(build, layout):
    layer = build()
    y = layer(X)
    dx = layer.backward(y)
    same({"y": layer(layout(X)), "dx": layer.backward(layout(y))}, {"y": y, "dx": dx})


def test_what_comes_out_is_the_callers_own(model):
    y, last = model(X)
    dy = np.ones_like(y)
    expected = way_back(model, dy)
    dx, first = model.backward(dy)
    for a in (y, dx, *named("last", last).values(), *named("first", first).values()):
        a[...] = np.nan
    same(way_back(model, dy), expected)


def test_x_may_be_overwritten_before_backward(model):
    x = X.copy()
    dy = np.ones_like(model(X)[0])
    expected = way_back(model, dy)
    model(x)
    x[...] = 0
    same(way_back(model, dy), expected)
