"""Layers: parameters, and the way of an array through them, forward and backward. They know nothing about devices."""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from . import arguments, derivatives, parameters
from .device import PRECISIONS, resolve
from .errors import ArgumentError, OrderError, ShapeError
from .kernels import LIVE, RESET, UNCLIPPED, Activation, Cell, Clip
from .kernels.cells import CELLS
from .kernels.cells.elman import elman
from .kernels.cells.gru import gru
from .kernels.cells.lstm import lstm
from .kernels.philox import LOW, words
from .weights import TORCH, Weights, by_gates, dense_of_keras, known, recurrent_of_keras


class Layer(Weights):
    """A layer has a device, a dtype, and parameters and their gradients by name.

    Users call a layer and its `backward`; these check, convert, and hand on to `_forward` and `_backward`, which take and return
    arrays of the device, time-major:

    _forward(x (T, B, m), s0, steps, keep, training) -> (y (T, B, n), s after the last step)
    _backward(dy (T, B, n), ds, taped, clip) -> (dx (T, B, m), dE/ds0); sets grads

    States are lists, one array (S, B, n) for each layer of `recurrent`.
    """

    input_size: int | None = None
    output_size: int | None = None
    place = 0  # in its network
    clipped_steps = 0  # in the last backward: how often δ of a step and sample was beyond its bounds
    recurrent: "tuple[Recurrent, ...]" = ()  # itself, the two of a bidirectional one, or none

    def __init__(self, device: str, dtype, values: dict[str, np.ndarray], precision: str = "fp32"):
        self.dtype = arguments.dtype_name(dtype)
        self.precision = arguments.choice("precision", precision, PRECISIONS)
        self._device = resolve(device, self.dtype, self.precision)
        self.parameters = parameters.Parameters({name: self._device.array(value, self.dtype) for name, value in values.items()})
        self.grads: dict = {}
        self._tape = self._like = None

    @property
    def device(self) -> str:
        """The name of the device that does the work: "cpu", "cuda" or "reference"."""
        return self._device.name

    def config(self) -> dict:
        """The arguments that build this layer again, but for device and dtype."""
        raise NotImplementedError

    def copy(self, device: str | None = None, dtype=None, precision: str | None = None):
        """The same layer with the same parameters, on another device, of another dtype or precision if asked."""
        options = self.config() | {"device": self.device, "dtype": self.dtype}
        changes = {"device": device, "dtype": dtype, "precision": precision}
        options |= {name: value for name, value in changes.items() if value is not None and name in options}
        other = type(self)(**options)
        for name, value in self.parameters.items():
            other.parameters[name] = other._device.array(self._device.numpy(value), other.dtype)
        return other

    def _recall(self):
        if self._tape is None:
            raise OrderError(f"{type(self).__name__}: backward before forward; call the layer on x first")
        return self._tape

    def _to_kind_of(self, x, a):
        """a, copied, as the kind of array that x is."""
        own = a if type(x) is type(a) or arguments.on_gpu(x) else self._device.numpy(a)
        return arguments.as_kind_of(x, a.copy() if own is a else own)


class Steps(NamedTuple):
    """Which steps of which samples happen, and where a sample begins anew."""

    flags: np.ndarray  # (T, B) uint8, what the kernels are told
    dead: np.ndarray | None  # (T, B, 1) bool, the steps that do not happen; None where all do
    starts: np.ndarray | None = None  # (T, B, 1) bool, the steps before which the state becomes the initial one; None for none
    first: int = 0  # the number of the first of them in the whole sequence

    def only_live(self, a):
        """a (T, B, ·), zero where a step does not happen."""
        return a if self.dead is None else np.where(self.dead, a.dtype.type(0), a)

    def part(self, start: int, end: int):
        """Steps start … end−1, of samples that nowhere begin anew."""
        return Steps(self.flags[start:end], None if self.dead is None else self.dead[start:end], None, self.first + start)

    def turned(self, device):
        """For a layer that goes from the last step to the first. What begins at t then ends there: the step t−1 begins anew."""
        flags, starts = self.flags[::-1] & LIVE, None
        if self.starts is not None:
            starts = zeros(device, self.starts.shape, bool)
            starts[1:] = self.starts[:0:-1]
            flags = flags | starts[:, :, 0] * np.uint8(RESET)
        return Steps(device.array(flags, np.uint8), None if self.dead is None else self.dead[::-1], starts)


@lru_cache(maxsize=8)
def all_live(device, place, T: int, B: int) -> Steps:
    """The steps of T and B that all happen, at a place (GPU) of the device."""
    flags = device.array(np.full((T, B), LIVE), np.uint8)
    device.numpy(flags)  # which waits: a later call may be on another stream
    return Steps(flags, None)


