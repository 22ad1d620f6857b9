"""What every layer is: parameters and gradients by name, on a device; and passes, forward and back, as values."""

from collections.abc import Mapping
from threading import get_ident
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from .. import arguments, parameters
from ..device import PRECISIONS, resolve
from ..errors import OrderError
from ..kernels import UNCLIPPED
from ..weights import Weights

FEW = 1 << 18  # numbers that are worth another copy
LINE = 16  # numbers: every parameter begins a line of the cache, or where a vector would


class Pass(NamedTuple):
    """What all layers, and all segments, of one way forward have in common."""

    training: bool = False
    numbers: Mapping["Layer", int] = MappingProxyType({})  # of this pass, for each layer that draws


INFERENCE = Pass()


class Back(NamedTuple):
    """What the way back through a layer gives; of a network and of a layer with two directions, also that of each part."""

    dx: Any  # dE/dx (T, B, m)
    ds: list  # dE/d(initial state), (S, B, n) for each layer of `recurrent`
    grads: dict  # dE/dθ by name
    delta: Any = None  # dE/dnet: (T, B, G, n) of a recurrent layer, (T, B, n) of a Dense one
    tape: Any = None  # a DeltaTape, where it was asked for
    clipped_steps: int = 0  # how often δ of a step and sample was beyond its bounds
    wide_ds: Any = None  # ds of the cell that ran, where noise made it another than the layer's own
    parts: tuple["Back", ...] = ()


class Last(NamedTuple):
    """The last pass of a layer or network, whole: never written into, only replaced, so that no thread sees half of one."""

    like: Any  # x as it came
    steps: Any  # its Steps; None without time
    tape: Any  # what the way back needs; None where there is none for it alone
    weights: tuple = ()  # the fingerprint of the parameters that it went forward with; () where nobody asks
    way: Any = None  # what goes back where it is not the layer or network itself: Segments
    back: Back | None = None
    thread: int = 0  # that went forward

    def returned(self, back: "Back") -> "Last":
        return Last(self.like, self.steps, self.tape, self.weights, self.way, back, self.thread)

    def parts(self, count: int) -> list["Last"]:
        """The same pass as each of `count` layers that took part has seen it; of segments none has all."""
        none = (None,) * count
        tapes = none if self.tape is None or self.way else self.tape
        backs = self.back.parts if self.back else none
        return [Last(input_of(tape), self.steps, tape, back=back, thread=self.thread) for tape, back in zip(tapes, backs, strict=True)]


def input_of(tape):
    """x, as the layer had it that left this tape; None of no tape."""
    return getattr(tape, "x", None) if tape is None or hasattr(tape, "x") else input_of(tape[0])


class Remembering:
    """What keeps its last pass, for `backward` and for whoever looks at what that gave.

    A pass belongs to the thread that made it: several may go forward, but `backward` is for the last of them alone.
    """

    _device: Any
    _words: tuple  # all parameters, as arrays (·,) of uint32
    _last: Last | None = None
    _threads: frozenset[int] = frozenset()  # that went forward

    def __getstate__(self) -> dict:
        """For copies and other processes: without what the last pass remembers, which stays with its thread."""
        here = ("_device", "_words", "_last", "_threads", "_trainer")
        return {name: value for name, value in self.__dict__.items() if name not in here}

    def _fingerprint(self) -> tuple:
        return tuple(map(self._device.fingerprint, self._words))

    def _keep(self, last: Last | None):
        """Remember a pass, or none; what is made of layers has each of them remember its part."""
        if last is not None and last.thread not in self._threads:
            self._threads |= {last.thread}
        self._last = last

    def _recall(self) -> Last:
        """The last pass, for its way back.  Raises OrderError if there is none, or not of this thread, or not of these weights."""
        last, name = self._last, type(self).__name__
        if last is None or last.tape is None:
            raise OrderError(f"{name}: backward before forward; call it on x first")
        if last.thread != get_ident():
            raise OrderError(f"{name}: another thread has called it since; give each thread a copy() of its own")
        if last.weights and self._fingerprint() != last.weights:
            raise OrderError(f"{name}: its parameters were written since it was called; call it on x again, then backward")
        return last

    def _found(self, what: str) -> Back | None:
        """What the last way back gave; None if there was none since the way forward."""
        last = self._last
        if last is not None and last.thread != get_ident() and get_ident() in self._threads:
            raise OrderError(f"{what} is of another thread, which has called this {type(self).__name__} since: give each a copy()")
        return last and last.back

    @property
    def grads(self) -> Mapping[str, Any]:
        """dE/dθ by the parameter's name, from the last backward; empty before."""
        back = self._found("grads")
        return {} if back is None else back.grads

    @property
    def clipped_steps(self) -> int:
        """How often, in the last backward, δ of a step and sample was beyond its bounds."""
        back = self._found("clipped_steps")
        return 0 if back is None else back.clipped_steps


