"""One update: from a batch that is there to weights that have changed."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import NonFiniteError
from ..kernels import UNCLIPPED, Change, Clip, Limits, Report
from ..layers.cutting import Parallel
from ..optimizers import Optimizer
from . import finite, memory
from .batches import Batch
from .gradients import PLAIN, Made, Unread, Ways, both_ways


class Clipping(NamedTuple):
    """Bounds of gradients; None is none."""

    norm: float | None = None  # of all gradients together
    value: float | None = None  # of each number, before the norm
    step: Clip = UNCLIPPED  # of δ of each step and sample, within BPTT


NO_CLIPPING = Clipping()


@np.errstate(all="ignore")  # as on a GPU: what is not finite is looked for, and named
def train_step(
    network,
    batch: Batch,
    optimizer: Optimizer,
    clipping: Clipping = NO_CLIPPING,
    *,
    number: int = 0,
    states: list | None = None,
    segment: int | None = None,
    look: Callable[[int], object] | None = None,
    taped: bool = False,
    parallel: Parallel | None = None,
    enqueue: Callable | None = None,
) -> tuple[Made, float]:
    """One update from one batch.  Returns (what was Made, the norm of the gradient before
    clipping).

    number       of the update, for messages and for `look`
    states       to begin with; None is zero
    segment, parallel  see Ways
    look, taped  see Training.epoch
    enqueue      does the work of `enqueue`: Replays, where several updates come
    Raises NonFiniteError, before a weight has changed. The device is waited for once; where
    somebody looks, twice.
    """
    device = network.backend
    moments = optimizer.moments_of(device, network.parameters)
    scalars = scalars_of(network, optimizer, clipping)
    ways = Ways(states, taped, segment, clipping.step, parallel)
    formula = optimizer.formula, moments, scalars
    going = (enqueue or enqueued)(network, batch, *formula, ways, changes=look is None)
    made, norm = read(network, batch, optimizer, going, number, segment)
    if look:
        look(number)
        # the learning rate, and gradients, may be others
        change = going.change._replace(scalars=scalars_of(network, optimizer, clipping))
        norms = device.norms(change.grads, change.scalars)
        report = device.update(change, going.unread.sums, norms)
        read(network, batch, optimizer, going._replace(report=report), number, segment)
    optimizer.took(moments)
    return made, norm


class Going(NamedTuple):
    """An update on its way, in arrays of the device that nobody has waited for."""

    unread: Unread
    change: Change
    report: Any  # the numbers of a Report


def scalars_of(network, optimizer: Optimizer, clipping: Clipping):
    """The `scalars` of the Change that comes next, an array of the device."""
    limits = Limits(
        clipping.value or np.inf, clipping.norm or np.inf, optimizer.largest(network.dtype)
    )
    return network.backend.array(np.array([*limits, *optimizer.next_scalars()]), "float64")


def enqueued(
    network,
    batch: Batch,
    formula: Callable,
    moments: Mapping[str, tuple],
    scalars,
    ways: Ways = PLAIN,
    *,
    changes: bool = True,
) -> Going:
    """All that the device does in one update, from a batch that is there to a report that nobody
    has read: in between nothing is copied to the device, and nobody waits for it.

    formula, moments, scalars  of the optimizer: see Change
    changes                    see Device.update
    """
    device, unread = network.backend, both_ways(network, batch, ways)
    parameters, grads = network.parameters, unread.back.grads
    of_each = tuple(grads[name] for name in parameters)
    change = Change(formula, tuple(parameters.values()), tuple(moments.values()), of_each, scalars)
    norms = device.norms(change.grads, scalars)
    report = device.update(change, unread.sums, norms, changes)
    if type(clipped := unread.back.clipped_steps) is not int:
        report[CLIPPED] = clipped
    return Going(unread, change, report)


CLIPPED = Report._fields.index("clipped")


def read(
    network, batch: Batch, optimizer: Optimizer, going: Going, number: int, segment: int | None
) -> tuple[Made, float]:
    """(what was Made, the norm of the gradient before clipping) of an update on its way: the device
    is waited for.  Raises NonFiniteError where it was not taken.
    """
    unread, device = going.unread, network.backend
    found = Report(*device.numpy(going.report).tolist())
    E, correct = network.objective.means(found.loss, found.hits, batch.counts, network.dtype)
    back = unread.back
    if type(back.clipped_steps) is not int:
        back = back._replace(clipped_steps=int(found.clipped))
    made = Made(E, correct, unread.o, unread.tape, back, unread.states)
    norm = found.square**0.5
    if found.taken:
        return made, norm
    if np.isfinite(E) and np.isfinite(norm):
        limit = optimizer.largest(network.dtype)
        squares = (
            f"{type(optimizer).__name__} keeps squares of gradients, which overflow beyond "
            f"{limit:.3g} in {network.dtype}"
        )
        bad = f"{squares}; the norm is {norm:.3g}. clip_norm bounds it"
    elif segment:
        bad = memory.first_bad(device.numpy(made.o), E)
    else:
        bad = finite.first_bad(network, batch, made)
    raise NonFiniteError(f"update {number}: {bad}. No weight has changed.")
