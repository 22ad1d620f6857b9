"""Layers side by side, in both directions of time, and one above the other."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .. import arguments, parameters
from ..errors import ArgumentError
from ..kernels import UNCLIPPED
from .base import Layer
from .passes import INFERENCE, Back, clipped_in_all, given_in_all
from .recurrent import Recurrent
from .stateful import Stateful
from .stateless import Dropout


class Bidirectional(Stateful):
    """Two recurrent layers on the same x, one of them in reverse; y is both outputs side by side,
    (T, B, n + n).

    forward  of any kind
    reverse  the other, made with reverse=True; None makes one like `forward`, with the next seed
    The state is a list of two, that of each. Parameters and gradients of the other have names that
    end in _reverse.
    """

    def __init__(self, forward: Recurrent, reverse: Recurrent | None = None):
        if not isinstance(forward, Recurrent) or forward.reverse:
            raise ArgumentError(
                f"forward is {forward!r}, expected a recurrent layer with reverse=False"
            )
        if reverse is None:
            changed = forward.config() | {"seed": forward.seed + 1, "reverse": True}
            reverse = type(forward)(**changed, device=forward.device, dtype=forward.dtype)
        if not isinstance(reverse, Recurrent) or not reverse.reverse:
            raise ArgumentError(
                f"reverse is {reverse!r}, expected a recurrent layer with reverse=True"
            )
        for what in ("input_size", "batch_first", "device", "dtype", "precision"):
            if getattr(forward, what) != getattr(reverse, what):
                raise ArgumentError(
                    f"reverse has {what}={getattr(reverse, what)!r}, but forward has "
                    f"{getattr(forward, what)!r}"
                )
        self.recurrent = forward, reverse
        self.batch_first, self.dtype = forward.batch_first, forward.dtype
        self.precision = forward.precision
        self._device = forward._device
        self.input_size = forward.input_size
        self.output_size = forward.output_size + reverse.output_size
        self._hold({})

    def __getstate__(self):
        return super().__getstate__() | {"parameters": {}}  # its layers have them

    def _hold(self, values, whole=None):
        """The arrays of its two layers, whatever the values."""
        self.parameters = parameters.Parameters(
            self._joined(layer.parameters for layer in self.recurrent)
        )
        self.bits = sum((layer.bits for layer in self.recurrent), ())

    def config(self):
        return dict(zip(("forward", "reverse"), self.recurrent, strict=True))

    def words(self):
        return f"Bidirectional({', '.join(layer.words() for layer in self.recurrent)})"

    def copy(self, device=None, dtype=None, precision=None):
        return Bidirectional(*(layer.copy(device, dtype, precision) for layer in self.recurrent))

    def explain(self, T, B, parallel=False):
        """What both layers say of themselves: see Recurrent.explain."""
        return "\n".join(layer.explain(T, B, parallel) for layer in self.recurrent)

    @property
    def tape(self):
        """The DeltaTape of each direction, from the last backward with tape=True."""
        return [layer.tape for layer in self.recurrent]

    @property
    def parallel_report(self):
        """The ParallelReport of each direction, of the last call."""
        return [layer.parallel_report for layer in self.recurrent]

    def as_torch(self, θ):
        parts = [
            layer.as_torch(own) for layer, own in zip(self.recurrent, self.apart(θ), strict=True)
        ]
        return parts[0] | {f"{name}_reverse": a for name, a in parts[1].items()}

    def of_torch(self, state_dict):
        return self._joined(
            layer.of_torch(own)
            for layer, own in zip(self.recurrent, self.apart(state_dict), strict=True)
        )

    def as_keras(self, θ):
        forward, reverse = (
            layer.as_keras(own) for layer, own in zip(self.recurrent, self.apart(θ), strict=True)
        )
        return forward + [(f"{what} of the reverse direction", a) for what, a in reverse]

    def of_keras(self, weights):
        return self._joined([layer.of_keras(weights) for layer in self.recurrent])

    @staticmethod
    def apart(named):
        """The names of each direction, without _reverse."""
        reverse = {
            name.removesuffix("_reverse"): a
            for name, a in named.items()
            if name.endswith("_reverse")
        }
        return {name: a for name, a in named.items() if not name.endswith("_reverse")}, reverse

    def _joined(self, parts):
        forward, reverse = parts
        return {**forward} | {f"{name}_reverse": a for name, a in reverse.items()}

    def remember(self, last):
        super().remember(last)
        for layer, part in zip(
            self.recurrent, last.parts(2) if last else (None, None), strict=True
        ):
            layer.remember(part)

    def forward(self, x, s0, steps, pass_=INFERENCE):
        forward, reverse = (
            layer.forward(x, [s], steps, pass_) for layer, s in zip(self.recurrent, s0, strict=True)
        )
        outputs, states, tapes = zip(forward, reverse, strict=True)
        return np.concatenate(outputs, 2), [s for own in states for s in own], tapes

    def back(self, tape, dy, ds, taped=False, clip=UNCLIPPED, later=None):
        n, whole = self.recurrent[0].output_size, self._device.array
        halves = whole(dy[:, :, :n], self.dtype), whole(dy[:, :, n:], self.dtype)
        each = zip(
            self.recurrent, tape, halves, ds, later.parts if later else (None, None), strict=True
        )
        backs = tuple(
            layer.back(own, half, [d], taped, clip, behind) for layer, own, half, d, behind in each
        )
        grads = self._joined(back.grads for back in backs)
        dx, dx_reverse = (back.dx for back in backs)
        clipped = clipped_in_all(backs)
        parts = tuple(back._replace(dx=None) for back in backs)
        return Back(
            dx + dx_reverse,
            [d for back in backs for d in back.ds],
            grads,
            clipped_steps=clipped,
            parts=parts,
            dgiven=given_in_all(backs),
        )


def stack(
    kind: Callable[..., Recurrent],
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    device: str = "auto",
    dtype: npt.DTypeLike = "float32",
    seed: int = 0,
    **options,
) -> list[Layer]:
    """num_layers recurrent layers one above the other, for `Network([*stack(…), …])`; Dropout
    between them where dropout > 0.

    kind     RNN, LSTM, GRU, or what else makes a recurrent layer of (input_size, hidden_size, …);
             options are its own
    seed     of the first layer; each one, and each Dropout, has another
    """
    if not callable(kind):
        raise ArgumentError(
            f"kind is {kind!r}, expected RNN, LSTM, GRU, or what else makes a layer"
        )
    rate = arguments.number("dropout", dropout, 0, 1, open_high=True)
    seed, both = arguments.seed("seed", seed), arguments.flag("bidirectional", bidirectional)
    layers: list[Layer] = []
    for k in range(arguments.size("num_layers", num_layers)):
        own = seed + 2 * k
        if k and rate:
            layers.append(Dropout(rate, seed=own, device=device, dtype=dtype))
        layer = kind(input_size, hidden_size, seed=own, device=device, dtype=dtype, **options)
        layers.append(Bidirectional(layer) if both else layer)
        input_size = 2 * layer.hidden_size if both else layer.hidden_size
    return layers
