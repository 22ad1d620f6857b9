"""Modules of torch's that run on our kernels: see rnn_gpu.torch, where users find them."""

from ... import arguments, derivatives
from ...kernels import Activation, Cell
from ...kernels.cells import CELLS
from ...kernels.cells.elman import elman
from ...kernels.cells.gru import gru
from ...kernels.cells.lstm import lstm
from .stack import Stack


class Recurrent(Stack):
    """A stack of any cell: a Cell (see `rnn_gpu.cell`), or the name of a built-in one: "lstm",
    "gru", "elman_softsign", …
    """

    def __init__(self, cell: Cell | str, *arguments_of_torch, **options):
        self._cell = cell if isinstance(cell, Cell) else arguments.choice("cell", cell, CELLS)
        derivatives.check_cell(self.cell)
        super().__init__(*arguments_of_torch, **options)

    @property
    def cell(self):
        """The Cell itself, where a name was given too."""
        return self._cell if isinstance(self._cell, Cell) else CELLS[self._cell]


class RNN(Stack):
    """torch.nn.RNN, with any activation: nonlinearity is a name, an Activation, or a pair (f, df)
    with df from the output y.
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        nonlinearity: str | Activation | tuple = "tanh",
        *arguments_of_torch,
        **options,
    ):
        self.activation = derivatives.activation(nonlinearity)
        self.nonlinearity = self.activation.name
        super().__init__(input_size, hidden_size, num_layers, *arguments_of_torch, **options)

    @property
    def cell(self):
        """The Elman cell of its activation."""
        return elman(self.activation)


class LSTM(Stack):
    """torch.nn.LSTM."""

    cell = lstm


class GRU(Stack):
    """torch.nn.GRU."""

    cell = gru
