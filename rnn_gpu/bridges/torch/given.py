"""What samples go on from where they begin anew: `reset_state` of a module's call."""

from typing import Any, NamedTuple

import torch

from ...errors import ShapeError
from ...layers.given import need_resets
from .calls import Axes, pattern, shape_of
from .dtypes import computed_like


class GivenStates(NamedTuple):
    """Of all layers and directions."""

    states: list[torch.Tensor]  # (layers·directions, T, B, n) each; read where a sample begins anew
    first: torch.Tensor  # (B, 1) bool: the samples that begin anew with the first step

    def behind(self, i: int, s0, reverse: bool) -> torch.Tensor:
        """The initial states s0 (S, B, n) of one layer and direction with those that are given
        behind them, (S, 1 + T, B, n), as `carry` takes them.
        """
        states = torch.stack([s[i] for s in self.states])
        begin = s0 if reverse else torch.where(self.first, states[:, 0], s0)
        return torch.cat([begin[:, None], states], 1)


def given_states(parts, resets, x, axes: Axes, sizes: tuple[int, int], like) -> GivenStates:
    """reset_state and resets as they came with x (T, B, m).

    parts  one tensor of each state
    sizes  how many layers and directions there are; units of each
    like   a parameter
    """
    need_resets(resets, "booleans")
    begins, (count, n) = pattern("resets", resets, x, axes), sizes
    T, B, _ = x.shape
    steps, said = shape_of(T, B, axes)
    shape, states = (count, *steps, n), []
    for k, part in enumerate(parts):
        name = "reset_state" if len(parts) == 1 else f"reset_state[{k}]"
        if part.shape != shape:
            raise ShapeError(
                f"{name} has shape {tuple(part.shape)}, expected {tuple(shape)}: "
                f"(layers·directions, {said}, n)"
            )
        a: Any = computed_like(name, part, like)
        a = (a.transpose(1, 2) if axes.rows_first else a).reshape(count, T, B, n)
        states.append(a)
    return GivenStates(states, begins[0][:, None])
