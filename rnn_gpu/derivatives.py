"""Formulas a user brings are compared with their numerical slope before they enter a kernel."""

import re
from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np

from . import arguments
from .errors import ArgumentError, DerivativeError
from .kernels import Activation, Cell, Operator, binding
from .kernels.activations import ACTIVATIONS
from .kernels.losses import LOSSES, Loss, huber, of_outputs
from .kernels.once import once_as_it_reads
from .kernels.whole_arrays import formula

STEP = 1e-6  # of the central differences, in float64
TOLERANCE = 1e-5  # of the derivative, relative to 1 + its size


ActivationLike = str | Activation | tuple[Callable, Callable]


def activation(
    f: ActivationLike | Callable,
    df: Callable | None = None,
    name: str | None = None,
) -> Activation:
    """An Activation from the name of a built-in one, an Activation, a pair (f, df), or f and df.

    f takes a number z to y; df takes y, the *output*, to f'(z). Both are plain Python with NumPy's
    or math's functions; they are compiled into the fused kernels of every device.

    What they refer to (globals, closures, constants of modules) is compiled in. It is looked at
    whenever a layer is built, or this is called: where it has changed since, all kernels are made
    anew. A layer that is there does not see a change before that; and of objects whose contents
    cannot be told, an array say, none is seen: write new functions then. The kernels of a new pair
    keep some 20 MB (5 where they are found on disk) as long as the process lives, of which
    `rnn_gpu.release(kernels=True)` gives about half back.
    Raises DerivativeError, with the worst point, where df(f(z)) is not the slope of f on −6 … 6.
    """
    if df is None and isinstance(f, str):
        if f not in ACTIVATIONS:
            raise ArgumentError(
                f"activation is {f!r}, expected one of {', '.join(ACTIVATIONS)}, or a pair (f, df)"
            )
        return ACTIVATIONS[f]
    if df is None and isinstance(f, Activation):
        made = f
    elif df is None and is_pair(f):
        value, slope = f
        made = Activation(name or value.__name__, value, slope)
    elif callable(f) and callable(df):
        made = Activation(name or f.__name__, f, df)
    else:
        raise ArgumentError(
            f"activation is {f!r}, expected a name, an Activation or a pair (f, df) with df from "
            "the output y"
        )
    check_activation(made)
    return made


LossLike = str | Loss | tuple[Callable, Callable]


def loss(
    f: LossLike | Callable,
    df: Callable | None = None,
    name: str | None = None,
) -> Loss:
    """A Loss, for `Network(layers, loss=…)`, from the name of a built-in one, a Loss, a pair
    (f, df), or f and df.

    f   takes an output o and its target t, numbers, to the loss of this output; df takes both to
        its slope df/do. Plain Python with NumPy's or math's functions, which are compiled into the
        kernels of every device, with what they refer to: see `activation`
    "huber(0.5)" is Huber's loss of this δ; "huber" that of 1.
    Raises DerivativeError, with the worst point, where df is not the slope of f for outputs on
    −6 … 6 and some targets.
    """
    if df is None and isinstance(f, str):
        return known_loss(f)
    if df is None and isinstance(f, Loss):
        if f.name in LOSSES and f == LOSSES[f.name]:
            return f
        made = f
    elif df is None and is_pair(f):
        value, slope = f
        made = of_outputs(name or value.__name__, value, slope)
    elif callable(f) and callable(df):
        made = of_outputs(name or f.__name__, f, df)
    else:
        raise ArgumentError(
            f"loss is {f!r}, expected one of {', '.join(map(repr, LOSSES))}, a Loss or a pair "
            "(f, df)"
        )
    check_loss(made)
    return made


def known_loss(name: str) -> Loss:
    """The built-in loss of a name, or Huber's of the δ in it."""
    if name in LOSSES:
        return LOSSES[name]
    if found := re.fullmatch(r"huber\((-?\d+\.?\d*(?:e[+-]?\d+)?|nan|inf)\)", name):
        return huber(arguments.bound("δ of huber", float(found[1])))
    raise ArgumentError(
        f"loss is {name!r}, expected one of {', '.join(map(repr, LOSSES))}, 'huber(δ)' with a "
        "number, or a pair (f, df)"
    )


