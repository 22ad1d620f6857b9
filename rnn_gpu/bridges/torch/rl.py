"""torchrl's recurrent modules on our kernels: see rnn_gpu.rl, where users find them.

torchrl cuts a batch over time where episodes begin, pads the pieces, and computes them as samples.
Here they stay where they are: flags say where a sample begins anew, and from which state.
"""

import torch
import torchrl.modules
from tensordict import TensorDictBase
from tensordict.nn import dispatch

from ...errors import ArgumentError, ShapeError, UnsupportedError
from .dtypes import computed, computed_like
from .episodes import Later, carrier, one_step, over_time
from .modules import GRU, LSTM
from .stack import Stack


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
