"""The way forward over one long sequence as chunks side by side.

Each chunk but the first starts some steps early, from zero; where its start then is not the end of
the chunk before, it is run again from there. See docs/parallel.md; the way back is in seams.
"""

from typing import Any, NamedTuple

import numpy as np

from ..kernels import Forward
from . import anew
from .chunked import ChunkedTape, ParallelReport
from .cutting import PIECE, ROUNDING, SAME, Cut, cut_of, lying
from .overlap import Chunks, apart, gathered, growth, per_chunk, scatter
from .tapes import Tape

MEASURED = 64  # ε: differences that are larger tell what becomes of them
LOOKS = 64  # at how many steps of the warm-ups distances are measured


class States(NamedTuple):
    """Of all chunks: views of s, which is (S, L + 1, C·B, n), what is given behind, or of chunks in
    place as Forward says.
    """

    s: Any
    starts: Any  # (S, C·B, n)
    after: Any  # (S, L, C·B, n), behind each step


def states_of(s, cut: Chunks) -> States:
    """The States of s."""
    if not cut.in_place:
        return States(s, s[:, 0], s[:, 1 : cut.length + 1])
    (S, _, n), steps = s.shape, cut.count * cut.length
    after = s[:, 1 : steps + 1].reshape((S, cut.count, cut.length, n)).swapaxes(1, 2)
    return States(s, s[:, steps + 1 :], after)


