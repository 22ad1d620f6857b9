"""A recurrent layer over one long sequence as chunks side by side, forward and back.

Each chunk but the first starts some steps early, from zero; where its start then is not the end of
the chunk before, it is run again from there. On the way back δ is linear: chunks go back side by
side, and what comes in at each seam is carried on alone. See docs/parallel.md.
"""

from typing import Any, NamedTuple

import numpy as np

from .. import outline
from ..kernels import UNCLIPPED, Backward, Forward
from ..kernels.parts import states_of_parts
from . import anew
from .cutting import PIECE, ROUNDING, SAME, Cut, cut_of
from .given import parted
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
    starts: Any = None  # (T, B, 1), in that order: see Steps
    given: bool = False  # are there given states, that samples go on from where they begin anew?
    first: Any = None  # (B, 1) bool: see Given

    __repr__ = outline.fields

    @property
    def keeps_y(self) -> bool:
        """May the output be a part of it?"""
        return self.chunks.in_place

    def whole(self) -> Tape:
        """The same as if it had gone step by step."""
        d, cut, inner = self.device, self.chunks, self.inner
        S, T, B, L = len(inner.wide_s), *cut[:2], cut.length
        kept = cut.joined(d, inner.wide_kept)
        if cut.in_place:
            s = d.copy(inner.wide_s[:, : T + 1, None])
        else:
            n = inner.wide_s.shape[3]
            s = d.empty((S, (2 * T if self.given else T) + 1, B, n), inner.wide_s.dtype)
            s[:, 0] = inner.wide_s[:, 0, :B]
            for k in range(S):
                s[k, 1 : T + 1] = cut.joined(d, inner.wide_s[k, 1 : L + 1])
                if self.given:
                    s[k, T + 1 :] = cut.joined(d, inner.wide_s[k, L + 1 :])
        pattern = self.flags, self.starts, self.masked
        own = inner.cell, inner.own, self.mask
        return Tape(self.x, s, kept, *pattern, *own, first=self.first)

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

    a: Any  # (L, C·B, G, n), or in place (C, L, G, n)
    chunks: Chunks
    layer: Any

    def whole(self) -> Any:
        """(T, B, G, n), in time's order."""
        return self.layer.in_turn(self.chunks.joined(self.layer.backend, self.a))


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
        d, cell, layer = self.device, self.cell, self.layer
        L, count, _, n = p.shape
        rows = L + 1 if self.given is None else 2 * L + 1
        s = d.empty((cell.states, rows, count, n), self.dtype)
        s[:, 0] = start
        if self.given is not None:
            s[:, L + 1 :] = gathered(d, self.given[:, steps], 2, columns)
        flags = gathered(d, self.flags[steps], 1, columns)
        # see Recurrent.forward
        shared = cell.kept == cell.gates + cell.drawn
        kept = p if shared else d.empty((L, count, cell.kept, n), self.dtype)
        call = Forward(p, layer.parameters["W"], layer.recurrent_bias, s, kept, flags, self.masked)
        anew.forward(d, cell, call, layer.precision)
        self.steps += L * count
        return s, kept

    def all_over(self, p, start) -> tuple[States, Any]:
        """(states, what is kept) of all chunks, from start (S, C·B, n) over p (L, C·B, G + D, n) or
        in place (C, L, G + D, n), which may be overwritten; kept likewise.
        """
        cut, d, cell, layer = self.chunks, self.device, self.cell, self.layer
        C, L, n = cut.count, cut.length, p.shape[3]
        if not cut.in_place:
            s, kept = self.over(p, start, slice(0, L), [slice(0, C * cut.B)])
            return states_of(s, cut), kept
        s = d.empty((cell.states, C * L + 1 + C, n), self.dtype)
        s[:, 0], s[:, C * L + 1 :] = start[:, 0], start
        shared = cell.kept == cell.gates + cell.drawn
        kept = p if shared else d.empty((C, L, cell.kept, n), self.dtype)
        W, c = layer.parameters["W"], layer.recurrent_bias
        d.forward(cell, Forward(p, W, c, s, kept, self.flags, self.masked), layer.precision)
        self.steps += L * C
        return states_of(s, cut), kept

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
    cut = chunks_of(T, B, found.chunks)
    own = steps.turned(d) if layer.reverse else steps
    given, resets = pass_.given.get(layer), own.starts is not None
    if d.takes_parts and B == 1 and not (given or resets):
        cut = cut.placed(layer.hidden_size * np.dtype(layer.dtype).itemsize)
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


