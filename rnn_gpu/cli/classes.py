"""`--task classify`: a label of each sequence, or of each window of a series."""

from pathlib import Path

import numpy as np

from .. import datasets
from ..data import Scaler
from ..datasets import Sequences
from ..errors import ArgumentError
from ..network import Network
from .choices import Chosen, Defaults, chosen_of, words_of
from .labelled import Labelled
from .series import no_gaps
from .tables import Table, read_csv

TEST = 0.25
NONE = ""  # the label of what has none


class Classes(Labelled):
    """Labelled sequences; and what a network says of them.

    words  what `metadata` gave of another: its columns, scaler and labels are taken, not fitted
    whole  True: all of the data are there to test
    """

    task = "classify"
    loss, steps, embedded = "softmax_cross_entropy", "last", 0
    defaults = Defaults(hidden=64, batch_size=27, epochs=60, patience=15)

    def __init__(self, chosen: Chosen, words: dict | None = None, whole: bool = False):
        self.chosen = chosen
        self.scaler: Scaler | None = None
        if chosen.data == "vowels":
            train, test = datasets.vowels(standardise=True)
            self.labels, self.names = [str(k) for k in range(9)], None
            held_out = np.arange(len(train.x)) % 5 == 4  # six of each speaker's thirty
            self.parts = dict(zip(("train", "validation"), split(train, held_out), strict=True))
            self.parts["test"] = test
        else:
            self._read(words, whole)
        self.input_size, self.outputs = self.parts["test"].x[0].shape[1], len(self.labels)

    def _read(self, words, whole: bool):
        x, labels, self.names = (
            read_npz(self.chosen, whole)
            if is_npz(self.chosen)
            else read_rows(self.chosen, words["names"] if words else None)
        )
        self.labels = words["labels"] if words else sorted(set(labels) - {NONE})
        unknown = sorted(set(labels) - set(self.labels) - {NONE})
        if unknown or (NONE in labels and not whole):
            raise ArgumentError(
                f"{self.chosen.data} has the label {unknown[0] if unknown else NONE!r}, expected "
                f"{', '.join(self.labels)}"
            )
        y = np.array([-1 if one == NONE else self.labels.index(one) for one in labels], "int64")
        if whole:
            chosen = {"test": np.arange(len(y))}
        else:
            share = self.chosen.test_share(TEST)
            chosen = shares(y, (share, self.chosen.validation), self.chosen.seed)
        self.scaler = (
            Scaler.of_dict(words["scaler"])
            if words
            else Scaler.standard([x[i] for i in chosen["train"]])
        )
        m, expected = x[0].shape[1], len(self.scaler.shift)
        if m != expected:
            raise ArgumentError(f"{self.chosen.data} has {m} features, the model {expected}")
        self.parts = {
            name: Sequences([self.scaler.scale(x[i]) for i in which], y[which])
            for name, which in chosen.items()
        }

    @property
    def metadata(self) -> dict:
        """What another command must know."""
        return {
            "task": self.task,
            "chosen": words_of(self.chosen),
            "labels": self.labels,
            "names": self.names,
            "scaler": self.scaler and self.scaler.to_dict(),
        }

    def size(self) -> str:
        """Its parts, in words."""
        counts = {name: len(part.x) for name, part in self.parts.items()}
        return (
            f"{counts['train']:,} sequences to train on, {counts['validation']:,} to validate, "
            f"{counts['test']:,} to test; {len(self.labels)} classes"
        )

    def measured(self, network: Network, name: str = "test") -> dict:
        """Loss and accuracy of a part, and the share of its most frequent class."""
        part = self.parts[name]
        if (np.asarray(part.y) < 0).any():
            raise ArgumentError(f"{self.chosen.data} has sequences without a label")
        found = network.evaluate(*part)
        if self.chosen.data == "vowels":
            return found
        return found | {"most_frequent": float(np.bincount(part.y).max() / len(part.y))}

    def said(self, found: dict) -> str:
        """`measured`, in a line."""
        line = f"test accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}"
        beside = ", always the most frequent class {:.4f}"
        return line + (beside.format(found["most_frequent"]) if "most_frequent" in found else "")


def is_npz(chosen: Chosen) -> bool:
    """Is the file one of NumPy's?"""
    return chosen.path.suffix.lower() == ".npz"


def split(part: Sequences, held_out: np.ndarray) -> tuple[Sequences, Sequences]:
    """The sequences that are not held out, and those that are."""
    sides = (np.flatnonzero(~held_out), np.flatnonzero(held_out))
    first, second = (Sequences([part.x[i] for i in side], part.y[side]) for side in sides)
    return first, second


