"""torch.nn.RNNCell, LSTMCell and GRUCell: one step of one layer a call."""

from typing import Any

import torch

from ... import derivatives
from ...errors import ShapeError
from ...kernels import UNCLIPPED, Activation, Cell
from ...kernels.cells.elman import elman
from ...kernels.cells.gru import gru
from ...kernels.cells.lstm import lstm
from .base import OF_GATES, SizeError, Told, told_of
from .calls import Axes, Direct, Recorded, is_plain, steps_of_call
from .dtypes import computed, computed_like, returned


class Step(torch.nn.RNNCellBase):
    """One step of a `cell`, which a subclass has, called as torch's module of the same name."""

    cell: Cell
    told: Told
    mode: str  # as torch calls the stack of such cells

    def forward(self, input, hx: Any = None) -> Any:
        """As torch's.  input (B, m) or (m,); hx, of several states a tuple, (B, n) or (n,), or
        None; returns what comes after the step, as hx.
        """
        parts = None if hx is None else (hx,) if self.told.states == 1 else tuple(hx)
        self._check_axes(input, parts or ())
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if parts is None:
            parts = tuple(x.new_zeros(len(x), self.hidden_size) for _ in range(self.told.states))
        elif not batched:
            parts = tuple(part.unsqueeze(0) for part in parts)
        self._check_sizes(x, parts)
        dtypes = returned(self.mode, x, tuple(part.dtype for part in parts))
        states = tuple(s.to(dtype) for s, dtype in zip(self._step(x, parts), dtypes, strict=True))
        states = states if batched else tuple(s.squeeze(0) for s in states)
        return states[0] if len(states) == 1 else states

    def _step(self, x, parts):
        """x (B, m) and each state (B, n) -> each state after the step."""
        like = self.weight_ih
        x = computed_like("input", x, like)
        s0 = torch.stack([computed_like("hx", part, like) for part in parts])
        U, W, *biases = (
            computed(getattr(self, name)) for name in (OF_GATES if self.bias else OF_GATES[:2])
        )
        b, c = biases or (U.new_zeros(len(U)), U.new_zeros(len(U)))
        weights = (U, W, b, c) if self.told.apart else (U, W, b + c, None)
        x = x.unsqueeze(0)
        if is_plain(x):
            steps = steps_of_call(x, None, Axes(True, False))
            way = Direct(self.cell, steps, UNCLIPPED, None, False, [])
        else:
            way = Recorded(self.told.name, None, False, False, (None, None), None)
        return way.carry(False, x, s0, *weights)[1]

    def _check_axes(self, input, parts):
        """Raises what torch does where one has not one or two axes."""
        name, several = type(self).__name__, len(parts) > 1
        named = [(f"hx[{k}]" if several else "hidden", part) for k, part in enumerate(parts)]
        for what, tensor in [("input", input), *named]:
            if tensor.dim() not in (1, 2):
                raise ShapeError(
                    f"{name}: Expected {what} to be 1D or 2D, got {tensor.dim()}D instead"
                )

    def _check_sizes(self, x, parts):
        """Raises what torch does where x (B, m) or a part (B, n) has another shape."""
        if len(parts) != self.told.states:
            raise SizeError(f"hx has {len(parts)} states, expected {self.told.states}")
        if x.shape[1] != self.input_size:
            raise SizeError(
                f"input has inconsistent input_size: got {x.shape[1]} expected {self.input_size}"
            )
        for k, part in enumerate(parts):
            if part.dim() != 2:
                raise SizeError(f"hidden{k} has {part.dim()} axes, expected those of input")
            if len(part) != len(x):
                raise SizeError(
                    f"Input batch size {len(x)} doesn't match hidden{k} batch size {len(part)}"
                )
            if part.shape[1] != self.hidden_size:
                raise SizeError(
                    f"hidden{k} has inconsistent hidden_size: got {part.shape[1]}, "
                    f"expected {self.hidden_size}"
                )


class RNNCell(Step, torch.nn.RNNCell):
    """torch.nn.RNNCell, with any activation: nonlinearity is a name, an Activation, or a pair (f,
    df) with df from the output y.
    """

    mode = "RNN_TANH"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str | Activation | tuple = "tanh",
        device=None,
        dtype=None,
    ):
        activation = derivatives.activation(nonlinearity)
        super().__init__(input_size, hidden_size, bias, activation.name, device, dtype)
        self.activation, self.told = activation, told_of(elman(activation))

    def __setstate__(self, state):
        super().__setstate__(state)
        self.told = told_of(self.cell)

    @property
    def cell(self):
        """The Elman cell of its activation."""
        return elman(self.activation)


class LSTMCell(Step, torch.nn.LSTMCell):
    """torch.nn.LSTMCell."""

    cell, told, mode = lstm, told_of(lstm), "LSTM"


class GRUCell(Step, torch.nn.GRUCell):
    """torch.nn.GRUCell."""

    cell, told, mode = gru, told_of(gru), "GRU"
