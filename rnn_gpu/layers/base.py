"""What every layer is: parameters and gradients by name, on a device."""

from typing import Self

import numpy as np
import numpy.typing as npt

from .. import arguments, outline, parameters
from ..device import PRECISIONS, resolve
from ..errors import OrderError
from ..weights import Weights


class Layer(Weights):
    """A layer has a device, a dtype, and parameters and their gradients by name.

    Users call a layer and its `backward`; these check, convert, and hand on to `_forward` and `_backward`, which take and return
    arrays of the device, time-major:

    _forward(x (T, B, m), s0, steps, keep, training) -> (y (T, B, n), s after the last step)
    _backward(dy (T, B, n), ds, taped, clip, more) -> (dx (T, B, m), dE/ds0); sets grads

    `more` goes on from the last _backward, of the steps behind these: what it left is added to grads, and ds is what it returned.
    States are lists, one array (S, B, n) for each layer of `recurrent`.
    """

    input_size: int | None = None
    output_size: int | None = None
    place = 0  # in its network
    draws = False  # does training draw numbers: each pass forward has its own, by `passes`
    passes = 0
    clipped_steps = 0  # in the last backward: how often δ of a step and sample was beyond its bounds
    recurrent: tuple = ()  # itself, the two of a bidirectional one, or none

    def __init__(
        self,
        device: str,
        dtype: npt.DTypeLike,
        values: dict[str, np.ndarray],
        precision: str = "fp32",
    ):
        self.dtype = arguments.dtype_name(dtype)
        self.precision = arguments.choice("precision", precision, PRECISIONS)
        self._device = resolve(device, self.dtype, self.precision)
        self.parameters = parameters.Parameters({name: self._device.array(value, self.dtype) for name, value in values.items()})
        self.grads: dict[str, np.ndarray] = {}
        self._tape = self._like = None

    @property
    def device(self) -> str:
        """The name of the device that does the work: "cpu", "cuda" or "reference"."""
        return self._device.name

    def config(self) -> dict:
        """The arguments that build this layer again, but for device and dtype."""
        raise NotImplementedError

    def _words(self) -> str:
        return outline.call(self, self.config() | {"device": self.device, "dtype": self.dtype})

    def __repr__(self):
        return f"{self._words()}: {outline.sizes(self.parameters)}"

    def copy(
        self,
        device: str | None = None,
        dtype: npt.DTypeLike | None = None,
        precision: str | None = None,
    ) -> Self:
        """The same layer with the same parameters, on another device, of another dtype or precision if asked."""
        options = self.config() | {"device": self.device, "dtype": self.dtype}
        changes = {"device": device, "dtype": dtype, "precision": precision}
        options |= {name: value for name, value in changes.items() if value is not None and name in options}
        other = type(self)(**options)
        for name, value in self.parameters.items():
            other.parameters.write(name, other._device.array(self._device.numpy(value), other.dtype))
        return other

    def _recall(self):
        if self._tape is None:
            raise OrderError(f"{type(self).__name__}: backward before forward; call the layer on x first")
        return self._tape

    def _to_kind_of(self, x, a, ours=True):
        """a as the kind of array that x is; copied if it stays ours."""
        if type(x) is type(a):
            return self._device.copy(a) if ours else a
        own = a if arguments.on_gpu(x) else self._device.numpy(a)
        return arguments.as_kind_of(x, self._device.copy(a) if ours and own is a else own)
