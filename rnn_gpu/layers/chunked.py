"""What a way forward in chunks leaves: for its way back, and for people."""

from typing import Any, NamedTuple

from .. import outline
from . import anew
from .overlap import Chunks
from .tapes import Tape


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