class Run:
    """Trajectories of one layer on one input in chunks."""

    def __init__(self, layer, cell, chunks: Chunks, x, drawn, flags, masked: bool, given=None):
        """x (L, C·B, m); drawn (L, C·B, G + D, n), p of a cell that draws, else None, both in place
        as Chunks says; flags (L, C·B); given (S, L, C·B, n), what samples begin anew with, None
        where none does.
        """
        self.layer, self.cell, self.chunks = layer, cell, chunks
        x, drawn = chunks.columns_of(x), None if drawn is None else chunks.columns_of(drawn)
        self.x, self.drawn, self.flags, self.masked = x, drawn, flags, masked
        self.given, self.device, self.dtype = given, layer.backend, x.dtype
        self.events = anew.events(self.device, chunks, flags, masked)
        self.steps = 0  # of one sample each, that were run

    def inputs(self, steps: slice, columns: list[slice]):
        """p of some steps and columns, to be overwritten."""
        d, layer = self.device, self.layer
        if self.drawn is not None:
            return gathered(d, self.drawn[steps], 1, columns)
        θ = layer.parameters
        x = gathered(d, self.x[steps], 1, columns)
        return d.project(x, θ["U"], θ["b"], self.cell.gates, layer.precision)

    def over(self, p, start, steps: slice, columns: list[slice]):
        """(states (S, steps + 1, columns, n), what is given behind them; kept) from start
        (S, columns, n) over p of some steps and columns, which may be overwritten.
        """
        d, (L, count, _, n) = self.device, p.shape
        rows = L + 1 if self.given is None else 2 * L + 1
        s = d.empty((self.cell.states, rows, count, n), self.dtype)
        s[:, 0] = start
        if self.given is not None:
            s[:, L + 1 :] = gathered(d, self.given[:, steps], 2, columns)
        return s, self.carried(p, s, gathered(d, self.flags[steps], 1, columns))

    def all_over(self, p, start) -> tuple[States, Any]:
        """(states, what is kept) of all chunks, from start (S, C·B, n) over p (L, C·B, G + D, n) or
        in place (C, L, G + D, n), which may be overwritten; kept likewise.
        """
        cut = self.chunks
        if not cut.in_place:
            s, kept = self.over(p, start, slice(0, cut.length), [slice(0, cut.count * cut.B)])
            return states_of(s, cut), kept
        steps = cut.count * cut.length
        s = self.device.empty((self.cell.states, steps + 1 + cut.count, p.shape[3]), self.dtype)
        s[:, 0], s[:, steps + 1 :] = start[:, 0], start
        return states_of(s, cut), self.carried(p, s, self.flags)

    def carried(self, p, s, flags):
        """What is kept of p, which may be overwritten, as s is."""
        cell, layer, (first, second, _, n) = self.cell, self.layer, p.shape
        # see Recurrent.forward
        shared = cell.kept == cell.gates + cell.drawn
        kept = p if shared else self.device.empty((first, second, cell.kept, n), self.dtype)
        call = Forward(p, layer.parameters["W"], layer.recurrent_bias, s, kept, flags, self.masked)
        anew.forward(self.device, cell, call, layer.precision)
        self.steps += first * second
        return kept

    def warmed(self, p, warm_up: int) -> "Warm":
        """What those chunks begin with that need it: each goes over the last steps of the chunk
        before, from zero, but over no more than know of what was before them.
        """
        cut, d, events = self.chunks, self.device, self.events
        needed = ~(events.begins | events.idle)[1:]
        chunks = np.nonzero(needed.any(1))[0].tolist()
        steps = min(warm_up, int(events.since[:-1][needed].max(initial=0)))
        last, columns = slice(cut.length - steps, cut.length), cut.columns(chunks)
        start = d.zeros((self.cell.states, len(chunks) * cut.B, p.shape[3]), self.dtype)
        if not (chunks and steps):
            return Warm(start[:, None], columns)
        p = gathered(d, p[last], 1, columns)
        return Warm(self.over(p, start, last, columns)[0][:, : steps + 1], columns)

    def hand_on(self, s: States):
        """Where nothing happens to a sample in a chunk, it has the state that the one before ends
        with: overwrites s.
        """
        C, B = self.events.until.shape
        idle = self.events.idle
        if not idle[1:].any():
            return
        of = np.where(idle, 0, np.arange(C)[:, None])
        ends = (np.maximum.accumulate(of) * B + np.arange(B))[1:][idle[1:]]
        columns = np.nonzero(idle[1:].ravel())[0] + B
        end = s.after[:, -1, ends.tolist()]
        s.starts[:, columns.tolist()], s.after[:, :, columns.tolist()] = end, end[:, None]

    def jumps(self, s: States) -> np.ndarray:
        """How far each chunk but the first begins from where the one before ends: (C − 1,).  A
        sample that begins anew there does not jump.
        """
        number, B = self.device.numpy, self.chunks.B
        distances = apart(number(s.starts)[:, B:], number(s.after[:, -1])[:, :-B])
        return self.counted(distances, ~self.events.begins[1:])

    def counted(self, distances: np.ndarray, where: np.ndarray) -> np.ndarray:
        """The largest of each chunk's samples: (k·B,) -> (k,), where they count, (k, B) bool."""
        return per_chunk(np.where(where.ravel(), distances, 0), self.chunks.B)

    def again(self, s: States, kept, wrong: list[int], allowed: float, patience: int) -> "Again":
        """Run chunks again from the ends of those before, each until it is where it was; overwrites
        s and kept.  It is given up where after `patience` steps more than half of all chunks are
        not where they were.
        """
        cut, d, number, until = self.chunks, self.device, self.device.numpy, self.events.until
        ε = float(np.finfo(self.dtype).eps)
        state = gathered(d, s.after[:, -1], 1, cut.columns([c - 1 for c in wrong]))
        begin = number(gathered(d, s.starts, 1, cut.columns(wrong)))
        distance = apart(begin, number(state))
        first = last = self.counted(distance, ~self.events.begins[wrong])
        grown, met, start = 1.0, 0.0, 0
        while wrong and start < cut.length:
            end = min(start + PIECE, cut.length)
            steps, columns = slice(start, end), cut.columns(wrong)
            new, new_kept = self.over(self.inputs(steps, columns), state, steps, columns)
            state = new[:, end - start]
            distance = apart(number(gathered(d, s.after[:, end - 1], 1, columns)), number(state))
            distance = self.counted(distance, until[wrong] > end)
            if not start:  # later on a step's end stands there, whatever the next begins with
                scatter(s.starts, 1, columns, new[:, 0])
            scatter(s.after[:, start:end], 2, columns, new[:, 1 : end - start + 1])
            scatter(kept[steps], 1, columns, new_kept)
            self.hold(s, wrong, start, end, state)
            start = end
            if (known := first > MEASURED * ε).any():
                grown = max(grown, float((distance / first)[known].max()))
            rounded = (distance <= ROUNDING * ε) & (2 * distance >= last)
            done = (distance <= allowed) | rounded
            met = max([met, *distance[done].tolist()])
            left = np.nonzero(~done)[0].tolist()
            wrong, first, last = [wrong[i] for i in left], first[left], distance[left]
            state = gathered(d, state, 1, cut.columns(left)) if left else None
            if start >= patience and 2 * len(wrong) >= cut.count > 2:
                return Again(grown, met, start, True)
        return Again(grown, met, start, False)

    def hold(self, s: States, chunks: list[int], start: int, end: int, state):
        """What samples end with to which nothing happens any more after some of the steps
        start … end−1 is theirs until their chunks end: overwrites s.  state (S, ·, n), after step
        end−1.
        """
        until, B, L = self.events.until[chunks], self.chunks.B, self.chunks.length
        own = np.nonzero(((until > start) & (until <= end)).ravel())[0]
        if own.size and end < L:
            columns = np.array(chunks)[own // B] * B + own % B
            s.after[:, end:, columns.tolist()] = state[:, own.tolist()][:, None]


class Warm(NamedTuple):
    """How those chunks begin that have to be warmed up."""

    s: Any  # (S, steps + 1, ·, n)
    columns: list[slice]  # of the chunks before, whose last steps were taken


class Again(NamedTuple):
    """How chunks were run again."""

    growth: float  # the largest factor by which a difference was seen to grow
    met: float  # the largest distance from what was there, where a chunk went no further
    steps: int
    given_up: bool


def forward(layer, x, s0, steps, pass_) -> tuple[Any, ParallelReport]:
    """(what layer.forward returns, how it went) in chunks, as pass_.parallel says; (None, why not)
    where it has to go step by step.
    """
    T, B, _ = x.shape
    found = cut_of(layer, x, steps, pass_)
    if found.why:
        return None, ParallelReport(modelled_gain=found.gain, sequential=found.why)
    return in_chunks(layer, x, s0, steps, pass_, found)


def in_chunks(layer, x, s0, steps, pass_, found: Cut):
    """`forward`, cut so."""
    d, θ, (T, B, _) = layer.backend, layer.parameters, x.shape
    own = steps.turned(d) if layer.reverse else steps
    given, resets = pass_.given.get(layer), own.starts is not None
    cut = lying(layer, T, B, found.chunks, anew=bool(given or resets))
    flags = d.copy(cut.beside(d, own.flags))
    xs = cut.cut(d, layer.in_turn(x))
    cell, drawn, mask = layer.noise.around(layer.cell, pass_.training), None, None
    if cell.drawn:
        p, mask = layer.inputs(x, steps, pass_)
        drawn = cut.cut(d, layer.in_turn(p))
        p = d.copy(drawn)
    else:
        p = d.project(cut.in_steps(xs), θ["U"], θ["b"], cell.gates, layer.precision)
        p = p.reshape((*cut.shape, *p.shape[2:]))
    initial, begins = beginnings(layer, cell, cut, s0[0], given, mask, resets)
    masked = own.masked or cut.padded
    run = Run(layer, cell, cut, xs, drawn, flags, masked, begins)
    warm = run.warmed(cut.columns_of(p), min(found.warm_up, cut.length))
    start = d.zeros((cell.states, cut.count * B, layer.hidden_size), layer.dtype)
    start[:, :B] = initial
    scatter(start[:, B:], 1, warm.columns, warm.s[:, -1])
    s, kept = run.all_over(p, start)
    run.given = None if begins is None else s.s[:, cut.length + 1 :]
    tolerance = pass_.parallel.tolerance
    report = settled(run, s, cut.columns_of(kept), warm, tolerance)
    report = report._replace(warm_up=warm.s.shape[1] - 1, modelled_gain=found.gain)
    if report.sequential:
        return None, report
    masks = None if mask is None else np.concatenate([mask] * cut.count)
    starts = None if own.starts is None else cut.cut(d, own.starts)
    inner = Tape(xs, s.s, kept, run.flags, starts, masked, cell, layer.cell, masks)
    its = own.starts, given is not None, given and given.first
    tape = ChunkedTape(x, cut, inner, own.flags, own.masked, mask, tolerance, report, d, *its)
    y = s.s[cell.output, 1 : T + 1, None] if cut.in_place else cut.joined(d, s.after[cell.output])
    y, last = steps.only_live(layer.in_turn(y)), s.after[cell.output :, -1, -B:]
    return (y, [last], tape), report


def beginnings(layer, cell, cut: Chunks, s0, given, mask, resets: bool) -> tuple[Any, Any]:
    """(the states (S, B, n) that the first chunk begins with, what samples begin anew with, as
    anew.give leaves it, None where none does) of s0 (S, B, n) and a Given, or None.
    """
    d, (_, B, n), S, at = layer.backend, s0.shape, cell.states, cell.output
    states = d.empty((S, cut.T, B, n) if given else (S, B, n), layer.dtype)
    first = given.initial(s0) if given and not layer.reverse else s0
    if given:
        given.put_into(states[at:], first, layer.reverse)
    else:
        states[at:] = first
    if mask is not None:
        states[0] = mask * states[1]
    initial = states[:, 0] if given else states
    if not (resets or given):
        return initial, None
    out = d.empty((S, cut.length, cut.count * B, n), layer.dtype)
    anew.give(d, cut, states, out)
    return initial, out


def settled(run: Run, s: States, kept, warm: Warm, tolerance: float) -> ParallelReport:
    """Run chunks again until every one begins where the one before ends; overwrites s and kept.

    `sequential` of what it returns says that the layer does not forget, and is not settled.
    """
    cut, ε = run.chunks, float(np.finfo(run.dtype).eps)
    run.hand_on(s)
    grown, met, rounds, repaired, spent, why = grown_by(run, s, warm, ε), 0.0, 0, 0, 0, ""
    while True:
        jumps, allowed = run.jumps(s), max(tolerance / grown, SAME * ε)
        allowed = max(allowed, ROUNDING * ε) if rounds else allowed
        wrong = [c for c, jump in enumerate(jumps, 1) if not jump <= allowed]
        if wrong and not np.isfinite(jumps).all():
            why = "states are not finite"
        elif spent > cut.T // 2:
            why = "repairs took more than half of all steps"
        if why or not wrong:
            break
        again = run.again(s, kept, wrong, allowed, cut.length // 2)
        grown, met = max(grown, again.growth), max(met, again.met)
        rounds, repaired, spent = rounds + 1, repaired + len(wrong), spent + again.steps
        run.hand_on(s)
        if again.given_up:
            why = "most chunks depend on what was before them: the layer does not forget"
    return ParallelReport(
        chunks=cut.count,
        jump=max(met, float(jumps.max(initial=0.0))),
        growth=grown,
        repaired=repaired,
        rounds=rounds,
        extra_steps=run.steps - cut.T * cut.B,
        sequential=why,
    )


def grown_by(run: Run, s: States, warm: Warm, ε: float) -> float:
    """The largest factor by which a warm-up came to be further from the chunk whose steps it has
    taken; s the states of all chunks.
    """
    d, number, steps = run.device, run.device.numpy, warm.s.shape[1] - 1
    if not warm.columns:
        return 1.0
    looked = np.unique(np.linspace(0, steps, min(steps, LOOKS) + 1).astype(int)).tolist()
    at = [run.chunks.length - steps - 1 + t for t in looked]
    own = gathered(d, s.after[:, at], 2, warm.columns)
    return growth(apart(number(warm.s[:, looked]), number(own)), MEASURED * ε)
