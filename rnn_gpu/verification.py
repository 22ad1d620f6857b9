"""verify: is a cell right, on everything that this machine has to run it with?

A cell is two formulas that every device compiles. What they become is looked at here one after the
other: the slope of `step`, gradients, the CPU's kernels, the GPU's in Numba's simulator, the GPU's
as compiled code that is executed without a GPU, and a GPU itself. The simulator has a process of
its own, and so has compiled code: Numba is one or the other from its first import on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import arguments
from .derivatives import check_cell
from .device import resolve, why_not
from .errors import ArgumentError, RnnGpuError
from .gradcheck import gradcheck
from .kernels import LIVE, RESET, UNCLIPPED, Backward, Cell, Clip, Forward
from .kernels.cells import CELLS
from .layers import Recurrent

TOLERANCE = {"float32": 2e-5, "float64": 1e-10}  # relative to the largest number of an array
T, B, INPUTS = 6, 5, 3  # steps, samples, features
TIGHT = Clip(0.4, 0.6)  # bounds that most steps pass
PATIENCE = 1800  # seconds that a process has
PROVEN, FAILED, ABSENT = "proven", "failed", "not here"


class Line(NamedTuple):
    """One thing that was looked at."""

    state: str  # "proven", "failed" or "not here"
    what: str
    said: str  # how well, what is wrong, or why it could not be looked at


class Verification(NamedTuple):
    """What `verify` found; as text a table."""

    cell: str
    dtype: str
    n: int
    lines: tuple[Line, ...]

    @property
    def failures(self) -> tuple[Line, ...]:
        """What is wrong; nothing is well."""
        return tuple(line for line in self.lines if line.state == FAILED)

    def __str__(self):
        widths = [max(len(line[k]) for line in self.lines) for k in (0, 1)]
        rows = [f"{a:{widths[0]}}  {b:{widths[1]}}  {said}" for a, b, said in self.lines]
        return "\n".join([f"cell {self.cell}, {self.dtype}, n = {self.n}", *rows])


def verify(cell: Cell | str, *, dtype: npt.DTypeLike = "float32", n: int = 7) -> Verification:
    """Run a cell on everything that this machine has, and compare.

    cell   a Cell, the name of a built-in one, or "module:name" of one that can be imported
    dtype  "float32" or "float64", of the kernels
    n      units

    Looks at: the slope of `step` against `back`; gradients against differences of the loss
    (`gradcheck`); every device, and every schedule of the GPU, against `reference`, with masks,
    resets and clipping; in the GPU's compiled code, executed without a GPU, at every access, race,
    shuffle and barrier, and whether float64 has entered float32. Takes half a minute. Returns a
    Verification, whose `failures` are empty where all is well. Raises ArgumentError for a cell that
    has no such name.
    """
    dtype, n, title = arguments.dtype_name(dtype), arguments.size("n", n), told(cell)
    find = finder(cell)
    lines = [looked_at("formulas", lambda: formulas(find()))]
    if lines[0].state == PROVEN:
        lines += in_this_process(find(), dtype, n)
        lines += in_others(address(find()), dtype, n)
    return Verification(title, dtype, n, tuple(lines))


def told(cell: Cell | str) -> str:
    """A cell's name, as it was given."""
    return cell if isinstance(cell, str) else cell.name


def finder(cell: Cell | str) -> Callable[[], Cell]:
    """What gives the cell; a module is imported only then."""
    if isinstance(cell, Cell):
        return lambda: cell
    module, colon, name = str(cell).partition(":")
    if colon and importable(module):
        return lambda: getattr(import_module(module), name)
    if cell not in CELLS:
        raise ArgumentError(
            f"cell is {cell!r}, expected a Cell, one of {', '.join(CELLS)}, or 'module:name' of "
            "one in a module that can be imported"
        )
    return lambda: CELLS[cell]


def importable(module: str) -> bool:
    """Is there such a module?"""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def address(cell: Cell) -> str:
    """Where another process finds a cell: its name, or "module:name"; "" where it cannot."""
    if CELLS.get(cell.name) is cell:
        return cell.name
    module = getattr(cell.step, "__module__", "")
    known = vars(sys.modules[module]) if module in sys.modules and module != "__main__" else {}
    return next((f"{module}:{name}" for name, value in known.items() if value is cell), "")


def looked_at(what: str, look: Callable[[], str]) -> Line:
    """The line of what `look` says, or of what it raises."""
    try:
        return Line(PROVEN, what, look())
    except WrongError as error:
        return Line(FAILED, what, str(error))
    except RnnGpuError as error:
        return Line(FAILED, what, f"{type(error).__name__}: {error}")
    except Exception as error:  # a user's formula may raise anything
        return Line(FAILED, what, f"{type(error).__name__} in step, back or what compiles: {error}")


class WrongError(Exception):
    """What was looked at is not as it should be."""


# In this process


def formulas(cell: Cell) -> str:
    """What the door asks of a cell; raises what it raises."""
    check_cell(cell)
    return "back is the slope of step, and their numbers are as many as the cell says"


def in_this_process(cell: Cell, dtype: str, n: int) -> list[Line]:
    """What works whatever Numba is."""
    return [
        looked_at("gradients", lambda: gradients(cell, n)),
        looked_at("cpu", lambda: agreement("cpu", cell, dtype, n)),
    ]


def gradients(cell: Cell, n: int) -> str:
    """By differences of the loss, in float64."""
    rng = np.random.default_rng(0)
    layer = Recurrent(cell, INPUTS, n, device="reference", dtype="float64")
    x, y = rng.normal(size=(T, B, INPUTS)), rng.normal(size=(T, B, n))
    worst = gradcheck(layer, x, y, resets=rng.random((T, B)) < 0.2).worst
    return f"are the slopes of the loss, to {worst:.0e}"


