"""Checkpoints: all that training stands on in one file, from which it goes on bit for bit."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np

from ..bridges import io
from ..errors import ArgumentError, NonFiniteError
from ..parameters import fitting

FORMAT = "rnn_gpu checkpoint"


@dataclass
class Position:
    """Where training stands: `batch` batches of epoch `epoch` are done, and all epochs before."""

    rng: dict  # the state of the generator that draws the order of this epoch
    epoch: int = 0
    batch: int = 0
    # (loss, share of right answers, weight) of what is done of this epoch
    seen: list = field(default_factory=list)
    metrics: list = field(default_factory=list)  # of each of them, by name; empty where none are
    history: dict = field(default_factory=dict)


class Kept(NamedTuple):
    """What a checkpoint has beside network and optimizer."""

    position: Position
    arrays: dict  # that callbacks have left: of each the network's parameters by name
    states: list  # that the next batch goes on from, where it does


def fingerprint(arrays) -> str:
    """A digest of arrays: of their numbers, dtypes, shapes and order."""
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(f"{a.dtype.str} {a.shape} ".encode())
        digest.update(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def save(path, network, optimizer, settings: dict, kept: Kept):
    """Write parameters, moments, the counts of passes and updates, and what else is kept: whole, or
    not at all.

    Raises NonFiniteError, and leaves the file that is there, if a parameter or a moment is not
    finite.
    """
    number = network.backend.numpy
    arrays = {f"parameter {name}": number(a) for name, a in network.parameters.items()}
    for name, moments in optimizer.state.items():
        arrays |= {f"moment {k} {name}": number(a) for k, a in enumerate(moments)}
    for by, values in kept.arrays.items():
        arrays |= {f"kept {by} {name}": a for name, a in values.items()}
    arrays |= {f"state {i}": s for i, s in enumerate(kept.states)}
    if bad := not_finite(arrays):
        left = f"checkpoint {str(path)!r} is not written over"
        raise NonFiniteError(f"after {optimizer.steps} updates {bad}: {left}")
    config = {
        "network": network.config(),
        "optimizer": type(optimizer).__name__,
        "updates": optimizer.steps,
        "passes": passes(network),
        "settings": settings,
        "position": asdict(kept.position),
    }
    io.write(path, arrays, config, FORMAT)


def restore(path, network, optimizer, settings: dict, metrics: list[str], why: str) -> Kept:
    """Put everything back as `save` found it; the optimizer keeps its own hyperparameters.

    metrics  the names of those that are measured now
    why      training cannot go on from within an epoch; "" where it can

    All is checked before anything changes. Raises ArgumentError if the file is of another network,
    kind of optimizer, data or order; ModelFileError if it is damaged.
    """
    arrays, config, version = io.read(path, FORMAT, "resume")
    with io.blaming(path, "is damaged, or not a checkpoint"):
        check(CONTENT, config, "its configuration")
        if version > 1 and "data" not in config["settings"]:
            raise ValueError("its settings have no data")
    refuse_another(path, network, optimizer, settings, config, arrays)
    refuse_within(path, config["position"], metrics, why)
    with io.blaming(path, "is damaged, or not a checkpoint"):
        check_counts(config, network)
        kept, states = kept_arrays(arrays), states_of(arrays, network, config)
        values, state = taken(arrays, kept, network, optimizer, config["updates"])
        pairs = list(zip(network.drawing, config["passes"], strict=True))
    for name, a in values.items():
        network.parameters[name][...] = a
    optimizer.state, optimizer.steps = state, config["updates"]
    for layer, count in pairs:
        layer.passes = count
    return Kept(Position(**config["position"]), kept, states)


def refuse_within(path, position: dict, metrics: list[str], why: str):
    """Raise ArgumentError where training cannot go on from within an epoch as it was."""
    if not position["batch"]:
        return
    says = f"resume is {str(path)!r}, a checkpoint within an epoch"
    if why:
        raise ArgumentError(f"{says}, but {why}")
    then = list(next(iter(position.get("metrics", ())), {}))
    if position["seen"] and then != metrics:
        raise ArgumentError(f"{says} with the metrics {then}, but here they are {metrics}")


def states_of(arrays: dict, network, config: dict) -> list[np.ndarray]:
    """The states that the next batch goes on from, which are taken out of the arrays."""
    states = [
        arrays.pop(f"state {i}") for i in range(len(network.recurrent)) if f"state {i}" in arrays
    ]
    goes_on = config["settings"].get("stateful", False) and config["position"]["batch"] > 0
    if len(states) != (len(network.recurrent) if goes_on else 0):
        raise ValueError(f"it has the states of {len(states)} layers")
    for i, (layer, s) in enumerate(zip(network.recurrent, states, strict=False)):
        expected = layer.cell.states, states[0].shape[1], layer.hidden_size
        if s.shape != expected or s.dtype != network.dtype or not np.isfinite(s).all():
            raise ValueError(f"state {i} has the shape {s.shape} and is {s.dtype}")
    return states


def kept_arrays(arrays: dict) -> dict[str, dict[str, np.ndarray]]:
    """The arrays that callbacks have left, by what they are kept by, and by the parameter's
    name.
    """
    kept: dict[str, dict[str, np.ndarray]] = {}
    for name, a in arrays.items():
        kind, _, rest = name.partition(" ")
        by, _, parameter = rest.rpartition(" ")
        if kind == "kept":
            kept.setdefault(by, {})[parameter] = a
    return kept


def refuse_another(path, network, optimizer, settings: dict, config: dict, arrays: dict):
    """Raise ArgumentError if the checkpoint is of another network, optimizer, data or order."""
    kinds = {"network": network.config(), "optimizer": type(optimizer).__name__}
    now, then = io.in_json(kinds | settings), config | config["settings"]
    data, says = now.pop("data"), f"resume is {str(path)!r}, a checkpoint"
    for what, value in now.items():
        before = then.get(what, SINCE.get(what)) if what in SINCE else then[what]
        if before != value:
            here = f"but here {what} is {value!r}"
            raise ArgumentError(f"{says} with {what}={before!r}, {here}")
    if then.get("data", data) != data:  # before format 2 there was none
        raise ArgumentError(f"{says} of other data: x or y, or their order, are not what they were")
    one = next(iter(network.parameters))
    moments = sum(name.startswith("moment ") and name.endswith(f" {one}") for name in arrays)
    if config["updates"] and moments != optimizer.moments:
        here = f"but here optimizer keeps {optimizer.moments}: is momentum as it was?"
        raise ArgumentError(f"{says} with {moments} moments of each parameter, {here}")


def taken(arrays: dict, kept: dict, network, optimizer, updates: int) -> tuple[dict, dict]:
    """The parameters by name, and the optimizer's state: arrays of the device; what is kept beside
    them has every parameter.
    """
    device, moments = network.backend, range(optimizer.moments if updates else 0)
    shapes = {f"parameter {name}": θ.shape for name, θ in network.parameters.items()}
    for name, θ in network.parameters.items():
        shapes |= {f"moment {k} {name}": θ.shape for k in moments}
        shapes |= {f"kept {by} {name}": θ.shape for by in kept}
    arrays = fitting(arrays, shapes, network.dtype)
    if bad := not_finite(arrays):
        raise ValueError(bad)
    for name, a in arrays.items():
        if name.startswith(tuple(f"moment {k} " for k in optimizer.squares)) and (a < 0).any():
            raise ValueError(f"{name} is a mean of squares, and has a number below 0")
    on_device = {
        name: device.array(a, a.dtype) for name, a in arrays.items() if not name.startswith("kept ")
    }
    values = {name: on_device[f"parameter {name}"] for name in network.parameters}
    if not moments:
        return values, {}
    state = {name: tuple(on_device[f"moment {k} {name}"] for k in moments) for name in values}
    return values, state


def not_finite(arrays: dict) -> str:
    """The first NaN or infinity, told; "" if there is none."""
    for name, a in arrays.items():
        if not (good := np.isfinite(a)).all():
            place = tuple(map(int, np.argwhere(~good)[0]))
            return f"{name} is {a[place]} at {place}"
    return ""


def passes(network) -> list[int]:
    """How many training passes each layer that draws has counted."""
    return [layer.passes for layer in network.drawing]


# What a checkpoint's configuration holds


class Kind(NamedTuple):
    """Values of one kind."""

    says: str
    holds: Callable[[object], bool]


class Fields(NamedTuple):
    """Dicts of these kinds by name."""

    needed: dict
    optional: dict
    others: bool = False  # may there be any


def whole(low: int = 0, high: float = 2**53) -> Kind:
    """Integers from low to high."""
    says = f"an integer from {low} to {high}"
    return Kind(says, lambda value: type(value) is int and low <= value <= high)


def number(low: float = -sys.float_info.max, high: float = sys.float_info.max) -> Kind:
    """Finite numbers from low to high."""
    says = f"a number from {low} to {high}"
    return Kind(says, lambda value: type(value) in (int, float) and low <= value <= high)


def one_of(*kinds: Kind) -> Kind:
    """What one of the kinds holds."""
    says = " or ".join(kind.says for kind in kinds)
    return Kind(says, lambda value: any(kind.holds(value) for kind in kinds))


ANY = Kind("anything", lambda value: True)
NONE = Kind("none", lambda value: value is None)
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", lambda value: isinstance(value, str))
PAIR = Kind("two integers", lambda value: isinstance(value, list) and len(value) == 2)
REAL = Kind("a number", lambda value: type(value) in (int, float))  # a validation loss may be NaN
SHARE = number(0, 1)

HISTORY = Fields(
    {"compile_seconds": [number(0)], "step_loss": [number()], "gradient_norm": [number(0)]},
    {
        "clipped_steps": [whole()],
        "loss": [number()],
        "accuracy": [SHARE],
        "validation_loss": [REAL],
        "validation_accuracy": [SHARE],
        "learning_rate": [number(0)],
        "seconds": [number(0)],
    },
    others=True,  # what `on_epoch` has added
)
SETTINGS = Fields(
    {
        "samples": whole(),  # 0 where batches are made as they are wanted
        "batch_size": whole(1),
        "shuffle": TRUTH,
        "seed": whole(0, float("inf")),
        "truncate": one_of(NONE, PAIR),
    },
    {"data": TEXT, "stateful": TRUTH, "burn_in": whole(), "skips": TRUTH},
)
# settings that checkpoints of before have not, and what they were
SINCE = {"stateful": False, "burn_in": 0, "skips": False}
WORD = whole(0, 2**128 - 1)
ODD = Kind("an odd integer below 2¹²⁸", lambda value: WORD.holds(value) and value % 2 == 1)
GENERATOR = Fields(
    {
        "bit_generator": Kind("PCG64", lambda value: value == "PCG64"),
        "state": Fields({"state": WORD, "inc": ODD}, {}),
        "has_uint32": whole(0, 1),
        "uinteger": whole(0, 2**32 - 1),
    },
    {},
)
CONTENT = Fields(
    {
        "network": ANY,  # is compared with the one that is there
        "optimizer": TEXT,
        "updates": whole(),
        "passes": [whole(0, 2**32 - 1)],  # a word of Philox's counter
        "settings": SETTINGS,
        "position": Fields(
            {
                "rng": GENERATOR,
                "epoch": whole(),
                "batch": whole(),
                "seen": [(number(), one_of(NONE, SHARE), number(sys.float_info.min))],
                "history": HISTORY,
            },
            {"metrics": [ANY]},
        ),
    },
    {},
)


def check(kind, value, at: str):
    """Raise ValueError, which names the place, unless value is of this kind.

    kind  a Kind, Fields, [kind] for a list of any length, or (kind, …) for one of this length
    """
    if isinstance(kind, Kind):
        if not kind.holds(value):
            raise ValueError(f"{at} is {value!r}, expected {kind.says}")
    elif isinstance(kind, Fields):
        known = kind.needed | kind.optional
        if not isinstance(value, dict):
            raise ValueError(f"{at} is {value!r}, expected {', '.join(known)}")
        lacks, more = set(kind.needed) - set(value), set(value) - set(known)
        if lacks:
            raise ValueError(f"{at} has no {', '.join(sorted(lacks))}")
        if more and not kind.others:
            raise ValueError(f"{at} has {', '.join(sorted(more))}, expected {', '.join(known)}")
        for name in filter(value.__contains__, known):
            check(known[name], value[name], f"{at}.{name}")
    elif not isinstance(value, list) or (isinstance(kind, tuple) and len(value) != len(kind)):
        count = f" of {len(kind)}" if isinstance(kind, tuple) else ""
        raise ValueError(f"{at} is {value!r}, expected a list{count}")
    else:
        kinds = kind if isinstance(kind, tuple) else kind * len(value)
        for i, (one, its) in enumerate(zip(kinds, value, strict=True)):
            check(one, its, f"{at}[{i}]")


def check_counts(config: dict, network):
    """Raise ValueError unless position, history and counts say the same."""
    settings, position = config["settings"], config["position"]
    history = position["history"]
    epoch, batch, seen = position["epoch"], position["batch"], position["seen"]
    an_epoch, updates = -(-settings["samples"] // settings["batch_size"]), len(history["step_loss"])
    batches, classes = epoch * an_epoch + batch, bool(network.objective.loss.classes)
    known, skips = settings["samples"] > 0, settings.get("skips", False)
    exact = settings["truncate"] is None and not skips  # else a batch has any number of updates
    agree = {
        "batch": batch <= an_epoch or not known,
        "step_loss": updates == batches if exact else updates >= batches or skips,
        "updates": config["updates"] >= updates,
        "compile_seconds": bool(history["compile_seconds"]),
        "passes": len(config["passes"]) == len(network.drawing),
        "seen": len(seen) == batch
        if exact or not batch
        else (batch <= len(seen) or skips) and len(seen) <= updates,
        "metrics": len(position.get("metrics", ())) in (0, len(seen)),
        "losses of seen": [E for E, *_ in seen] == history["step_loss"][updates - len(seen) :],
        "shares of seen": all((share is not None) == classes for _, share, _ in seen),
    }
    count = {name: len(history.get(name, ())) for name in HISTORY.needed | HISTORY.optional}
    judged = epoch * classes
    exactly = {"gradient_norm": updates, "loss": epoch, "seconds": epoch, "accuracy": judged}
    at_most = {"clipped_steps": updates, "validation_loss": epoch, "validation_accuracy": judged}
    agree |= {name: count[name] == right for name, right in exactly.items()}
    agree |= {name: count[name] <= most for name, most in at_most.items()}
    if wrong := [what for what, fits in agree.items() if not fits]:
        there = f"{updates} losses of steps, epoch {epoch} and batch {batch} of {an_epoch}"
        raise ValueError(f"{', '.join(wrong)} do not agree with {there}")