def is_pair(f: object) -> TypeGuard[tuple[Callable, Callable]]:
    """Is it two functions in a tuple."""
    return isinstance(f, tuple) and len(f) == 2 and all(map(callable, f))


def cell(
    name: str,
    *,
    gates: int,
    states: int,
    kept: int,
    step: Callable,
    back: Callable,
    apart: bool = False,
    initial_bias: tuple[float, ...] = (),
    initial_recurrent: str = "orthogonal",
    keras: tuple[int, ...] | None = None,
    onnx: Operator | None = None,
) -> Cell:
    """A recurrent cell of your own, for `Recurrent(cell, …)`.

    step  (p, q, s)             -> (s_next, kept)   tuples of G, G, S numbers -> tuples of S, K
          numbers
    back  (ds, kept, s, s_next) -> (dp, dq, ds)     tuples of S, K, S, S -> G, G, S; ds without what
          passes through W
    apart says that dp and dq differ (p and q enter apart); the layer then has a recurrent bias c
    too. initial_bias=(…G numbers…) and initial_recurrent="orthogonal" | "identity" say how a layer
    starts; keras and onnx what the same cell is elsewhere: see rnn_gpu.kernels.Cell. What step and
    back refer to is compiled in, and kernels keep memory: see `activation`. Raises DerivativeError
    where `back` is not the slope of `step`.
    """
    apart = arguments.flag("apart", apart)
    made = Cell(
        name,
        gates,
        states,
        kept,
        step,
        back,
        apart,
        initial_bias,
        initial_recurrent,
        keras=keras,
        onnx=onnx,
    )
    check_cell(made)
    return made


@once_as_it_reads
def check_activation(activation: Activation):
    """Raise DerivativeError unless df(f(z)) is the slope of f; kinks, where the two one-sided
    slopes differ, are passed over.
    """
    refuse_unknown(f"activation {activation.name!r}", activation.f, activation.df)
    f, df = formula(activation.f), formula(activation.df)
    z = np.linspace(-6, 6, 241) + 1e-3 * np.sqrt(2)
    y = np.asarray(f(z), float)
    left, right = (y - f(z - STEP)) / STEP, (f(z + STEP) - y) / STEP
    slope, claimed = 0.5 * (left + right), np.broadcast_to(df(y), y.shape)
    error = np.abs(claimed - slope) / (1 + np.abs(slope))
    error[np.abs(left - right) > 1e-2 * (1 + np.abs(slope))] = 0
    report(
        f"activation {activation.name!r}",
        "f'(z)",
        error,
        lambda i: (f"z = {z[i]:.6g} (y = {y[i]:.6g})", claimed[i], slope[i]),
    )


@once_as_it_reads
def check_loss(loss: Loss):
    """Raise DerivativeError unless `slope` is the slope of `value`; kinks are passed over, and
    targets for which the loss is no number.
    """
    who = f"loss {loss.name!r}"
    refuse_unknown(who, loss.value, loss.slope)
    f, df = formula(loss.value), formula(loss.slope)
    line = np.linspace(-6, 6, 241) + 1e-3 * np.sqrt(2)
    o, t = (a.ravel() for a in np.meshgrid(line, [0.0, 1.0, 0.3, 2.5, -1.7], indexing="ij"))
    log_sum = o + 1.0  # any number
    y = np.broadcast_to(np.asarray(f(o, t, log_sum), float), o.shape)
    left = (y - f(o - STEP, t, log_sum)) / STEP
    right = (f(o + STEP, t, log_sum) - y) / STEP
    slope, claimed = 0.5 * (left + right), np.broadcast_to(df(o, t, log_sum), y.shape)
    if not np.isfinite(y).any():
        raise ArgumentError(f"{who} is no number for outputs on −6 … 6 and targets 0 and 1")
    error = np.abs(claimed - slope) / (1 + np.abs(slope))
    error[np.abs(left - right) > 1e-2 * (1 + np.abs(slope))] = 0
    error[~np.isfinite(slope)] = 0
    report(who, "df/do", error, lambda i: (f"o = {o[i]:.6g}, t = {t[i]:.6g}", claimed[i], slope[i]))


