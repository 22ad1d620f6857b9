"""What a trained network says comes next: text, symbol by symbol, and series, step by step."""

import numpy as np
from numpy.typing import ArrayLike

from .. import arguments
from ..errors import ArgumentError, ShapeError
from ..network.network import Network
from ..network.stream import Stream
from .series import column_wise, whole


def generate(
    network: Network,
    prompt: ArrayLike,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Symbols that go on after a prompt, each drawn from what the network gives for the one before.

    network      takes symbols, and gives a logit for each: as trained with
                 "softmax_cross_entropy" to say the next one
    prompt       integers (T,), at least one
    length       how many symbols are drawn
    temperature  logits are divided by it: 0 always takes the likeliest
    top_k        only the k likeliest are drawn from
    seed         of the draws
    Returns int64 (length,).
    """
    stream, k = Stream(network), network.output_size
    symbols = arguments.symbols("prompt", np.asarray(prompt), k, "(T,)", 1)
    if k != network.input_size:
        raise ArgumentError(
            f"network takes {network.input_size} symbols and gives {k}, expected the same"
        )
    arguments.seed("length", length)
    temperature = arguments.number("temperature", temperature, 0)
    top_k = k if top_k is None else arguments.size("top_k", top_k)
    rng, drawn = np.random.default_rng(arguments.seed("seed", seed)), []
    logits = stream(symbols[:, None])[-1, 0]
    for _ in range(length):
        drawn.append(draw(logits, temperature, top_k, rng))
        logits = stream(np.array(drawn[-1:]))[0]
    return np.array(drawn, "int64")


def draw(logits: np.ndarray, temperature: float, top_k: int, rng) -> int:
    """One symbol from its logits (k,)."""
    if temperature == 0:
        return int(logits.argmax())
    z = logits.astype("float64") / temperature
    if top_k < len(z):
        z[np.argsort(-z, kind="stable")[top_k:]] = -np.inf
    p = np.exp(z - z.max())
    return int(rng.choice(len(p), p=p / p.sum()))


def forecast(
    network: Network,
    x: ArrayLike,
    steps: int,
    *,
    target: int = 0,
    window: int | None = None,
    future: ArrayLike | None = None,
) -> np.ndarray:
    """The target of the next steps, each forecast taken for the truth by the next one.

    network  gives the target of the next step: one number; or of the next H, of which the first is
             taken
    x        (T, m), what is known, as the network was trained on it
    target   the column of x that is forecast
    window   None: the network goes on by a Stream, after all of x; else it sees the last `window`
             rows each time, as in training
    future   (steps − 1 or more, m): the other columns of the rows to come, where there are any; its
             target column is ignored
    Returns (steps,), in the units of x.
    """
    a, steps = column_wise("x", x), arguments.size("steps", steps)
    whole("x", a)
    if not 0 <= arguments.seed("target", target) < a.shape[1]:
        raise ArgumentError(f"target is {target}, but x has the columns 0..{a.shape[1] - 1}")
    rows = coming(a, steps, future)
    next_one = by_stream(network) if window is None else by_window(network, window, a)
    found, seen = [], a.astype(network.dtype)
    for k in range(steps):
        found.append(float(next_one(seen)))
        if k + 1 < steps:
            seen = rows[k : k + 1].astype(network.dtype)
            seen[0, target] = found[-1]
    return np.array(found)


def coming(a, steps, future) -> np.ndarray:
    """The rows to come, (steps − 1 or more, m), without their targets."""
    m = a.shape[1]
    if future is None:
        if m > 1 and steps > 1:
            raise ArgumentError(
                f"future is None, but x has {m} columns: give the others of the next {steps - 1} "
                "rows"
            )
        return np.zeros((steps, m))
    rows = column_wise("future", future)
    if rows.shape[1] != m or len(rows) < steps - 1:
        raise ShapeError(f"future has shape {rows.shape}, expected ({steps - 1} or more, {m})")
    return rows


def by_stream(network):
    """(rows that are new) -> what comes next."""
    stream = Stream(network)
    return lambda rows: stream(rows[:, None])[-1, 0, 0]


def by_window(network, window, a):
    """As by_stream, from the last `window` rows of all."""
    window, seen = arguments.size("window", window), a[:0].astype(network.dtype)

    def next_one(rows):
        nonlocal seen
        seen = np.concatenate([seen, rows])[-window:]
        y, _ = network(seen[:, None])
        return y[-1, 0, 0]

    return next_one
