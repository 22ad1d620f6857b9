"""Decide by evidence that comes bit by bit, as in experiments with moving dots, with a leaky cell:
python examples/evidence.py

Each trial is 40 noisy samples with a small drift to the left or to the right, and a choice at the
end (Gold and Shadlen 2007). The best there is adds all samples up; a look at the last one alone is
little more than a guess.
"""

import math
import time

import numpy as np

import rnn_gpu

T, LEAK = 40, 0.1  # samples of a trial; of the state, a step


def step(p, q, s):
    f = np.tanh(p[0] + q[0])
    return ((1.0 - LEAK) * s[0] + LEAK * f,), (f,)


def back(ds, kept, s, s_next):
    δ = LEAK * ds[0] * (1.0 - kept[0] * kept[0])
    return (δ,), (δ,), ((1.0 - LEAK) * ds[0],)


def trials(count: int, rng) -> tuple[list[np.ndarray], np.ndarray]:
    """Samples (T, 1) of each trial, and whether they drift to the right."""
    drift = rng.choice([-0.2, -0.1, 0.1, 0.2], count)
    x = rng.normal(drift[:, None], 1.0, (count, T))
    return list(x[:, :, None].astype("float32")), (drift > 0).astype("int64")


def main(epochs: int = 12, n: int = 24, count: int = 4000) -> dict[str, float]:
    """Shares of right choices on new trials."""
    start, rng = time.perf_counter(), np.random.default_rng(0)
    leaky = rnn_gpu.cell("leaky", gates=1, states=1, kept=1, step=step, back=back)
    network = rnn_gpu.Network(
        [rnn_gpu.Recurrent(leaky, 1, n), rnn_gpu.Dense(n, 1)],
        loss="binary_cross_entropy",
        steps="last",
    )
    x, y = trials(count, rng)
    network.fit(x, y[:, None], epochs=epochs, batch_size=50, learning_rate=5e-3, clip_norm=1.0)
    x, y = trials(4000, rng)
    each = {
        "network": network.predict(x)[:, 0],
        "all samples added": np.array([one.sum() for one in x]),
        "the last one": np.array([one[-1, 0] for one in x]),
    }
    found = {name: float(((score > 0) == y).mean()) for name, score in each.items()}
    for name, share in found.items():
        print(f"{name:20}{share:.3f} of the choices right")
    ideal = np.mean([0.5 * (1 + math.erf(d * (T / 2) ** 0.5)) for d in (0.1, 0.2)])
    print(f"{'in theory at most':20}{ideal:.3f}\n{time.perf_counter() - start:.1f} s")
    return found


if __name__ == "__main__":
    main()
