"""A series from a table: the target first, evenly spaced in time, gaps named or marked."""

from typing import NamedTuple

import numpy as np

from ..data import time_features
from ..errors import ArgumentError
from .choices import Chosen
from .tables import Table, read_csv

DAY = np.timedelta64(86_400, "s")


class Series(NamedTuple):
    """Rows in the order of time; NaN is missing."""

    values: np.ndarray  # (T, m), the target first
    names: tuple[str, ...]  # of the m columns
    times: np.ndarray | None  # (T,) datetime64[s]
    known: int  # rows up to the last target; beyond it only the other columns are known
    left_out: tuple[str, ...]  # columns that are no numbers

    @property
    def step(self) -> np.timedelta64:
        """From one row to the next; nothing where there are no times."""
        return np.timedelta64("NaT") if self.times is None else self.times[1] - self.times[0]

    @property
    def season(self) -> tuple[int, str] | None:
        """Rows of a week, or of a day, and what a forecast from one season ago is called."""
        for length, name in ((7 * DAY, "last week"), (DAY, "yesterday")):
            if self.step < length and length % self.step == 0 * DAY:
                rows = int(length // self.step)
                if rows < self.known:
                    return rows, name
        return None

    @property
    def periods(self) -> tuple[str, ...]:
        """What of the calendar may matter."""
        if self.times is None:
            return ()
        span = self.times[-1] - self.times[0]
        there = {"day": self.step < DAY, "week": self.step < 7 * DAY, "year": span > 500 * DAY}
        return tuple(name for name, matters in there.items() if matters)

    def time(self, row: int) -> str:
        """A row by its time, or by its number; beyond the last one too."""
        if self.times is None:
            return str(row)
        return str(self.times[0] + row * self.step).replace("T", " ")

    def calendar(self, periods, rows: int = 0) -> np.ndarray:
        """(T + rows, 2·periods); the rows beyond the last go on in its step."""
        length = len(self.values) + rows
        if not periods or self.times is None:
            return np.empty((length, 0), "float32")
        return time_features(self.times[0] + np.arange(length) * self.step, periods)


def read_series(chosen: Chosen, names: tuple[str, ...] | None = None) -> Series:
    """The series of a file; names: the columns that a model was trained on."""
    if chosen.target is None:
        raise ArgumentError("--target is missing: which column is to be forecast?")
    table = read_csv(chosen.path, chosen.format)
    time = time_column(chosen, table)
    names, left_out = (names, ()) if names else wanted(chosen.target, chosen, table, time)
    for name in names:
        table.column("--target" if name == chosen.target else "--columns", name)
    values = np.stack([table.numbers(name) for name in names], 1)
    there = np.flatnonzero(~np.isnan(values[:, 0]))
    if not len(there):
        raise ArgumentError(f"{table.path}: column {chosen.target} has no number")
    known = int(there[-1]) + 1
    if chosen.missing == "refuse":
        no_gaps(table, values, names, known)
    times = None if time is None else table.times(time)
    if times is not None and time is not None and len(times) > 1:
        values, times, known = evenly(table, values, times, known, chosen.missing, time)
    return Series(values, tuple(names), times, known, left_out)


def time_column(chosen: Chosen, table: Table) -> str | None:
    """The column of times: the one that is named, or the first that holds such."""
    if chosen.time is not None:
        table.column("--time", chosen.time)
        return chosen.time
    return next((name for name in table.columns if table.is_time(name)), None)


def wanted(target: str, chosen: Chosen, table: Table, time: str | None):
    """The target and the other columns of numbers, and those that are none."""
    others = [name for name in table.columns if name not in (target, time)]
    if chosen.columns:
        return (target, *(one for one in chosen.columns if one != target)), ()
    numeric = [name for name in others if table.is_numeric(name)]
    return (target, *numeric), tuple(name for name in others if name not in numeric)


def no_gaps(table: Table, values: np.ndarray, names, known: int):
    """ArgumentError, with line and column, if a number is missing before the last target."""
    gaps = np.argwhere(np.isnan(values[:known]))
    if len(gaps):
        row, column = gaps[0]
        raise ArgumentError(
            f"{table.place(row, names[column])}: a number is missing, the first of {len(gaps)}; "
            "fill them in, or say --missing mask: such rows are then steps that do not happen"
        )


def evenly(table: Table, values, times, known: int, missing: str, time: str):
    """The same in even steps: rows that are not there are rows of NaN, where that is allowed."""
    gaps = np.diff(times)
    step = np.sort(gaps)[len(gaps) // 2]
    odd = np.flatnonzero(gaps % step != np.timedelta64(0, "s"))
    if len(odd):
        row = odd[0] + 1
        raise ArgumentError(
            f"{table.place(row, time)}: {gaps[row - 1]} after the row before, expected steps of "
            f"{step}, as most are"
        )
    wide = np.flatnonzero(gaps > step)
    if len(wide) and missing == "refuse":
        row = wide[0] + 1
        raise ArgumentError(
            f"{table.place(row, time)}: {int(gaps[row - 1] // step) - 1} rows are missing before "
            "it; fill them in, or say --missing mask"
        )
    at = ((times - times[0]) // step).astype(int)
    whole = np.full((at[-1] + 1, values.shape[1]), np.nan)
    whole[at] = values
    return whole, times[0] + np.arange(len(whole)) * step, int(at[known - 1]) + 1
