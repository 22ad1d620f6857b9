"""Inference on sequences as they come: a step or a few at a time, the states kept between calls."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import arguments
from ..errors import ArgumentError, ShapeError
from ..layers.stateful import as_states, check_states
from ..layers.steps import enter, swapped
from .network import Network


class Stream:
    """A network that goes on where it stopped: `stream(x)` gives the outputs of the steps x, after
    all steps before.

    network  without layers in reverse, which would begin with the last step
    state    to begin with, a list as a Network takes it; None is zero

    Outputs are those of one call on the whole sequence: on "cpu" to the last bit. Elsewhere the
    recurrence is bitwise the same, but BLAS may sum the products of the inputs in another order
    when it is given fewer steps. Nothing but the states is kept.
    """

    def __init__(self, network: Network, *, state: Sequence[Any] | None = None):
        if not isinstance(network, Network) or not network.recurrent:
            raise ArgumentError(
                f"network is {arguments.came(network)}, expected a Network that has a recurrent "
                "layer"
            )
        for i, layer in enumerate(network.recurrent):
            if layer.reverse:
                raise ArgumentError(
                    f"recurrent layer {i} of network goes in reverse: its first step is the last "
                    "of the sequence"
                )
        self.network = network
        self.reset(state)

    def reset(self, state: Sequence[Any] | None = None):
        """Forget what came before: begin with `state`, a list as a Network takes it; None is
        zero.
        """
        self._state, self._s = state, None

    def __call__(self, x: ArrayLike) -> Any:
        """x (B, m), one step, or (T, B, m), or integers (B,) or (T, B) -> y (B, k) or (T, B, k);
        (B, T, ·) of a network that is batch_first.  B stays until `reset`.
        """
        network = self.network
        a = arguments.as_array("x", x, network.dtype)
        one = a.ndim == (1 if a.dtype.kind in "iu" else 2)
        first = network.batch_first and not one
        a, steps = enter(
            network.backend, a[None] if one else a, network.input_size, network.dtype, None, first
        )
        B = a.shape[1]
        if self._s is None:
            self._s = check_states(network.recurrent, "state", self._state, B)
        if self._s[0].shape[1] != B:
            raise ShapeError(
                f"x has {B} samples, but this stream goes on with {self._s[0].shape[1]}: reset() "
                "begins another"
            )
        y, s, _ = network.forward(a, self._s, steps, keep=False)
        self._s = [state.copy() for state in s]  # not a view that keeps all steps alive
        return arguments.give(network.backend, x, y[0] if one else swapped(y) if first else y)

    @property
    def state(self):
        """The states now, as NumPy arrays in a list as a Network takes it; None before the first
        step of a stream from zero.
        """
        return (
            self._state
            if self._s is None
            else as_states(self.network.recurrent, np.empty(0), self._s)
        )