@once_as_it_reads
def check_cell(cell: Cell):
    """Raise DerivativeError unless `back` is the slope of `step` with respect to every p, q and s,
    at 64 random points.
    """
    if cell.drawn or cell.output:
        raise ArgumentError(
            f"cell {cell.name!r} has drawn={cell.drawn} and output={cell.output}, expected 0: "
            "only layers put noise around cells"
        )
    G, S, rng, N = cell.gates, cell.states, np.random.default_rng(0), 64
    refuse_unknown(f"cell {cell.name!r}", cell.step, cell.back)
    for what, order in (("keras", cell.keras), ("onnx.gates", cell.onnx and cell.onnx.gates)):
        if order is not None and sorted(order) != list(range(G)):
            raise ArgumentError(
                f"cell {cell.name!r}: {what} is {order}, expected the numbers 0 … {G - 1}, each "
                "once"
            )
    step, back = formula(cell.step), formula(cell.back)
    inputs = rng.normal(size=(2 * G + S, N))
    weights = rng.normal(size=(S, N))

    def run(v):
        return step(tuple(v[:G]), tuple(v[G : 2 * G]), tuple(v[2 * G :]))

    def loss(v) -> Any:
        return sum(w * s for w, s in zip(weights, run(v)[0], strict=True))

    s_next, kept = run(inputs)
    counts = {"s_next of step": (len(s_next), S), "kept of step": (len(kept), cell.kept)}
    claimed = back(tuple(weights), kept, tuple(inputs[2 * G :]), s_next)
    counts |= {
        f"{name} of back": (len(claimed[i]), k)
        for i, (name, k) in enumerate({"dp": G, "dq": G, "ds": S}.items())
    }
    for what, (got, expected) in counts.items():
        if got != expected:
            raise ArgumentError(
                f"cell {cell.name!r}: {what} has {got} numbers, expected {expected}"
            )
    names = [
        f"{letter}[{k}]" for letter, count in (("p", G), ("q", G), ("s", S)) for k in range(count)
    ]
    for i, name in enumerate(names):
        nudge = np.zeros_like(inputs)
        nudge[i] = STEP
        left = (loss(inputs) - loss(inputs - nudge)) / STEP
        right = (loss(inputs + nudge) - loss(inputs)) / STEP
        slope = 0.5 * (left + right)
        one = np.broadcast_to((*claimed[0], *claimed[1], *claimed[2])[i], N)
        error = np.abs(one - slope) / (1 + np.abs(slope))
        error[np.abs(left - right) > 1e-2 * (1 + np.abs(slope))] = 0
        report(
            f"cell {cell.name!r}",
            f"dE/d{name}",
            error,
            lambda j, one=one, slope=slope: (f"point {j}", one[j], slope[j]),
        )
    if not cell.apart and any(np.any(a != b) for a, b in zip(claimed[0], claimed[1], strict=True)):
        raise ArgumentError(
            f"cell {cell.name!r}: back returns different dp and dq, so say apart=True"
        )


def refuse_unknown(who: str, *formulas: Callable):
    """Raise ArgumentError if a formula uses what no kernel has."""
    for f in formulas:
        try:
            binding.check(f)
        except ValueError as error:
            raise ArgumentError(f"{who}: {error}") from None


def report(who: str, what: str, error, describe: Callable):
    """Raise DerivativeError for the worst of `error` if it is too large (NaN is)."""
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    if not error[worst] <= TOLERANCE:
        where, claimed, slope = describe(worst)
        raise DerivativeError(
            f"{who}: {what} is given as {claimed:.8g} at {where}, but its slope there is "
            f"{slope:.8g}"
        )