def steps_of(device, live, starts=False) -> Steps:
    """From NumPy's (T, B) booleans. Every sample begins with its first step, so `starts` says nothing there."""
    starts = starts & (np.arange(len(live)) > 0)[:, None]
    return Steps(
        device.array(live * LIVE | starts * RESET, np.uint8),
        None if live.all() else device.array(~live[:, :, None], bool),
        device.array(starts[:, :, None], bool) if starts.any() else None,
    )


class Tape(NamedTuple):
    """What a recurrent layer remembers of its forward pass; but for x in the order of its own steps, which `reverse` turns around."""

    x: np.ndarray  # (T, B, m)
    s: np.ndarray  # (S, T+1, B, n)
    kept: np.ndarray  # (T, B, K, n)
    flags: np.ndarray  # (T, B)
    starts: np.ndarray | None  # see Steps

    def before(self, t=slice(None)):
        """The states that steps t begin with, (S, ·, B, n)."""
        s = self.s[:, :-1][:, t]
        return s if self.starts is None else np.where(self.starts[t], self.s[:, :1] if s.ndim == 4 else self.s[:, 0], s)


class DeltaTape(NamedTuple):
    """What BPTT computed at every step of a recurrent layer: `backward(…, tape=True)` leaves it in `tape`.

    Arrays of the device, in the order of the layer's own steps, which `reverse` turns around.
    ds[:, t] is all of dE/ds_t: what came back through time, and what the output s[0, t] of step t−1 adds by itself.
    """

    delta: np.ndarray  # (T, B, G, n), δ_t = dE/dnet_t
    delta_recurrent: np.ndarray  # (T, B, G, n), δ of the recurrent side: the same array unless the cell takes the two apart
    ds: np.ndarray  # (S, T+1, B, n)
    s: np.ndarray  # (S, T+1, B, n), states; s[:, 0] is the initial one
    kept: np.ndarray  # (T, B, K, n), gates and what else the cell keeps
    weight_gradient_norms: np.ndarray  # (T,), ‖∇W_t‖ of 式5 over the whole batch; NumPy, float64


def outer_norm(δ, s) -> float:
    """‖Σ_b δ_b s_bᵀ‖ without the matrix: its square is Σ_{b,b'} (δ_b·δ_b')(s_b·s_b').  δ (B, G·n), s (B, n)."""
    δ, s = δ.astype(np.float64), s.astype(np.float64)  # the sum may cancel
    return max(float(((δ @ δ.T) * (s @ s.T)).sum()), 0.0) ** 0.5


def enter(device, x, m: int, dtype: str, lengths, batch_first=False, mask=None, resets=None):
    """Sequences at the door -> (x as the device's (T, B, m), zero where no step happens; its Steps).

    x is (T, B, m), or integers (T, B) that stand for one-hot vectors of m; B comes first if batch_first, in mask and resets too.
    """
    order = "B, T" if batch_first else "T, B"
    a = arguments.as_array("x", x, dtype)
    if arguments.are_symbols(x, a, 2):
        host = device.numpy(a) if type(a) is not np.ndarray else a
        x = arguments.one_hot(arguments.symbols("x", host, m, f"({order})", 2), m, dtype)
    a = arguments.floats("x", x, dtype, (None, None, m), f"({order}, m={m})")
    a = arguments.take(device, "x", a.swapaxes(0, 1) if batch_first else a, dtype)
    T, B, _ = a.shape
    lengths = arguments.check_lengths(lengths, T, B)
    if mask is None and resets is None and (lengths is None or lengths.min() == T):
        steps = all_live(device, a.device, T, B)
    else:
        shape = (B, T) if batch_first else (T, B)
        live = arguments.booleans("mask", mask, shape, order, otherwise=True)
        starts = arguments.booleans("resets", resets, shape, order, otherwise=False)
        live, starts = (live.T, starts.T) if batch_first else (live, starts)
        within = np.arange(T)[:, None] < (T if lengths is None else lengths)
        steps = steps_of(device, live & within, starts & within)
    a = steps.only_live(a)
    arguments.finite("x", a.swapaxes(0, 1) if batch_first else a)
    return a, steps


