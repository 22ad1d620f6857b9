"""Losses of one output o against its target t, and directly below each its slope dE/do.

log_sum is ln Σ exp(o) over the outputs of the same row; only the softmax looks at it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .activations import sigmoid
from .once import once


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


def mae(o, t, log_sum):
    """|t − o|."""
    return abs(t - o)


def dmae(o, t, log_sum):
    return np.sign(o - t)


def poisson(o, t, log_sum):
    """exp(o) − t·o, of a count t whose logarithmic rate is o; without ln t!, which o does not
    change.
    """
    return np.exp(o) - t * o


def dpoisson(o, t, log_sum):
    return np.exp(o) - t


@once
def huber(delta: float) -> Loss:
    """½e² of the error e = t − o up to ±delta, and beyond a straight line with the slope ±delta
    (Huber 1964).
    """

    def value(o, t, log_sum):
        e = abs(t - o)
        return np.where(e <= delta, 0.5 * e * e, delta * (e - 0.5 * delta))

    def slope(o, t, log_sum):
        return np.minimum(np.maximum(o - t, -delta), delta)

    return Loss("huber" if delta == 1 else f"huber({delta!r})", value, slope, "")


@once
def of_outputs(name: str, value: Callable, slope: Callable) -> Loss:
    """The loss of a formula that looks at an output and its target alone, and its slope."""

    def of_row(o, t, log_sum):
        return value(o, t)

    def slope_of_row(o, t, log_sum):
        return slope(o, t)

    return Loss(name, of_row, slope_of_row, "")


LOSSES = {
    name: Loss(name, globals()[name], globals()["d" + name], classes)
    for name, classes in {
        "squared_error": "",
        "mae": "",
        "poisson": "",
        "binary_cross_entropy": "binary",
        "softmax_cross_entropy": "exclusive",
    }.items()
}
LOSSES["huber"] = huber(1.0)


@once
def value_and_slope(loss: Loss):
    """(o, t, log_sum) -> (loss, its slope), one formula for one kernel."""
    value, slope = loss.value, loss.slope

    def both(o, t, log_sum):
        return value(o, t, log_sum), slope(o, t, log_sum)

    return both


def exp_below(o, largest):
    """exp(o − the largest of the row), which cannot overflow: what the sum of ln Σ exp is of."""
    return np.exp(o - largest)


def log_above(total, largest):
    """ln Σ exp(o) from the sum of `exp_below`."""
    return largest + np.log(total)


def log_sum_exp(o):
    """ln Σ exp(o) over the last axis of an array, kept."""
    largest = o.max(-1, keepdims=True)
    return log_above(exp_below(o, largest).sum(-1, keepdims=True), largest)


def terms(loss: Loss, o, target, elementwise: Callable, empty: Callable):
    """The loss of every output and its slope, both (T, B, k), before they are weighted; by the
    functions of a device.
    """
    E, do, log_sum = empty(o.shape, o.dtype), empty(o.shape, o.dtype), o
    if loss.classes == "exclusive":
        log_sum = empty(o.shape, o.dtype)
        log_sum[...] = log_sum_exp(o)
    elementwise(value_and_slope(loss), (E, do), (o, target, log_sum))
    return E, do


def hits(loss: Loss, o, target):
    """(T, B): is the most likely class of a row the target's; of a loss that knows classes."""
    if loss.classes == "binary":
        return ((o > 0) == (target > 0.5)).all(-1)
    return o.argmax(-1) == target.argmax(-1)


def are_labels(o, target) -> bool:
    """Is the target of a row of o a class's number, in place of k numbers?"""
    return target.ndim < o.ndim


def as_rows(o, target):
    """target as k numbers a row, those of class labels 1 at the class and 0 elsewhere; by NumPy."""
    if not are_labels(o, target):
        return target
    return (target[..., None] == np.arange(o.shape[-1])).astype(o.dtype)
