"""Samples at the door of training, and the batches that are cut from them."""

import itertools
import math
from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from .. import arguments
from ..errors import ArgumentError, DtypeError, ShapeError
from ..layers.base import ALIGNED
from ..layers.passes import INFERENCE
from ..layers.stateful import check_states
from ..layers.steps import Steps, steps_of, steps_until
from ..losses import LABELS, alike
from .counting import Counting, masks, weights_of
from .given import beside, rows_of


class Batch(NamedTuple):
    """Samples side by side, as arrays of the device, zero beyond the length of each."""

    x: np.ndarray  # (T, B, m)
    steps: Steps
    target: np.ndarray  # (T, B, k), or class labels (T, B)
    weight: np.ndarray  # (T, B): of the steps that the loss counts, else 0
    total: np.ndarray  # (1,): Σ weight
    counted: np.ndarray  # (T,), NumPy's: Σ weight of each step
    lengths: np.ndarray  # (B,), NumPy's
    start: int = 0  # which time step of the sequences x begins with
    # of which x, target, weight and total are parts; None of a window
    whole: Any = None
    states: list | None = None  # to begin with; None is zero
    ends: np.ndarray | None = None  # (B,), NumPy's: the last step that happens; None: of its length
    given: Mapping = INFERENCE.given  # of a pass: what samples go on from where they begin anew

    @property
    def counts(self) -> float:
        """Σ weight, for which nobody has to ask the device."""
        return float(self.counted.sum())

    @property
    def last(self) -> np.ndarray:
        """(B,), the last step of each sample that happens."""
        return self.lengths - 1 if self.ends is None else self.ends


