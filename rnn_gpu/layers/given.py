"""States that are given: what a sample goes on from where it begins anew, in place of the initial
one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError
from .passes import Back
from .steps import Steps, entered


class Given(NamedTuple):
    """Of one recurrent layer, in time's order, whichever way the layer goes. A layer in reverse
    comes to the steps before t from behind: there it goes on from states[:, t].
    """

    states: Any  # (S, T, B, n): before step t, where a sample begins anew; elsewhere anything
    # (B, 1) bool: the samples that begin anew with the first step; None for none
    first: Any = None

    def initial(self, s0):
        """The states that a layer not in reverse begins with, of s0 (S, B, n)."""
        return s0 if self.first is None else np.where(self.first, self.states[:, 0], s0)

    def put_into(self, out, initial, reverse: bool):
        """The others into out (S, T, B, n), in the order of the layer's own steps; the first of
        them, which nobody looks at, is the initial one (S, B, n).
        """
        out[:, 0] = initial
        out[:, 1:] = in_time(self.states[:, 1:], reverse)

    def part(self, steps: Steps, start: int, end: int) -> "Given":
        """Of steps start … end−1, of the Steps of all; what begins anew with the first of them
        begins with what is given, whatever went before.
        """
        starts = None if steps.starts is None else steps.starts[start]
        return Given(self.states[:, start:end], starts if start else self.first)


def parts_of(given: Mapping[Any, Given], steps: Steps, start: int, end: int) -> dict[Any, Given]:
    """Of each layer that has some, Given.part."""
    return {layer: own.part(steps, start, end) for layer, own in given.items()}


def need_resets(resets, expected: str):
    """Raise ArgumentError where `reset_state` came without resets."""
    if resets is None:
        raise ArgumentError(
            f"reset_state is given, but resets is None, expected {expected}: the steps before "
            "which a sample begins anew, with that state"
        )


def in_time(a, reverse: bool):
    """a (S, T − 1, B, n) of all steps but the first, from a layer's own order to time's, or back:
    a view. What begins anew before step t of time's order does before step T − t of reverse.
    """
    return a[:, ::-1] if reverse else a


def arrived(device, ds, behind, first, reverse: bool) -> tuple[Any, Any]:
    """(dE/d(initial state) (S, B, n), dE/d(Given.states) (S, T, B, n)) of what arrives before the
    first of a layer's own steps, ds (S, B, n), and where it begins anew, behind (S, T, B, n).

    first  as Given's
    """
    dstates, zero = device.zeros(behind.shape, ds.dtype), ds.dtype.type(0)
    dstates[:, 1:] = in_time(behind[:, 1:], reverse)
    if first is None or reverse:
        return ds, dstates
    dstates[:, 0] = np.where(first, ds, zero)
    return np.where(first, zero, ds), dstates


def parted(device, back: Back, behind, first, reverse: bool) -> Back:
    """The Back of a layer with given states, of that with all that arrives before its own first
    step, and behind (S, T, B, n), narrowed, as arrived has it.
    """
    ds, wide = back.ds[0], back.wide_ds
    own, dgiven = arrived(device, ds, behind, first, reverse)
    if first is not None and not reverse:  # for the steps before
        wide = np.where(first, wide.dtype.type(0), wide)
    return back._replace(ds=[own], dgiven=(dgiven,), wide_ds=wide)


def enter_given(device, parts, begins, dtype: str, turn) -> Given:
    """Arrays at the door, their names with them: (T, B, n) after `turn`, one of each state.

    begins  (T, B) booleans of NumPy's: where they are looked at. Raises ArgumentError at NaN and
            infinity there
    """
    states = None
    for k, (name, a) in enumerate(parts):
        own = entered(device, name, turn(a), dtype, ~begins[:, :, None], turn)
        states = device.empty((len(parts), *own.shape), dtype) if states is None else states
        states[k] = own
    return Given(states, device.array(begins[0][:, None], bool) if begins[0].any() else None)
