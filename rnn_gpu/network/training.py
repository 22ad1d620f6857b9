"""The loop of training: its settings, and an iterator of its updates."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .. import arguments, outline
from ..bridges import plots
from ..errors import ArgumentError
from ..kernels import UNCLIPPED
from ..layers.cutting import Parallel, ParallelLike, parallel_of
from ..layers.stateful import clip_of, zero_states
from ..optimizers import Optimizer
from . import checkpoint as checkpoints
from . import memory
from .batches import Batch, Samples
from .compiling import Compiled, compiling, kinds, rehearse_evaluation
from .evaluation import Metrics, Seen, average, check_metrics, metrics_of
from .gradients import Made, Ways
from .replay import Replays
from .sources import Source
from .truncation import (
    carried_on,
    check_resets,
    check_stateful,
    check_truncate,
    pair,
    segments,
    states_before,
    windows,
)
from .update import Clipping, enqueued, scalars_of, train_step


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a network is trained, whatever the network and the data: what `fit` calls the same.

    epochs, updates  how many; one of them, 10 epochs where neither is given
    Raises ArgumentError, which names the argument; so one that is there is right.
    """

    epochs: int | None = None
    updates: int | None = None
    batch_size: int = 32
    clip_norm: float | None = None
    clip_value: float | None = None
    clip_step_norm: float | None = None
    clip_step_value: float | None = None
    truncate: tuple[int, int] | None = None
    shuffle: bool = True
    seed: int = 0
    memory_budget: int | str | None = None
    stateful: bool = False
    parallel: ParallelLike = False
    tolerance: float = 1e-6

    def __post_init__(self):
        checked = {
            "batch_size": arguments.size("batch_size", self.batch_size),
            "shuffle": arguments.flag("shuffle", self.shuffle),
            "stateful": arguments.flag("stateful", self.stateful),
            "seed": arguments.seed("seed", self.seed),
            "truncate": pair(self.truncate),
        }
        for name in ("epochs", "updates"):
            if (count := getattr(self, name)) is not None:
                checked[name] = arguments.size(name, count)
        if self.epochs is None and self.updates is None:
            checked["epochs"] = 10
        elif self.epochs is not None and self.updates is not None:
            raise ArgumentError(
                f"epochs is {self.epochs} and updates {self.updates}: give one of them"
            )
        for name in ("clip_norm", "clip_value"):
            if (bound := getattr(self, name)) is not None:
                checked[name] = arguments.bound(name, bound, optional=True)
        clip_of(self.clip_step_value, self.clip_step_norm)
        parallel_of(self.parallel, self.tolerance)
        if self.memory_budget is not None:
            memory.budget(self.memory_budget)
            if self.truncate is not None:
                raise computed_once("truncate")
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # as Python's own, which files can hold

    @cached_property
    def in_parallel(self) -> Parallel | None:
        """How layers go over long sequences in chunks; None step by step."""
        return parallel_of(self.parallel, self.tolerance)

    @cached_property
    def clipping(self) -> Clipping:
        """The bounds of gradients among these settings."""
        step = clip_of(self.clip_step_value, self.clip_step_norm)
        return Clipping(self.clip_norm, self.clip_value, step)


def computed_once(name: str) -> ArgumentError:
    """What is wrong with an argument beside a memory_budget, which computes segments twice."""
    return ArgumentError(
        f"memory_budget is given, and {name}, which is for what is computed only once: leave one "
        "out"
    )


class History(dict[str, list[float]]):
    """What `fit` returns, lists by name; at the prompt their lengths and last numbers, in a
    notebook a picture too (see rnn_gpu.plot).
    """

    def _repr_html_(self):
        return plots.html("\n".join(outline.series(self)), lambda: plots.history_picture(self))

    def __repr__(self):
        last = {name: f", last {values[-1]:.6g}" if values else "" for name, values in self.items()}
        words = (f"{name}: {len(self[name])}{word}" for name, word in last.items())
        return f"History({'; '.join(words)})"


class Update(NamedTuple):
    """One change of the weights."""

    number: int  # of all updates, from 0
    epoch: int  # from 0
    batch: int  # of this epoch, from 0; with `truncate` several updates have the same
    loss: float
    correct: float | None  # share of right answers, where the loss knows classes
    gradient_norm: float  # before clipping
    ends_batch: bool  # is no other of this batch to come


