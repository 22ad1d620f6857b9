"""A recurrent layer over one long sequence as chunks side by side, forward and back.

Each chunk but the first starts some steps early, from zero; where its start then is not the end of
the chunk before, it is run again from there. On the way back δ is linear: chunks go back side by
side, and what comes in at each seam is carried on alone. See docs/parallel.md.
"""

from typing import Any, NamedTuple

import numpy as np

from .. import outline
from ..kernels import UNCLIPPED, Backward, Forward
from .cutting import PIECE, ROUNDING, SAME, Cut, cut_of
from .overlap import Chunks, apart, chunks_of, gathered, growth, per_chunk, scatter
from .passes import Back
from .tapes import Tape

MEASURED = 64  # ε: differences that are larger tell what becomes of them
LOOKS = 64  # at how many steps of the warm-ups distances are measured


class ParallelReport(NamedTuple):
    """How a recurrent layer has gone over its last sequence, forward and back."""

    chunks: int = 1
    warm_up: int = 0  # steps that chunks start early
    jump: float = 0.0  # the largest distance of a chunk's start from the end before that is left
    growth: float = 1.0  # the largest factor by which a difference of states was seen to grow
    repaired: int = 0  # chunks that were run again from the true end before, or a part of them
    rounds: int = 0  # of such repairs
    modelled_gain: float = 1.0  # how many times as quick the device's model expects it to be
    extra_steps: int = 0  # one step of one sample each, forward, beyond those of the sequence
    back_rounds: int = 0  # in which what came in at seams was carried on
    extra_steps_back: int = 0
    sequential: str = ""  # why it went forward step by step; "" if it did not
    sequential_back: str = ""  # why it went back step by step
    scan: int = 0  # chunks of a way back by a scan over chunks, which is exact; 0: none
    modelled_gain_back: float = 1.0  # of that, as modelled_gain
    without_scan: str = ""  # why there is none, where it went forward step by step

    __repr__ = outline.fields


class ChunkedTape(NamedTuple):
    """What a recurrent layer remembers of a forward pass in chunks."""

    x: Any  # (T, B, m)
    chunks: Chunks
    inner: Tape  # of (L, C·B), in the order of the layer's own steps
    flags: Any  # (T, B), in that order
    masked: bool  # do flags say more than that every step happens?
    mask: Any  # (B, n), of recurrent dropout
    tolerance: float
    report: ParallelReport
    device: Any

    keeps_y = False
    __repr__ = outline.fields

    def whole(self) -> Tape:
        """The same as if it had gone step by step: copies."""
        d, cut, inner = self.device, self.chunks, self.inner
        S, _, _, n = inner.wide_s.shape
        s = d.empty((S, cut.T + 1, cut.B, n), inner.wide_s.dtype)
        s[:, 0] = inner.wide_s[:, 0, : cut.B]
        for k in range(S):
            s[k, 1:] = cut.joined(d, inner.wide_s[k, 1:])
        kept = cut.joined(d, inner.wide_kept)
        return inner._replace(
            x=self.x, wide_s=s, wide_kept=kept, flags=self.flags, masked=self.masked, mask=self.mask
        )

    @property
    def s(self):
        """The states of the layer's own cell, (S, T+1, B, n): copies."""
        return self.whole().s

    @property
    def kept(self):
        """What the layer's own cell keeps, (T, B, K, n): copies."""
        return self.whole().kept


class InChunks(NamedTuple):
    """δ of a way back in chunks, which is joined when somebody looks at it."""

    a: Any  # (L, C·B, G, n)
    chunks: Chunks
    layer: Any

    def whole(self) -> Any:
        """(T, B, G, n), in time's order."""
        return self.layer.in_turn(self.chunks.joined(self.layer.backend, self.a))