def taped_again(
    layer, cut: Chunks, tape: Tape, tolerance: float, joined: bool, given: bool
) -> ChunkedTape:
    """The tape in chunks of one (T, B) of a layer without noise, and its report.

    joined  are its states and kept numbers those of (T, B), too; else they are (L, C·B)
    given   as ChunkedTape's, where they are not joined
    """
    d, s, kept = layer.backend, tape.wide_s, tape.wide_kept
    cut = cut._replace(in_place=False)
    starts, flags, masked = tape.starts, cut.cut(d, tape.flags), tape.masked or cut.padded
    cut = cut._replace(in_place=s.ndim == 3)
    if joined:
        given, resets = tape.goes_on, starts is not None or tape.goes_on
        s, kept = cut.cut_states(d, s, resets), cut.cut(d, kept)
        if resets:
            states = tape.wide_s[:, cut.T + 1 :] if given else tape.wide_s[:, 0]
            anew.give(d, cut, states, s[:, cut.length + 1 :])
    own = None if starts is None else cut.cut(d, starts)
    xs = cut.cut(d, layer.in_turn(tape.x))
    inner = Tape(xs, s, kept, flags, own, masked, tape.cell, tape.own, None)
    its = tolerance, tape.report, d, starts, given, tape.first
    return ChunkedTape(tape.x, cut, inner, tape.flags, tape.masked, None, *its)


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


def back(layer, tape: ChunkedTape, dy, ds, taped, clip, later):
    """(the Back, how it went) of a tape in chunks; (None, why not) where it has to go step by
    step.  ds is not written into.
    """
    why = "tape=True" if taped else "δ is clipped, which is not linear" if clip != UNCLIPPED else ""
    if why:
        return None, tape.report._replace(sequential_back=why)
    d, inner, cut = layer.backend, tape.inner, tape.chunks
    (S, *_, n), L, B, cell = inner.wide_s.shape, cut.length, cut.B, inner.cell
    columns = cut.count * B
    dp = d.empty((*cut.shape, cell.gates, n), layer.dtype)
    dq = d.empty(dp.shape, layer.dtype) if cell.apart else dp
    own = inner._replace(mask=tape.mask)
    ends = d.zeros((S, columns, n), layer.dtype)
    ends[:, -B:] = later.wide_ds if later else own.widened(*ds)
    whole, arriving, behind = room_of(d, ends, L, inner.goes_on)
    way = BackRun(layer, inner, cut, dp, dq, behind)
    way.hand_on(arriving)
    dy = cut.beside(d, layer.in_turn(dy))
    W, s, kept, flags = layer.parameters["W"], inner.wide_s, inner.wide_kept, inner.flags
    call = Backward(dy, W, s, kept, flags, dp, dq, whole, UNCLIPPED, inner.masked)
    anew.backward(d, cell, call, layer.precision)
    largest = float(max(dy.max(), -dy.min()))
    report = way.seams(arriving, tape.tolerance, largest, tape.report)
    if report.sequential_back:
        return None, report
    before = s[0, : cut.count * L, None] if cut.in_place else inner.before()[0]
    δp, δq, xs = map(cut.in_steps, (dp, dq, inner.x))
    dx, grads = layer.sums((δp, xs), (δq, before), later)
    dx, first = layer.in_turn(cut.joined(d, dx)), d.copy(arriving[:, :B])
    if inner.goes_on and not tape.given:
        first += anew.in_all(cut, behind)
    clipped = later.clipped_steps if later else 0
    its = InChunks(dp, cut, layer), None, clipped, first
    gone = Back(dx, [own.narrowed(first)], grads, *its, report=report)
    if tape.given:
        behind = own.narrowed(np.stack([cut.joined(d, a) for a in behind]))
        gone = parted(d, gone, behind, tape.first, layer.reverse)
    return gone, report


