"""One layer in one direction, forward and back, from tensors to tensors: what operators and
autograd's functions do.
"""

from typing import Any, NamedTuple

import numpy as np

from ... import layers
from ...errors import OrderError, ShapeError
from ...kernels import LIVE, RESET, Cell, Clip
from ...kernels.once import once
from ...layers.chunked import ChunkedTape, ParallelReport
from ...layers.cutting import Parallel
from ...layers.given import Given
from ...layers.passes import INFERENCE, Back, Pass
from ...layers.recurrent import Tape
from ...layers.steps import Steps, all_live
from ...parameters import recurrent_shapes
from . import small
from .chunks import Gone
from .dtypes import DTYPES
from .tensors import array_of, as_torch_computes, kernels_of, on_the_stream_of, tensor_of


class Left:
    """What the way back through one layer and direction leaves, beside gradients."""

    def __init__(self, taped: bool):
        self.taped = taped
        self.tape: layers.DeltaTape | None = None
        self.clipped_steps: Any = 0  # unread, as a Back's
        self.gone = Gone()  # forward
        self.report: ParallelReport | None = None  # of both ways, where somebody asked for chunks


class Call(NamedTuple):
    """What one layer and direction needs beside tensors."""

    cell: Cell
    device: str
    precision: str
    steps: Steps
    reverse: bool
    clip: Clip
    left: Left
    parallel: Parallel | None = None  # how it goes over long sequences; None: step by step
    joined: bool = False  # see Gone


@once
def layer_like(
    cell: Cell, m: int, n: int, dtype: str, device: str, precision: str, reverse: bool
) -> layers.Recurrent:
    """A layer of ours without parameters, to be put on those of torch's."""
    zeros = {name: np.zeros(shape, dtype) for name, shape in recurrent_shapes(cell, m, n).items()}
    options = {"device": device, "dtype": dtype, "precision": precision, "reverse": reverse}
    return layers.Recurrent.of(zeros, cell, m, n, **options).on({})


def layer_on(call: Call, dtype: str, U, W, **biases) -> layers.Recurrent:
    """The layer of a call on these tensors."""
    d = kernels_of(call.device)
    arrays = {"U": array_of(d, U, dtype), "W": array_of(d, W, dtype)}
    arrays |= {name: array_of(d, θ, dtype) for name, θ in biases.items() if θ is not None}
    (_, m), (_, n) = U.shape, W.shape
    like = layer_like(call.cell, m, n, dtype, call.device, call.precision, call.reverse)
    return like.on(arrays)


def may_be_small(call: Call) -> bool:
    """May a call go by addresses, as far as it is told beside its tensors?"""
    plain = call.device == "cpu" and call.precision == "fp32" and call.parallel is None
    return plain and not (call.steps.masked or call.left.taped)


def check_shapes(cell: Cell, x, s0, U, W, b, c):
    """ShapeError where a layer's tensors are not of one size: kernels know no other's end."""
    (_, B, m), n = x.shape, W.shape[-1]
    expected = {"c": (cell.gates * n,), "s0": (cell.states, *s0.shape[1:-2], B, n)}
    expected |= recurrent_shapes(cell, m, n)
    for name, a in {"U": U, "W": W, "b": b, "c": c, "s0": s0}.items():
        if a is not None and tuple(a.shape) != expected[name]:
            raise ShapeError(f"{name} has shape {tuple(a.shape)}, expected {expected[name]}")


def check_saved(cell: Cell, dy, dlast, x, U, W, s, kept):
    """OrderError where tensors of a way back are not of one size and dtype: torch tells nobody of
    module.double() and of θ.data = … between both ways.
    """
    (T, B, m), n = x.shape, s.shape[-1]
    expected = recurrent_shapes(cell, m, n) | {"dy": (T, B, n), "dlast": (cell.states, B, n)}
    expected |= {"s": (cell.states, *s.shape[1:]), "kept": (*kept.shape[:2], cell.kept, n)}
    for name, a in {"dy": dy, "dlast": dlast, "U": U, "W": W, "s": s, "kept": kept}.items():
        if tuple(a.shape) != expected[name] or a.dtype != x.dtype:
            raise OrderError(
                f"{name} is {tuple(a.shape)} of {a.dtype} on the way back, expected "
                f"{expected[name]} of {x.dtype}: change parameters, as by module.double(), before "
                "a call or after its backward"
            )