class Run:
    """Trajectories of one layer on one input in chunks."""

    def __init__(self, layer, cell, chunks: Chunks, x, drawn, flags, masked: bool):
        """x (L, C·B, m); drawn (L, C·B, G + D, n), p of a cell that draws, else None; flags
        (L, C·B).
        """
        self.layer, self.cell, self.chunks = layer, cell, chunks
        self.x, self.drawn, self.flags, self.masked = x, drawn, flags, masked
        self.device, self.dtype = layer.backend, x.dtype
        self.steps = 0  # of one sample each, that were run

    def inputs(self, steps: slice, columns: list[slice]):
        """p of some steps and columns, to be overwritten."""
        d, layer = self.device, self.layer
        if self.drawn is not None:
            return gathered(d, self.drawn[steps], 1, columns)
        θ = layer.parameters
        x = gathered(d, self.x[steps], 1, columns)
        return d.project(x, θ["U"], θ["b"], self.cell.gates, layer.precision)

    def over(self, p, start, flags):
        """(states (S, steps + 1, columns, n), kept) from start (S, columns, n) over p, which may be
        overwritten.
        """
        d, cell, layer = self.device, self.cell, self.layer
        L, columns, _, n = p.shape
        s = d.empty((cell.states, L + 1, columns, n), self.dtype)
        s[:, 0] = start
        # see Recurrent.forward
        shared = cell.kept == cell.gates + cell.drawn
        kept = p if shared else d.empty((L, columns, cell.kept, n), self.dtype)
        call = Forward(p, layer.parameters["W"], layer.recurrent_bias, s, kept, flags, self.masked)
        d.forward(cell, call, layer.precision)
        self.steps += L * columns
        return s, kept

    def warmed(self, p, steps: int):
        """The states (S, steps + 1, (C − 1)·B, n) of chunks that start from zero with the last
        steps of all chunks but the last.
        """
        cut, d = self.chunks, self.device
        last, columns = slice(cut.length - steps, cut.length), slice(0, (cut.count - 1) * cut.B)
        flags = d.copy(self.flags[last, columns])
        start = d.zeros((self.cell.states, columns.stop, p.shape[3]), self.dtype)
        return self.over(d.copy(p[last, columns]), start, flags)[0]

    def jumps(self, s) -> np.ndarray:
        """How far each chunk but the first begins from where the one before ends: (C − 1,)."""
        number, B = self.device.numpy, self.chunks.B
        ends, starts = number(s[:, -1])[:, :-B], number(s[:, 0])[:, B:]
        return per_chunk(apart(starts, ends), B)

    def again(self, s, kept, wrong: list[int], allowed: float, patience: int) -> "Again":
        """Run chunks again from the ends of those before, each until it is where it was; overwrites
        s and kept.  It is given up where after `patience` steps more than half of all chunks are
        not where they were.
        """
        cut, d, number = self.chunks, self.device, self.device.numpy
        B, ε = cut.B, float(np.finfo(self.dtype).eps)
        state = gathered(d, s[:, -1], 1, cut.columns([c - 1 for c in wrong]))
        begin = number(gathered(d, s[:, 0], 1, cut.columns(wrong)))
        first = last = per_chunk(apart(begin, number(state)), B)
        grown, met, start = 1.0, 0.0, 0
        while wrong and start < cut.length:
            end = min(start + PIECE, cut.length)
            steps, columns = slice(start, end), cut.columns(wrong)
            flags = gathered(d, self.flags[steps], 1, columns)
            new, new_kept = self.over(self.inputs(steps, columns), state, flags)
            before = number(gathered(d, s[:, end], 1, columns))
            scatter(s[:, start : end + 1], 2, columns, new)
            scatter(kept[steps], 1, columns, new_kept)
            distance, start = per_chunk(apart(before, number(new[:, -1])), B), end
            if (known := first > MEASURED * ε).any():
                grown = max(grown, float((distance / first)[known].max()))
            rounded = (distance <= ROUNDING * ε) & (2 * distance >= last)
            done = (distance <= allowed) | rounded
            met = max([met, *distance[done].tolist()])
            left = np.nonzero(~done)[0].tolist()
            wrong, first, last = [wrong[i] for i in left], first[left], distance[left]
            state = gathered(d, new[:, -1], 1, cut.columns(left)) if left else None
            if start >= patience and 2 * len(wrong) >= cut.count > 2:
                return Again(grown, met, start, True)
        return Again(grown, met, start, False)


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
    cut = chunks_of(T, B, found.chunks)
    warm_up = min(found.warm_up, cut.length)
    own = steps.turned(d) if layer.reverse else steps
    xs = cut.cut(d, layer.in_turn(x))
    cell, drawn, mask = layer.noise.around(layer.cell, pass_.training), None, None
    if cell.drawn:
        p, mask = layer.inputs(x, steps, pass_)
        drawn = cut.cut(d, layer.in_turn(p))
        p = d.copy(drawn)
    else:
        p = d.project(xs, θ["U"], θ["b"], cell.gates, layer.precision)
    run = Run(layer, cell, cut, xs, drawn, cut.cut(d, own.flags), own.masked or cut.padded)
    warm = run.warmed(p, warm_up)
    start = d.empty((cell.states, cut.count * B, layer.hidden_size), layer.dtype)
    (start[cell.output :, :B],) = s0
    if mask is not None:
        start[0, :B] = mask * start[1, :B]
    start[:, B:] = warm[:, -1]
    s, kept = run.over(p, start, run.flags)
    tolerance = pass_.parallel.tolerance
    report = settled(run, s, kept, warm, tolerance)
    report = report._replace(warm_up=warm_up, modelled_gain=found.gain)
    if report.sequential:
        return None, report
    masks = None if mask is None else np.concatenate([mask] * cut.count)
    inner = Tape(xs, s, kept, run.flags, None, run.masked, cell, layer.cell, masks)
    tape = ChunkedTape(x, cut, inner, own.flags, own.masked, mask, tolerance, report, d)
    y = layer.in_turn(cut.joined(d, s[cell.output, 1:]))
    return (steps.only_live(y), [s[cell.output :, -1, -B:]], tape), report


