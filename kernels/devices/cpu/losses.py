"""The loss of rows of outputs and its slope, in one walk over them."""

import numpy as np

from ...losses import Loss, are_labels, exp_below, log_above, value_and_slope
from ...once import once
from .compilation import jit, within
from .memory import empty
from .recurrence import formula
from .stored import keep


@within
def first_largest(a, row):
    """Where a row is largest, as NumPy's argmax has it: NaN is the largest, of equals the first
    counts.
    """
    at = 0
    for j in range(1, a.shape[1]):
        best, other = a[row, at], a[row, j]
        if best == best and (other > best or other != other):
            at = j
    return at


@once
def log_sum_of(kind: Loss, number):
    """(o, row) -> ln Σ exp(o) of a row; a number that nobody looks at where the loss does not."""
    if kind.classes != "exclusive":
        return within(lambda o, row: o[row, 0])
    term, together = formula(exp_below, number), formula(log_above, number)
    LOWEST, NOTHING = number(-np.inf), number(0)

    @within
    def log_sum(o, row):
        largest, total = LOWEST, NOTHING
        for j in range(o.shape[1]):
            largest = max(largest, o[row, j])
        for j in range(o.shape[1]):
            total += term(o[row, j], largest)
        return together(total, largest)

    return log_sum


@once
def hit_of(kind: Loss, number, labels: bool):
    """(o, target, row) -> is the most likely class of a row the target's."""
    NOTHING, HALF = number(0), number(0.5)

    @within
    def of_class(o, target, row):
        return first_largest(o, row) == target[row]

    @within
    def exclusive(o, target, row):
        return first_largest(o, row) == first_largest(target, row)

    @within
    def binary(o, target, row):
        good = True
        for j in range(o.shape[1]):
            good &= (o[row, j] > NOTHING) == (target[row, j] > HALF)
        return good

    if kind.classes == "exclusive":
        return of_class if labels else exclusive
    return binary if kind.classes else within(lambda o, target, row: False)


@once
def loss_kernel(kind: Loss, number, labels: bool):
    """The kernel of `Device.loss`."""
    both, log_sum_of_row = formula(value_and_slope(kind), number), log_sum_of(kind, number)
    hit_of_row, NOTHING, ONE = hit_of(kind, number, labels), number(0), number(1)

    @within
    def of_label(target, row, j):
        return ONE if target[row] == j else NOTHING

    target_of = of_label if labels else within(lambda target, row, j: target[row, j])

    @jit
    def loss(o, target, weight, total, do):
        """`Device.loss`, of rows o (R, k), target (R, k) or (R,), weight (R,).  Overwrites do."""
        E, right = 0.0, 0.0
        for row in range(len(o)):
            w = weight[row]
            if w == NOTHING:
                do[row] = NOTHING
                continue
            scale, log_sum, of_row = w / total[0], log_sum_of_row(o, row), 0.0
            for j in range(o.shape[1]):
                value, slope = both(o[row, j], target_of(target, row, j), log_sum)
                of_row += np.float64(value)
                do[row, j] = slope * scale
            E += of_row * np.float64(w)
            if hit_of_row(o, target, row):
                right += np.float64(w)
        return E, right

    return keep(loss, kind, exp_below, log_above, number, labels)


def loss(kind: Loss, o, target, weight, total):
    labels, k = are_labels(o, target), o.shape[-1]
    do, rows = empty(o.shape, o.dtype), (weight.size, k)
    kernel = loss_kernel(kind, o.dtype.type, labels)
    each = target.reshape(-1) if labels else target.reshape(rows)
    sums = kernel(o.reshape(rows), each, weight.reshape(-1), total, do.reshape(rows))
    return do, np.array([sums])
