"""States that samples of fit, evaluate and predict go on from where they begin anew."""

import numpy as np

from .. import arguments
from ..errors import ArgumentError, ShapeError
from ..layers.given import Given, need_resets
from ..layers.stateful import each_that_has


def rows_of(samples, name: str, reset_state) -> tuple[tuple[int, ...], list | None]:
    """reset_state of Samples at the door -> (the numbers of recurrent layers that have one, of each
    sample an array (T_i, K): all their states, one beside the other, zero where no sample begins
    anew); K is Σ S·n.  Raises ArgumentError at NaN and infinity where one does.
    """
    network, x, starts = samples.network, samples.x, samples.starts
    if not network.recurrent:
        raise ArgumentError(
            f"{name} is given, but this network has no recurrent layer: its x is rows, without time"
        )
    need_resets(starts, "N times (T,) booleans")
    layers, rows = [], [[] for _ in x]
    for own, layer, state in each_that_has(network.recurrent, name, reset_state):
        layers.append(network.recurrent.index(layer))
        n, expected = layer.hidden_size, "of N samples, (T, n) each"
        for label, part in layer.parts_of_state(own, state, expected):
            values = arguments.samples(label, part)
            if len(values) != len(x):
                raise ShapeError(f"{label} has {len(values)} samples, expected {len(x)}, as x")
            for i, value in enumerate(values):
                at, shape = f"{label}[{i}]", (len(x[i]), n)
                a = arguments.floats(at, value, network.dtype, shape, f"(T, n={n})")
                a = a.get() if arguments.on_gpu(a) else a
                a = np.where(starts[i][:, None], a, a.dtype.type(0))
                arguments.finite(at, a)
                rows[i].append(a)
    return tuple(layers), [np.concatenate(each, 1) for each in rows] if layers else None


def beside(samples, chosen, starts) -> dict:
    """What the samples of these numbers go on from, side by side: a Given by its layer.

    starts (T, B), NumPy's: where they begin anew, the first step too
    """
    network, d = samples.network, samples.network.backend
    (T, B), at, given = starts.shape, 0, {}
    rows = np.zeros((T, B, samples.given[0].shape[1]), network.dtype)
    for b, i in enumerate(chosen):
        rows[: len(samples.given[i]), b] = samples.given[i]
    first = d.array(starts[0][:, None], bool) if starts[0].any() else None
    for layer in (network.recurrent[k] for k in samples.given_layers):
        S, n = layer.cell.states, layer.hidden_size
        own = rows[:, :, at : at + S * n].reshape(T, B, S, n)
        states = np.ascontiguousarray(np.moveaxis(own, 2, 0))
        given[layer] = Given(d.array(states, network.dtype), first)
        at += S * n
    return given