def carry(call: Call, x, s0, U, W, b, c) -> tuple:
    """Carry the state through time.  Returns (y, last, s, kept), of which none shares memory.

    x (T, B, m), s0 (S, B, n), U (G·n, m), W (G·n, n), b (G·n,), c (G·n,) or None
    y (T, B, n) every output, last (S, B, n), s (S, T+1, B, n) and kept (T, B, K, n) in the order of
    the layer's own steps, which `reverse` turns around; those of chunks where it went in chunks and
    they are not to be joined, which call.left.gone then says
    s0 may be (S, 1+T, B, n), the initial states and those that are given: before step t, where a
    sample begins anew, s0[:, 1 + t]. Then s is (S, 2T+1, B, n)
    """
    check_shapes(call.cell, x, s0, U, W, b, c)
    if may_be_small(call):
        found = small.carried(call.cell, call.reverse, x, s0, U, W, b, c)
        if found is not None:
            return found
    with as_torch_computes(x):
        dtype = DTYPES[x.dtype]
        layer = layer_on(call, dtype, U, W, b=b, c=c)
        x, s0 = (array_of(layer.backend, a, dtype) for a in (x, s0))
        pass_ = INFERENCE if call.parallel is None else Pass(parallel=call.parallel)
        if s0.ndim == 4:
            s0, pass_ = s0[:, 0], pass_._replace(given={layer: Given(s0[:, 1:])})
        y, (last,), tape = layer.forward(x, [s0], call.steps, pass_)
        call.left.report, chunks, given = tape.report, None, bool(pass_.given)
        if isinstance(tape, ChunkedTape):
            chunks, tape = tape.chunks, tape.whole() if call.joined else tape.inner
        call.left.gone = Gone(call.left.report, chunks, call.joined, given)
        # the caller may write into y and last, which may be parts of s
        shared = chunks.in_place if chunks else y.base is not None
        y = y.copy() if shared else y
        return tuple(tensor_of(a) for a in (y, last.copy(), tape.wide_s, tape.wide_kept))


def retreat(call: Call, dy, dlast, x, U, W, s, kept) -> tuple[Back, tuple]:
    """Carry δ back through time: dE/dy and dE/d(last) -> (Back, (dE/dx, dE/ds0, dE/dU, dE/dW,
    dE/db, dE/dc, the last None where the cell has none)).

    x, U and W as they came to `carry`, s and kept as it gave them.
    """
    check_saved(call.cell, dy, dlast, x, U, W, s, kept)
    if may_be_small(call):
        found = small.retreated(call.cell, call.reverse, call.clip, dy, dlast, x, U, W, s, kept)
        if found is not None:
            gradients, clipped = found
            return Back(gradients[0], [gradients[1]], {}, clipped_steps=clipped), gradients
    with as_torch_computes(dy):
        dtype = DTYPES[x.dtype]
        layer = layer_on(call, dtype, U, W)
        d = layer.backend
        dy, x, s, kept = (array_of(d, a, dtype) for a in (dy, x, s, kept))
        own = call.steps.turned(d) if call.reverse else call.steps
        cell, pattern = call.cell, (own.flags, own.starts, own.masked)
        tape = Tape(x, s, kept, *pattern, cell=cell, own=cell, mask=None)
        if call.parallel is not None:
            tape = call.left.gone.taped(layer, tape, call.parallel.tolerance)
        ds = array_of(d, dlast.detach().clone(), dtype)
        back = layer.back(tape, dy, [ds], call.left.taped, call.clip)
        (ds0,) = back.ds
        if back.dgiven:
            ds0 = np.concatenate([ds0[:, None], *back.dgiven], 1)
        gradients = (back.dx, ds0, *(back.grads.get(name) for name in ("U", "W", "b", "c")))
        return back, tuple(None if a is None else tensor_of(a) for a in gradients)


def steps_in(device: str, x, flags, dead: bool, resets: bool) -> Steps:
    """The Steps that a tensor of flags (T, B) says of x (T, B, m); None is all live.

    dead, resets  may flags say that a step does not happen; that a sample begins anew
    """
    with on_the_stream_of(x):
        d = kernels_of(device)
        if flags is None:
            place = x.get_device() if x.is_cuda else "cpu"
            return all_live(d, place, *x.shape[:2])  # nothing is copied to a card but once
        a = d.array(array_of(d, flags, "uint8"), "uint8")
        return Steps(
            a,
            ((a & LIVE) == 0)[:, :, None] if dead else None,
            ((a & RESET) != 0)[:, :, None] if resets else None,
        )