class Samples:
    """Inputs and targets at the door of fit, evaluate and predict, checked once; batches are cut
    from them.

    x  N sequences: a list of arrays (T_i, m) or of symbols (T_i,), or one array whose first axis is
       N. For a network without recurrent layers N rows (m,). What has labels of its own (pandas,
       polars, xarray) is taken by position, as a list is. Floats of another dtype are cast.
    y  N targets. steps="every": (T_i, k) each, or class labels (T_i,). steps="last", or no
       recurrent layers: (k,) or a label.

    mask, resets  N times (T_i,) booleans: steps that do not happen (False), steps before which a
                  sample begins anew (True); see Recurrent. Without targets of their own: what y
                  holds where no step happens is ignored. "last" is the last step that happens
    reset_state   what samples go on from there, the first step too: a list as a Network takes it,
                  with samples first, N times (T_i, n) for each state
    state         before the first step, a list as a Network takes it, with N in place of B
    counting      what the loss counts, and how much: see Counting
    """

    def __init__(
        self,
        network,
        x,
        y=None,
        *,
        targets: bool = True,
        name: str = "",
        mask=None,
        resets=None,
        reset_state=None,
        state=None,
        counting: Counting | None = None,
    ):
        self.network = network
        if targets and y is None:
            raise ArgumentError(f"{name}y is None, expected the targets, one for each sample of x")
        x = arguments.samples(f"{name}x", x)
        y = y if y is None else arguments.samples(f"{name}y", y)
        if y is not None and len(y) != len(x):
            raise ShapeError(
                f"{name}y has {len(y)} targets, expected {len(x)}, one for each sample of x"
                + time_major(x, len(y))
            )
        self.counting = counting = counting or Counting()
        self.live = masks(network, f"{name}mask", mask, x)
        self.starts = masks(network, f"{name}resets", resets, x)
        self.x = self._inputs(f"{name}x", x)
        # the recurrent layers, by number, with a reset_state, and that of each sample: see rows_of
        self.given_layers: tuple[int, ...] = ()
        self.given: list | None = None
        if reset_state is not None:
            self.given_layers, self.given = rows_of(self, f"{name}reset_state", reset_state)
        self.y: list = []
        self.ignored: list | None = None
        if y is not None:
            self._take_targets(f"{name}y", y)
        self.weights = weights_of(self, name)
        self.arrange()
        self.states: list | None = None
        if state is not None:
            at_first = check_states(network.recurrent, f"{name}state", state, len(self.x))
            self.states = [network.backend.numpy(s) for s in at_first]

    def _inputs(self, name: str, x) -> list:
        network, m, dtype, inputs = self.network, self.network.input_size, self.network.dtype, []
        shape, axes = ((None, m), f"(T, m={m})") if network.recurrent else ((m,), f"(m={m},)")
        for i in range(len(x)):
            at = f"{name}[{i}]"
            a = host(arguments.as_array(at, x[i], dtype))
            symbols = network.recurrent and arguments.are_symbols(x[i], a, 1)
            if self.live is not None:
                a = only(self.live[i], a)
            if symbols:
                # a batch has one dtype
                a = arguments.symbols(at, a, m, "(T,)", 1).astype(np.int64)
            else:
                if a.dtype.kind in "iu" and not arguments.is_array(x[i]):
                    a = a.astype(dtype)  # a list has no dtype that could have been meant
                a = host(arguments.floats(at, cast(a, dtype), dtype, shape, axes))
                a = a if network.recurrent else a[None]
                arguments.finite(at, a)
            if inputs and a.dtype.kind != inputs[0].dtype.kind:
                raise DtypeError(
                    f"{at} is {a.dtype}, but {name}[0] is {inputs[0].dtype}: all are "
                    "features, or all are symbols"
                )
            inputs.append(a)
        return inputs

    def _take_targets(self, name: str, y):
        network, k, dtype = self.network, self.network.output_size, self.network.dtype
        every = bool(network.recurrent) and network.steps == "every"
        for i, x in enumerate(self.x):
            a, rows = host(y[i]), len(x) if every else None
            if self.counting.ignore_index is not None:
                a, ignored = self.counting.without_ignored(f"{name}[{i}]", a, rows)
                self.ignored = (self.ignored or []) + [ignored]
            if every and self.live is not None:
                a = only(self.live[i], a)
            self.y.append(network.objective.target(f"{name}[{i}]", cast(a, dtype), rows, k, dtype))
        self.y = alike(self.y, k, dtype)

    def arrange(self):
        """Note the lengths, and lay integers, which are ours, side by side, where all have one."""
        self.lengths = np.array([len(a) for a in self.x])
        self.beside: dict[str, np.ndarray] = {}  # (T, N)
        for name in ("x", "y"):
            each = getattr(self, name)
            if each and all(a.shape == (self.lengths[0],) for a in each):
                self.beside[name] = np.stack(each, 1)
                setattr(self, name, list(self.beside[name].T))

    def __len__(self):
        return len(self.x)

    @property
    def labels(self) -> bool:
        """Are the targets class labels?"""
        return bool(self.y) and self.y[0].ndim == 1

    @property
    def masked(self) -> bool:
        """Are there steps that do not happen, or before which a sample begins anew?"""
        return self.live is not None or self.starts is not None

    @property
    def skips(self) -> bool:
        """May there be a batch that counts nothing?"""
        return self.weights is not None and any((w == 0).any() for w in self.weights)

    def part(self, chosen, weighted: bool = True) -> "Samples":
        """The samples of these numbers alone; weighted=False takes the weights of samples and
        classes away, and leaves what is ignored.
        """
        part = copy(self)
        for name in ("x", "y", "live", "starts", "given", "ignored", "weights"):
            if each := getattr(self, name):
                setattr(part, name, [each[i] for i in chosen])
        if self.states is not None:
            part.states = [s[:, chosen] for s in self.states]
        part.arrange()
        if not weighted and self.weights is not None:
            part.counting = self.counting._replace(sample_weight=None, class_weight=None)
            part.weights = weights_of(part, "")
        return part

    def everything(self) -> list:
        """All arrays, for a digest of them."""
        more = [self.live, self.starts, self.ignored, self.weights, self.states]
        more += [self.given, [np.array(self.given_layers)]] if self.given else []
        return [*self.x, *self.y, *itertools.chain(*(each for each in more if each))]

    def batch(self, chosen, goes_on: bool = False) -> Batch:
        """The samples of these numbers side by side, in this order.

        goes_on  they go on where others ended: nothing is burnt in
        """
        network, d = self.network, self.network.backend
        lengths = self.lengths[chosen]
        T, B, m, k = int(lengths.max()), len(chosen), network.input_size, network.output_size
        labels = self.labels
        shapes = (T, B, m), (T, B) if labels else (T, B, k), (T, B), (1,)
        kinds = [(1, LABELS[network.dtype])] if labels else []
        whole = np.empty(sum(map(room_of, shapes)), network.dtype)
        x, target, weight, total = parts_of(whole, shapes, kinds)
        live, starts, ends = self._steps_of(chosen, lengths)
        every = network.steps == "every"
        if every and lengths.min() == T:
            self._fill(chosen, x, target, weight)
        else:
            whole[...] = 0
            first = np.zeros(B, int) if every else (lengths - 1 if ends is None else ends)
            self._fill_one_by_one(chosen, x, target, weight, first)
        if live is not None:
            x[~live] = 0
            weight[~live] = 0
        if (burnt := self.counting.burn_in) and not goes_on:
            happened = np.arange(1, T + 1)[:, None] if live is None else live.cumsum(0)
            weight[np.broadcast_to(happened <= burnt, weight.shape)] = 0
        counted = weight.sum(1, dtype=np.float64)
        total[0] = counted.sum()
        sent = d.array(whole, network.dtype)
        if sent is not whole:
            x, target, weight, total = parts_of(sent, shapes, kinds)
        steps = (
            steps_until(d, x, lengths)
            if live is None
            else steps_of(d, live, False if starts is None else starts)
        )
        states = self.states and [d.array(s[:, chosen], network.dtype) for s in self.states]
        given = {} if starts is None or not self.given else beside(self, chosen, starts)
        return Batch(
            x, steps, target, weight, total, counted, lengths, 0, sent, states, ends, given
        )

    def _steps_of(self, chosen, lengths):
        """(live (T, B), starts (T, B) or None, the last step that happens of each (B,)), NumPy's;
        all None where nothing is masked.
        """
        if not self.masked:
            return None, None, None
        live = np.arange(lengths.max())[:, None] < lengths
        starts = None if self.starts is None else np.zeros_like(live)
        for b, i in enumerate(chosen):
            if self.live is not None:
                live[: lengths[b], b] = self.live[i]
            if starts is not None and self.starts is not None:
                starts[: lengths[b], b] = self.starts[i]
        return live, starts, len(live) - 1 - live[::-1].argmax(0)

    def _fill(self, chosen, x, target, weight):
        """Samples of one length, every step of which has a target, into a batch, all of it."""
        if self.x[chosen[0]].dtype.kind == "f":
            side_by_side(self.x, chosen, x)
        else:
            x[...] = 0
            np.put_along_axis(x, self.beside["x"][:, chosen, None], 1, 2)  # one-hot
        if "y" in self.beside:
            np.take(self.beside["y"], chosen, 1, out=target, mode="clip")
        elif self.y:
            side_by_side(self.y, chosen, target)
        else:
            target[...] = 0
        if self.weights is None:
            weight[...] = 1
        else:
            side_by_side(self.weights, chosen, weight)

    def _fill_one_by_one(self, chosen, x, target, weight, first):
        """As _fill, whatever their lengths; `first` (B,) is the first step that has a target."""
        every = self.network.steps == "every"
        for b, i in enumerate(chosen):
            length = len(self.x[i])
            if self.x[i].dtype.kind == "f":
                x[:length, b] = self.x[i]
            else:
                x[np.arange(length), b, self.x[i]] = 1  # one-hot
            rows = slice(first[b], length if every else first[b] + 1)
            weight[rows, b] = 1 if self.weights is None else self.weights[i]
            if self.y:
                target[rows, b] = self.y[i]

    def batches(self, batch_size: int, order=None):
        """Batch after batch of the samples of these numbers; None is all, in their order."""
        order = np.arange(len(self)) if order is None else order
        for first in range(0, len(order), batch_size):
            yield self.batch(order[first : first + batch_size])


