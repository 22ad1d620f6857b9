"""Scalers: columns to a common size, by what the training part says, and back."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from .. import arguments
from ..errors import ArgumentError, ShapeError
from .series import column_wise


class Scaler:
    """(x − shift) / size, column by column.

    shift, size  (m,) finite numbers; no size is zero
    dtype        of what `scale` gives; `unscale` gives float64

    `Scaler.standard(train)` and `Scaler.min_max(train)` take both from the rows that training may
    see, and from nothing else.
    """

    def __init__(self, shift: ArrayLike, size: ArrayLike, *, dtype: npt.DTypeLike = "float32"):
        self.shift, self.size = (np.atleast_1d(np.asarray(one, "float64")) for one in (shift, size))
        self.dtype = arguments.dtype_name(dtype)
        if self.shift.ndim != 1 or self.shift.shape != self.size.shape:
            raise ShapeError(
                f"shift has shape {self.shift.shape}, size {self.size.shape}, expected (m,) of both"
            )
        for name, a in (("shift", self.shift), ("size", self.size)):
            if not np.isfinite(a).all():
                raise ArgumentError(f"{name} is {a.tolist()}, expected finite numbers")
        if not self.size.all():
            raise ArgumentError(f"size is {self.size.tolist()}, expected numbers other than 0")

    @classmethod
    def standard(cls, train: ArrayLike | Sequence, *, dtype: npt.DTypeLike = "float32"):
        """Mean 0 and standard deviation 1 over the rows of train: (T, m), or a list of (T_i, m).

        What is NaN is left out; a column of one number is only shifted.
        """
        a = all_rows(train)
        size = np.nanstd(a, 0)
        return cls(np.nanmean(a, 0), np.where(size > 0, size, 1.0), dtype=dtype)

    @classmethod
    def min_max(
        cls,
        train: ArrayLike | Sequence,
        low: float = 0.0,
        high: float = 1.0,
        *,
        dtype: npt.DTypeLike = "float32",
    ):
        """The least number of each column of train becomes `low`, the largest `high`."""
        low, high = arguments.number("low", low), arguments.number("high", high)
        if not low < high:
            raise ArgumentError(f"low is {low}, high is {high}, expected low < high")
        a = all_rows(train)
        least, most = np.nanmin(a, 0), np.nanmax(a, 0)
        size = np.where(most > least, most - least, 1.0) / (high - low)
        return cls(least - low * size, size, dtype=dtype)

    def scale(self, x: ArrayLike) -> np.ndarray:
        """x (T, m), or (T,) where there is one column, -> the same shape."""
        a = column_wise("x", x)
        if a.shape[1] != len(self.shift):
            raise ShapeError(f"x has {a.shape[1]} columns, but this scaler has {len(self.shift)}")
        return ((a - self.shift) / self.size).astype(self.dtype).reshape(np.shape(x))

    def unscale(self, y: ArrayLike, column: int | None = None) -> np.ndarray:
        """Back again.  y (…, m); or of any shape, all of one column, where `column` is given."""
        a = np.asarray(y, "float64")
        if column is not None:
            if not 0 <= arguments.seed("column", column) < len(self.shift):
                raise ArgumentError(
                    f"column is {column}, but this scaler has 0..{len(self.shift) - 1}"
                )
            return a * self.size[column] + self.shift[column]
        if a.shape[-1:] != self.shift.shape:
            raise ShapeError(f"y has shape {a.shape}, expected (…, {len(self.shift)})")
        return a * self.size + self.shift

    def to_dict(self) -> dict:
        """In JSON's types, for a model's metadata."""
        return {"shift": self.shift.tolist(), "size": self.size.tolist(), "dtype": self.dtype}

    @classmethod
    def of_dict(cls, words: dict) -> "Scaler":
        """What `to_dict` wrote down."""
        return cls(words["shift"], words["size"], dtype=words["dtype"])


def all_rows(train) -> np.ndarray:
    """train, a table or a list of tables, as rows (T, m), of which every column has a number."""
    several = isinstance(train, (list, tuple)) and train and np.ndim(train[0]) == 2
    parts = train if several else [train]
    names = [f"train[{i}]" for i in range(len(parts))] if several else ["train"]
    a = np.concatenate([column_wise(name, part) for name, part in zip(names, parts, strict=True)])
    empty = np.flatnonzero(np.isnan(a).all(0))
    if len(empty):
        raise ArgumentError(f"train has no number in column {empty[0]}")
    return a