class Stateful(Layer):
    """What a recurrent layer and a bidirectional one share: the way in and out for sequences and states."""

    batch_first = False

    def __call__(self, x, state=None, lengths=None, mask=None, resets=None):
        """Carry the layer over x; remember what `backward` needs.  Returns (y, state).

        x        (T, B, m), or integers (T, B) that stand for one-hot vectors of m
        state    before the first step, (B, n); for a cell of several states a tuple of them, (h, c) for the LSTM; for a
                 Bidirectional a list of two, forward and reverse; None is zero
        lengths  (B,) integers in 1..T, in any order: sample b ends after lengths[b] steps. What x holds beyond is ignored, y is
                 zero there
        mask     (T, B) booleans; False is a step that does not happen: as if it were deleted, but that y is zero there
        resets   (T, B) booleans; True is a step before which the sample begins anew, with `state`: as if two sequences stood one
                 behind the other. A masked step resets too
        y        (T, B, n), the output of every step; state as above, after the last step of each sample
        """
        a, steps = enter(self._device, x, self.input_size, self.dtype, lengths, self.batch_first, mask, resets)
        a = a.copy() if steps.dead is None else a  # the caller may write into x before `backward`
        y, s = self._forward(a, self._check_states("state", state, a.shape[1]), steps)
        self._like = x
        return self._to_kind_of(x, self._turn(y)), self._as_states(s)

    def backward(self, dy, dstate=None, tape=False, clip_step_value=None, clip_step_norm=None):
        """Carry δ back through time (式3), after a call; set `grads`.  Returns (dx, dstate).

        dy      (T, B, n), dE/dy of every step; None for zero. Where no step happens it is ignored
        dstate  dE/d(the state after the last step), as `state`; None for zero
        tape    True also leaves what every step computed in `tape`, a DeltaTape; it takes one call of the kernel a step
        clip_step_value, clip_step_norm  bounds of δ of every step and sample, before it is used: of each number, then of the norm
                over all gates and units. `clipped_steps` then is how many steps (each sample's count) were beyond. What goes
                back past W, as along an LSTM's c, is not clipped
        dx      (T, B, m); dstate: the gradient with respect to `state`, the sum over all beginnings
        """
        self._recall()
        clip = clip_of(clip_step_value, clip_step_norm)
        T, B = self._steps.flags.shape
        if dy is None:
            dy = zeros(self._device, (T, B, self.output_size), self.dtype)
        else:
            shape, axes = ((B, T), "(B, T, n)") if self.batch_first else ((T, B), "(T, B, n)")
            dy = arguments.floats("dy", dy, self.dtype, (*shape, self.output_size), axes)
            dy = arguments.take(self._device, "dy", self._turn(dy), self.dtype)
            dy = self._steps.only_live(dy)
            arguments.finite("dy", self._turn(dy))
        dx, ds = self._backward(dy, self._check_states("dstate", dstate, B), tape, clip)
        return self._to_kind_of(self._like, self._turn(dx)), self._as_states(ds)

    def _turn(self, a):
        return a.swapaxes(0, 1) if self.batch_first else a

    def _check_states(self, name, states, B):
        """States at the door, of each layer of `recurrent`, as a list of arrays (S, B, n)."""
        return check_states(self.recurrent, name, states, B)

    def _as_states(self, states):
        return as_states(self.recurrent, self._like, states)


def as_states(recurrent, like, states):
    """A list of arrays (S, B, n) -> a list of states as users have them."""
    return [layer._as_state(like, s) for layer, s in zip(recurrent, states, strict=True)]


def check_states(recurrent, name, states, B):
    """A list with the state of each recurrent layer, or None, checked -> a list of arrays (S, B, n) of the device."""
    states = [None] * len(recurrent) if states is None else states
    if not isinstance(states, (list, tuple)) or len(states) != len(recurrent):
        raise ShapeError(f"{name} is a {type(states).__name__}, expected a list of {len(recurrent)}: one a recurrent layer")
    return [layer._check_state(f"{name}[{i}]", s, B) for i, (layer, s) in enumerate(zip(recurrent, states, strict=True))]


def clip_of(value, norm) -> Clip:
    """The bounds of δ of a step at the door; None is none."""
    given = {"value": value, "norm": norm}
    return Clip(**{name: arguments.bound(f"clip_step_{name}", bound) for name, bound in given.items() if bound is not None})


def zeros(device, shape, dtype):
    a = device.empty(shape, dtype)
    a[...] = 0
    return a


