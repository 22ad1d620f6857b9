"""Learning rates that change: functions of an update's number, for `learning_rate` of an optimizer
or of `fit`.

Each takes a rate, a number or another such function, and gives its rate times a factor; so they go
one into the other:

>>> from rnn_gpu.schedules import cosine, warm_up
>>> rate = warm_up(cosine(1e-3, updates=1000), updates=100)
>>> rate(0), rate(999) < 1e-5
(1e-05, True)
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import arguments
from .errors import ArgumentError

Rate = float | Callable[[int], float]  # of an update, counted from 0


def rate_at(rate: Rate, update: int, name: str = "learning_rate") -> float:
    """The rate of an update.  Raises ArgumentError where it is none."""
    if not callable(rate):
        return rate
    return arguments.number(f"{name}({update})", rate(update), 0, open_high=True)


def checked(name: str, rate: Any) -> Rate:
    """A rate at the door: a number of at least 0, or a function that gives one for update 0."""
    if not callable(rate):
        return arguments.number(name, rate, 0, open_high=True)
    of_update: Any = rate
    rate_at(of_update, 0, name)
    return of_update


def warm_up(rate: Rate, updates: int) -> Callable[[int], float]:
    """Rises in equal steps from rate/updates at the first to the whole rate at update number
    `updates`, counted from 1; from there on it is the rate.
    """
    return partial(warmed, checked("rate", rate), arguments.size("updates", updates))


def warmed(rate: Rate, updates: int, update: int) -> float:
    """`warm_up` at an update."""
    return rate_at(rate, update) * min(1.0, (update + 1) / updates)


def cosine(rate: Rate, updates: int, *, lowest: float = 0.0) -> Callable[[int], float]:
    """Falls from the rate to `lowest` along half a cosine (Loshchilov and Hutter 2017), where it is
    after `updates`, and stays.
    """
    lowest = arguments.number("lowest", lowest, 0, open_high=True)
    return partial(fallen, checked("rate", rate), arguments.size("updates", updates), lowest)


def fallen(rate: Rate, updates: int, lowest: float, update: int) -> float:
    """`cosine` at an update."""
    share = 0.5 * (1.0 + math.cos(math.pi * min(1.0, update / updates)))
    return lowest + (rate_at(rate, update) - lowest) * share


def steps(rate: Rate, at: Sequence[int], *, factor: float = 0.1) -> Callable[[int], float]:
    """The rate times `factor` from each update of `at` on, numbers that rise: at=(500, 800) is
    rate·factor from update 500 on, and rate·factor² from update 800 on.
    """
    if not isinstance(at, (list, tuple)) or not at:
        raise ArgumentError(f"at is {arguments.came(at)}, expected a list of updates' numbers")
    numbers = tuple(arguments.size(f"at[{i}]", update) for i, update in enumerate(at))
    if list(numbers) != sorted(set(numbers)):
        raise ArgumentError(f"at is {at!r}, expected numbers that rise")
    factor = arguments.number("factor", factor, 0, open_high=True)
    return partial(stepped, checked("rate", rate), numbers, factor)


def stepped(rate: Rate, at: tuple[int, ...], factor: float, update: int) -> float:
    """`steps` at an update."""
    return rate_at(rate, update) * factor ** sum(update >= number for number in at)
