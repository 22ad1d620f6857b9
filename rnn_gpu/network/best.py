"""Callbacks that compare epochs by a number of the history: the best model, stopping early, a
learning rate that falls where nothing gets better.
"""

import math
from os import PathLike

import numpy as np

from .. import arguments
from ..bridges import io
from ..errors import ArgumentError
from .callbacks import Callback
from .training import Training


class Best(Callback):
    """Which epoch is the best so far, by a number of the history.

    metric           a name of the history that has a number for each epoch: "validation_loss"
                     (which needs `validation`), "loss", or what a metric or a callback measures
    mode             "min" or "max": is a lower or a higher number better; None is "max" of what
                     ends in "accuracy", else "min"
    smallest_change  a number is better only where it is by more than this

    `epoch` is the best one, counted from 1, and `value` its number; None before the first. Of equal
    numbers the first is best, and NaN never is. Raises ArgumentError after the first epoch if it
    has no such metric.
    """

    def __init__(self, metric: str, *, smallest_change: float = 0.0, mode: str | None = None):
        self.metric = metric
        if mode is None:
            mode = "max" if metric.endswith("accuracy") else "min"
        self.mode = arguments.choice("mode", mode, ("min", "max"))
        self.smallest_change = arguments.number(
            "smallest_change", smallest_change, 0, open_high=True
        )
        self.epoch: int | None = None
        self.value: float | None = None

    def forget(self):
        """Know no epoch."""
        self.epoch = self.value = None

    def compare(self, epoch: int, value: float) -> bool:
        """Take the epoch for the best, if it is better than those before."""
        sign = 1 if self.mode == "min" else -1
        best = self.value
        if math.isnan(value):
            return False
        if best is not None and sign * value >= sign * best - self.smallest_change:
            return False
        self.epoch, self.value = epoch, value
        return True

    def past(self, training: Training) -> list[tuple[int, float]]:
        """(epoch, number) of each epoch that is in the history."""
        values = training.history.get(self.metric, [])
        first = training.position.epoch - len(values)
        return [(first + k + 1, value) for k, value in enumerate(values)]

    def now(self, training: Training) -> tuple[int, float]:
        """(epoch, number) of the epoch that is just over."""
        if self.metric not in training.last_epoch:
            raise ArgumentError(
                f"metric is {self.metric!r}, which nothing measures: there are "
                f"{', '.join(training.last_epoch)}"
            )
        return training.position.epoch, training.last_epoch[self.metric]


class BestModel(Best):
    """Keep the parameters of the best epoch, and give them back at the end of training.

    metric, mode  see Best
    path          where the best network is saved too (see Network.save)

    They are in checkpoints too, so that training that goes on from one knows the best of before;
    a checkpoint of training without this callback has none, and the best is then that of the epochs
    since. Where an error ends training, the last parameters stay: `restore` gives the best ones. An
    optimizer's moments are always those of the last update.
    """

    def __init__(
        self,
        metric: str = "validation_loss",
        *,
        mode: str | None = None,
        path: str | PathLike | None = None,
    ):
        super().__init__(metric, mode=mode)
        if path is not None:
            io.check_place("path", path)
        self.path = path
        self._best: dict[str, np.ndarray] = {}

    @property
    def name(self) -> str:
        """Of what it keeps: see Training.kept."""
        return f"{type(self).__name__} {self.metric} {self.mode} {self.smallest_change}"

    def on_begin(self, training):
        self.forget()
        self._best = training.kept.get(self.name, {})
        if self._best:
            for epoch, value in self.past(training):
                self.compare(epoch, value)

    def on_epoch(self, training):
        if self.compare(*self.now(training)):
            network = training.network
            self._best = {
                name: np.array(network.backend.numpy(a)) for name, a in network.parameters.items()
            }
            training.kept[self.name] = self._best
            if self.path is not None:
                network.save(self.path)

    def restore(self, network):
        """Write the best parameters into the network; nothing before the first epoch."""
        for name, a in self._best.items():
            network.parameters[name][...] = network.backend.array(a, network.dtype)

    def on_end(self, training, error):
        if error is None:
            self.restore(training.network)


class EarlyStopping(BestModel):
    """Stop training where `patience` epochs one after the other were not better than the best.

    metric, smallest_change, mode  see Best
    patience                       epochs
    restore_best                   True gives the parameters of the best epoch back at the end, as
                                   BestModel does; False leaves the last

    Training that goes on from a checkpoint stops where it would have stopped; that of a run which
    was stopped does not go on.
    """

    def __init__(
        self,
        metric: str = "validation_loss",
        *,
        patience: int = 10,
        smallest_change: float = 0.0,
        mode: str | None = None,
        restore_best: bool = True,
    ):
        super().__init__(metric, mode=mode)
        self.smallest_change = arguments.number(
            "smallest_change", smallest_change, 0, open_high=True
        )
        self.patience = arguments.size("patience", patience)
        self.restore_best = arguments.flag("restore_best", restore_best)

    def on_begin(self, training):
        super().on_begin(training)
        if self.epoch is not None:
            self._judge(training)

    def on_epoch(self, training):
        super().on_epoch(training)
        self._judge(training)

    def _judge(self, training):
        if training.position.epoch - (self.epoch or 0) >= self.patience:
            training.stop()

    def on_end(self, training, error):
        if self.restore_best:
            super().on_end(training, error)


class ReduceOnPlateau(Best):
    """Multiply the learning rate by `factor` where `patience` epochs one after the other were not
    better than the best, and again after as many more.

    metric, smallest_change, mode  see Best
    lowest                         below which the rate does not fall

    The rate of each epoch is in the history as "learning_rate". At the end of training the
    optimizer has its own again; training that goes on from a checkpoint has that of then. Raises
    ArgumentError where the optimizer's learning_rate is a function, or below `lowest`.
    """

    def __init__(
        self,
        metric: str = "validation_loss",
        *,
        factor: float = 0.5,
        patience: int = 5,
        lowest: float = 0.0,
        smallest_change: float = 0.0,
        mode: str | None = None,
    ):
        super().__init__(metric, smallest_change=smallest_change, mode=mode)
        self.factor = arguments.number("factor", factor, 0, 1, open_high=True)
        self.patience = arguments.size("patience", patience)
        self.lowest = arguments.number("lowest", lowest, 0, open_high=True)
        self._rate, self._waited = 0.0, 0

    def on_begin(self, training):
        rate = training.optimizer.learning_rate
        if callable(rate):
            raise ArgumentError(
                "learning_rate is a function of the update's number, which ReduceOnPlateau cannot "
                "multiply: give a number, or leave the callback out"
            )
        if rate < self.lowest:
            raise ArgumentError(f"lowest is {self.lowest}, but learning_rate is {rate}")
        self.forget()
        self._rate, self._waited = rate, 0
        for epoch, value in self.past(training):
            self._judge(training, epoch, value)

    def on_epoch(self, training):
        self._judge(training, *self.now(training))

    def _judge(self, training, epoch: int, value: float):
        self._waited = 0 if self.compare(epoch, value) else self._waited + 1
        if self._waited >= self.patience:
            optimizer, self._waited = training.optimizer, 0
            optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.lowest)

    def on_end(self, training, error):
        training.optimizer.learning_rate = self._rate
