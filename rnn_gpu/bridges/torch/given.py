"""What samples go on from where they begin anew: `reset_state` of a module's call."""

from typing import Any, NamedTuple

import torch

from ...errors import ShapeError
from ...layers.given import need_resets
from .calls import Axes, pattern, shape_of
from .dtypes import computed_like


class GivenStates(NamedTuple):
    """Of all layers and directions."""

    states: list[torch.Tensor]  # (layers·directions, T, B, ·) each; read where a sample begins anew
    first: torch.Tensor  # (B, 1) bool: the samples that begin anew with the first step

    def behind(self, i: int, s0: list[torch.Tensor], reverse: bool) -> list[torch.Tensor]:
        """Each initial state, (B, ·), of one layer and direction with those that are given behind
        it, (1 + T, B, ·), which `carry` takes side by side.
        """
        given = [s[i] for s in self.states]
        if not reverse:
            s0 = [torch.where(self.first, g[0], s) for g, s in zip(given, s0, strict=True)]
        return [torch.cat([s[None], g]) for g, s in zip(given, s0, strict=True)]


def given_states(parts, resets, x, axes: Axes, count: int, sizes, like) -> GivenStates:
    """reset_state and resets as they came with x (T, B, m).

    parts  one tensor of each state
    count  of layers and directions
    sizes  of each state
    like   a parameter
    """
    need_resets(resets, "booleans")
    begins = pattern("resets", resets, x, axes)
    T, B, _ = x.shape
    (steps, said), states = shape_of(T, B, axes), []
    for k, (part, n) in enumerate(zip(parts, sizes, strict=True)):
        name = "reset_state" if len(parts) == 1 else f"reset_state[{k}]"
        shape = count, *steps, n
        if part.shape != shape:
            raise ShapeError(
                f"{name} has shape {tuple(part.shape)}, expected {tuple(shape)}: "
                f"(layers·directions, {said}, n)"
            )
        a: Any = computed_like(name, part, like)
        a = (a.transpose(1, 2) if axes.rows_first else a).reshape(count, T, B, n)
        states.append(a)
    return GivenStates(states, begins[0][:, None])