def taped_again(layer, cut: Chunks, tape: Tape, tolerance: float, joined: bool) -> ChunkedTape:
    """The tape in chunks of one (T, B) of a layer without noise, and its report.

    joined  are its states and kept numbers those of (T, B), too; else they are (L, C·B)
    """
    d, s, kept = layer.backend, tape.wide_s, tape.wide_kept
    if joined:
        s, kept = cut.cut_states(d, s), cut.cut(d, kept)
    xs, flags = cut.cut(d, layer.in_turn(tape.x)), cut.cut(d, tape.flags)
    masked = tape.masked or cut.padded
    inner = Tape(xs, s, kept, flags, None, masked, tape.cell, tape.own, None)
    return ChunkedTape(tape.x, cut, inner, tape.flags, tape.masked, None, tolerance, tape.report, d)


def settled(run: Run, s, kept, warm, tolerance: float) -> ParallelReport:
    """Run chunks again until every one begins where the one before ends; overwrites s and kept.

    warm  the states of warm-ups
    `sequential` of what it returns says that the layer does not forget, and is not settled.
    """
    cut, ε = run.chunks, float(np.finfo(run.dtype).eps)
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


def grown_by(run: Run, s, warm, ε: float) -> float:
    """The largest factor by which a warm-up came to be further from the chunk whose steps it has
    taken; `warm` its states, s those of all chunks.
    """
    cut, number, steps = run.chunks, run.device.numpy, warm.shape[1] - 1
    looked = np.unique(np.linspace(0, steps, min(steps, LOOKS) + 1).astype(int)).tolist()
    own = s[:, [cut.length - steps + t for t in looked], : -cut.B]
    return growth(apart(number(warm[:, looked]), number(own)), MEASURED * ε)


def back(layer, tape: ChunkedTape, dy, ds, taped, clip, later):
    """(the Back, how it went) of a tape in chunks; (None, why not) where it has to go step by
    step.  ds is not written into.
    """
    why = "tape=True" if taped else "δ is clipped, which is not linear" if clip != UNCLIPPED else ""
    if why:
        return None, tape.report._replace(sequential_back=why)
    d, inner, cut = layer.backend, tape.inner, tape.chunks
    (S, _, columns, n), B, cell = inner.wide_s.shape, cut.B, inner.cell
    dp = d.empty((cut.length, columns, cell.gates, n), layer.dtype)
    dq = d.empty(dp.shape, layer.dtype) if cell.apart else dp
    own = inner._replace(mask=tape.mask)
    arriving = d.zeros((S, columns, n), layer.dtype)
    arriving[:, -B:] = later.wide_ds if later else own.widened(*ds)
    way = BackRun(layer, inner, cut, dp, dq)
    dy = cut.cut(d, layer.in_turn(dy))
    W, s, kept, flags = layer.parameters["W"], inner.wide_s, inner.wide_kept, inner.flags
    call = Backward(dy, W, s, kept, flags, dp, dq, arriving, UNCLIPPED, inner.masked)
    d.backward(cell, call, layer.precision)
    largest = float(max(dy.max(), -dy.min()))
    report = way.seams(arriving, tape.tolerance, largest, tape.report)
    if report.sequential_back:
        return None, report
    dx, grads = layer.sums((dp, inner.x), (dq, inner.before()[0]), later)
    dx, first = layer.in_turn(cut.joined(d, dx)), d.copy(arriving[:, :B])
    clipped = later.clipped_steps if later else 0
    δ = InChunks(dp, cut, layer)
    return Back(dx, [own.narrowed(first)], grads, δ, None, clipped, first, report=report), report


