"""Batches over time whose episodes begin anywhere, each from a state that is stored: what our
modules for torchrl do, without torchrl.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ...errors import ArgumentError, UnsupportedError
from ...kernels import LIVE, RESET
from ..registry import register
from .chunks import said
from .dtypes import computed
from .operators import FORWARD
from .stack import Stack


def checked(name: str, module: Any, states: int) -> Stack:
    """The module that was given or made, if it can do what is asked of it."""
    if not isinstance(module, Stack):
        raise ArgumentError(
            f"{name} is a {type(module).__name__}, expected a module of rnn_gpu.torch; for others "
            "use torchrl's own"
        )
    if module.cell.states != states:
        raise ArgumentError(
            f"{name} carries {module.cell.states} states, expected {states}, for which there are "
            "keys"
        )
    if module.bidirectional or module.proj_size:
        raise UnsupportedError(
            f"{name} is bidirectional or has a projection, expected layers that see the past "
            "alone, and whose output is their state; use torchrl's own module"
        )
    if module.differentiable_twice:
        raise UnsupportedError(
            f"{name} has differentiable_twice=True, expected False: a batch over time goes through "
            "kernels"
        )
    return module


def carrier(name: str, module, states: int, make: Any, sizes: tuple, device) -> dict:
    """What torchrl's constructor takes: a module made of these sizes; or the one that was given,
    beside which torchrl refuses sizes.
    """
    if module is None:
        return {name: checked(name, make(*sizes, device=device), states)}
    input_size, hidden_size, *_ = sizes
    beside = {"input_size": input_size, "hidden_size": hidden_size}
    return beside | {name: checked(name, module, states)}


def over_time(stack: Stack, x, given, begins) -> tuple:
    """x (T, B, m) through all layers in one call -> y (T, B, n), the last states (S, L, B, n), and
    those after every step (S, L, T, B, n), which have no slope.

    given   (S, L, T, B, n): before the first step, and before those where a sample begins anew
    begins  (T, B) booleans; None: nowhere but at the first step
    Layers are operators here: they leave no tapes, and no counts of what was clipped, which the
    module says where it is asked.
    """
    stack.forget()
    T, B, _ = x.shape
    if begins is None:
        flags, s0 = None, given[:, :, 0]
    else:
        first = torch.zeros_like(begins[:1])  # its states are the initial ones
        flags = LIVE + RESET * torch.cat([first, begins[1:]]).to(torch.uint8)
        s0 = torch.cat([given[:, :, :1], given], 2)
    clip = stack.clip_step_value, stack.clip_step_norm
    how = register(stack.cell), stack.precision or "", False, False, flags is not None, *clip
    how += said(stack.parallel), stack.tolerance
    last, every = [], []
    for k, parameters in enumerate(stack.all_weights):
        U, W, *biases = map(computed, parameters)
        b, c = biases or (U.new_zeros(len(U)), U.new_zeros(len(U)))
        sides = (b, c) if stack.cell.apart else (b + c, None)
        x, after, s, *_ = FORWARD(x, s0[:, k].contiguous(), U, W, *sides, flags, *how)
        last.append(after)
        every.append(s[:, 1 : T + 1])
        if k < stack.num_layers - 1:
            x = torch.nn.functional.dropout(x, stack.dropout, stack.training)
    return x, torch.stack(last, 1), torch.stack(every, 1)


def one_step(stack: Stack, θ: dict, x, s) -> tuple:
    """x (B, m), s (S, L, B, n) -> y (B, n) and the states after, by the module's own call with
    parameters θ.
    """
    hx = s[0] if len(s) == 1 else tuple(s)
    y, after = torch.func.functional_call(stack, θ, (x[:, None], hx))
    return y[:, 0], after[None] if len(s) == 1 else torch.stack(after)


def by_steps(stack: Stack, θ: dict, x, given, begins):
    """The states of `over_time` after every step, with their slope: a call for each."""
    s, every = given[:, :, 0], []
    for t in range(len(x)):
        s = torch.where(begins[t, :, None], given[:, :, t], s) if t else s
        _, s = one_step(stack, θ, x[t], s)
        every.append(s)
    return torch.stack(every, 2)


class Later(torch.autograd.Function):
    """States after every step, whose slope is computed where a loss looks at them: from the way
    through time once more, step by step.
    """

    @staticmethod
    def forward(ctx, stack, begins, every, x, given, *parameters):
        ctx.stack = stack
        ctx.dropped = stack.training and stack.dropout and stack.num_layers > 1
        ctx.save_for_backward(begins, x, given, *parameters)
        return every.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d):
        stack, (begins, *tensors) = ctx.stack, ctx.saved_tensors
        if ctx.dropped:
            raise UnsupportedError(
                "the states at the end of an episode have no slope under dropout: a second way "
                "through time would drop others"
            )
        with torch.enable_grad():
            x, given, *θ = leaves = [a.detach().requires_grad_() for a in tensors]
            names = [name for name, _ in stack.named_parameters()]
            every = by_steps(stack, dict(zip(names, θ, strict=True)), x, given, begins)
            stack.forget()
            return None, None, None, *torch.autograd.grad(every, leaves, d, allow_unused=True)
