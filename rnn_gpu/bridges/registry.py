"""Cells by a name, which a program of torch's or JAX's can hold and another process can read."""

from hashlib import sha256
from uuid import uuid4

from ..errors import UnsupportedError
from ..kernels import Cell
from ..kernels.cells import CELLS
from ..kernels.description import description
from ..kernels.once import once

KNOWN: dict[str, Cell] = dict(CELLS)
UNTOLD: dict[Cell, str] = {}  # cells whose formulas read what cannot be told, an array say


@once
def register(cell: Cell) -> str:
    """The name under which programs find a cell in this process, from now on.

    A built-in cell has its own. That of another ends in a digest of its formulas and of all they
    refer to (see kernels.description): the same source has the same name in every process of one
    version of Python, and a formula that has changed has another.
    """
    if CELLS.get(cell.name) is cell:
        return cell.name
    try:
        digest = sha256(repr(description(cell)).encode()).hexdigest()[:16]
        name = f"{cell.name}@{digest}"
    except LookupError:
        name = UNTOLD.setdefault(cell, f"{cell.name}@{uuid4().hex} of this process")
    KNOWN[name] = cell
    return name


@once
def cell_named(name: str) -> Cell:
    """The cell of a name that `register` gave.

    Raises UnsupportedError where none was registered in this process, or its formulas refer to
    something else by now.
    """
    cell = KNOWN.get(name)
    if cell is None:
        raise UnsupportedError(
            f"cell {name!r} is not known in this process: before a saved program runs, build the "
            "cell from the source it was saved with and say register(cell) of rnn_gpu.torch or "
            "rnn_gpu.jax"
        )
    if register(cell) != name:
        raise UnsupportedError(
            f"cell {name!r} refers to something that has changed since it was registered: build "
            "the module anew, and compile or export that"
        )
    return cell
