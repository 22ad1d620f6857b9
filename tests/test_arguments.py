"""Bad input gives an error that names the argument and says what came, and changes nothing; odd but good input the right result.

A row with a fifth entry is a bug of the library that is known: strict, so that whoever mends it takes the entry away.
"""


import numpy as np
import pytest

from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Dense,
    Dropout,
    DtypeError,
    Network,
    Recurrent,
    ShapeError,
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
    """y, the last state, dx, the gradient of the first state and the gradients of the parameters, as NumPy arrays in one list."""
    y, last = model(x, state, lengths)
    dx, first = model.backward(dy, dstate)
    return [np.asarray(a) for a in (y, *flat(last), dx, *flat(first), *map(model._device.numpy, model.grads.values()))]


def flat(states):
    return [leaf for part in states for leaf in flat(part)] if isinstance(states, (list, tuple)) else [states]


def snapshot(model):
    return {name: model._device.numpy(a).copy() for name, a in model.parameters.items()}


def same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


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


@pytest.mark.parametrize("x", [X.astype("float16"), X > 0, X.astype(X.dtype.newbyteorder())], ids=["float16", "bool", "byte order"])
@known("the message advises to build with dtype='float16', 'bool', or the dtype that the layer has")
def test_advice_can_be_followed(x):
    with pytest.raises(DtypeError, match="x is") as caught:
        RNN(M, N, **REFERENCE)(x)
    assert "build with" not in str(caught.value)


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


def test_a_list_of_numbers_of_the_dtype_is_not_rounded_on_the_way():
    layer = RNN(M, N, dtype="float64", **REFERENCE)
    x = draw(T, B, M, dtype="float64")
    same([layer(x.tolist())[0]], [layer(x)[0]])


@pytest.mark.parametrize("integers", ["int8", "uint8", "int32", "int64", "uint64"])
def test_integers_are_one_hot_vectors(door, integers):
    symbols = np.array([[0, 3, 1], [2, 2, 0], [1, 0, 3]], integers)
    vectors = np.eye(M, dtype="float32")[symbols.astype(int)]
    dy = np.ones_like(door(vectors)[0])
    same(results(door, symbols, dy), results(door, vectors, dy))


@known("as_array turns a list of integers into floats before it is seen that they are symbols")
def test_nested_lists_of_integers_are_symbols(door):
    symbols = [[0, 3, 1], [2, 2, 0]]
    same([door(symbols)[0]], [door(np.array(symbols))[0]])


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
    plain = [X, draw(T, B, N), (H, draw(B, N)), (draw(B, N), draw(B, N))]
    odd = [layout(plain[0]), layout(plain[1]), tuple(map(layout, plain[2])), tuple(map(layout, plain[3]))]
    same(results(layer, *odd, lengths=layout(np.array([5, 1, 3]))), results(layer, *plain, lengths=[5, 1, 3]))
    same(flat(tuple(odd)), flat(tuple(plain)))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("layer", [lambda **o: Dense(M, K, "tanh", **o), lambda **o: Dropout(0.0, **o)], ids=["Dense", "Dropout"])
def test_stateless_layers_take_any_memory_layout(layer, layout):
    one = layer(**REFERENCE)
    y = one(X)
    dx = one.backward(y)
    same([one(layout(X)), one.backward(layout(y))], [y, dx])


@known("the tape holds the caller's x itself, not a copy")
def test_x_may_be_overwritten_before_backward(door):
    x = X.copy()
    dy = np.ones_like(door(X)[0])
    expected = results(door, X, dy)
    door(x)
    x[...] = 0
    dx, _ = door.backward(dy)
    same([dx, *door.grads.values()], [expected[-len(door.grads) - 2 if False else expected.index(expected[-1]) - len(door.grads) - 1]])
