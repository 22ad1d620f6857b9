"""What `fit` takes beside its work on the CPU: n = 64 units, B = 32 samples, T = 64 steps.

python -m benchmarks overhead [--updates 400]

Two things are told apart from all the rest, each in a run of its own: the device's kernels, and the
passes, which are what a loop by hand would call: forward, loss, back, norms and the change of the
weights on a batch that is there. The rest is batches, the loop, history, callbacks, and of the
kernels also the layers. It is the processor's time of the thread that trains, of the quickest epoch
of ten batches, which what else runs here disturbs least. Prints a line of JSON for each cell.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np

from rnn_gpu import GRU, LSTM, RNN, Dense, Network
from rnn_gpu.kernels.devices import cpu

UNITS, SAMPLES, STEPS, CLASSES = 64, 32, 64, 10
ENDS = ("loss", "norms", "update")
KERNELS = ("project", "project_back", "forward", "backward", *ENDS)


class Clock:
    """Seconds within functions that it was given."""

    def __init__(self):
        self.seconds = 0.0

    def timed(self, f: Callable) -> Callable:
        def within(*given, **named):
            begun = time.thread_time()
            try:
                return f(*given, **named)
            finally:
                self.seconds += time.thread_time() - begun

        return within


def measured(kind, updates: int) -> dict:
    """Of an update: microseconds in all and within kernels, and how much more than kernels, and
    than passes, it takes.
    """
    kernels, passes = timed(kind, updates, False), timed(kind, updates, True)
    return {
        "cell": kind.__name__,
        "us_an_update": kernels[0],
        "us_in_kernels": kernels[1],
        "beside_kernels": kernels[0] / kernels[1] - 1,
        "us_in_passes": passes[1],
        "us_beside_passes": passes[0] - passes[1],
        "beside_passes": passes[0] / passes[1] - 1,
        "load": os.getloadavg()[0],
    }


def timed(kind, updates: int, passes: bool) -> tuple[float, float]:
    """Microseconds of an update, in all and within what is timed."""
    rng, clock = np.random.default_rng(0), Clock()
    x = rng.normal(size=(10 * SAMPLES, STEPS, UNITS)).astype("float32")
    y = rng.integers(0, CLASSES, x.shape[:2])
    layers = [kind(UNITS, UNITS, device="cpu"), Dense(UNITS, CLASSES, device="cpu")]
    network = Network(layers, loss="softmax_cross_entropy")
    at: list[tuple[float, float]] = []  # the end of each epoch, and what was within by then

    def note(network, history):
        at.append((time.thread_time(), clock.seconds))

    if passes:
        network.forward, network.back = clock.timed(network.forward), clock.timed(network.back)
    own = {name: getattr(cpu, name) for name in (ENDS if passes else KERNELS)}
    try:
        for name, f in own.items():
            setattr(cpu, name, clock.timed(f))
        network.fit(x, y, epochs=updates // 10, batch_size=SAMPLES, progress=False, on_epoch=note)
    finally:
        for name, f in own.items():
            setattr(cpu, name, f)
    epochs = np.diff(np.array(at), axis=0)
    whole, within = epochs[epochs[:, 0].argmin()]
    return 1e5 * whole, 1e5 * within


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=400)
    chosen = parser.parse_args()
    for kind in (RNN, GRU, LSTM):
        print(json.dumps(measured(kind, chosen.updates)))
