"""Truncated BPTT: which steps go forward and back at a time, and the states that are carried on."""

import itertools

from .. import arguments
from ..errors import ArgumentError
from ..layers.given import parts_of
from ..layers.passes import next_pass
from ..layers.stateful import zero_states
from .batches import Batch


def pair(truncate) -> tuple[int, int] | None:
    """(k1, k2) at the door, 1 <= k1 <= k2; None cuts nothing."""
    if truncate is None:
        return None
    if not isinstance(truncate, (tuple, list)) or len(truncate) != 2:
        raise ArgumentError(
            f"truncate is {truncate!r}, expected a pair (k1, k2) of numbers of steps"
        )
    k1, k2 = arguments.size("truncate[0]", truncate[0]), arguments.size("truncate[1]", truncate[1])
    if k1 > k2:
        raise ArgumentError(
            f"truncate is ({k1}, {k2}), expected k1 <= k2: of every {k1} steps, {k1 - k2} would "
            "give no gradient"
        )
    return k1, k2


def check_truncate(network, truncate) -> tuple[int, int] | None:
    """As `pair`, and that this network has a time that can be cut."""
    if (cuts := pair(truncate)) is None:
        return None
    k1, k2 = cuts
    if not network.recurrent:
        raise ArgumentError(
            f"truncate is ({k1}, {k2}), but this network has no recurrent layer: there is no time "
            "to cut"
        )
    if any(layer.reverse for layer in network.recurrent):
        raise ArgumentError(
            f"truncate is ({k1}, {k2}), but a layer goes from the last step to the first: its "
            "state cannot be carried on"
        )
    return cuts


def check_stateful(network, count: int | None, batch_size: int, shuffle: bool):
    """Raise ArgumentError unless batches can go on where the ones before ended.

    count  samples; None where nobody knows
    """
    if not network.recurrent or any(layer.reverse for layer in network.recurrent):
        why = "a layer goes from the last step to the first" if network.recurrent else "it has no"
        raise ArgumentError(
            f"stateful is True, but this network has no state to carry on: {why}"
            + ("" if network.recurrent else " recurrent layer")
        )
    if count is not None and shuffle:
        raise ArgumentError(
            "stateful is True, and so is shuffle: a batch goes on where the one before ended, so "
            "say shuffle=False"
        )
    if count is not None and count % batch_size:
        raise ArgumentError(
            f"stateful is True, but {count} samples are no whole number of batches of {batch_size}:"
            " the last one could not go on where the one before ended"
        )


def check_resets(samples, **cuts):
    """Raise ArgumentError where samples begin anew with the state that they began with, and
    sequences are cut by one of these.
    """
    known = samples.starts is None or len(samples.given_layers) == len(samples.network.recurrent)
    for name, value in cuts.items():
        if value and not known:
            raise ArgumentError(
                f"resets is given, and {name}: what goes on where another ended does not know the "
                "state that the sample began with; leave one out, or give every recurrent layer "
                "its reset_state"
            )


def segments(T: int, truncate: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """The (start, first, end) of truncated BPTT: the loss of steps first … end−1 goes back through
    steps start … end−1.
    """
    k1, k2 = truncate or (T, T)
    ends = [min(first + k1, T) for first in range(0, T, k1)]
    return [
        (max(0, end - k2), first, end) for first, end in zip(range(0, T, k1), ends, strict=True)
    ]


def windows(device, batch: Batch, segments):
    """The part of the batch for each segment, and which of its steps the next segment begins with;
    None after the last.

    Where k2 > k1 windows overlap, and what they share is computed again, with the weights of now.
    """
    if segments == [(0, 0, len(batch.x))]:
        yield batch, None
        return
    for (start, first, end), after in itertools.zip_longest(segments, segments[1:]):
        counted, weight = batch.counted[start:end], batch.weight[start:end]
        if first > start:
            counted, weight = counted.copy(), weight.copy()
            counted[: first - start] = weight[: first - start] = 0
        part = Batch(
            batch.x[start:end],
            batch.steps.part(start, end),
            batch.target[start:end],
            weight,
            device.array(counted.sum(keepdims=True), weight.dtype),
            counted,
            batch.lengths,
            start,
            given=parts_of(batch.given, batch.steps, start, end),
        )
        yield part, after and after[0] - start


def carried_on(network, window: Batch, states, on, parallel=None):
    """The states before step `on` of a window that the loss does not count; where `on` is None,
    those after its last step.
    """
    states = states or zero_states(network.recurrent, window.x.shape[1])
    _, last, tapes = network.forward(
        window.x, states, window.steps, next_pass(network.layers, True, parallel, window.given)
    )
    return last if on is None else states_before(network, tapes, on)


def states_before(network, tapes, step: int | None):
    """The states of each recurrent layer before a step of a pass; None for no step."""
    return (
        None
        if step is None
        else [
            tape.s[:, step]
            for layer, tape in zip(network.layers, tapes, strict=True)
            if layer.recurrent
        ]
    )
