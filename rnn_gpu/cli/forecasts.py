"""`--task forecast`: the next values of a column, from a window of what came before.

The network says by how much each differs from the last one known, in units of how much such
differences are: what it says when it has learned nothing is persistence.
"""

from typing import NamedTuple

import numpy as np

from ..data import Scaler, Windows, windows
from ..datasets import Sequences
from ..errors import ArgumentError
from ..network import Network
from .choices import Chosen, Defaults, chosen_of, words_of
from .series import Series, read_series

TEST, OVERLAP = 0.25, 12  # the share to test; windows that each row is in


class Error(NamedTuple):
    """How far forecasts are off, in the units of the target."""

    absolute: float  # the mean of |error|
    square: float  # the root of the mean of its square


class Forecasts:
    """A series, cut into windows; and what its forecasts mean.

    words  what `metadata` gave of another: its columns, scaler and periods are taken, not fitted
    whole  True: all of the series is there to test
    """

    task = "forecast"
    loss, embedded = "squared_error", 0
    defaults = Defaults(
        hidden=64, batch_size=32, epochs=30, patience=8, learning_rate=5e-3, falls=True
    )

    def __init__(self, chosen: Chosen, words: dict | None = None, whole: bool = False):
        self.chosen, names = chosen, tuple(words["names"]) if words else None
        self.series = series = read_series(chosen, names)
        self.borders = (0, 0) if whole else borders(chosen, series)
        if words:
            self.scaler, self.periods = Scaler.of_dict(words["scaler"]), tuple(words["periods"])
        else:
            self.scaler = Scaler.standard(series.values[: self.borders[0]])
            self.periods = series.periods if chosen.calendar else ()
        if self.periods and series.times is None:
            raise ArgumentError(f"{chosen.data} has no column of times, which the model looks at")
        scaled = self.scaler.scale(series.values)
        self.features = np.hstack([scaled, series.calendar(self.periods)])
        self.input_size, self.outputs = self.features.shape[1], chosen.horizon
        self.base = filled(scaled[:, 0])
        cut = self.cut(whole)
        self.parts = {name: self.part(cut, name) for name in ("train", "validation", "test")}
        self.steps = "last" if np.isnan(self.features[: series.known]).any() else "every"
        train = self.parts["train"]
        differences = train.y - self.base[train.rows - 1][:, None]
        self.change = words["change"] if words else float(differences.std()) or 1.0

    def cut(self, whole: bool) -> Windows:
        """All windows; none of a file that is too short, where only what comes next is asked."""
        chosen, known = self.chosen, self.series.known
        if whole and known < chosen.window + chosen.horizon:
            empty = np.empty((0, chosen.window, self.input_size), "float32")
            return Windows(empty, np.empty((0, chosen.horizon)), np.empty(0, "int64"))
        rows = self.features[:known]
        return windows(rows, chosen.window, chosen.horizon, target=0, missing=chosen.missing)

    def part(self, cut: Windows, name: str) -> Windows:
        """The windows whose targets lie in a part of the series."""
        first, second = self.borders
        low, high = {
            "train": (0, first),
            "validation": (first, second),
            "test": (second, self.series.known),
        }[name]
        inside = (cut.rows >= low) & (cut.rows + self.chosen.horizon <= high)
        if self.borders[1] and not inside.any():
            raise ArgumentError(
                f"{self.chosen.data} has {self.series.known} rows, too few: of its {name} part, "
                f"rows {low} to {high}, no window of {self.chosen.window} and what follows is whole"
            )
        x = [cut.x[i] for i in np.flatnonzero(inside)] if isinstance(cut.x, list) else cut.x[inside]
        return Windows(x, cut.y[inside], cut.rows[inside])

    def sequences(self, name: str) -> Sequences:
        """A part as `fit` takes it: with steps="every", overlapping windows of which each step says
        what follows it.
        """
        if self.steps == "last":
            return self.at_end(name)
        window, horizon, rows = self.chosen.window, self.chosen.horizon, self.parts[name].rows
        if (
            name == "validation"
        ):  # of whose windows no step is one of training, if they are that long
            rows = rows[rows >= min(self.borders[0] + window - 1, rows[-1])]
        rows = rows[:: max(1, window // OVERLAP)]
        steps = np.arange(self.series.known - horizon)[:, None]
        changes = (self.base[steps + 1 + np.arange(horizon)] - self.base[steps]) / self.change
        changes = changes.astype("float32")
        return Sequences(
            [self.features[row - window : row] for row in rows],
            [changes[row - window : row] for row in rows],
        )

    def at_end(self, name: str) -> Sequences:
        """A part as the finished network takes it, which says what follows the last step."""
        part = self.parts[name]
        changes = (part.y - self.base[part.rows - 1][:, None]) / self.change
        return Sequences(list(part.x), changes.astype("float32"))

    def final(self, network: Network) -> Network:
        """The network as it is used: what it says at the last step of a window."""
        return Network(network.layers, loss=self.loss, steps="last")

    @property
    def metadata(self) -> dict:
        """What another command must know."""
        return {
            "task": self.task,
            "chosen": words_of(self.chosen),
            "names": list(self.series.names),
            "periods": list(self.periods),
            "scaler": self.scaler.to_dict(),
            "change": self.change,
        }

    def size(self) -> str:
        """Its parts, in words."""
        counts = {name: len(self.parts[name].y) for name in self.parts}
        series, (first, second) = self.series, self.borders
        inputs = ", ".join((*series.names, *(f"time of {one}" for one in self.periods)))
        left_out = f"; left out, no numbers: {', '.join(series.left_out)}" * bool(series.left_out)
        return (
            f"{series.known:,} rows of {inputs}{left_out}\n"
            f"forecasts from {self.chosen.window} rows: {counts['train']:,} to train on, "
            f"{counts['validation']:,} to validate from {series.time(first)}, {counts['test']:,} "
            f"to test from {series.time(second)}"
        )

    def unscaled(self, changes, rows) -> np.ndarray:
        """What the network said (N, horizon) before these rows, in the target's units."""
        last = self.base[np.asarray(rows) - 1][:, None]
        scaled = np.asarray(changes, "float64") * self.change + last
        return self.scaler.unscale(scaled, column=0)

    def predicted(self, network: Network, name: str = "test") -> np.ndarray:
        """Forecasts of a part, (N, horizon)."""
        part = self.parts[name]
        if not len(part.rows):
            raise ArgumentError(
                f"{self.chosen.data} has {self.series.known} rows, too few: expected a window of "
                f"{self.chosen.window} and what follows"
            )
        return self.unscaled(network.predict(part.x), part.rows)

    def measured(self, network: Network, name: str = "test") -> dict:
        """How far the network's forecasts of a part are off, beside those that need none."""
        truth = self.truth(name)
        found = {"model": error_of(self.predicted(network, name), truth)}
        found |= {what: error_of(said, truth) for what, said in self.baselines(name).items()}
        loss = float(np.mean(((truth - self.predicted(network, name)) / self.unit) ** 2))
        return {"loss": loss} | {what: error._asdict() for what, error in found.items()}

    @property
    def unit(self) -> float:
        """One of what the network says, in the target's units."""
        return float(self.scaler.size[0]) * self.change

    def truth(self, name: str) -> np.ndarray:
        """What came, (N, horizon)."""
        return self.scaler.unscale(self.parts[name].y, column=0)

    def baselines(self, name: str) -> dict[str, np.ndarray]:
        """Forecasts that need no network, (N, horizon) each; NaN where one is not to be had."""
        rows, horizon = self.parts[name].rows, self.chosen.horizon
        values = self.scaler.unscale(self.base, column=0)
        found = {"persistence": np.repeat(values[rows - 1][:, None], horizon, 1)}
        if self.chosen.season:
            season = self.chosen.season, f"{self.chosen.season} rows ago"
        else:
            season = self.series.season
        if season and season[0] < self.series.known:
            length, called = season
            back = -(-np.arange(1, horizon + 1) // length) * length  # of whole seasons
            at = rows[:, None] + np.arange(horizon) - back
            found[called] = np.where(at >= 0, values[np.maximum(at, 0)], np.nan)
        return found

    def said(self, found: dict) -> str:
        """`measured`, in lines."""
        errors = {what: Error(**each) for what, each in found.items() if what != "loss"}
        ahead = "1 step" if self.chosen.horizon == 1 else f"1 to {self.chosen.horizon} steps"
        persistence = errors["persistence"].absolute
        lines = [
            f"test: {self.chosen.target}, {ahead} ahead",
            f"{'':16}{'mean |error|':>14}{'root mean sq.':>15}{'of persistence':>16}",
        ]
        for what, (absolute, square) in errors.items():
            share = absolute / persistence if persistence else np.nan
            lines.append(f"{what:16}{absolute:14.5g}{square:15.5g}{share:16.2f}")
        closer = [what for what, each in errors.items() if each < errors["model"]]
        if closer:
            lines.append(f"closer than the model: {', '.join(closer)}")
        return "\n".join(lines)

    def title(self, found: dict) -> str:
        """Of the picture."""
        errors = {what: Error(**each) for what, each in found.items() if what != "loss"}
        share = errors["model"].absolute / (errors["persistence"].absolute or np.nan)
        return f"{self.chosen.target}: test error {share:.2f} of persistence's"

    def draw(self, path, title: str, history: dict, network: Network, found: dict):
        """Losses, the end of the test part, errors beside those of the baselines."""
        from .pictures import forecast_picture

        rows = self.parts["test"].rows
        said, truth = self.predicted(network), self.truth("test")
        forecast_picture(path, title, history, (rows, truth, said), self.series, self.chosen, found)


def borders(chosen: Chosen, series: Series) -> tuple[int, int]:
    """The first row to validate, and the first to test."""
    second = border("--test", chosen.test or str(TEST), series)
    first = round(second * (1 - chosen.validation))
    if not 0 < first < second < series.known:
        raise ArgumentError(
            f"--test and --validation leave {first} rows to train on, {second - first} to "
            f"validate, {series.known - second} to test, expected some of each"
        )
    return first, second


def border(option: str, word: str, series: Series) -> int:
    """The row where a part begins: the last share of all, or from a time on."""
    try:
        share = float(word)
    except ValueError:
        share = None
    if share is not None:
        if not 0 < share < 1:
            raise ArgumentError(f"{option} is {word}, expected a share between 0 and 1, or a date")
        return round(series.known * (1 - share))
    if series.times is None:
        raise ArgumentError(f"{option} is {word!r}, expected a share: the data have no times")
    try:
        since = np.datetime64(word, "s")
    except ValueError:
        raise ArgumentError(
            f"{option} is {word!r}, expected a share, or a date such as 2000-08-01"
        ) from None
    return int(np.searchsorted(series.times[: series.known], since))


def filled(a: np.ndarray) -> np.ndarray:
    """a (T,), where a number is missing the last one before it; before the first, the first."""
    at = np.where(np.isnan(a), -1, np.arange(len(a)))
    at = np.maximum.accumulate(at)
    return a[np.where(at < 0, np.flatnonzero(~np.isnan(a))[0], at)]


def error_of(said: np.ndarray, truth: np.ndarray) -> Error:
    """How far forecasts are off."""
    apart = said - truth
    return Error(float(np.nanmean(abs(apart))), float(np.sqrt(np.nanmean(apart**2))))


def again(words: dict, data: str | None) -> Forecasts:
    """What a model was trained on; or all of another file, to test."""
    chosen = chosen_of(words["chosen"])
    if data is not None:
        chosen = chosen._replace(data=data)
    return Forecasts(chosen, words, whole=data is not None)
