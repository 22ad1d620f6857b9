"""Checkpoints: all that training stands on in one file, from which it goes on bit for bit."""

import json
from dataclasses import asdict, dataclass, field

import numpy as np

from . import io
from .errors import ArgumentError, ModelFileError

FORMAT = "rnn_gpu checkpoint 1"


@dataclass
class Position:
    """Where training stands: `batch` batches of epoch `epoch` are done, and all epochs before."""

    rng: dict  # the state of the generator that draws the order of this epoch
    epoch: int = 0
    batch: int = 0
    seen: list = field(default_factory=list)  # (loss, share of right answers, weight) of what is done of this epoch
    history: dict = field(default_factory=dict)


def save(path, network, optimizer, settings: dict, position: Position):
    """Write parameters, moments, the counts of passes and updates, and the position: whole, or not at all."""
    number = network._device.numpy
    arrays = {f"parameter {name}": number(a) for name, a in network.parameters.items()}
    arrays |= {f"moment {k} {name}": number(a) for name, moments in optimizer.state.items() for k, a in enumerate(moments)}
    config = {"network": network.config(), "optimizer": type(optimizer).__name__, "updates": optimizer.steps, "passes": passes(network)}
    io.write(path, arrays, config | {"settings": settings, "position": asdict(position)}, FORMAT)


def restore(path, network, optimizer, settings: dict) -> Position:
    """Put everything back as `save` found it; the optimizer keeps its own hyperparameters.  Nothing changes if it does not fit.

    Raises ArgumentError if the file is of another network, kind of optimizer, data or order; ModelFileError if it is damaged.
    """
    arrays, config = io.read(path, FORMAT)
    now = json.loads(json.dumps({"network": network.config(), "optimizer": type(optimizer).__name__, **settings}))
    try:
        then = {"network": config["network"], "optimizer": config["optimizer"], **config["settings"]}
        for what, value in now.items():
            if then[what] != value:
                raise ArgumentError(f"resume is {str(path)!r}, a checkpoint with {what}={then[what]!r}, but here {what} is {value!r}")
        position = Position(**config["position"])
        kept = {name: own(network, name, arrays[f"parameter {name}"]) for name in network.parameters}
        count = range(optimizer.moments if config["updates"] else 0)
        state = {name: tuple(own(network, name, arrays[f"moment {k} {name}"]) for k in count) for name in kept} if count else {}
        pairs = list(zip(network._drawing, config["passes"], strict=True))
        updates = config["updates"]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ModelFileError(f"{path} is damaged, or not a checkpoint: {error}") from error
    for name, a in kept.items():
        network.parameters[name][...] = a
    optimizer.state, optimizer.steps = state, updates
    for layer, count in pairs:
        layer.passes = count
    return position


def own(network, name, a: np.ndarray):
    """a as a new array of the network's device, of the shape and dtype of the parameter `name`."""
    θ = network.parameters[name]
    if a.shape != θ.shape or a.dtype != θ.dtype:
        raise ValueError(f"{name} is {a.dtype} and {a.shape}, expected {θ.dtype} and {θ.shape}")
    return network._device.array(a.copy(), a.dtype)


def passes(network) -> list[int]:
    return [layer.passes for layer in network._drawing]
