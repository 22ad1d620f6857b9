"""One layer in one direction by the addresses of its tensors: what `passes` does, in a tenth of its
time, where a call is small and all steps are live.
"""

from math import prod
from typing import Any

import numpy as np
import torch

from ...errors import UnsupportedError
from ...kernels import Cell, Clip
from ...kernels.devices.cpu.by_address import Rows, Way, way_of
from ...kernels.devices.cpu.memory import LASTING, empty
from .dtypes import DTYPES
from .threads import carried_by, pays, retreated_by

PLAIN = (torch.Tensor, torch.nn.Parameter)
NUMBERS = {dtype: np.dtype(name) for dtype, name in DTYPES.items()}


def is_plain(tensor, dtype) -> bool:
    """Are a tensor's numbers, of this dtype, those at its address?"""
    plain = type(tensor) in PLAIN and tensor.dtype is dtype
    return plain and tensor.is_cpu and not tensor.is_neg()


def in_rows(tensor, dtype) -> bool:
    """Do they stand there row behind row?"""
    return is_plain(tensor, dtype) and tensor.is_contiguous()


def address(a) -> int:
    """Where the numbers of a tensor are.  UnsupportedError where torch says nowhere: of a subclass
    that has tensors within, or one that stands for zeros.
    """
    at = a.data_ptr()
    if not at and a.numel():
        raise UnsupportedError(f"a {type(a).__name__} {tuple(a.shape)} has no numbers in memory")
    return at


def addresses(tensors) -> list[int]:
    """Where the numbers of tensors are; 0 of None."""
    return [0 if a is None else address(a) for a in tensors]


def new(like, shape) -> torch.Tensor:
    """A tensor of undefined values; a large one on memory that calls before have used."""
    if prod(shape) < LASTING:
        return like.new_empty(shape)
    return torch.from_numpy(empty(tuple(shape), NUMBERS[like.dtype]))


def rows_of(a, rows_first: bool = False) -> Rows:
    """Of a tensor (T, B, ·), or (B, T, ·)."""
    first, second, unit = a.stride()
    return Rows(address(a), *((second, first) if rows_first else (first, second)), unit)


def states_of(a) -> tuple[int, ...]:
    """Where each state of a (S, B, n) is, a tensor row behind row."""
    S, B, n = a.shape
    at, size = a.data_ptr(), B * n * a.element_size()
    return tuple([at + k * size for k in range(S)])


def small(cell: Cell, x, W, others) -> Way | None:
    """What carries x (T, B, m) through a layer, if a call is for it; others: tensors with x."""
    dtype = x.dtype
    if dtype not in NUMBERS or x.numel() == 0:
        return None
    if not all(in_rows(a, dtype) for a in (x, W, *others) if a is not None):
        return None
    T, B, m = x.shape
    way = way_of(cell, m, W.shape[1], NUMBERS[dtype])
    return way if pays(way, T, B) else None


def carried(cell: Cell, reverse: bool, x, s0, U, W, b, c) -> tuple | None:
    """(y, last, s, kept) as of `passes.carry`; None where the call is for that."""
    way = small(cell, x, W, (s0, U, b, c)) if s0.dim() == 3 else None
    if way is None:
        return None
    (T, B, _), (S, _, n) = x.shape, s0.shape
    y, last = new(x, (T, B, n)), x.new_empty((S, B, n))
    s, kept = new(x, (S, T + 1, B, n)), new(x, (T, B, cell.kept, n))
    given, tape = addresses((x, U, W, b, c)), (s.data_ptr(), kept.data_ptr())
    ends = states_of(s0), states_of(last)
    carried_by(way, T, B, tuple(given), ends[0], (*rows_of(y),), ends[1], tape, reverse)
    return y, last, s, kept


def retreated(cell: Cell, reverse: bool, clip: Clip, dy, dlast, *tensors) -> Any:
    """((dE/dx, dE/ds0, dE/dU, dE/dW, dE/db, dE/dc or None), how many steps were clipped) as of
    `passes.retreat`; None where the call is for that.  tensors: x, U, W, s and kept
    """
    x, U, W, s, kept = tensors
    goes_on = s.shape[1] > len(x) + 1
    way = None if goes_on else small(cell, x, W, (U, s, kept))
    dy, dlast = dy.resolve_neg(), dlast.resolve_neg().contiguous()
    if way is None or not (is_plain(dy, x.dtype) and is_plain(dlast, x.dtype)):
        return None
    (T, B, _), rows = x.shape, len(W)
    ds0, db = x.new_empty(dlast.shape), x.new_empty(rows)
    dc = x.new_empty(rows) if cell.apart else None
    found = new(x, x.shape), torch.empty_like(U), torch.empty_like(W), db, dc
    ends, into = (states_of(dlast), states_of(ds0)), tuple(addresses(found))
    given = tuple(addresses(tensors))
    clipped = retreated_by(way, T, B, given, (*rows_of(dy),), ends, into, reverse, clip)
    dx, dU, dW, *_ = found
    return (dx, ds0, dU, dW, db, dc), clipped
