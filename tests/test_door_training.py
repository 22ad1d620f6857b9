"""fit, evaluate, predict and the optimizers: bad samples, targets and options are refused by name
and change no weight.
"""

import numpy as np
import pytest

from conftest import close
from door import (
    REFERENCE,
    K,
    M,
    N,
    T,
    X,
    but,
    draw,
    frozen,
    network,
    parameters_of,
    refuses,
    same,
    table,
    way_back,
)
from refused import PLACES, cases
from rnn_gpu import (
    RNN,
    ArgumentError,
    Dense,
    DtypeError,
    Network,
    NonFiniteError,
    ShapeError,
    optimizers,
)

XS = [draw(5, M), draw(2, M), draw(3, M)]
CLASSES = np.array([0, 1, 1])
EVERY = [np.array([0, 1, 1, 0, 1]), np.array([1, 0]), np.array([0, 0, 1])]
SYMBOLS = [np.array([0, 1, 1]), np.array([1, 0])]  # of two samples
ROWS = np.eye(K, dtype="float32")[CLASSES]


def classifier(steps="last"):
    return network(loss="softmax_cross_entropy", steps=steps)


def fit(net, x=XS, y=CLASSES, **options):
    return net.fit(x, y, **({"epochs": 1, "batch_size": 2, "progress": False} | options))


def trained(net, x, y):
    fit(net, x, y, shuffle=False)
    return parameters_of(net)


# Samples and targets that are refused


@pytest.mark.parametrize(
    ("x", "error", "message"),
    table(
        ("a number", 3, ShapeError, "x is 3, expected a list of samples"),
        (
            "a generator",
            (x for x in XS),
            ShapeError,
            "x is a generator, expected a list of samples",
        ),
        ("nothing", [], ShapeError, "x is empty, expected at least one sample"),
        (
            "too deep",
            draw(3, 2, T, M),
            ShapeError,
            r"x\[0\] has shape \(2, 5, 4\), expected 2 axes",
        ),
        (
            "features",
            [XS[0], XS[1][:, :2], XS[2]],
            ShapeError,
            r"x\[1\] has shape \(2, 2\), expected 4 on axis 1",
        ),
        (
            "no time steps",
            [XS[0], XS[1], XS[2][:0]],
            ShapeError,
            r"x\[2\] has shape \(0, 4\).*empty",
        ),
        (
            "beyond float32",
            [XS[0], XS[1].astype("float64") * 1e300, XS[2]],
            ArgumentError,
            r"x\[1\] is -?inf at \(0, 0\), expected finite numbers",
        ),
        ("a string", "abc", ArgumentError, "x is 'abc', expected a list of samples"),
        ("a dict", dict(enumerate(XS)), ArgumentError, "x is a dict, expected a list of samples"),
        ("a set", {1, 2, 3}, ArgumentError, "x is a set, expected a list of samples"),
        (
            "NaN",
            [XS[0], but(XS[1], (1, 3), np.nan), XS[2]],
            ArgumentError,
            r"x\[1\] is nan at \(1, 3\), expected finite",
        ),
        (
            "a symbol too large",
            [np.array([0]), np.array([4]), np.array([0])],
            ArgumentError,
            r"x\[1\] has the symbol 4, expected 0\.\.3",
        ),
        (
            "symbols of rank 2",
            [np.array([[0, 3]])] * 3,
            ShapeError,
            r"x\[0\] has shape \(1, 2\) and integers",
        ),
        (
            "numbers, then symbols",
            [draw(4, M), *SYMBOLS],
            DtypeError,
            r"x\[1\] is int64, but (validation )?x\[0\] is float32",
        ),
        (
            "symbols, then numbers",
            [*SYMBOLS, draw(2, M)],
            DtypeError,
            r"x\[2\] is float32, but (validation )?x\[0\] is int64",
        ),
    ),
)
def test_samples_are_refused(x, error, message):
    net = classifier()
    θ = parameters_of(net)
    refuses(error, f"^{message}", lambda: fit(net, x))
    refuses(error, f"^{message}", lambda: net.evaluate(x, CLASSES))
    refuses(error, f"^{message}", lambda: net.predict(x))
    refuses(error, f"^validation {message}", lambda: fit(net, validation=(x, CLASSES)))
    same(parameters_of(net), θ)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    table(
        (
            "too few",
            CLASSES[:2],
            ShapeError,
            "y has 2 targets, expected 3, one for each sample of x",
        ),
        ("a number", 1, ShapeError, "y is 1, expected a list of samples"),
        ("nothing", [], ShapeError, "y is empty"),
        ("none", None, ArgumentError, "y is None, expected the targets"),
        (
            "a class too large",
            np.array([0, 1, 2]),
            ArgumentError,
            r"y\[2\] has the class 2, expected 0\.\.1",
        ),
        (
            "a negative class",
            np.array([0, -1, 1]),
            ArgumentError,
            r"y\[1\] has the class -1, expected 0\.\.1",
        ),
        (
            "classes as floats",
            CLASSES.astype("float32"),
            ShapeError,
            r"y\[0\] has shape \(\), expected \(2,\)",
        ),
        ("strings", ["a", "b", "b"], ArgumentError, r"y\[0\] is 'a', expected an array"),
        (
            "a dict",
            dict(enumerate(CLASSES)),
            ArgumentError,
            "y is a dict, expected a list of samples",
        ),
        (
            "wide rows",
            np.zeros((3, 3), "float32"),
            ShapeError,
            r"y\[0\] has shape \(3,\), expected \(2,\)",
        ),
        (
            "a row a step",
            [np.zeros((len(x), K), "float32") for x in XS],
            ShapeError,
            r"y\[0\] has shape \(5, 2\), expected \(2,\)",
        ),
        (
            "beyond float32",
            ROWS.astype("float64") - 1e300,
            ArgumentError,
            r"y\[0\] is -inf at \(0,\), expected finite numbers",
        ),
        (
            "NaN",
            but(ROWS, (1, 0), np.nan),
            ArgumentError,
            r"y\[1\] is nan at \(0,\), expected finite",
        ),
    ),
)
def test_targets_are_refused(y, error, message):
    net = classifier()
    θ = parameters_of(net)
    refuses(error, f"^{message}", lambda: fit(net, y=y))
    refuses(error, f"^{message}", lambda: net.evaluate(XS, y))
    refuses(error, f"^validation {message}", lambda: fit(net, validation=(XS, y)))
    same(parameters_of(net), θ)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    table(
        ("a class a sample", CLASSES, ShapeError, r"y\[0\] has shape \(\), expected \(5, 2\)"),
        (
            "too few steps",
            [EVERY[0], EVERY[1][:1], EVERY[2]],
            ShapeError,
            r"y\[1\] has shape \(1,\), expected \(2, 2\), or \(2,\) class labels",
        ),
        (
            "a class too large",
            [EVERY[0], EVERY[1], EVERY[2] + 1],
            ArgumentError,
            r"y\[2\] has the class 2, expected 0\.\.1",
        ),
    ),
)
def test_targets_of_every_step_are_refused(y, error, message):
    refuses(error, f"^{message}", lambda: fit(classifier("every"), y=y))


