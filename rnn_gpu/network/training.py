"""Training: batches of ragged sequences, clipping, history, and a stop before a bad number reaches
a weight.
"""

import itertools
import time
from collections.abc import Callable
from functools import wraps
from os import PathLike
from threading import get_ident
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from tqdm.auto import tqdm

from .. import arguments, optimizers
from ..arguments import Listed
from ..bridges import io
from ..errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from ..kernels import UNCLIPPED, Clip
from ..layers.passes import Back, Last, next_pass
from ..layers.stateful import clip_of, zero_states
from ..layers.steps import Steps, enter
from . import checkpoint as checkpoints
from . import finite, memory

Train = TypeVar("Train", bound=Callable)


class Batch(NamedTuple):
    """Samples side by side, as arrays of the device, zero beyond the length of each."""

    x: np.ndarray  # (T, B, m)
    steps: Steps
    target: np.ndarray | None  # (T, B, k)
    weight: np.ndarray  # (T, B): 1 at the steps that the loss counts, else 0
    lengths: np.ndarray  # (B,)
    start: int = 0  # which time step of the sequences x begins with


class Samples:
    """Inputs and targets at the door of fit, evaluate and predict, checked once; batches are cut
    from them.

    x  N sequences: a list of arrays (T_i, m) or of symbols (T_i,), or one array whose first axis is
       N. For a network without recurrent layers N rows (m,). What has labels of its own (pandas,
       polars, xarray) is taken by position, as a list is.
    y  N targets. steps="every": (T_i, k) each, or class labels (T_i,). steps="last", or no
       recurrent layers: (k,) or a label.
    """

    def __init__(self, network, x, y=None, *, targets=True, name=""):
        self.network = network
        if targets and y is None:
            raise ArgumentError(f"{name}y is None, expected the targets, one for each sample of x")
        m, k, dtype = network.input_size, network.output_size, network.dtype
        x = arguments.samples(f"{name}x", x)
        y = y if y is None else arguments.samples(f"{name}y", y)
        if y is not None and len(y) != len(x):
            raise ShapeError(
                f"{name}y has {len(y)} targets, expected {len(x)}, one for each sample of x"
            )
        self.x, self.y = [], []
        for i in range(len(x)):
            a = host(arguments.as_array(f"{name}x[{i}]", x[i], dtype))
            if not network.recurrent:
                a = host(arguments.floats(f"{name}x[{i}]", x[i], dtype, (m,), f"(m={m},)"))[None]
            elif arguments.are_symbols(x[i], a, 1):
                # a batch has one dtype
                a = arguments.symbols(f"{name}x[{i}]", a, m, "(T,)", 1).astype(np.int64)
            else:
                a = host(arguments.floats(f"{name}x[{i}]", x[i], dtype, (None, m), f"(T, m={m})"))
            if a.dtype.kind == "f":
                arguments.finite(f"{name}x[{i}]", a)
            if self.x and a.dtype.kind != self.x[0].dtype.kind:
                raise DtypeError(
                    f"{name}x[{i}] is {a.dtype}, but {name}x[0] is {self.x[0].dtype}: all are "
                    "features, or all are symbols"
                )
            self.x.append(a)
            if y is not None:
                rows = len(a) if network.recurrent and network.steps == "every" else None
                self.y.append(network.objective.target(f"{name}y[{i}]", host(y[i]), rows, k, dtype))

    def __len__(self):
        return len(self.x)

    def batch(self, chosen) -> Batch:
        network, d = self.network, self.network.backend
        lengths = np.array([len(self.x[i]) for i in chosen])
        T, B = int(lengths.max()), len(chosen)
        x = np.zeros((T, B, *self.x[chosen[0]].shape[1:]), self.x[chosen[0]].dtype)
        target = np.zeros((T, B, network.output_size), network.dtype)
        weight = np.zeros((T, B), network.dtype)
        for b, i in enumerate(chosen):
            x[: lengths[b], b] = self.x[i]
            first = 0 if network.steps == "every" else lengths[b] - 1
            weight[first : lengths[b], b] = 1
            if self.y:
                target[first : lengths[b], b] = self.y[i]
        a, steps = enter(d, x, network.input_size, network.dtype, lengths)
        return Batch(
            a, steps, d.array(target, network.dtype), d.array(weight, network.dtype), lengths
        )

    def batches(self, batch_size: int, order=None):
        order = np.arange(len(self)) if order is None else order
        for first in range(0, len(order), batch_size):
            yield self.batch(order[first : first + batch_size])


