"""Layers that know no time."""

from functools import partial
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from .. import arguments, derivatives, parameters
from ..bridges.weights import dense_of_keras, known, next_of
from ..derivatives import ActivationLike
from ..errors import OrderError
from ..kernels import UNCLIPPED, Activation, Sums
from ..kernels.once import once
from .base import Layer
from .noise import Source, drop_mask, key, struck
from .passes import INFERENCE, Back, Last, next_pass


class Stateless(Layer):
    """A layer that treats every step and sample alike.  x is (T, B, m), or (B, m) without time; y
    has the same axes.
    """

    def __call__(self, x: ArrayLike, *, training: bool = False) -> Any:
        """Carry the layer over x; remember what `backward` needs.  x (…, B, m) -> y (…, B, n)."""
        training = arguments.flag("training", training)
        a = arguments.as_array("x", x, self.dtype)
        rank = 3 if a.ndim == 3 else 2
        axes = f"{'(T, B, ' if rank == 3 else '(B, '}m={self.input_size})"
        a = arguments.floats(
            "x", a, self.dtype, (None,) * (rank - 1) + (self.input_size,), axes, rank - 2
        )
        arguments.finite("x", a)
        a, weights = self._device.copy(self._with_time("x", a)), self._fingerprint()
        y, _, tape = self.forward(a, [], None, next_pass((self,), training))
        self.remember(Last(x, None, tape, weights, thread=get_ident()))
        return arguments.give(self._device, x, y.reshape(*np.shape(x)[:-1], y.shape[-1]))

    def backward(self, dy: ArrayLike) -> Any:
        """dE/dy, shaped as y -> dE/dx, shaped as x; sets `grads` and `delta`.  Raises OrderError as
        that of a recurrent layer.
        """
        last = self._recall()
        shape = np.shape(last.like)
        dy = arguments.floats(
            "dy",
            dy,
            self.dtype,
            (*shape[:-1], self.output_size or shape[-1]),
            "(…, B, n)",
            len(shape) - 2,
        )
        arguments.finite("dy", dy)
        back = self.back(last.tape, self._with_time("dy", dy), [])
        self.remember(last.returned(back))
        return arguments.give(self._device, last.like, back.dx.reshape(shape))

    def _with_time(self, name, a):
        return arguments.take(self._device, name, a if a.ndim == 3 else a[None], self.dtype)


class DenseTape(NamedTuple):
    """What a Dense layer remembers of its way forward."""

    x: Any  # (T, B, m)
    y: Any  # (T, B, n)


class DropoutTape(NamedTuple):
    """What a Dropout layer remembers of its way forward."""

    x: Any  # (T, B, n)
    mask: Any  # what x was multiplied by, of a shape that broadcasts


@once
def output_formula(activation: Activation):
    """(y, dy) -> δ = dy f'(net): 式3 of the BP chapter, but for its sign."""
    df = activation.df

    def δ(y, dy):
        return dy * df(y)

    return δ


class Dense(Stateless):
    """A fully connected layer, o = g(V s + b) (式1), at every step.

    activation as for RNN. parameters, grads: dicts of V (output_size, input_size) and b
    (output_size,): the weight of an input that is always 1.
    """

    input_size: int
    output_size: int

    def __init__(
        self,
        input_size: int,
        output_size: int,
        activation: ActivationLike = "identity",
        *,
        device: str = "auto",
        dtype: npt.DTypeLike = "float32",
        seed: int = 0,
        init: str = "default",
        precision: str = "fp32",
    ):
        self.activation = derivatives.activation(activation)
        self.input_size = arguments.size("input_size", input_size)
        self.output_size = arguments.size("output_size", output_size)
        self.seed = arguments.seed("seed", seed)
        self.init = arguments.choice("init", init, parameters.INITS)
        shapes = {"V": (self.output_size, self.input_size), "b": (self.output_size,)}
        draw = partial(parameters.dense, self.input_size, self.output_size, self.seed, init)
        super().__init__(device, dtype, shapes, draw, precision)

    def config(self):
        return {
            name: getattr(self, name)
            for name in ("input_size", "output_size", "activation", "seed", "init", "precision")
        }

    @property
    def delta(self):
        """δ = dE/dnet (BP 式3, but for its sign) of every row, from the last backward: shaped as
        y.
        """
        back, last = self._found("delta"), self._last
        if back is None or back.delta is None or last is None:
            raise OrderError("delta is known after backward: call it after the layer went forward")
        return back.delta.reshape(*np.shape(last.like)[:-1], self.output_size)

    def forward(self, x, s0, steps, pass_=INFERENCE):
        d, θ = self._device, self.parameters
        net = d.project(x, θ["V"], θ.get("b"), 1, self.precision)[:, :, 0]
        y = d.empty(net.shape, self.dtype)
        d.elementwise(self.activation.f, (y,), (net,))
        return y, [], DenseTape(x, y)

    def back(self, tape, dy, ds, taped=False, clip=UNCLIPPED, later=None):
        d, V, later_grads = self._device, self.parameters["V"], later.grads if later else {}
        δ = d.empty(tape.y.shape, self.dtype)
        d.elementwise(output_formula(self.activation), (δ,), (tape.y, dy))
        gates = δ[:, :, None]  # (T, B, G = 1, n)
        bias = "b" in self.parameters
        sums = Sums(later_grads.get("V"), later_grads.get("b"), bias=bias)
        dx, dV, db = d.project_back(gates, tape.x, V, sums, self.precision)
        return Back(dx, [], {"V": dV} | ({} if db is None else {"b": db}), δ)

    def as_torch(self, θ):
        return {"weight": θ["V"], "bias": θ["b"]}

    def of_torch(self, state_dict):
        known(state_dict, ("weight", "bias"), optional=("bias",))
        return {
            "V": state_dict["weight"],
            "b": state_dict.get("bias", np.zeros(self.output_size, self.dtype)),
        }

    def as_keras(self, θ):
        return [("kernel", θ["V"].T), ("bias", θ["b"])]

    def of_keras(self, weights):
        return dense_of_keras(*next_of(weights, 2))


