"""What our modules have of torch.nn.RNNBase: arguments, parameters, and its refusals."""

from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence

from ... import arguments
from ...device import PRECISIONS
from ...errors import ArgumentError, DeviceError, DtypeError, ShapeError, UnsupportedError
from ...kernels import Cell
from ...kernels.cells.lstm import lstm
from ...layers.cutting import ParallelLike, parallel_of
from ...layers.stateful import clip_of
from ..registry import register
from .dtypes import autocast_to

MODES = {1: "RNN_TANH", 3: "GRU", 4: "LSTM"}  # torch's, by the number of their gates
OF_GATES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # whose rows are those of all gates


class SizeError(ShapeError, RuntimeError):
    """A shape that torch's own modules refuse with a RuntimeError."""


class KindError(ArgumentError, TypeError):
    """A type that torch's own modules refuse with a TypeError."""


class Told(NamedTuple):
    """What a call needs to know of a cell, in plain things."""

    name: str  # in the registry
    states: int
    apart: bool


def told_of(cell: Cell) -> Told:
    """A cell as graphs of torch's can hold it."""
    return Told(register(cell), cell.states, cell.apart)


class Base(torch.nn.RNNBase):
    """Arguments and parameters of layers of one `cell`, which a subclass has. What torch refuses is
    refused in torch's words, by an error of the same kind, which of a call is one of ours too.
    """

    cell: Cell
    clip_step_value: float | None = None
    clip_step_norm: float | None = None
    precision: str | None = None
    differentiable_twice: bool = False
    parallel: ParallelLike = False
    tolerance: float = 1e-6

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device=None,
        dtype=None,
        *,
        clip_step_value: float | None = None,
        clip_step_norm: float | None = None,
        precision: str | None = None,
        differentiable_twice: bool = False,
        parallel: ParallelLike = False,
        tolerance: float = 1e-6,
    ):
        if proj_size and self.cell is not lstm:
            raise ArgumentError("proj_size argument is only supported for LSTM, not RNN or GRU")
        for name, value in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(value, bool):
                raise KindError(f"{name} should be of type bool, got: {type(value).__name__}")
        clip_of(clip_step_value, clip_step_norm)
        way = parallel_of(parallel, tolerance)
        if precision is not None:
            arguments.choice("precision", precision, PRECISIONS)
        if arguments.flag("differentiable_twice", differentiable_twice):
            given = {"clip_step_value": clip_step_value, "clip_step_norm": clip_step_norm}
            given |= {"precision": precision, "parallel": parallel if way else None}
            for name, value in given.items():
                if value is not None:
                    raise ArgumentError(
                        f"{name} is {value!r}, but with differentiable_twice=True torch computes "
                        "the way back: leave one out"
                    )
        gates, sizes = self.cell.gates, (input_size, hidden_size, num_layers)
        how = bias, batch_first, dropout, arguments.flag("bidirectional", bidirectional), proj_size
        mode = MODES.get(gates, "RNN_TANH")
        super().__init__(mode, *sizes, *how, device=device, dtype=dtype)
        self.mode = self.mode_of_cell
        if gates not in MODES:
            self._have_rows_of(gates)
        self.clip_step_value, self.clip_step_norm = clip_step_value, clip_step_norm
        self.precision, self.differentiable_twice = precision, differentiable_twice
        self.parallel, self.tolerance = parallel, tolerance
        self.told = told_of(self.cell)

    def __setstate__(self, d):
        super().__setstate__(d)
        self.told = told_of(self.cell)

    def __prepare_scriptable__(self):
        raise UnsupportedError(
            "torch.jit.script reads Python, and these modules are more than it knows: use "
            "torch.export.export, or torch.jit.trace"
        )

    @property
    def mode_of_cell(self) -> str:
        """What torch calls the cell: "LSTM", "GRU", "RNN_TANH", …; else its name in capitals."""
        return self.cell.name.upper().replace("ELMAN_", "RNN_")

    def _have_rows_of(self, gates):
        """Parameters for a number of gates that no module of torch's has, drawn anew."""
        for name in self._flat_weights_names:
            if name.startswith(OF_GATES):
                one = getattr(self, name)
                rows = one.new_empty(gates * len(one), *one.shape[1:])
                setattr(self, name, torch.nn.Parameter(rows))
        self._init_flat_weights()
        self.reset_parameters()

    def flatten_parameters(self):
        """Nothing: what cuDNN wants of torch's modules, our kernels do not."""

    def extra_repr(self):
        ours = ("clip_step_value", "clip_step_norm", "precision", "differentiable_twice")
        ours += ("parallel", "tolerance") if self.parallel else ()
        given = [f"{name}={getattr(self, name)}" for name in ours if getattr(self, name)]
        return ", ".join([super().extra_repr(), *given])

    # What torch refuses

    def check_input(self, input, batch_sizes):
        """Raises DtypeError where its dtype is not that of the parameters, but under autocast, and
        SizeError where it has not input_size features. input (T, B, m), or (steps, m) if packed.
        """
        θ = getattr(self, self._all_weights[0][0])
        if input.device != θ.device:
            raise DeviceError(
                f"input is on {input.device}, but the parameters are on {θ.device}: move one"
            )
        if input.dtype != θ.dtype and autocast_to(input.device.type) is None:
            raise DtypeError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({θ.dtype}). "
                f"Convert input: input.to({θ.dtype}), or convert model: model.to({input.dtype})"
            )
        axes = 2 if batch_sizes is not None else 3
        if input.dim() != axes:
            raise SizeError(f"input must have {axes} dimensions, got {input.dim()}")
        if input.shape[-1] != self.input_size:
            raise SizeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {input.shape[-1]}"
            )

    def check_hidden_size(self, hx, expected_hidden_size, msg="Expected hidden size {}, got {}"):
        """Raises SizeError where hx has another shape."""
        if tuple(hx.shape) != tuple(expected_hidden_size):
            raise SizeError(msg.format(tuple(expected_hidden_size), list(hx.shape)))

    def get_expected_cell_size(self, input, batch_sizes):
        """(layers·directions, B, n), the shape of a state that no projection makes smaller."""
        layers, B, _ = self.get_expected_hidden_size(input, batch_sizes)
        return layers, B, self.hidden_size

    def check_forward_args(self, input, hidden: Any, batch_sizes):
        """Raises what torch does where input and hidden, as it is passed to a call, do not fit."""
        self.check_input(input, batch_sizes)
        size = self.get_expected_hidden_size(input, batch_sizes)
        if self.told.states == 1:
            return self.check_hidden_size(hidden, size)
        for k, part in enumerate(hidden):
            self.check_hidden_size(part, size, f"Expected hidden[{k}] size {{}}, got {{}}")
            size = self.get_expected_cell_size(input, batch_sizes)
        return None

    def permute_hidden(self, hx: Any, permutation) -> Any:
        """hx, a tensor or a tuple, its samples in another order; None is the one they have."""
        if permutation is None or isinstance(hx, torch.Tensor):
            return super().permute_hidden(hx, permutation)
        return tuple(super(Base, self).permute_hidden(part, permutation) for part in hx)

    def _check_axes(self, input, hx):
        """Raises what torch does where input, tensor or PackedSequence, or hx, a tuple of tensors,
        has not the number of axes that a call takes.
        """
        if isinstance(input, PackedSequence):
            return
        name, axes = type(self).__name__, input.dim()
        if axes not in (2, 3):
            word = " tensor" if self.mode.startswith("RNN_") else ""
            raise ShapeError(f"{name}: Expected input to be 2D or 3D, got {axes}D{word} instead")
        came = [part.dim() for part in hx]
        if any(each != axes for each in came):
            batch, which = ("unbatched", "batched")[axes - 2], ("hx", "hx and cx")[len(came) > 1]
            listed = ", ".join(f"{each}-D" for each in came)
            raise SizeError(
                f"For {batch} {axes}-D input, {which} should also be {axes}-D but got "
                + (f"({listed}) tensors" if len(came) > 1 else f"{listed} tensor")
            )
        if input.shape[1 if self.batch_first and axes == 3 else 0] == 0:
            raise SizeError("Expected sequence length to be larger than 0 in RNN")
