"""Gradient flow: how a gradient fares on its way back through time, measured, bounded and judged
(the tutorial's chapter 6).

A recurrent layer carries dE/ds back one step by J = D + Wᵀ A, where A (dE/ds to δ) and D (around W)
are made of one small matrix a unit, `Cell.back`. So ‖dE/ds_k‖ ≤ (β_D + β_W β_A)^(T−k) ‖dE/ds_T‖; of
an Elman layer D is 0 and A is f′(net), and that is the tutorial's (β_W β_f)^(T−k). docs/bptt.md
derives it, and writes A and D out for the LSTM and the GRU.
"""

from typing import NamedTuple

import numpy as np

from .. import outline
from ..bridges import plots
from ..errors import ArgumentError, NonFiniteError
from ..kernels import LIVE
from ..kernels.whole_arrays import formula, unpack
from ..layers import Recurrent
from ..layers.stateful import zero_states
from . import finite
from .batches import Samples
from .gradients import Made, forward_backward

LOW, HIGH = 1e-3, 1e3  # the effective horizon is where ‖δ_k‖/‖δ_T‖ leaves this range
DEAF = 0.05  # a unit is saturated at a step where ‖∂s_{t+1}/∂net_t‖ is below this


class LayerFlow(NamedTuple):
    """One recurrent layer. Row L of a curve is L steps before the last one of each sample, its
    columns are quartiles over samples.
    """

    name: str
    delta: np.ndarray  # (T, 3), ‖δ_{T−L}‖ / ‖δ_T‖
    state: np.ndarray  # (T+1, 3), ‖dE/ds_{T−L}‖ / ‖dE/ds_T‖ over all states
    # (T+1,), (β_D + β_W β_A)^L, never below `state`, nor for an Elman layer below `delta`
    bound: np.ndarray
    weight_norm: float  # β_W = ‖W‖₂
    # β_A, the largest ‖∂s_{t+1}/∂q_t‖ of a unit that occurred; for an Elman layer β_f, the largest
    # |f′(net_t)|
    slope: float
    around: float  # β_D, the largest ‖∂s_{t+1}/∂s_t‖ of a unit that does not pass through W
    # the first L at which the median of `delta` is outside 1e-3 … 1e3; None where it never is
    horizon: int | None
    # share of units × steps × samples at which ‖∂s_{t+1}/∂net_t‖ < 0.05; for an Elman layer
    # |f′(net_t)|
    saturated: float
    dead: float  # share of units at which it is 0 at every step of every sample
    # the largest exponent, a step, of the samples through which a vector comes back; −inf where it
    # is none
    lyapunov: float
    silent: float  # share of samples through which none comes back: it is exactly 0 after some step
    heat: np.ndarray  # (T, n), mean |δ| over samples and gates
    verdict: str  # "vanishing", "healthy", "exploding"
    remedy: str
    code: str  # the line that applies the remedy; "" where none is needed

    __repr__ = outline.fields

    def __str__(self):
        places = sorted({min(L, len(self.delta) - 1) for L in (1, 10, 100, len(self.delta) - 1)})
        curve = ", ".join(f"{self.delta[L, 1]:.2g} after {L}" for L in places)
        around = f"{self.around:.3g} + " if self.around else ""
        bound = (
            f"{around}{self.weight_norm:.3g} · {self.slope:.3g} = "
            f"{self.around + self.weight_norm * self.slope:.3g} a step"
        )
        horizon = (
            f"beyond {len(self.delta)} steps"
            if self.horizon is None
            else f"{self.horizon} steps: there it leaves {LOW:g} … {HIGH:g}"
        )
        return (
            f"{self.name}: {self.verdict}\n"
            f"  ‖δ_k‖/‖δ_T‖  {curve} steps back (median over samples)\n"
            f"  horizon      {horizon}\n"
            f"  bound        {bound}, {self.looseness}\n"
            f"  Lyapunov     {self.lyapunov:+.3g} a step, the largest "
            f"exponent{self.beside_the_verdict}\n"
            f"  units        {self.saturated:.0%} saturated, {self.dead:.0%} dead\n"
            f"  remedy       {self.remedy}{self.code and ': ' + self.code}"
        )

    @property
    def looseness(self) -> str:
        """How far the bound is above the median of `state`, at the last step back where something
        is left of that.
        """
        L = int(np.flatnonzero(self.state[:, 1])[-1]) if self.state[:, 1].any() else 0
        if not L:
            return "and nothing comes back"
        with np.errstate(over="ignore"):
            ratio = self.bound[L] / self.state[L, 1]
        return f"{ratio:.3g} times what is measured after {L} steps"

    @property
    def beside_the_verdict(self) -> str:
        """What is to be said where exponent and verdict differ in sign, and of samples that the
        exponent leaves out.
        """
        words = ""
        if self.verdict == "exploding" and self.lyapunov < 0:
            words = (
                "; the verdict is of the curve: it grows at first, in the long run it would shrink"
            )
        if self.verdict == "vanishing" and self.lyapunov > 0:
            words = (
                "; the verdict is of the curve's median, and the exponent of a vector that still "
                "comes back"
            )
        return words + (
            f"; in {self.silent:.0%} of the samples nothing comes back" if self.silent else ""
        )


