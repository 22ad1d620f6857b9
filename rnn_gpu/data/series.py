"""Windows of a series, to forecast what follows each."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import arguments
from ..errors import ArgumentError, ShapeError
from ..outline import fields


class Windows(NamedTuple):
    """Windows of a series, and what follows each: as Network.fit takes them, steps="last"."""

    x: np.ndarray | list[np.ndarray]  # (N, window, m); a list of (≤ window, m) where rows may miss
    y: np.ndarray  # (N, horizon), or (N, horizon·m) of all columns, step by step
    rows: np.ndarray  # (N,), the row of the series where each y begins

    def __repr__(self) -> str:
        return fields(self)


def windows(
    series: ArrayLike,
    window: int,
    horizon: int = 1,
    *,
    target: int | None = None,
    stride: int = 1,
    missing: str = "refuse",
) -> Windows:
    """Every `stride`-th window of a series, and the `horizon` rows that follow it.

    series   (T, m), or (T,) of one column; NaN is a number that is missing
    target   the column that is forecast; None is all of them
    missing  "refuse", or "mask": a row where any number is missing is a step that does not happen.
             It is left out of its window, which is what `mask` of a layer does; a window of which
             nothing is left, or to which a target is missing, is left out
    x is a view of the series where nothing is masked.
    Raises ArgumentError, ShapeError.
    """
    a = column_wise("series", series)
    window, horizon = arguments.size("window", window), arguments.size("horizon", horizon)
    stride = arguments.size("stride", stride)
    arguments.choice("missing", missing, ("refuse", "mask"))
    T, m = a.shape
    if target is not None and not 0 <= arguments.seed("target", target) < m:
        raise ArgumentError(f"target is {target}, but series has the columns 0..{m - 1}")
    if missing == "refuse":
        whole("series", a)
    count = (T - window - horizon) // stride + 1
    if window + horizon > T:
        raise ShapeError(
            f"series has {T} rows, expected at least window + horizon = {window + horizon}"
        )
    cut = np.lib.stride_tricks.sliding_window_view
    x = cut(a[: T - horizon], window, axis=0)[::stride].swapaxes(1, 2)
    y = cut(a[window:], horizon, axis=0)[::stride].swapaxes(1, 2)  # (N, horizon, m)
    y = y.reshape(count, -1) if target is None else np.ascontiguousarray(y[:, :, target])
    rows = window + stride * np.arange(count)
    if missing == "refuse":
        return Windows(x, y, rows)
    here = [~np.isnan(one).any(1) for one in x]
    kept = [i for i in range(count) if here[i].any() and not np.isnan(y[i]).any()]
    if not kept:
        raise ArgumentError("series has no window whose target is there: too much is missing")
    return Windows([x[i][here[i]] for i in kept], y[kept], rows[kept])


def column_wise(name: str, series: ArrayLike) -> np.ndarray:
    """A series at the door as (T, m) floats."""
    a = arguments.as_array(name, series, "float64")
    if a.ndim not in (1, 2) or not a.size:
        raise ShapeError(f"{name} has shape {a.shape}, expected (T, m) or (T,), not empty")
    a = a.astype("float64") if a.dtype.kind in "iub" else a
    if a.dtype.kind != "f":
        raise ArgumentError(f"{name} is {a.dtype}, expected numbers")
    if np.isinf(a).any():
        raise ArgumentError(
            f"{name} has an infinite number in row {np.argwhere(np.isinf(a))[0][0]}"
        )
    return a.reshape(len(a), -1)


def whole(name: str, a: np.ndarray):
    """ArgumentError, which says where, if a number of a (T, m) is missing."""
    gaps = np.argwhere(np.isnan(a))
    if len(gaps):
        row, column = gaps[0]
        raise ArgumentError(
            f"{name} has {len(gaps)} missing numbers, the first in row {row}, column {column}: "
            'fill them in, or say missing="mask"'
        )
