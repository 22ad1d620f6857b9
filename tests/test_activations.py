"""Activations and losses far from zero: every digit is right where the value is small, on every
device, scalars and vectors.
"""

import numpy as np
import pytest

import rnn_gpu
from conftest import RTOL
from rnn_gpu.device import resolve
from rnn_gpu.kernels import activations
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.devices import reference
from rnn_gpu.kernels.losses import LOSSES, value_and_slope

# among them the corner of hard_sigmoid
Z = np.concatenate([np.linspace(-80, 80, 33), [-18.0, -3.0 + 2.0**-20, -1e-6, 0.0, 1e-6]])
EXACT = {  # of numbers with more digits than any dtype of ours
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, z / 100),
    "elu": lambda z: np.where(z > 0, z, np.expm1(z)),
    "softsign": lambda z: z / (1 + abs(z)),
    "softplus": lambda z: np.log1p(np.exp(z)),
    "hard_sigmoid": lambda z: np.clip((z + 3) / 6, 0, 1),
}


def right(got, exact, dtype):
    """Every number of `got` to the house's tolerance of its own size."""
    assert got.dtype == dtype and np.isfinite(got).all()
    exact = exact.astype(float)
    assert (abs(got - exact) <= RTOL[dtype] * abs(exact)).all(), got[
        np.argmax(abs(got - exact) / (abs(exact) + 1e-300))
    ]


def test_every_activation_is_looked_at():
    assert set(EXACT) == set(ACTIVATIONS)


@pytest.mark.quick_on_devices("tanh", "reference")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_right_to_the_last_digits_of_small_values(name, device, dtype):
    z = Z.astype(dtype)
    exact = EXACT[name](z.astype(np.longdouble))
    dense = rnn_gpu.Dense(1, 1, name, device=device, dtype=dtype)
    dense.parameters["V"][...] = 1
    right(dense(z[:, None])[:, 0], exact, dtype)
    # whose units are vectors on the CPU
    layer = rnn_gpu.RNN(1, 2, name, device=device, dtype=dtype)
    layer.parameters["U"][...], layer.parameters["W"][...] = 1, 0
    y, _ = layer(z[None, :, None])
    right(y[0, :, 0], exact, dtype)


@pytest.mark.parametrize("target", [0, 1])
def test_the_cross_entropy_of_two_is_right_where_its_answer_is(target, device, dtype):
    """−ln σ(o), and its slope −σ(−o), of the answer 1; the loss that is left may be small."""
    d, o = resolve(device, dtype), Z.astype(dtype)
    t, E, do = np.full_like(o, target), *np.empty((2, *o.shape), dtype)
    E, do, o, t = (d.array(a, dtype) for a in (E, do, o, t))
    d.elementwise(value_and_slope(LOSSES["binary_cross_entropy"]), (E, do), (o, t, o))
    z = Z.astype(dtype).astype(np.longdouble) * (1 - 2 * target)
    right(d.numpy(E), np.log1p(np.exp(z)), dtype)
    right(d.numpy(do), (1 - 2 * target) / (1 + np.exp(-z)), dtype)


@pytest.mark.parametrize("name", sorted({"gate"} | set(ACTIVATIONS)))
def test_a_formula_of_float32_stays_float32(name):
    assert reference.formula(getattr(activations, name))(Z.astype("float32")).dtype == "float32"
