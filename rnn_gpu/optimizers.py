"""Optimizers: the hyperparameters and moments around the formulas of kernels/updates.py."""

import inspect
from collections.abc import Mapping
from copy import copy
from typing import Any, Self

import numpy as np

from . import arguments, schedules
from .errors import ArgumentError
from .kernels import updates
from .schedules import Rate


class Optimizer:
    """One step for every parameter, by an elementwise kernel; the moments are kept by the
    parameter's name.

    learning_rate  a number, or a function of the step's number, counted from 0, that gives one
                   (see rnn_gpu.schedules); it may be set between steps
    """

    moments = 0
    squares: tuple[int, ...] = ()  # which of the moments are means of squares
    formula: Any = None  # of kernels/updates.py, or as those

    def __init__(self, learning_rate: Rate, *, weight_decay: float = 0.0):
        self.learning_rate: Rate = schedules.checked("learning_rate", learning_rate)
        self.weight_decay = arguments.number("weight_decay", weight_decay, 0, open_high=True)
        self.steps = 0
        self.state: dict[str, tuple] = {}

    def __repr__(self):
        names = (*inspect.signature(type(self)).parameters, "steps")
        words = (f"{name}={getattr(self, name)!r}" for name in names if hasattr(self, name))
        return f"{type(self).__name__}({', '.join(words)})"

    def fresh(self) -> Self:
        """The same optimizer before its first step."""
        other = copy(self)
        other.state, other.steps = {}, 0
        return other

    def scalars(self) -> tuple[float, ...]:
        """What the formula takes after the arrays, at step `steps`, counted from 1."""
        return self.rate(self.steps - 1), self.weight_decay

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return schedules.rate_at(self.learning_rate, step)

    def largest(self, dtype: str) -> float:
        """The largest number of a gradient that can be taken: beyond it a square that is kept
        overflows, and the next is NaN.
        """
        return float(np.finfo(dtype).max) ** 0.5 if self.squares else np.inf

    def next_scalars(self) -> tuple[float, ...]:
        """The `scalars` of the step to come."""
        ahead = object.__new__(type(self))
        ahead.__dict__ |= self.__dict__ | {"steps": self.steps + 1}
        return ahead.scalars()

    def moments_of(self, device, parameters: Mapping) -> dict[str, tuple]:
        """The moments of every parameter by its name, zero where there are none yet; `state` stays
        as it is.  Raises ArgumentError where they are of other parameters.
        """
        for name, θ in parameters.items():
            for moment in self.state.get(name, ()):
                if (
                    type(moment) is not type(θ)
                    or moment.shape != θ.shape
                    or moment.dtype != θ.dtype
                ):
                    came = (
                        f"{moment.shape} and {moment.dtype}, but the parameter is {θ.shape} and "
                        f"{θ.dtype}"
                    )
                    raise ArgumentError(
                        f"optimizer has trained another network: its moments of {name} are "
                        f"{came}; make a new one"
                    )
        return {
            name: self.state[name]
            if name in self.state
            else tuple(device.zeros(θ.shape, θ.dtype) for _ in range(self.moments))
            for name, θ in parameters.items()
        }

    def took(self, moments: Mapping[str, tuple]):
        """A step is done, which changed these moments."""
        self.state.update(moments)
        self.steps += 1

    def step(self, device, parameters: Mapping, grads: Mapping):
        """Update every parameter in place by its gradient of the same name: for loops of your own.
        Nothing is clipped, nor looked at whether it is finite.
        """
        moments, scalars = self.moments_of(device, parameters), self.next_scalars()
        self.took(moments)
        for name, θ in parameters.items():
            arrays = (θ, *moments[name])
            device.elementwise(self.formula, arrays, (*arrays, grads[name]), scalars)


class SGD(Optimizer):
    """Stochastic gradient descent (式5), with momentum (torch's form) and Nesterov's look-ahead if
    asked.
    """

    def __init__(
        self,
        learning_rate: Rate = 1e-2,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.nesterov = arguments.flag("nesterov", nesterov)
        self.momentum = arguments.number("momentum", momentum, 0, 1, open_high=True)
        if nesterov and not self.momentum:
            raise ArgumentError("nesterov=True needs a momentum above 0")
        self.moments = 1 if self.momentum else 0
        self.formula = (
            updates.nesterov if nesterov else updates.momentum if self.momentum else updates.sgd
        )

    def scalars(self):
        return super().scalars() + ((self.momentum,) if self.momentum else ())


class RMSprop(Optimizer):
    """Hinton's RMSprop; `decay` is torch's alpha."""

    moments = 1
    squares = (0,)
    formula = staticmethod(updates.rmsprop)

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        *,
        decay: float = 0.99,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.decay = arguments.number("decay", decay, 0, 1, open_high=True)
        self.epsilon = arguments.number("epsilon", epsilon, 0)

    def scalars(self):
        return *super().scalars(), self.decay, self.epsilon


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as torch.optim.Adam; weight_decay is added to the gradient."""

    moments = 2
    squares = (1,)
    formula = staticmethod(updates.adam)

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.beta1 = arguments.number("beta1", beta1, 0, 1, open_high=True)
        self.beta2 = arguments.number("beta2", beta2, 0, 1, open_high=True)
        self.epsilon = arguments.number("epsilon", epsilon, 0)

    def scalars(self):
        corrections = (1 / (1 - self.beta1**self.steps), 1 / (1 - self.beta2**self.steps))
        return *super().scalars(), self.beta1, self.beta2, self.epsilon, *corrections


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW."""

    formula = staticmethod(updates.adamw)

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(
            learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=weight_decay
        )


BY_NAME = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}


def resolve(optimizer, learning_rate: Rate | None) -> Optimizer:
    """An Optimizer as it is, or one made from its name and learning rate (None: the optimizer's own
    default).
    """
    if isinstance(optimizer, Optimizer):
        if learning_rate is not None:
            raise ArgumentError("learning_rate is given twice: the optimizer object has one")
        return optimizer
    chosen = BY_NAME[arguments.choice("optimizer", optimizer, BY_NAME)]
    return chosen() if learning_rate is None else chosen(learning_rate)
