"""Layers of one cell with the arguments, parameters and call of torch.nn.LSTM."""

import warnings

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ... import arguments, layers
from ...device import PRECISIONS, resolve
from ...errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    OrderError,
    ShapeError,
    UnsupportedError,
)
from ...kernels import Cell
from ...layers.stateful import clip_of
from ...layers.steps import all_live, steps_of
from .functions import Recurrence
from .passes import Call, Left
from .tensors import device_of, on_the_stream_of, precision_of

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Stack(torch.nn.Module):
    """Layers of one `cell`, which a subclass has, with the arguments, parameters and call of
    torch.nn.LSTM: see there.

    dtype is torch.float32 or torch.float64. Numbers of the parameters are those of torch's modules
    after the same manual_seed.
    clip_step_value, clip_step_norm  bounds of δ of every step and sample on the way back, in every
                                     layer and direction: of each
            number, then of the norm; None is none. See `backward` of our own layers
    precision  of products of float32 matrices on a GPU: "fp32" is strict, "tf32" and "bf16" are
               faster; None is what torch's own recurrent modules do there
               (torch.backends.cudnn.rnn.fp32_precision)
    """

    cell: Cell
    precision: str | None = None

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
    ):
        super().__init__()
        if proj_size:
            raise UnsupportedError(
                f"proj_size is {proj_size!r}: these modules have no projection; use "
                "torch.nn.LSTM, or a Linear after it"
            )
        self.input_size = arguments.size("input_size", input_size)
        self.hidden_size = arguments.size("hidden_size", hidden_size)
        self.num_layers, self.proj_size = arguments.size("num_layers", num_layers), 0
        self.dropout = arguments.number("dropout", dropout, 0, 1)
        self.bias = arguments.flag("bias", bias)
        self.batch_first = arguments.flag("batch_first", batch_first)
        self.bidirectional = arguments.flag("bidirectional", bidirectional)
        if self.dropout and self.num_layers == 1:
            warnings.warn("dropout acts between layers, and there is one", stacklevel=2)
        clip_of(clip_step_value, clip_step_norm)
        self.clip_step_value, self.clip_step_norm = clip_step_value, clip_step_norm
        if precision is not None:
            arguments.choice("precision", precision, PRECISIONS)
        self.precision = precision
        self._left: list[Left] = []  # by the last call, of each layer and direction
        rows = self.cell.gates * self.hidden_size
        for k in range(self.num_layers):
            columns = self.input_size if k == 0 else self.hidden_size * self._directions
            for suffix in self._suffixes(k):
                shapes = ((rows, columns), (rows, self.hidden_size), (rows,), (rows,))
                for name, shape in list(zip(NAMES, shapes, strict=True))[: 4 if bias else 2]:
                    self.register_parameter(
                        name + suffix,
                        torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)),
                    )
        self.reset_parameters()

    @property
    def _directions(self):
        return 2 if self.bidirectional else 1

    def _suffixes(self, k):
        return (f"_l{k}", f"_l{k}_reverse")[: self._directions]

    def reset_parameters(self):
        """Uniform in ±1/√n, in torch's order: after the same torch.manual_seed the same numbers."""
        for θ in self.parameters():
            torch.nn.init.uniform_(θ, -(self.hidden_size**-0.5), self.hidden_size**-0.5)

    def flatten_parameters(self):
        """Nothing: what cuDNN wants of torch's modules, our kernels do not."""

    @property
    def all_weights(self) -> list[list[torch.nn.Parameter]]:
        """The parameters of each layer and direction, as torch.nn.LSTM lists them."""
        present = NAMES[: 4 if self.bias else 2]
        return [
            [getattr(self, name + suffix) for name in present]
            for k in range(self.num_layers)
            for suffix in self._suffixes(k)
        ]

    def extra_repr(self):
        named = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        named |= {"clip_step_value": None, "clip_step_norm": None, "precision": None}
        changed = [
            f"{name}={getattr(self, name)}"
            for name, default in named.items()
            if getattr(self, name) != default
        ]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *changed])

    def __getstate__(self):
        return self.__dict__ | {"_left": []}  # a tape is neither copied nor pickled

    @property
    def tapes(self) -> list[layers.DeltaTape]:
        """The DeltaTape of each layer and direction, of arrays as the device has them, after the
        backward of a call with tape=True. On a GPU they are written on torch's stream: wait for it
        before you read them elsewhere.
        """
        taped = [left for left in self._left if left.taped]
        tapes = [left.tape for left in taped if left.tape is not None]
        if len(tapes) < len(taped):
            raise OrderError(
                "tapes are known after backward: call it on a loss of what the module returned"
            )
        return tapes

    @property
    def clipped_steps(self) -> int:
        """How often, in the backward of the last call, δ of a step and sample was beyond its
        bounds, over all layers and directions.
        """
        return sum(int(left.clipped_steps) for left in self._left)

    def forward(self, input, hx=None, mask=None, resets=None, tape=False):
        """As torch.nn.LSTM; `mask`, `resets` and `tape` are ours.  Returns (output, h_n), or
        (output, (h_n, c_n)).

        input  (T, B, m), (B, T, m) if batch_first, (T, m), or a PackedSequence
        hx     (layers·directions, B, n), or without B for an input without B; of several states a
               tuple; None is zero
        mask   booleans shaped as the steps of input, (T, B), (B, T) or (T,): where False the state
               is carried through and the output is zero
        resets booleans likewise: before a step where True the sample begins anew, with its hx, and
        no gradient goes back past it. A
               masked step resets too. For the reverse direction it is the step before that begins
               anew
        tape   True keeps δ, dE/ds and ‖∇W_t‖ of every step for `tapes`
        """
        tape = arguments.flag("tape", tape)
        packed, rows_first = isinstance(input, PackedSequence), self.batch_first
        x, lengths = (
            pad_packed_sequence(PackedSequence(input.data, input.batch_sizes))
            if packed
            else (input, None)
        )
        batched, rows_first = x.dim() == 3, rows_first and not packed
        self._check(x)
        x = self._like_parameters("input", x)
        x = (x.transpose(0, 1) if rows_first else x) if batched else x.unsqueeze(1)
        T, B, _ = x.shape
        steps = self._steps(x, lengths, rows_first, batched, mask=mask, resets=resets)
        s0 = self._states(hx, x, batched, input.sorted_indices if packed else None)
        clip, last = clip_of(self.clip_step_value, self.clip_step_norm), []
        self._left = []
        for k in range(self.num_layers):
            outputs = []
            for suffix in self._suffixes(k):
                self._left.append(Left(tape))
                reverse = suffix.endswith("reverse")
                how = device_of(x), precision_of(x, self.precision)
                call = Call(self.cell, *how, steps, reverse, clip, self._left[-1])
                y, s = Recurrence.apply(call, x, s0[:, len(last)], *self._weights(suffix))
                outputs.append(y)
                last.append(s)
            x = torch.cat(outputs, 2) if self.bidirectional else y
            if k < self.num_layers - 1:
                x = torch.nn.functional.dropout(x, self.dropout, self.training)
        h = torch.stack(last, 1)
        if lengths is not None:
            y = PackedSequence(pack_padded_sequence(x, lengths).data, *input[1:])
            h = h if input.unsorted_indices is None else h.index_select(2, input.unsorted_indices)
        else:
            y = (x.transpose(0, 1) if rows_first else x) if batched else x[:, 0]
        states = list(h if batched else h[:, :, 0])
        return y, tuple(states) if len(states) > 1 else states[0]

    def _weights(self, suffix):
        """U, W, b and c of a layer and direction; c where the cell takes the two sides apart, else
        torch's second bias is part of b.
        """
        U, W, *biases = (getattr(self, name + suffix) for name in NAMES[: 4 if self.bias else 2])
        b, c = biases or (U.new_zeros(len(U)), U.new_zeros(len(U)))
        return (U, W, b, c) if self.cell.apart else (U, W, b + c, None)

    def _check(self, x):
        axes = "(B, T, m)" if self.batch_first else "(T, B, m)"
        time = x.shape[1 if self.batch_first and x.dim() == 3 else 0] if x.dim() in (2, 3) else 0
        if time == 0:  # no samples are none to compute, but of no steps there is no last state
            raise ShapeError(
                f"input has shape {tuple(x.shape)}, expected {axes} or (T, m), of at least one step"
            )
        if x.shape[-1] != self.input_size:
            raise ShapeError(
                f"input has {x.shape[-1]} features, but this module was built for "
                f"input_size={self.input_size}: {axes}"
            )

    def _like_parameters(self, name, tensor):
        """The tensor, in float32 if autocast made it less precise."""
        θ = next(self.parameters())
        if θ.dtype not in (torch.float32, torch.float64):
            raise DtypeError(
                f"the parameters are {θ.dtype}, expected torch.float32 or float64; for less, use "
                "autocast around the module"
            )
        if tensor.device != θ.device:
            raise DeviceError(
                f"{name} is on {tensor.device}, but the parameters are on {θ.device}: move one"
            )
        if tensor.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(
            tensor.device.type
        ):
            tensor = tensor.float()
        if tensor.dtype != θ.dtype:
            raise DtypeError(
                f"{name} is {tensor.dtype}, but the parameters are {θ.dtype}: convert one"
            )
        return tensor

    def _steps(self, x, lengths, rows_first, batched, **given):
        """The Steps of x (T, B, m).  given: mask and resets as they came, by the axes of the
        input.
        """
        T, B, _ = x.shape
        d = resolve(device_of(x))
        if lengths is None and all(values is None for values in given.values()):
            place = x.get_device() if x.device.type == "cuda" else "cpu"
            with on_the_stream_of(x):  # nothing is copied to a card but once
                return all_live(d, place, T, B)
        shape, axes = (
            ((T,), "T") if not batched else ((B, T), "B, T") if rows_first else ((T, B), "T, B")
        )
        live = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths.numpy()
        patterns = []
        for name, values in given.items():
            if lengths is not None and values is not None:
                raise ArgumentError(
                    f"{name} is given with a PackedSequence, which has lengths of its own: pad "
                    f"it, or leave {name} out"
                )
            values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
            a = arguments.booleans(name, values, shape, axes, otherwise=name == "mask")
            patterns.append(a.T.reshape(T, B) if rows_first else a.reshape(T, B))
        mask, resets = patterns
        with on_the_stream_of(x):
            return steps_of(d, live & mask, resets)

    def _states(self, hx, x, batched, order):
        """hx as (S, layers·directions, B, n), samples in the order of a PackedSequence."""
        S, B = self.cell.states, x.shape[1]
        shape = (self.num_layers * self._directions, B, self.hidden_size)
        if hx is None:
            return x.new_zeros((S, *shape))
        parts = (hx,) if isinstance(hx, torch.Tensor) else hx
        listed = isinstance(parts, (tuple, list)) and all(
            isinstance(part, torch.Tensor) for part in parts
        )
        if not listed or len(parts) != S:
            expected = "a tensor" if S == 1 else f"a tuple of {S} tensors"
            raise ShapeError(f"hx is {arguments.came_in_parts(hx)}, expected {expected}")
        parts = [self._like_parameters("hx", part) for part in parts]
        expected = shape if batched else (shape[0], shape[2])
        for part in parts:
            if tuple(part.shape) != expected:
                raise ShapeError(f"hx has shape {tuple(part.shape)}, expected {expected}")
        s = torch.stack([part if batched else part.unsqueeze(1) for part in parts])
        return s if order is None else s.index_select(2, order)
