"""`rnn-gpu train`: a network from a data set, what it is worth, and what is kept of it."""

import json
import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import ArgumentError, Dense, Embedding, Network, load
from .jobs import job
from .options import AUTO, CELLS, ELMAN, FP32, NO_PICTURE, Cell, Data, OnDevice, Precision


def new_folder(stem: Path) -> Path:
    """Make and return stem-1, stem-2, …: the first that is free."""
    k = 1
    while True:
        folder = stem.with_name(f"{stem.name}-{k}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            k += 1
        except OSError as error:
            raise ArgumentError(
                f"--out is {stem.parent}, where no folder can be made: {error}"
            ) from None


def train(
    *,
    cell: Annotated[Cell, typer.Option(help="The recurrent cell.")] = ELMAN,
    data: Annotated[
        Data,
        typer.Option(help="Speakers of Japanese vowels, or the characters of Python's manual."),
    ] = Data.vowels,
    device: OnDevice = AUTO,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: 60 for vowels, 5 for python-manual.")
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(min=1, help="Units. Default: 64 for vowels, 128 for python-manual."),
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Of Adam.")] = 3e-3,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the initial weights and the order of the samples.")
    ] = 0,
    precision: Annotated[
        Precision, typer.Option(help="Of matrix products; tf32 is for a GPU.")
    ] = FP32,
    out: Annotated[Path, typer.Option(help="Where the folder of this run is made.")] = Path("runs"),
):
    """Train a network, print how good it is on held-out data, and keep the model and a picture."""
    task = job(data)
    n, epochs = hidden or task.hidden, epochs or task.epochs
    options = {"device": device.value, "seed": seed, "precision": precision.value}
    embedding = [Embedding(task.features, task.embedded, **options)] if task.embedded else []
    layers = [
        *embedding,
        CELLS[cell](task.embedded or task.features, n, **options),
        Dense(n, task.outputs, **options),
    ]
    network = Network(layers, loss="softmax_cross_entropy", steps=task.steps)
    folder = new_folder(out / f"{data}-{cell}-seed{seed}")
    model = folder / "model.safetensors"
    print(
        f"{cell}, {n} units, on {data}: {len(task.train.x)} sequences to train on, "
        f"{len(task.test.x)} held out; device {network.device}"
    )
    kept: dict = {}

    def keep_best(network, history):
        # of training: the held-out samples choose nothing
        if history["loss"][-1] <= min(history["loss"]):
            network.save(model)
        kept.update(history)

    stopped = False
    try:
        settings = {
            "epochs": epochs,
            "batch_size": task.batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
        }
        network.fit(
            task.train.x,
            task.train.y,
            validation=(task.test.x, task.test.y),
            on_epoch=keep_best,
            **settings,
        )
    except KeyboardInterrupt:
        stopped = True
        if not kept:
            folder.rmdir()
            print("\nstopped before the first epoch was over: nothing to keep", file=sys.stderr)
            raise typer.Exit(130) from None
        print("\nstopped; the best model so far is kept", file=sys.stderr)
    except BaseException:
        if not kept:
            folder.rmdir()
        raise

    best = load(model, device=device)
    found = best.evaluate(task.test.x, task.test.y)
    bits = "" if task.steps == "last" else f", {found['loss'] / math.log(2):.3f} bits a character"
    print(f"{task.held_out} accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}{bits}")
    (folder / "history.json").write_text(json.dumps(kept | {task.held_out: found}))
    print(f"model    {model}\nhistory  {folder / 'history.json'}")
    try:
        from ..bridges.plots import training_picture
        from ..network.gradient_flow import delta_norms

        norms = delta_norms(best, task.train.x[:64], task.train.y[:64])
        training_picture(
            folder / "training.png",
            f"{cell}, {n} units, {data}: {task.held_out} accuracy {found['accuracy']:.4f}",
            kept,
            norms,
        )
        print(f"picture  {folder / 'training.png'}")
    except ImportError:
        print(NO_PICTURE, file=sys.stderr)
    if stopped:
        raise typer.Exit(130)
