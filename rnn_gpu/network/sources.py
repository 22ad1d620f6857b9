"""Data that come batch by batch, so that not all of them need to be in memory."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from .. import arguments
from ..errors import ArgumentError
from .batches import Samples
from .counting import Counting

OPTIONS = {"mask", "resets", "reset_state", "state", "sample_weight"}


class Source:
    """What makes the batches of each epoch: for Training in place of Samples.

    x  a function of the epoch's number, counted from 0, that gives an iterable of batches; or an
       iterable itself, which is gone through once an epoch (a DataLoader of torch's, say), a
       generator for one epoch alone. A batch is a pair (x, y) as Samples takes them, or
       (x, y, options) with a dict of what Samples takes by name: mask, resets, reset_state, state
    """

    def __init__(self, network, x, counting: Counting | None = None):
        self.network, self.counting, self.labels = network, counting or Counting(), False
        of_epoch: Any = x if callable(x) else None
        self.of_epoch: Callable[[int], Iterable] | None = of_epoch
        self.again = x
        self.once = not callable(x) and iter(x) is x
        self.begun = False
        self._ahead: tuple[int, int, Iterator[Samples]] | None = None

    def resumable(self) -> str:
        """Why training cannot go on from the middle of an epoch; "" where it can."""
        if self.of_epoch is not None:
            return ""
        kind = "a generator, which is gone through once" if self.once else "gone through anew"
        return f"x is {arguments.came(self.again)}, {kind}: a function of the epoch can be"

    def first(self, number: int, done: int) -> Samples | None:
        """The first batch that `epoch` will give, made now and kept for it; None for none."""
        batches = self.epoch(number, done)
        batch = next(batches, None)
        self._ahead = number, done, chain([] if batch is None else [batch], batches)
        return batch

    def epoch(self, number: int, done: int) -> Iterator[Samples]:
        """The batches of an epoch, but for those that are done.

        Raises ArgumentError where there are none: a generator has ended.
        """
        ahead, self._ahead = self._ahead, None
        if ahead and ahead[:2] == (number, done):
            return ahead[2]
        return self._made(number, done)

    def _made(self, number: int, done: int) -> Iterator[Samples]:
        if self.once and self.begun and not done:
            raise ArgumentError(
                f"x is a generator that has ended, but epoch {number} is to come: give a function "
                "of the epoch"
            )
        self.begun, empty = True, True
        made = self.again if self.of_epoch is None else self.of_epoch(number)
        if not isinstance(made, Iterable):
            raise ArgumentError(f"x({number}) is {arguments.came(made)}, expected batches (x, y)")
        for k, batch in enumerate(islice(made, 0 if self.once else done, None)):
            empty = False
            yield self._samples(f"batch {k if self.once else done + k} of epoch {number}: ", batch)
        if empty and not done:
            raise ArgumentError(f"epoch {number} has no batches")

    def _samples(self, name: str, batch: Any) -> Samples:
        options = {}
        if isinstance(batch, (tuple, list)) and len(batch) == 3 and isinstance(batch[2], dict):
            options = batch[2]
            if unknown := set(options) - OPTIONS:
                raise ArgumentError(f"{name}has the options {', '.join(sorted(unknown))}")
        elif not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ArgumentError(
                f"{name}is {arguments.came_in_parts(batch)}, expected a pair (x, y)"
            )
        weight = options.get("sample_weight")
        more = {key: value for key, value in options.items() if key != "sample_weight"}
        counting = self.counting._replace(sample_weight=weight)
        x, y = batch[:2]
        return Samples(self.network, x, y, name=name, counting=counting, **more)


def is_source(x, y) -> bool:
    """Does x make batches: a function, or an iterable of batches that is neither a list nor an
    array.
    """
    if y is not None or isinstance(x, (list, tuple, str, bytes, dict, set)):
        return False
    return callable(x) or (not arguments.is_array(x) and isinstance(x, Iterable))
