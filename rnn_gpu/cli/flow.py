"""`rnn-gpu gradflow`: how a model's gradient fares on its way back."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import ArgumentError, load
from .jobs import job
from .options import AUTO, NO_PICTURE, Data, OnDevice


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
    device: OnDevice = AUTO,
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
