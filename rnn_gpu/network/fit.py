"""fit: the users' door to training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from os import PathLike
from typing import Any

from numpy.typing import ArrayLike

from .. import arguments, optimizers
from ..arguments import Listed
from ..errors import ArgumentError
from ..layers.cutting import ParallelLike
from ..schedules import Rate
from .batches import Samples, held_out
from .callbacks import Callback, Checkpoint, OnEpoch, Validation, Watch, run
from .counting import Counting
from .evaluation import Metrics
from .progress import Progress, compile_all
from .sources import Source, is_source
from .training import History, Settings, Training, computed_once


def fit(
    network,
    x: Listed | Callable[[int], Iterable] | Iterable,
    y: Listed | None = None,
    *,
    epochs: int | None = None,
    updates: int | None = None,
    batch_size: int | None = None,
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
    metrics: Metrics | None = None,
    sample_weight: ArrayLike | None = None,
    class_weight: Mapping[int, float] | ArrayLike | None = None,
    ignore_index: int | None = None,
    burn_in: int = 0,
    mask: Listed | None = None,
    resets: Listed | None = None,
    reset_state: Sequence[Any] | None = None,
    state: Sequence[Any] | None = None,
    stateful: bool = False,
    parallel: ParallelLike = False,
    tolerance: float = 1e-6,
) -> History:
    """Train the network on N samples (see Samples for what x and y may be).  Returns the history.

    x              may also make batches, so that not all data need to be in memory; y is then left
                   out. A function of the epoch, counted from 0, that gives an iterable of pairs
                   (x, y), each as above; or such an iterable, which is gone through once an epoch,
                   as a DataLoader of torch's; a generator is for one epoch. They come in the order
                   in which they are made, of the size that they have, and may be triples with a
                   dict of mask, resets, reset_state, state, sample_weight (see
                   Source)
    batch_size     32, of samples

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
    metrics        functions of (outputs, targets) by name, of training and of validation: NumPy's
                   arrays of the rows that count, (R, k), and (R, k) or class labels (R,). What they
                   say of each batch, as it passed, is averaged with the batch's Σ weight, as the
                   loss is; in the history by their name, and "validation_" before it
    sample_weight  (N,) numbers of at least 0, class_weight a dict or an array by class: the loss of
                   a batch is Σ weight · loss / Σ weight, and so is its accuracy; of training alone,
                   validation counts every sample once
    ignore_index   the class label of what the loss and metrics leave out
    burn_in        the first steps of every sample that happen, which shape the state and not the
                   loss; where `stateful`, of the first batch of an epoch alone
    mask, resets, reset_state, state  of the samples x: see Samples. A pair `validation` has none, a
                   share its part. `truncate`, `stateful` and memory_budget go with resets where
                   every recurrent layer has a reset_state
    stateful       True: sample i of a batch goes on from the state that sample i of the one before
                   ended with, and each epoch begins anew. Needs shuffle=False, whole batches; no
                   gradient goes back into the batch before. Validation begins with zero
    parallel, tolerance  chunks of each sequence go side by side, which gives the same within
                   `tolerance`, of networks that forget: see Recurrent. Validation goes step by step
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
        counting = Counting(sample_weight, class_weight, ignore_index, burn_in).checked(network)
        of_samples = {"mask": mask, "resets": resets, "reset_state": reset_state, "state": state}
        samples: Samples | Source
        if is_source(x, y):
            refuse_beside(
                **of_samples,
                sample_weight=sample_weight,
                batch_size=batch_size,
            )
            samples = Source(network, x, counting)
        else:
            samples = Samples(network, x, y, counting=counting, **of_samples)
        seed = arguments.seed("seed", seed)
        samples, judged = divided(samples, validation, seed)
        everyone = listeners(judged, watch, on_epoch, callbacks)
        settings = Settings(
            epochs=epochs,
            updates=updates,
            batch_size=32 if batch_size is None else batch_size,
            clip_norm=clip_norm,
            clip_value=clip_value,
            clip_step_norm=clip_step_norm,
            clip_step_value=clip_step_value,
            truncate=truncate,
            shuffle=shuffle,
            seed=seed,
            memory_budget=memory_budget,
            stateful=stateful,
            parallel=parallel,
            tolerance=tolerance,
        )
        progress = arguments.flag("progress", progress)
        if memory_budget is not None and any(each.tapes for each in everyone):
            raise computed_once("a callback with tapes" if watch is None else "watch")
        optimizer = optimizers.resolve(optimizer, learning_rate)
        training = Training(network, samples, optimizer, settings, metrics)
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


def refuse_beside(**given):
    """Raise ArgumentError for what is of samples, where batches are made as they are wanted."""
    for name, value in given.items():
        if value is not None:
            raise ArgumentError(
                f"{name} is given, but x makes batches: give it with each batch, (x, y, options)"
                if name != "batch_size"
                else f"batch_size is {value!r}, but x makes batches, which have a size of their own"
            )


def divided(
    samples: Samples | Source, validation, seed: int
) -> tuple[Samples | Source, Samples | None]:
    """The samples to train on, and those to validate on; None for none."""
    if validation is None:
        return samples, None
    if isinstance(validation, (tuple, list)) and len(validation) == 2:
        plain = samples.counting._replace(sample_weight=None, class_weight=None)
        network = samples.network
        return samples, Samples(network, *validation, name="validation ", counting=plain)
    share: Any = validation
    if not isinstance(share, Real) or isinstance(share, bool) or not 0 < float(share) < 1:
        raise ArgumentError(
            f"validation is {arguments.came_in_parts(validation)}, expected a pair (x, y), or a "
            "share between 0 and 1"
        )
    if isinstance(samples, Source):
        raise ArgumentError(
            f"validation is {validation}, a share of samples, but x makes batches: give a pair"
        )
    trained, held = held_out(len(samples), float(share), seed)
    return samples.part(trained), samples.part(held, weighted=False)


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
