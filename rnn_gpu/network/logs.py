"""Callbacks that write down how training goes, for other programs."""

import csv
import io as text
from importlib import import_module
from os import PathLike, fspath
from typing import Any

from ..bridges import io
from .callbacks import PER_UPDATE, Callback
from .training import Training


class CSVLog(Callback):
    """A table with a line for each epoch, and a column for each number of it, at path: written
    anew, whole or not at all, after each epoch; with the epochs before where training goes on from
    a checkpoint.

    Raises ArgumentError where no file can be written at path.
    """

    def __init__(self, path: str | PathLike):
        io.check_place("path", path)
        self.path = path

    def on_epoch(self, training):
        epochs = training.position.epoch
        columns = {
            name: [""] * (epochs - len(values)) + list(values)
            for name, values in training.history.items()
            if name not in PER_UPDATE and len(values) <= epochs
        }
        lines = text.StringIO(newline="")
        writer = csv.writer(lines)
        writer.writerow(["epoch", *columns])
        writer.writerows(zip(range(1, epochs + 1), *columns.values(), strict=True))
        with io.replacing(self.path) as file:
            file.write(lines.getvalue().encode())


class TensorBoard(Callback):
    """The numbers of every update and of every epoch, for TensorBoard, in a folder: all at the
    number of the update, an epoch's at that of its last.

    Where training goes on from a checkpoint, what was written of later updates is taken back.
    Needs the packages torch and tensorboard; raises ImportError, which says so, without them.
    """

    def __init__(self, folder: str | PathLike):
        self.folder = io.path_of("folder", folder)
        try:
            self._make = import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"TensorBoard needs the packages torch and tensorboard: {error}"
            ) from None
        self._writer: Any = None

    def on_begin(self, training):
        done = len(training.history["step_loss"])
        self._writer = self._make(fspath(self.folder), purge_step=done if done else None)

    def on_update(self, training, update):
        self._writer.add_scalar("step_loss", update.loss, update.number)
        self._writer.add_scalar("gradient_norm", update.gradient_norm, update.number)

    def on_epoch(self, training: Training):
        last = len(training.history["step_loss"]) - 1
        for name, value in training.last_epoch.items():
            self._writer.add_scalar(name, value, last)
        self._writer.flush()

    def on_end(self, training, error):
        self._writer.close()