class Recurrent(Stateful):
    """A recurrent layer of any cell: net_t = U x_t + b + W s_{t-1} (式2), trained by back-propagation through time.

    cell            a Cell (see `rnn_gpu.cell`), or the name of a built-in one: "lstm", "gru", "elman_tanh", …
    input_size      m, features of x
    hidden_size     n, units
    batch_first     x, y and their gradients are (B, T, ·) instead of (T, B, ·)
    device          "auto", "cpu", "cuda" or "reference": see `rnn_gpu.device.resolve`
    dtype           "float32" or "float64", of x, y, states, parameters and gradients
    seed, init      of the initial parameters: see `rnn_gpu.parameters.recurrent`
    precision       of products of matrices: "fp32" is strict; "tf32" is faster, for float32 on "cuda": see `rnn_gpu.device.resolve`
    reverse         the layer goes from the last step of each sample to its first; its state `after` is that at the first step

    parameters, grads: dicts of U (G·n, m), W (G·n, n), b (G·n,), and c (G·n,) where the cell has it. A gradient is overwritten
    by each `backward`.
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        batch_first: bool = False,
        device: str = "auto",
        dtype="float32",
        seed: int = 0,
        init: str = "default",
        reverse: bool = False,
        precision: str = "fp32",
    ):
        if isinstance(cell, str):
            cell = CELLS[arguments.choice("cell", cell, CELLS)]
        if not isinstance(cell, Cell):
            raise ArgumentError(f"cell is {cell!r}, expected a Cell (made by rnn_gpu.cell) or one of {', '.join(CELLS)}")
        derivatives.check_cell(cell)
        self.cell = cell
        self.input_size = arguments.size("input_size", input_size)
        self.hidden_size = self.output_size = arguments.size("hidden_size", hidden_size)
        self.batch_first, self.reverse = bool(batch_first), bool(reverse)
        self.seed, self.init = arguments.seed("seed", seed), arguments.choice("init", init, parameters.INITS)
        super().__init__(device, dtype, parameters.recurrent(cell, self.input_size, self.hidden_size, seed, init), precision)

    @classmethod
    def around(cls, cell: Cell, values: dict, device: str, reverse=False):
        """A layer on parameters that are there: contiguous arrays of the device are not copied."""
        layer = cls.__new__(cls)
        layer.cell, layer.reverse, layer.input_size = cell, reverse, values["U"].shape[1]
        layer.hidden_size = layer.output_size = values["W"].shape[1]
        Layer.__init__(layer, device, values["U"].dtype, values)
        return layer

    @property
    def recurrent(self):
        return (self,)

    def config(self) -> dict:
        names = ("input_size", "hidden_size", "batch_first", "seed", "init", "reverse", "precision")
        own = {"cell": self.cell} if type(self) is Recurrent else {}
        return own | {name: getattr(self, name) for name in names}

    def explain(self, T: int, B: int) -> str:
        """Which kernels a call on T steps of B samples runs, with which grid, and why; and what it remembers for the way back."""
        T, B, cell = arguments.size("T", T), arguments.size("B", B), self.cell
        states, itemsize = (T + 1) * B * cell.states * self.hidden_size, np.dtype(self.dtype).itemsize
        numbers = T * B * (self.input_size + cell.kept * self.hidden_size) + states
        remembered = f"remembered for backward: {numbers * itemsize:,} bytes (x, states, activations)"
        taped = f"tape=True: {states * itemsize + 8 * T:,} bytes more (dE/ds, ‖∇W_t‖), and one call of the kernel a step"
        return f"{self._device.explain(cell, self.hidden_size, B, self.dtype)}\n{remembered}\n{taped}"

    @property
    def delta(self):
        """δ = dE/dnet of every step, from the last backward: (T, B, G, n)."""
        self._recall()
        if self._δ is None:
            raise OrderError("delta is known after backward: call it after the layer went forward")
        return self._δ

    @property
    def tape(self) -> DeltaTape:
        """What every step computed in the last backward, which was called with tape=True."""
        self._recall()
        if self._taped is None:
            raise OrderError("tape is known after backward(…, tape=True): call it after the layer went forward")
        return self._taped

    def _forward(self, x, s0, steps, keep=True, training=False):
        d, θ, cell = self._device, self.parameters, self.cell
        T, B, _ = x.shape
        p = self._in_turn(d.project(x, θ["U"], θ["b"], cell.gates))
        s = d.empty((cell.states, T + 1, B, self.hidden_size), self.dtype)
        (s[:, 0],) = s0
        kept = p if cell.kept == cell.gates else d.empty((T, B, cell.kept, self.hidden_size), self.dtype)
        own = steps.turned(d) if self.reverse else steps
        d.forward(cell, p, θ["W"], self._c(), s, kept, own.flags)
        if keep:
            self._tape, self._δ, self._taped, self._like, self._steps = Tape(x, s, kept, own.flags, own.starts), None, None, x, steps
        return steps.only_live(self._in_turn(s[0, 1:])), [s[:, T]]

    def _backward(self, dy, ds, taped=False, clip=UNCLIPPED):
        d, θ, cell, tape = self._device, self.parameters, self.cell, self._recall()
        T, B, _ = tape.x.shape
        dp = d.empty((T, B, cell.gates, self.hidden_size), self.dtype)
        dq = d.empty(dp.shape, self.dtype) if cell.apart else dp
        if taped:
            self._taped, self.clipped_steps = self._back_by_steps(self._in_turn(dy), dp, dq, *ds, clip)
        else:
            arrays = self._in_turn(dy), θ["W"], self._c(), tape.s, tape.kept, tape.flags, dp, dq, *ds
            self._taped, self.clipped_steps = None, d.backward(cell, *arrays, clip)
        self._δ = self._in_turn(dp)
        self.grads = {"U": d.gradient_sum(self._δ, tape.x), "W": d.gradient_sum(dq, tape.before()[0]), "b": d.bias_sum(self._δ)}
        if cell.apart:
            self.grads["c"] = d.bias_sum(dq)
        return d.project_back(self._δ, θ["U"]), ds

    def _in_turn(self, a):
        """a (T, B, …) from time's order to that of this layer's own steps, or back.

        Steps beyond a sample's length come first when all T are turned around, and are not live: they hand the state on.
        """
        return self._device.array(a[::-1], a.dtype) if self.reverse else a

    def _back_by_steps(self, dy, dp, dq, ds, clip) -> tuple[DeltaTape, int]:
        """device.backward, one call a step, to see what it carries: the same numbers.  Overwrites dp, dq and ds."""
        tape, ds0, clipped = self._tape, zeros(self._device, ds.shape, self.dtype), 0
        T, B, G, n = dp.shape
        live = (tape.flags & LIVE)[:, :, None] != 0
        carried, norms = self._device.empty(tape.s.shape, self.dtype), np.empty(T)
        for t in reversed(range(T)):
            carried[:, t + 1] = ds
            carried[0, t + 1] += np.where(live[t], dy[t], dy.dtype.type(0))
            one = slice(t, t + 1)
            clipped += self._one_step_back(t, dy[one], dp[one], dq[one], ds, clip)
            norms[t] = outer_norm(dq[t].reshape(B, G * n), tape.before(t)[0])
            if tape.starts is not None:
                ds0 += np.where(tape.starts[t], ds, ds.dtype.type(0))
                ds[...] = np.where(tape.starts[t], ds.dtype.type(0), ds)
        ds += ds0
        carried[:, 0] = ds
        return DeltaTape(dp, dq, carried, tape.s, tape.kept, norms), clipped

    def _one_step_back(self, t, dy, dp, dq, ds, clip=UNCLIPPED) -> int:
        """Step t alone of device.backward: dy (1, B, n), dp and dq (1, B, G, n)."""
        tape, one = self._tape, slice(t, t + 1)
        s = tape.s[:, t : t + 2].copy()
        s[:, 0] = tape.before(t)
        arrays = dy, self.parameters["W"], self._c(), s, tape.kept[one], tape.flags[one], dp, dq, ds
        return self._device.backward(self.cell, *arrays, clip)

    def _c(self):
        return self.parameters["c"] if self.cell.apart else self._device.empty((0,), self.dtype)

    def _check_state(self, name, state, B):
        """A state at the door as an array of the device of its own, (S, B, n)."""
        S, n = self.cell.states, self.hidden_size
        if state is None:
            return zeros(self._device, (S, B, n), self.dtype)
        parts = (state,) if S == 1 else state
        if not isinstance(parts, (tuple, list)) or len(parts) != S:
            raise ShapeError(f"{name} is a {type(state).__name__}, expected a tuple of {S} arrays (B, n)")
        s = self._device.empty((S, B, n), self.dtype)
        for k, part in enumerate(parts):
            label = name if S == 1 else f"{name}[{k}]"
            a = arguments.floats(label, part, self.dtype, (B, n), "(B, n)")
            arguments.finite(label, a)
            s[k] = arguments.take(self._device, label, a, self.dtype)
        return s

    def _as_state(self, x, s):
        parts = tuple(self._to_kind_of(x, part) for part in s)
        return parts[0] if len(parts) == 1 else parts

    def _check_states(self, name, state, B):
        return [self._check_state(name, state, B)]

    def _as_states(self, states):
        return self._as_state(self._like, *states)

    # Other libraries' parameters: see weights.py

    def _as_torch(self, θ):
        return {theirs: θ[ours] if ours in θ else np.zeros_like(θ["b"]) for theirs, ours in TORCH.items()}

    def _of_torch(self, state_dict):
        known(state_dict, TORCH, optional=("bias_ih_l0", "bias_hh_l0"))
        zero = np.zeros(self.parameters["b"].shape, self.dtype)
        b, c = state_dict.get("bias_ih_l0", zero), state_dict.get("bias_hh_l0", zero)
        θ = {"U": state_dict["weight_ih_l0"], "W": state_dict["weight_hh_l0"]}
        return θ | ({"b": b, "c": c} if self.cell.apart else {"b": b + c})

    def _as_keras(self, θ):
        θ = {name: by_gates(a, self._gates_of_keras()) for name, a in θ.items()}
        return [θ["U"].T, θ["W"].T, np.stack([θ["b"], θ["c"]]) if self.cell.apart else θ["b"]]

    def _of_keras(self, weights):
        return recurrent_of_keras(weights, self._gates_of_keras(), self.cell.apart)

    def _gates_of_keras(self):
        if self.cell not in (lstm, gru) and not isinstance(self, RNN) and self.cell.name not in CELLS:
            raise ArgumentError(f"cell is {self.cell.name!r}, which Keras does not have")
        return (1, 0, 2) if self.cell is gru else tuple(range(self.cell.gates))


class RNN(Recurrent):
    """Elman network, s_t = f(U x_t + b + W s_{t-1}) (式2).

    activation  a name ("tanh", "relu", "sigmoid", …), an Activation, or your own pair (f, df) with df from the output y.
    Other arguments: see Recurrent. The state is s (B, n).
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        activation: str | Activation | tuple = "tanh",
        batch_first=False,
        device="auto",
        dtype="float32",
        seed=0,
        init="default",
        reverse=False,
        precision="fp32",
    ):
        self.activation = derivatives.activation(activation)
        super().__init__(elman(self.activation), input_size, hidden_size, batch_first, device, dtype, seed, init, reverse, precision)

    def config(self):
        return {"activation": self.activation} | super().config()


