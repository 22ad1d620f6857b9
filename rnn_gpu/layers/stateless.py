"""Layers that know no time."""

from functools import cache

import numpy as np

from .. import arguments, derivatives, parameters
from ..errors import OrderError
from ..kernels import UNCLIPPED, Activation
from ..weights import dense_of_keras, known
from .base import Layer
from .noise import drop_mask, key, struck


class Stateless(Layer):
    """A layer that treats every step and sample alike.  x is (T, B, m), or (B, m) without time; y has the same axes."""

    def __call__(self, x, training=False):
        """Carry the layer over x; remember what `backward` needs.  x (…, B, m) -> y (…, B, n)."""
        a = arguments.as_array("x", x, self.dtype)
        rank = 3 if a.ndim == 3 else 2
        axes = f"{'(T, B, ' if rank == 3 else '(B, '}m={self.input_size})"
        a = arguments.floats("x", a, self.dtype, (None,) * (rank - 1) + (self.input_size,), axes)
        arguments.finite("x", a)
        y, _ = self._forward(self._device.copy(self._with_time("x", a)), None, None, True, training)
        self._like = x
        return self._to_kind_of(x, y.reshape(*a.shape[:-1], -1))

    def backward(self, dy):
        """dE/dy, shaped as y -> dE/dx, shaped as x; sets `grads`."""
        self._recall()
        shape = np.shape(self._like)
        dy = arguments.floats("dy", dy, self.dtype, (*shape[:-1], self.output_size or shape[-1]), "(…, B, n)")
        arguments.finite("dy", dy)
        dx, _ = self._backward(self._with_time("dy", dy), None)
        return self._to_kind_of(self._like, dx.reshape(shape))

    def _with_time(self, name, a):
        return arguments.take(self._device, name, a if a.ndim == 3 else a[None], self.dtype)


@cache
def output_formula(activation: Activation):
    """(y, dy) -> δ = dy f'(net): 式3 of the BP chapter, but for its sign."""
    df = activation.df

    def δ(y, dy):
        return dy * df(y)

    return δ


class Dense(Stateless):
    """A fully connected layer, o = g(V s + b) (式1), at every step.

    activation as for RNN. parameters, grads: dicts of V (output_size, input_size) and b (output_size,): the weight of an input
    that is always 1.
    """

    def __init__(
        self, input_size, output_size, activation="identity", device="auto", dtype="float32", seed=0, init="default", precision="fp32"
    ):
        self.activation = derivatives.activation(activation)
        self.input_size = arguments.size("input_size", input_size)
        self.output_size = arguments.size("output_size", output_size)
        self.seed, self.init = arguments.seed("seed", seed), arguments.choice("init", init, parameters.INITS)
        super().__init__(device, dtype, parameters.dense(self.input_size, self.output_size, seed, init), precision)

    def config(self):
        return {name: getattr(self, name) for name in ("input_size", "output_size", "activation", "seed", "init", "precision")}

    def _forward(self, x, s0, steps, keep=True, training=False):
        d, θ = self._device, self.parameters
        net = d.project(x, θ["V"], θ.get("b"), 1)[:, :, 0]
        y = d.empty(net.shape, self.dtype)
        d.elementwise(self.activation.f, (y,), (net,))
        if keep:
            self._x, self._tape, self._like, self._δ = x, y, x, None
        return y, []

    @property
    def delta(self):
        """δ = dE/dnet of the last backward, shaped as y (式3 and 式4 of the BP chapter, but for their sign)."""
        self._recall()
        if self._δ is None:
            raise OrderError("delta is known after backward: call it after the layer went forward")
        return self._to_kind_of(self._like, self._δ.reshape(*np.shape(self._like)[:-1], self.output_size))

    def _backward(self, dy, ds, taped=False, clip=UNCLIPPED, more=False):
        d, y = self._device, self._recall()
        δ = d.empty(y.shape, self.dtype)
        d.elementwise(output_formula(self.activation), (δ,), (y, dy))
        self._δ = δ
        δ = δ[:, :, None]  # (T, B, G = 1, n)
        later = self.grads if more else {}
        dx, dV, db = d.project_back(δ, self._x, self.parameters["V"], later.get("V"), later.get("b"), bias="b" in self.parameters)
        self.grads = {"V": dV} | ({} if db is None else {"b": db})
        return dx, []

    def _as_torch(self, θ):
        return {"weight": θ["V"], "bias": θ["b"]}

    def _of_torch(self, state_dict):
        known(state_dict, ("weight", "bias"), optional=("bias",))
        return {"V": state_dict["weight"], "b": state_dict.get("bias", np.zeros(self.output_size, self.dtype))}

    def _as_keras(self, θ):
        return [θ["V"].T, θ["b"]]

    def _of_keras(self, weights):
        return dense_of_keras(weights, bias=True)


