"""The command `rnn-gpu`: train, look at what was trained, and tell what this machine offers."""

import sys

import typer

from ..errors import RnnGpuError
from .flow import gradflow
from .machine import clear_kernels, info, verify_cells
from .training import train

app = typer.Typer(
    help="Recurrent networks by back-propagation through time, with kernels in Python.",
    no_args_is_help=True,
)
for command in (train, gradflow):
    app.command()(command)
app.command("verify")(verify_cells)
for command in (info, clear_kernels):
    app.command()(command)


def main():
    """The entry point: our own errors are one line and exit status 2."""
    try:
        app()
    except RnnGpuError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
