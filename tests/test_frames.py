"""What finds its parts by labels of its own (pandas, polars, xarray) is taken by position,
everywhere; what would be cast is refused.
"""

import numpy as np
import pytest

from door import (
    REFERENCE,
    B,
    K,
    M,
    N,
    T,
    draw,
    network,
    parameters_of,
    refuses,
    results,
    same,
    table,
)
from rnn_gpu import LSTM, ArgumentError, Dense, DtypeError, Network, ShapeError, Stream, gradcheck

X, DY = draw(T, B, M), draw(T, B, N)
XS, CLASSES = draw(8, T, M), np.array([0, 1, 1, 0, 1, 0, 0, 1])


class Labelled:
    """The least there is: numbers that are found by a label, and have an order beside."""

    def __init__(self, values, labels):
        self.values, self.labels = values, list(labels)

    dtype = property(lambda self: self.values.dtype)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, label):
        return self.values[self.labels.index(label)]

    def __array__(self, dtype=None, copy=None):
        return self.values


def labels(a):
    """The positions of a's rows, in another order: none has its own."""
    return np.roll(np.arange(len(a)), 1)


def pandas(a):
    pd = pytest.importorskip("pandas")
    if a.ndim == 1:
        return pd.Series(a, index=labels(a))
    return (
        pd.DataFrame(a, index=labels(a), columns=labels(a.T))
        if a.ndim == 2
        else [pandas(one) for one in a]
    )


def polars(a):
    pl = pytest.importorskip("polars")
    if a.ndim == 1:
        return pl.Series(a)
    return pl.DataFrame(a) if a.ndim == 2 else [polars(one) for one in a]


def xarray(a):
    xr = pytest.importorskip("xarray")
    axes = [f"axis {i}" for i in range(a.ndim)]
    return xr.DataArray(a, dims=axes, coords={axes[0]: labels(a)})


MAKERS = {
    "labels": lambda a: Labelled(a, labels(a)),
    "pandas": pandas,
    "polars": polars,
    "xarray": xarray,
}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def make(request):
    return request.param


def classifier(**options):
    layers = [LSTM(M, N, **REFERENCE, **options), Dense(N, K, **REFERENCE, **options)]
    return Network(layers, loss="softmax_cross_entropy", steps="last")


def trained(x, y, **options):
    net = classifier()
    history = net.fit(x, y, epochs=2, batch_size=3, progress=False, **options)
    return parameters_of(net) | {
        name: np.array(history[name]) for name in history if "seconds" not in name
    }


# Samples


def test_a_shuffled_series_of_targets_trains_as_its_numbers_do(make):
    same(trained(XS, make(CLASSES)), trained(XS, CLASSES))


def test_an_index_is_taken_as_targets():
    index = pytest.importorskip("pandas").Index
    same(trained(XS, index(CLASSES)), trained(XS, CLASSES))


def test_samples_of_any_library_train_as_numpys_do(make):
    expected = trained(XS, CLASSES, validation=(XS, CLASSES))
    same(trained(make(XS), make(CLASSES), validation=(make(XS), make(CLASSES))), expected)
    same(
        trained([make(x) for x in XS], [make(y) for y in np.eye(K, dtype="float32")[CLASSES]]),
        trained(XS, CLASSES),
    )


def test_symbols_and_classes_of_every_step_may_have_labels(make):
    symbols, targets = np.random.default_rng(2).integers(0, (M, K), (6, T, 2)).transpose(2, 0, 1)
    curves = []
    for kind in (np.asarray, make):
        net = network(loss="softmax_cross_entropy")
        options = {"epochs": 2, "progress": False}
        curves += [net.fit(kind(symbols), kind(targets), **options)["step_loss"]]
        curves += [
            net.fit([kind(s) for s in symbols], [kind(t) for t in targets], **options)["step_loss"]
        ]
    assert curves[:2] == curves[2:]


def test_rows_of_a_table_are_samples_of_a_network_without_time(make):
    x, y = draw(7, M), draw(7, K)
    nets = [Network([Dense(M, K, **REFERENCE)]) for _ in range(2)]
    curves = [
        net.fit(kind(x), kind(y), epochs=2, progress=False)["step_loss"]
        for net, kind in zip(nets, (np.asarray, make), strict=True)
    ]
    assert curves[0] == curves[1]
    same(nets[0].predict(make(x)), nets[0].predict(x))
    same(nets[0](make(x))[0], nets[0](x)[0])


def test_whatever_takes_samples_takes_them_by_position(make):
    net = classifier()
    for call in (net.evaluate, net.gradient):
        assert str(call(make(XS), make(CLASSES))) == str(call(XS, CLASSES))
    same(net.predict(make(XS)), net.predict(XS))
    (got,), (expected,) = (
        net.gradient_flow(x, y).layers for x, y in ((make(XS), make(CLASSES)), (XS, CLASSES))
    )
    same(got.delta, expected.delta)


def test_a_column_of_sequences_is_a_list_of_them():
    """pandas and polars keep ragged sequences, each an array, in one column."""
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    ragged = [np.array([0, 3, 1]), np.array([2]), np.array([1, 1])]
    expected = network().predict(ragged)
    for column in (
        pd.Series(ragged, index=[2, 0, 1]),
        pl.Series([list(map(int, one)) for one in ragged]),
    ):
        for got, one in zip(network().predict(column), expected, strict=True):
            same(got, one)


# Layers, networks, streams