class Embedding(Dense):
    """A vector of its own for each of `symbols` symbols, learned: the columns of V (size, symbols), no bias.

    It is the product of V with the one-hot vectors that integers stand for; so it is meant for characters, not for 100,000 words.
    """

    def __init__(self, symbols, size, device="auto", dtype="float32", seed=0, precision="fp32"):
        self.activation = derivatives.activation("identity")
        self.input_size, self.output_size = arguments.size("symbols", symbols), arguments.size("size", size)
        self.seed = arguments.seed("seed", seed)
        Layer.__init__(self, device, dtype, parameters.embedding(self.input_size, self.output_size, seed), precision)

    def __call__(self, x, training=False):
        """x (T, B) or (B,) integers, or one-hot (…, symbols) -> (…, size).  What `backward` returns is with respect to the one-hot."""
        return super().__call__(self.vectors(x), training)

    def vectors(self, x):
        """Integers as one-hot vectors; anything else as it is."""
        a = arguments.as_array("x", x, self.dtype)
        if a.dtype.kind not in "iu":
            return x
        a = self._device.numpy(a) if type(a) is not np.ndarray else a
        checked = arguments.symbols("x", a, self.input_size, "(T, B) or (B,)", 2 if a.ndim == 2 else 1)
        return arguments.one_hot(checked, self.input_size, self.dtype)

    def config(self):
        return {"symbols": self.input_size, "size": self.output_size, "seed": self.seed, "precision": self.precision}

    def _as_torch(self, θ):
        return {"weight": θ["V"].T}

    def _of_torch(self, state_dict):
        known(state_dict, ("weight",))
        return {"V": state_dict["weight"].T}

    def _as_keras(self, θ):
        return [θ["V"].T]

    def _of_keras(self, weights):
        return dense_of_keras(weights, bias=False)


class Dropout(Stateless):
    """Zero a share `rate` of the numbers in training, scale the others by 1/(1 − rate); outside training do nothing.

    variational  True draws one mask for all steps of a sequence (Gal and Ghahramani 2016)
    A mask's number is a function of `seed`, the layer's place in its network, the training pass, step, sample and unit, by Philox:
    the same on every device, whatever the batch's size and length.
    """

    draws = True

    def __init__(self, rate: float, variational: bool = False, device="auto", dtype="float32", seed=0):
        self.rate, self.variational = arguments.number("rate", rate, 0, 1, open_high=True), bool(variational)
        self.seed = key(arguments.seed("seed", seed))
        super().__init__(device, dtype, {})

    def config(self):
        return {"rate": self.rate, "variational": self.variational, "seed": self.seed}

    def _forward(self, x, s0, steps, keep=True, training=False):
        mask = x.dtype.type(1)
        if training:
            T, B, n = x.shape
            first = 0 if self.variational or steps is None else steps.first
            T = 1 if self.variational else T
            drawn = struck(self._device, self.rate, T, B, n, self.seed, self.place, self.passes, first)
            mask = drop_mask(x.dtype, self.rate, drawn)
            self.passes += 1
        if keep:
            self._tape, self._like = mask, x
        return x * mask, []

    def _backward(self, dy, ds, taped=False, clip=UNCLIPPED, more=False):
        return dy * self._recall(), []

    def _as_torch(self, θ):
        return {}

    def _of_torch(self, state_dict):
        known(state_dict, ())
        return {}

    def _as_keras(self, θ):
        return []

    def _of_keras(self, weights):
        return {}
