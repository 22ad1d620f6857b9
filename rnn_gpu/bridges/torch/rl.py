"""torchrl's recurrent modules on our kernels: see rnn_gpu.rl, where users find them.

torchrl cuts a batch over time where episodes begin, pads the pieces, and computes them as samples.
Here they stay where they are: flags say where a sample begins anew, and from which state.
"""

from typing import Any

import torch
import torchrl.modules
from tensordict import TensorDictBase
from tensordict.nn import dispatch
from torch.autograd.function import once_differentiable

from ...errors import ArgumentError, ShapeError, UnsupportedError
from ...kernels import LIVE, RESET
from ..registry import register
from .chunks import said
from .dtypes import computed, computed_like
from .modules import GRU, LSTM
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
    Layers are operators here: they leave no tapes, and no counts of what was clipped.
    """
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
        ctx.save_for_backward(begins, x, given, *parameters)
        return every.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d):
        stack, (begins, *tensors) = ctx.stack, ctx.saved_tensors
        if stack.training and stack.dropout and stack.num_layers > 1:
            raise UnsupportedError(
                "the states at the end of an episode have no slope under dropout: a second way "
                "through time would drop others"
            )
        with torch.enable_grad():
            x, given, *θ = leaves = [a.detach().requires_grad_() for a in tensors]
            names = [name for name, _ in stack.named_parameters()]
            every = by_steps(stack, dict(zip(names, θ, strict=True)), x, given, begins)
            return None, None, None, *torch.autograd.grad(every, leaves, d, allow_unused=True)


class Ours:
    """What both modules do otherwise than torchrl's: their way through a tensordict."""

    in_keys: list
    out_keys: list
    recurrent_mode: bool
    ours: Stack

    @dispatch()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Read in_keys, set out_keys; returns the tensordict.

        One step: all of its batch (…) are samples, whose states are zero where "is_init" is set.
        recurrent_mode: a batch (…, T), which goes on from the states at its first step, and where
        "is_init" is set at a later one from the states there. The states that leave stand at the
        last step of each episode; at the others zero. Without states all begin with zero.
        """
        shape = tensordict.shape
        if self.recurrent_mode and not shape:
            raise ShapeError("the tensordict has batch size (), expected (…, T) in recurrent_mode")
        T = shape[-1] if self.recurrent_mode else 1
        B = shape.numel() // T

        def rows(a):
            return a.reshape(B, T, *a.shape[len(shape) :])

        begins = rows(tensordict.get("is_init")).reshape(B, T)
        x = rows(tensordict.get(self.in_keys[0]))
        states = [rows(s) for s in self._given(tensordict, x)]
        self._check(x, states)
        given = torch.stack(states)
        way = self._over_time if self.recurrent_mode else self._one_step
        y, states = way(x, begins, given)
        for key, a in zip(self.out_keys, (y, *states), strict=True):
            tensordict.set(key, a.reshape(*shape, *a.shape[2:]))
        return tensordict

    def _given(self, tensordict, x):
        """States (…, L, n) of the tensordict, or zeros."""
        keys = self.in_keys[1:-1]
        states = [tensordict.get(key, None) for key in keys]
        missing = [key for key, s in zip(keys, states, strict=True) if s is None]
        if missing and len(missing) < len(keys):
            raise ArgumentError(f"the tensordict has no {missing}, expected all of {keys}, or none")
        shape = *tensordict.shape, self.ours.num_layers, self.ours.hidden_size
        return [x.new_zeros(shape) for _ in keys] if missing else states

    def _check(self, x, states):
        """Raises what a call of our module does where x (B, T, m) or a state (B, T, L, n) does not
        fit.
        """
        hx = [s[:, 0].transpose(0, 1) for s in states]
        self.ours.check_forward_args(x, hx[0] if len(hx) == 1 else hx, None)
        for s in hx:
            computed_like("a state", s, next(self.ours.parameters()))

    def _one_step(self, x, begins, given):
        """x (B, 1, m), begins (B, 1), given (S, B, 1, L, n) -> y (B, 1, n) and the states after."""
        s = torch.where(begins[..., None, None], 0.0, given)[:, :, 0].transpose(1, 2)
        y, after = one_step(self.ours, {}, x[:, 0], s)
        return y[:, None], after.transpose(1, 2)[:, :, None]

    def _over_time(self, x, begins, given):
        """x (B, T, m), begins (B, T), given (S, B, T, L, n) -> y (B, T, n), and the states at the
        end of each episode, zero elsewhere, (S, B, T, L, n).
        """
        came, x, given = (
            x.dtype,
            computed(x.transpose(0, 1)),
            computed(given.permute(0, 3, 2, 1, 4)),
        )
        begins = begins.T
        anew = torch.compiler.is_compiling() or bool(begins[1:].any())
        y, last, every = over_time(self.ours, x, given, begins if anew else None)
        before = torch.zeros_like(every[:, :, 1:])
        if anew:
            every = Later.apply(self.ours, begins, every, x, given, *self.ours.parameters())
            before = torch.where(begins[1:, :, None], every[:, :, :-1], before)
        states = torch.cat([before, last[:, :, None]], 2)
        return y.transpose(0, 1).to(came), states.permute(0, 3, 2, 1, 4).to(came)

    def make_python_based(self):
        """Refused: UnsupportedError."""
        raise UnsupportedError("this module is there for its kernels; build torchrl's own")

    make_cudnn_based = make_python_based


class LSTMModule(Ours, torchrl.modules.LSTMModule):
    """torchrl.modules.LSTMModule on rnn_gpu.torch.LSTM: see there for keys, modes and the primer.

    lstm  in place of sizes: a module of rnn_gpu.torch with batch_first=True, of any cell of two
          states, one way. Raises ArgumentError for others, UnsupportedError for both ways
    """

    def __init__(
        self,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        *,
        device=None,
        lstm: Stack | None = None,
        **keys,
    ):
        sizes = input_size, hidden_size, num_layers, bias, batch_first, dropout
        super().__init__(**carrier("lstm", lstm, 2, LSTM, sizes, device), **keys)

    @property
    def ours(self):
        """The module of rnn_gpu.torch."""
        return self.lstm


class GRUModule(Ours, torchrl.modules.GRUModule):
    """torchrl.modules.GRUModule on rnn_gpu.torch.GRU: see there for keys, modes and the primer.

    gru  in place of sizes: a module of rnn_gpu.torch with batch_first=True, of any cell of one
         state, one way. Raises ArgumentError for others, UnsupportedError for both ways
    """

    def __init__(
        self,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        *,
        device=None,
        gru: Stack | None = None,
        **keys,
    ):
        sizes = input_size, hidden_size, num_layers, bias, batch_first, dropout
        super().__init__(**carrier("gru", gru, 1, GRU, sizes, device), **keys)

    @property
    def ours(self):
        """The module of rnn_gpu.torch."""
        return self.gru
