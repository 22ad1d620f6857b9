"""`parallel` and `tolerance` of modules, in words that graphs of torch's can hold; and how a layer
has gone over its sequence, from its way forward to its way back.
"""

from typing import Any, NamedTuple

from ...layers.chunked import ParallelReport, taped_again
from ...layers.cutting import Parallel, ParallelLike, parallel_of
from ...layers.overlap import Chunks, chunks_of
from ...layers.tapes import Tape


def said(parallel: ParallelLike) -> str:
    """`parallel` as a string; "" is False."""
    if isinstance(parallel, (tuple, list)):
        return ",".join(map(str, parallel))
    return str(parallel) if parallel else ""


def way_of(words: str, tolerance: float) -> Parallel | None:
    """How layers go, of what `said` gave; None is step by step."""
    if "," in words:
        first, second = words.split(",")
        pair: Any = (first if first == "scan" else int(first), int(second))
        return parallel_of(pair, tolerance)
    known: dict[str, ParallelLike] = {"": False, "True": True}
    return parallel_of(known.get(words, words), tolerance)


class Gone(NamedTuple):
    """How a layer went forward."""

    report: ParallelReport | None = None  # None: nobody asked for chunks
    chunks: Chunks | None = None  # None: step by step
    # are states and kept numbers those of all steps one behind the other, and not of chunks?
    joined: bool = False
    given: bool = False  # see ChunkedTape

    @property
    def number(self) -> int:
        """What an operator's results say of it: chunks; −chunks of a scan on the way back; 0."""
        if self.chunks:
            return self.chunks.count
        return -self.report.scan if self.report else 0

    def taped(self, layer, tape: Tape, tolerance: float):
        """The tape that the way forward left, of one (T, B) but for s and kept, which are as it
        gave them.
        """
        tape = tape._replace(report=self.report)
        if self.chunks is None:
            return tape
        return taped_again(layer, self.chunks, tape, tolerance, self.joined, self.given)


def gone_by(number: int, T: int, B: int) -> Gone:
    """The Gone of a number of an operator's results, on T steps of B samples."""
    if number > 0:
        cut = chunks_of(T, B, number)
        return Gone(ParallelReport(chunks=cut.count), cut, joined=True)
    return Gone(ParallelReport(scan=-number) if number else None)
