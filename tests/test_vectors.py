"""Formulas compiled on vectors: every function as near as the bound says, every lane its own,
nothing beyond the array touched.
"""

import math

import numpy as np
import pytest

import rnn_gpu
from conftest import close
from rnn_gpu.kernels.activations import ACTIVATIONS, gate
from rnn_gpu.kernels.binding.closures import tuple_of
from rnn_gpu.kernels.binding.names import NAMES, SAME_NAME
from rnn_gpu.kernels.devices import reference
from rnn_gpu.kernels.devices.cpu.compilation import jit, within
from rnn_gpu.kernels.devices.cpu.recurrence import formula
from rnn_gpu.kernels.devices.cpu.simd import lanes
from rnn_gpu.kernels.devices.cpu.windows import LOAD, STORE, transpose, window

# measured: 2.5, 1.01, 1.8, 0.5, 0.76
ULP = {"tanh": 3.0, "exp": 1.5, "expm1": 2.0, "sqrt": 0.51, "log1p": 1.0}
SPECIAL = [
    math.nan,
    math.inf,
    -math.inf,
    0.0,
    -0.0,
    1e-30,
    88.5,
    -100.0,
    709.5,
    -740.0,
    1000.0,
    -1000.0,
]


def on_vectors(f, *arrays):
    """f of arrays of one shape, computed by vectors, the last of them only partly filled."""
    number = arrays[0].dtype.type
    f, L, count = formula(f, number, True), lanes(number), len(arrays)
    load, load_masked = LOAD["vector"], LOAD["masked"]
    spread = tuple_of(count, within(lambda k, a, i: load(a, (k, i), 0)), within)
    spread_some = tuple_of(count, within(lambda k, a, i, n: load_masked(a, (k, i), n)), within)
    store, store_masked = STORE["vector"], STORE["masked"]

    @jit
    def kernel(x, y):
        a, o, n = window(x), window(y), x.shape[1]
        for i in range(0, n - n % L, L):
            store(o, (i,), L, f(*spread(a, i)))
        if n % L:
            i = n - n % L
            store_masked(o, (i,), n - i, f(*spread_some(a, i, n - i)))

    out = np.full(arrays[0].size + 1, 7.0, number)
    kernel(np.stack(arrays), out[:-1])
    assert out[-1] == 7
    return out[:-1]


@pytest.mark.parametrize("name", ULP)
def test_functions_keep_their_bound(name, dtype):
    z = np.concatenate(
        [np.linspace(-12, 12, 20001), np.logspace(-20, 0, 5000), -np.logspace(-20, 0, 4999)]
    ).astype(dtype)
    z = np.abs(z) if name in ("sqrt", "log1p") else z
    exact = getattr(np, name)(z.astype(np.longdouble))
    got = on_vectors(eval(f"lambda z: math.{name}(z)"), z)
    assert np.max(np.abs(got - exact) / np.spacing(np.abs(exact.astype(dtype)))) <= ULP[name]


@pytest.mark.parametrize("name", ["tanh", "exp", "expm1", "sqrt"])
def test_what_is_not_finite_is_as_in_numpy(name, dtype):
    z = np.array(SPECIAL, dtype)
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(z)
    np.testing.assert_allclose(
        on_vectors(eval(f"lambda z: math.{name}(z)"), z), expected, rtol=1e-6
    )


@pytest.mark.parametrize("most", [20.0, 60.0])
def test_a_gate_is_near_beside_1_and_beside_itself(most, dtype):
    z = np.linspace(-most, most, 40001).astype(dtype)
    exact = 1 / (1 + np.exp(-z.astype(np.longdouble)))
    got, ε = on_vectors(gate, z), np.finfo(dtype).eps
    assert np.max(np.abs(got - exact)) <= 0.9 * ε
    if dtype == "float32":  # of a float64 it is half of 1 + tanh
        assert np.max(np.abs(got - exact) / exact) <= most * ε


