"""Updates of one shape done again as one: a CUDA graph of all that the card does in them."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from threading import get_ident
from typing import Any, NamedTuple

from ..kernels.devices import Device
from ..layers.passes import Last
from .batches import Batch
from .gradients import Ways

MOST = 4  # graphs that are kept: each has the memory of a whole update


class Kept(NamedTuple):
    """A captured update: its arrays are read and written at each replay."""

    batch: Batch
    scalars: Any
    going: Any  # what the update returned; in its arrays stands what the last replay left
    replay: Callable[[], None]
    held: tuple  # whose addresses are in the graph


class Replays:
    """Updates of a network, by all that a graph of them fixes.

    enqueue  (network, batch, formula, moments, scalars, ways, *, changes) -> what is on its way on
             the device, with `unread`: nobody waits for it, and it copies nothing from the host

    The first of a kind goes call by call, which compiles what it needs; the second is captured, and
    done by its graph, as are all that follow. Whatever a graph cannot hold goes call by call: steps
    that are masked, a state that is carried on or given, noise, which is drawn anew each time,
    tapes, chunks side by side, whose ends are looked at, and devices without graphs. Bit for bit it
    is the same.
    """

    def __init__(self, network, enqueue: Callable):
        self.network, self.enqueue = network, enqueue
        self.seen: OrderedDict[tuple, tuple] = OrderedDict()  # and what has these addresses
        self.kept: OrderedDict[tuple, Kept] = OrderedDict()
        self.refused = False  # a capture has failed: no other is tried

    def __call__(self, network, batch: Batch, formula, moments, scalars, ways: Ways, *, changes):
        """As enqueue."""
        work = network, batch, formula, moments, scalars, ways
        if self.refused or not may_be_kept(network, batch, ways, changes):
            return self.enqueue(*work, changes=changes)
        held = (
            formula,
            *network.parameters.values(),
            *(m for each in moments.values() for m in each),
        )
        key = *map(id, held), batch.x.shape, batch.target.shape, ways.clip
        if key in self.kept:
            return self.again(self.kept[key], batch, scalars)
        if key not in self.seen:
            self.seen[key] = held
            trim(self.seen, 4 * MOST)
            return self.enqueue(*work, changes=True)
        kept = self.capture(network.backend, work, held)
        if kept is None:
            return self.enqueue(*work, changes=True)
        self.kept[key] = kept
        trim(self.kept, MOST)
        return self.again(kept, batch, scalars)

    def capture(self, device: Device, work: tuple, held: tuple) -> Kept | None:
        """The update as a graph; None where there is none, and from then on none is tried."""
        try:
            made = device.captured(lambda: self.enqueue(*work, changes=True))
        except Exception as error:
            what = "an update could not be captured into a CUDA graph, and goes call by call"
            warnings.warn(f"{what}: {error}", RuntimeWarning, stacklevel=2)
            made = None
        if made is None:
            self.refused = True
            return None
        (_, batch, _, _, scalars, _), (going, replay) = work, made
        return Kept(batch, scalars, going, replay, held)

    def again(self, kept: Kept, batch: Batch, scalars):
        """The captured update, of this batch and these scalars."""
        for own, other in ((kept.batch.whole, batch.whole), (kept.scalars, scalars)):
            if own is not other:
                own[...] = other
        self.network.let_go()
        kept.replay()
        back = kept.going.unread.back
        self.network.remember(
            Last(kept.batch.x, kept.batch.steps, None, back=back, thread=get_ident())
        )
        return kept.going


def may_be_kept(network, batch: Batch, ways: Ways, changes: bool = True) -> bool:
    """Is an update the same work each time, but for numbers in arrays?"""
    begun = ways.states or batch.states or batch.given
    plain = changes and not (begun or ways.taped or ways.segment or ways.parallel)
    all_live = batch.steps.dead is None and batch.steps.starts is None
    drawn = any(part.draws for layer in network.layers for part in layer.parts)
    return plain and all_live and batch.whole is not None and not drawn


def trim(values: OrderedDict, most: int):
    """Let go of the oldest."""
    while len(values) > most:
        values.popitem(last=False)