def agreement(device: str, cell: Cell, dtype: str, n: int) -> str:
    """How well a device agrees with `reference`, in words.  WrongError where it does not."""
    worst = 0.0
    for clip in (UNCLIPPED, TIGHT):
        expected = one_pass("reference", cell, dtype, n, clip)
        for name, got in one_pass(device, cell, dtype, n, clip).items():
            judge = expected[name]
            error = np.abs(got - judge).max(initial=0) / max(1.0, np.abs(judge).max(initial=0))
            if not error <= TOLERANCE[dtype]:
                raise WrongError(f"{name} is off by {error:.1e} of reference's largest number")
            worst = max(worst, float(error))
    return f"agrees with reference to {worst:.0e}"


def one_pass(device: str, cell: Cell, dtype: str, n: int, clip: Clip) -> dict[str, np.ndarray]:
    """All that one pass forward and back of a random problem gives, with masks and resets."""
    d, rng = resolve(device), np.random.default_rng(7)
    G, S, K = cell.gates, cell.states, cell.kept

    def draw(*shape, scale=1.0):
        return d.array(scale * rng.normal(size=shape), dtype)

    flags = (rng.random((T, B)) < 0.7) * LIVE + (rng.random((T, B)) < 0.3) * RESET
    p, W, c = draw(T, B, G, n), draw(G * n, n, scale=n**-0.5), draw(G * n if cell.apart else 0)
    s, kept, dp = (d.empty(shape, dtype) for shape in ((S, T + 1, B, n), (T, B, K, n), p.shape))
    dq = d.empty(p.shape, dtype) if cell.apart else dp
    s[:, 0] = draw(S, B, n)
    flags, dy, ds = d.array(flags, np.uint8), draw(T, B, n), draw(S, B, n)
    d.forward(cell, Forward(p, W, c, s, kept, flags))
    clipped = d.backward(cell, Backward(dy, W, s, kept, flags, dp, dq, ds, clip))
    found = {"s": s, "kept": kept, "dp": dp, "dq": dq, "ds": ds}
    arrays = {name: d.numpy(a) for name, a in found.items()}
    return arrays | {"number of clipped steps": np.array([int(clipped)])}


# In others


def in_others(cell: str, dtype: str, n: int) -> Iterator[Line]:
    """What needs a process of its own: they run beside each other."""
    if not cell:
        unknown = "other processes cannot import this cell: give it a name in a module of its own"
        yield from (Line(ABSENT, where, unknown) for where in PLACES)
        return
    started = {where: start(where, cell, dtype, n) for where in PLACES}
    for where, process in started.items():
        yield from answer(where, process)


def start(where: str, cell: str, dtype: str, n: int) -> subprocess.Popen:
    """`main` in a process of its own, which finds modules where this one does."""
    simulated = {"NUMBA_ENABLE_CUDASIM": "1" if where == SIMULATOR else "0"}
    environment = os.environ | simulated | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-m", __name__, where, cell, dtype, str(n)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.Popen(command, env=environment, **streams)


def answer(where: str, process: subprocess.Popen) -> list[Line]:
    """The lines that a process prints last."""
    try:
        out, complaint = process.communicate(timeout=PATIENCE)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        last = (complaint.strip().splitlines() or ["no word"])[-1]
        return [Line(FAILED, where, f"its process ended with {process.returncode}: {last}")]
    return [Line(*line) for line in json.loads(out.splitlines()[-1])]


def simulator(cell: Cell, dtype: str, n: int) -> list[Line]:
    """The GPU's kernels as Python, thread by thread."""
    return on_every_schedule(SIMULATOR, lambda: agreement("cuda", cell, dtype, n))


def gpu(cell: Cell, dtype: str, n: int) -> list[Line]:
    """The GPU's kernels on the GPU of this machine."""
    if reason := why_not("cuda"):
        return [Line(ABSENT, GPU, reason)]
    return on_every_schedule(GPU, lambda: agreement("cuda", cell, dtype, n))


def executed(cell: Cell, dtype: str, n: int) -> list[Line]:
    """The GPU's kernels compiled, and executed without one (kernels/emulator)."""
    from .kernels.emulator.card import Card, card

    if reason := Card().missing():
        return [Line(ABSENT, EXECUTED, reason)]

    def look() -> str:
        with card() as played:
            said = agreement("cuda", cell, dtype, n)
        if findings := played.findings():
            more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
            raise WrongError(f"{findings[0]}{more}")
        wide = [text for function in played.loaded for text in function.kernel.float64]
        if wide and dtype == "float32":
            raise WrongError(
                f"{len(wide)} instructions compute in float64, the first `{wide[0]}`: a number in "
                "step or back is wider than the kernel's, as whole numbers are that are no literals"
            )
        return f"{said}, no access, race, shuffle or barrier is wrong"

    return on_every_schedule(EXECUTED, look)


def on_every_schedule(where: str, look: Callable[[], str]) -> list[Line]:
    """A line of each way of a GPU through time."""
    from .kernels.devices.cuda.schedules import NAMES, only

    lines = []
    for name in NAMES:
        with only(name):
            lines.append(looked_at(f"{where}: {name}", look))
    return lines


SIMULATOR, EXECUTED, GPU = "simulator", "executed code", "GPU"
PLACES = {SIMULATOR: simulator, EXECUTED: executed, GPU: gpu}


def main(where: str, cell: str, dtype: str, n: str):
    """Print the lines of one place."""
    print("\n" + json.dumps(PLACES[where](finder(cell)(), dtype, int(n))))


if __name__ == "__main__":
    main(*sys.argv[1:])
