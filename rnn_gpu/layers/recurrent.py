"""A recurrent layer of any cell, forward and back through time; and the built-in kinds."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import arguments, derivatives, outline, parameters
from ..bridges.weights import TORCH, by_gates, known, next_of, recurrent_of_keras
from ..derivatives import ActivationLike
from ..errors import ArgumentError, OrderError, ShapeError
from ..kernels import FRESH, LIVE, UNCLIPPED, Backward, Cell, Forward
from ..kernels.cells import CELLS
from ..kernels.cells.elman import elman
from ..kernels.cells.gru import gru
from ..kernels.cells.lstm import lstm
from . import parallel, scan, seams
from .chunked import ChunkedTape, ParallelReport
from .cutting import Parallel, ParallelLike, expected, parallel_of
from .given import Given, enter_given, parted
from .noise import PART, Noise, Source, key, noise
from .passes import INFERENCE, Back, clipped_in_all, delta_of
from .stateful import Stateful
from .steps import Steps, swapped, unchanged
from .tapes import Tape

# What the way back through W is asked for: nothing goes below, and a bias where p and q are apart.
OF_W = {apart: FRESH._replace(below=False, bias=apart) for apart in (False, True)}


class DeltaTape(NamedTuple):
    """What BPTT computed at every step of a recurrent layer: `backward(…, tape=True)` leaves it in
    `tape`.

    Arrays of the device, in the order of the layer's own steps, which `reverse` turns around. ds[:,
    t] is all of dE/ds_t: what came back through time, and what the output s[0, t] of step t−1 adds
    by itself.
    """

    delta: np.ndarray  # (T, B, G, n), δ_t = dE/dnet_t
    # (T, B, G, n), δ of the recurrent side: the same array unless the cell takes the two apart
    delta_recurrent: np.ndarray
    ds: np.ndarray  # (S, T+1, B, n)
    s: np.ndarray  # (S, T+1, B, n), states; s[:, 0] is the initial one
    kept: np.ndarray  # (T, B, K, n), gates and what else the cell keeps
    weight_gradient_norms: np.ndarray  # (T,), ‖∇W_t‖ of 式5 over the whole batch; NumPy, float64

    __repr__ = outline.fields


def outer_norm(δ, s) -> float:
    """‖Σ_b δ_b s_bᵀ‖ without the matrix: its square is Σ_{b,b'} (δ_b·δ_b')(s_b·s_b').  δ (B, G·n),
    s (B, n).
    """
    δ, s = δ.astype(np.float64), s.astype(np.float64)  # the sum may cancel
    return max(float(((δ @ δ.T) * (s @ s.T)).sum()), 0.0) ** 0.5


class Recurrent(Stateful):
    """A recurrent layer of any cell: net_t = U x_t + b + W s_{t-1} (式2), trained by
    back-propagation through time.

    cell            a Cell (see `rnn_gpu.cell`), or the name of a built-in one: "lstm", "gru",
                    "elman_tanh", …
    input_size      m, features of x
    hidden_size     n, units
    batch_first     x, y and their gradients are (B, T, ·) instead of (T, B, ·)
    device          "auto", "cpu", "cuda" or "reference": see `rnn_gpu.device.resolve`
    dtype           "float32" or "float64", of x, y, states, parameters and gradients
    seed, init      of the initial parameters: see `rnn_gpu.parameters.recurrent`
    precision       of products of matrices: "fp32" is strict; "tf32" and "bf16" are faster, for
                    float32 on "cuda": see `rnn_gpu.device.resolve`. Sums and states stay float32
    reverse         the layer goes from the last step of each sample to its first; its state `after`
                    is that at the first step
    recurrent_dropout  in training W sees m ⊙ s_{t-1}: of m a share is zero, the rest 1/(1 − rate),
                       one mask for all steps (Gal and
                    Ghahramani 2016)
    zoneout         in training this share of each state stays as it was, drawn anew at every step;
                    outside, the mean of both (Krueger et al. 2016). One rate, or a tuple of one a
                    state: (h, c) of the LSTM

    Masks are drawn as Dropout's: by seed, place in the network, training pass, step, sample and
    unit.

    parameters, grads: dicts of U (G·n, m), W (G·n, n), b (G·n,), and c (G·n,) where the cell has
    it. A gradient is overwritten by each `backward`.
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        *,
        batch_first: bool = False,
        device: str = "auto",
        dtype: npt.DTypeLike = "float32",
        seed: int = 0,
        init: str = "default",
        reverse: bool = False,
        precision: str = "fp32",
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
    ):
        if isinstance(cell, str):
            cell = CELLS[arguments.choice("cell", cell, CELLS)]
        if not isinstance(cell, Cell):
            raise ArgumentError(
                f"cell is {cell!r}, expected a Cell (made by rnn_gpu.cell) or one of "
                f"{', '.join(CELLS)}"
            )
        derivatives.check_cell(cell)
        self.cell = cell
        self.recurrent_dropout = recurrent_dropout
        self.zoneout = tuple(zoneout) if isinstance(zoneout, list) else zoneout
        self._noise = noise(recurrent_dropout, zoneout, cell.states)
        self.input_size = arguments.size("input_size", input_size)
        self.hidden_size = self.output_size = arguments.size("hidden_size", hidden_size)
        self.batch_first = arguments.flag("batch_first", batch_first)
        self.reverse = arguments.flag("reverse", reverse)
        self.seed = arguments.seed("seed", seed)
        self.init = arguments.choice("init", init, parameters.INITS)
        if self.draws:
            key(self.seed)
        its = cell, self.input_size, self.hidden_size
        draw = partial(parameters.recurrent, *its, self.seed, init)
        super().__init__(device, dtype, parameters.recurrent_shapes(*its), draw, precision)

    @property
    def recurrent(self):
        return (self,)

    @property
    def draws(self) -> bool:
        return bool(self._noise)

    @property
    def noise(self) -> Noise:
        """What training draws: the rates of recurrent dropout and of zoneout."""
        return self._noise

    def config(self) -> dict:
        names = (
            "input_size",
            "hidden_size",
            "batch_first",
            "seed",
            "init",
            "reverse",
            "precision",
            "recurrent_dropout",
            "zoneout",
        )
        own = {"cell": self.cell} if type(self) is Recurrent else {}
        return own | {name: getattr(self, name) for name in names}

    def explain(self, T: int, B: int, parallel: ParallelLike = False) -> str:
        """Which kernels a call on T steps of B samples runs, with which grid, and why; what it
        remembers for the way back; and with `parallel` what chunks side by side, and a scan on the
        way back, should gain.
        """
        T, B = arguments.size("T", T), arguments.size("B", B)
        way = parallel_of(parallel, 1)
        cell = self._noise.around(self.cell, training=True)
        states = (T + 1) * B * cell.states * self.hidden_size
        itemsize = np.dtype(self.dtype).itemsize
        numbers = T * B * (self.input_size + cell.kept * self.hidden_size) + states
        remembered = (
            f"remembered for backward: {numbers * itemsize:,} bytes (x, states, activations)"
        )
        taped = (
            f"tape=True: {states * itemsize + 8 * T:,} bytes more (dE/ds, ‖∇W_t‖), and one call "
            "of the kernel a step"
        )
        kernels = self._device.explain(cell, self.hidden_size, B, self.dtype, self.precision)
        lines = [kernels, remembered, taped]
        if way is not None:
            lines += [expected(self, T, B, way), scan.expected(self, T, B, way)]
        return "\n".join(lines)

    @property
    def delta(self) -> np.ndarray:
        """δ = dE/dnet of every step, from the last backward: (T, B, G, n)."""
        back = self._found("delta")
        if back is None or back.delta is None:
            raise OrderError("delta is known after backward: call it after the layer went forward")
        return delta_of(back)

    @property
    def parallel_report(self) -> ParallelReport | None:
        """How the last call, and its `backward`, went in chunks, or why not; None where nobody
        asked for `parallel`.
        """
        last, back = self._last, self._found("parallel_report")
        return back.report if back else getattr(last and last.tape, "report", None)

    @property
    def tape(self) -> DeltaTape:
        """What every step computed in the last backward, which was called with tape=True."""
        back = self._found("tape")
        if back is None or back.tape is None:
            raise OrderError(
                "tape is known after backward(…, tape=True): call it after the layer went forward"
            )
        return back.tape

    def forward(self, x, s0, steps: Steps, pass_=INFERENCE):
        report = None
        if pass_.parallel is not None:
            gone, report = parallel.forward(self, x, s0, steps, pass_)
            if gone is not None:
                return gone
            report = scan.foreseen(self, x, pass_.parallel, report)
        d, cell = self._device, self._noise.around(self.cell, pass_.training)
        T, B, _ = x.shape
        p, mask = self.inputs(x, steps, pass_)
        p, own = self.in_turn(p), steps.turned(d) if self.reverse else steps
        given = pass_.given.get(self)
        s = self._first_states(s0[0], given, T, cell)
        if mask is not None:
            s[0, 0] = mask * s[1, 0]
            if given:
                s[0, T + 1 :] = mask * s[1, T + 1 :]
        # kept shares p's memory where the cell keeps as many numbers as it gets: p of a step is
        # read before it is overwritten
        kept = (
            p
            if cell.kept == cell.gates + cell.drawn
            else d.empty((T, B, cell.kept, self.hidden_size), self.dtype)
        )
        W, c = self.parameters["W"], self.recurrent_bias
        d.forward(cell, Forward(p, W, c, s, kept, own.flags, own.masked), self.precision)
        pattern, first = (own.flags, own.starts, own.masked), given and given.first
        tape = Tape(x, s, kept, *pattern, cell, self.cell, mask, report, first)
        y = self.in_turn(s[cell.output, 1 : T + 1])
        return steps.only_live(y), [s[cell.output :, T]], tape

    def _first_states(self, s0, given: Given | None, T, cell):
        """s of `forward`, with the states that steps begin with which follow no other."""
        shape = cell.states, (2 * T if given else T) + 1, s0.shape[1], self.hidden_size
        s = self._device.empty(shape, self.dtype)
        s[cell.output :, 0] = given.initial(s0) if given and not self.reverse else s0
        if given:
            given.put_into(s[cell.output :, T + 1 :], s[cell.output :, 0], self.reverse)
        return s

    def inputs(self, x, steps: Steps, pass_):
        """(p (T, B, G + D, n), the mask of recurrent dropout (B, n), or None) of x (T, B, m), in
        time's order.
        """
        d, θ, cell = self._device, self.parameters, self._noise.around(self.cell, pass_.training)
        p = d.project(x, θ["U"], θ["b"], cell.gates, self.precision)
        if not cell.drawn:
            return p, None
        place, number = self.place + (1 + self.reverse) * PART, pass_.numbers.get(self, 0)
        source = Source(self.seed, place, number, steps.first)
        return self._noise.beside(d, p, cell.gates, source, pass_.training)

    def back(self, tape, dy, ds, taped=False, clip=UNCLIPPED, later=None):
        report = tape.report
        if isinstance(tape, ChunkedTape):
            gone, report = seams.back(self, tape, dy, ds, taped, clip, later)
            if gone is not None:
                return gone
            tape = tape.whole()
            report = scan.foreseen(self, tape.x, Parallel(), report)
        d, (T, B, _), cell = self._device, tape.x.shape, tape.cell
        # dE/ds of the cell that ran: narrowed to that of its own cell it would be rounded
        ds = later.wide_ds if later else tape.widened(*ds)
        dp = d.empty((T, B, cell.gates, self.hidden_size), self.dtype)
        dq = d.empty(dp.shape, self.dtype) if cell.apart else dp
        behind, whole = None, ds
        if tape.goes_on:
            whole = d.zeros((cell.states, 1 + T, B, self.hidden_size), self.dtype)
            whole[:, 0], behind = ds, whole[:, 1:]
        if taped:
            report = scan.step_by_step(report, "tape=True")
            seen, clipped = self._back_by_steps(tape, self.in_turn(dy), dp, dq, ds, behind, clip)
        else:
            dy, s, kept = self.in_turn(dy), tape.wide_s, tape.wide_kept
            flags, masked = tape.flags, tape.masked
            call = Backward(dy, self.parameters["W"], s, kept, flags, dp, dq, whole, clip, masked)
            report = scan.back(self, cell, call, report)
            seen, clipped = None, 0
            if not (report and report.scan):
                clipped = d.backward(cell, call, self.precision)
            if tape.goes_on:
                ds[...] = whole[:, 0]
        δ = self.in_turn(dp)
        dx, grads = self.sums((δ, tape.x), (dq, tape.before()[0]), later)
        back = Back(dx, [tape.narrowed(ds)], grads, δ, seen, clipped, ds, report=report)
        if tape.goes_on:
            back = parted(d, back, tape.narrowed(behind), tape.first, self.reverse)
        return back._replace(clipped_steps=clipped_in_all((back, later))) if later else back

    def sums(self, inputs: tuple[Any, Any], recurrent: tuple[Any, Any], later):
        """(dE/dx, gradients by name) from δ and what it was multiplied by: (δp, x), (δq, s), each
        pair in an order of its own; added to those of `later`.
        """
        d, θ, apart = self._device, self.parameters, self.cell.apart
        sums, sums_W = FRESH, OF_W[apart]
        if later:
            sums = sums._replace(U=later.grads["U"], b=later.grads["b"])
            sums_W = sums_W._replace(U=later.grads["W"], b=later.grads.get("c"))
        dx, dU, db = d.project_back(*inputs, θ["U"], sums, self.precision)
        _, dW, dc = d.project_back(*recurrent, θ["W"], sums_W, self.precision)
        return dx, {"U": dU, "W": dW, "b": db} | ({"c": dc} if apart else {})

    def in_turn(self, a):
        """a (T, B, …) from time's order to that of this layer's own steps, or back.

        Steps beyond a sample's length come first when all T are turned around, and are not live:
        they hand the state on.
        """
        return self._device.array(a[::-1], a.dtype) if self.reverse else a

    def _back_by_steps(self, tape, dy, dp, dq, ds, behind, clip) -> tuple[DeltaTape, Any]:
        """device.backward, one call a step, to see what it carries: the same numbers.  Overwrites
        dp, dq and ds, and behind (S, T, B, n), where there is one, with what arrives at given
        states.
        """
        ds0, clipped = self._device.zeros(ds.shape, self.dtype), 0
        T, B, G, n = dp.shape
        live = (tape.flags & LIVE)[:, :, None] != 0
        shape = ds.shape[0], T + 1, *ds.shape[1:]
        carried, norms = self._device.empty(shape, self.dtype), np.empty(T)
        for t in reversed(range(T)):
            carried[:, t + 1] = ds
            carried[tape.cell.output, t + 1] += np.where(live[t], dy[t], dy.dtype.type(0))
            one = slice(t, t + 1)
            clipped += self.one_step_back(tape, t, dy[one], dp[one], dq[one], ds, clip)
            norms[t] = outer_norm(dq[t].reshape(B, G * n), tape.before(t)[0])
            if tape.starts is not None:
                arrives = ds0 if behind is None else behind[:, t]
                arrives += np.where(tape.starts[t], ds, ds.dtype.type(0))
                ds[...] = np.where(tape.starts[t], ds.dtype.type(0), ds)
        ds += ds0
        carried[:, 0] = ds
        return DeltaTape(dp, dq, tape.narrowed(carried), tape.s, tape.kept, norms), clipped

    def one_step_back(self, tape, t, dy, dp, dq, ds, clip=UNCLIPPED):
        """Step t alone of device.backward: dy (1, B, n), dp and dq (1, B, G, n), ds of the cell
        that ran.
        """
        one = slice(t, t + 1)
        s = tape.wide_s[:, t : t + 2].copy()
        s[:, 0] = tape.before(t)
        kept, flags = tape.wide_kept[one], tape.flags[one]
        W, masked = self.parameters["W"], tape.masked
        call = Backward(dy, W, s, kept, flags, dp, dq, ds, clip, masked)
        return self._device.backward(tape.cell, call, self.precision)

    @property
    def recurrent_bias(self):
        """The bias of the recurrent side, (G·n,), or (0,) of a cell that is not apart."""
        return self.parameters["c"] if self.cell.apart else self.parameters["b"][:0]

    def _check_state(self, name, state, B):
        """A state at the door as an array of the device of its own, (S, B, n)."""
        S, n = self.cell.states, self.hidden_size
        if state is None:
            return self._device.zeros((S, B, n), self.dtype)
        s = self._device.empty((S, B, n), self.dtype)
        for k, (label, a) in enumerate(self._apart(name, state, (B, n), "(B, n)", batch=0)):
            arguments.finite(label, a)
            s[k] = arguments.take(self._device, label, a, self.dtype)
        return s

    def _apart(self, name, state, shape, axes, batch):
        """The arrays of a state at the door, of this shape, with their names."""
        return [
            (label, arguments.floats(label, part, self.dtype, shape, axes, batch))
            for label, part in self.parts_of_state(name, state, f"arrays {axes}")
        ]

    def parts_of_state(self, name: str, state, expected: str) -> list[tuple[str, Any]]:
        """(name, what came) of each state of the cell: of several a tuple came."""
        S = self.cell.states
        parts = (state,) if S == 1 else state
        if not isinstance(parts, (tuple, list)) or len(parts) != S:
            came = arguments.came_in_parts(parts)
            raise ShapeError(f"{name} is {came}, expected a tuple of {S} {expected}")
        names = [name] if S == 1 else [f"{name}[{k}]" for k in range(S)]
        return list(zip(names, parts, strict=True))

    def _check_given(self, name, state, begins, batch_first: bool) -> Given:
        """What samples go on from at the door, one a state, where they begin anew: (T, B) booleans
        of NumPy's.
        """
        shape, axes = (*begins.shape, self.hidden_size), "(T, B, n)"
        if batch_first:
            shape, axes = (shape[1], shape[0], shape[2]), "(B, T, n)"
        parts = self._apart(name, state, shape, axes, batch=0 if batch_first else 1)
        turn = swapped if batch_first else unchanged
        return enter_given(self._device, parts, begins, self.dtype, turn)

    def _as_state(self, x, s):
        return (
            arguments.give(self._device, x, s[0])
            if len(s) == 1
            else tuple(arguments.give(self._device, x, part) for part in s)
        )

    def _check_states(self, name, state, B):
        return [self._check_state(name, state, B)]

    def _as_states(self, like, states):
        return self._as_state(like, *states)

    def _check_reset_state(self, state, begins):
        return {self: self._check_given("reset_state", state, begins, self.batch_first)}

    def _as_dreset_state(self, like, dgiven):
        (d,) = dgiven
        return self._as_state(like, d.swapaxes(1, 2) if self.batch_first else d)

    # Other libraries' parameters: see bridges/weights.py

    def as_torch(self, θ):
        return {
            theirs: θ[ours] if ours in θ else np.zeros_like(θ["b"])
            for theirs, ours in TORCH.items()
        }

    def of_torch(self, state_dict):
        known(state_dict, TORCH, optional=("bias_ih_l0", "bias_hh_l0"))
        zero = np.zeros(self.parameters["b"].shape, self.dtype)
        b, c = state_dict.get("bias_ih_l0", zero), state_dict.get("bias_hh_l0", zero)
        θ = {"U": state_dict["weight_ih_l0"], "W": state_dict["weight_hh_l0"]}
        return θ | ({"b": b, "c": c} if self.cell.apart else {"b": b + c})

    def as_keras(self, θ):
        θ = {name: by_gates(a, self._gates_of_keras()) for name, a in θ.items()}
        bias = np.stack([θ["b"], θ["c"]]) if self.cell.apart else θ["b"]
        return [("kernel", θ["U"].T), ("recurrent kernel", θ["W"].T), ("bias", bias)]

    def of_keras(self, weights):
        return recurrent_of_keras(next_of(weights, 3), self._gates_of_keras(), self.cell.apart)

    def _gates_of_keras(self):
        if self.cell.keras is None:
            raise ArgumentError(f"cell is {self.cell.name!r}, which Keras does not have")
        return self.cell.keras


