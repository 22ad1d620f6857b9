"""How good a network is on samples, and what it gives for them; no weight changes."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import arguments
from ..arguments import Listed
from ..errors import ArgumentError
from ..layers.cutting import Parallel, ParallelLike, parallel_of
from ..layers.passes import next_pass
from ..layers.stateful import zero_states
from .batches import Batch, Samples
from .counting import Counting

Metrics = Mapping[str, Callable[[np.ndarray, np.ndarray], float]]


class Seen(NamedTuple):
    """What is known of a batch, or of a window of one."""

    loss: float
    correct: float | None  # share of right answers, where the loss knows classes
    weight: float  # Σ weight
    metrics: Mapping[str, float] = MappingProxyType({})


def average(seen: Sequence[Seen]) -> dict[str, float]:
    """The means of batches, each with its weight, by name."""
    total = sum(one.weight for one in seen)
    means = {"loss": sum(one.loss * one.weight for one in seen) / total}
    if seen[0].correct is not None:
        means["accuracy"] = sum((one.correct or 0.0) * one.weight for one in seen) / total
    for name in seen[0].metrics:
        means[name] = sum(one.metrics[name] * one.weight for one in seen) / total
    return means


RESERVED = (
    "loss",
    "accuracy",
    "seconds",
    "compile_seconds",
    "step_loss",
    "gradient_norm",
    "clipped_steps",
    "learning_rate",
)


def check_metrics(metrics) -> Metrics:
    """Functions by name at the door; None is none."""
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise ArgumentError(
            f"metrics is {arguments.came(metrics)}, expected a dict of functions by name"
        )
    for name, f in metrics.items():
        if not isinstance(name, str) or name in RESERVED or name.startswith("validation_"):
            raise ArgumentError(f"metrics has the name {name!r}, expected one that is not there")
        if not callable(f):
            raise ArgumentError(
                f"metrics[{name!r}] is {arguments.came(f)}, expected a function of (outputs, "
                "targets)"
            )
    return dict(metrics)


def metrics_of(network, metrics: Metrics, batch: Batch, o) -> dict[str, float]:
    """What metrics say of the outputs o (T, B, k) of a batch: each a function of the rows that the
    loss counts, outputs (R, k) and targets (R, k) or class labels (R,), NumPy's.
    """
    if not metrics:
        return {}
    number, found = network.backend.numpy, {}
    counts = number(batch.weight) != 0
    outputs, targets = number(o)[counts], number(batch.target)[counts]
    for name, f in metrics.items():
        value = f(outputs, targets)
        if not isinstance(value, (Real, np.generic, np.ndarray)) or np.ndim(value):
            raise ArgumentError(f"metrics[{name!r}] gives {arguments.came(value)}, not a number")
        found[name] = float(value)
    return found


def measure(
    network,
    samples: Samples,
    batch_size: int,
    metrics: Metrics = MappingProxyType({}),
    parallel=None,
) -> dict[str, float]:
    """As `evaluate`, of samples that were checked."""
    seen = []
    for batch in samples.batches(batch_size):
        if not batch.counts:
            continue
        o = run(network, batch, parallel)
        objective, device = network.objective, network.backend
        _, sums = device.loss(objective.loss, o, batch.target, batch.weight, batch.total)
        summed, hits = device.numpy(sums).sum(0)
        E, correct = objective.means(summed, hits, batch.counts, network.dtype)
        seen.append(Seen(E, correct, batch.counts, metrics_of(network, metrics, batch, o)))
    return average(seen)


def run(network, batch: Batch, parallel: Parallel | None = None):
    """Outputs (T, B, k) of one batch; what `backward` needs is left alone."""
    states = batch.states or zero_states(network.recurrent, batch.x.shape[1])
    pass_ = next_pass(network.layers, False, parallel, batch.given)
    return network.forward(batch.x, states, batch.steps, pass_, keep=False)[0]


def evaluate(
    network,
    x: Listed,
    y: Listed,
    *,
    batch_size: int = 256,
    mask: Listed | None = None,
    resets: Listed | None = None,
    reset_state: Sequence[Any] | None = None,
    state: Sequence[Any] | None = None,
    sample_weight: ArrayLike | None = None,
    class_weight: Mapping[int, float] | ArrayLike | None = None,
    ignore_index: int | None = None,
    burn_in: int = 0,
    metrics: Metrics | None = None,
    parallel: ParallelLike = False,
    tolerance: float = 1e-6,
) -> dict[str, float]:
    """{"loss": …} and, where the loss knows classes, {"accuracy": …}, over all samples, and what
    `metrics` say: see Samples for x, y, mask, resets, reset_state and state, `fit` for what counts,
    and Recurrent for parallel and tolerance.
    """
    counting = Counting(sample_weight, class_weight, ignore_index, burn_in).checked(network)
    of_samples = {"mask": mask, "resets": resets, "reset_state": reset_state, "state": state}
    samples = Samples(network, x, y, counting=counting, **of_samples)
    size = arguments.size("batch_size", batch_size)
    way = parallel_of(parallel, tolerance)
    return measure(network, samples, size, check_metrics(metrics), way)


def predict(
    network,
    x: Listed,
    *,
    batch_size: int = 256,
    mask: Listed | None = None,
    resets: Listed | None = None,
    reset_state: Sequence[Any] | None = None,
    state: Sequence[Any] | None = None,
    parallel: ParallelLike = False,
    tolerance: float = 1e-6,
) -> Any:
    """The network's outputs for N samples: (N, k) with steps="last" or without recurrent layers,
    else a list of (T_i, k), zero where no step happens.

    For the cross-entropies these are logits: `.argmax(-1)` is the class. See Samples for x, mask,
    resets, reset_state and state, Recurrent for parallel and tolerance.
    """
    way = parallel_of(parallel, tolerance)
    outputs, last = [], network.steps == "last" or not network.recurrent
    of_samples = {"mask": mask, "resets": resets, "reset_state": reset_state, "state": state}
    samples = Samples(network, x, targets=False, **of_samples)
    for batch in samples.batches(arguments.size("batch_size", batch_size)):
        o = network.backend.numpy(batch.steps.only_live(run(network, batch, way)))
        for b, length in enumerate(batch.lengths):
            outputs.append(o[batch.last[b], b] if last else o[:length, b])
    return np.stack(outputs) if last else outputs


def predict_proba(
    network,
    x: Listed,
    *,
    batch_size: int = 256,
    mask: Listed | None = None,
    resets: Listed | None = None,
    reset_state: Sequence[Any] | None = None,
    state: Sequence[Any] | None = None,
    parallel: ParallelLike = False,
    tolerance: float = 1e-6,
) -> Any:
    """Probabilities of N samples, shaped as `predict` gives outputs: of classes that exclude each
    other, which add up to 1 over the last axis, or of each output by itself, as the loss has them.
    Arguments as of `predict`.

    Raises ArgumentError where the loss knows no classes.
    """
    classes, loss = network.objective.loss.classes, network.loss
    if not classes:
        raise ArgumentError(
            f"predict_proba: the loss is {loss!r}, which knows no classes: its outputs are no "
            "logits. Use predict"
        )
    of_logits = softmax if classes == "exclusive" else sigmoid
    ways = {"parallel": parallel, "tolerance": tolerance}
    samples = {"mask": mask, "resets": resets, "reset_state": reset_state, "state": state}
    outputs = predict(network, x, batch_size=batch_size, **samples, **ways)
    return list(map(of_logits, outputs)) if isinstance(outputs, list) else of_logits(outputs)


def softmax(o):
    """exp(o) / Σ exp(o) over the last axis; no exponent is above 0."""
    e = np.exp(o - o.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(o):
    """1 / (1 + exp(−o)), where no exponent is above 0."""
    e = np.exp(-np.abs(o))
    return np.where(o < 0, e, 1) / (1 + e)
