"""Activations: y = f(z), and directly below it its derivative, from the value y."""

import numpy as np

from . import Activation


def identity(z):
    return z


def didentity(y):
    return y * 0.0 + 1.0  # NaN stays NaN


def sigmoid(z):
    return 0.5 * (1.0 + np.tanh(0.5 * z))  # no overflow at either end


def dsigmoid(y):
    return y - y * y


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
    return np.minimum(np.maximum(z * (1.0 / 6.0) + 0.5, 0.0), 1.0)


def dhard_sigmoid(y):
    return np.where((y > 0.0) & (y < 1.0), 1.0 / 6.0, 0.0)


ACTIVATIONS = {
    name: Activation(name, globals()[name], globals()["d" + name])
    for name in ["identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softsign", "softplus", "hard_sigmoid"]
}
