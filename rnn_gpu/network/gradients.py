"""Loss and gradients of one batch; no weight changes."""

from threading import get_ident
from typing import Any, NamedTuple

import numpy as np

from ..arguments import Listed
from ..kernels import UNCLIPPED, Clip
from ..layers.cutting import Parallel
from ..layers.passes import Back, Last, next_pass
from ..layers.stateful import zero_states
from . import memory
from .batches import Batch, Samples
from .truncation import carried_on, check_truncate, segments, states_before, windows


class Unread(NamedTuple):
    """What one batch makes on its way forward and back, on the device: nobody has waited for it."""

    sums: Any  # of the loss: see Device.loss
    o: Any  # (T, B, k)
    tape: Any
    back: Back
    states: list  # after the last step


class Made(NamedTuple):
    """What one batch makes on its way forward and back."""

    loss: float
    correct: float | None  # share of right answers, where the loss knows classes
    o: np.ndarray  # (T, B, k)
    tape: Any  # what the way back needed, of each layer
    back: Back
    states: list  # after the last step


class Ways(NamedTuple):
    """How a batch goes forward and back."""

    states: list | None = None  # to begin with; None is the batch's own, or zero
    taped: bool = False  # True leaves what BPTT computed at every step: see Layer.back
    # steps that are computed, and computed again, at a time: see Segments; None is all
    segment: int | None = None
    clip: Clip = UNCLIPPED  # bounds of δ of each step and sample
    parallel: Parallel | None = None  # how layers go over long sequences in chunks


PLAIN = Ways()


def forward_backward(network, batch: Batch, ways: Ways = PLAIN) -> Made:
    """Loss and gradients of one batch; the network remembers them as those of its last pass."""
    unread = both_ways(network, batch, ways)
    summed, hits = network.backend.numpy(unread.sums).sum(0)
    E, correct = network.objective.means(summed, hits, batch.counts, network.dtype)
    return Made(E, correct, unread.o, unread.tape, unread.back, unread.states)


def both_ways(network, batch: Batch, ways: Ways) -> Unread:
    """As forward_backward, but that nobody waits for the device."""
    B = batch.x.shape[1]
    states = ways.states or batch.states or zero_states(network.recurrent, B)
    way = memory.Segments(network, ways.segment) if ways.segment else network
    network.let_go()
    pass_ = next_pass(network.layers, True, ways.parallel, batch.given)
    o, last, tape = way.forward(batch.x, states, batch.steps, pass_)
    loss = network.objective.loss
    do, sums = network.backend.loss(loss, o, batch.target, batch.weight, batch.total)
    back = way.back(tape, do, zero_states(network.recurrent, B), ways.taped, ways.clip)
    # to look at, not to go back again
    network.remember(Last(batch.x, batch.steps, None, back=back, thread=get_ident()))
    return Unread(sums, o, tape, back, last)


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
    E, grads, states = 0.0, {}, None
    whole = [(0, 0, uncut[-1][-1])]
    for window, on in windows(network.backend, batch, whole + parts[len(uncut) :]):
        share = window.counts / batch.counts
        if not share:
            states = carried_on(network, window, states, on)
            continue
        made = forward_backward(network, window, Ways(states))
        states = states_before(network, made.tape, on)
        E += share * made.loss
        for name, g in made.back.grads.items():
            grads[name] = grads[name] + share * g if name in grads else share * g
    return E, grads
