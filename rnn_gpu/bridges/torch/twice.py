"""A layer in one direction as a loop of torch's own operators: slow, but autograd differentiates it
as often as asked.
"""

import math
import types
from functools import partial
from typing import NamedTuple

import torch

from ...errors import UnsupportedError
from ...kernels import LIVE, RESET, Cell
from ...kernels.binding import bind
from ...kernels.binding.names import CONSTANTS, NAMES
from ...kernels.once import once


def maths_of_torch() -> types.ModuleType:
    """torch's functions under NumPy's and math's names, which formulas say."""
    module = types.ModuleType("maths")
    for of_numpy, of_math in NAMES.items():
        function = partial(of_tensors, getattr(torch, "abs" if of_math == "fabs" else of_math))
        setattr(module, of_numpy, function)
        setattr(module, of_math, function)
    for name in ("where", "maximum", "minimum", "sign", "square"):
        setattr(module, name, partial(of_tensors, getattr(torch, name)))
    for name in CONSTANTS:
        setattr(module, name, getattr(math, name))
    return module


def of_tensors(function, *given):
    """A function of torch's, which takes tensors, of tensors and of the numbers in a formula."""
    tensors = [a for a in given if isinstance(a, torch.Tensor)]
    like = next((a for a in tensors if a.is_floating_point()), torch.empty(0, dtype=torch.float64))
    given = (a if isinstance(a, torch.Tensor) else like.new_tensor(a) for a in given)
    return function(*given)


MATHS = maths_of_torch()


@once
def step_of(cell: Cell):
    """The cell's step on tensors."""
    return bind(cell.step, None, MATHS, lambda g: g)


class Slow(NamedTuple):
    """A call as a loop: see calls."""

    cell: Cell
    flags: torch.Tensor | None
    left = ()  # the way back is autograd's

    def carry(self, reverse: bool, x, s0, U, W, b, c):
        """x (T, B, m) through one layer and direction: (y (T, B, n), last state (S, B, n)); s0 as
        `passes.carry` takes it.
        """
        flags, given = self.flags, None
        if s0.dim() == 4:
            s0, given = s0[:, 0], s0[:, 1:]
            if reverse:
                given = torch.cat([given[:, :1], given[:, 1:].flip(1)], 1)
        if flags is not None and reverse:  # what begins at t then ends there: see Steps.turned
            starts = torch.cat([torch.zeros_like(flags[:1]), flags[1:].flip(0) & RESET])
            flags = flags.flip(0) & LIVE | starts
        step, states, outputs = step_of(self.cell), tuple(s0), []
        p = torch.nn.functional.linear(x.flip(0) if reverse else x, U, b)
        for t in range(len(x)):
            if flags is not None:
                begin = tuple(s0 if given is None else given[:, t])
                states = chosen(flags[t] & RESET, begin, states)
            q = torch.nn.functional.linear(states[0], W, c)
            after = self.after(step, gates(p[t], self.cell), gates(q, self.cell), states)
            states = after if flags is None else chosen(flags[t] & LIVE, after, states)
            y = states[self.cell.output]
            outputs.append(y if flags is None else chosen(flags[t] & LIVE, (y,), (y * 0.0,))[0])
        y = torch.stack(outputs)
        return y.flip(0) if reverse else y, torch.stack(states)

    def after(self, step, p, q, s):
        """The states after a step.  Raises UnsupportedError where the formula takes no tensors."""
        try:
            return tuple(after.to(s[0].dtype) for after in step(p, q, s)[0])
        except (TypeError, ValueError, RuntimeError) as error:
            raise UnsupportedError(
                f"differentiable_twice=True, but torch cannot compute cell {self.cell.name!r} on "
                f"whole tensors: {error}"
            ) from error


def gates(a, cell: Cell):
    """a (B, G·n) as a tuple of its gates."""
    return a.chunk(cell.gates, 1)


def chosen(where, a, b):
    """Of tuples of (B, n): those of a where (B,) is not 0, else of b."""
    pairs = zip(a, b, strict=True)
    return tuple(torch.where(where[:, None] != 0, one, other) for one, other in pairs)