class LSTM(Recurrent):
    """Long short-term memory; gates i f g o, as torch.nn.LSTM.  The state is the pair (h, c), each (B, n).  See Recurrent."""

    def __init__(
        self,
        input_size,
        hidden_size,
        batch_first=False,
        device="auto",
        dtype="float32",
        seed=0,
        init="default",
        reverse=False,
        precision="fp32",
    ):
        super().__init__(lstm, input_size, hidden_size, batch_first, device, dtype, seed, init, reverse, precision)


class GRU(Recurrent):
    """Gated recurrent unit; gates r z n, reset after the product, as torch.nn.GRU.  The state is h (B, n).  See Recurrent."""

    def __init__(
        self,
        input_size,
        hidden_size,
        batch_first=False,
        device="auto",
        dtype="float32",
        seed=0,
        init="default",
        reverse=False,
        precision="fp32",
    ):
        super().__init__(gru, input_size, hidden_size, batch_first, device, dtype, seed, init, reverse, precision)


class Bidirectional(Stateful):
    """Two recurrent layers on the same x, one of them in reverse; y is both outputs side by side, (T, B, n + n).

    forward  of any kind
    reverse  the other, made with reverse=True; None makes one like `forward`, with the next seed
    The state is a list of two, that of each. Parameters and gradients of the other have names that end in _reverse.
    """

    def __init__(self, forward: Recurrent, reverse: Recurrent | None = None):
        if not isinstance(forward, Recurrent) or forward.reverse:
            raise ArgumentError(f"forward is {forward!r}, expected a recurrent layer with reverse=False")
        if reverse is None:
            changed = forward.config() | {"seed": forward.seed + 1, "reverse": True}
            reverse = type(forward)(**changed, device=forward.device, dtype=forward.dtype)
        if not isinstance(reverse, Recurrent) or not reverse.reverse:
            raise ArgumentError(f"reverse is {reverse!r}, expected a recurrent layer with reverse=True")
        for what in ("input_size", "batch_first", "device", "dtype", "precision"):
            if getattr(forward, what) != getattr(reverse, what):
                raise ArgumentError(f"reverse has {what}={getattr(reverse, what)!r}, but forward has {getattr(forward, what)!r}")
        self.recurrent = forward, reverse
        self.batch_first, self.dtype, self.precision = forward.batch_first, forward.dtype, forward.precision
        self._device = forward._device
        self.input_size, self.output_size = forward.input_size, forward.output_size + reverse.output_size
        self.parameters = parameters.Parameters(self._both("parameters"))

    def config(self):
        return dict(zip(("forward", "reverse"), self.recurrent, strict=True))

    def copy(self, device=None, dtype=None, precision=None):
        return Bidirectional(*(layer.copy(device, dtype, precision) for layer in self.recurrent))

    def explain(self, T, B):
        return "\n".join(layer.explain(T, B) for layer in self.recurrent)

    @property
    def grads(self):
        return self._both("grads")

    @property
    def tape(self):
        return [layer.tape for layer in self.recurrent]

    @property
    def clipped_steps(self) -> int:
        return sum(layer.clipped_steps for layer in self.recurrent)

    @property
    def _tape(self):
        return self.recurrent[0]._tape

    def _as_torch(self, θ):
        parts = [layer._as_torch(own) for layer, own in zip(self.recurrent, self._apart(θ), strict=True)]
        return parts[0] | {f"{name}_reverse": a for name, a in parts[1].items()}

    def _of_torch(self, state_dict):
        return self._joined(layer._of_torch(own) for layer, own in zip(self.recurrent, self._apart(state_dict), strict=True))

    def _as_keras(self, θ):
        return [a for layer, own in zip(self.recurrent, self._apart(θ), strict=True) for a in layer._as_keras(own)]

    def _of_keras(self, weights):
        return self._joined([layer._of_keras(weights) for layer in self.recurrent])

    def _apart(self, named):
        """The names of each direction, without _reverse."""
        reverse = {name.removesuffix("_reverse"): a for name, a in named.items() if name.endswith("_reverse")}
        return {name: a for name, a in named.items() if not name.endswith("_reverse")}, reverse

    def _joined(self, parts):
        forward, reverse = parts
        return {**forward} | {f"{name}_reverse": a for name, a in reverse.items()}

    def _both(self, what):
        return self._joined(getattr(layer, what) for layer in self.recurrent)

    def _forward(self, x, s0, steps, keep=True, training=False):
        (y, s), (y_reverse, s_reverse) = (
            layer._forward(x, [s], steps, keep, training) for layer, s in zip(self.recurrent, s0, strict=True)
        )
        if keep:
            self._like, self._steps = x, steps
        return np.concatenate([y, y_reverse], 2), s + s_reverse

    def _backward(self, dy, ds, taped=False, clip=UNCLIPPED):
        n, whole = self.recurrent[0].output_size, self._device.array
        parts = whole(dy[:, :, :n], self.dtype), whole(dy[:, :, n:], self.dtype)
        each = zip(self.recurrent, parts, ds, strict=True)
        (dx, s), (dx_reverse, s_reverse) = (layer._backward(part, [d], taped, clip) for layer, part, d in each)
        return dx + dx_reverse, s + s_reverse