class BackRun:
    """What comes in at seams on its way back through a layer, added to δ that is there."""

    def __init__(self, layer, tape: Tape, chunks: Chunks, dp, dq):
        """dp and dq (L, C·B, G, n), of all chunks with nothing that comes in."""
        self.layer, self.tape, self.chunks, self.dp, self.dq = layer, tape, chunks, dp, dq
        self.device = layer.backend
        self.steps = 0  # of one sample each, that were run
        self.allowed = 0.0

    def seams(
        self, arriving, tolerance: float, largest: float, report: ParallelReport
    ) -> ParallelReport:
        """Carry on what arrives at the start of every chunk, until it is below tolerance · the
        largest of it and of dE/dy.  arriving (S, C·B, n), dE/ds; that of the first chunk is added
        to.
        """
        d, cut, rounds, spent = self.device, self.chunks, 0, 0
        B, sizes = cut.B, np.abs(d.numpy(arriving))
        self.allowed = tolerance * max(largest, float(sizes.max(initial=0.0)))
        if not np.isfinite(self.allowed):
            return report._replace(sequential_back="dE/ds is not finite")
        chunks, state = self.left(list(range(cut.count - 1)), d.copy(arriving[:, B:]))
        while chunks:
            chunks, state, took = self.carried(
                chunks, state, cut.length if rounds else cut.length // 2
            )
            rounds, spent = rounds + 1, spent + took
            if spent > cut.T // 2 or 2 * len(chunks) >= cut.count > 2:
                why = "dE/ds does not fade within a chunk"
                return report._replace(
                    sequential_back=why, back_rounds=rounds, extra_steps_back=self.steps
                )
            if chunks and chunks[0] == 0:
                arriving[:, :B] += state[:, :B]
                chunks, state = chunks[1:], state[:, B:]
            chunks = [c - 1 for c in chunks]
        return report._replace(back_rounds=rounds, extra_steps_back=self.steps)

    def left(self, chunks: list[int], state):
        """Those chunks, and what comes in there (S, ·, n), where it is worth carrying on."""
        cut, sizes = self.chunks, np.abs(self.device.numpy(state)).max((0, -1), initial=0.0)
        large = per_chunk(sizes, cut.B) > self.allowed
        if large.all():
            return chunks, state
        places = np.nonzero(large)[0].tolist()
        if not places:
            return [], state
        return [chunks[i] for i in places], gathered(self.device, state, 1, cut.columns(places))

    def carried(self, chunks: list[int], state, patience: int):
        """What comes in at the ends of chunks, (S, ·, n), on its way to their starts: overwrites
        it, and adds to dp and dq.  Returns (the chunks where it arrives, what arrives, steps).

        It ends after `patience` steps where more than half of all chunks are left.
        """
        end, L = self.chunks.length, self.chunks.length
        while chunks and end > 0:
            start = max(end - PIECE, 0)
            self.piece(slice(start, end), self.chunks.columns(chunks), state)
            chunks, state = self.left(chunks, state)
            end = start
            if L - end >= patience and 2 * len(chunks) >= self.chunks.count > 2:
                break
        return chunks, state, L - end

    def piece(self, steps: slice, columns: list[slice], state):
        """Some steps and columns back with no dE/dy; overwrites state (S, ·, n)."""
        d, layer, tape = self.device, self.layer, self.tape
        s = gathered(d, tape.wide_s[:, steps.start : steps.stop + 1], 2, columns)
        kept = gathered(d, tape.wide_kept[steps], 1, columns)
        flags = gathered(d, tape.flags[steps], 1, columns)
        (L, count), n = flags.shape, s.shape[3]
        dp = d.empty((L, count, tape.cell.gates, n), s.dtype)
        dq = d.empty(dp.shape, s.dtype) if tape.cell.apart else dp
        dy, W = d.zeros((L, count, n), s.dtype), layer.parameters["W"]
        call = Backward(dy, W, s, kept, flags, dp, dq, state, UNCLIPPED, tape.masked)
        d.backward(tape.cell, call, layer.precision)
        self.steps += L * count
        scatter(self.dp[steps], 1, columns, dp, add=True)
        if tape.cell.apart:
            scatter(self.dq[steps], 1, columns, dq, add=True)
