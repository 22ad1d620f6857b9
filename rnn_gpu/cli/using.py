"""`rnn-gpu predict`, `evaluate`, `generate` and `export`: what a trained model is good for."""

import csv
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from .. import ArgumentError
from ..data import generate as going_on
from .classes import Classes
from .forecasts import Forecasts
from .jobs import opened
from .options import AUTO, NO_PICTURE, Model, OnDevice, Threads, use, writable

SHOWN = 4  # windows before the end that the picture of a forecast has


def predict(
    model: Model,
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file as it was trained on.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="A CSV file.")] = Path("out.csv"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Rows to forecast beyond the end. Default: --horizon.")
    ] = None,
    device: OnDevice = AUTO,
    threads: Threads = None,
):
    """Write what a model says of a file: forecasts beyond its end, and of each row from those
    before; or the class of each sequence.
    """
    use(threads)
    network, job = opened(model, str(device), data)
    writable("--out", out)
    if isinstance(job, Forecasts):
        forecast_rows(network, job, out, steps)
    elif isinstance(job, Classes):
        label_rows(network, job, out)
    else:
        raise ArgumentError(f"{model} goes on with a text: say `rnn-gpu generate {model}`")


def forecast_rows(network, job: Forecasts, out: Path, steps: int | None):
    """The file of a forecast, its picture, and what it says in short."""
    from .future import beyond

    series, test = job.series, job.parts["test"]
    said = job.predicted(network)[:, 0] if len(test.rows) else np.empty(0)
    future = beyond(network, job, steps or job.chosen.horizon)
    with out.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file).writerow
        write(["row" if series.times is None else "time", job.chosen.target, "forecast", "ahead"])
        by_row = dict(zip(test.rows.tolist(), said.tolist(), strict=True))
        for row in range(series.known):
            there, value = by_row.get(row), series.values[row, 0]
            truth = "" if np.isnan(value) else f"{value:.7g}"
            write([series.time(row), truth, *(("", "") if there is None else (f"{there:.7g}", 1))])
        for k, value in enumerate(future):
            write([series.time(series.known + k), "", f"{value:.7g}", k + 1])
    first, last = series.time(series.known), series.time(series.known + len(future) - 1)
    print(
        f"{job.chosen.target} from {first} to {last}: "
        + ", ".join(f"{v:.5g}" for v in future[:8])
        + (", …" if len(future) > 8 else "")
    )
    print(f"forecast {out}")
    try:
        from .pictures import future_picture

        shown = slice(-SHOWN * job.chosen.window, None)
        rows = test.rows[shown]
        known = rows, series.values[rows, 0], said[shown]
        path = out.with_suffix(".png")
        title = f"{job.chosen.target}: {len(future)} rows beyond {job.chosen.data}"
        future_picture(path, title, series, known, (np.arange(len(future)) + series.known, future))
        print(f"picture  {path}")
    except ImportError:
        print(NO_PICTURE, file=sys.stderr)


def label_rows(network, job: Classes, out: Path):
    """The file of classes."""
    part = job.parts["test"]
    logits = network.predict(part.x).astype("float64")
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file).writerow
        write(["sequence", "label", "predicted", "probability"])
        for i, (y, share) in enumerate(zip(part.y, shares, strict=True)):
            label = "" if y < 0 else job.labels[y]
            write([i, label, job.labels[share.argmax()], f"{share.max():.4f}"])
    print(f"{len(part.x)} sequences\nclasses  {out}")


def evaluate(
    model: Model,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="Default: the test part of what it was trained on."),
    ] = None,
    *,
    device: OnDevice = AUTO,
    threads: Threads = None,
):
    """Tell how good a model is on the test part of its data, or on all of a file."""
    use(threads)
    network, job = opened(model, str(device), data)
    print(job.said(job.measured(network)))


def generate(
    model: Model,
    *,
    prompt: Annotated[str, typer.Option(help="What the text begins with.")] = "The ",
    length: Annotated[int, typer.Option(min=1, help="Characters.")] = 400,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest; 1 draws as the model says.")
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Draw from the k likeliest only.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    device: OnDevice = AUTO,
):
    """Go on with a text."""
    from ..network import load
    from .texts import vocabulary_of

    network = load(model, device=str(device))
    vocabulary = vocabulary_of(model, network)
    if not prompt:
        raise ArgumentError("--prompt is '', expected at least one character")
    drawn = going_on(
        network,
        vocabulary.encode(prompt),
        length,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    )
    print(prompt + vocabulary.decode(drawn))


def export(
    model: Model,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file to write.")],
):
    """Write a model as ONNX; its states are zero where none are given."""
    from ..network import load

    network = load(model, device="cpu")
    try:
        from ..onnx import export as to_onnx
    except ImportError:
        raise ArgumentError("onnx is not installed (pip install onnx)") from None
    to_onnx(network, writable("FILE", path))
    print(f"onnx     {path}")
