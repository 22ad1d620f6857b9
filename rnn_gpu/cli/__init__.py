"""The command `rnn-gpu`: train on data of one's own, use what was trained, look at it, and tell
what this machine offers.
"""

import sys
from typing import Annotated

import typer

from ..errors import RnnGpuError
from .bench import bench
from .flow import gradflow
from .machine import clear_kernels, info, verify_cells
from .training import train
from .tune import tune
from .using import evaluate, export, generate, predict

app = typer.Typer(no_args_is_help=True)
for command in (train, predict, evaluate, generate, gradflow, export):
    app.command()(command)
app.command("verify")(verify_cells)
for command in (bench, tune, info, clear_kernels):
    app.command()(command)


def tell_version(asked: bool):
    """The callback of `--version`."""
    if asked:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Tell it.")
    ] = False,
):
    """Recurrent networks by back-propagation through time, with kernels in Python."""


def main():
    """The entry point: our own errors are one line and exit status 2."""
    try:
        app()
    except RnnGpuError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