def test_a_call_and_its_backward_take_labels(make):
    layer = LSTM(M, N, **REFERENCE)
    rng = np.random.default_rng(3)
    plain = {
        "x": X,
        "dy": DY,
        "state": (draw(B, N), draw(B, N)),
        "dstate": (draw(B, N), draw(B, N)),
        "lengths": np.array([5, 1, 3]),
    }
    plain |= {"mask": rng.random((T, B)) < 0.8, "resets": rng.random((T, B)) < 0.3}
    odd = {
        name: tuple(map(make, a)) if isinstance(a, tuple) else make(a) for name, a in plain.items()
    }
    same(results(layer, **odd), results(layer, **plain))


def test_a_network_a_dense_layer_and_a_stream_take_labels(make):
    net, dense, dy = network(), Dense(M, K, **REFERENCE), draw(T, B, K)
    zero = np.zeros((B, N), "float32")
    same(results(net, make(X), make(dy), [make(zero)]), results(net, X, dy, [zero]))
    same(dense(make(X[0])), dense(X[0]))
    same(dense.backward(make(dy[0])), dense.backward(dy[0]))
    same(Stream(net)(make(X[0])), Stream(net)(X[0]))


def test_gradcheck_takes_labels(make):
    net = network64()
    x, y = draw(T, B, M, dtype="float64"), draw(T, B, K, dtype="float64")
    assert gradcheck(net, make(x), make(y), samples=3) == gradcheck(net, x, y, samples=3)


def network64():
    return Network(
        [LSTM(M, N, dtype="float64", **REFERENCE), Dense(N, K, dtype="float64", **REFERENCE)]
    )


# Parameters


def test_parameters_may_have_labels(make):
    source, layer = LSTM(M, N, seed=1, **REFERENCE), LSTM(M, N, **REFERENCE)
    layer.load_torch({name: make(a) for name, a in source.to_torch().items()})
    same(parameters_of(layer), parameters_of(source))
    layer = LSTM(M, N, **REFERENCE)
    layer.load_keras([make(a) for a in source.to_keras()])
    same(parameters_of(layer), parameters_of(source))
    layer.parameters["U"] = make(2 * source.parameters["U"])
    same(layer.parameters["U"], 2 * source.parameters["U"])


# Refused


def columns(**named):
    return pytest.importorskip("pandas").DataFrame(named)


def series(values, dtype):
    return pytest.importorskip("pandas").Series(values, dtype=dtype)


def polars_series(values):
    return pytest.importorskip("polars").Series(values)


NUMBERS = np.arange(8) % 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    table(
        (
            "categories",
            lambda: series(NUMBERS, "category"),
            DtypeError,
            "is a Series of categories, expected numbers",
        ),
        (
            "a table of them",
            lambda: columns(a=series(NUMBERS, "category")),
            DtypeError,
            "is a DataFrame of categories",
        ),
        (
            "objects",
            lambda: series(NUMBERS, object),
            DtypeError,
            "is a Series of object .*expected numbers",
        ),
        (
            "words",
            lambda: series(list("abababab"), None),
            DtypeError,
            "is a Series of (str|object) .*expected numbers",
        ),
        (
            "dates",
            lambda: series(NUMBERS, "datetime64[s]"),
            DtypeError,
            "is a Series of datetime64.*expected numbers",
        ),
        (
            "missing",
            lambda: series([0, None] * 4, "Int64"),
            DtypeError,
            "is a Series of Int64 .*none missing",
        ),
        (
            "missing in a table",
            lambda: columns(a=series([0, None] * 4, "Int64")),
            DtypeError,
            "is a DataFrame of Int64 .*none missing",
        ),
        (
            "missing, polars",
            lambda: polars_series([0, None] * 4),
            DtypeError,
            "is a Series of Int64 .*none missing",
        ),
        (
            "words, polars",
            lambda: polars_series(list("abababab")),
            DtypeError,
            "is a Series of String .*expected numbers",
        ),
        (
            "columns",
            lambda: columns(a=NUMBERS, b=NUMBERS / 2),
            DtypeError,
            "has columns of several dtypes.*: a is int64, b is float64",
        ),
    ),
)
def test_what_would_be_cast_or_filled_in_is_refused(make, error, message):
    column, net = make(), classifier()
    refuses(error, f"^y {message}", lambda: net.evaluate(XS, column))
    refuses(error, rf"^x\[1\] {message}", lambda: net.predict([XS[0], column]))
    refuses(error, f"^lengths {message}", lambda: net(X, lengths=column))
    refuses(error, rf"^x\[0\] {message}", lambda: net([column]))


def test_tables_of_another_dtype_are_cast_as_samples():
    net = classifier()
    same(net.predict([pandas(XS[0].astype("float64"))]), net.predict(XS[:1]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        (
            "float64",
            lambda: classifier()(xarray(X.astype("float64"))),
            DtypeError,
            "x is float64, but this was built for float32",
        ),
        (
            "whole numbers",
            lambda: classifier().predict([pandas(XS[0].astype(int))]),
            ShapeError,
            r"x\[0\] has shape \(5, 4\) and integers",
        ),
        (
            "features",
            lambda: classifier().predict([pandas(XS[0][:, :3])]),
            ShapeError,
            r"x\[0\] has shape \(5, 3\), expected 4",
        ),
        (
            "rows for sequences",
            lambda: classifier().predict(pandas(XS[0])),
            ShapeError,
            r"x\[0\] has shape \(4,\), expected 2 axes",
        ),
        (
            "NaN",
            lambda: classifier().predict([pandas(XS[0] * np.nan)]),
            ArgumentError,
            r"x\[0\] is nan at \(0, 0\)",
        ),
        (
            "groups",
            lambda: classifier().predict(columns(a=NUMBERS).groupby("a")),
            ArgumentError,
            "x is a DataFrameGroupBy, expected a list",
        ),
    ),
)
def test_tables_are_checked_as_arrays_are(call, error, message):
    refuses(error, f"^{message}", call)
