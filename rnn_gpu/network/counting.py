"""What the loss counts, and how much: weights of samples and classes, labels that are left out,
steps that only shape the state.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from .. import arguments
from ..errors import ArgumentError, DtypeError, ShapeError


class Counting(NamedTuple):
    """What the loss counts of samples; see `fit`."""

    sample_weight: Any = None  # (N,)
    class_weight: Any = None  # a dict, or (classes,)
    ignore_index: int | None = None
    burn_in: int = 0

    def checked(self, network) -> "Counting":
        """As it is.  Raises ArgumentError where it does not suit the network."""
        if self.ignore_index is not None:
            if isinstance(self.ignore_index, bool) or not isinstance(self.ignore_index, Integral):
                raise ArgumentError(
                    f"ignore_index is {self.ignore_index!r}, expected a class label, an integer"
                )
            need_classes(network, "ignore_index")
        if self.class_weight is not None:
            need_classes(network, "class_weight")
            table_of(network, self.class_weight)
        if arguments.seed("burn_in", self.burn_in) and not (
            network.recurrent and network.steps == "every"
        ):
            raise ArgumentError(
                f"burn_in is {self.burn_in}, but this network's loss counts the last step alone: "
                "there is nothing to leave out"
            )
        return self

    def without_ignored(self, name: str, y, rows: int | None) -> tuple[Any, np.ndarray]:
        """(class labels with 0 in place of those to ignore, which they are), of a target."""
        a = arguments.as_array(name, y, "float64")
        if a.dtype.kind not in "iu" or a.shape != (() if rows is None else (rows,)):
            raise ArgumentError(
                f"ignore_index is {self.ignore_index}, but {name} is no class labels: it is "
                f"{a.dtype} of shape {a.shape}"
            )
        ignored = a == self.ignore_index
        return np.where(ignored, a.dtype.type(0), a), ignored.reshape(-1)


def need_classes(network, name: str):
    """Raise ArgumentError unless the loss has one class for each row."""
    loss = network.objective.loss
    if loss.classes != "exclusive" and not (loss.classes == "binary" and network.output_size == 1):
        raise ArgumentError(
            f"{name} is given, but with the loss {loss.name!r} and {network.output_size} outputs a "
            "step has no class"
        )


def table_of(network, class_weight) -> np.ndarray:
    """The weight of each class, (classes,); 1 of a class that a dict does not name."""
    count = 2 if network.objective.loss.classes == "binary" else network.output_size
    if isinstance(class_weight, Mapping):
        table = np.ones(count)
        for label, weight in class_weight.items():
            whole = isinstance(label, Integral) and not isinstance(label, bool)
            if not whole or not 0 <= int(label) < count:
                raise ArgumentError(
                    f"class_weight has the class {label!r}, expected 0..{count - 1}"
                )
            table[int(label)] = weights_at(f"class_weight[{label!r}]", weight, ())
        return table
    return weights_at("class_weight", class_weight, (count,))


def weights_at(name: str, values, shape: tuple[int, ...]) -> np.ndarray:
    """values as float64 of this shape, finite and not below 0."""
    a = arguments.as_array(name, values, "float64")
    a = a.get() if arguments.on_gpu(a) else a
    if a.shape != shape:
        raise ShapeError(f"{name} has shape {a.shape}, expected {shape}")
    if a.dtype.kind not in "fiu":
        raise DtypeError(f"{name} is {a.dtype}, expected numbers")
    a = a.astype("float64")
    arguments.finite(name, a)
    if (a < 0).any():
        raise ArgumentError(f"{name} has {a.min()}, expected numbers of at least 0")
    return a


def masks(network, name: str, values, x) -> list | None:
    """N times (T_i,) booleans, one for each sample of x; None where none are given."""
    if values is None:
        return None
    if not network.recurrent:
        raise ArgumentError(
            f"{name} is given, but this network has no recurrent layer: its x is rows, without time"
        )
    values = arguments.samples(name, values)
    if len(values) != len(x):
        raise ShapeError(f"{name} has {len(values)} samples, expected {len(x)}, as x")
    return [
        arguments.booleans(f"{name}[{i}]", value, (len(x[i]),), "T", otherwise=True)
        for i, value in enumerate(values)
    ]


def weights_of(samples, name: str) -> list | None:
    """The weight of every row that has a target, of each sample, in the network's dtype; None where
    all are 1.  What is masked or burnt in, the batch leaves out.

    Raises ArgumentError where a sample has no step that happens, or nothing counts at all.
    """
    network, counting = samples.network, samples.counting
    if samples.live is not None:
        for i, live in enumerate(samples.live):
            if not live.any():
                raise ArgumentError(f"{name}mask[{i}] is False everywhere: no step happens")
    if counting.burn_in:
        for i, x in enumerate(samples.x):
            steps = len(x) if samples.live is None else int(samples.live[i].sum())
            if steps <= counting.burn_in:
                raise ArgumentError(
                    f"burn_in is {counting.burn_in}, but {name}x[{i}] has {steps} steps: nothing "
                    "of it would count"
                )
    if all(each is None for each in counting[:3]):
        return None
    every = bool(network.recurrent) and network.steps == "every"
    weights = [np.ones(len(x) if every else 1) for x in samples.x]
    if counting.sample_weight is not None:
        given = weights_at(f"{name}sample_weight", counting.sample_weight, (len(samples),))
        weights = [w * one for w, one in zip(weights, given, strict=True)]
    if counting.class_weight is not None:
        table = table_of(network, counting.class_weight)
        weights = [w * table[labels_in(samples, i)] for i, w in enumerate(weights)]
    if samples.ignored is not None:
        weights = [w * ~one for w, one in zip(weights, samples.ignored, strict=True)]
    weights = [w.astype(network.dtype) for w in weights]
    if not any(w.any() for w in weights):
        raise ArgumentError("nothing counts: every weight is 0, or every label is ignored")
    return weights


def labels_in(samples, i: int) -> np.ndarray:
    """The class of each row of a sample, as integers."""
    y = samples.y[i]
    if y.ndim == 1:
        return y
    if samples.network.objective.loss.classes == "exclusive" or not np.isin(y, (0, 1)).all():
        raise ArgumentError(
            "class_weight is given, but y holds no class labels, which are integers"
        )
    return y[:, 0].astype(int)
