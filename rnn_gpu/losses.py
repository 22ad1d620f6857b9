"""A loss over rows of outputs: what it is, its gradient, and what a class label means to it.

The loss of a row (a step of a sample) is the *sum* over its k outputs, of a network the *mean* over
all rows that count, each with its weight:

squared_error          ½(t − o)²
mae                    |t − o|
huber                  ½(t − o)² up to |t − o| = δ, from there on δ(|t − o| − ½δ); "huber(0.5)" has
                       δ = 0.5, "huber" δ = 1
poisson                exp(o) − t·o, of a count t, whose logarithmic rate is o
binary_cross_entropy   −t ln σ(o) − (1 − t) ln(1 − σ(o)), from the logit o
softmax_cross_entropy  −t ln softmax(o), from the logits o; t a class's number, or k shares that sum
                       to 1
(f, df)                your own f(o, t) and its slope df(o, t): see rnn_gpu.loss
"""

import numpy as np

from . import arguments
from .derivatives import LossLike, loss
from .errors import ArgumentError, DtypeError, ShapeError
from .kernels.losses import as_rows, terms

LABELS = {"float32": "int32", "float64": "int64"}  # of class labels, as large as the numbers


class Objective:
    """E = Σ weight · loss(o, t) / Σ weight, over the rows (steps and samples) of o (T, B, k)."""

    def __init__(self, of: LossLike):
        self.loss = loss(of)

    def terms(self, device, o, target):
        """The loss of every output and its slope, both (T, B, k), before they are weighted."""
        if target.ndim < o.ndim:
            rows = as_rows(device.numpy(o), device.numpy(target))
            target = device.array(rows, o.dtype)
        return terms(self.loss, o, target, device.elementwise, device.empty)

    def __call__(self, device, o, target, weight):
        """o, target (T, B, k) or class labels (T, B), weight (T, B) -> (E as a float, dE/do
        (T, B, k)); arrays of the device.
        """
        total = float(weight.sum())
        do, sums = device.loss(self.loss, o, target, weight, device.array([total], o.dtype))
        summed, hits = device.numpy(sums).sum(0)
        return self.means(summed, hits, total, o.dtype)[0], do

    def means(self, summed, hits, total: float, dtype) -> tuple[float, float | None]:
        """The sums of Device.loss and Σ weight, numbers -> (E, the share of rows whose most likely
        class is the target's, None where the loss knows no classes).
        """
        number = np.dtype(dtype).type
        correct = float(number(hits) / number(total)) if self.loss.classes else None
        return float(summed) / total, correct

    def target(self, name: str, y, rows: int | None, k: int, dtype: str):
        """One sample's target as (rows, k) numbers; class labels stay (rows,) integers where the
        classes are exclusive, and are 0 and 1 for binary.

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
            return a.reshape(-1).astype(LABELS[dtype])
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
        if self.loss.name == "poisson" and (a < 0).any():
            raise ArgumentError(f"{name} has {a.min()}, expected counts of at least 0")
        return a.reshape(-1, k)


def alike(targets: list, k: int, dtype: str) -> list:
    """Targets of one kind: labels (rows,) where all are, else (rows, k) numbers, of which those of
    a label are 1 at the class and 0 elsewhere.
    """
    if len({a.ndim for a in targets}) < 2:
        return targets
    return [arguments.one_hot(a, k, dtype) if a.ndim == 1 else a for a in targets]
