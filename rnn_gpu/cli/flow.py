"""`rnn-gpu gradflow`: how a model's gradient fares on its way back."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import ArgumentError, load
from .jobs import known
from .options import AUTO, NO_PICTURE, Model, OnDevice


def gradflow(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            help="A file, vowels, or python-manual. Default: what it was trained on; vowels where "
            "the model does not say."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many of the training sequences.")] = 64,
    device: OnDevice = AUTO,
    out: Annotated[
        Path | None, typer.Option(help="Where the picture goes. Default: beside the model.")
    ] = None,
):
    """Tell how the gradient of a model fares on its way back through time, what to do about it, and
    draw it.
    """
    network = load(model, device=str(device))
    job = known(model, network, data or (None if network.metadata else "vowels"))
    x, y = job.at_end("train" if len(job.parts["train"].x) else "test")
    report = network.gradient_flow(x[:samples], y[:samples])
    print(report)
    path = out or model.with_suffix(".gradflow.png")
    try:
        report.plot(path)
        print(f"picture  {path}")
    except ImportError:
        print(NO_PICTURE, file=sys.stderr)
    except OSError as error:
        raise ArgumentError(f"--out is {path}, where no file can be written: {error}") from None
