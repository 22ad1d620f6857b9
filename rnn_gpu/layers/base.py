"""What every layer is: parameters and gradients by name, on a device."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .. import arguments, outline, parameters
from ..bridges.weights import Weights
from ..device import PRECISIONS, resolve
from ..kernels import UNCLIPPED, Clip
from ..parameters import Parameters
from .passes import INFERENCE, Back, Pass, Remembering
from .steps import Steps

MOST_COPIED = 1 << 18  # numbers: larger layers keep the arrays that they were given
ALIGNED = 16  # numbers: float32 of a cache line of 64 bytes, where each parameter begins


class Layer(Remembering, Weights):
    """A layer has a device, a dtype, and parameters and their gradients by name.

    Call a layer, then its `backward`: these check, convert, remember the pass, and hand on to
    `forward` and `back`, which do the work and remember nothing.
    """

    parameters: Parameters
    input_size: int | None = None
    output_size: int | None = None
    place = 0  # in its network
    draws: bool = False  # does training draw numbers: each pass has its own, by `passes`
    passes = 0
    recurrent: tuple = ()  # itself, the two of a bidirectional one, or none

    _given: dict[str, np.ndarray] | None = None  # parameters that are there: see `of`

    def __init__(
        self,
        device: str,
        dtype: npt.DTypeLike,
        shapes: dict[str, tuple[int, ...]],
        draw: Callable[[], dict[str, np.ndarray]],
        precision: str = "fp32",
    ):
        """shapes of the parameters by name; draw() gives initial values where none are given."""
        self.dtype = arguments.dtype_name(dtype)
        self.precision = arguments.choice("precision", precision, PRECISIONS)
        self._device = resolve(device, self.dtype, self.precision)
        given, self._given = self._given, None
        if given is None:
            self._hold(*side_by_side(self._device, draw(), self.dtype))
        else:
            self._hold(parameters.fitting(given, shapes, self.dtype))

    def __getstate__(self):
        """Parameters as NumPy's arrays, and the device by its name: on another machine it may be
        missing (DeviceError).
        """
        return super().__getstate__() | {"device": self.device, "parameters": self._own()}

    def __setstate__(self, state: dict):
        device, values = state.pop("device"), state.pop("parameters")
        self.__dict__ |= state
        self._device = resolve(device, self.dtype, self.precision)
        self._hold(*side_by_side(self._device, values, self.dtype))

    def _hold(self, values: dict[str, np.ndarray], whole=None):
        """Have these parameters, which are all of them parts of `whole` where there is one."""
        θ = {name: self._device.array(value, self.dtype) for name, value in values.items()}
        self.parameters = Parameters(θ)
        self.bits = tuple(
            a.reshape(-1).view(np.uint32) for a in (θ.values() if whole is None else (whole,))
        )

    @classmethod
    def of(cls, values: dict[str, np.ndarray], /, *sizes, **options):
        """The layer that sizes and options describe, on parameters that are there: none are drawn.

        Contiguous arrays of the device are not copied. Raises ArgumentError if names, shapes or
        dtypes are not the layer's.
        """
        layer = cls.__new__(cls)
        layer._given = values
        layer.__init__(*sizes, **options)
        return layer

    def on(self, values: dict[str, np.ndarray]) -> Self:
        """The same layer on other parameters, to go `forward` and `back`: contiguous arrays of the
        device, of its dtype, which are taken as they are.
        """
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__
        other.parameters, other.bits = Parameters(values), ()
        return other

    @property
    def device(self) -> str:
        """The name of the device that does the work: "cpu", "cuda" or "reference"."""
        return self._device.name

    def config(self) -> dict:
        """The arguments that build this layer again, but for device and dtype."""
        raise NotImplementedError

    def words(self) -> str:
        """The call that builds this layer again, without its parameters."""
        return outline.call(self, self.config() | {"device": self.device, "dtype": self.dtype})

    def __repr__(self):
        return f"{self.words()}: {outline.sizes(self.parameters)}"

    def copy(
        self,
        device: str | None = None,
        dtype: npt.DTypeLike | None = None,
        precision: str | None = None,
    ) -> Self:
        """The same layer with the same parameters, on another device, of another dtype or precision
        if asked.
        """
        options = self.config() | {"device": self.device, "dtype": self.dtype}
        changes = {"device": device, "dtype": dtype, "precision": precision}
        options |= {
            name: value for name, value in changes.items() if value is not None and name in options
        }
        number, as_dtype = self._device.numpy, arguments.dtype_name(options["dtype"])
        return type(self).of(
            {name: np.array(number(a), as_dtype) for name, a in self.parameters.items()}, **options
        )

    @property
    def parts(self) -> tuple["Layer", ...]:
        """The layers that have tapes of their own: itself, or the two directions."""
        return self.recurrent or (self,)

    def forward(
        self, x, s0: list, steps: Steps | None, pass_: Pass = INFERENCE
    ) -> tuple[Any, list, Any]:
        """One pass forward as a function: nothing is checked, nothing is remembered, and `backward`
        knows nothing of it; to use a layer, call it.  Returns (y, states, tape).

        x       (T, B, m), an array of the device, zero where no step happens; not written into
        s0      the states before the first step: for each layer of `recurrent` an array (S, B, n)
        steps   which steps happen (see Steps); None where the layer knows no time
        pass_   what all layers of this pass have in common: training or not, and what it draws
        y       (T, B, n); states: as s0, after the last step, views perhaps
        tape    what `back` needs
        """
        raise NotImplementedError

    def back(
        self,
        tape,
        dy,
        ds: list,
        taped: bool = False,
        clip: Clip = UNCLIPPED,
        later: Back | None = None,
    ) -> Back:
        """The way back of a `forward`, as a function: nothing is checked, nothing is remembered.

        tape    of that pass
        dy      dE/dy (T, B, n), an array of the device, zero where no step happens
        ds      dE/d(the states after the last step), as s0; overwritten
        taped   True also gives what BPTT computed at every step, a DeltaTape of each layer
        clip    bounds of δ of each step and sample
        later   the Back of the steps behind these, where a sequence is cut: its gradients are added
                to, and overwritten, and its ds is taken in place of `ds`
        """
        raise NotImplementedError


def side_by_side(device, arrays: dict, dtype) -> tuple[dict, Any]:
    """Arrays by name -> (the same as parts of one array of the device, that one), so that a
    fingerprint of all of them is one call; where they are large, (arrays, None).
    """
    sizes = [-(-a.size // ALIGNED) * ALIGNED for a in arrays.values()]
    if sum(sizes) > MOST_COPIED:
        return arrays, None
    whole = device.empty((sum(sizes) + ALIGNED,), dtype)
    whole[...] = 0
    # CuPy's begin a line
    at = -whole.ctypes.data % 64 // whole.itemsize if isinstance(whole, np.ndarray) else 0
    parts = {}
    for size, (name, a) in zip(sizes, arrays.items(), strict=True):
        parts[name] = whole[at : at + a.size].reshape(a.shape)
        parts[name][...] = device.array(a, dtype)
        at += size
    return parts, whole
