"""The contract between what is computed (cells, activations) and where (devices).

Cells know no device; devices know no cell. Both sides speak in pure functions of numbers, so the
same source runs on a CUDA thread, in compiled CPU loops, in the simulator, and on whole NumPy
arrays.
"""

from collections.abc import Callable
from math import inf
from typing import NamedTuple

if __name__ != "rnn_gpu.kernels":  # from the root of a checkout Python finds the folder itself
    raise ImportError(
        f"say `import rnn_gpu.kernels`: {__name__} would be a second copy of it, with classes and"
        " tables of its own"
    )


class Operator(NamedTuple):
    """What ONNX calls the same: the operator, its gates by the numbers of ours, and its attributes
    as pairs (name, value).
    """

    name: str
    gates: tuple[int, ...] = ()
    attributes: tuple[tuple[str, object], ...] = ()


class Activation(NamedTuple):
    """y = f(z), and dy/dz as a function of y alone, so that z need not be kept."""

    name: str
    f: Callable  # z -> y
    df: Callable  # y -> f'(z)
    onnx: Operator | None = None  # None: ONNX has no such function


class Cell(NamedTuple):
    """One time step of a recurrent layer, and the step back, for one unit of one sample.

    p is the input side U x_t + b of the weighted input, q the recurrent side W s_{t-1} (+ c); 式2's
    net_t is p + q. δ is dE/dnet everywhere (the tutorial's BP chapter writes −dE/dnet, its BPTT
    chapter dE/dnet).
    `back` leaves out what passes through W: the device adds Wᵀ dq to the gradient of state 0 itself
    (式3), and dE/dy to that of
    the state that is the output.
    """

    name: str
    # G: rows of U, W and b come in G blocks of n, in torch's order where torch has the cell
    gates: int
    states: int  # S: what is carried through time; state 0 is what W multiplies
    kept: int  # K: activations kept for the way back
    # (p, q, s)             -> (s_next, kept)    tuples of G + D, G, S -> S, K numbers
    step: Callable
    # (ds, kept, s, s_next) -> (dp, dq, ds)      tuples of S, K, S, S -> G, G, S numbers
    back: Callable
    # p and q enter apart (GRU): dq is not dp, and the recurrent side has a bias c of its own
    apart: bool = False
    initial_bias: tuple[float, ...] = ()  # of each gate; () is zero everywhere
    initial_recurrent: str = "orthogonal"  # W of each gate at the start: "orthogonal" or "identity"
    # D: numbers a step that come in with p, behind those of the gates, and have no δ: masks
    drawn: int = 0
    output: int = 0  # the state that is the output y
    # Keras's gates in its order, by the numbers of ours; None: Keras has no such cell
    keras: tuple[int, ...] | None = None
    onnx: Operator | None = None  # None: ONNX has no such cell


class Clip(NamedTuple):
    """Bounds of δ of one step and sample: first of each number, then of ‖δ‖ over all gates and
    units; inf is none.
    """

    value: float = inf
    norm: float = inf


# bit 0 of flags (T, B): the step happens; else the state is carried through, and δ is exactly zero
LIVE = 1
# bit 1: before the step the state becomes the initial one, and no gradient goes back to the step
# before
RESET = 2
UNCLIPPED = Clip()
