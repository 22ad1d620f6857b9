"""One layer in one direction as a function that torch differentiates."""

from typing import Any, NamedTuple

import numpy as np
import torch

from ... import layers
from ...device import resolve
from ...errors import UnsupportedError
from ...kernels import Cell, Clip
from ...kernels.once import once
from ...layers.steps import Steps
from ...parameters import recurrent_shapes
from .tensors import on_the_stream_of


class Left:
    """What the way back through one layer and direction leaves, beside gradients."""

    def __init__(self, taped: bool):
        self.taped = taped
        self.tape: layers.DeltaTape | None = None
        self.clipped_steps: Any = 0  # unread, as a Back's


class Call(NamedTuple):
    """What one layer and direction needs beside tensors."""

    cell: Cell
    device: str
    precision: str
    steps: Steps
    reverse: bool
    clip: Clip
    left: Left


@once
def layer_like(
    cell: Cell, m: int, n: int, dtype: str, device: str, precision: str, reverse: bool
) -> layers.Recurrent:
    """A layer of ours without parameters, to be put on those of torch's."""
    zeros = {name: np.zeros(shape, dtype) for name, shape in recurrent_shapes(cell, m, n).items()}
    options = {"device": device, "dtype": dtype, "precision": precision, "reverse": reverse}
    return layers.Recurrent.of(zeros, cell, m, n, **options).on({})


def forward(call, x, s0, U, W, b, c):
    """x (T, B, m), s0 (S, B, n) and parameters, tensors -> ((layer, tape), y (T, B, n), s (S, B,
    n)).
    """
    with on_the_stream_of(x):
        d = resolve(call.device)
        values = {"U": U, "W": W, "b": b} | ({"c": c} if call.cell.apart else {})
        dtype = str(x.dtype).removeprefix("torch.")
        values = {name: d.array(value.detach(), dtype) for name, value in values.items()}
        sizes = values["U"].shape[1], values["W"].shape[1]
        how = call.device, call.precision, call.reverse
        layer = layer_like(call.cell, *sizes, dtype, *how).on(values)
        y, (s,), tape = layer.forward(
            d.array(x.detach(), dtype), [d.array(s0.detach(), dtype)], call.steps
        )
        # the caller may write into y
        return (layer, tape), *(
            torch.from_dlpack(a if a.base is None else a.copy()) for a in (y, s)
        )


def backward(went, call, dy, ds):
    """dE/dy, dE/d(last state) -> dE/dx, dE/ds0, and of U, W, b and c, tensors.  Overwrites
    call.left.
    """
    with on_the_stream_of(dy):
        layer, tape = went
        d = layer.backend
        dy, ds = d.array(dy.detach(), layer.dtype), d.array(ds.detach().clone(), layer.dtype)
        back = layer.back(tape, dy, [ds], call.left.taped, call.clip)
        call.left.tape, call.left.clipped_steps = back.tape, back.clipped_steps
        gradients = (back.dx, *back.ds, *(back.grads.get(name) for name in ("U", "W", "b", "c")))
        return tuple(None if a is None else torch.from_dlpack(a) for a in gradients)


class Recurrence(torch.autograd.Function):
    """One layer in one direction: forward carries the state through time, backward is BPTT."""

    @staticmethod
    def forward(ctx, call, *tensors):
        ctx.call = call
        ctx.went, y, s = forward(call, *tensors)
        ctx.save_for_backward(*tensors)  # torch then sees when one was written into
        return y, s

    @staticmethod
    def backward(ctx, dy, ds):
        return None, *Gradient.apply(ctx.went, ctx.call, dy, ds, *ctx.saved_tensors)


class Gradient(torch.autograd.Function):
    """Recurrence's way back, which itself cannot be differentiated."""

    @staticmethod
    def forward(ctx, went, call, dy, ds, *tensors):
        return backward(went, call, dy, ds)

    @staticmethod
    def backward(ctx, *gradients):
        raise UnsupportedError(
            "double backward: the kernels give first derivatives alone; use torch.nn's module for "
            "second ones"
        )
