"""`rnn-gpu tune`: the GPU's kernels for a size are tried before they are needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from .. import ArgumentError, load
from ..device import resolve, simulated
from ..kernels import Cell as Formulas
from ..layers import Recurrent
from .options import CELLS, FLOAT32, FP32, Cell, Dtype, Precision

HEADS = ("cell", "n", "B", "way", "schedule", "µs a step", "tried")


def tune(
    *,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            exists=True,
            dir_okay=False,
            help="A file that `rnn-gpu train` or Network.save wrote: all its recurrent layers.",
        ),
    ] = None,
    cell: Annotated[Cell | None, typer.Option(help="Instead of a model: a cell.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Units, of --cell.")] = 128,
    batch: Annotated[
        list[int], typer.Option(min=1, help="Samples of a call; again for another.")
    ] = [64],  # noqa: B006  typer copies it
    dtype: Annotated[Dtype, typer.Option(help="Of --cell.")] = FLOAT32,
    precision: Annotated[Precision, typer.Option(help="Of --cell.")] = FP32,
    masked: Annotated[
        bool, typer.Option(help="Kernels for sequences of several lengths, masks and resets too.")
    ] = False,
    clips: Annotated[bool, typer.Option(help="Kernels that clip each step's δ too.")] = False,
):
    """Try the GPU's kernels for these sizes, compare and time them, and keep which is the quickest:
    what the first call of each size does by itself, before it is needed.

    Whatever is found is kept with the compiled kernels; `rnn-gpu clear-kernels` forgets it.
    """
    if (model is None) == (cell is None):
        raise ArgumentError("tune takes either a MODEL or --cell, to know what is tried")
    device = resolve("cuda", str(dtype), str(precision))
    from ..kernels.devices.cuda import tuning

    if tuning.wanted() == "0" or (simulated() and not tuning.wanted()):
        here = "in the simulator" if simulated() else "here"
        raise ArgumentError(
            f"RNN_GPU_TUNE is {tuning.wanted()!r}: {here} nothing is tried. Say RNN_GPU_TUNE=1."
        )
    if model is not None:
        layers = list(recurrent(load(model, device=device.name)))
    else:
        options = {"device": device.name, "dtype": str(dtype), "precision": str(precision)}
        layers = [CELLS[cell or "elman"](1, n, **options)]
    with tuning.session():
        asked = dict.fromkeys(problems(layers, batch, masked, clips))
        rows = [row(*problem) for problem in asked]
    print(table([HEADS, *rows]))


def recurrent(network) -> Iterator[Recurrent]:
    """The recurrent layers of a network."""
    for layer in network.layers:
        yield from getattr(layer, "recurrent", ())


def problems(layers, batches, masked: bool, clips: bool) -> Iterator[tuple]:
    """What `choose` is asked for by these layers, in training and after it."""
    for layer in layers:
        itemsize = np.dtype(layer.dtype).itemsize
        cells: dict[Formulas, None] = dict.fromkeys(
            layer.noise.around(layer.cell, training) for training in (True, False)
        )
        for cell in cells:
            for B in batches:
                for mask in (False, True)[: 1 + masked]:
                    size = cell, layer.hidden_size, B, itemsize, mask, layer.precision
                    yield "forward", False, *size
                    for clip in (False, True)[: 1 + clips]:
                        yield "backward", clip, *size


def row(direction: str, clips: bool, cell, n: int, B: int, itemsize: int, mask: bool, precision):
    """A line of the table, of what is chosen and what was tried."""
    from ..kernels.devices.cuda import tuning

    found = tuning.find(cell, direction, n, B, itemsize, clips, mask, precision)
    way = direction + ", masked" * mask + ", clips" * clips
    seconds = found.trial and found.trial.seconds
    time = f"{seconds * 1e6:.3g}" if seconds else "not measured"
    tried = ", ".join(map(str, found.trials)) or found.choice.why
    return cell.name, n, B, way, found.choice.schedule, time, tried


def table(rows) -> str:
    """In columns."""
    texts = [[str(part) for part in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)
