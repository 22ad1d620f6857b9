"""Activations: y = f(z), and directly below it its derivative, from the value y."""

import numpy as np

from . import Activation, Operator


def identity(z):
    return z


def didentity(y):
    return y * 0.0 + 1.0  # NaN stays NaN


def sigmoid(z):
    """1/(1 + e⁻ᶻ), every digit of it at either end."""
    e = np.exp(-abs(z))  # e⁻ᶻ itself would overflow far below zero
    return np.where(z >= 0.0, 1.0, e) / (1.0 + e)


def dsigmoid(y):
    return y - y * y


def gate(z):
    """sigmoid as the gates of cells compute it: right to an epsilon of 1, not of y, which below
    z = −15 in float32 is 0 or 6e-8.

    A gate scales what it lets through, so an error that is small beside 1 is small beside what
    comes out. Its derivative from y is dsigmoid. The CPU has a quicker one on vectors: `gate` of
    devices/cpu/simd.py.
    """
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def tanh(z):
    return np.tanh(z)


def dtanh(y):
    return 1.0 - y * y


def relu(z):
    return np.maximum(z, 0.0)


def drelu(y):
    return np.where(y > 0.0, 1.0, 0.0)


def leaky_relu(z):
    """Slope 0.01 below zero, as in torch."""
    return np.where(z > 0.0, z, 0.01 * z)


def dleaky_relu(y):
    return np.where(y > 0.0, 1.0, 0.01)


def elu(z):
    """α = 1."""
    return np.where(z > 0.0, z, np.expm1(np.minimum(z, 0.0)))


def delu(y):
    return np.where(y > 0.0, 1.0, 1.0 + y)


def softsign(z):
    return z / (1.0 + abs(z))


def dsoftsign(y):
    return (1.0 - abs(y)) ** 2


def softplus(z):
    return np.maximum(z, 0.0) + np.log1p(np.exp(-abs(z)))


def dsoftplus(y):
    return -np.expm1(-y)


def hard_sigmoid(z):
    """z/6 + ½ cut to [0, 1], as in torch and Keras 3."""
    # z + 3 is exact where y is small
    return np.minimum(np.maximum(z + 3.0, 0.0), 6.0) * (1.0 / 6.0)


def dhard_sigmoid(y):
    return np.where((y > 0.0) & (y < 1.0), 1.0 / 6.0, 0.0)


ACTIVATIONS = {  # each with what ONNX calls it, None where it does not have it
    name: Activation(name, globals()[name], globals()["d" + name], onnx)
    for name, onnx in {
        "identity": Operator("Identity"),
        "sigmoid": Operator("Sigmoid"),
        "tanh": Operator("Tanh"),
        "relu": Operator("Relu"),
        "leaky_relu": Operator("LeakyRelu", attributes=(("alpha", 0.01),)),
        "elu": Operator("Elu", attributes=(("alpha", 1.0),)),
        "softsign": Operator("Softsign"),
        "softplus": Operator("Softplus"),
        "hard_sigmoid": Operator("HardSigmoid", attributes=(("alpha", 1 / 6), ("beta", 0.5))),
    }.items()
}
