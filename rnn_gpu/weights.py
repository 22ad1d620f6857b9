"""Parameters under torch's names, and in the lists that Keras's get_weights() and set_weights() speak.

torch   gate orders are ours (i f g o; r z n). A Network's names are those of torch.nn.Sequential or ModuleList: "0.weight_ih_l0".
Keras   matrices are transposed; a GRU's gates are z r h, and it is reset_after=True, which is ours and cuDNN's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from . import arguments
from .errors import ArgumentError, DtypeError, ShapeError

TORCH = {"weight_ih_l0": "U", "weight_hh_l0": "W", "bias_ih_l0": "b", "bias_hh_l0": "c"}


class Weights:
    """What has parameters: layers and networks.  A subclass knows its own names; four functions of NumPy arrays say theirs:

    _as_torch(θ) -> state_dict, _of_torch(state_dict) -> θ, _as_keras(θ) -> list, _of_keras(list) -> θ
    """

    def to_torch(self) -> dict[str, np.ndarray]:
        """The parameters under torch's names, as NumPy arrays of their own; torch's second bias is zero where the cell has no c."""
        return self._as_torch(self._own())

    def load_torch(self, state_dict: Mapping[str, ArrayLike]):
        """Take over a state_dict of torch's (NumPy arrays or tensors): all of it, or nothing if it does not fit.

        Biases of a recurrent layer may both be missing; where its cell has no c, b is the sum of torch's two.
        """
        named = isinstance(state_dict, Mapping) and all(isinstance(name, str) for name in state_dict)
        if not named:
            came = arguments.came_in_parts(state_dict)
            raise ArgumentError(f"state_dict is {came}, expected arrays by torch's names, as state_dict() gives them")
        self._take_over("state_dict", self._of_torch({name: self._host(name, value) for name, value in state_dict.items()}))

    def to_keras(self) -> list[np.ndarray]:
        """The parameters as the list that set_weights() of the same layer in Keras, or of a Sequential of them, takes."""
        return self._as_keras(self._own())

    def load_keras(self, weights: Sequence[ArrayLike]):
        """Take over what get_weights() of the same layer in Keras, or of a Sequential of them, gives: all of it or nothing.

        Biases may be missing. A GRU must be reset_after=True (Keras's default): without biases that cannot be seen.
        """
        if not isinstance(weights, (list, tuple)):
            came = arguments.came(weights)
            raise ArgumentError(f"weights is {came}, expected a list of arrays, as get_weights() gives it")
        weights = [self._host(f"weights[{i}]", value) for i, value in enumerate(weights)]
        θ = self._of_keras(weights)
        if weights:
            raise ArgumentError(f"weights has {len(weights)} arrays too many, the first of shape {weights[0].shape}")
        self._take_over("weights", θ)

    def _own(self):
        return {name: np.array(self._device.numpy(a)) for name, a in self.parameters.items()}

    def _host(self, name, value):
        a = arguments.as_array(name, value, self.dtype)
        if a.dtype.kind == "f":
            arguments.finite(name, a)
        return a.get() if arguments.on_gpu(a) else a

    def _take_over(self, what, θ):
        for name, value in θ.items():
            if value.shape != self.parameters[name].shape:
                raise ShapeError(f"{what} gives {name} the shape {value.shape}, expected {self.parameters[name].shape}")
            if value.dtype != self.dtype:
                raise DtypeError(f"{what} gives {name} as {value.dtype}, but this was built for {self.dtype}")
        for name, value in θ.items():
            self.parameters[name][...] = self._device.array(value, self.dtype)


def known(state_dict, names, optional=()):
    """Raise ArgumentError unless a state_dict has exactly these names; of the optional all or none."""
    given = set(state_dict)
    if given not in (set(names), set(names) - set(optional)):
        raise ArgumentError(f"state_dict has {', '.join(sorted(given)) or 'nothing'}, expected {', '.join(names)}")


def next_of(weights, count: int) -> list:
    """The next arrays of Keras's list, which loses them."""
    if len(weights) < count:
        raise ArgumentError(f"weights has {count - len(weights)} arrays too few")
    taken = weights[:count]
    del weights[:count]
    return taken


def by_gates(a, order):
    """The blocks of rows of a (G·n, …), of which order names the G, in that order."""
    return np.concatenate([np.split(a, len(order))[k] for k in order])


def dense_of_keras(weights, bias: bool):
    """The kernel (m, k) of Keras, and its bias where there is one -> V (k, m), b (k,) if `bias`."""
    (V,) = next_of(weights, 1)
    k = V.shape[-1]
    b = next_of(weights, 1)[0] if bias and weights and weights[0].ndim == 1 else np.zeros(k, V.dtype)
    return {"V": V.T} | ({"b": b} if bias else {})


def recurrent_of_keras(weights, order, apart: bool):
    """Kernel (m, G·n), recurrent kernel (n, G·n) and bias, of a recurrent layer of Keras -> U, W, b, and c if `apart`."""
    U, W = (a.T for a in next_of(weights, 2))
    if any(len(a) % len(order) for a in (U, W)):
        raise ShapeError(f"weights has matrices of {U.shape[::-1]} and {W.shape[::-1]}, expected {len(order)} blocks of columns")
    own = 2 if apart else 1  # axes of the bias
    if weights and apart and weights[0].shape == (len(U),):
        raise ArgumentError("weights has one bias, of a GRU with reset_after=False: ours resets after the product, as reset_after=True")
    zero = np.zeros((own, len(U)), U.dtype)
    b = np.reshape(next_of(weights, 1)[0], (own, -1)) if weights and weights[0].shape in ((len(U),), (own, len(U))) else zero
    θ = {"U": U, "W": W, "b": b[0]} | ({"c": b[1]} if apart else {})
    return {name: by_gates(a, order) for name, a in θ.items()}
