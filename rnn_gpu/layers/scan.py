"""The way back over one long sequence in chunks side by side, exactly, whether the layer forgets or
not.

δ's recurrence is linear: each chunk carries dE/ds by a matrix and adds what its own dE/dy give.
These maps are made side by side, a short scan over chunks says what comes in behind each, and then
all chunks go back side by side, from there. See docs/parallel.md.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from ..kernels import RESET, UNCLIPPED, Backward
from ..kernels.once import caches
from . import anew
from .chunked import ParallelReport
from .cutting import Cut, Parallel
from .overlap import Chunks, chunks_of

# nanoseconds of what chunks ask of the host: on a GPU 20 operations of CuPy, two launches, a wait
CALLS = 3e5
WORTH = 1.2  # a modelled gain below this is none
MOST = 1024  # chunks, where nobody says how many
FEWEST = 16  # steps of a chunk, likewise


def planned(layer, T: int, B: int, way: Parallel) -> Cut:
    """In how many chunks the way back goes, or why in none, of a layer that has gone forward step
    by step.
    """
    if not B or T < 2 or way.chunks == 1:
        return Cut(why="there is one chunk")
    if way.scan and way.chunks:
        count = chunks_of(T, B, way.chunks).count
        return Cut(count, gain=cost(layer, T, B, 1) / (cost(layer, T, B, count) + CALLS))
    alone = cost(layer, T, B, 1)
    if alone < WORTH * CALLS:
        return Cut(why="the way back is too short to gain by it: modelled")
    cell, d = layer.noise.around(layer.cell, training=True), layer.backend
    its = cell, layer.hidden_size, B, T
    return best(d, its, (layer.dtype, layer.precision), (alone, cost(layer, T, B, 2)))


@lru_cache(maxsize=1024)
def best(device, its: tuple, how: tuple, told: tuple[float, float]) -> Cut:
    """`planned` of what `Device.scan_cost` takes before and behind the number of chunks.

    told  what it says of one chunk and of two: something else where the device has other threads,
          or is another card
    """
    (alone, _), (*_, T), counts = told, its, [2]
    while 2 * counts[-1] <= min(MOST, T // FEWEST):
        counts.append(2 * counts[-1])
    gains = [alone / (device.scan_cost(*its, count, *how) + CALLS) for count in counts]
    gain = max(gains)
    count, why = counts[gains.index(gain)], ""
    if gain < WORTH:
        why = f"{count} chunks would be {gain:.2f} times as quick: modelled"
    return Cut(count, gain=gain, why=why)


caches.append(best)  # of cells, which are let go of


def cost(layer, T: int, B: int, count: int) -> float:
    """Nanoseconds of the way back in so many chunks, or step by step in one: modelled."""
    cell = layer.noise.around(layer.cell, training=True)
    its = cell, layer.hidden_size, B, T, count
    return layer.backend.scan_cost(*its, layer.dtype, layer.precision)


def expected(layer, T: int, B: int, way: Parallel) -> str:
    """What the scan should gain on the way back through T steps of B samples, for people."""
    cut = planned(layer, T, B, way)
    if cut.why:
        return f"back by a scan over chunks: no, {cut.why}"
    when = "" if way.scan else ", where it goes forward step by step"
    return (
        f"back by a scan over {cut.chunks} chunks of {-(-T // cut.chunks):,} steps{when}: "
        f"{cut.gain:.2f} times as quick, modelled"
    )


def foreseen(layer, x, way: Parallel, report: ParallelReport) -> ParallelReport:
    """The report of a layer that goes over x (T, B, m) step by step, with how it will go back."""
    T, B, _ = x.shape
    cut = planned(layer, T, B, way)
    scan = 0 if cut.why else cut.chunks
    return report._replace(scan=scan, modelled_gain_back=cut.gain, without_scan=cut.why)


def step_by_step(report: ParallelReport | None, why: str) -> ParallelReport | None:
    """The report of a way back that goes step by step all the same."""
    return report._replace(scan=0, sequential_back=why) if report and report.scan else report


def back(layer, cell, call: Backward, report: ParallelReport | None) -> ParallelReport | None:
    """The report of a way back, which has been gone where it says `scan`; else nothing is
    overwritten.
    """
    if not (report and report.scan):
        return report
    if call.clip != UNCLIPPED:
        return step_by_step(report, "δ is clipped, which is not linear")
    why = backward(layer.backend, cell, call, report.scan, layer.precision)
    return step_by_step(report, why) if why else report._replace(sequential_back="")


def backward(device, cell, call: Backward, count: int, precision: str) -> str:
    """`Device.backward` in `count` chunks, unclipped.  Returns why it has to go step by step, and
    overwrites nothing then; else "".
    """
    T, B, _, n = call.dp.shape
    cut = chunks_of(T, B, count)
    given = call.s.shape[1] > T + 1
    resets = bool(call.masked) and int((call.flags & np.uint8(RESET)).max()) > 0
    inner = in_chunks(device, cell, call, cut, resets)
    ds = call.ds[:, 0] if given else call.ds
    maps = device.transfers(cell, inner, precision)
    arriving = device.arriving(maps, device.copy(ds))
    if not device.finite(arriving):
        return "dE/ds of chunks is not finite"
    if resets:
        return with_resets(device, cell, call, inner._replace(ds=arriving), cut, precision)
    device.backward(cell, inner._replace(ds=arriving), precision)
    put_back(call, inner, cut)
    ds[...] = arriving[:, :B]
    return ""


def in_chunks(device, cell, call: Backward, cut: Chunks, resets: bool) -> Backward:
    """The Backward of all chunks, without its ds; with states that are given where samples begin
    anew.
    """
    (T, B, G, n), S, L = call.dp.shape, cell.states, cut.length
    rows, given = cut.count * B, call.s.shape[1] > T + 1
    s = device.empty((S, 1 + L * (2 if resets else 1), rows, n), call.s.dtype)
    for k in range(S):
        s[k, 0] = call.s[k, 0:T:L].reshape((rows, n))
        s[k, 1 : L + 1] = cut.cut(device, call.s[k, 1 : T + 1])
    if resets:
        anew.give(device, cut, call.s[:, T + 1 :] if given else call.s[:, 0], s[:, L + 1 :])
    dp = device.empty((L, rows, G, n), call.dp.dtype)
    dq = device.empty(dp.shape, dp.dtype) if cell.apart else dp
    kept, flags = cut.cut(device, call.kept), cut.cut(device, call.flags)
    masked = call.masked or cut.padded
    dy = cut.cut(device, call.dy)
    return Backward(dy, call.W, s, kept, flags, dp, dq, None, UNCLIPPED, masked)


def with_resets(device, cell, call: Backward, inner: Backward, cut: Chunks, precision) -> str:
    """The rest of `backward` where samples begin anew: what arrives there is kept apart from what
    goes on to the chunk before.
    """
    (_, B, _, n), S, L = call.dp.shape, cell.states, cut.length
    ds = device.zeros((S, 1 + L, cut.count * B, n), call.s.dtype)
    ds[:, 0] = inner.ds
    anew.backward(device, cell, inner._replace(ds=ds), precision)
    put_back(call, inner, cut)
    if call.ds.ndim == 4:
        call.ds[:, 0] = ds[:, 0, :B]
        for k in range(S):
            call.ds[k, 1:] += cut.joined(device, ds[k, 1:])
    else:
        call.ds[...] = ds[:, 0, :B] + anew.in_all(cut, ds[:, 1:])
    return ""


def put_back(call: Backward, inner: Backward, cut: Chunks):
    """δ of chunks where that of the whole sequence stands."""
    join(cut, inner.dp, call.dp)
    if inner.dq is not inner.dp:
        join(cut, inner.dq, call.dq)


def join(cut: Chunks, a: Any, out: Any):
    """a (L, C·B, …) -> out (T, B, …), overwritten."""
    C, L, B, tail = cut.count, cut.length, cut.B, a.shape[2:]
    turned, whole = a.reshape((L, C, B, *tail)).swapaxes(0, 1), (C - 1) * L
    out[:whole].reshape((C - 1, L, B, *tail))[...] = turned[:-1]
    out[whole:] = turned[-1, : cut.T - whole]
