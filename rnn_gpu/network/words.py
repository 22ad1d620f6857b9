"""Layers in words, as a file has them, and layers from words and arrays."""

from contextlib import suppress
from typing import Any

from ..derivatives import known_loss
from ..errors import ArgumentError, ModelFileError
from ..kernels import Activation, Cell
from ..kernels.activations import ACTIVATIONS
from ..kernels.cells import CELLS
from ..kernels.losses import Loss
from ..layers import GRU, LSTM, RNN, Bidirectional, Dense, Dropout, Embedding, Layer, Recurrent


def in_words(value):
    """A layer, or one of its settings, in JSON's types: formulas of ours by their name, those of
    the user by {"custom": name}.
    """
    if isinstance(value, Layer):
        return {"layer": type(value).__name__} | {
            key: in_words(setting) for key, setting in value.config().items()
        }
    if isinstance(value, Loss):
        return value.name if is_known(value) else {"custom": value.name}
    if isinstance(value, (Cell, Activation)):
        return (
            value.name
            if value in {*CELLS.values(), *ACTIVATIONS.values()}
            else {"custom": value.name}
        )
    return value


def is_known(loss: Loss) -> bool:
    """Does the name of a loss stand for it?"""
    with suppress(ArgumentError):
        return known_loss(loss.name) == loss
    return False


KINDS = {
    kind.__name__: kind
    for kind in (Recurrent, RNN, LSTM, GRU, Bidirectional, Dense, Embedding, Dropout)
}


def by_layer(what: str, named, count: int) -> list[dict]:
    """Arrays by "LAYER.NAME" -> a dict of each of `count` layers', by NAME."""
    parts = [{} for _ in range(count)]
    for name, a in named.items():
        place, _, own = name.partition(".")
        if place not in map(str, range(count)):
            raise ArgumentError(
                f"{what} has {name}, expected names that begin with a layer's number, 0. … "
                f"{count - 1}."
            )
        parts[int(place)][own] = a
    return parts


def with_precision(words, precision: str) -> Any:
    """What `config` says, with another precision wherever there is one."""
    if isinstance(words, dict):
        return {
            name: precision if name == "precision" else with_precision(value, precision)
            for name, value in words.items()
        }
    return (
        [with_precision(value, precision) for value in words] if isinstance(words, list) else words
    )


def build(words: dict, values: dict, own: dict, device: str, dtype) -> Layer:
    """The layer that `in_words` wrote down, on its parameters; own has the user's formulas by
    (setting, name).
    """
    settings = {**words}
    kind = KINDS[settings.pop("layer")]
    if kind is Bidirectional:
        both = settings.pop("forward"), settings.pop("reverse")
        each = zip(both, Bidirectional.apart(values), strict=True)
        layers: list[Any] = [build(one, part, own, device, dtype) for one, part in each]
        return Bidirectional(*layers, **settings)
    for key, value in settings.items():
        if isinstance(value, dict):
            settings[key] = own_formula(own, key, value)
    return kind.of(values, **settings, device=device, dtype=dtype)


def own_formula(own: dict, key: str, value: dict):
    """The user's formula that a file names.  Raises ModelFileError if it was not handed over."""
    if (key, value["custom"]) not in own:
        raise ModelFileError(
            f"{key} is {value['custom']!r}, a formula of the user's own: hand it over, custom=[…]"
        )
    return own[key, value["custom"]]