def time_major(x: list, count: int) -> str:
    """What to do, where x seems time-major: it has `count` samples on its second axis."""
    shape = np.shape(x[0])
    if len(shape) != 2 or any(np.shape(a) != shape for a in x) or shape[0] != count:
        return ""
    return (
        f". The first axis of x is that of the samples, (N, T, m): is {(len(x), *shape)} meant as "
        "(T, N, m), give x.swapaxes(0, 1)"
    )


def side_by_side(samples: list, chosen, out):
    """The samples of these numbers, (T, ·) or (T,) each, as out (T, B, ·) or (T, B)."""
    parts = [samples[i] for i in chosen]
    if out.ndim == 2:
        np.stack(parts, 1, out=out)
    else:  # which takes half as long as to stack
        np.concatenate(parts, 1, out=out.reshape(len(out), -1))


def cast(a, dtype: str):
    """Floats as this dtype; anything else as it is."""
    if getattr(getattr(a, "dtype", None), "kind", "") == "f" and a.dtype != dtype:
        with np.errstate(over="ignore"):  # what is beyond the dtype is infinite, and then named
            return a.astype(dtype)
    return a


def only(live, a):
    """a (T, ·), zero where no step happens; as it is where its length is another."""
    a = a if isinstance(a, np.ndarray) else np.asarray(a)
    if a.shape[:1] != live.shape:
        return a
    return np.where(live.reshape(-1, *[1] * (a.ndim - 1)), a, a.dtype.type(0))


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
