"""How a module's call comes to the kernels: by the shortest way, or as operators where something
else than autograd looks on: torch.compile, torch.export, torch.func, tensors without numbers.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from ... import arguments
from ...errors import ArgumentError, DtypeError, ShapeError
from ...kernels import LIVE, RESET, Cell, Clip
from ...layers.cutting import Parallel
from ...layers.steps import Steps, all_live, steps_of
from .functions import recurrence
from .operators import FORWARD
from .passes import Call, Left
from .private import is_tracing, watched
from .tensors import device_of, kernels_of, on_the_stream_of, precision_of, tensor_of


def is_plain(x) -> bool:
    """Does x have numbers, which are there to be read now, with none but autograd looking on?"""
    return not (torch.compiler.is_compiling() or x.device.type == "meta" or watched(x))


def leaves_a_program() -> bool:
    """Is this a call that only shows torch.export or torch.jit.trace what a call does?"""
    exporting = getattr(torch.compiler, "is_exporting", None)  # since torch 2.7
    return is_tracing() or (exporting is not None and exporting())


class Axes(NamedTuple):
    """How steps and samples of a call's arguments lie."""

    batched: bool  # else (T, …)
    rows_first: bool  # (B, T, …), else (T, B, …)


class Direct(NamedTuple):
    """A call whose tensors go right to the kernels."""

    cell: Cell
    steps: Steps
    clip: Clip
    precision: str | None
    tape: bool
    left: list[Left]  # of each layer and direction
    parallel: Parallel | None = None

    def carry(self, reverse: bool, x, s0, *weights):
        """x through one layer and direction: (y, last state)."""
        self.left.append(Left(self.tape))
        how = device_of(x), precision_of(x, self.precision)
        others = self.steps, reverse, self.clip, self.left[-1], self.parallel
        call = Call(self.cell, *how, *others)
        return recurrence(call, x, s0, *weights)

    @property
    def flags(self):
        """(T, B) as a tensor; None where all steps are live."""
        return tensor_of(self.steps.flags) if self.steps.masked else None


class Recorded(NamedTuple):
    """A call as operators."""

    cell: str  # its name in the registry
    flags: torch.Tensor | None
    dead: bool  # may flags say that a step does not happen
    resets: bool  # that a sample begins anew
    clip: tuple[float | None, float | None]
    precision: str | None
    parallel: str = ""  # as `said` has it
    tolerance: float = 1e-6
    left = None  # what the way back leaves beside gradients stays within the operators

    def carry(self, reverse: bool, x, s0, *weights):
        """x through one layer and direction: (y, last state)."""
        how = self.cell, self.precision or "", reverse, self.dead, self.resets, *self.clip
        way = self.parallel, self.tolerance
        y, last, *_ = FORWARD(x, s0, *weights, self.flags, *how, *way)
        return y, last


def steps_of_call(x, lengths, axes, mask=None, resets=None) -> Steps:
    """The Steps of x (T, B, m).

    lengths  of a PackedSequence, else None
    axes     is there a batch, and do its rows come first, in mask and resets too
    """
    T, B, _ = x.shape
    d = kernels_of(device_of(x))
    if lengths is None and mask is None and resets is None:
        with on_the_stream_of(x):  # nothing is copied to a card but once
            return all_live(d, x.get_device() if x.is_cuda else "cpu", T, B)
    refuse_both(lengths, mask=mask, resets=resets)
    live = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths.numpy()
    patterns = []
    for name, values in {"mask": mask, "resets": resets}.items():
        values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
        shape, said = shape_of(T, B, axes)
        a = arguments.booleans(name, values, shape, said, otherwise=name == "mask")
        patterns.append(a.T.reshape(T, B) if axes.rows_first else a.reshape(T, B))
    with on_the_stream_of(x):
        return steps_of(d, live & patterns[0], patterns[1])


def flags_of_call(x, lengths, axes, mask=None, resets=None) -> tuple[Any, bool, bool]:
    """(flags of x (T, B, m) as a tensor (T, B) or None for all live, may they say that a step does
    not happen, that a sample begins anew), by operators of torch's.  See steps_of_call.
    """
    T, B, _ = x.shape
    refuse_both(lengths, mask=mask, resets=resets)
    if lengths is not None:
        live = torch.arange(T, device=lengths.device)[:, None] < lengths
        return live.to(torch.uint8).to(x.device), True, False
    if mask is None and resets is None:
        return None, False, False
    live, starts = (
        None if values is None else pattern(name, values, x, axes)
        for name, values in (("mask", mask), ("resets", resets))
    )
    flags = x.new_ones((T, B), dtype=torch.uint8) if live is None else live.to(torch.uint8) * LIVE
    if starts is not None:  # every sample begins with its first step
        starts = torch.cat([torch.zeros_like(starts[:1]), starts[1:]])
        flags = flags | starts.to(torch.uint8) * RESET
    return flags, live is not None, starts is not None


def pattern(name: str, values, x, axes):
    """mask or resets as they came -> a tensor of booleans (T, B) for x (T, B, m)."""
    T, B, _ = x.shape
    shape, said = shape_of(T, B, axes)
    if not isinstance(values, torch.Tensor):
        if torch.compiler.is_compiling():
            raise ArgumentError(
                f"{name} is a {type(values).__name__}, expected a tensor to compile"
            )
        values = torch.from_numpy(arguments.booleans(name, values, shape, said, otherwise=False))
    if values.dtype != torch.bool:
        raise DtypeError(f"{name} is {values.dtype}, expected torch.bool")
    if values.shape != shape:
        raise ShapeError(f"{name} has shape {tuple(values.shape)}, expected {shape}: ({said})")
    values = values if values.device == x.device else values.to(x.device)
    return (values.T if axes.rows_first else values).reshape(T, B)


def shape_of(T, B, axes) -> tuple[tuple, str]:
    """The shape of mask and resets, and what its axes are called."""
    if not axes.batched:
        return (T,), "T"
    return ((B, T), "B, T") if axes.rows_first else ((T, B), "T, B")


def refuse_both(lengths, **given):
    """Raise ArgumentError where one of these came with the lengths of a PackedSequence."""
    for name, values in given.items():
        if lengths is not None and values is not None:
            raise ArgumentError(
                f"{name} is given with a PackedSequence, which has lengths of its own: pad it, or "
                f"leave {name} out"
            )
