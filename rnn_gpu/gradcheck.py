"""gradcheck: is the gradient the slope of the loss? Central differences in float64, on settings
that can fail.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import arguments
from .errors import ArgumentError, GradientError
from .layers import Recurrent
from .layers.stateful import check_states
from .losses import alike
from .network import Network

STEP = 1e-5


class Check(NamedTuple):
    """What gradcheck found: the worst relative error of each array, and of all."""

    errors: dict[str, float]
    worst: float


def gradcheck(
    model: Network | Recurrent,
    x: ArrayLike,
    y: ArrayLike,
    *,
    state: Sequence[Any] | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: Sequence[Any] | None = None,
    tolerance: float = 1e-6,
    samples: int | None = 24,
    seed: int = 0,
    allow_blind: bool = False,
) -> Check:
    """Compare the gradients of every parameter, of x, of the initial state and of `reset_state`
    with central differences of the loss.

    model    a Network (its own loss), or a recurrent layer (the loss is ½Σ(y − output)² over all
             steps)
    x, y     (T, B, m) and targets (T, B, k); class labels (T, B) where the loss takes them
    state    of each recurrent layer, as a call takes it; None draws one from N(0, ½)
    lengths, mask, resets, reset_state  as a call of a network takes them, time-major
    samples  coordinates tried in each array, drawn by `seed`; None tries all
    The loss also has a random linear term in the final states, so that their gradient enters.

    Raises GradientError, with the worst coordinate, if a relative error passes `tolerance` (of 1 +
    the size of the slope). Raises ArgumentError for settings that cannot see a wrong recurrence: T
    < 3, a zero initial state, the identity as activation of a recurrent layer, a dtype other than
    float64; allow_blind=True lets the first three pass.
    """
    network = Network([model]) if isinstance(model, Recurrent) else model
    if isinstance(network, Network) and network.batch_first:  # x and y here are time-major
        network = Network(network.layers, loss=network.objective.loss, steps=network.steps)
    if not isinstance(network, Network) or not network.recurrent:
        raise ArgumentError(
            f"model is a {type(model).__name__}, expected a recurrent layer, or a Network that "
            "has one"
        )
    if network.dtype != "float64":
        raise ArgumentError(
            f"model is {network.dtype}, expected float64: check model.copy(dtype='float64')"
        )
    rng = np.random.default_rng(arguments.seed("seed", seed))
    tolerance = arguments.number("tolerance", tolerance, 0)
    allow_blind = arguments.flag("allow_blind", allow_blind)
    if samples is not None:
        arguments.size("samples", samples)
    x = np.array(
        arguments.floats(
            "x", x, "float64", (None, None, network.input_size), f"(T, B, m={network.input_size})"
        )
    )
    T, B, _ = x.shape
    state = draw_state(network, B, rng) if state is None else state
    states = [
        np.array(network.backend.numpy(s))
        for s in check_states(network.recurrent, "state", state, B)
    ]
    if not allow_blind:
        refuse_blind(network, T, states, lengths)
    y = arguments.samples("y", y)
    k = network.output_size
    targets = [network.objective.target(f"y[{t}]", y[t], B, k, "float64") for t in range(len(y))]
    target = np.stack(alike(targets, k, "float64"))
    if len(target) != T:
        raise ArgumentError(f"y has {len(target)} time steps, expected {T}")
    ends = arguments.check_lengths(lengths, T, B)
    ends = np.full(B, T) if ends is None else ends
    weight = np.zeros((T, B))
    for b, length in enumerate(ends):
        weight[0 if network.steps == "every" else length - 1 : length, b] = 1
    weight *= arguments.booleans("mask", mask, (T, B), "T, B", otherwise=True)
    d = network.backend
    target, weight = d.array(target, target.dtype), d.array(weight, "float64")
    pull = [rng.normal(size=s.shape) for s in states]
    given = {
        i: np.array(one if isinstance(one, (tuple, list)) else (one,), "float64")
        for i, one in enumerate(() if reset_state is None else reset_state)
        if one is not None
    }

    def value_and_slope() -> tuple[float, Any]:
        called = [in_parts(s) for s in states]
        options: dict[str, Any] = {"mask": mask, "resets": resets}
        if reset_state is not None:
            all_given = [in_parts(given[i]) if i in given else None for i in range(len(states))]
            options["reset_state"] = all_given
        o, last = network(d.array(x, "float64"), called, lengths=ends, **options)
        E, do = network.objective(d, d.array(o, "float64"), target, weight)
        last = [together(d, s) for s in last]
        E += sum(float((a * b).sum()) for a, b in zip(pull, last, strict=True))
        return E, do

    def loss() -> float:
        return value_and_slope()[0]

    _, do = value_and_slope()
    dx, dstates = network.backward(do, [in_parts(a) for a in pull])
    claimed = {
        name: (network.parameters[name], d.numpy(g)) for name, g in network.grads.items()
    } | {"x": (x, d.numpy(dx))}
    for i, (s, ds) in enumerate(zip(states, dstates, strict=True)):
        claimed[f"state[{i}]"] = s, together(d, ds)
    for i, one in given.items():
        claimed[f"reset_state[{i}]"] = one, together(d, network.dreset_state[i])

    errors = {}
    for name, (array, gradient) in claimed.items():
        places = np.stack(np.unravel_index(np.arange(array.size), array.shape), -1)
        if samples is not None and len(places) > samples:
            places = rng.choice(places, samples, replace=False)
        for place in map(tuple, places):
            error, slope = difference(loss, array, place, gradient[place])
            if not error <= tolerance:
                at = tuple(map(int, place))
                raise GradientError(
                    f"the gradient of {name} is {gradient[place]:.9g} at {at}, but the slope of "
                    f"the loss is {slope:.9g}"
                )
            errors[name] = max(errors.get(name, 0.0), error)
    return Check(errors, max(errors.values()))


def in_parts(s):
    """The states of a layer (S, …) as users have them."""
    return tuple(s) if len(s) > 1 else s[0]


def together(device, s) -> np.ndarray:
    """What users have of a layer's states, as one array (S, …)."""
    return np.stack([device.numpy(part) for part in (s if isinstance(s, tuple) else (s,))])