def room_of(device, ends, L: int, resets: bool) -> tuple[Any, Any, Any]:
    """(ds of a Backward over L steps, that of its first state, that of what samples begin anew
    with, None where none does), of which the first two hold ends (S, columns, n).
    """
    if not resets:
        return ends, ends, None
    S, columns, n = ends.shape
    whole = device.zeros((S, 1 + L, columns, n), ends.dtype)
    whole[:, 0] = ends
    return whole, whole[:, 0], whole[:, 1:]


class BackRun:
    """What comes in at seams on its way back through a layer, added to δ that is there."""

    def __init__(self, layer, tape: Tape, chunks: Chunks, dp, dq, behind):
        """dp and dq (L, C·B, G, n), or in place, and what arrives where samples begin anew, (S, L,
        C·B, n) or None, of all chunks with nothing that comes in.
        """
        self.layer, self.tape, self.chunks = layer, tape, chunks
        self.device, self.behind = layer.backend, behind
        self.dp, self.dq, self.kept = map(chunks.columns_of, (dp, dq, tape.wide_kept))
        self.s = tape.wide_s
        if chunks.in_place:
            self.s = states_of_parts(self.s, chunks.length, chunks.count)
        self.idle = anew.events(self.device, chunks, tape.flags, tape.masked).idle
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
        ends = d.zeros(arriving.shape, arriving.dtype)
        ends[:, :-B] = arriving[:, B:]
        while True:
            self.hand_on(ends)
            chunks, state = self.left(list(range(cut.count)), d.copy(ends))
            if not chunks:
                break
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
            ends[...] = 0
            scatter(ends, 1, cut.columns([c - 1 for c in chunks]), state)
        return report._replace(back_rounds=rounds, extra_steps_back=self.steps)

    def hand_on(self, ends):
        """What comes in at the end of a chunk in which nothing happens to a sample goes to the end
        of the one before.  ends (S, C·B, n), overwritten.
        """
        B, zero = self.chunks.B, ends.dtype.type(0)
        for c in (np.nonzero(self.idle[1:].any(1))[0] + 1)[::-1].tolist():
            idle = self.device.array(self.idle[c][:, None], bool)
            own, before = ends[:, c * B : (c + 1) * B], ends[:, (c - 1) * B : c * B]
            before += np.where(idle, own, zero)
            own[...] = np.where(idle, zero, own)

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
        s, resets = self.states(steps, columns), tape.goes_on
        kept = gathered(d, self.kept[steps], 1, columns)
        flags = gathered(d, tape.flags[steps], 1, columns)
        (L, count), n = flags.shape, s.shape[3]
        dp = d.empty((L, count, tape.cell.gates, n), s.dtype)
        dq = d.empty(dp.shape, s.dtype) if tape.cell.apart else dp
        dy, W = d.zeros((L, count, n), s.dtype), layer.parameters["W"]
        whole, first, behind = room_of(d, state, L, resets)
        call = Backward(dy, W, s, kept, flags, dp, dq, whole, UNCLIPPED, tape.masked)
        anew.backward(d, tape.cell, call, layer.precision)
        self.steps += L * count
        if resets:
            state[...] = first
            scatter(self.behind[:, steps], 2, columns, behind, add=True)
        scatter(self.dp[steps], 1, columns, dp, add=True)
        if tape.cell.apart:
            scatter(self.dq[steps], 1, columns, dq, add=True)

    def states(self, steps: slice, columns: list[slice]):
        """s of a Backward over some steps and columns, a copy."""
        d, s, L = self.device, self.s, self.chunks.length
        own = gathered(d, s[:, steps.start : steps.stop + 1], 2, columns)
        if not self.tape.goes_on:
            return own
        given = gathered(d, s[:, L + 1 + steps.start : L + 1 + steps.stop], 2, columns)
        return np.concatenate([own, given], 1)
