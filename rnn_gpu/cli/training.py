"""`rnn-gpu train`: a network from data, what it is worth, and what is kept of it."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from .. import RNN, ArgumentError, Dense, Embedding, Network
from ..callbacks import EarlyStopping
from ..kernels.activations import ACTIVATIONS
from ..schedules import cosine
from .choices import BUILT_IN, Chosen
from .config import from_file
from .jobs import Job, job_of
from .options import (
    ADAM,
    AUTO,
    CELLS,
    FP32,
    INIT,
    NO_PICTURE,
    REFUSE,
    Cell,
    Init,
    Missing,
    OnDevice,
    Precision,
    Rule,
    Task,
    Threads,
    use,
)


class Run(NamedTuple):
    """How one network is trained."""

    layers: dict[str, Any]  # options of every layer
    fit: dict[str, Any]  # arguments of Network.fit
    cell: str
    hidden: int
    activation: str | None
    patience: int


def train(
    *,
    data: Annotated[
        str,
        typer.Option(
            help="A file: .csv (a series, or --task classify), .npz (sequences x, labels y), "
            f".txt (a text); or {' or '.join(BUILT_IN)}."
        ),
    ] = "vowels",
    task: Annotated[Task | None, typer.Option(help="Default: as the file suggests.")] = None,
    target: Annotated[
        str | None, typer.Option(help="The column to be forecast, or of labels.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Other columns to look at: a,b. Default: all of numbers.")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option("--time", help="Column of times. Default: the first that is one.")
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(help="Column that names the sequence of each row (classify).")
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Rows that a forecast looks at.")] = 96,
    horizon: Annotated[int, typer.Option(min=1, help="Rows that are forecast at once.")] = 1,
    season: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of a season, as a baseline. Default: a week, or a day."),
    ] = None,
    calendar: Annotated[bool, typer.Option(help="Look at the time of day and of week.")] = True,
    missing: Annotated[
        Missing, typer.Option(help="mask: rows with gaps are steps that do not happen.")
    ] = REFUSE,
    delimiter: Annotated[str | None, typer.Option(help="Of a CSV file. Default: seen.")] = None,
    decimal: Annotated[str, typer.Option(help='"." or ",".')] = ".",
    dates: Annotated[
        str | None, typer.Option(help='As "%d.%m.%Y %H:%M". Default: ISO 8601.')
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Share at the end, or the date where it begins.")
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of what is before the test part.")
    ] = 0.15,
    cell: Annotated[
        Cell | None, typer.Option(help="Default: elman for built-in data, else lstm.")
    ] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Units.")] = None,
    activation: Annotated[
        str | None, typer.Option(help="Of an elman cell: tanh, relu, sigmoid, …")
    ] = None,
    init: Annotated[Init, typer.Option(help="Of the weights.")] = INIT,
    optimizer: Annotated[Rule, typer.Option(help="How weights change.")] = ADAM,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Default: 0.003.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sequences of an update.")] = None,
    clip: Annotated[
        float | None, typer.Option(min=0.0, help="Bound of the norm of all gradients.")
    ] = None,
    truncate: Annotated[
        tuple[int, int] | None,
        typer.Option(help="k1 k2: an update every k1 steps, from a gradient k2 steps long."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without a better validation loss.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="A file that training is kept in; where it is there, it goes on."),
    ] = None,
    device: OnDevice = AUTO,
    threads: Threads = None,
    precision: Annotated[
        Precision, typer.Option(help="Of matrix products; tf32 and bf16 are for a GPU.")
    ] = FP32,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the initial weights and the order of the samples.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Where the folder of this run is made.")] = Path("runs"),
    config: Annotated[
        Path | None,
        typer.Option(
            callback=from_file,
            is_eager=True,
            help="Options in TOML or JSON; those on the line win.",
        ),
    ] = None,
):
    """Train a network, print how good it is on data that it never saw, keep it and a picture.

    The validation part chooses the model; the test part is looked at once, at the end.
    """
    started = time.perf_counter()
    use(threads)
    job = job_of(
        Chosen(
            data=data,
            task=task,
            target=target,
            columns=tuple(one.strip() for one in columns.split(",")) if columns else (),
            time=time_column,
            sequence=sequence,
            window=window,
            horizon=horizon,
            season=season,
            calendar=calendar,
            missing=missing,
            delimiter=delimiter,
            decimal=one_of("--decimal", decimal, (".", ",")),
            dates=dates,
            test=test,
            validation=validation,
            seed=seed,
        )
    )
    kind = cell or Cell("elman" if data in BUILT_IN else "lstm")
    default = job.defaults
    rate = default.learning_rate if learning_rate is None else learning_rate
    fitting: dict[str, Any] = {
        "epochs": epochs or default.epochs,
        "batch_size": batch_size or default.batch_size,
        "optimizer": str(optimizer),
        "learning_rate": rate,
        "clip_norm": clip,
        "truncate": truncate,
        "seed": seed,
    }
    layers = {"device": str(device), "seed": seed, "precision": str(precision), "init": str(init)}
    run = Run(
        layers,
        fitting,
        str(kind),
        hidden or default.hidden,
        activation,
        patience or default.patience,
    )
    network = built(job, run)
    folder = new_folder(out / f"{Path(data).stem}-{kind}-seed{seed}")
    print(f"{kind}, {run.hidden} units, on {data}: {job.size()}; device {network.device}")
    stopped, kept = fitted(network, job, run, folder, resume)
    report(job, run, job.final(network), folder, kept, started)
    if stopped:
        raise typer.Exit(130)


def one_of(option: str, value: str, options) -> str:
    """value, if it is one of the options."""
    if value not in options:
        raise ArgumentError(f"{option} is {value!r}, expected one of {' '.join(options)}")
    return value


def built(job: Job, run: Run) -> Network:
    """The network of a job: an embedding where there are symbols, a recurrent layer, a readout."""
    options, m = run.layers, job.input_size
    for_embedding = {name: options[name] for name in ("device", "seed", "precision")}
    embedding = [Embedding(m, job.embedded, **for_embedding)] if job.embedded else []
    kind = CELLS[run.cell]
    more: dict[str, Any] = dict(options)
    if run.activation is not None:
        if kind is not RNN:
            raise ArgumentError(f"--activation is {run.activation}, but --cell is {run.cell}")
        more["activation"] = one_of("--activation", run.activation, ACTIVATIONS)
    recurrent = kind(job.embedded or m, run.hidden, **more)
    readout = Dense(run.hidden, job.outputs, **options)
    return Network([*embedding, recurrent, readout], loss=job.loss, steps=job.steps)


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


def fitted(network: Network, job: Job, run: Run, folder: Path, resume: Path | None):
    """Train; (was it stopped by Ctrl-C, the history).  The network then has its best weights.

    Where no epoch is over, nothing is kept: the folder goes.
    """
    best = EarlyStopping("validation_loss", patience=run.patience)
    kept: dict[str, list] = {}
    x, y = job.sequences("train")
    there = resume if resume and resume.exists() else None
    settings: dict[str, Any] = {**run.fit, "checkpoint": resume, "resume": there}
    if job.defaults.falls:
        updates = settings["epochs"] * -(-len(x) // settings["batch_size"])
        settings["learning_rate"] = cosine(settings["learning_rate"], updates)
    try:
        history = network.fit(
            x,
            y,
            validation=job.sequences("validation"),
            callbacks=[best],
            on_epoch=lambda _, history: kept.update(history),
            **settings,
        )
        kept.update(history)  # that of a run which was over already, too
    except KeyboardInterrupt:
        if not kept:
            folder.rmdir()
            print("\nstopped before the first epoch was over: nothing to keep", file=sys.stderr)
            raise typer.Exit(130) from None
        print("\nstopped; the best model so far is kept", file=sys.stderr)
        best.restore(network)
        return True, kept
    except BaseException:
        if not kept:
            folder.rmdir()
        raise
    return False, kept


def report(job: Job, run: Run, network: Network, folder: Path, kept: dict, started: float):
    """What came of it: on the terminal, and in the folder."""
    compiled = sum(kept["compile_seconds"])
    found = job.measured(network)
    losses = kept["validation_loss"]
    print(
        f"{len(losses)} epochs, best of them {1 + losses.index(min(losses))}, in "
        f"{time.perf_counter() - started:.1f} s"
        + (f", {compiled:.1f} s of which compiled kernels, once" if compiled >= 0.5 else "")
    )
    print(job.said(found))
    model = folder / "model.safetensors"
    network.save(model, metadata=job.metadata)
    (folder / "history.json").write_text(json.dumps(kept | {"test": found}))
    print(f"model    {model}\nhistory  {folder / 'history.json'}")
    try:
        title = f"{run.cell}, {run.hidden} units, {job.chosen.data}: {job.title(found)}"
        job.draw(folder / "training.png", title, kept, network, found)
        print(f"picture  {folder / 'training.png'}")
    except ImportError:
        print(NO_PICTURE, file=sys.stderr)
