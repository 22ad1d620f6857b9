"""rnn_gpu.jax against jax.lax.scan and flax.linen.RNN: passes and training steps under jit on the
CPU.

python -m benchmarks jax [--quick] [--when PATH]

A forward pass gives all outputs; a step is the loss of all outputs and its gradients, of x too.
`lax.scan` is written by hand, the input side one product for all steps. All is compiled first, then
contenders take turns, in rounds; with --when once there is a file of this name, so that a machine
need stand still for the rounds alone. Of each: the least and the median of the clock, and the
median of processor time, of all threads, which other programs disturb least. The load is that of
the machine, before and after.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path

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
SIZES = [(n, B, 100) for n in (32, 64, 128, 256) for B in (1, 16)]  # n, B, T
SIZES += [(64, 1, 1000), (64, 16, 1000)]
FEW = [(n, B, 100) for n in (64, 256) for B in (1, 16)]  # of the cells below the first
SECONDS, REPEATS = 2.7, 3  # of a case, and of a contender a round


def passes(cell: str, n: int, key) -> dict:
    """(θ, x) -> y, by contender, and the parameters θ of each."""
    module = CELLS[cell](n)
    flax = linen.RNN(module, time_major=True)
    variables = flax.init(key, jnp.zeros((1, 1, n)))
    θ = rnn_gpu.flax.of_flax(variables["params"]["cell"])
    layer = {"gru": rnn_gpu.jax.gru, "lstm": rnn_gpu.jax.lstm, "elman": rnn_gpu.jax.rnn}[cell]
    by_scan = partial(scan(jax), cell)
    return {
        "ours": (lambda θ, x: layer(θ, x)[0], θ),
        "lax.scan": (by_scan, θ),
        "flax": (flax.apply, variables),
    }


def times(step, *given) -> tuple[float, float]:
    """Milliseconds of a step, by the clock and of processors."""
    clock, processors = time.perf_counter(), time.process_time()
    jax.block_until_ready(step(*given))
    return 1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - processors)


def compiled(cell: str, n: int, B: int, T: int) -> dict:
    """(function, its arguments) by what it does and contender, each called once, and how far dx is
    from ours.
    """
    key = jax.random.key(0)
    x = jax.random.normal(key, (T, B, n))
    calls, dx = {}, {}
    for name, (forward, θ) in passes(cell, n, key).items():
        step = jax.jit(jax.value_and_grad(partial(loss, forward), argnums=(0, 1)))
        calls["forward", name] = jax.jit(forward), θ, x
        calls["step", name] = step, θ, x
        jax.block_until_ready(calls["forward", name][0](θ, x))
        dx[name] = np.asarray(step(θ, x)[1][1])
    error = max(float(np.abs(a - dx["ours"]).max() / np.abs(a).max()) for a in dx.values())
    return {"error": error, "calls": calls}


def loss(forward, θ, x):
    return (forward(θ, x) ** 2).sum()


def measured(case: dict, seconds: float) -> dict:
    """Milliseconds by what is done and contender."""
    rows, end = {key: [] for key in case["calls"]}, time.perf_counter() + seconds
    while time.perf_counter() < end or not all(rows.values()):
        for key, (call, θ, x) in case["calls"].items():
            times(call, θ, x)
            rows[key] += [times(call, θ, x) for _ in range(REPEATS)]
    found: dict = {"error": case["error"]}
    for (what, name), row in rows.items():
        found.setdefault(what, {})[name] = summary(np.array(row))
    return found


def summary(rows) -> dict:
    """Of times (·, 2), in milliseconds."""
    (least, _), (median, processors) = rows.min(0), np.median(rows, 0)
    return {"least_ms": least, "median_ms": median, "processors_ms": processors}


def line(name: str, row: dict) -> str:
    """Ours, and the others' over it: the least by the clock, and of processors."""
    parts = []
    for what in ("forward", "step"):
        ours, said = row[what]["ours"], []
        for other in ("lax.scan", "flax"):
            clock, processors = (
                row[what][other][of] / ours[of] for of in ("least_ms", "processors_ms")
            )
            said.append(f"{other} {clock:.2f} ({processors:.2f})")
        parts.append(f"{what} {ours['least_ms']:.2f} ms; times ours: {', '.join(said)}")
    return f"{name:24} {'; '.join(parts)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the least size alone, not recorded")
    parser.add_argument("--when", type=Path, help="measure once there is a file of this name")
    args = parser.parse_args()
    cases = [(cell, size) for cell in CELLS for size in (SIZES if cell == "gru" else FEW)]
    cases = [(cell, SIZES[0]) for cell in CELLS] if args.quick else cases
    ready = [compiled(cell, *size) for cell, size in cases]
    print("compiled", flush=True)
    while args.when is not None and not args.when.exists():
        time.sleep(0.05)
    rows, load = {}, [os.getloadavg()[0]]
    for (cell, (n, B, T)), case in zip(cases, ready, strict=True):
        name = f"{cell} n={n} B={B} T={T}"
        rows[name] = measured(case, SECONDS)
        print(line(name, rows[name]), flush=True)
    load.append(os.getloadavg()[0])
    print(f"load {load[0]:.2f} before, {load[1]:.2f} after")
    if not args.quick:
        print(record.write("jax", "cpu", {"load": load, "steps": rows}))


if __name__ == "__main__":
    main()
