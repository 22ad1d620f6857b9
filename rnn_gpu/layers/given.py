"""States that are given: what a sample goes on from where it begins anew, in place of the initial
one.
"""

from typing import Any, NamedTuple

import numpy as np

from .steps import entered


class Given(NamedTuple):
    """Of one recurrent layer, in time's order, whichever way the layer goes. A layer in reverse
    comes to the steps before t from behind: there it goes on from states[:, t].
    """

    states: Any  # (S, T, B, n): before step t, where a sample begins anew; zero elsewhere
    first: Any  # (B, 1) bool: the samples that begin anew with the first step

    def initial(self, s0, reverse: bool):
        """The states that the first of a layer's own steps begins with, of s0 (S, B, n)."""
        return s0 if reverse else np.where(self.first, self.states[:, 0], s0)

    def put_behind(self, s, reverse: bool):
        """The other states into s (S, 2T + 1, B, n), behind those of the layer's own steps."""
        s[:, len(self.states[0]) + 2 :] = self.states[:, :0:-1] if reverse else self.states[:, 1:]

    def arrived(self, device, ds, behind, reverse: bool) -> tuple[Any, Any]:
        """(dE/d(initial state) (S, B, n), dE/d(states)) of what arrives before the first of a
        layer's own steps, ds (S, B, n), and at those where it begins anew, behind (S, T, B, n);
        None where there are none.
        """
        S, T, B, n = self.states.shape
        dstates, zero = device.zeros((S, T, B, n), ds.dtype), ds.dtype.type(0)
        if behind is not None:
            dstates[:, 1:] = behind[:, :0:-1] if reverse else behind[:, 1:]
        if reverse:
            return ds, dstates
        dstates[:, 0] = np.where(self.first, ds, zero)
        return np.where(self.first, zero, ds), dstates


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
    return Given(states, device.array(begins[0][:, None], bool))
