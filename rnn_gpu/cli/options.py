"""What several commands of `rnn-gpu` take."""

from enum import StrEnum
from typing import Annotated

import typer

from .. import GRU, LSTM, RNN
from ..device import NAMES, PRECISIONS

CELLS = {"elman": RNN, "lstm": LSTM, "gru": GRU}
Cell = StrEnum("Cell", list(CELLS))
Data = StrEnum("Data", ["vowels", "python-manual"])
Device = StrEnum("Device", list(NAMES))
Precision = StrEnum("Precision", list(PRECISIONS))
Dtype = StrEnum("Dtype", ["float32", "float64"])
ELMAN, AUTO, FP32 = Cell("elman"), Device("auto"), Precision("fp32")  # the defaults
FLOAT32 = Dtype("float32")
OnDevice = Annotated[Device, typer.Option(help="auto takes a GPU if there is one.")]
NO_PICTURE = "no picture: matplotlib is not installed (pip install matplotlib)"