# Options and optimizers that are refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    table(
        (
            "two learning rates",
            {"optimizer": optimizers.Adam(), "learning_rate": 1.0},
            ArgumentError,
            "learning_rate is given twice",
        ),
        (
            "validation",
            {"validation": XS},
            ArgumentError,
            r"validation is a list of \d, expected a pair \(x, y\), or a share between 0 and 1",
        ),
        (
            "validation is no share",
            {"validation": 1.0},
            ArgumentError,
            r"validation is 1.0, expected a pair \(x, y\), or a share between 0 and 1",
        ),
        (
            "validation is a truth",
            {"validation": True},
            ArgumentError,
            "validation is True, expected a pair",
        ),
        (
            "epochs and updates",
            {"epochs": 2, "updates": 3},
            ArgumentError,
            "epochs is 2 and updates 3: give one of them",
        ),
        (
            "a rate that is none",
            {"learning_rate": lambda update: -1.0},
            ArgumentError,
            r"learning_rate\(0\) is -1.0, expected a number from 0 to below inf",
        ),
    ),
)
def test_fit_is_refused(options, error, message):
    refuses_to_fit(options, error, f"^{message}")


@pytest.mark.parametrize("row", cases("fit"))
def test_no_option_of_the_table_changes_anything(row):
    options = {name: value for name, value in row.options.items() if name not in PLACES[0]}
    refuses_to_fit(options, row.error, row.message)


def refuses_to_fit(options, error, message):
    """With this error, and neither the parameters change nor what the way back gives."""
    net = classifier()
    y, _ = net(X)
    expected, θ = way_back(net, y), parameters_of(net)
    refuses(error, message, lambda: fit(net, **options))
    same(parameters_of(net), θ)
    same(way_back(net, y), expected)


def test_nesterov_needs_a_momentum():
    message = "^nesterov=True needs a momentum"
    refuses(ArgumentError, message, lambda: optimizers.SGD(nesterov=True))


def test_an_optimizer_of_another_network_is_refused():
    optimizer = optimizers.Adam()
    fit(classifier(), optimizer=optimizer)
    layers = [RNN(M, N + 1, **REFERENCE), Dense(N + 1, K, **REFERENCE)]
    wider = Network(layers, loss="softmax_cross_entropy", steps="last")
    θ = parameters_of(wider)
    refuses(
        ArgumentError,
        r"^optimizer has trained another network: .*0\.U are \(6, 4\)",
        lambda: fit(wider, optimizer=optimizer),
    )
    same(parameters_of(wider), θ)


def test_a_loss_that_is_not_finite_changes_nothing():
    net = network()
    net.parameters["1.b"][...] = 3e38  # its square is not a float32
    θ = parameters_of(net)
    refuses(
        NonFiniteError,
        "No weight has changed",
        lambda: fit(net, y=[np.zeros((len(x), K), "float32") for x in XS]),
    )
    same(parameters_of(net), θ)


# Samples and targets that mean the same


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
    ids=[
        "integers",
        "NumPy's integers",
        "uint8",
        "rows",
        "rows of integers",
        "lists",
        "mixed rows",
    ],
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


@pytest.mark.parametrize(
    "kind",
    [lambda x: [a.tolist() for a in x], tuple, lambda x: [frozen(np.asfortranarray(a)) for a in x]],
    ids=["lists", "tuple", "Fortran order, read-only"],
)
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
    same(
        trained(classifier(), symbols, CLASSES),
        trained(classifier(), [np.eye(M, dtype="float32")[s] for s in symbols], CLASSES),
    )


def test_symbols_of_different_integer_types_share_a_batch():
    net = Network([RNN(400, 2, **REFERENCE)])
    small, large = np.array([7], "uint8"), np.array([300])
    same(net.predict([small, large])[1], net.predict([large])[0])


def test_lists_of_integers_are_symbols():
    same(
        classifier().predict([[0, 3, 1], [2]]),
        classifier().predict([np.array([0, 3, 1]), np.array([2])]),
    )
