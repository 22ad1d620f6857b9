"""Which remedy trains best: what gradient_flow may recommend to a network whose gradient explodes
or vanishes, each tried.

    python -m benchmarks remedies [--quick] [--start "tanh, W × 4" …] [--device cpu]

n = 64, Adam at 1e-3 and 3e-3, two seeds: the loss of the last ten updates, the median of the seeds,
at the better learning rate. Speakers by their vowels: 150 updates from batches of 27. The adding
problem, 50 steps: 400 updates from batches of 64.
"""

import argparse
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import rnn_gpu

from . import record
from .vanishing import adding

NAME, PLACE = "remedies", "cpu"
N = 64
RATES, SEEDS = (1e-3, 3e-3), (0, 1)


class Task(NamedTuple):
    """Data, and how long a trial is."""

    x: list
    y: list
    m: int
    k: int
    loss: str
    batch: int
    epochs: int

    def network(self, layer, **options):
        readout = rnn_gpu.Dense(layer.hidden_size, self.k, seed=layer.seed, **options)
        return rnn_gpu.Network([layer, readout], loss=self.loss, steps="last")


def speakers(quick):
    train, _ = rnn_gpu.datasets.vowels(standardise=True)
    count = 12 if quick else len(train.x)
    return Task(
        train.x[:count],
        train.y[:count],
        12,
        9,
        "softmax_cross_entropy",
        6 if quick else 27,
        2 if quick else 15,
    )


def sums(quick):
    x, y = adding(50, *((12,) if quick else (6400,)), np.random.default_rng(0))
    return Task(list(x), list(y), 2, 1, "squared_error", 6 if quick else 64, 1 if quick else 4)


def times(scale: float, kind: Callable, *arguments) -> Callable:
    """A layer whose W is `scale` times that of its default start."""

    def build(m, n, **options):
        layer = kind(m, n, *arguments, **options)
        layer.parameters["W"][...] *= scale
        return layer

    return build


def gated(kind, bias: float) -> Callable:
    """A layer with this bias of the gate that keeps the state."""

    def build(m, n, **options):
        layer = kind(m, n, **options)
        layer.parameters["b"][n : 2 * n] = bias
        return layer

    return build


def plain(kind, *arguments, **more) -> Callable:
    return lambda m, n, **options: kind(m, n, *arguments, **more, **options)


def clipped(start: Callable) -> dict:
    """The ways to bound a gradient; "δ" stands for ‖δ‖ of the last step, the median over samples,
    before training.
    """
    bounds = ({"clip_norm": 1.0}, {"clip_step_norm": 1.0}, {"clip_step_norm": "δ"})
    return {
        ", ".join(f"{name}={value}" for name, value in bound.items()): (start, bound)
        for bound in bounds
    }


def explodes(task, kind, scale: float, *arguments) -> tuple:
    start = times(scale, kind, *arguments)
    return task, {"as it is": (start, {})} | clipped(start) | {
        f"W / {scale}": (plain(kind, *arguments), {})
    }


def vanishes(task, start, **others) -> tuple:
    return task, {"as it is": (start, {})} | {
        name.replace("_", " "): (layer, {}) for name, layer in others.items()
    }


