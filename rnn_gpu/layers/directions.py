"""Layers side by side, in both directions of time, and one above the other."""

import numpy as np

from .. import arguments, parameters
from ..errors import ArgumentError
from ..kernels import UNCLIPPED
from .base import Layer
from .recurrent import Recurrent
from .stateful import Stateful
from .stateless import Dropout


class Bidirectional(Stateful):
    """Two recurrent layers on the same x, one of them in reverse; y is both outputs side by side, (T, B, n + n).

    forward  of any kind
    reverse  the other, made with reverse=True; None makes one like `forward`, with the next seed
    The state is a list of two, that of each. Parameters and gradients of the other have names that end in _reverse.
    """

    def __init__(self, forward: Recurrent, reverse: Recurrent | None = None):
        if not isinstance(forward, Recurrent) or forward.reverse:
            raise ArgumentError(f"forward is {forward!r}, expected a recurrent layer with reverse=False")
        if reverse is None:
            changed = forward.config() | {"seed": forward.seed + 1, "reverse": True}
            reverse = type(forward)(**changed, device=forward.device, dtype=forward.dtype)
        if not isinstance(reverse, Recurrent) or not reverse.reverse:
            raise ArgumentError(f"reverse is {reverse!r}, expected a recurrent layer with reverse=True")
        for what in ("input_size", "batch_first", "device", "dtype", "precision"):
            if getattr(forward, what) != getattr(reverse, what):
                raise ArgumentError(f"reverse has {what}={getattr(reverse, what)!r}, but forward has {getattr(forward, what)!r}")
        self.recurrent = forward, reverse
        self.batch_first, self.dtype, self.precision = forward.batch_first, forward.dtype, forward.precision
        self._device = forward._device
        self.input_size, self.output_size = forward.input_size, forward.output_size + reverse.output_size
        self.parameters = parameters.Parameters(self._both("parameters"))

    def config(self):
        return dict(zip(("forward", "reverse"), self.recurrent, strict=True))

    def copy(self, device=None, dtype=None, precision=None):
        return Bidirectional(*(layer.copy(device, dtype, precision) for layer in self.recurrent))

    def explain(self, T, B):
        return "\n".join(layer.explain(T, B) for layer in self.recurrent)

    @property
    def grads(self):
        return self._both("grads")

    @property
    def tape(self):
        return [layer.tape for layer in self.recurrent]

    @property
    def clipped_steps(self) -> int:
        return sum(layer.clipped_steps for layer in self.recurrent)

    @property
    def _tape(self):
        return self.recurrent[0]._tape

    def _as_torch(self, θ):
        parts = [layer._as_torch(own) for layer, own in zip(self.recurrent, self._apart(θ), strict=True)]
        return parts[0] | {f"{name}_reverse": a for name, a in parts[1].items()}

    def _of_torch(self, state_dict):
        return self._joined(layer._of_torch(own) for layer, own in zip(self.recurrent, self._apart(state_dict), strict=True))

    def _as_keras(self, θ):
        forward, reverse = (layer._as_keras(own) for layer, own in zip(self.recurrent, self._apart(θ), strict=True))
        return forward + [(f"{what} of the reverse direction", a) for what, a in reverse]

    def _of_keras(self, weights):
        return self._joined([layer._of_keras(weights) for layer in self.recurrent])

    def _apart(self, named):
        """The names of each direction, without _reverse."""
        reverse = {name.removesuffix("_reverse"): a for name, a in named.items() if name.endswith("_reverse")}
        return {name: a for name, a in named.items() if not name.endswith("_reverse")}, reverse

    def _joined(self, parts):
        forward, reverse = parts
        return {**forward} | {f"{name}_reverse": a for name, a in reverse.items()}

    def _both(self, what):
        return self._joined(getattr(layer, what) for layer in self.recurrent)

    def _forward(self, x, s0, steps, keep=True, training=False):
        (y, s), (y_reverse, s_reverse) = (
            layer._forward(x, [s], steps, keep, training) for layer, s in zip(self.recurrent, s0, strict=True)
        )
        if keep:
            self._like, self._steps = x, steps
        return np.concatenate([y, y_reverse], 2), s + s_reverse

    def _backward(self, dy, ds, taped=False, clip=UNCLIPPED, more=False):
        n, whole = self.recurrent[0].output_size, self._device.array
        parts = whole(dy[:, :, :n], self.dtype), whole(dy[:, :, n:], self.dtype)
        each = zip(self.recurrent, parts, ds, strict=True)
        (dx, s), (dx_reverse, s_reverse) = (layer._backward(part, [d], taped, clip, more) for layer, part, d in each)
        return dx + dx_reverse, s + s_reverse


def stack(
    kind, input_size, hidden_size, num_layers=1, bidirectional=False, dropout=0.0, device="auto", dtype="float32", seed=0, **options
) -> list[Layer]:
    """num_layers recurrent layers one above the other, for `Network([*stack(…), …])`; Dropout between them where dropout > 0.

    kind     RNN, LSTM, GRU, or what else makes a recurrent layer of (input_size, hidden_size, …); options are its own
    seed     of the first layer; each one, and each Dropout, has another
    """
    layers, common = [], {"device": device, "dtype": dtype}
    for k in range(arguments.size("num_layers", num_layers)):
        if k and arguments.number("dropout", dropout, 0, 1, open_high=True):
            layers.append(Dropout(dropout, seed=seed + 2 * k, **common))
        layer = kind(input_size, hidden_size, seed=seed + 2 * k, **common, **options)
        layers.append(Bidirectional(layer) if bidirectional else layer)
        input_size = layers[-1].output_size
    return layers