class History(dict[str, list[float]]):
    """What `fit` returns, lists by name; at the prompt their lengths and last numbers."""

    def __repr__(self):
        last = {name: f", last {values[-1]:.6g}" if values else "" for name, values in self.items()}
        words = (f"{name}: {len(self[name])}{word}" for name, word in last.items())
        return f"History({'; '.join(words)})"


def host(a):
    return a.get() if hasattr(a, "get") and hasattr(a, "__cuda_array_interface__") else a


def alone(train: Train) -> Train:
    """train(network, …), which no other thread, and no function that it calls, may call for the
    same network meanwhile.
    """

    @wraps(train)
    def train_alone(network, *given, **options):
        with network.in_training():
            return train(network, *given, **options)

    return cast(Train, train_alone)


@alone
def fit(
    network,
    x: Listed,
    y: Listed,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    optimizer: str | optimizers.Optimizer = "adam",
    learning_rate: float | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_step_norm: float | None = None,
    clip_step_value: float | None = None,
    truncate: tuple[int, int] | None = None,
    validation: tuple[Listed, Listed] | None = None,
    shuffle: bool = True,
    seed: int = 0,
    progress: bool = True,
    on_epoch: Callable[[Any, History], object] | None = None,
    watch: Callable[[Any, int], object] | None = None,
    checkpoint: str | PathLike | None = None,
    checkpoint_every: int | None = None,
    resume: str | PathLike | None = None,
    memory_budget: int | str | None = None,
) -> History:
    """Train the network on N samples (see Samples for what x and y may be).  Returns the history.

    optimizer      "sgd", "rmsprop", "adam", "adamw" with `learning_rate`, or an object of
                   rnn_gpu.optimizers
    clip_norm      bound of the global norm of all gradients (Pascanu 2013); clip_value bounds each
                   number; value first
    clip_step_norm, clip_step_value  bounds of δ of each step and sample within BPTT, value first
                                     (see Recurrent.backward)
    truncate       (k1, k2): truncated BPTT, an update after every k1 steps, from their loss, which
                   goes back through the last k2 steps (see `windows`); the state is carried on.
                   None is (T, T)
    validation     a pair (x, y), evaluated after each epoch
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
                   network, data and arguments; `epochs`, the optimizer's hyperparameters and
                   clipping may be others. If anything else is, or the file is damaged, an error
                   says what, and nothing has changed
    memory_budget  bytes, or "512MB": where a batch needs more, its sequences are cut into segments,
                   of which only the first states are kept, and each is computed again on the way
                   back: the same gradient to the last bit, for one more pass forward (see
                   `Network.plan`)

    history        lists by name: "step_loss" and "gradient_norm" (before clipping) of every update,
                   and "clipped_steps" where δ has a bound; "loss", "accuracy" (of the training
                   batches as they passed; only where the loss knows classes), "validation_loss",
                   "validation_accuracy" and "seconds" of every epoch; and "compile_seconds", of the
                   kernels that were not compiled yet.
    Raises NonFiniteError at the first NaN or infinity in a loss or gradient, naming the earliest
    place, before a weight has changed.
    """
    samples = Samples(network, x, y)
    if validation is not None and (
        not isinstance(validation, (tuple, list)) or len(validation) != 2
    ):
        raise ArgumentError(f"validation is {type(validation).__name__}, expected a pair (x, y)")
    held_out = None if validation is None else Samples(network, *validation, name="validation ")
    arguments.size("epochs", epochs), arguments.size("batch_size", batch_size)
    clip_norm = None if clip_norm is None else arguments.bound("clip_norm", clip_norm)
    clip_value = None if clip_value is None else arguments.bound("clip_value", clip_value)
    shuffle, progress = arguments.flag("shuffle", shuffle), arguments.flag("progress", progress)
    clip = clip_of(clip_step_value, clip_step_norm)
    optimizer = optimizers.resolve(optimizer, learning_rate)
    rng = np.random.default_rng(arguments.seed("seed", seed))
    for name, f, given in (
        ("on_epoch", on_epoch, "history"),
        ("watch", watch, "number of the update"),
    ):
        if f is not None and not callable(f):
            raise ArgumentError(f"{name} is {f!r}, expected a function of (network, {given})")
    truncate = check_truncate(network, truncate)
    if memory_budget is not None:
        for name, given in (("truncate", truncate), ("watch", watch)):
            if given is not None:
                raise ArgumentError(
                    f"memory_budget is given, and {name}, which is for what is computed only "
                    "once: leave one out"
                )
        ragged = len(set(map(len, samples.x))) > 1
        # raises before the work
        memory.plan(
            network, max(map(len, samples.x)), min(batch_size, len(samples)), memory_budget, ragged
        )
    if checkpoint_every is not None:
        arguments.size("checkpoint_every", checkpoint_every)
        if checkpoint is None:
            raise ArgumentError(
                "checkpoint_every is given, but no checkpoint: say where it is to be written"
            )
    if checkpoint is not None:
        io.check_place("checkpoint", checkpoint)
    settings = {
        "samples": len(samples),
        "batch_size": int(batch_size),
        "shuffle": shuffle,
        "seed": int(seed),
    }
    settings |= {"truncate": truncate and list(truncate)}
    if checkpoint is not None or resume is not None:
        settings["data"] = checkpoints.fingerprint(samples.x, samples.y)
    at = checkpoints.Position(
        rng.bit_generator.state,
        history={"compile_seconds": [], "step_loss": [], "gradient_norm": []},
    )
    if resume is not None:
        at = checkpoints.restore(resume, network, optimizer, settings)
    rng.bit_generator.state, history = at.rng, History(at.history)
    at.history = history

    def keep():
        if checkpoint is not None:
            checkpoints.save(checkpoint, network, optimizer, settings, at)

    history["compile_seconds"].append(compile_kernels(network, optimizer, progress, clip))
    steps = -(-len(samples) // batch_size)
    with tqdm(
        total=epochs * steps,
        initial=at.epoch * steps + at.batch,
        disable=not progress,
        unit="batch",
        dynamic_ncols=True,
    ) as bar:
        while at.epoch < epochs:
            start, seen = time.perf_counter(), at.seen
            order = rng.permutation(len(samples)) if shuffle else np.arange(len(samples))
            for batch in samples.batches(batch_size, order[at.batch * batch_size :]):
                states = None
                for window, on in windows(batch, segments(len(batch.x), truncate)):
                    if not window.weight.any():  # only the state is carried on
                        states = carried_on(network, window, states, on)
                        continue
                    segment = (
                        None
                        if memory_budget is None
                        else memory.plan(network, *batch.x.shape[:2], memory_budget, ragged).cut
                    )
                    options = (
                        clip_norm,
                        clip_value,
                        len(history["step_loss"]),
                        states,
                        watch,
                        segment,
                        clip,
                    )
                    made, norm = train_step(network, window, optimizer, *options)
                    states = states_before(network, made.tape, on)
                    history["step_loss"].append(made.loss)
                    history["gradient_norm"].append(norm)
                    if clip != UNCLIPPED:
                        history.setdefault("clipped_steps", []).append(made.back.clipped_steps)
                    seen.append((made.loss, made.correct, float(window.weight.sum())))
                    del made  # what a pass remembers, before the next
                bar.update()
                at.batch += 1
                if checkpoint_every and at.batch % checkpoint_every == 0:
                    keep()
            means = average(seen)
            if held_out:
                means |= {
                    f"validation_{name}": value
                    for name, value in measure(network, held_out, batch_size).items()
                }
            for name, value in (means | {"seconds": time.perf_counter() - start}).items():
                history.setdefault(name, []).append(value)
            bar.set_description(f"epoch {at.epoch + 1}/{epochs}")
            bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()})
            if on_epoch:
                on_epoch(network, history)
            at = checkpoints.Position(rng.bit_generator.state, at.epoch + 1, history=history)
            keep()
    return history


