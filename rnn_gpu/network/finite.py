"""Finite or stop: which number was the first that was not finite, so that the error can name it."""

from typing import NamedTuple

import numpy as np

from ..kernels import LIVE
from ..kernels.losses import as_rows
from ..layers import Dense, Recurrent
from ..layers.passes import delta_of


def first_bad(network, batch, made) -> str:
    """Where the first NaN or infinity of a pass stands, in causal order, and what stood there one
    step before.

    batch (a Batch) and made (a Made): what the network was given, and what that
    gave. A bad parameter comes first; then the way forward, step by step, in a step layer by layer
    and gates before states; then δ on its way back, the other way round; then the sums over steps.
    """
    number, parts, o, E = network.backend.numpy, list(parts_of(network, made)), made.o, made.loss
    for i, layer, *_ in parts:
        for name, θ in layer.parameters.items():
            if (bad := ~np.isfinite(number(θ))).any():
                return (
                    f"parameter {name} of layer {i} ({type(layer).__name__}) is not finite at "
                    f"{tuple(map(int, np.argwhere(bad)[0]))}"
                )
    live = number(batch.steps.flags & LIVE) != 0
    if found := earliest(list(computed(number, parts)), live, batch.start):
        return found
    if not np.isfinite(E):
        terms = number(network.objective.terms(network.backend, o, batch.target)[0])
        places = np.argwhere(~np.isfinite(terms) & (number(batch.weight) != 0)[:, :, None])
        if not len(places):
            return f"the loss is {E}, though that of every output is finite"
        t, b, k = places[0]
        output, target = (a[t, b, k] for a in (number(o), as_rows(number(o), number(batch.target))))
        return (
            f"the loss is {terms[t, b, k]} at time step {batch.start + t}, sample {b}, output "
            f"{k}: {output:.6g} for {target:.6g}"
        )
    if found := earliest(list(carried_back(number, parts, live)), live, batch.start):
        return found
    for i, layer, _, back in parts:
        for name, g in back.grads.items():
            if not np.isfinite(number(g)).all():
                return (
                    f"the gradient of {name} in layer {i} ({type(layer).__name__}) is not finite, "
                    "though every δ is"
                )
    return "the norm of the gradient overflows"


def parts_of(network, made):
    """(layer's number, layer, tape, Back) of each layer, and of each of its directions."""
    for i, (layer, tape, back) in enumerate(
        zip(network.layers, made.tape, made.back.parts, strict=True)
    ):
        several = len(layer.parts) > 1
        each = zip(
            layer.parts,
            tape if several else (tape,),
            back.parts if several else (back,),
            strict=True,
        )
        yield from ((i, *part) for part in each)


class Trace(NamedTuple):
    """One number of every step, sample and unit, in the order in which it is computed."""

    says: str
    what: str
    # (T+1, B, n), first what stood there before the first step; NaN where nothing did
    values: np.ndarray
    last_first: bool  # from the last time step to the first


def preceded(a):
    """a (T, B, n) with a row of NaN before the first."""
    return np.concatenate([np.full_like(a[:1], np.nan), a])


def computed(number, parts):
    """The traces of all gates, states and outputs, in the order in which one time step computes
    them.
    """
    last_first = False
    for i, layer, tape, _ in parts:
        says = f"layer {i} ({type(layer).__name__}) gives"
        if isinstance(layer, Recurrent):
            last_first, kept, s = layer.reverse, number(tape.kept), number(tape.s)
            for k in range(kept.shape[2]):
                yield Trace(
                    says,
                    f"{'gate' if k < layer.cell.gates else 'activation'} {k}",
                    preceded(kept[:, :, k]),
                    last_first,
                )
            for k in range(len(s)):
                yield Trace(says, f"state {k}", s[k], last_first)
        elif isinstance(layer, Dense):
            y = number(tape.y)
            yield Trace(says, "output", preceded(y[::-1] if last_first else y), last_first)


def carried_back(number, parts, live):
    """The traces of δ, likewise: from each layer's own last step to its first."""
    for i, layer, _, back in reversed(parts):
        if isinstance(layer, Recurrent):
            δ = np.where(live[:, :, None, None], number(delta_of(back)), np.nan)[
                :: 1 if layer.reverse else -1
            ]
            for g in range(layer.cell.gates):
                yield Trace(
                    f"δ of layer {i} ({type(layer).__name__}) is",
                    f"gate {g}",
                    preceded(δ[:, :, g]),
                    not layer.reverse,
                )


def earliest(traces, live, start: int) -> str:
    """The first number that is not finite where live (T, B), told; "" if there is none.  start is
    the first row's time step.

    Neighbours that go the same way through time are computed step by step; where the way turns, one
    after the other.
    """
    found, turns = [], 0
    for order, trace in enumerate(traces):
        turns += order > 0 and trace.last_first != traces[order - 1].last_first
        places = np.argwhere(
            ~np.isfinite(trace.values[1:]) & (live[::-1] if trace.last_first else live)[:, :, None]
        )
        if len(places):
            found.append((turns, places[0][0], order, *places[0][1:]))
    if not found:
        return ""
    _, t, order, b, j = min(found)
    says, what, values, last_first = traces[order]
    before = (
        f"; one step before it was {values[t, b, j]:.6g}" if np.isfinite(values[t, b, j]) else ""
    )
    step = start + (len(live) - 1 - t if last_first else t)
    return f"{says} {values[t + 1, b, j]} at time step {step}, sample {b}, {what}, unit {j}{before}"