def stack(
    kind, input_size, hidden_size, num_layers=1, bidirectional=False, dropout=0.0, device="auto", dtype="float32", seed=0, **options
) -> list[Layer]:
    """num_layers recurrent layers one above the other, for `Network([*stack(…), …])`; Dropout between them where dropout > 0.

    kind     RNN, LSTM, GRU, or what else makes a recurrent layer of (input_size, hidden_size, …); options are its own
    seed     of the first layer; each one, and each Dropout, has another
    """
    layers, common = [], {"device": device, "dtype": dtype}
    for k in range(arguments.size("num_layers", num_layers)):
        if k and arguments.number("dropout", dropout, 0, 1, open_high=True):
            layers.append(Dropout(dropout, seed=seed + 2 * k, **common))
        layer = kind(input_size, hidden_size, seed=seed + 2 * k, **common, **options)
        layers.append(Bidirectional(layer) if bidirectional else layer)
        input_size = layers[-1].output_size
    return layers


class Stateless(Layer):
    """A layer that treats every step and sample alike.  x is (T, B, m), or (B, m) without time; y has the same axes."""

    def __call__(self, x, training=False):
        """Carry the layer over x; remember what `backward` needs.  x (…, B, m) -> y (…, B, n)."""
        a = arguments.as_array("x", x, self.dtype)
        rank = 3 if a.ndim == 3 else 2
        axes = f"{'(T, B, ' if rank == 3 else '(B, '}m={self.input_size})"
        a = arguments.floats("x", a, self.dtype, (None,) * (rank - 1) + (self.input_size,), axes)
        arguments.finite("x", a)
        y, _ = self._forward(self._with_time("x", a).copy(), None, None, True, training)
        self._like = x
        return self._to_kind_of(x, y.reshape(*a.shape[:-1], -1))

    def backward(self, dy):
        """dE/dy, shaped as y -> dE/dx, shaped as x; sets `grads`."""
        self._recall()
        shape = np.shape(self._like)
        dy = arguments.floats("dy", dy, self.dtype, (*shape[:-1], self.output_size or shape[-1]), "(…, B, n)")
        arguments.finite("dy", dy)
        dx, _ = self._backward(self._with_time("dy", dy), None)
        return self._to_kind_of(self._like, dx.reshape(shape))

    def _with_time(self, name, a):
        return arguments.take(self._device, name, a if a.ndim == 3 else a[None], self.dtype)