class Layer(Remembering, Weights):
    """A layer has a device, a dtype, and parameters and their gradients by name.

    Users call a layer and its `backward`; these check, convert, remember, and hand on to `_forward` and `_back`, which take and
    return arrays of the device, time-major, and change nothing:

    _forward(x (T, B, m), s0, steps, pass_) -> (y (T, B, n), s after the last step, tape: what the way back needs)
    _back(tape, dy (T, B, n), ds, taped, clip, later) -> Back

    `later` is the Back of the steps behind these: its gradients are added to, and overwritten, and ds is not looked at.
    States are lists, one array (S, B, n) for each layer of `recurrent`.
    """

    input_size: int | None = None
    output_size: int | None = None
    place = 0  # in its network
    draws = False  # does training draw numbers: each pass forward has its own, by `passes`
    passes = 0
    recurrent: tuple = ()  # itself, the two of a bidirectional one, or none

    def __init__(self, device: str, dtype, values: dict[str, np.ndarray], precision: str = "fp32"):
        self.dtype = arguments.dtype_name(dtype)
        self.precision = arguments.choice("precision", precision, PRECISIONS)
        self._device = resolve(device, self.dtype, self.precision)
        self._hold(values)

    def __getstate__(self):
        """Parameters as NumPy's arrays, and the device by its name: on another machine it may be missing (DeviceError)."""
        return super().__getstate__() | {"device": self.device, "parameters": self._own()}

    def __setstate__(self, state: dict):
        device, values = state.pop("device"), state.pop("parameters")
        self.__dict__ |= state
        self._device = resolve(device, self.dtype, self.precision)
        self._hold(values)

    def _hold(self, values: dict[str, np.ndarray]):
        θ = {name: self._device.array(value, self.dtype) for name, value in values.items()}
        if 0 < sum(a.size for a in θ.values()) < FEW:
            whole, θ = side_by_side(self._device, θ, self.dtype)
            self._words = (whole.view(np.uint32),)
        else:
            self._words = tuple(a.reshape(-1).view(np.uint32) for a in θ.values())
        self.parameters = parameters.Parameters(θ)

    @property
    def device(self) -> str:
        """The name of the device that does the work: "cpu", "cuda" or "reference"."""
        return self._device.name

    def config(self) -> dict:
        """The arguments that build this layer again, but for device and dtype."""
        raise NotImplementedError

    def copy(self, device: str | None = None, dtype=None, precision: str | None = None):
        """The same layer with the same parameters, on another device, of another dtype or precision if asked."""
        options = self.config() | {"device": self.device, "dtype": self.dtype}
        changes = {"device": device, "dtype": dtype, "precision": precision}
        options |= {name: value for name, value in changes.items() if value is not None and name in options}
        other = type(self)(**options)
        for name, value in self.parameters.items():
            other.parameters[name] = other._device.array(self._device.numpy(value), other.dtype)
        return other

    @property
    def _parts(self) -> tuple["Layer", ...]:
        """The layers that have tapes of their own: itself, or the two directions."""
        return self.recurrent or (self,)

    def _forward(self, x, s0, steps, pass_=INFERENCE):
        raise NotImplementedError

    def _back(self, tape, dy, ds, taped=False, clip=UNCLIPPED, later: Back | None = None) -> Back:
        raise NotImplementedError

    def _to_kind_of(self, x, a, ours=True):
        """a as the kind of array that x is; copied if it stays ours."""
        if type(x) is type(a):
            return self._device.copy(a) if ours else a
        own = a if arguments.on_gpu(x) else self._device.numpy(a)
        return arguments.as_kind_of(x, self._device.copy(a) if ours and own is a else own)


def side_by_side(device, arrays: dict, dtype) -> tuple[Any, dict]:
    """(an array (·,) of the device, the same arrays as parts of it): what is asked of all of them is then one call."""
    sizes = [-(-a.size // LINE) * LINE for a in arrays.values()]
    whole = device.empty((sum(sizes) + LINE,), dtype)
    whole[...] = 0
    at = -whole.ctypes.data % 64 // whole.itemsize if isinstance(whole, np.ndarray) else 0  # CuPy's begin a line
    parts = {}
    for size, (name, a) in zip(sizes, arrays.items(), strict=True):
        parts[name] = whole[at : at + a.size].reshape(a.shape)
        parts[name][...] = a
        at += size
    return whole, parts


def next_pass(layers, training: bool) -> Pass:
    """A way forward through these layers; in training each that draws counts it."""
    if not training:
        return INFERENCE
    numbers = {}
    for layer in (part for one in layers for part in one._parts if part.draws):
        numbers[layer] = layer.passes
        layer.passes += 1
    return Pass(True, numbers)
