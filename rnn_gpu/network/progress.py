"""What training says on the terminal: the kernels that are compiled before it begins, and a bar."""

import math
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import TextIO

from .bar import columns_of, duration, fitted, in_notebook, named, signs_for, with_bar
from .callbacks import Callback, Validation
from .compiling import Compiled
from .training import Training


def compile_all(training: Training, callbacks: Sequence[Callback], says: bool) -> Compiled:
    """Compile what training and its validation need; `says` tells in words."""
    network = training.network
    says = says and network.backend.compiles()
    if says:
        words, file = f"kernels for {network.device}, {network.dtype}", place()
        print(f"{words} {signs_for(file).more} ", end="", file=file, flush=True)
    held_out = [each.samples for each in callbacks if isinstance(each, Validation)]
    done = training.compile(held_out, taped=any(each.tapes for each in callbacks))
    if says:
        print(in_words(done), file=file)
    return done


def place() -> TextIO:
    """Where words about training go: standard error, in a notebook the cell's output."""
    return sys.stdout if in_notebook() else sys.stderr


def in_words(done: Compiled) -> str:
    """ "compiled 7, found 3 on disk: 12.3 s"."""
    parts = [f"compiled {done.compiled}"] if done.compiled else []
    parts += [f"found {done.found} on disk"] if done.found else []
    return f"{', '.join(parts) or 'all are there'}: {done.seconds:.1f} s"


REDRAWN = 0.1  # seconds from one drawing to the next


class Progress(Callback):
    """A line for each epoch that is over, the best so far marked; and on a terminal, or in a
    notebook, a bar below, with the mean loss of this epoch, ‖∇‖ of the last update and the time
    that is left.

    file     where it is written; None is standard error, in a notebook the cell's output
    columns  how many a line of a bar has; None asks the terminal

    A file or a pipe gets the lines of epochs alone, whole, without control characters. The best
    epoch has the least validation loss, or loss where nothing is held out.
    """

    def __init__(self, file: TextIO | None = None, columns: int | None = None):
        self.given, self.columns = file, columns

    def on_begin(self, training):
        self.file = self.given or place()
        self.moves = self.file.isatty() or (self.given is None and in_notebook())
        self.signs = signs_for(self.file)
        self.drawn, self.begun, self.batches, self.next = 0, perf_counter(), 0, 0.0
        self._begin_epoch()

    def _begin_epoch(self):
        self.loss, self.weight, self.summed, self.norm = 0.0, 0.0, 0, 0.0

    def on_update(self, training, update):
        self.batches += update.ends_batch
        self.norm = update.gradient_norm
        if self.moves and (now := perf_counter()) >= self.next:
            self.next = now + REDRAWN
            self._draw(training, self._left(training, now))

    def _numbers(self, training) -> dict[str, float]:
        """The mean loss of what is done of this epoch, and the last norm."""
        seen = training.position.seen
        for E, _, weight in seen[self.summed :]:
            self.loss, self.weight = self.loss + E * weight, self.weight + weight
        self.summed = len(seen)
        return {"loss": self.loss / self.weight, self.signs.norm: self.norm}

    def _left(self, training, now: float) -> float | None:
        """Seconds that are left, if batches go on as they did; None where nobody knows."""
        if not self.batches or (total := training.batches_in_all) is None:
            return None
        position, an_epoch = training.position, training.batches
        if an_epoch is None:  # then it is updates that are counted
            done = len(training.history["step_loss"])
        else:
            done = position.epoch * an_epoch + position.batch
        return (now - self.begun) / self.batches * (total - done)

    def _draw(self, training, left: float | None):
        """The bar, in place of what was drawn."""
        done = training.position
        words = named(self._numbers(training)) + (
            [] if left is None else [f"{duration(left)} left"]
        )
        start, an_epoch = numbered(training, done.epoch + 1), training.batches
        columns, signs = self._columns(), self.signs
        if an_epoch is None:
            text = fitted([start, f"batch {done.batch}", *words], "", columns, signs)
        else:
            text = with_bar(start, done.batch / an_epoch, words, columns, signs)
        self._write("\r" + text.ljust(self.drawn))
        self.drawn = len(text)

    def _columns(self) -> int:
        """Of a line that moves: one stays free, or terminals begin another line."""
        return (self.columns or columns_of(self.file)) - 1

    def _write(self, text: str):
        self.file.write(text)
        self.file.flush()

    def _keep(self, words: list[str], end: str = ""):
        """A line that stays, in place of what was drawn."""
        text = fitted(words, end, self._columns() if self.moves else None, self.signs)
        self._write(("\r" if self.drawn else "") + text.ljust(self.drawn) + "\n")
        self.drawn = 0

    def on_epoch(self, training):
        epoch, seconds = training.position.epoch, training.history["seconds"][-1]
        best = self.signs.best if best_epoch(training.history) == epoch else ""
        words = [numbered(training, epoch), *named(training.last_epoch), duration(seconds)]
        self._keep(words, best)
        self._begin_epoch()

    def on_end(self, training, error):
        done = training.position
        if done.batch and done.seen:
            of = "" if training.batches is None else f" of {training.batches}"
            where = f"{done.batch}{of} batches"
            words = named(self._numbers(training))
            self._keep([numbered(training, done.epoch + 1), where, *words])
        elif self.drawn:
            self._write("\n")


def numbered(training: Training, epoch: int) -> str:
    """ "epoch  3/10"."""
    epochs = training.settings.epochs
    return f"epoch {epoch}" if epochs is None else f"epoch {epoch:>{len(str(epochs))}}/{epochs}"


def best_epoch(history: dict[str, list[float]]) -> int:
    """The epoch, counted from 1, of the least validation loss, or loss; 0 where all are NaN."""
    losses = history.get("validation_loss") or history["loss"]
    good = [(value, k) for k, value in enumerate(losses, 1) if not math.isnan(value)]
    return min(good)[1] if good else 0