class Report(NamedTuple):
    """What `network.gradient_flow` found: print it, plot it, or read its layers, the recurrent ones
    in the network's order.
    """

    layers: list[LayerFlow]
    loss: float
    samples: int

    def __str__(self):
        head = (
            f"loss {self.loss:.6g}; the gradient that enters at the last step of {self.samples} "
            "samples, on its way back"
        )
        return "\n".join([head, *map(str, self.layers)])

    def _repr_html_(self):
        return plots.html(str(self), self.plot)

    def plot(self, path=None):
        """A matplotlib Figure, one row a layer: the measured curve, the bound, the horizon, and |δ|
        by unit and step; saved at path.
        """
        return plots.flow_picture(self, path)


def gradient_flow(network, x, y) -> Report:
    """Carry the gradient of each recurrent layer back from the last step of every sample, and judge
    how it fares.

    x, y as for `Network.fit`; all samples are one batch. The network stays as it is. What enters a
    layer is the loss's dE/dy of its last step alone (a reverse layer's last step is the first in
    time), or a random vector in samples where that is zero; so a curve shows the layer's own
    recurrence. Dropout is off. Raises NonFiniteError, naming the place, where the way forward is
    not finite.
    """
    if not network.recurrent:
        raise ArgumentError(
            "this network has no recurrent layer: its gradient goes through no time"
        )
    network = network.copy()
    samples = Samples(network, x, y)
    batch = samples.batch(range(len(samples)))
    with np.errstate(all="ignore"):
        o, last, tapes = network.forward(
            batch.x, zero_states(network.recurrent, len(samples)), batch.steps
        )
        E, dy = network.objective(network.backend, o, batch.target, batch.weight)
        if not np.isfinite(E):
            back = network.back(tapes, dy, zero_states(network.recurrent, len(samples)))
            made = Made(E, None, o, tapes, back, last)
            raise NonFiniteError(f"gradient_flow: {finite.first_bad(network, batch, made)}")
        flows = []
        for i, (layer, tape) in reversed(list(enumerate(zip(network.layers, tapes, strict=True)))):
            here, end, own = [], 0, list(recurrent_tapes(layer, tape))
            for one, its_tape in own:
                start, end = end, end + one.output_size
                bias = f"{i}.b_reverse" if one.reverse and one is not layer else f"{i}.b"
                here.append(
                    measure(one, its_tape, network.backend.numpy(dy[:, :, start:end]), i, bias)
                )
            flows = here + flows
            dy = layer.back(tape, dy, [nothing(*each) for each in own]).dx
    return Report(flows, E, len(samples))


def recurrent_tapes(layer, tape):
    """(recurrent layer, its tape) of a layer."""
    return zip(layer.recurrent, tape if len(layer.recurrent) > 1 else (tape,), strict=False)


def nothing(layer: Recurrent, tape):
    """A gradient of zero with respect to the state after the last step."""
    return layer.backend.zeros(tape.s[:, 0].shape, layer.dtype)