RNN, LSTM, GRU = rnn_gpu.RNN, rnn_gpu.LSTM, rnn_gpu.GRU
RELU = plain(RNN, "relu")
CELLS = {"default_start": plain(RNN), "ReLU": RELU, "LSTM": LSTM, "GRU": GRU}
STARTS = {  # name: (task, {remedy: (layer, options of fit)})
    "speakers: tanh, W × 4": explodes(speakers, RNN, 4),
    "speakers: ReLU, W × 1.5": explodes(speakers, RNN, 1.5, "relu"),
    "speakers: LSTM, W × 8": explodes(speakers, LSTM, 8),
    "adding: tanh, W × 3": explodes(sums, RNN, 3),
    "adding: ReLU, W × 1.2": explodes(sums, RNN, 1.2, "relu"),
    "speakers: tanh, the tutorial's start": vanishes(
        speakers, plain(RNN, init="tutorial"), **CELLS
    ),
    "adding: tanh, torch's start": vanishes(sums, plain(RNN, init="torch"), **CELLS),
    "adding: sigmoid": vanishes(sums, plain(RNN, "sigmoid"), ReLU=RELU, LSTM=LSTM, GRU=GRU),
    "adding: ReLU, W × 0.5": vanishes(
        sums, times(0.5, RNN, "relu"), default_start=RELU, LSTM=LSTM, GRU=GRU
    ),
    "adding: LSTM, forget bias 0": vanishes(
        sums, gated(LSTM, 0), forget_bias_1=LSTM, forget_bias_3=gated(LSTM, 3)
    ),
    "adding: GRU": vanishes(sums, GRU, update_bias_1=gated(GRU, 1), update_bias_3=gated(GRU, 3)),
}


def trial(task: Task, build, bound: dict, rate: float, seed: int, device: str) -> float:
    """The loss of the last ten updates, infinite where training stopped at a number that is not
    finite.
    """
    network = task.network(build(task.m, N, seed=seed, device=device), device=device)
    if "δ" in bound.values():
        bound = {name: last_delta(network, task) for name in bound}
    given = {
        "epochs": task.epochs,
        "batch_size": task.batch,
        "learning_rate": rate,
        "seed": seed,
        "progress": False,
    }
    try:
        return float(np.mean(network.fit(task.x, task.y, **given, **bound)["step_loss"][-10:]))
    except rnn_gpu.NonFiniteError:
        return np.inf


def last_delta(network, task: Task) -> float:
    """‖δ‖ of the last step of a sample of a batch, the median over samples."""
    network.gradient(task.x[: task.batch], task.y[: task.batch])
    norms = np.sqrt((network.backend.numpy(network.layers[0].delta).astype(float) ** 2).sum((2, 3)))
    return float(np.median([norms[len(x) - 1, b] for b, x in enumerate(task.x[: task.batch])]))


def tried(name: str, device: str, quick: bool) -> dict:
    build_task, remedies = STARTS[name]
    task = build_task(quick)
    network = task.network(remedies["as it is"][0](task.m, N, device=device), device=device)
    (flow,) = network.gradient_flow(task.x[: task.batch], task.y[: task.batch]).layers
    rows = {
        remedy: {
            str(rate): float(np.median([trial(task, *how, rate, seed, device) for seed in SEEDS]))
            for rate in RATES
        }
        for remedy, how in remedies.items()
    }
    return {
        "verdict": flow.verdict,
        "horizon": flow.horizon,
        "steps": len(flow.delta),
        "loss": rows,
    }


def best(losses: dict) -> float:
    return min(losses.values())


def table(results: dict) -> str:
    lines = [
        "| start | before training | loss after training, by remedy; the best is bold |",
        "| --- | --- | --- |",
    ]
    for name, row in results.items():
        least = min(map(best, row["loss"].values()))
        said = [
            f"{remedy} {'**' * (best(a) == least)}{best(a):.3g}{'**' * (best(a) == least)}"
            for remedy, a in row["loss"].items()
        ]
        steps = f"> {row['steps']}" if row["horizon"] is None else row["horizon"]
        lines.append(f"| {name} | {row['verdict']}, horizon {steps} | {'; '.join(said)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few updates, not recorded")
    parser.add_argument("--start", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    path = record.RESULTS / PLACE / f"{NAME}.json"
    results = {}
    for name in chosen.start:
        row = tried(name, chosen.device, chosen.quick)
        print(table({name: row}).splitlines()[-1], flush=True)
        if path.exists() and not chosen.quick:
            results = json.loads(path.read_text())["results"]
        results = {
            start: (results | {name: row})[start]
            for start in STARTS
            if start in results | {name: row}
        }
        if not chosen.quick:
            record.write(NAME, PLACE, results)
    print(table(results))


if __name__ == "__main__":
    main()