class Training:
    """Training of a network, update by update: iterate over it, and stop when you like.

    network    to be trained, in place
    samples    of this network, to train on; or a Source, which makes batches as they are wanted
    optimizer  an object of rnn_gpu.optimizers
    settings   see Settings
    metrics    what else is measured of every batch: see `fit`

        training = Training(network, Samples(network, x, y), Adam(1e-3), Settings(epochs=3))
        for update in training:
            print(update.number, update.loss)

    Who leaves the loop leaves everything as it stands after that update; to iterate again goes on
    with the batch that is not done yet. `history` is that of `fit`: an epoch's numbers are in it
    when the first update of the next is asked for, or the loop has ended.
    Raises ArgumentError where settings do not suit the network, or memory_budget is too small.
    """

    def __init__(
        self,
        network,
        samples: Samples | Source,
        optimizer: Optimizer,
        settings: Settings | None = None,
        metrics: Metrics | None = None,
    ):
        if samples.network is not network:
            raise ArgumentError("samples are of another network: make Samples(network, x, y)")
        self.network, self.samples, self.optimizer = network, samples, optimizer
        self.settings = settings = settings or Settings()
        self.metrics = check_metrics(metrics)
        check_truncate(network, settings.truncate)
        count = len(samples) if isinstance(samples, Samples) else None
        if settings.stateful:
            check_stateful(network, count, settings.batch_size, settings.shuffle)
        self._replays = Replays(network, enqueued)
        if isinstance(samples, Samples):
            self._check(samples)
        if isinstance(samples, Samples) and settings.memory_budget is not None:
            # raises before the work
            lengths = [len(x) for x in samples.x]
            size = min(settings.batch_size, len(samples))
            ragged = len(set(lengths)) > 1 or samples.masked
            self._segment(max(lengths), size, ragged, bool(samples.given_layers))
        self._rng = np.random.default_rng(settings.seed)
        self._begun = time.perf_counter()
        self.history = History(compile_seconds=[], step_loss=[], gradient_norm=[])
        self.position = checkpoints.Position(
            dict(self._rng.bit_generator.state), history=self.history
        )
        self.last_epoch: dict[str, float] = {}  # its numbers by name, but for its seconds
        # arrays that callbacks leave for checkpoints: of each the network's parameters by name
        self.kept: dict[str, dict[str, np.ndarray]] = {}
        self.carried: list | None = None  # the states that a batch goes on from, where it does
        self.stopped = self._exhausted = False

    def _check(self, samples: Samples):
        """Raise ArgumentError where samples do not suit the settings."""
        settings = self.settings
        check_resets(
            samples,
            truncate=settings.truncate,
            memory_budget=settings.memory_budget,
            stateful=settings.stateful,
        )

    @property
    def batches(self) -> int | None:
        """How many batches an epoch has; None where nobody knows."""
        if isinstance(self.samples, Source):
            return None
        return -(-len(self.samples) // self.settings.batch_size)

    @property
    def batches_in_all(self) -> int | None:
        """How many batches training has from its first epoch to its end; None where nobody knows:
        `truncate` makes several updates of a batch.
        """
        settings = self.settings
        if settings.epochs is not None:
            return None if self.batches is None else settings.epochs * self.batches
        return settings.updates if settings.truncate is None else None

    @property
    def goes_on(self) -> bool:
        """Is there an epoch, or an update, left, and has nobody stopped."""
        settings, done = self.settings, len(self.history["step_loss"])
        if settings.epochs is not None:
            left = self.position.epoch < settings.epochs
        else:
            left = done < (settings.updates or 0)
        return left and not self.stopped

    @property
    def epoch_is_over(self) -> bool:
        """Are all batches of this epoch done."""
        return self._exhausted if self.batches is None else self.position.batch >= self.batches

    def stop(self):
        """End training when the batch that is under way is done."""
        self.stopped = True

    @cached_property
    def identity(self) -> dict:
        """What must be as it was for a checkpoint to go on from: settings, and a digest of data."""
        settings, samples = self.settings, self.samples
        counting = samples.counting
        what = f"batches as they come, {counting.class_weight!r}, {counting.ignore_index}"
        return {
            "samples": len(samples) if isinstance(samples, Samples) else 0,
            "batch_size": settings.batch_size,
            "shuffle": settings.shuffle,
            "seed": settings.seed,
            "truncate": settings.truncate and list(settings.truncate),
            "stateful": settings.stateful,
            "burn_in": counting.burn_in,
            "skips": not isinstance(samples, Samples) or samples.skips,
            "data": checkpoints.fingerprint(samples.everything())
            if isinstance(samples, Samples)
            else what,
        }

    def save(self, path):
        """Write all that training stands on to a checkpoint: see `fit`."""
        number = self.network.backend.numpy
        states = [number(s) for s in self.carried or ()]
        kept = checkpoints.Kept(self.position, self.kept, states)
        checkpoints.save(path, self.network, self.optimizer, self.identity, kept)

    def resume(self, path):
        """Go on from a checkpoint, bit for bit: see `fit`."""
        why = self.samples.resumable() if isinstance(self.samples, Source) else ""
        kept = checkpoints.restore(
            path, self.network, self.optimizer, self.identity, list(self.metrics), why
        )
        position, self.kept = kept.position, kept.arrays
        self.history = position.history = History(position.history)
        self.position = position
        network = self.network
        self.carried = [network.backend.array(s, network.dtype) for s in kept.states] or None

    @np.errstate(all="ignore")  # as train_step; nobody looks at what comes out
    def compile(self, held_out: Iterable[Samples] = (), taped: bool = False) -> Compiled:
        """Compile every kernel, or read it from disk, and note the seconds: by one update of each
        kind of batch, on a copy of the network.

        held_out  samples that will be evaluated: a batch of each kind of theirs, too
        taped     as of `epoch`
        """
        size = self.settings.batch_size
        with compiling() as done:
            if self.network.backend.compiles():
                copy, once = self.network.copy(), self.optimizer.fresh()
                for batch in self._to_come():
                    self._rehearse(copy, once, batch, taped)
                for batch in (each for one in held_out for each in kinds(one, size)):
                    rehearse_evaluation(copy, batch)
        self.history["compile_seconds"].append(done.seconds)
        return done

    def _to_come(self) -> Iterator[Batch]:
        """A batch of each kind; of a Source the first that it gives."""
        samples, position = self.samples, self.position
        if isinstance(samples, Samples):
            yield from kinds(samples, self.settings.batch_size)
        elif self.goes_on and (first := samples.first(position.epoch, position.batch)):
            self._check(first)
            yield first.batch(range(len(first)))

    def _rehearse(self, network, optimizer: Optimizer, batch: Batch, taped: bool):
        """An update from each kind of window of a batch, whatever comes out."""
        step, seen, states = self.settings.clipping.step, set(), None
        T, B, _ = batch.x.shape
        moments = optimizer.moments_of(network.backend, network.parameters)
        for window, on in windows(
            network.backend, batch, segments(len(batch.x), self.settings.truncate)
        ):
            kind = len(window.x), window.counts > 0
            if kind in seen:
                continue
            seen.add(kind)
            if not window.counts:
                states = carried_on(network, window, states, on, self.settings.in_parallel)
                continue
            segment = self._segment(T, B, batch.steps.dead is not None, bool(batch.given))
            ways = Ways(states, taped, segment, step, self.settings.in_parallel)
            scalars = scalars_of(network, optimizer, self.settings.clipping)
            going = enqueued(network, window, optimizer.formula, moments, scalars, ways)
            network.backend.numpy(going.report)  # which waits
            states = states_before(network, going.unread.tape, on)

    def __iter__(self) -> Iterator[Update]:
        with self.network.in_training():
            if not self.history["compile_seconds"]:
                self.compile()
            while self.goes_on:
                yield from self.epoch()
                if self.epoch_is_over:
                    self.end_epoch()

    def epoch(self, look: Callable[[int], object] | None = None, taped=False) -> Iterator[Update]:
        """The updates that are left of this epoch; none after the batch that `stop` was called in,
        or that has the last of `updates`.

        look   called with the number of each update when its gradients are there, and no weight has
               changed yet
        taped  network.tapes then holds what BPTT computed at every step
        """
        self._begun = time.perf_counter()
        for batch in self._batches():
            yield from self._updates(batch, look, taped)
            if not self.goes_on:
                return
        self._exhausted = True

    def _batches(self) -> Iterator[Batch]:
        """The batches that are left of this epoch."""
        settings, samples, position = self.settings, self.samples, self.position
        self._rng.bit_generator.state = position.rng
        if isinstance(samples, Source):
            for each in samples.epoch(position.epoch, position.batch):
                self._check(each)
                goes_on = settings.stateful and position.batch > 0
                yield each.batch(range(len(each)), goes_on)
            return
        count, size = len(samples), settings.batch_size
        order = self._rng.permutation(count) if settings.shuffle else np.arange(count)
        for first in range(position.batch * size, count, size):
            yield samples.batch(order[first : first + size], settings.stateful and first > 0)

    def _updates(self, batch: Batch, look, taped: bool) -> Iterator[Update]:
        network, position, settings = self.network, self.position, self.settings
        cuts = segments(len(batch.x), settings.truncate)
        counting = [k for k, (_, first, end) in enumerate(cuts) if batch.counted[first:end].any()]
        if not counting and not settings.stateful:
            position.batch += 1
            return
        states, number = self._first_states(batch), position.batch
        parts = windows(network.backend, batch, cuts)
        for k, (window, on) in enumerate(parts):
            if not window.counts:  # only the state is carried on
                states = carried_on(network, window, states, on, self.settings.in_parallel)
                continue
            made, norm = self._step(batch, window, states, look, taped)
            states = made.states if on is None else states_before(network, made.tape, on)
            loss, correct = made.loss, made.correct
            del made  # what a pass remembers, before the next
            if ends := k == counting[-1]:
                self._end_batch(states, parts)
            step = len(self.history["step_loss"]) - 1
            yield Update(step, position.epoch, number, loss, correct, norm, ends)
            if ends:
                return
        self._end_batch(states, parts)

    def _first_states(self, batch: Batch) -> list | None:
        """The states that a batch begins with; None is zero."""
        if not self.settings.stateful:
            return batch.states
        B = batch.x.shape[1]
        if self.carried is None:
            return batch.states or zero_states(self.network.recurrent, B)
        if self.carried[0].shape[1] != B:
            raise ArgumentError(
                f"stateful is True, but a batch has {B} samples, and the one before "
                f"{self.carried[0].shape[1]}: it could not go on where that ended"
            )
        return self.carried

    def _step(self, batch: Batch, window: Batch, states, look, taped) -> tuple[Made, float]:
        """An update from a window of a batch, entered into the history."""
        history, position, settings = self.history, self.position, self.settings
        clipping = settings.clipping
        T, B = batch.x.shape[:2]
        made, norm = train_step(
            self.network,
            window,
            self.optimizer,
            clipping,
            number=len(history["step_loss"]),
            states=states,
            segment=self._segment(T, B, batch.steps.dead is not None, bool(batch.given)),
            look=look,
            taped=taped,
            parallel=settings.in_parallel,
            enqueue=self._replays,
        )
        history["step_loss"].append(made.loss)
        history["gradient_norm"].append(norm)
        if clipping.step != UNCLIPPED:
            history.setdefault("clipped_steps", []).append(made.back.clipped_steps)
        position.seen.append((made.loss, made.correct, window.counts))
        if self.metrics:
            found = metrics_of(self.network, self.metrics, window, made.o)
            position.metrics.append(found)
        return made, norm

    def _end_batch(self, states: Any, rest: Iterator):
        """A batch is done, but for windows that the loss does not count."""
        if self.settings.stateful:
            for window, on in rest:
                states = carried_on(self.network, window, states, on, self.settings.in_parallel)
            self.carried = [s.copy() for s in states]  # not a view that keeps all steps alive
        self.position.batch += 1

    def _segment(self, T: int, B: int, ragged: bool, given: bool) -> int | None:
        """The steps of a segment within the budget of memory; None cuts nothing."""
        if (budget := self.settings.memory_budget) is None:
            return None
        return memory.plan(self.network, T, B, budget, ragged, reset_state=given).cut

    def end_epoch(self, measured: Mapping[str, float] | None = None):
        """Enter an epoch that is over into the history, and begin the next.

        measured  other numbers of it by name, as of validation
        """
        position = self.position
        if not position.seen:
            raise ArgumentError(f"nothing counts in epoch {position.epoch}")
        metrics = position.metrics or [{}] * len(position.seen)
        each = zip(position.seen, metrics, strict=True)
        seen = [Seen(E, correct, weight, more) for (E, correct, weight), more in each]
        means, others = average(seen), dict(measured or {})
        self.last_epoch = means | others
        rate = {"learning_rate": self.optimizer.rate(self.optimizer.steps - 1)}
        seconds = {"seconds": time.perf_counter() - self._begun}
        for name, value in (means | rate | others | seconds).items():
            self.history.setdefault(name, []).append(value)
        rng, epoch = dict(self._rng.bit_generator.state), self.position.epoch + 1
        self.position = checkpoints.Position(rng, epoch, history=self.history)
        self.carried, self._exhausted = None, False