def measure(layer: Recurrent, way, arriving, i: int, bias: str) -> LayerFlow:
    """The flow through one recurrent layer.

    way  the tape of its way forward; arriving (T, B, n), NumPy, is the whole dE/dy, in time's order
    """
    number = layer.backend.numpy
    # in the order of the layer's own steps, as all that follows
    live = number(way.flags & LIVE) != 0
    T, B = live.shape
    steps = [np.flatnonzero(live[:, b]) for b in range(B)]
    others = np.random.default_rng(0).normal(size=(B, arriving.shape[2]))
    entering = np.zeros_like(arriving)
    known: list[bool] = []  # does the loss reach the last step of this sample
    for b, own in enumerate(steps):
        last = arriving[T - 1 - own[-1] if layer.reverse else own[-1], b]
        known.append(bool(last.any()))
        entering[own[-1], b] = last if known[b] else others[b]
    entering = layer.in_turn(layer.backend.array(entering, layer.dtype))
    seen = layer.back(way, entering, [nothing(layer, way)], taped=True).tape
    tape = type(seen)(*(number(a).astype(float) for a in seen))

    # (T, B), (T+1, B)
    δ, ds = np.sqrt((tape.delta**2).sum((2, 3))), np.sqrt((tape.ds**2).sum((0, 3)))
    back = [own[::-1] for own in steps]  # from the last step of each sample to its first
    delta = quartiles([ratio(δ[own, b]) for b, own in enumerate(back)])
    state = quartiles([ratio(ds[np.append(own + 1, own[-1]), b]) for b, own in enumerate(back)])
    whole = tape._replace(kept=number(way.wide_kept).astype(float))
    heard, slope, around = (norms[live] for norms in local_norms(way.cell, whole))
    β_W = float(np.linalg.norm(number(layer.parameters["W"]).astype(float), 2))
    β_A, β_D = float(slope.max()), float(around.max())
    outside = np.flatnonzero((delta[:, 1] < LOW) | (delta[:, 1] > HIGH))
    horizon = int(outside[0]) if len(outside) else None
    verdict = (
        "healthy" if horizon is None else "vanishing" if delta[horizon, 1] < LOW else "exploding"
    )
    abs_δ = np.abs(tape.delta).mean(2)  # (T, B, n)
    heat = [
        np.mean([abs_δ[own[L], b] for b, own in enumerate(back) if len(own) > L], 0)
        for L in range(len(delta))
    ]
    exponent, silent = lyapunov(layer, way, steps)
    entered = [δ[own[-1], b] for b, own in enumerate(steps) if known[b] and δ[own[-1], b]]
    remedy, code = remedy_for(
        layer, verdict, bias, too_large(layer, β_W, β_A), fit_threshold(entered, B)
    )
    kind = type(layer).__name__ + ", reverse" * layer.reverse
    return LayerFlow(
        name=f"layer {i} ({kind}, {layer.cell.name}, {layer.hidden_size} units)",
        delta=delta,
        state=state,
        bound=(β_D + β_W * β_A) ** np.arange(len(state)),
        weight_norm=β_W,
        slope=β_A,
        around=β_D,
        horizon=horizon,
        saturated=float((heard < DEAF).mean()),
        dead=float((heard == 0).all(0).mean()),
        lyapunov=exponent,
        silent=silent,
        heat=np.array(heat),
        verdict=verdict,
        remedy=remedy,
        code=code,
    )


def delta_norms(network, x, y):
    """‖δ‖ of the last recurrent layer, k steps before the last one of each sequence: the mean over
    samples, k = 0, 1, ….

    x, y as for `Network.fit`. Returns a NumPy array as long as the longest sequence.
    """
    samples = Samples(network, x, y)
    batch = samples.batch(range(len(samples)))
    forward_backward(network, batch)
    δ = network.backend.numpy(network.recurrent[-1].delta)
    norms = np.sqrt((δ.astype(float) ** 2).sum((2, 3)))  # (T, B)
    aligned = [norms[: batch.lengths[b], b][::-1] for b in range(len(samples))]
    return np.array([np.mean([n[k] for n in aligned if len(n) > k]) for k in range(len(norms))])


def ratio(norms):
    """norms over the first of them, 0 where that is 0 already; what overflowed is the largest
    number there is.
    """
    largest = np.finfo(float).max
    return (
        np.nan_to_num(norms / norms[0], nan=largest, posinf=largest)
        if norms[0]
        else np.zeros(len(norms))
    )


def quartiles(curves):
    """Curves of different lengths -> (longest, 3): the quartiles of those that are long enough."""
    rows = ([curve[L] for curve in curves if len(curve) > L] for L in range(max(map(len, curves))))
    # no mean of huge numbers
    return np.array([np.quantile(row, (0.25, 0.5, 0.75), method="nearest") for row in rows])