class RNN(Recurrent):
    """Elman network, s_t = f(U x_t + b + W s_{t-1}) (式2).

    activation  a name ("tanh", "relu", "sigmoid", …), an Activation, or your own pair (f, df) with
                df from the output y.
    The other options: see Recurrent. The state is s (B, n).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        activation: ActivationLike = "tanh",
        *,
        batch_first: bool = False,
        device: str = "auto",
        dtype: npt.DTypeLike = "float32",
        seed: int = 0,
        init: str = "default",
        reverse: bool = False,
        precision: str = "fp32",
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
    ):
        self.activation = derivatives.activation(activation)
        super().__init__(
            elman(self.activation),
            input_size,
            hidden_size,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
            seed=seed,
            init=init,
            reverse=reverse,
            precision=precision,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
        )

    def config(self):
        return {"activation": self.activation} | super().config()

    def __getstate__(self):
        # a formula around the activation, which can be found again
        return super().__getstate__() | {"cell": None}

    def __setstate__(self, state):
        super().__setstate__(state | {"cell": elman(state["activation"])})


class BuiltIn(Recurrent):
    """A recurrent layer of one cell, which its class says.  Options: see Recurrent."""

    built_in: Cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        batch_first: bool = False,
        device: str = "auto",
        dtype: npt.DTypeLike = "float32",
        seed: int = 0,
        init: str = "default",
        reverse: bool = False,
        precision: str = "fp32",
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
    ):
        super().__init__(
            self.built_in,
            input_size,
            hidden_size,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
            seed=seed,
            init=init,
            reverse=reverse,
            precision=precision,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
        )


class LSTM(BuiltIn):
    """Long short-term memory; gates i f g o, as torch.nn.LSTM.  With net_k = U_k x_t + b_k + W_k h:

    i, f, o = σ(net_i), σ(net_f), σ(net_o);  g = tanh(net_g);  c ← f c + i g;  h ← o tanh(c)

    The state is the pair (h, c), each (B, n); h is the output.  Options: see Recurrent.
    """

    built_in = lstm


class GRU(BuiltIn):
    """Gated recurrent unit; gates r z n, reset after the product, as torch.nn.GRU.  With
    p_k = U_k x_t + b_k and q_k = W_k h + c_k:

    r, z = σ(p_r + q_r), σ(p_z + q_z);  n = tanh(p_n + r q_n);  h ← (1 − z) n + z h

    The state is h (B, n), the output too.  Options: see Recurrent.
    """

    built_in = gru
