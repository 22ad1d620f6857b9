"""What several commands of `rnn-gpu` take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .. import GRU, LSTM, RNN
from ..device import NAMES, PRECISIONS
from ..errors import ArgumentError
from ..optimizers import BY_NAME
from ..parameters import INITS

CELLS = {"elman": RNN, "lstm": LSTM, "gru": GRU}
Cell = StrEnum("Cell", list(CELLS))
Device = StrEnum("Device", list(NAMES))
Precision = StrEnum("Precision", list(PRECISIONS))
Dtype = StrEnum("Dtype", ["float32", "float64"])
Init = StrEnum("Init", list(INITS))
Rule = StrEnum("Rule", list(BY_NAME))
Task = StrEnum("Task", ["forecast", "classify", "text"])
Missing = StrEnum("Missing", ["refuse", "mask"])
# the defaults
AUTO, FP32, FLOAT32 = Device("auto"), Precision("fp32"), Dtype("float32")
INIT, ADAM, REFUSE = Init("default"), Rule("adam"), Missing("refuse")
OnDevice = Annotated[Device, typer.Option(help="auto takes a GPU if there is one.")]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        exists=True,
        dir_okay=False,
        help="A file that `rnn-gpu train` or Network.save wrote.",
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Of the CPU. Default: as many as there are cores.")
]
NO_PICTURE = "no picture: matplotlib is not installed (pip install matplotlib)"


def use(threads: int | None):
    """So many threads of the CPU; None leaves it to Numba."""
    if threads is None:
        return
    import numba

    try:
        numba.set_num_threads(threads)
    except ValueError as error:
        raise ArgumentError(f"--threads is {threads}, which Numba refuses: {error}") from None


def writable(option: str, path: Path) -> Path:
    """path, if a file can be written there; ArgumentError, which names the option, if not."""
    from ..bridges.io import check_place

    check_place(option, path)
    return path
