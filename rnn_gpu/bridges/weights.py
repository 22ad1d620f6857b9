"""Parameters under torch's names, and in the lists that Keras's get_weights() and set_weights()
speak.

torch   gate orders are ours (i f g o; r z n). A Network's names are those of torch.nn.Sequential or
        ModuleList: "0.weight_ih_l0".
Keras   matrices are transposed; a GRU's gates are z r h, and it is reset_after=True, which is ours
        and cuDNN's.

What comes in is compared with what would go out, by the other library's names and shapes, before
anything is made of it.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import arguments
from ..errors import ArgumentError, DtypeError, ShapeError
from ..kernels.devices import Device

TORCH = {"weight_ih_l0": "U", "weight_hh_l0": "W", "bias_ih_l0": "b", "bias_hh_l0": "c"}


class Weights:
    """What has parameters: layers and networks.  Each knows its own names, and says by four
    functions of NumPy arrays what they are elsewhere; θ is its parameters by its own names.
    """

    parameters: Mapping[str, np.ndarray]
    dtype: str
    _device: Device

    def as_torch(self, θ: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """θ under torch's names: a state_dict."""
        raise NotImplementedError

    def of_torch(self, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """θ, from a state_dict of arrays of torch's shapes."""
        raise NotImplementedError

    def as_keras(self, θ: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
        """θ as Keras's list, of pairs (what it is, array); what Keras calls a bias begins with
        "bias".
        """
        raise NotImplementedError

    def of_keras(self, weights: list[Any]) -> dict[str, np.ndarray]:
        """θ, from the first arrays of Keras's list, which loses them; a bias that is missing there
        is None.
        """
        raise NotImplementedError

    def to_torch(self) -> dict[str, np.ndarray]:
        """The parameters under torch's names, as NumPy arrays of their own; torch's second bias is
        zero where the cell has no c.
        """
        return self.as_torch(self._own())

    def load_torch(self, state_dict: Mapping[str, ArrayLike]):
        """Take over a state_dict of torch's (NumPy arrays or tensors): all of it, or nothing if it
        does not fit.

        Biases of a recurrent layer may both be missing; where its cell has no c, as of the LSTM and
        the RNN, b is the sum of torch's two. Training then is not torch's step for step: both of
        torch's have the gradient that b has, and each moves as b does, so with the same gradients
        their sum moves twice as far. That is so under SGD, momentum, RMSprop and Adam alike;
        weights learn as there.
        """
        named = isinstance(state_dict, Mapping) and all(
            isinstance(name, str) for name in state_dict
        )
        if not named:
            came = arguments.came_in_parts(state_dict)
            raise ArgumentError(
                f"state_dict is {came}, expected arrays by torch's names, as state_dict() gives "
                "them"
            )
        arrays = {name: self._host(name, value) for name, value in state_dict.items()}
        for name, like in self.as_torch(self._blank()).items():
            if name in arrays and arrays[name].shape != like.shape:
                raise ShapeError(f"{name} has shape {arrays[name].shape}, expected {like.shape}")
        self._take_over(self.of_torch(arrays))

    def to_keras(self) -> list[np.ndarray]:
        """The parameters as the list that set_weights() of the same layer in Keras, or of a
        Sequential of them, takes.
        """
        return [a for _, a in self.as_keras(self._own())]

    def load_keras(self, weights: Sequence[ArrayLike]):
        """Take over what get_weights() of the same layer in Keras, or of a Sequential of them,
        gives: all of it or nothing.

        Biases may be missing. A GRU must be reset_after=True (Keras's default): without biases that
        cannot be seen.
        """
        if not isinstance(weights, (list, tuple)):
            came = arguments.came(weights)
            raise ArgumentError(
                f"weights is {came}, expected a list of arrays, as get_weights() gives it"
            )
        weights = [self._host(f"weights[{i}]", value) for i, value in enumerate(weights)]
        expected = [(what, like.shape) for what, like in self.as_keras(self._blank())]
        self._take_over(self.of_keras(arrangement(weights, expected)))

    def _own(self):
        return {name: np.array(self._device.numpy(a)) for name, a in self.parameters.items()}

    def _blank(self):
        """Arrays of the parameters' shapes that take no room."""
        return {
            name: np.broadcast_to(np.zeros((), self.dtype), a.shape)
            for name, a in self.parameters.items()
        }

    def _host(self, name, value):
        a = arguments.as_array(name, value, self.dtype)
        if a.dtype != self.dtype:
            raise DtypeError(f"{name} is {a.dtype}, but this was built for {self.dtype}")
        arguments.finite(name, a)
        return a.get() if arguments.on_gpu(a) else a

    def _take_over(self, θ):
        for name, value in θ.items():
            self.parameters[name][...] = self._device.array(value, self.dtype)


def known(state_dict, names, optional=()):
    """Raise ArgumentError unless a state_dict has exactly these names; of the optional all or
    none.
    """
    given = set(state_dict)
    if given not in (set(names), set(names) - set(optional)):
        raise ArgumentError(
            f"state_dict has {', '.join(sorted(given)) or 'nothing'}, expected {', '.join(names)}"
        )


def arrangement(weights: list, expected: list) -> list:
    """Keras's list beside (what, shape) of all that it may hold, in that order: None where a bias
    is missing.

    Raises ShapeError or ArgumentError, naming the place, where it does not fit, and ArgumentError
    where it fits in two ways.
    """
    ways = list(islice(arrangements(weights, expected), 2))
    if len(ways) > 1:
        raise ArgumentError(
            "weights lacks a bias, and its shapes do not tell which: give Keras's layers "
            "use_bias=True"
        )
    if not ways:
        refuse(weights, expected)
    return ways[0]


def arrangements(weights, expected):
    """Every way to lay the list so that all shapes are equal."""
    if not expected:
        yield from [] if weights else [[]]
        return
    (what, shape), *others = expected
    if weights and weights[0].shape == shape:
        yield from ([weights[0], *rest] for rest in arrangements(weights[1:], others))
    if what.startswith("bias"):
        yield from ([None, *rest] for rest in arrangements(weights, others))


def refuse(weights, expected):
    """Raise what is wrong with Keras's list, which has no arrangement: the first array that cannot
    stand where it does.
    """
    i, lacking = 0, len(weights) < len(expected)
    for what, shape in expected:
        bias, got = what.startswith("bias"), weights[i].shape if i < len(weights) else None
        # no bias: a kernel, which has two axes
        if bias and (got is None or (lacking and got != shape and len(got) > 1)):
            continue
        if got is None:
            raise ArgumentError(
                f"weights has {len(weights)} arrays, expected {len(expected)}: the {what} is "
                "missing"
            )
        if bias and len(shape) == 2 and got == shape[1:]:
            raise ArgumentError(
                f"weights[{i}] is one {what}, of a GRU with reset_after=False: ours resets after "
                "the product, as reset_after=True"
            )
        if got != shape:
            raise ShapeError(f"weights[{i}], the {what}, has shape {got}, expected {shape}")
        i += 1
    raise ArgumentError(
        f"weights has {len(weights) - i} arrays too many, the first of shape {weights[i].shape}"
    )


def next_of(weights, count: int) -> list:
    """The next arrays of Keras's list, which loses them."""
    taken = weights[:count]
    del weights[:count]
    return taken


def by_gates(a, order):
    """The blocks of rows of a (G·n, …), of which order names the G, in that order."""
    return np.concatenate([np.split(a, len(order))[k] for k in order])


def dense_of_keras(V, b):
    """The kernel (m, k) of Keras, and its bias (k,) or None -> V (k, m), b (k,)."""
    return {"V": V.T, "b": np.zeros(V.shape[1], V.dtype) if b is None else b}


def recurrent_of_keras(weights, order, apart: bool):
    """Kernel (m, G·n), recurrent kernel (n, G·n) and bias or None, of a recurrent layer of Keras ->
    U, W, b, and c if `apart`.

    order  Keras's gates, by the numbers of ours
    """
    U, W, bias = weights
    own = 2 if apart else 1  # axes of the bias
    b = np.zeros((own, U.shape[1]), U.dtype) if bias is None else bias.reshape(own, -1)
    θ = {"U": U.T, "W": W.T, "b": b[0]} | ({"c": b[1]} if apart else {})
    return {name: by_gates(a, np.argsort(order)) for name, a in θ.items()}
