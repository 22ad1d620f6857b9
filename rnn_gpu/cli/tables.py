"""Tables from CSV files: numbers, labels and times by column, each error with its line."""

import csv
import io
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import ArgumentError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MISSING = {"", "na", "nan", "n/a", "null", "none", "?", "-"}
NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)*|[.,]\d+)([eE][-+]?\d+)?")
COMMA = re.compile(r"[-+]?\d{1,3}(\.\d{3})*,\d+|[-+]?\d+,\d+")


class Format(NamedTuple):
    """How a file is written, where it cannot be seen."""

    delimiter: str | None = None  # None: the one that its first line has
    decimal: str = "."
    dates: str | None = None  # as strptime's; None: ISO 8601


class Table(NamedTuple):
    """A CSV file: its cells as they are written, by column, and the line of each row."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]
    format: Format

    def __len__(self):
        return len(self.lines)

    def place(self, row: int, column: str) -> str:
        """Where a cell is, in words."""
        return f"{self.path}, line {self.lines[row]}, column {column}"

    def column(self, option: str, name: str) -> list[str]:
        """The cells of a column that an option names."""
        if name not in self.columns:
            raise ArgumentError(
                f"{option} is {name!r}, which {self.path} does not have: its columns are "
                f"{', '.join(self.columns)}"
            )
        return self.columns[name]

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64; NaN where a cell is missing."""
        found = np.empty(len(self))
        for row, cell in enumerate(self.columns[name]):
            found[row] = self.number(row, name, cell)
        return found

    def number(self, row: int, name: str, cell: str) -> float:
        """One cell as a number."""
        if cell.lower() in MISSING:
            return np.nan
        text = cell.replace(",", ".") if self.format.decimal == "," else cell
        try:
            value = float(text) if "_" not in text else None
        except ValueError:
            value = None
        if value is not None and np.isfinite(value):
            return value
        hint = ""
        if self.format.decimal == "." and COMMA.fullmatch(cell):
            hint = '; if its comma is a decimal point, say --decimal ","'
        raise ArgumentError(f"{self.place(row, name)}: {cell!r} is no number{hint}")

    def times(self, name: str) -> np.ndarray:
        """A column as datetime64[s], each later than the one before."""
        found = [self.time(row, name, cell) for row, cell in enumerate(self.columns[name])]
        if len({one.utcoffset() for one in found}) > 1:
            found = [one.astimezone(UTC) if one.tzinfo else one for one in found]
        times = np.array([one.replace(tzinfo=None) for one in found], "datetime64[s]")
        back = np.flatnonzero(np.diff(times) <= np.timedelta64(0, "s"))
        if len(back):
            row = back[0] + 1
            raise ArgumentError(
                f"{self.place(row, name)}: {self.columns[name][row]!r} is not later than the row "
                "before; sort the rows by time, one for each time"
            )
        return times

    def time(self, row: int, name: str, cell: str) -> datetime:
        """One cell as a time."""
        try:
            if self.format.dates:
                return datetime.strptime(cell, self.format.dates)
            return datetime.fromisoformat(cell)
        except ValueError:
            kind = f"written as {self.format.dates!r}" if self.format.dates else "in ISO 8601"
            raise ArgumentError(
                f"{self.place(row, name)}: {cell!r} is no time {kind}, such as 2000-06-05 00:30; "
                'say --dates "%d.%m.%Y %H:%M" or the like for others'
            ) from None

    def is_numeric(self, name: str) -> bool:
        """Does the first cell that is not missing look like a number, decimal commas too?"""
        first = next((cell for cell in self.columns[name] if cell.lower() not in MISSING), "")
        return bool(NUMBER.fullmatch(first))

    def is_time(self, name: str) -> bool:
        """Is the first cell a time? A number such as 2000 is none."""
        cell = self.columns[name][0]
        if self.is_numeric(name) and not self.format.dates:
            return False
        try:
            self.time(0, name, cell)
        except ArgumentError:
            return False
        return True


def read_csv(path: Path, format: Format) -> Table:
    """A file with a line of names and a row a line.  ArgumentError says the line that is wrong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path} is not UTF-8 at byte {error.start}: convert it") from None
    except OSError as error:
        raise ArgumentError(f"{path} cannot be read: {error.strerror}") from None
    first = text.partition("\n")[0]
    delimiter = format.delimiter or seen_in(path, first)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ArgumentError(f"{path}, line {reader.line_num}: {error}") from None
    if len(rows) < 2:
        raise ArgumentError(f"{path} has no rows, expected a line of names and one a row")
    names = check_names(path, rows[0])
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            raise ArgumentError(
                f"{path}, line {line} has {len(row)} cells, expected {len(names)}, one for each "
                f"name of line {lines[0]} (delimiter: {DELIMITERS.get(delimiter, delimiter)})"
            )
    columns = {name: [row[k] for row in rows[1:]] for k, name in enumerate(names)}
    return Table(path, columns, lines[1:], format._replace(delimiter=delimiter))


def seen_in(path: Path, first: str) -> str:
    """The delimiter of the first line, which has one, or none in a file of one column."""
    counts = {one: first.count(one) for one in DELIMITERS if one in first}
    if len(counts) > 1 and ";" in counts and "," in counts:
        raise ArgumentError(
            f"{path}, line 1 has both ; and ,: say which divides the columns, --delimiter"
        )
    return max(counts, key=lambda one: counts[one], default=",")


def check_names(path: Path, names: list[str]) -> list[str]:
    """The first row, if it is one of names."""
    if len(set(names)) < len(names) or not all(names):
        raise ArgumentError(
            f"{path}, line 1: its names are {names}, expected each once, none empty"
        )
    if all(re.fullmatch(r"[-+\d.,:/ TZ]+", name) for name in names):
        raise ArgumentError(
            f"{path}, line 1 has {', '.join(names)}, expected the names of the columns"
        )
    return names
