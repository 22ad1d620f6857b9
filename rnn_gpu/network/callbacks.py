"""Callbacks: what is told of training as it goes on, may look, measure and stop it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from types import TracebackType

from .. import arguments
from ..bridges import io
from ..errors import ArgumentError
from .batches import Samples
from .evaluation import RESERVED, measure
from .training import Training, Update


class Callback:
    """What `fit(callbacks=[…])` takes: a subclass overrides what it wants to hear.

    They are told in the order in which they stand in the list, after `validation`, `watch` and
    `on_epoch`, and before the checkpoint, so that this holds what they left in the history:

        on_begin
            on_gradients, on_update     for each update
            on_measure, on_epoch        for each epoch that is over
        on_end                          in the opposite order

    Each is given the Training: its network, optimizer, settings, history and position, and
    `training.stop()`, which ends it after the batch that is under way. What it raises ends it too.
    What a callback must know after `resume`, it finds in the history, where what it measured is,
    and in `training.kept`, arrays that it left there.
    """

    tapes = False  # does on_gradients look at network.tapes: one call of a kernel a step

    def on_begin(self, training: Training) -> None:
        """Kernels are compiled, and no weight has changed; after `resume`, history and position are
        those of the checkpoint.
        """

    def on_gradients(self, training: Training, number: int) -> None:
        """The gradients of an update are there, finite and not clipped, and no weight has changed:
        the place to set `training.optimizer.learning_rate`, or to look at `network.grads`.
        """

    def on_update(self, training: Training, update: Update) -> None:
        """The weights have changed."""

    def on_measure(self, training: Training) -> Mapping[str, float] | None:
        """All batches of an epoch are done: numbers by name, which go into the history."""

    def on_epoch(self, training: Training) -> None:
        """An epoch is over, and its numbers are in the history; `position.epoch` are done."""

    def on_end(self, training: Training, error: BaseException | None) -> None:
        """Training is over, or was stopped (`training.stopped`), or ended by an error: the place to
        close what was opened.
        """


@contextmanager
def under_way(callbacks: Sequence[Callback], training: Training) -> Iterator[None]:
    """Training as a context: on_begin before, on_end after, for each that has begun."""
    with ExitStack() as ends:
        for each in callbacks:
            each.on_begin(training)
            ends.push(ending(each, training))
        yield


def ending(callback: Callback, training: Training):
    """on_end as a context's exit, which hides no error."""

    def end(_: object, error: BaseException | None, __: TracebackType | None) -> None:
        callback.on_end(training, error)

    return end


def run(training: Training, callbacks: Sequence[Callback]):
    """Train to the end, and tell each callback."""

    def look(number: int):
        for each in callbacks:
            each.on_gradients(training, number)

    nothing = Callback.on_gradients
    looks = any(getattr(each.on_gradients, "__func__", None) is not nothing for each in callbacks)
    taped = any(each.tapes for each in callbacks)
    with under_way(callbacks, training):
        while training.goes_on:
            for update in training.epoch(look if looks else None, taped):
                for each in callbacks:
                    each.on_update(training, update)
            if training.epoch_is_over:
                training.end_epoch(measured(training, callbacks))
                for each in callbacks:
                    each.on_epoch(training)


def measured(training: Training, callbacks: Sequence[Callback]) -> dict[str, float]:
    """What callbacks measure of an epoch, by name."""
    found: dict[str, float] = {}
    for each in callbacks:
        for name, value in (each.on_measure(training) or {}).items():
            if name in found or name in training.metrics or name in RESERVED:
                raise ArgumentError(f"{type(each).__name__} measures {name!r}, which is there")
            found[name] = float(value)
    return found


PER_UPDATE = ("compile_seconds", "step_loss", "gradient_norm", "clipped_steps")


class Validation(Callback):
    """Loss, and accuracy where the loss knows classes, of samples that are held out: as NAME_loss
    and NAME_accuracy.
    """

    def __init__(self, samples: Samples, name: str = "validation"):
        self.samples, self.name = samples, name

    def on_measure(self, training):
        size = training.settings.batch_size
        found = measure(training.network, self.samples, size, training.metrics)
        return {f"{self.name}_{name}": value for name, value in found.items()}


class OnEpoch(Callback):
    """A function of (network, history), called after each epoch."""

    def __init__(self, f: Callable):
        self.f = f

    def on_epoch(self, training):
        self.f(training.network, training.history)


class Watch(Callback):
    """A function of (network, number of the update), called when its gradients are there; what BPTT
    computed at every step is then in network.tapes.
    """

    tapes = True

    def __init__(self, f: Callable):
        self.f = f

    def on_gradients(self, training, number):
        self.f(training.network, number)


class Checkpoint(Callback):
    """All that training stands on, in a file, after each epoch, after each `every` batches, and
    where training was stopped within an epoch.

    Raises ArgumentError where no file can be written at path.
    """

    def __init__(self, path: str | PathLike, every: int | None = None):
        self.every = None if every is None else arguments.size("checkpoint_every", every)
        io.check_place("checkpoint", path)
        self.path = path

    def on_begin(self, training):
        training.identity  # noqa: B018  a digest of the data as they are now

    def on_update(self, training, update):
        if update.ends_batch and self.every and training.position.batch % self.every == 0:
            training.save(self.path)

    def on_epoch(self, training):
        training.save(self.path)

    def on_end(self, training, error):
        if error is None and training.position.batch:
            training.save(self.path)
