"""What layers draw: masks by Philox, the same on every device, whatever the batch's size and
length.
"""

from typing import NamedTuple

from .. import arguments
from ..errors import ArgumentError
from ..kernels import Cell
from ..kernels.cells.noise import dropped, zoned
from ..kernels.philox import LOW, words

PART = 1 << 16  # what one layer draws has places of its own, this far apart


class Source(NamedTuple):
    """Which of Philox's numbers: its key and the words of its counter, but for step, sample and
    unit.
    """

    seed: int
    place: int  # of the layer in its network, or a multiple of PART beyond
    draw: int  # the number of the training pass
    first: int = 0  # step of the whole sequence


def struck(device, rate: float, shape: tuple[int, int, int], source: Source):
    """(T, B, n) booleans of the device, a share `rate` of them True; a function of the source and
    of step, sample and unit.
    """
    seed, place, draw, first = source
    return words(device.array, *shape, seed, place, draw, first) < round(rate * 2**32)


def drop_mask(dtype, rate: float, struck):
    """What numbers are multiplied by: zero where they are struck, else 1/(1 − rate)."""
    return (~struck).astype(dtype) * dtype.type(1 / (1 - rate))


def key(seed: int) -> int:
    """A seed that Philox can take.  Raises ArgumentError for larger ones."""
    if seed > LOW:
        raise ArgumentError(
            f"seed is {seed!r}, expected an integer of at most {LOW}: it is half of Philox's key"
        )
    return seed


class Noise(NamedTuple):
    """What a recurrent layer draws in training: rates."""

    dropout: float = 0.0  # of the state on its way through W
    zoneout: tuple[float, ...] = ()  # of each state; () for none

    def __bool__(self):
        return bool(self.dropout or self.zoneout)

    def around(self, cell: Cell, training: bool) -> Cell:
        """The cell with its noise around it; outside training zoneout is its expectation, and
        dropout nothing.
        """
        cell = zoned(cell) if self.zoneout else cell
        return dropped(cell) if self.dropout and training else cell

    def beside(self, device, p, gates: int, source: Source, training: bool):
        """p (T, B, G, n) -> (p with what the cell draws, (T, B, G + D, n); the dropout's mask (B,
        n), or None), in time's order.

        Zoneout of state k draws 2 (k + 1) PARTs beyond the source's place: those between are left
        to a layer that goes the other way.
        """
        T, B, _, n = p.shape
        drops = bool(self.dropout and training)
        wide = device.empty((T, B, gates + len(self.zoneout) + drops, n), p.dtype)
        wide[:, :, :gates] = p
        for k, rate in enumerate(self.zoneout):
            own = source._replace(place=source.place + (2 * k + 2) * PART)
            drawn = struck(device, rate, (T, B, n), own) if training and rate else rate
            wide[:, :, gates + k] = drawn
        if not drops:
            return wide, None
        # one mask for all steps
        drawn = struck(device, self.dropout, (1, B, n), source._replace(first=0))
        mask = drop_mask(p.dtype, self.dropout, drawn)
        wide[:, :, -1] = mask
        return wide, mask[0]


def noise(recurrent_dropout, zoneout, states: int) -> Noise:
    """Rates at the door; zoneout is one for all states, or a tuple of one a state."""
    dropout = arguments.number("recurrent_dropout", recurrent_dropout, 0, 1, open_high=True)
    if isinstance(zoneout, (tuple, list)):
        if len(zoneout) != states:
            raise ArgumentError(
                f"zoneout has {len(zoneout)} rates, expected a number, or {states}: one a state "
                "of the cell"
            )
        rates = tuple(
            arguments.number(f"zoneout[{k}]", rate, 0, 1, open_high=True)
            for k, rate in enumerate(zoneout)
        )
    else:
        rates = (arguments.number("zoneout", zoneout, 0, 1, open_high=True),) * states
    return Noise(dropout, rates if any(rates) else ())