def difference(loss, array, place, claimed) -> tuple[float, float]:
    """(relative error of the claimed gradient, slope of the loss) at one coordinate; the array is
    put back.
    """
    was = float(array[place])
    array[place] = was + STEP
    right = loss()
    array[place] = was - STEP
    left = loss()
    array[place] = was
    slope = (right - left) / (2 * STEP)
    return abs(float(claimed) - slope) / (1 + abs(slope)), slope


def draw_state(network, B, rng):
    """A state of each recurrent layer from N(0, ½), as users have them."""
    states = []
    for layer in network.recurrent:
        parts = [
            rng.normal(scale=0.5, size=(B, layer.hidden_size)) for _ in range(layer.cell.states)
        ]
        states.append(tuple(parts) if len(parts) > 1 else parts[0])
    return states


def refuse_blind(network, T, states, lengths):
    """Raise ArgumentError for settings with which a wrong gradient could pass."""
    if T < 3:
        raise ArgumentError(
            f"x has T = {T} time steps: a wrong recurrence shows from T = 3 on (allow_blind=True "
            "checks all the same)"
        )
    if lengths is not None and np.max(lengths) < 3:
        raise ArgumentError(
            f"lengths are at most {np.max(lengths)}: a wrong recurrence shows from 3 steps on (or "
            "allow_blind=True)"
        )
    for i, (layer, s) in enumerate(zip(network.recurrent, states, strict=True)):
        if not s.any(axis=(1, 2)).all():
            raise ArgumentError(
                f"state[{i}] is zero: what a gradient of W misses in the first step cannot show "
                "(or allow_blind=True)"
            )
        if layer.cell.name == "elman_identity":
            raise ArgumentError(
                f"recurrent layer {i} has the identity as activation: a missing f'(net) cannot "
                "show (or allow_blind=True)"
            )