def local_norms(cell, tape):
    """(T, B, n) each: ‖∂s_{t+1}/∂p_t‖, ‖∂s_{t+1}/∂q_t‖ and ‖∂s_{t+1}/∂s_t‖ around W, of every unit
    by itself.

    The transposed Jacobians are `Cell.back` of every unit vector: S calls for all steps, samples
    and units at once.
    """
    back, S, shape = formula(cell.back), cell.states, tape.s[0, 1:].shape
    numbers = unpack(tape.kept, 2), unpack(tape.s[:, :-1], 0), unpack(tape.s[:, 1:], 0)
    columns = [
        back(tuple(np.full(shape, float(i == k)) for i in range(S)), *numbers) for k in range(S)
    ]
    sides = (
        np.array([[np.broadcast_to(a, shape) for a in column[side]] for column in columns])
        for side in range(3)
    )
    matrices = [np.moveaxis(side, (0, 1), (-1, -2)) for side in sides]
    return [
        np.linalg.norm(matrix, 2, (-2, -1)) if S > 1 else np.sqrt((matrix**2).sum((-2, -1)))
        for matrix in matrices
    ]


def lyapunov(layer: Recurrent, tape, steps, seed=0) -> tuple[float, float]:
    """The largest Lyapunov exponent by Benettin's method: how ln‖v‖ grows a step, for a random v
    that is kept at length 1.

    v is carried back by the kernel that carries dE/ds: the product of Jacobians and its transpose
    have the same singular values. The first quarter of the steps of each sample lets v find its
    direction. Mean over the samples through which v comes back, −inf where it is none, and the
    share of the others: where all units of a ReLU layer rest, v is 0 from there on, and its
    logarithm −inf.
    """
    d = layer.backend
    S, _, B, n = tape.s.shape
    v = np.random.default_rng(seed).normal(size=(S, B, n))
    v = d.array(v / np.sqrt((v**2).sum((0, 2), keepdims=True)), layer.dtype)
    dy, dp = (d.zeros((1, B, *shape), layer.dtype) for shape in ((n,), (layer.cell.gates, n)))
    dq, growth = dp.copy() if layer.cell.apart else dp, np.zeros(tape.flags.shape)
    for t in reversed(range(len(growth))):
        layer.one_step_back(tape, t, dy, dp, dq, v)
        norm = (v.astype(np.float64) ** 2).sum((0, 2)) ** 0.5
        growth[t] = np.log(d.numpy(norm))
        v /= np.where(norm > 0, norm, 1).astype(layer.dtype)[:, None]
    rates = np.array(
        [growth[own[: len(own) - len(own) // 4], b].mean() for b, own in enumerate(steps)]
    )
    alive = rates != -np.inf
    return float(rates[alive].mean()) if alive.any() else -np.inf, float((~alive).mean())


def too_large(layer: Recurrent, β_W: float, β_A: float) -> float:
    """By how much W is larger than one whose bound is 1 (Elman), or than the G orthogonal matrices
    that it starts as.
    """
    G = layer.cell.gates
    return β_W * β_A if G == 1 else β_W / G**0.5  # of G, one above the other, ‖W‖₂ is √G


def fit_threshold(norms, samples: int, batch=32) -> float:
    """The median ‖δ_T‖ of a sample of fit's batches, from those of one batch of all samples, whose
    mean loss divides by more.
    """
    return float(np.median(norms)) * samples / min(batch, samples) if norms else 1.0


def remedy_for(
    layer: Recurrent, verdict: str, bias: str, excess: float, threshold: float
) -> tuple[str, str]:
    """(what to do, the line of code): of the tutorial's list (initial weights, ReLU, gates, a
    threshold) what trained best.

    `python -m benchmarks remedies` tries them; docs/vanishing.md has what came out.
    excess     see too_large
    threshold  of ‖δ‖ of a step, where W cannot be blamed or must stay
    """
    m, n, cell = layer.input_size, layer.hidden_size, layer.cell.name
    if verdict == "healthy":
        return "none needed", ""
    if verdict == "exploding":
        bound = f"clip_step_norm={threshold:.2g}"
        if excess <= 1:
            return (
                "bound δ of every step by what enters at the last one",
                f"network.fit(x, y, {bound})",
            )
        what = (
            f"1. initial weights, W that much smaller (where it has learnt and must stay, {bound} "
            "in fit)"
        )
        return what, f'network.parameters["{bias.replace(".b", ".W")}"][...] /= {excess:.3g}'
    if cell in ("lstm", "gru"):
        gate = {"lstm": "forget", "gru": "update"}[cell]
        return (
            f"a larger bias of the {gate} gate keeps more of the state",
            f'network.parameters["{bias}"][{n}:{2 * n}] += 1',
        )
    return "3. a cell with gates", f"rnn_gpu.GRU({m}, {n})"
