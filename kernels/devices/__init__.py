"""Devices: the loops. A file or package of this folder that answers `Device` is found here.

Arrays of a device are contiguous and answer `Array`. Where a function says that it overwrites an
array, all of it is written, or what the function names; other arguments are left as they are.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, cast

import numpy as np

from .. import FRESH, Backward, Cell, Change, Forward, Sums
from ..losses import Loss

NAMES = tuple(sorted(module.name for module in iter_modules(__path__)))


class Array(Protocol):
    """What layers, losses and optimizers ask of a device's arrays, beside Python's operators."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def base(self) -> Any: ...
    @property
    def T(self) -> Any: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index, /) -> Any: ...
    def __setitem__(self, index, value, /) -> None: ...
    def __dlpack__(self) -> Any: ...
    def astype(self, dtype, /) -> Any: ...
    def copy(self) -> Any: ...
    def reshape(self, *shape) -> Any: ...
    def sum(self, axis=None, /) -> Any: ...
    def view(self, dtype, /) -> Any: ...


class Device(Protocol):
    """Where kernels run, and how: the one contract that every module of this folder keeps."""

    name: str  # as users say it
    preference: int  # "auto" is the device with the highest that is not missing; 0 is never taken
    copying: float  # nanoseconds of one number of a large array that is copied: modelled
    waking: float  # nanoseconds of threads that are woken again and again in a pass in chunks
    takes_parts: bool  # does it take the parts of one sequence where they lie: see Forward

    def missing(self, precision: str = "fp32") -> str:
        """Why this device, or this precision of its products, cannot be used here; "" where it can.

        The module itself may be imported wherever its packages are installed.
        """
        ...

    def compiles(self) -> bool:
        """Are kernels compiled when they are first called, which takes seconds?"""
        ...

    def precisions(self, dtype: str) -> tuple[str, ...]:
        """Of products of matrices of "float32" or "float64"; "fp32" is strict."""
        ...

    def array(self, x, dtype) -> Any:
        """A contiguous array of the device with the values of x, which may be x itself."""
        ...

    def numpy(self, a) -> np.ndarray:
        """A NumPy array with the values of a, which may be a itself."""
        ...

    def empty(self, shape, dtype) -> Any:
        """An array of the device, its values undefined."""
        ...

    def zeros(self, shape, dtype) -> Any:
        """An array of the device, of zeros."""
        ...

    def copy(self, a) -> Any:
        """A contiguous array of the device with the values of a, of its own."""
        ...

    def finite(self, a) -> bool:
        """Has an array, of the device or NumPy's, neither NaN nor infinity?  One of a GPU is waited
        for.
        """
        ...

    def fingerprint(self, words) -> Any:
        """A number of an array (·,) of uint32: where anything in it was written, another one, but
        for a chance in some 2³².

        Every device has a number of its own. On a GPU it is an array () that nobody has waited for
        until it is compared.
        """
        ...

    def elementwise(
        self, f: Callable, outputs: Sequence[Any], inputs: Sequence[Any], scalars: Sequence = ()
    ) -> None:
        """outputs[0][i], … = f(inputs[0][i], …, scalars[0], …) for every element i.

        f is a formula; one of one output returns a number, else a tuple. All arrays have one shape
        and dtype; outputs are overwritten, and may be inputs.
        """
        ...

    def loss(self, kind: Loss, o, target, weight, total) -> tuple[Any, Any]:
        """E = Σ weight · loss / Σ weight over the rows (steps and samples) of o; nobody waits.

        o, target (T, B, k), weight (T, B), total (1,), Σ weight -> (dE/do (T, B, k); sums (·, 2)
        float64, to be added up over the first axis: Σ weight · loss, and Σ weight of the rows whose
        most likely class is the target's). Of a loss with exclusive classes target may be their
        numbers, integers (T, B) as large as o's, in 0..k-1. Rows of weight 0 may be anything, even
        NaN.
        """
        ...

    def norms(self, grads: Sequence[Any], scalars) -> Any:
        """What `update` must know of all gradients, for it alone; nobody waits.

        scalars as of the Change. It is Σ g², the same of what Limits.value leaves of g, and the
        largest |g| that it leaves, the last two only where Limits ask for them: on a GPU in parts,
        (·, 3) float64.
        """
        ...

    def update(self, change: Change, sums, norms, changes: bool = True) -> Any:
        """Change all weights, if loss and gradients let it; nobody waits.  Returns the numbers of a
        Report (·,) float64, an array of the device, that of `clipped` zero.

        sums of `loss`, norms of `norms`. Where one of them is not finite, or a gradient is larger
        than can be taken, nothing is written: no weight, moment or gradient. `changes` False says
        what would be, and writes nothing.
        """
        ...

    def matvec(self, W, s, out) -> None:
        """Batched matrix-vector product, out_b = W s_b.  W (r, n), s (B, n), out (B, r);
        overwrites out.
        """
        ...

    def chunk(self, B: int) -> int:
        """The steps of B samples whose products are taken together, counted from the last step;
        whatever T is. Segments of a sequence that begin with chunks have the bits of the whole.
        """
        ...

    def project(self, x, U, b, gates: int, precision: str = "fp32") -> Any:
        """U x_t + b for every step and sample.

        x (T, B, m), U (G·n, m), b (G·n,) or None -> (T, B, G, n).
        """
        ...

    def project_back(
        self, dnet, a, U, sums: Sums = FRESH, precision: str = "fp32"
    ) -> tuple[Any, Any, Any]:
        """The way back through U a_t + b, of every step and sample.

        dnet (T, B, G, n), a (T, B, m), U (G·n, m) -> (Uᵀ δ_t (式4), (T, B, m); ∇U (G·n, m) =
        Σ_t Σ_b δ aᵀ, the sum over steps of 式5, that is 式6; ∇b (G·n,), 式6 for a bias, whose
        input is always 1). The first and the last are None where `sums` does not ask for them; ∇U
        and ∇b are added to what it gives.
        """
        ...

    def forward(self, cell: Cell, call: Forward, precision: str = "fp32") -> None:
        """Carry s through time: s[:, t+1] = cell.step(p[t], W s[0, t] + c, s[:, t]).  式2.

        Overwrites call.s[:, 1:T + 1] and call.kept. Where RESET is set in flags the step begins
        with s[:, 0] instead of s[:, t], or with s[:, T + 1 + t] where s has given states; the first
        step then has no RESET. Where LIVE is not set the state is carried through and kept is zero;
        with RESET it is the state that the step begins with. kept may be p itself where K is G + D:
        a step's numbers are read before any of them is written.
        """
        ...

    def backward(self, cell: Cell, call: Backward, precision: str = "fp32") -> Any:
        """Carry δ back through time (式3).  Returns how many (step, sample) pairs were clipped: an
        integer, or an array () of the device that nobody has waited for.

        Overwrites call.dp, dq and ds. ds leaves as dE/ds[:, 0], the sum over all uses of the
        initial state: before the first step, and at each RESET, where nothing goes further back.
        With given states that is ds[:, 0], before the first step alone, and what arrives at the
        RESET of step t is added to ds[:, 1 + t]. Where LIVE is not set δ is exactly zero and dy is
        not looked at.

        call.clip bounds δ of each step and sample before it is used: each number of dp and of dq
        to ±clip.value; then both by the one factor that makes ‖dp‖ at most clip.norm. What goes
        back past W, the third result of cell.back, is not clipped.
        """
        ...

    def transfers(self, cell: Cell, call: Backward, precision: str = "fp32") -> Any:
        """How dE/ds goes from behind the last step of every sample to before its first: (B, N + 1,
        N), for the N = S·n numbers of its states.

        Row i < N is what leaves where number i comes in, alone and as 1; row N what leaves where
        none does, and dE/dy is the call's. Where RESET is set nothing goes further back, in the
        first step too. Of the call dp, dq, ds and clip are not looked at, and nothing is
        overwritten.
        """
        ...

    def arriving(self, maps, ds) -> Any:
        """dE/ds behind the last step of every chunk, (S, C·B, n): sample b of chunk c is column
        c·B + b.  maps (C·B, N + 1, N) of `transfers`, ds (S, B, n) behind the last chunk.
        """
        ...

    def scan_cost(
        self, cell: Cell, n: int, B: int, T: int, chunks: int, dtype: str, precision: str = "fp32"
    ) -> float:
        """What a way back over T steps of B samples takes, in so many chunks with `transfers` and
        `arriving`, or in one step by step: nanoseconds, modelled as `cost` is.
        """
        ...

    def cost(self, cell: Cell, n: int, B: int, dtype: str, precision: str = "fp32") -> float:
        """What one step of B samples takes, forward and back, of a long call: nanoseconds,
        modelled, and the same whenever it is asked.
        """
        ...

    def explain(self, cell: Cell, n: int, B: int, dtype: str, precision: str = "fp32") -> str:
        """Which kernels one layer of n units runs for B samples, with which grid, and why."""
        ...

    def on_stream(
        self, pointer: int, number: int | None = None, allocate: Callable | None = None
    ) -> AbstractContextManager:
        """A context in which arrays and kernels use a stream of another library, on the card of
        this number, or the current one; no more than a context where a device has no streams.

        allocate  (bytes) -> (address, what the memory lives as long as): the other library's, which
                  arrays made meanwhile take; None is the device's own
        """
        ...

    def captured(self, action: Callable[[], Any]) -> tuple[Any, Callable[[], None]] | None:
        """(what action() returns, what does its work again), or None where a device cannot.

        The work is not done, only kept: arrays that it makes have no values until it is done again,
        and the same arrays are read and written each time. action waits for nothing, and copies
        nothing from the host; all that it calls has been called before.
        """
        ...

    def release(self) -> int:
        """Give memory that is kept for later calls back; returns how many bytes."""
        ...


def find(name: str) -> Device:
    """The device of this name; ImportError where its packages are missing."""
    return cast(Device, import_module(f"{__name__}.{name}"))


def imported() -> list[Device]:
    """The devices that have been asked for in this process, and are here."""
    asked = [name for name in NAMES if f"{__name__}.{name}" in sys.modules]
    return [find(name) for name in asked if not missing(name)]


def missing(name: str) -> str:
    """Why the device of this name cannot be used here; "" where it can."""
    try:
        return find(name).missing()
    # without CUDA's libraries `import numba.cuda` itself raises RuntimeError
    except (ImportError, RuntimeError) as error:
        return f"what it needs cannot be imported ({error})"
