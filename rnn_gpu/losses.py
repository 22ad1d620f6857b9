"""A loss over rows of outputs: what it is, its gradient, and what a class label means to it."""

import numpy as np

from . import arguments
from .errors import ArgumentError, DtypeError, ShapeError
from .kernels.losses import LOSSES, Loss
from .kernels.once import once


@once
def value_and_slope(loss: Loss):
    """(o, t, log_sum) -> (loss, its slope), one formula for one kernel."""
    value, slope = loss.value, loss.slope

    def both(o, t, log_sum):
        return value(o, t, log_sum), slope(o, t, log_sum)

    return both


def log_sum_exp(o):
    """ln Σ exp(o) over the last axis, kept; the largest taken out first."""
    largest = o.max(-1, keepdims=True)
    return largest + np.log(np.exp(o - largest).sum(-1, keepdims=True))


class Objective:
    """E = Σ weight · loss(o, t) / Σ weight, over the rows (steps and samples) of o (T, B, k)."""

    def __init__(self, name: str):
        self.loss = LOSSES[arguments.choice("loss", name, LOSSES)]

    def terms(self, device, o, target):
        """The loss of every output and its slope, both (T, B, k), before they are weighted."""
        E, do = device.empty(o.shape, o.dtype), device.empty(o.shape, o.dtype)
        log_sum = (
            device.array(np.broadcast_to(log_sum_exp(o), o.shape), o.dtype)
            if self.loss.classes == "exclusive"
            else o
        )
        device.elementwise(value_and_slope(self.loss), (E, do), (o, target, log_sum))
        return E, do

    def __call__(self, device, o, target, weight):
        """o, target (T, B, k), weight (T, B) -> (E as a float, dE/do (T, B, k)); arrays of the
        device.
        """
        E, do = self.terms(device, o, target)
        live = weight[:, :, None] != 0  # what is not counted may be anything, even NaN
        total = float(weight.sum())
        E = (
            float(
                (np.where(live, E, o.dtype.type(0)).astype(np.float64) * weight[:, :, None]).sum()
            )
            / total
        )
        scale = weight[:, :, None] / o.dtype.type(total)
        return E, np.where(live, do * scale, o.dtype.type(0))

    def correct(self, o, target, weight) -> float | None:
        """The share of rows whose most likely class is the target's; None where the loss knows no
        classes.
        """
        if not self.loss.classes:
            return None
        if self.loss.classes == "binary":
            hit = ((o > 0) == (target > 0.5)).all(-1)
        else:
            hit = o.argmax(-1) == target.argmax(-1)
        return float((hit * weight).sum() / weight.sum())

    def target(self, name: str, y, rows: int | None, k: int, dtype: str):
        """One sample's target as (rows, k) numbers; class labels (rows,) become one-hot (or, for
        binary, 0 and 1).

        rows is None for a target of the whole sample: a label, or (k,).
        """
        a = arguments.as_array(name, y, dtype)
        if a.dtype.kind not in "fiub":
            raise DtypeError(f"{name} is {a.dtype}, expected numbers")
        shape = (k,) if rows is None else (rows, k)
        labels = self.loss.classes == "exclusive" and a.dtype.kind in "iu"
        if labels and a.shape == shape[:-1]:
            if a.size and (a.min() < 0 or a.max() >= k):
                raise ArgumentError(
                    f"{name} has the class {a.min() if a.min() < 0 else a.max()}, expected "
                    f"0..{k - 1}"
                )
            return arguments.one_hot(a, k, dtype).reshape(-1, k)
        if k == 1 and a.shape == shape[:-1]:
            a = a[..., None]
        if a.shape != shape:
            raise ShapeError(
                f"{name} has shape {a.shape}, expected {shape}"
                + (f", or {shape[:-1]} class labels" if labels else "")
            )
        if a.dtype.kind in "iub":
            a = a.astype(dtype)
        if a.dtype != dtype:
            raise DtypeError(f"{name} is {a.dtype}, but this network was built for {dtype}")
        arguments.finite(name, a)
        return a.reshape(-1, k)