def test_a_gate_of_what_is_not_finite_is_one_of_its_ends(dtype):
    every_bit = np.full(np.dtype(dtype).itemsize, 255, np.uint8).view(dtype)
    got = on_vectors(gate, np.concatenate([np.array(SPECIAL, dtype), every_bit]))
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-np.array([*SPECIAL, math.nan])))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-15)


NUMPYS = {of_math: of_numpy for of_numpy, of_math in NAMES.items()}


@pytest.mark.parametrize(
    "name",
    [
        # one function by two names is compiled twice
        pytest.param(name, marks=[pytest.mark.slow] * (name not in NAMES))
        for name in sorted({*SAME_NAME, *NAMES, *NUMPYS} - {"abs"})
    ],
)
def test_every_function_a_formula_may_use_works_on_vectors(name):
    rng = np.random.default_rng(0)
    inputs = [
        rng.uniform(0.1, 0.9, 21) + (name in ("arccosh", "acosh"))
        for _ in range(2 if name in ("hypot", "power", "pow", "arctan2", "atan2") else 1)
    ]
    text = f"{'np' if hasattr(np, name) else 'math'}.{name}"
    arguments = "ab"[: len(inputs)]
    expected = getattr(np, NUMPYS.get(name, name))(*inputs)
    close(
        on_vectors(eval(f"lambda {', '.join(arguments)}: {text}({', '.join(arguments)})"), *inputs),
        expected,
    )


def test_operators_and_choices_work_on_vectors(dtype):
    def plain(a, b):
        both = np.where((a > b) & (b >= -0.5) | ~(a != 3.0), a - 2 * b, -a / (1.0 + abs(b)))
        return np.maximum(both, np.minimum(b, 0.25)) + np.sign(b) * np.square(a) + a**2 - b**-1

    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=37).astype(dtype) for _ in range(2))
    a[3] = 3
    close(on_vectors(plain, a, b), plain(a, b), dtype)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("tanh", "softplus", "elu")))
        for name in ACTIVATIONS
    ],
)
def test_activations_on_vectors_are_the_references(name, dtype):
    z = np.linspace(-4, 4, 45).astype(dtype)
    y = reference.formula(ACTIVATIONS[name].f)(z)
    close(on_vectors(ACTIVATIONS[name].f, z), y, dtype)
    close(on_vectors(ACTIVATIONS[name].df, y), reference.formula(ACTIVATIONS[name].df)(y), dtype)


def test_nan_passes_through_choices():
    z = np.array([np.nan, 1.0, np.nan, -1.0])
    assert np.isnan(on_vectors(ACTIVATIONS["relu"].f, z)[[0, 2]]).all()
    assert np.isnan(on_vectors(lambda a, b: np.minimum(a, b), z[::-1].copy(), z)).all()


def test_a_square_is_transposed(dtype):
    L = lanes(dtype)
    a = np.random.default_rng(0).normal(size=(L + 3, 2 * L)).astype(dtype)
    out = np.zeros((2, L, L), dtype)

    @jit
    def turn(a, out):
        transpose(window(a), 3, L - 1, window(out), (1, 0, 0))

    turn(a, out)
    assert (out[1] == a[3:, L - 1 : 2 * L - 1].T).all() and (out[0] == 0).all()


def leaky(z):
    return z if z > 0 else 0.25 * z


def dleaky(y):
    return 1.0 if y > 0 else 0.25


def test_a_formula_that_says_if_goes_one_number_at_a_time():
    x, dy = np.random.default_rng(0).normal(size=(2, 4, 3, 19)).astype("f")
    layers = [
        rnn_gpu.RNN(19, 19, activation=(leaky, dleaky), device=device)
        for device in ("cpu", "reference")
    ]
    assert "one number at a time" in layers[0].explain(4, 3) and "on vectors" in rnn_gpu.LSTM(
        3, 5, device="cpu"
    ).explain(4, 3)
    (y, s), (expected, s_expected) = (layer(x) for layer in layers)
    close(y, expected, "float32"), close(s, s_expected, "float32")
    for got, wanted in zip(layers[0].backward(dy), layers[1].backward(dy), strict=True):
        close(got, wanted, "float32")
