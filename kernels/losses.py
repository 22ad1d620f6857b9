"""Losses of one output o against its target t, and directly below each its slope dE/do.

log_sum is ln Σ exp(o) over the outputs of the same row; only the softmax looks at it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .activations import sigmoid


class Loss(NamedTuple):
    """The sum of value(o, t, log_sum) over a row of k outputs is the loss of that row."""

    name: str
    value: Callable  # (o, t, log_sum) -> E
    slope: Callable  # (o, t, log_sum) -> dE/do
    classes: str  # what a class label means: "" none, "binary" o > 0, "exclusive" the largest o


def squared_error(o, t, log_sum):
    """The tutorial's ½(t − o)²."""
    return 0.5 * (t - o) * (t - o)


def dsquared_error(o, t, log_sum):
    return o - t


def binary_cross_entropy(o, t, log_sum):
    """−t ln σ(o) − (1 − t) ln(1 − σ(o)), from the logit o."""
    return np.maximum(o, 0.0) - o * t + np.log1p(np.exp(-abs(o)))


def dbinary_cross_entropy(o, t, log_sum):
    # σ(o) − t, whose digits are gone where σ(o) rounds to t = 1
    return (1.0 - t) * sigmoid(o) - t * sigmoid(-o)


def softmax_cross_entropy(o, t, log_sum):
    """−t ln softmax(o), from the logits; the targets of a row sum to 1."""
    return t * (log_sum - o)


def dsoftmax_cross_entropy(o, t, log_sum):
    return np.exp(o - log_sum) - t


LOSSES = {
    name: Loss(name, globals()[name], globals()["d" + name], classes)
    for name, classes in {
        "squared_error": "",
        "binary_cross_entropy": "binary",
        "softmax_cross_entropy": "exclusive",
    }.items()
}
