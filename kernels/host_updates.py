"""What an update takes, on devices whose arrays are NumPy's: loss, norms of gradients, the change.

A GPU answers the same without being waited for (see devices/cuda/reductions.py): sums are arrays of
parts that nobody has added up. Here there is one part.
"""

from collections.abc import Callable, Iterable, Sequence
from math import inf, isfinite

import numpy as np

from . import Change, Report
from .losses import Loss, as_rows, hits, terms


def host_loss(elementwise: Callable, empty: Callable) -> Callable:
    """`Device.loss`, array after array, by a device's own `elementwise` and `empty`."""

    def loss(kind: Loss, o, target, weight, total):
        target = as_rows(o, target)
        E, do = terms(kind, o, target, elementwise, empty)
        each, nothing = weight[:, :, None], o.dtype.type(0)
        live = each != 0
        summed = (np.where(live, E, nothing).astype(np.float64) * each).sum()
        right = (hits(kind, o, target) * weight).sum() if kind.classes else 0.0
        do = np.where(live, do * (each / total), nothing)
        return do, np.array([[summed, right]], np.float64)

    return loss


def host_update(elementwise: Callable) -> Callable:
    """`Device.update`, by a device's own `elementwise`."""

    def update(change: Change, sums, norms, changes: bool = True):
        (summed, right), (square, within, peak) = sums[0].tolist(), norms
        value, bound, largest, *scalars = change.scalars.tolist()
        number, norm = change.grads[0].dtype.type, within**0.5
        factor = number(bound / norm) if norm > bound else number(1)
        taken = isfinite(summed) and isfinite(square) and not number(peak) * factor > largest
        if taken and changes:
            clip(change.grads, value, factor)
            for θ, moments, g in zip(change.parameters, change.moments, change.grads, strict=True):
                outputs = (θ, *moments)
                elementwise(change.formula, outputs, (*outputs, g), scalars)
        return np.array(Report(summed, right, square, taken), np.float64)

    return update


def norms(grads: Sequence, scalars):
    """`Device.norms`; the largest number only where it may be more than an optimizer can take."""
    value, bound, largest, *_ = scalars.tolist()
    square = within = sum_of_squares(grads)
    if value < inf and bound < inf:
        within = sum_of_squares(np.clip(g, -value, value) for g in grads)
    peak = 0.0
    if square**0.5 > largest:
        peak = min(value, max(float(abs(g).max()) for g in grads))
    return square, within, peak


def sum_of_squares(arrays: Iterable) -> float:
    """Σ g² over all arrays, in float64."""
    return float(sum(float((g.astype(np.float64) ** 2).sum()) for g in arrays))


def clip(grads: Sequence, value: float, factor):
    """Bound gradients in place: each number, then all by one factor."""
    for g in grads:
        if value < inf:
            np.clip(g, -value, value, out=g)
        if factor != 1:
            g *= factor