def shares(y: np.ndarray, held_out: tuple[float, float], seed: int) -> dict[str, np.ndarray]:
    """Numbers of the samples of each part, drawn by class: of each at least one to train on."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list] = {"train": [], "validation": [], "test": []}
    for label in np.unique(y):
        mine = rng.permutation(np.flatnonzero(y == label))
        test = round(held_out[0] * len(mine))
        validation = max(1, round(held_out[1] * (len(mine) - test))) if len(mine) > 2 else 0
        test = max(1, test) if len(mine) > 2 else 0
        for name, some in zip(
            ("test", "validation", "train"), np.split(mine, [test, test + validation]), strict=True
        ):
            parts[name] += some.tolist()
    empty = [name for name, which in parts.items() if not which]
    if empty:
        raise ArgumentError(
            f"the data have {len(y)} samples, too few of each class: none are left for the "
            f"{empty[0]} part"
        )
    return {name: np.sort(np.array(which)) for name, which in parts.items()}


def read_npz(chosen: Chosen, whole: bool):
    """x (N, T, m) with `lengths` (N,) or without, and y (N,), of a file of NumPy's."""
    try:
        with np.load(chosen.path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{chosen.data} cannot be read: {error}") from None
    if whole and "x" in arrays and "y" not in arrays:
        arrays["y"] = np.full(len(arrays["x"]), NONE)
    if not {"x", "y"} <= set(arrays):
        raise ArgumentError(
            f"{chosen.data} has the arrays {', '.join(arrays) or 'none'}, expected x (N, T, m) and "
            "y (N,), and lengths (N,) where sequences differ"
        )
    x, y = arrays["x"], arrays["y"]
    if x.ndim != 3 or x.dtype.kind not in "fiub" or y.shape != x.shape[:1] or not len(x):
        raise ArgumentError(
            f"{chosen.data}: x is {x.dtype} {x.shape}, y {y.dtype} {y.shape}, expected numbers "
            "(N, T, m) and labels (N,)"
        )
    if y.dtype.kind not in "iubU":
        raise ArgumentError(f"{chosen.data}: y is {y.dtype}, expected labels: integers or texts")
    lengths = arrays.get("lengths", np.full(len(x), x.shape[1]))
    if lengths.shape != y.shape or lengths.dtype.kind not in "iu":
        raise ArgumentError(f"{chosen.data}: lengths is {lengths.dtype} {lengths.shape}")
    if lengths.min() < 1 or lengths.max() > x.shape[1]:
        raise ArgumentError(f"{chosen.data}: lengths are not all in 1..{x.shape[1]}")
    found = []
    for i, length in enumerate(lengths):
        rows = x[i, :length].astype("float64")
        found.append(present(f"{chosen.data}: x[{i}]", rows, chosen.missing))
    return found, [str(one) for one in y], None


def present(name: str, rows: np.ndarray, missing: str) -> np.ndarray:
    """The rows of which no number is missing."""
    here = np.isfinite(rows).all(1)
    if here.all():
        return rows
    if missing == "refuse":
        raise ArgumentError(
            f"{name} has a number missing, in row {np.flatnonzero(~here)[0]}: fill it in, or say "
            "--missing mask: such rows are then steps that do not happen"
        )
    if not here.any():
        raise ArgumentError(f"{name} has no row without a number missing")
    return rows[here]


def read_rows(chosen: Chosen, names: list[str] | None):
    """Sequences of a CSV file: rows of one --sequence, or windows; labels are texts."""
    table = read_csv(Path(chosen.data), chosen.format)
    if chosen.target is None:
        raise ArgumentError("--target is missing: which column holds the labels?")
    without = names is not None and chosen.target not in table.columns
    labels = [NONE] * len(table) if without else table.column("--target", chosen.target)
    apart = {chosen.target, chosen.time, chosen.sequence}
    apart |= {name for name in table.columns if table.is_time(name)}
    names = (
        names
        or list(chosen.columns)
        or [name for name in table.columns if name not in apart and table.is_numeric(name)]
    )
    if not names:
        raise ArgumentError(f"{chosen.data} has no column of numbers beside {chosen.target}")
    for name in names:
        table.column("--columns", name)
    values = np.stack([table.numbers(name) for name in names], 1)
    if chosen.missing == "refuse":
        no_gaps(table, values, names, len(values))
    groups = rows_of(table, chosen, labels)
    x = [
        present(f"{chosen.data}, line {table.lines[g.start]} on", values[g], "mask") for g in groups
    ]
    return x, [labels[g.stop - 1] for g in groups], names


def rows_of(table: Table, chosen: Chosen, labels: list[str]) -> list[slice]:
    """Which rows are one sequence."""
    if chosen.sequence is None:
        ends = range(chosen.window, len(table) + 1, max(1, chosen.window // 2))
        if not ends:
            raise ArgumentError(
                f"{chosen.data} has {len(table)} rows, fewer than --window {chosen.window}; say "
                "--sequence if a column names the sequence of each row"
            )
        return [slice(end - chosen.window, end) for end in ends]
    which = table.column("--sequence", chosen.sequence)
    starts = [k for k in range(len(which)) if k == 0 or which[k] != which[k - 1]]
    seen: set[str] = set()
    found = []
    for start, stop in zip(starts, [*starts[1:], len(which)], strict=True):
        if which[start] in seen:
            raise ArgumentError(
                f"{table.place(start, chosen.sequence)}: sequence {which[start]!r} was over "
                "before; keep its rows together"
            )
        seen.add(which[start])
        odd = [k for k in range(start, stop) if labels[k] != labels[start]]
        if odd:
            raise ArgumentError(
                f"{table.place(odd[0], chosen.target or '')}: {labels[odd[0]]!r}, but this "
                f"sequence began with {labels[start]!r}: one label each"
            )
        found.append(slice(start, stop))
    return found


def again(words: dict, data: str | None) -> Classes:
    """What a model was trained on; or all of another file, to test."""
    chosen = chosen_of(words["chosen"])
    if data is not None:
        chosen = chosen._replace(data=data)
    return Classes(chosen, words, whole=data is not None and data != "vowels")
