"""A loss over rows of outputs: what it is, its gradient, and what a class label means to it."""

import numpy as np

from . import arguments
from .errors import ArgumentError, DtypeError, ShapeError
from .kernels.losses import LOSSES, terms


class Objective:
    """E = Σ weight · loss(o, t) / Σ weight, over the rows (steps and samples) of o (T, B, k)."""

    def __init__(self, name: str):
        self.loss = LOSSES[arguments.choice("loss", name, LOSSES)]

    def terms(self, device, o, target):
        """The loss of every output and its slope, both (T, B, k), before they are weighted."""
        return terms(self.loss, o, target, device.elementwise, device.empty)

    def __call__(self, device, o, target, weight):
        """o, target (T, B, k), weight (T, B) -> (E as a float, dE/do (T, B, k)); arrays of the
        device.
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
