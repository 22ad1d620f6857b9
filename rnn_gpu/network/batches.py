"""Samples at the door of training, and the batches that are cut from them."""

from typing import NamedTuple

import numpy as np

from .. import arguments
from ..errors import ArgumentError, DtypeError, ShapeError
from ..layers.steps import Steps, enter


class Batch(NamedTuple):
    """Samples side by side, as arrays of the device, zero beyond the length of each."""

    x: np.ndarray  # (T, B, m)
    steps: Steps
    target: np.ndarray  # (T, B, k)
    weight: np.ndarray  # (T, B): 1 at the steps that the loss counts, else 0
    lengths: np.ndarray  # (B,)
    start: int = 0  # which time step of the sequences x begins with


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

    def __len__(self):
        return len(self.x)

    def batch(self, chosen) -> Batch:
        """The samples of these numbers side by side, in this order."""
        network, d = self.network, self.network.backend
        lengths = np.array([len(self.x[i]) for i in chosen])
        T, B = int(lengths.max()), len(chosen)
        x = np.zeros((T, B, *self.x[chosen[0]].shape[1:]), self.x[chosen[0]].dtype)
        target = np.zeros((T, B, network.output_size), network.dtype)
        weight = np.zeros((T, B), network.dtype)
        for b, i in enumerate(chosen):
            x[: lengths[b], b] = self.x[i]
            first = 0 if network.steps == "every" else lengths[b] - 1
            weight[first : lengths[b], b] = 1
            if self.y:
                target[first : lengths[b], b] = self.y[i]
        a, steps = enter(d, x, network.input_size, network.dtype, lengths)
        return Batch(
            a, steps, d.array(target, network.dtype), d.array(weight, network.dtype), lengths
        )

    def batches(self, batch_size: int, order=None):
        """Batch after batch of the samples of these numbers; None is all, in their order."""
        order = np.arange(len(self)) if order is None else order
        for first in range(0, len(order), batch_size):
            yield self.batch(order[first : first + batch_size])


def host(a):
    """a, or what it is on the CPU if it is an array of CuPy's."""
    return a.get() if hasattr(a, "get") and hasattr(a, "__cuda_array_interface__") else a
