"""The command `rnn-gpu`: train on a data set that ships with the library, and tell what this
machine offers.
"""

import json
import math
import platform
import sys
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from . import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Dense,
    Embedding,
    Network,
    RnnGpuError,
    datasets,
    load,
    verify,
)
from .device import NAMES, PRECISIONS, resolve, simulated, why_not

app = typer.Typer(
    help="Recurrent networks by back-propagation through time, with kernels in Python.",
    no_args_is_help=True,
)
CELLS = {"elman": RNN, "lstm": LSTM, "gru": GRU}
Cell = StrEnum("Cell", list(CELLS))
Data = StrEnum("Data", ["vowels", "python-manual"])
Device = StrEnum("Device", list(NAMES))
Precision = StrEnum("Precision", list(PRECISIONS))
Dtype = StrEnum("Dtype", ["float32", "float64"])
ELMAN, AUTO, FP32 = Cell("elman"), Device("auto"), Precision("fp32")  # the defaults
FLOAT32 = Dtype("float32")
VERIFIED = ("elman_tanh", "gru", "lstm")  # one of each kind
NO_PICTURE = "no picture: matplotlib is not installed (pip install matplotlib)"


class Job(NamedTuple):
    """A data set and the settings that suit it."""

    train: datasets.Sequences
    test: datasets.Sequences
    features: int
    embedded: int  # the size of a symbol's vector; 0 for features that are numbers
    outputs: int
    steps: str
    hidden: int
    batch_size: int
    epochs: int
    held_out: str


def job(data: str) -> Job:
    """The Job of a data set's name."""
    if data == "vowels":
        train, test = datasets.vowels(standardise=True)
        return Job(train, test, 12, 0, 9, "last", 64, 27, 60, "test")
    text = datasets.python_manual()
    k = len(text.vocabulary)
    return Job(text.train, text.validation, k, 64, k, "every", 128, 32, 5, "validation")


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


@app.command()
def train(
    *,
    cell: Annotated[Cell, typer.Option(help="The recurrent cell.")] = ELMAN,
    data: Annotated[
        Data,
        typer.Option(help="Speakers of Japanese vowels, or the characters of Python's manual."),
    ] = Data.vowels,
    device: Annotated[Device, typer.Option(help="auto takes a GPU if there is one.")] = AUTO,
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
        from .bridges.plots import training_picture
        from .network.gradient_flow import delta_norms

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


@app.command()
def gradflow(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            exists=True,
            dir_okay=False,
            help="A file that `rnn-gpu train` or Network.save wrote.",
        ),
    ],
    data: Annotated[Data, typer.Option(help="What it was trained on.")] = Data.vowels,
    samples: Annotated[int, typer.Option(min=1, help="How many of the training sequences.")] = 64,
    device: Annotated[Device, typer.Option(help="auto takes a GPU if there is one.")] = AUTO,
    out: Annotated[
        Path | None, typer.Option(help="Where the picture goes. Default: beside the model.")
    ] = None,
):
    """Tell how the gradient of a model fares on its way back through time, what to do about it, and
    draw it.
    """
    x, y = job(data).train
    report = load(model, device=device).gradient_flow(x[:samples], y[:samples])
    print(report)
    path = out or model.with_suffix(".gradflow.png")
    try:
        report.plot(path)
        print(f"picture  {path}")
    except ImportError:
        print(NO_PICTURE, file=sys.stderr)
    except OSError as error:
        raise ArgumentError(f"--out is {path}, where no file can be written: {error}") from None


@app.command("verify")
def verify_cells(
    *,
    cell: Annotated[
        list[str] | None,
        typer.Option(
            help="A built-in cell, or module:name of your own; again for another. Default: "
            f"{', '.join(VERIFIED)}."
        ),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the kernels.")] = FLOAT32,
    n: Annotated[int, typer.Option(min=1, help="Units.")] = 7,
):
    """Run cells on everything that this machine has, and compare: formulas, gradients, CPU, the
    GPU's kernels in the simulator and as compiled code that is executed without a GPU, and a GPU.

    Exit status 1 where something is wrong.
    """
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: where one's own modules are
    failures = 0
    for one in cell or VERIFIED:
        found = verify(one, dtype=str(dtype), n=n)
        print(found)
        failures += len(found.failures)
    if failures:
        print(f"{failures} of these lines failed", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def info():
    """Versions, devices, and what device="auto" means on this machine."""
    for package in (
        "rnn_gpu",
        "numpy",
        "numba",
        "numba-cuda",
        "cupy-cuda13x",
        "cupy-cuda12x",
        "matplotlib",
    ):
        try:
            print(f"{package:14}{version(package)}")
        except PackageNotFoundError:
            print(f"{package:14}not installed")
    print(f"{'python':14}{platform.python_version()} on {platform.machine()}")
    reason = why_not("cuda")
    cuda = "the simulator (NUMBA_ENABLE_CUDASIM=1)" if simulated() else "a GPU"
    print(f"{'cuda':14}{'no: ' + reason if reason else cuda}")
    print(f"{'auto':14}{resolve('auto').name}")
    store = kernel_store().folder()
    kept = store.files()
    limit = f"{in_megabytes(kept)} of at most {store.most / 1e6:g} (RNN_GPU_CACHE_MB)"
    trouble = store.trouble()
    print(f"{'kernels':14}{'not kept: ' + trouble if trouble else f'{len(kept)} kept, {limit}'}")
    print(f"{'':14}in {store.path}; `rnn-gpu clear-kernels` removes them")


@app.command()
def clear_kernels():
    """Remove the compiled kernels that are kept on disk from run to run; they are compiled again
    when they are needed.
    """
    removed = kernel_store().clear()
    print(f"{len(removed)} files removed, {in_megabytes(removed)}")


def kernel_store():
    """Where compiled kernels are kept.  ArgumentError where the environment's bound is none."""
    why_not("cpu")
    from .kernels import store

    return store


def in_megabytes(files) -> str:
    """How large files are together, in words."""
    return f"{sum(file.bytes for file in files) / 1e6:.1f} MB"


def main():
    """The entry point: our own errors are one line and exit status 2."""
    try:
        app()
    except RnnGpuError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
