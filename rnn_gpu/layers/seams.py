"""The way back over chunks side by side: δ is linear, so chunks go back with nothing that comes in,
and what comes in at each seam is carried on alone.
"""

from typing import Any

import numpy as np

from ..kernels import UNCLIPPED, Backward
from ..kernels.parts import states_of_parts
from . import anew
from .chunked import ChunkedTape, InChunks, ParallelReport
from .cutting import PIECE
from .given import parted
from .overlap import Chunks, gathered, per_chunk, scatter
from .passes import Back
from .tapes import Tape


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