def check_truncate(network, truncate) -> tuple[int, int] | None:
    if truncate is None:
        return None
    if not isinstance(truncate, (tuple, list)) or len(truncate) != 2:
        raise ArgumentError(
            f"truncate is {truncate!r}, expected a pair (k1, k2) of numbers of steps"
        )
    k1, k2 = arguments.size("truncate[0]", truncate[0]), arguments.size("truncate[1]", truncate[1])
    if k1 > k2:
        raise ArgumentError(
            f"truncate is ({k1}, {k2}), expected k1 <= k2: of every {k1} steps, {k1 - k2} would "
            "give no gradient"
        )
    if not network.recurrent:
        raise ArgumentError(
            f"truncate is ({k1}, {k2}), but this network has no recurrent layer: there is no time "
            "to cut"
        )
    if any(layer.reverse for layer in network.recurrent):
        raise ArgumentError(
            f"truncate is ({k1}, {k2}), but a layer goes from the last step to the first: its "
            "state cannot be carried on"
        )
    return k1, k2


def segments(T: int, truncate: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """The (start, first, end) of truncated BPTT: the loss of steps first … end−1 goes back through
    steps start … end−1.
    """
    k1, k2 = truncate or (T, T)
    ends = [min(first + k1, T) for first in range(0, T, k1)]
    return [
        (max(0, end - k2), first, end) for first, end in zip(range(0, T, k1), ends, strict=True)
    ]


def windows(batch: Batch, segments):
    """The part of the batch for each segment, and which of its steps the next segment begins with;
    None after the last.

    Where k2 > k1 windows overlap, and what they share is computed again, with the weights of now.
    """
    for (start, first, end), after in itertools.zip_longest(segments, segments[1:]):
        weight = batch.weight[start:end].copy()
        weight[: first - start] = 0
        part = Batch(
            batch.x[start:end],
            batch.steps.part(start, end),
            batch.target[start:end],
            weight,
            batch.lengths,
            start,
        )
        yield part, after and after[0] - start


def carried_on(network, window: Batch, states, on):
    """The states before step `on` of a window that the loss does not count."""
    states = states or zero_states(network.recurrent, window.x.shape[1])
    *_, tapes = network.forward(
        window.x, states, window.steps, next_pass(network.layers, training=True)
    )
    return states_before(network, tapes, on)


def states_before(network, tapes, step: int | None):
    """The states of each recurrent layer before a step of a pass; None for no step."""
    return (
        None
        if step is None
        else [
            tape.s[:, step]
            for layer, tape in zip(network.layers, tapes, strict=True)
            if layer.recurrent
        ]
    )


@np.errstate(all="ignore")  # as on a GPU: what is not finite is looked for, and named
def gradient(
    network,
    x: Listed,
    y: Listed,
    *,
    truncate: tuple[int, int] | None = None,
) -> tuple[float, dict[str, np.ndarray]]:
    """(loss, gradients by name) of N samples (see Samples) as one batch; no weight changes.

    truncate  (k1, k2) cuts BPTT as `fit` does: every k1 steps, their loss goes back through the
              last k2 steps, and the gradients are summed. Segments that reach the first step are
              not cut: they share one pass, so k2 >= T is full BPTT to the last bit.
    """
    samples = Samples(network, x, y)
    cuts = check_truncate(network, truncate)
    batch = samples.batch(range(len(samples)))
    parts = segments(len(batch.x), cuts)
    uncut = [part for part in parts if part[0] == 0]
    E, grads, total, states = 0.0, {}, float(batch.weight.sum()), None
    for window, on in windows(batch, [(0, 0, uncut[-1][-1]), *parts[len(uncut) :]]):
        share = float(window.weight.sum()) / total
        if not share:
            states = carried_on(network, window, states, on)
            continue
        made = forward_backward(network, window, states)
        states = states_before(network, made.tape, on)
        E += share * made.loss
        for name, g in made.back.grads.items():
            grads[name] = grads[name] + share * g if name in grads else share * g
    return E, grads


@np.errstate(all="ignore")  # as on a GPU: what is not finite is looked for, and named
def train_step(
    network,
    batch: Batch,
    optimizer,
    clip_norm=None,
    clip_value=None,
    step=0,
    states=None,
    watch=None,
    segment=None,
    clip=UNCLIPPED,
):
    """One update from one batch.  Returns (what was Made, the norm of the gradient before
    clipping).
    """
    made = forward_backward(network, batch, states, watch is not None, segment, clip)
    grads = made.back.grads
    norm = global_norm(grads)
    if not np.isfinite(made.loss) or not np.isfinite(norm):
        found = (
            memory.first_bad(network.backend.numpy(made.o), made.loss)
            if segment
            else finite.first_bad(network, batch, made)
        )
        raise NonFiniteError(f"update {step}: {found}. No weight has changed.")
    if watch:
        watch(network, step)
    if clip_value:
        for g in grads.values():
            np.clip(g, -clip_value, clip_value, out=g)
    if clip_norm and (now := global_norm(grads)) > clip_norm:
        for g in grads.values():
            g *= g.dtype.type(clip_norm / now)
    if norm > (limit := optimizer.largest(network.dtype)) and any(
        float(abs(g).max()) > limit for g in grads.values()
    ):
        squares = (
            f"{type(optimizer).__name__} keeps squares of gradients, which overflow beyond "
            f"{limit:.3g} in {network.dtype}"
        )
        raise NonFiniteError(
            f"update {step}: {squares}; the norm is {norm:.3g}. clip_norm bounds it. No weight "
            "has changed."
        )
    optimizer.step(network.backend, network.parameters, grads)
    return made, norm


def global_norm(grads) -> float:
    """‖all gradients together‖, summed in float64."""
    return float(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values())) ** 0.5


