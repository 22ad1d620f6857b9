"""A language model of a large vocabulary on the CPU: the most memory that a process takes, and the
time of an update.

python -m benchmarks vocabulary [--words 10000] [--tokens 1000000] [--updates 20]

Prints one line of JSON.
"""

import argparse
import json
import os
import resource
import time

import numpy as np

from rnn_gpu import LSTM, Dense, Embedding, Network
from rnn_gpu.callbacks import Callback

STEPS, BATCH, SIZE = 64, 32, 64


class Clock(Callback):
    """Seconds from each update to the next."""

    def __init__(self):
        self.seconds, self.last = [], 0.0

    def on_begin(self, training):
        self.last = time.perf_counter()

    def on_update(self, training, update):
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


def peak() -> int:
    """The most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(words: int, tokens: int, updates: int) -> dict:
    """Train so many updates on tokens that follow each other by a rule."""
    rng, on = np.random.default_rng(0), {"device": "cpu"}
    text = rng.integers(0, words, tokens)
    x = text[: tokens // STEPS * STEPS].reshape(-1, STEPS)
    layers = [Embedding(words, SIZE, **on), LSTM(SIZE, SIZE, **on), Dense(SIZE, words, **on)]
    network, clock = Network(layers, loss="softmax_cross_entropy"), Clock()
    begun = peak()
    history = network.fit(
        x, (x + 1) % words, updates=updates, batch_size=BATCH, progress=False, callbacks=[clock]
    )
    return {
        "words": words,
        "tokens": tokens,
        "tokens a batch": STEPS * BATCH,
        "updates": len(history["step_loss"]),
        "peak_MB": peak() / 1e6,
        "peak_MB_before": begun / 1e6,
        "seconds_an_update": float(np.median(clock.seconds)),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"words": 10_000, "tokens": 1_000_000, "updates": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    print(json.dumps(measured(**vars(parser.parse_args()))))
