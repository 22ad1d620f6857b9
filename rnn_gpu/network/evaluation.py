"""How good a network is on samples, and what it gives for them; no weight changes."""

from typing import Any

import numpy as np

from .. import arguments
from ..arguments import Listed
from ..errors import ArgumentError
from ..layers.stateful import zero_states
from .batches import Batch, Samples


def average(seen) -> dict[str, float]:
    """(loss, share of right answers or None, weight) of batches -> their means."""
    total = sum(weight for *_, weight in seen)
    means = {"loss": sum(E * weight for E, _, weight in seen) / total}
    if seen[0][1] is not None:
        means["accuracy"] = sum(correct * weight for _, correct, weight in seen) / total
    return means


def measure(network, samples: Samples, batch_size: int) -> dict[str, float]:
    """As `evaluate`, of samples that were checked."""
    seen = []
    for batch in samples.batches(batch_size):
        o = run(network, batch)
        objective, device = network.objective, network.backend
        _, sums = device.loss(objective.loss, o, batch.target, batch.weight, batch.total)
        summed, hits = device.numpy(sums).sum(0)
        means = objective.means(summed, hits, batch.counts, network.dtype)
        seen.append((*means, batch.counts))
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


def predict_proba(network, x: Listed, *, batch_size: int = 256) -> Any:
    """Probabilities of N samples, shaped as `predict` gives outputs: of classes that exclude each
    other, which add up to 1 over the last axis, or of each output by itself, as the loss has them.

    Raises ArgumentError where the loss knows no classes.
    """
    classes, loss = network.objective.loss.classes, network.loss
    if not classes:
        raise ArgumentError(
            f"predict_proba: the loss is {loss!r}, which knows no classes: its outputs are no "
            "logits. Use predict"
        )
    of_logits = softmax if classes == "exclusive" else sigmoid
    outputs = predict(network, x, batch_size=batch_size)
    return list(map(of_logits, outputs)) if isinstance(outputs, list) else of_logits(outputs)


def softmax(o):
    """exp(o) / Σ exp(o) over the last axis; no exponent is above 0."""
    e = np.exp(o - o.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(o):
    """1 / (1 + exp(−o)), where no exponent is above 0."""
    e = np.exp(-np.abs(o))
    return np.where(o < 0, e, 1) / (1 + e)
