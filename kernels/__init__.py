"""The contract between what is computed (cells, activations) and where (devices).

Cells know no device; devices know no cell. Both sides speak in pure functions of numbers, so the
same source runs on a CUDA thread, in compiled CPU loops, in the simulator, and on whole NumPy
arrays.
"""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

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
    chapter dE/dnet). What `back` leaves out is the device's: it adds Wᵀ dq to the gradient of state
    0 (式3), and dE/dy to that of the state that is the output.

    What a cell cannot have: parameters of its own beside U, W, b and c; a second product with a
    matrix in a step, or one of another state than state 0; a look at another unit, sample or step;
    states of another size than its units. Everything that the way back needs must be kept, or be
    among the states before and after the step. Formulas are pure, of numbers, with NumPy's or
    math's functions (see kernels.binding).
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


LIVE = 1  # bit 0 of flags: the step happens; else the state is carried through, and δ is zero
# bit 1: before the step the state becomes the initial one, or one that is given, and no gradient
# goes back past it
RESET = 2
UNCLIPPED = Clip()


class At(NamedTuple):
    """Where in a cell's arrays the numbers of one unit, or of the first of several, stand."""

    t: int  # step
    b: int  # sample
    j: int  # unit


class Forward(NamedTuple):
    """The arrays of a layer's way forward through time: T steps, B samples, n units.

    All are C-contiguous, as on the way back all but dy; T is below 2³¹.

    Where a device `takes_parts`, samples may be the B parts, of T steps each, of one sequence whose
    numbers lie in the order of its steps: p (B, T, G + D, n), kept (B, T, K, n), and s (S, B·T + 1
    + B, n). There s[:, b·T + t + 1] is overwritten by the state after step t of part b, and s[:,
    B·T + 1 + b] is what that part begins with; s[:, 0] is that of the first. No RESET is set.
    """

    p: Any  # (T, B, G + D, n)  input side of every step; read before kept is written
    W: Any  # (G·n, n)          recurrent weights
    c: Any  # (G·n,)            bias of the recurrent side, of a cell that is `apart`; else (0,)
    # (S, T + 1, B, n): s[:, 0] the initial states; those of steps 1 … T are overwritten. Or
    # (S, 2T + 1, B, n): s[:, T + 1 + t] is what step t begins with where RESET is set; not at t = 0
    s: Any
    kept: Any  # (T, B, K, n)   activations for the way back; overwritten. May be p, if K = G + D
    flags: Any  # (T, B) uint8  LIVE, RESET
    # does flags say more than that every step happens and none begins anew? If not, it need not be
    # looked at
    masked: Any = True


class Backward(NamedTuple):
    """The arrays of the way back; s, kept and flags as the way forward left them.

    Of parts of one sequence dp and dq are (B, T, G, n), ds is (S, B, n), and nothing is clipped;
    each part is taken to begin with what the one before ends with.
    """

    dy: Any  # (T, B, n)      dE/dy of every step; the one that may be a view with other strides
    W: Any  # (G·n, n)
    s: Any  # (S, T + 1, B, n) or (S, 2T + 1, B, n)
    kept: Any  # (T, B, K, n)
    flags: Any  # (T, B) uint8
    dp: Any  # (T, B, G, n)   becomes δ of the input side
    dq: Any  # (T, B, G, n)   becomes δ of the recurrent side; dp itself unless the cell is `apart`
    # (S, B, n): enters as dE/ds after the last step, leaves as that of s[:, 0]. With given states
    # (S, 1 + T, B, n): ds[:, 0] is that, and ds[:, 1:], zero before, leaves as that of s[:, T + 1:]
    ds: Any
    clip: Any = UNCLIPPED  # a Clip: bounds of δ of each step and sample
    masked: Any = True  # as of the way forward


class Sums(NamedTuple):
    """What `Device.project_back` is asked for beside ∇U, and what its sums are added to."""

    U: Any = None  # (G·n, m), that ∇U is added to; None is zero
    b: Any = None  # (G·n,), that ∇b is added to; None is zero
    below: bool = True  # is what goes to the layer below asked for?
    bias: bool = True  # is ∇b?


FRESH = Sums()


class Limits(NamedTuple):
    """What an update keeps to; inf is none.  The first of its numbers, before the formula's own."""

    value: float = inf  # bound of each number of a gradient
    norm: float = inf  # bound of all gradients together, after `value`
    largest: float = inf  # number of a gradient that the optimizer can take, after both


class Change(NamedTuple):
    """All weights with what changes them."""

    formula: Callable  # of kernels/updates.py, or as those
    parameters: tuple  # θ, arrays of any shape; overwritten
    moments: tuple  # of each parameter a tuple of arrays of its shape; overwritten
    grads: tuple  # of each parameter; clipped in place
    scalars: Any  # (·,) float64 of the device: Limits, then what the formula takes after the arrays


class Report(NamedTuple):
    """What the device says of an update: numbers of one array, float64, that is read once."""

    loss: float  # Σ weight · loss
    hits: float  # Σ weight of the rows whose class is right
    square: float  # Σ g² over all gradients, before clipping
    taken: float  # 1 where loss and gradients are finite and within what can be taken; else 0
    clipped: float = 0.0  # steps whose δ was clipped: left to who knows