class Made(NamedTuple):
    """What one batch makes on its way forward and back."""

    loss: float
    correct: float | None  # share of right answers, where the loss knows classes
    o: np.ndarray  # (T, B, k)
    tape: Any  # what the way back needed, of each layer
    back: Back


def forward_backward(
    network, batch: Batch, states=None, taped=False, segment=None, clip: Clip = UNCLIPPED
) -> Made:
    """Loss and gradients of one batch, from these states or zero; the network remembers them as
    those of its last pass.

    segment  steps that are computed, and computed again, at a time (see Segments); None is all
    """
    B = batch.x.shape[1]
    states = states or zero_states(network.recurrent, B)
    way = memory.Segments(network, segment) if segment else network
    network.let_go()
    o, _, tape = way.forward(batch.x, states, batch.steps, next_pass(network.layers, training=True))
    E, do = network.objective(network.backend, o, batch.target, batch.weight)
    back = way.back(tape, do, zero_states(network.recurrent, B), taped, clip)
    # to look at, not to go back again
    network.remember(Last(batch.x, batch.steps, None, back=back, thread=get_ident()))
    return Made(E, network.objective.correct(o, batch.target, batch.weight), o, tape, back)


def compile_kernels(network, optimizer, progress: bool, clip: Clip = UNCLIPPED) -> float:
    """Run one update on a copy of the network, so that every kernel is compiled before the bar
    starts.  Returns the seconds.
    """
    if progress:
        tqdm.write(f"compiling kernels for {network.device}, {network.dtype} … ", end="")
    start = time.perf_counter()
    copy, once = network.copy(), type(optimizer).__new__(type(optimizer))
    once.__dict__ |= optimizer.__dict__ | {"state": {}, "steps": 0}
    m, k = network.input_size, network.output_size
    zeros = Samples(
        copy, [np.zeros((1, m) if network.recurrent else m, network.dtype)], targets=False
    )
    batch = zeros.batch([0])
    target = np.full((1, 1, k), 1 / k, network.dtype)
    train_step(
        copy, batch._replace(target=copy.backend.array(target, network.dtype)), once, clip=clip
    )
    seconds = time.perf_counter() - start
    if progress:
        tqdm.write(f"{seconds:.1f} s")
    return seconds