class Embedding(Dense):
    """A vector of its own for each of `symbols` symbols, learned: the columns of V (size, symbols),
    no bias.

    It is the product of V with the one-hot vectors that integers stand for; so it is meant for
    characters, not for 100,000 words.
    """

    def __init__(
        self,
        symbols: int,
        size: int,
        *,
        device: str = "auto",
        dtype: npt.DTypeLike = "float32",
        seed: int = 0,
        precision: str = "fp32",
    ):
        self.activation = derivatives.activation("identity")
        self.input_size = arguments.size("symbols", symbols)
        self.output_size = arguments.size("size", size)
        self.seed = arguments.seed("seed", seed)
        draw = partial(parameters.embedding, self.input_size, self.output_size, self.seed)
        Layer.__init__(
            self, device, dtype, {"V": (self.output_size, self.input_size)}, draw, precision
        )

    def __call__(self, x: ArrayLike, *, training: bool = False) -> Any:
        """x (T, B) or (B,) integers, or one-hot (…, symbols) -> (…, size).  What `backward` returns
        is with respect to the one-hot.
        """
        return super().__call__(self.vectors(x), training=training)

    def vectors(self, x):
        """Integers as one-hot vectors; anything else as it is."""
        a = arguments.as_array("x", x, self.dtype)
        if a.dtype.kind not in "iu":
            return x
        a = self._device.numpy(a) if type(a) is not np.ndarray else a
        checked = arguments.symbols(
            "x", a, self.input_size, "(T, B) or (B,)", 2 if a.ndim == 2 else 1, a.ndim - 1
        )
        return arguments.one_hot(checked, self.input_size, self.dtype)

    def config(self):
        return {
            "symbols": self.input_size,
            "size": self.output_size,
            "seed": self.seed,
            "precision": self.precision,
        }

    def as_torch(self, θ):
        return {"weight": θ["V"].T}

    def of_torch(self, state_dict):
        known(state_dict, ("weight",))
        return {"V": state_dict["weight"].T}

    def as_keras(self, θ):
        return [("embeddings", θ["V"].T)]

    def of_keras(self, weights):
        (V,) = next_of(weights, 1)
        return {"V": V.T}


class Dropout(Stateless):
    """Zero a share `rate` of the numbers in training, scale the others by 1/(1 − rate); outside
    training do nothing.

    variational  True draws one mask for all steps of a sequence (Gal and Ghahramani 2016)
    A mask's number is a function of `seed`, the layer's place in its network, the training pass,
    step, sample and unit, by Philox: the same on every device, whatever the batch's size and
    length.
    """

    draws = True

    def __init__(
        self,
        rate: float,
        *,
        variational: bool = False,
        device: str = "auto",
        dtype: npt.DTypeLike = "float32",
        seed: int = 0,
    ):
        self.rate = arguments.number("rate", rate, 0, 1, open_high=True)
        self.variational = arguments.flag("variational", variational)
        self.seed = key(arguments.seed("seed", seed))
        super().__init__(device, dtype, {}, dict)

    def config(self):
        return {"rate": self.rate, "variational": self.variational, "seed": self.seed}

    def forward(self, x, s0, steps, pass_=INFERENCE):
        mask = x.dtype.type(1)
        if pass_.training:
            T, B, n = x.shape
            first = 0 if self.variational or steps is None else steps.first
            T = 1 if self.variational else T
            source = Source(self.seed, self.place, pass_.numbers[self], first)
            mask = drop_mask(x.dtype, self.rate, struck(self._device, self.rate, (T, B, n), source))
        return x * mask, [], DropoutTape(x, mask)

    def back(self, tape, dy, ds, taped=False, clip=UNCLIPPED, later=None):
        return Back(dy * tape.mask, [], {})

    def as_torch(self, θ):
        return {}

    def of_torch(self, state_dict):
        known(state_dict, ())
        return {}

    def as_keras(self, θ):
        return []

    def of_keras(self, weights):
        return {}
