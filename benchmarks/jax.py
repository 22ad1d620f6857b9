"""rnn_gpu.jax against jax.lax.scan and flax.linen.RNN: training steps under jit on the CPU.

python -m benchmarks jax [--quick]

A step is the loss of all outputs and its gradients, of x too. Contenders take turns, in rounds.
`lax.scan` is written by hand, the input side one product for all steps. Of each: the least and the
median of the clock, and the median of processor time, of all threads, which other programs disturb
least. The load is that of the machine, before and after.
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
ROUNDS, REPEATS = 6, 3


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


def times(step, *given) -> tuple[float, float]:
    """Milliseconds of a step, by the clock and of processors."""
    clock, processors = time.perf_counter(), time.process_time()
    jax.block_until_ready(step(*given))
    return 1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - processors)


def measured(cell: str, n: int, B: int, T: int) -> dict:
    """Milliseconds of a step by contender, and how far results are from those of ours."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (T, B, n))
    steps = {
        name: (jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), θ)
        for name, (loss, θ) in losses(cell, n, key).items()
    }
    dx = {name: np.asarray(step(θ, x)[1][1]) for name, (step, θ) in steps.items()}
    rows = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, (step, θ) in steps.items():
            times(step, θ, x)
            rows[name] += [times(step, θ, x) for _ in range(REPEATS)]
    error = max(float(np.abs(a - dx["ours"]).max() / np.abs(a).max()) for a in dx.values())
    return {"error": error} | {name: summary(np.array(row)) for name, row in rows.items()}


def summary(rows) -> dict:
    """Of times (·, 2), in milliseconds."""
    (least, _), (median, processors) = rows.min(0), np.median(rows, 0)
    return {"least_ms": least, "median_ms": median, "processors_ms": processors}


def line(name: str, row: dict) -> str:
    """Ours, and the others' over it: the least by the clock, and of processors."""
    ours, said = row["ours"], []
    for other in ("lax.scan", "flax"):
        clock, processors = (row[other][of] / ours[of] for of in ("least_ms", "processors_ms"))
        said.append(f"{other} {clock:.2f} ({processors:.2f})")
    return (
        f"{name:24} {ours['least_ms']:8.2f} ms ({ours['processors_ms']:.2f} of processors); times"
        f" ours: {', '.join(said)}"
    )


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