@cache
def output_formula(activation: Activation):
    """(y, dy) -> δ = dy f'(net): 式3 of the BP chapter, but for its sign."""
    df = activation.df

    def δ(y, dy):
        return dy * df(y)

    return δ


class Dense(Stateless):
    """A fully connected layer, o = g(V s + b) (式1), at every step.

    activation as for RNN. parameters, grads: dicts of V (output_size, input_size) and b (output_size,): the weight of an input
    that is always 1.
    """

    def __init__(
        self, input_size, output_size, activation="identity", device="auto", dtype="float32", seed=0, init="default", precision="fp32"
    ):
        self.activation = derivatives.activation(activation)
        self.input_size = arguments.size("input_size", input_size)
        self.output_size = arguments.size("output_size", output_size)
        self.seed, self.init = arguments.seed("seed", seed), arguments.choice("init", init, parameters.INITS)
        super().__init__(device, dtype, parameters.dense(self.input_size, self.output_size, seed, init), precision)

    def config(self):
        return {name: getattr(self, name) for name in ("input_size", "output_size", "activation", "seed", "init", "precision")}

    def _forward(self, x, s0, steps, keep=True, training=False):
        d, θ = self._device, self.parameters
        net = d.project(x, θ["V"], θ.get("b"), 1)[:, :, 0]
        y = d.empty(net.shape, self.dtype)
        d.elementwise(self.activation.f, (y,), (net,))
        if keep:
            self._x, self._tape, self._like = x, y, x
        return y, []

    def _backward(self, dy, ds, taped=False, clip=UNCLIPPED):
        d, y = self._device, self._recall()
        δ = d.empty(y.shape, self.dtype)
        d.elementwise(output_formula(self.activation), (δ,), (y, dy))
        δ = δ[:, :, None]  # (T, B, G = 1, n)
        self.grads = {"V": d.gradient_sum(δ, self._x)} | ({"b": d.bias_sum(δ)} if "b" in self.parameters else {})
        return d.project_back(δ, self.parameters["V"]), []

    def _as_torch(self, θ):
        return {"weight": θ["V"], "bias": θ["b"]}

    def _of_torch(self, state_dict):
        known(state_dict, ("weight", "bias"), optional=("bias",))
        return {"V": state_dict["weight"], "b": state_dict.get("bias", np.zeros(self.output_size, self.dtype))}

    def _as_keras(self, θ):
        return [θ["V"].T, θ["b"]]

    def _of_keras(self, weights):
        return dense_of_keras(weights, bias=True)


