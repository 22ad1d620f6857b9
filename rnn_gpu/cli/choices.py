"""What says how data are read: it is kept in the model, and so found again."""

from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ArgumentError
from .tables import Format

BUILT_IN = ("vowels", "python-manual")
OF_TABLES = ("forecast", "classify")  # the first is what a file is for where nothing is said
SUFFIXES = {".csv": OF_TABLES, ".tsv": OF_TABLES, ".npz": ("classify",), ".txt": ("text",)}


class Defaults(NamedTuple):
    """What `train` takes where nothing is said."""

    hidden: int
    batch_size: int
    epochs: int
    patience: int
    learning_rate: float = 3e-3
    falls: bool = False  # the learning rate, along a cosine to zero


class Chosen(NamedTuple):
    """The options of `train` that concern data; `data` and `task` are found where None came."""

    data: str
    task: str | None = None
    target: str | None = None
    columns: tuple[str, ...] = ()
    time: str | None = None
    sequence: str | None = None
    window: int = 96
    horizon: int = 1
    season: int | None = None
    calendar: bool = True
    missing: str = "refuse"
    delimiter: str | None = None
    decimal: str = "."
    dates: str | None = None
    test: str | None = None
    validation: float = 0.15
    seed: int = 0

    @property
    def format(self) -> Format:
        """How a CSV file is written."""
        return Format(self.delimiter, self.decimal, self.dates)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.data)

    def resolved(self) -> "Chosen":
        """With the task that suits the data.  ArgumentError for what is no file, nor built in."""
        suffix = self.path.suffix.lower()
        if self.data in BUILT_IN:
            tasks = ("classify",) if self.data == "vowels" else ("text",)
        elif not self.path.is_file():
            raise ArgumentError(
                f"--data is {self.data!r}, which is no file, expected one, or "
                f"{' or '.join(BUILT_IN)}"
            )
        elif suffix not in SUFFIXES:
            raise ArgumentError(
                f"--data is {self.data!r}, expected a file that ends in {', '.join(SUFFIXES)}"
            )
        else:
            tasks = SUFFIXES[suffix]
        task = self.task or tasks[0]
        if task not in tasks:
            raise ArgumentError(
                f"--task is {task}, but what can be done with {self.data} is {' or '.join(tasks)}"
            )
        return self._replace(task=task)

    def test_share(self, default: float) -> float:
        """--test as a share, for what has no time."""
        if self.test is None:
            return default
        try:
            share = float(self.test)
        except ValueError:
            share = -1.0
        if not 0 < share < 1:
            raise ArgumentError(f"--test is {self.test!r}, expected a share between 0 and 1")
        return share


def words_of(chosen: Chosen) -> dict:
    """In JSON's types."""
    return chosen._asdict() | {"columns": list(chosen.columns)}


def chosen_of(words: dict[str, Any]) -> Chosen:
    """What `words_of` wrote down."""
    return Chosen(**{**words, "columns": tuple(words["columns"])})
