"""fit: the users' door to training."""

from collections.abc import Callable, Sequence
from numbers import Real
from os import PathLike
from typing import Any

from .. import arguments, optimizers
from ..arguments import Listed
from ..errors import ArgumentError
from ..schedules import Rate
from .batches import Samples, held_out
from .callbacks import Callback, Checkpoint, OnEpoch, Validation, Watch, run
from .progress import Progress, compile_all
from .training import History, Settings, Training, computed_once


def fit(
    network,
    x: Listed,
    y: Listed,
    *,
    epochs: int | None = None,
    updates: int | None = None,
    batch_size: int = 32,
    optimizer: str | optimizers.Optimizer = "adam",
    learning_rate: Rate | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_step_norm: float | None = None,
    clip_step_value: float | None = None,
    truncate: tuple[int, int] | None = None,
    validation: tuple[Listed, Listed] | float | None = None,
    shuffle: bool = True,
    seed: int = 0,
    progress: bool = True,
    on_epoch: Callable[[Any, History], object] | None = None,
    watch: Callable[[Any, int], object] | None = None,
    checkpoint: str | PathLike | None = None,
    checkpoint_every: int | None = None,
    resume: str | PathLike | None = None,
    memory_budget: int | str | None = None,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train the network on N samples (see Samples for what x and y may be).  Returns the history.

    epochs, updates  how often each sample is seen, or how many updates are made; one of them, 10
                   epochs where neither is given. With `truncate` the batch that has the last update
                   is done whole
    optimizer      "sgd", "rmsprop", "adam", "adamw" with `learning_rate`, or an object of
                   rnn_gpu.optimizers
    learning_rate  a number, or a function of the update's number, counted from 0, that gives one:
                   rnn_gpu.schedules has ready ones
    clip_norm      bound of the global norm of all gradients (Pascanu 2013); clip_value bounds each
                   number; value first
    clip_step_norm, clip_step_value  bounds of δ of each step and sample within BPTT, value first
                                     (see Recurrent.backward)
    truncate       (k1, k2): truncated BPTT, an update after every k1 steps, from their loss, which
                   goes back through the last k2 steps (see `windows`); the state is carried on.
                   None is (T, T)
    validation     a pair (x, y), evaluated after each epoch; or a share, 0 < share < 1: that much
                   of the samples is drawn by `seed`, held out and never trained on
    shuffle, seed  a new order each epoch, the same for the same seed
    on_epoch       called with (network, history) after each epoch
    watch          called with (network, number of the update) when its gradients are there and no
                   weight has changed yet: network.tapes then holds what BPTT computed at every
                   step, which takes one call of a kernel a step
    checkpoint     a path, where all that training stands on is written after each epoch, and after
                   each `checkpoint_every` batches: whole or not at all, over the one before, and
                   only if every weight is finite. That a file can be written there is tried before
                   the first epoch
    resume         the path of such a file: training goes on from there, bit for bit, with the same
                   network, data and arguments; `epochs`, `updates`, the optimizer's hyperparameters
                   and clipping may be others. If anything else is, or the file is damaged, an error
                   says what, and nothing has changed
    memory_budget  bytes, or "512MB": where a batch needs more, its sequences are cut into segments,
                   of which only the first states are kept, and each is computed again on the way
                   back: the same gradient to the last bit, for one more pass forward (see
                   `Network.plan`)
    callbacks      objects of rnn_gpu.callbacks, ready ones or your own: told of training as it goes
                   on, they may measure, and stop it

    history        lists by name: "step_loss" and "gradient_norm" (before clipping) of every update,
                   and "clipped_steps" where δ has a bound; "loss", "accuracy" (of the training
                   batches as they passed; only where the loss knows classes), "validation_loss",
                   "validation_accuracy", what callbacks measure, "learning_rate" (of the last
                   update) and "seconds" of every epoch; and
                   "compile_seconds", of the kernels that were not compiled yet.
    Raises NonFiniteError at the first NaN or infinity in a loss or gradient, naming the earliest
    place, before a weight has changed.
    """
    with network.in_training():
        samples = Samples(network, x, y)
        seed = arguments.seed("seed", seed)
        samples, judged = divided(samples, validation, seed)
        everyone = listeners(judged, watch, on_epoch, callbacks)
        settings = Settings(
            epochs=epochs,
            updates=updates,
            batch_size=batch_size,
            clip_norm=clip_norm,
            clip_value=clip_value,
            clip_step_norm=clip_step_norm,
            clip_step_value=clip_step_value,
            truncate=truncate,
            shuffle=shuffle,
            seed=seed,
            memory_budget=memory_budget,
        )
        progress = arguments.flag("progress", progress)
        if memory_budget is not None and any(each.tapes for each in everyone):
            raise computed_once("a callback with tapes" if watch is None else "watch")
        optimizer = optimizers.resolve(optimizer, learning_rate)
        training = Training(network, samples, optimizer, settings)
        if checkpoint is not None:
            everyone.append(Checkpoint(checkpoint, checkpoint_every))
        elif checkpoint_every is not None:
            arguments.size("checkpoint_every", checkpoint_every)
            raise ArgumentError(
                "checkpoint_every is given, but no checkpoint: say where it is to be written"
            )
        if resume is not None:
            training.resume(resume)
        compile_all(training, everyone, progress)
        run(training, [Progress(), *everyone] if progress else everyone)
        return training.history


def divided(samples: Samples, validation, seed: int) -> tuple[Samples, Samples | None]:
    """The samples to train on, and those to validate on; None for none."""
    if validation is None:
        return samples, None
    if isinstance(validation, (tuple, list)) and len(validation) == 2:
        return samples, Samples(samples.network, *validation, name="validation ")
    share = isinstance(validation, Real) and not isinstance(validation, bool)
    if not share or not 0 < float(validation) < 1:
        raise ArgumentError(
            f"validation is {arguments.came_in_parts(validation)}, expected a pair (x, y), or a "
            "share between 0 and 1"
        )
    trained, held = held_out(len(samples), float(validation), seed)
    return samples.part(trained), samples.part(held)


def listeners(judged: Samples | None, watch, on_epoch, callbacks) -> list[Callback]:
    """The arguments of fit that are told of training, checked: a callback each."""
    everyone: list[Callback] = [] if judged is None else [Validation(judged)]
    for name, f, given, kind in (
        ("watch", watch, "number of the update", Watch),
        ("on_epoch", on_epoch, "history", OnEpoch),
    ):
        if f is None:
            continue
        if not callable(f):
            raise ArgumentError(f"{name} is {f!r}, expected a function of (network, {given})")
        everyone.append(kind(f))
    if not isinstance(callbacks, (list, tuple)):
        raise ArgumentError(f"callbacks is {arguments.came(callbacks)}, expected a list of them")
    for i, each in enumerate(callbacks):
        if not isinstance(each, Callback):
            raise ArgumentError(
                f"callbacks[{i}] is {arguments.came(each)}, expected a Callback (see "
                "rnn_gpu.callbacks)"
            )
    return everyone + list(callbacks)