class Embedding(Dense):
    """A vector of its own for each of `symbols` symbols, learned: the columns of V (size, symbols), no bias.

    It is the product of V with the one-hot vectors that integers stand for; so it is meant for characters, not for 100,000 words.
    """

    def __init__(self, symbols, size, device="auto", dtype="float32", seed=0, precision="fp32"):
        self.activation = derivatives.activation("identity")
        self.input_size, self.output_size = arguments.size("symbols", symbols), arguments.size("size", size)
        self.seed = arguments.seed("seed", seed)
        Layer.__init__(self, device, dtype, parameters.embedding(self.input_size, self.output_size, seed), precision)

    def __call__(self, x, training=False):
        """x (T, B) or (B,) integers, or one-hot (…, symbols) -> (…, size).  What `backward` returns is with respect to the one-hot."""
        return super().__call__(self.vectors(x), training)

    def vectors(self, x):
        """Integers as one-hot vectors; anything else as it is."""
        a = arguments.as_array("x", x, self.dtype)
        if a.dtype.kind not in "iu":
            return x
        a = self._device.numpy(a) if type(a) is not np.ndarray else a
        checked = arguments.symbols("x", a, self.input_size, "(T, B) or (B,)", 2 if a.ndim == 2 else 1)
        return arguments.one_hot(checked, self.input_size, self.dtype)

    def config(self):
        return {"symbols": self.input_size, "size": self.output_size, "seed": self.seed, "precision": self.precision}

    def _as_torch(self, θ):
        return {"weight": θ["V"].T}

    def _of_torch(self, state_dict):
        known(state_dict, ("weight",))
        return {"V": state_dict["weight"].T}

    def _as_keras(self, θ):
        return [θ["V"].T]

    def _of_keras(self, weights):
        return dense_of_keras(weights, bias=False)


class Dropout(Stateless):
    """Zero a share `rate` of the numbers in training, scale the others by 1/(1 − rate); outside training do nothing.

    variational  True draws one mask for all steps of a sequence (Gal and Ghahramani 2016)
    A mask's number is a function of `seed`, the layer's place in its network, the training pass, step, sample and unit, by Philox:
    the same on every device, whatever the batch's size and length.
    """

    def __init__(self, rate: float, variational: bool = False, device="auto", dtype="float32", seed=0):
        self.rate, self.variational = arguments.number("rate", rate, 0, 1, open_high=True), bool(variational)
        self.seed = arguments.seed("seed", seed)
        if self.seed > LOW:
            raise ArgumentError(f"seed is {seed!r}, expected an integer of at most {LOW}: it is half of Philox's key")
        self.passes = 0
        super().__init__(device, dtype, {})

    def config(self):
        return {"rate": self.rate, "variational": self.variational, "seed": self.seed}

    def _forward(self, x, s0, steps, keep=True, training=False):
        mask = x.dtype.type(1)
        if training:
            T, B, n = x.shape
            first = 0 if self.variational or steps is None else steps.first
            T = 1 if self.variational else T
            drawn = words(self._device.array, T, B, n, self.seed, self.place, self.passes, first)
            mask = (drawn >= round(self.rate * 2**32)).astype(self.dtype) * x.dtype.type(1 / (1 - self.rate))
            self.passes += 1
        if keep:
            self._tape, self._like = mask, x
        return x * mask, []

    def _backward(self, dy, ds, taped=False, clip=UNCLIPPED):
        return dy * self._recall(), []

    def _as_torch(self, θ):
        return {}

    def _of_torch(self, state_dict):
        known(state_dict, ())
        return {}

    def _as_keras(self, θ):
        return []

    def _of_keras(self, weights):
        return {}
