"""rnn_gpu.jax against jax.lax.scan and flax.linen.RNN: training steps under jit on the CPU.

python -m benchmarks jax [--quick]

A step is the loss of all outputs and its gradients, of x too. Contenders take turns, in rounds;
medians. `lax.scan` is written by hand, the input side one product for all steps. The load is that
of the machine, before and after.
"""

import argparse
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

import rnn_gpu.flax
import rnn_gpu.jax
from benchmarks import record
from benchmarks._contenders import scan

CELLS = {
    "gru": linen.GRUCell,
    "lstm": linen.OptimizedLSTMCell,
    "elman": linen.SimpleCell,
}
SIZES = ((64, 1, 100), (64, 16, 100), (64, 16, 1000), (128, 16, 100), (256, 16, 100))  # n, B, T
ROUNDS, REPEATS = 5, 5


def losses(cell: str, n: int, key) -> dict:
    """(θ, x) -> the loss, by contender, and the parameters θ of each."""
    module = CELLS[cell](n)
    flax = linen.RNN(module, time_major=True)
    variables = flax.init(key, jnp.zeros((1, 1, n)))
    θ = rnn_gpu.flax.of_flax(variables["params"]["cell"])
    layer = {"gru": rnn_gpu.jax.gru, "lstm": rnn_gpu.jax.lstm, "elman": rnn_gpu.jax.rnn}[cell]
    by_scan = partial(scan(jax), cell)
    return {
        "ours": (lambda θ, x: (layer(θ, x)[0] ** 2).sum(), θ),
        "lax.scan": (lambda θ, x: (by_scan(θ, x) ** 2).sum(), θ),
        "flax": (lambda variables, x: (flax.apply(variables, x) ** 2).sum(), variables),
    }


def seconds(step, *given) -> float:
    start = time.perf_counter()
    jax.block_until_ready(step(*given))
    return time.perf_counter() - start


def measured(cell: str, n: int, B: int, T: int) -> dict:
    """Milliseconds of a step by contender, and how far results are from those of ours."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (T, B, n))
    steps = {
        name: (jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), θ)
        for name, (loss, θ) in losses(cell, n, key).items()
    }
    dx = {name: np.asarray(step(θ, x)[1][1]) for name, (step, θ) in steps.items()}
    times = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, (step, θ) in steps.items():
            seconds(step, θ, x)
            times[name] += [seconds(step, θ, x) for _ in range(REPEATS)]
    error = max(float(np.abs(a - dx["ours"]).max() / np.abs(a).max()) for a in dx.values())
    return {"error": error} | {name: 1e3 * float(np.median(row)) for name, row in times.items()}


def line(name: str, row: dict) -> str:
    others = [f"{other} {row[other] / row['ours']:.2f}" for other in ("lax.scan", "flax")]
    return f"{name:24} {row['ours']:8.2f} ms; times ours: {', '.join(others)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the least size alone, not recorded")
    quick = parser.parse_args().quick
    rows, load = {}, [os.getloadavg()[0]]
    for cell in CELLS:
        for n, B, T in SIZES[:1] if quick else SIZES:
            name = f"{cell} n={n} B={B} T={T}"
            rows[name] = measured(cell, n, B, T)
            print(line(name, rows[name]), flush=True)
    load.append(os.getloadavg()[0])
    print(f"load {load[0]:.2f} before, {load[1]:.2f} after")
    if not quick:
        print(record.write("jax", "cpu", {"load": load, "steps": rows}))


if __name__ == "__main__":
    main()