def average(seen) -> dict[str, float]:
    """(loss, share of right answers or None, weight) of batches -> their means."""
    total = sum(weight for *_, weight in seen)
    means = {"loss": sum(E * weight for E, _, weight in seen) / total}
    if seen[0][1] is not None:
        means["accuracy"] = sum(correct * weight for _, correct, weight in seen) / total
    return means


def measure(network, samples: Samples, batch_size: int) -> dict[str, float]:
    seen = []
    for batch in samples.batches(batch_size):
        o = run(network, batch)
        E, _ = network.objective(network.backend, o, batch.target, batch.weight)
        seen.append(
            (E, network.objective.correct(o, batch.target, batch.weight), float(batch.weight.sum()))
        )
    return average(seen)


def run(network, batch: Batch):
    """Outputs (T, B, k) of one batch; what `backward` needs is left alone."""
    return network.forward(
        batch.x, zero_states(network.recurrent, batch.x.shape[1]), batch.steps, keep=False
    )[0]


def evaluate(network, x: Listed, y: Listed, *, batch_size: int = 256) -> dict[str, float]:
    """{"loss": …} and, where the loss knows classes, {"accuracy": …}, over all samples (see
    Samples).
    """
    return measure(network, Samples(network, x, y), arguments.size("batch_size", batch_size))


def predict(network, x: Listed, *, batch_size: int = 256) -> Any:
    """The network's outputs for N samples: (N, k) with steps="last" or without recurrent layers,
    else a list of (T_i, k).

    For the cross-entropies these are logits: `.argmax(-1)` is the class.
    """
    outputs = []
    for batch in Samples(network, x, targets=False).batches(
        arguments.size("batch_size", batch_size)
    ):
        o = network.backend.numpy(run(network, batch))
        for b, length in enumerate(batch.lengths):
            outputs.append(
                o[length - 1, b]
                if network.steps == "last" or not network.recurrent
                else o[:length, b]
            )
    return np.stack(outputs) if network.steps == "last" or not network.recurrent else outputs
