"""Samples at the door of training, and the batches that are cut from them."""

import itertools
import math
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from .. import arguments
from ..errors import ArgumentError, DtypeError, ShapeError
from ..layers.base import ALIGNED
from ..layers.steps import Steps, steps_until
from ..losses import LABELS, alike


class Batch(NamedTuple):
    """Samples side by side, as arrays of the device, zero beyond the length of each."""

    x: np.ndarray  # (T, B, m)
    steps: Steps
    target: np.ndarray  # (T, B, k), or class labels (T, B)
    weight: np.ndarray  # (T, B): 1 at the steps that the loss counts, else 0
    total: np.ndarray  # (1,): Σ weight
    counted: np.ndarray  # (T,), NumPy's: how many samples the loss counts at each step
    lengths: np.ndarray  # (B,), NumPy's
    start: int = 0  # which time step of the sequences x begins with
    # of which x, target, weight and total are parts; None of a window
    whole: Any = None

    @property
    def counts(self) -> float:
        """Σ weight, for which nobody has to ask the device."""
        return float(self.counted.sum())


class Samples:
    """Inputs and targets at the door of fit, evaluate and predict, checked once; batches are cut
    from them.

    x  N sequences: a list of arrays (T_i, m) or of symbols (T_i,), or one array whose first axis is
       N. For a network without recurrent layers N rows (m,). What has labels of its own (pandas,
       polars, xarray) is taken by position, as a list is.
    y  N targets. steps="every": (T_i, k) each, or class labels (T_i,). steps="last", or no
       recurrent layers: (k,) or a label.
    """

    def __init__(self, network, x, y=None, *, targets=True, name=""):
        self.network = network
        if targets and y is None:
            raise ArgumentError(f"{name}y is None, expected the targets, one for each sample of x")
        m, k, dtype = network.input_size, network.output_size, network.dtype
        x = arguments.samples(f"{name}x", x)
        y = y if y is None else arguments.samples(f"{name}y", y)
        if y is not None and len(y) != len(x):
            raise ShapeError(
                f"{name}y has {len(y)} targets, expected {len(x)}, one for each sample of x"
            )
        self.x, self.y = [], []
        for i in range(len(x)):
            a = host(arguments.as_array(f"{name}x[{i}]", x[i], dtype))
            if not network.recurrent:
                a = host(arguments.floats(f"{name}x[{i}]", x[i], dtype, (m,), f"(m={m},)"))[None]
            elif arguments.are_symbols(x[i], a, 1):
                # a batch has one dtype
                a = arguments.symbols(f"{name}x[{i}]", a, m, "(T,)", 1).astype(np.int64)
            else:
                a = host(arguments.floats(f"{name}x[{i}]", x[i], dtype, (None, m), f"(T, m={m})"))
            if a.dtype.kind == "f":
                arguments.finite(f"{name}x[{i}]", a)
            if self.x and a.dtype.kind != self.x[0].dtype.kind:
                raise DtypeError(
                    f"{name}x[{i}] is {a.dtype}, but {name}x[0] is {self.x[0].dtype}: all are "
                    "features, or all are symbols"
                )
            self.x.append(a)
            if y is not None:
                rows = len(a) if network.recurrent and network.steps == "every" else None
                self.y.append(network.objective.target(f"{name}y[{i}]", host(y[i]), rows, k, dtype))

        self.y = alike(self.y, k, dtype)

    def __len__(self):
        return len(self.x)

    @property
    def labels(self) -> bool:
        """Are the targets class labels?"""
        return bool(self.y) and self.y[0].ndim == 1

    def part(self, chosen) -> "Samples":
        """The samples of these numbers alone."""
        part = copy(self)
        part.x, part.y = ([each[i] for i in chosen] for each in (self.x, self.y))
        return part

    def batch(self, chosen) -> Batch:
        """The samples of these numbers side by side, in this order."""
        network, d = self.network, self.network.backend
        lengths = np.array([len(self.x[i]) for i in chosen])
        T, B, m, k = int(lengths.max()), len(chosen), network.input_size, network.output_size
        labels = self.labels
        shapes = (T, B, m), (T, B) if labels else (T, B, k), (T, B), (1,)
        kinds = [(1, LABELS[network.dtype])] if labels else []
        whole = np.zeros(sum(map(room_of, shapes)), network.dtype)
        x, target, weight, total = parts_of(whole, shapes, kinds)
        for b, i in enumerate(chosen):
            if self.x[i].dtype.kind == "f":
                x[: lengths[b], b] = self.x[i]
            else:
                x[np.arange(lengths[b]), b, self.x[i]] = 1  # one-hot
            first = 0 if network.steps == "every" else lengths[b] - 1
            weight[first : lengths[b], b] = 1
            if self.y:
                target[first : lengths[b], b] = self.y[i]
        counted = weight.sum(1, dtype=np.float64)
        total[0] = counted.sum()
        given = d.array(whole, network.dtype)
        if given is not whole:
            x, target, weight, total = parts_of(given, shapes, kinds)
        steps = steps_until(d, x, lengths)
        return Batch(x, steps, target, weight, total, counted, lengths, whole=given)

    def batches(self, batch_size: int, order=None):
        """Batch after batch of the samples of these numbers; None is all, in their order."""
        order = np.arange(len(self)) if order is None else order
        for first in range(0, len(order), batch_size):
            yield self.batch(order[first : first + batch_size])


def held_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of `count` samples to train on, and of those that are held out, both in their
    order.

    share  of the samples, to the nearest number, which the seed draws; at least one is left for
           either
    """
    if count < 2:
        raise ArgumentError(
            f"validation is {share}, a share of {count} sample: nothing would be left"
        )
    number = min(max(1, round(share * count)), count - 1)
    # another stream than that of the order of batches
    drawn = np.random.default_rng([seed, HELD_OUT]).permutation(count)
    held = set(drawn[:number].tolist())
    return [i for i in range(count) if i not in held], sorted(held)


HELD_OUT = 1  # tells the draw of samples that are held out from others of the same seed


def room_of(shape) -> int:
    """Numbers that an array takes within another, so that the next begins a line of the cache."""
    return -(-math.prod(shape) // ALIGNED) * ALIGNED


def parts_of(whole, shapes, kinds=()) -> list:
    """Arrays of these shapes within one, a copy of which takes one call.

    kinds  a dtype, as large as the whole's, by the number of the array that has another
    """
    ends = itertools.accumulate(map(room_of, shapes), initial=0)
    parts = [
        whole[at : at + math.prod(shape)].reshape(shape)
        for at, shape in zip(ends, shapes, strict=False)
    ]
    for i, kind in kinds:
        parts[i] = parts[i].view(kind)
    return parts


def host(a):
    """a, or what it is on the CPU if it is an array of CuPy's."""
    return a.get() if hasattr(a, "get") and hasattr(a, "__cuda_array_interface__") else a
