"""Who can bridge a delay: the adding problem and the copy task, with the gradient's horizon before
and after training.

    python -m benchmarks vanishing [--quick] [--task adding-100 …] [--updates 2500] [--device cpu]
    [--plot FILE]

n = 64, batches of 64 fresh sequences, Adam 2e-3, the gradient cut at a norm of 1; one seed. Rows
that are already recorded stay.
"""

import argparse
import json

import numpy as np

import rnn_gpu

from . import record

NAME, PLACE = "vanishing", "cpu"
CHUNK = 100  # batches a call of fit, and a point of the curve
TASKS = ("adding-100", "adding-200", "copy-10", "copy-20")


def cells(m, n, **options):
    """What competes, by the name of its row."""
    return {
        "Elman tanh, torch's initial weights": rnn_gpu.RNN(m, n, init="torch", **options),
        "Elman tanh": rnn_gpu.RNN(m, n, **options),
        "Elman ReLU": rnn_gpu.RNN(m, n, "relu", **options),
        "LSTM": rnn_gpu.LSTM(m, n, **options),
        "GRU": rnn_gpu.GRU(m, n, **options),
    }


def adding(T, count, rng):
    """Numbers in 0 … 1 with two of them marked, one in each half; the target is their sum
    (Hochreiter and Schmidhuber 1997).
    """
    x = np.zeros((count, T, 2), "float32")
    x[:, :, 0] = rng.uniform(size=(count, T))
    rows, half = np.arange(count), T // 2
    first, second = rng.integers(0, half, count), rng.integers(half, T, count)
    x[rows, first, 1] = x[rows, second, 1] = 1
    return x, (x[rows, first, 0] + x[rows, second, 0])[:, None]


def copy(delay, count, rng):
    """Ten symbols of eight, a delay, a signal, and the ten again (Arjovsky 2016): symbols 1 … 8, 0
    is blank, 9 the signal.
    """
    word = rng.integers(1, 9, (count, 10))
    x, y = np.zeros((2, count, 20 + delay), np.int64)
    x[:, :10], x[:, 10 + delay - 1] = word, 9
    y[:, -10:] = word
    return x, y


class Task:
    """adding-T or copy-DELAY: data, network, and its error with what chance has."""

    def __init__(self, name):
        self.kind, size = name.split("-")
        self.size = int(size)
        self.m, self.k = (2, 1) if self.kind == "adding" else (10, 10)
        self.loss, self.steps = (
            ("squared_error", "last")
            if self.kind == "adding"
            else ("softmax_cross_entropy", "every")
        )
        self.error = (
            "mean squared error (chance 0.167)"
            if self.kind == "adding"
            else "share of the ten symbols wrong (chance 0.875)"
        )

    def draw(self, count, rng):
        return (
            adding(self.size, count, rng) if self.kind == "adding" else copy(self.size, count, rng)
        )

    def network(self, layer, **options):
        return rnn_gpu.Network(
            [layer, rnn_gpu.Dense(layer.hidden_size, self.k, **options)],
            loss=self.loss,
            steps=self.steps,
        )

    def wrong(self, network, x, y) -> float:
        o = network.predict(x)
        if self.kind == "adding":
            return float(((o - y) ** 2).mean())
        return float((np.stack(o)[:, -10:].argmax(-1) != y[:, -10:]).mean())


def flow_of(network, x, y) -> tuple[dict, list]:
    """What the report says, and the measured curve."""
    (flow,) = network.gradient_flow(x, y).layers
    return {
        "verdict": flow.verdict,
        "horizon": flow.horizon,
        "steps": len(flow.delta),
        "lyapunov": flow.lyapunov if np.isfinite(flow.lyapunov) else None,
    }, [float(f"{a:.3g}") for a in flow.delta[:, 1]]


def train(task: Task, layer, updates: int, batch: int, **options) -> dict:
    rng = np.random.default_rng(0)
    network, held_out = task.network(layer, **options), task.draw(1000, np.random.default_rng(1))
    flowing = [a[:batch] for a in held_out]
    before, delta = flow_of(network, *flowing)
    row = {"error_is": task.error, "before": before, "delta": delta, "loss": []}
    adam, done = rnn_gpu.optimizers.Adam(2e-3), 0
    while done < updates:
        now = min(CHUNK, updates - done)
        x, y = task.draw(now * batch, rng)
        try:
            history = network.fit(
                x,
                y,
                epochs=1,
                batch_size=batch,
                optimizer=adam,
                clip_norm=1.0,
                shuffle=False,
                progress=False,
            )
        except rnn_gpu.NonFiniteError as error:
            return row | {"failed": f"after {done} updates or more: {error}"}
        done += now
        row["loss"].append(float(np.mean(history["step_loss"])))
    return row | {
        "updates": done,
        "error": task.wrong(network, *held_out),
        "after": flow_of(network, *flowing)[0],
    }


def table(results) -> str:
    lines = [
        "| task | | error | before training | horizon | after training | horizon |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, rows in results.items():
        for cell, row in rows.items():
            found = [row["error"] if "error" in row else row["failed"]] + [
                value
                for when in ("before", "after")
                for value in (row.get(when, {}).get("verdict"), steps(task, row.get(when)))
            ]
            lines.append(
                "| "
                + " | ".join(
                    [task, cell, *(f"{a:.4f}" if isinstance(a, float) else str(a) for a in found)]
                )
                + " |"
            )
    return "\n".join(lines)


def steps(task, flow) -> str:
    return (
        ""
        if flow is None
        else f"> {flow['steps']}"
        if flow["horizon"] is None
        else str(flow["horizon"])
    )


def plot(results, path):
    """A row a task: ‖δ_k‖/‖δ_T‖ before training, and the loss as it falls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.4 * len(results)), layout="constrained")
    for (task, rows), (left, right) in zip(
        results.items(), figure.subplots(len(results), 2, squeeze=False), strict=True
    ):
        for cell, row in rows.items():
            delta = np.maximum(row["delta"], 1e-30)
            left.semilogy(-np.arange(len(delta)), delta, label=cell)
            right.semilogy(CHUNK * np.arange(1, len(row["loss"]) + 1), row["loss"], label=cell)
        left.axhspan(1e-3, 1e3, alpha=0.1)
        left.set(
            title=f"{task}: before training",
            xlabel="time step k, 0 is the last",
            ylabel="‖δ_k‖ / ‖δ_T‖",
            ylim=(1e-12, 1e4),
        )
        right.set(title=f"{task}: training", xlabel="updates", ylabel="loss")
        right.legend()
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, a few updates, not recorded"
    )
    parser.add_argument("--task", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--updates", type=int, default=2500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", help="draw all recorded rows here")
    chosen = parser.parse_args()
    options, path = {"device": chosen.device}, record.RESULTS / PLACE / f"{NAME}.json"
    if chosen.quick:
        tasks, n, updates, batch, results = ("adding-12", "copy-2"), 8, 6, 4, {}
    else:
        tasks, n, updates, batch = chosen.task, 64, chosen.updates, 64
        results = json.loads(path.read_text())["results"] if path.exists() else {}
    for name in tasks:
        task = Task(name)
        results[name] = {}
        for cell, layer in cells(task.m, n, **options).items():
            results[name][cell] = train(task, layer, updates, batch, **options)
            print(table({name: {cell: results[name][cell]}}).splitlines()[-1], flush=True)
        if not chosen.quick:
            record.write(NAME, PLACE, results)
    print(table(results))
    if chosen.plot:
        plot(results, chosen.plot)


if __name__ == "__main__":
    main()
