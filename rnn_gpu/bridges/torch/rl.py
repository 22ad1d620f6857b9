"""torchrl's recurrent modules on our kernels: see rnn_gpu.rl, where users find them."""

from typing import Any

import torchrl.modules

from ...errors import ArgumentError, UnsupportedError
from .modules import GRU, LSTM
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


class Ours:
    """What both modules do otherwise than torchrl's."""

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
        if lstm is None:
            make: Any = LSTM
            how = num_layers, bias, batch_first, dropout
            lstm = make(input_size, hidden_size, *how, device=device)
            input_size = hidden_size = None
        super().__init__(input_size, hidden_size, lstm=checked("lstm", lstm, 2), **keys)


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
        if gru is None:
            make: Any = GRU
            how = num_layers, bias, batch_first, dropout
            gru = make(input_size, hidden_size, *how, device=device)
            input_size = hidden_size = None
        super().__init__(input_size, hidden_size, gru=checked("gru", gru, 1), **keys)
