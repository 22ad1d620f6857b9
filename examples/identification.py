"""Learn how a system answers from records of it, with burn-in: python examples/identification.py

Two tanks, one above the other, and a pump (after the benchmark of Schoukens and Noël 2017): the
model gets the pump's voltage alone and says the level of the lower one. A record is cut into
pieces; what a piece began with is not known, so its first steps shape the state and count for no
loss.
Beside it a linear model, by least squares.
"""

import time

import numpy as np

import rnn_gpu
from rnn_gpu.data import Scaler

PIECE, BURNT, MEMORY = 200, 60, 60  # steps of a piece; those that count for nothing; of the linear


def tanks(voltage: np.ndarray, rng) -> np.ndarray:
    """The lower tank's level, measured; a full tank runs over."""
    upper = lower = 3.0
    level = np.empty(len(voltage))
    for k, u in enumerate(voltage):
        out = 0.5 * np.sqrt(upper)
        upper = min(max(upper + 0.4 * u - out, 0.0), 10.0)
        lower = min(max(lower + out - 0.5 * np.sqrt(lower), 0.0), 10.0)
        level[k] = lower
    return level + rng.normal(0, 0.03, len(level))


def record(count: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """A voltage that stays for a while at levels drawn at random, and what it does."""
    voltage = np.repeat(rng.uniform(0.5, 4.5, count // 10 + 1), 10)[:count]
    return voltage, tanks(voltage, rng)


def linear(u, y, u_new) -> np.ndarray:
    """y_t as a sum over the last MEMORY voltages and a constant."""

    def rows(v):
        lags = np.lib.stride_tricks.sliding_window_view(np.pad(v, (MEMORY - 1, 0), "edge"), MEMORY)
        return np.hstack([lags, np.ones((len(v), 1))])

    weights = np.linalg.lstsq(rows(u), y, rcond=None)[0]
    return rows(u_new) @ weights


def main(epochs: int = 60, n: int = 32, count: int = 8000) -> dict[str, float]:
    """Root mean squares of the error on a new record, in units of how much the level varies."""
    start, rng = time.perf_counter(), np.random.default_rng(0)
    (u, y), (u_new, y_new) = record(count, rng), record(2000, rng)
    inputs, outputs = Scaler.standard(u), Scaler.standard(y)
    x, t = inputs.scale(u)[:, None], outputs.scale(y)[:, None]
    starts = range(0, count - PIECE + 1, PIECE // 4)
    network = rnn_gpu.Network([rnn_gpu.GRU(1, n), rnn_gpu.Dense(n, 1)])
    network.fit(
        [x[k : k + PIECE] for k in starts],
        [t[k : k + PIECE] for k in starts],
        epochs=epochs,
        batch_size=16,
        learning_rate=5e-3,
        clip_norm=1.0,
        burn_in=BURNT,
    )
    said = outputs.unscale(network.predict([inputs.scale(u_new)[:, None]])[0])[:, 0]
    found = {
        name: float(np.sqrt(np.mean((guess - y_new)[BURNT:] ** 2)) / y_new.std())
        for name, guess in {"network": said, "linear": linear(u, y, u_new)}.items()
    }
    for name, error in found.items():
        print(f"{name:10}{100 * error:6.2f} % of the level's standard deviation")
    print(f"{'noise':10}{100 * 0.03 / y_new.std():6.2f} %\n{time.perf_counter() - start:.1f} s")
    return found


if __name__ == "__main__":
    main()
