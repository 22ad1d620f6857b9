"""How a long sequence is cut in chunks: what that would gain, and how soon a layer forgets."""

from typing import Any, NamedTuple

import numpy as np

from .. import arguments
from ..errors import ArgumentError
from ..kernels import LIVE, RESET, Forward
from .overlap import Chunks, apart, chunks_of
from .passes import Pass
from .steps import Steps

PIECE = 32  # steps that are run before it is looked whether more are needed
SAME = 4  # ε: states that are nearer are the same
ROUNDING = 16  # ε: states that are nearer, and come no nearer, are rounded
SHORTEST = 128  # steps of a chunk, where nobody says how many chunks there are
MOST = 256  # chunks, likewise
CALLS = 1e6  # nanoseconds of what chunks ask of Python, forward and back
LONG = 8192  # steps from which "auto" looks: what does not forget costs it some 100 of two samples
# nanoseconds, modelled, of a pass both ways: below, what a look asks of Python is 3 % of one ahead,
SHORT = 3.2e7
GREAT = 3.0  # and a modelled gain has to be so much for "auto" to stake that on it
# a modelled gain below this is none: the products over all steps are not in the model
WORTH = 1.3
STEADY = 0.75  # of the mean fade: two trajectories that fade so at last will go on so
GUESS = 64  # steps of warm-up, before the layer was looked at

# (chunks, steps of warm-up), ("scan", chunks), "auto"
ParallelLike = tuple[int, int] | tuple[str, int] | bool | str


class Parallel(NamedTuple):
    """How layers go over a long sequence in chunks."""

    chunks: int | None = None  # None: as many as the device's model likes best
    warm_up: int | None = None  # steps that each chunk but the first starts early; None: measured
    tolerance: float = 1e-6
    auto: bool = False  # step by step where chunks are not modelled to be quicker
    scan: bool = False  # forward step by step, back by a scan over chunks


def parallel_of(parallel, tolerance) -> Parallel | None:
    """`parallel` and `tolerance` at the door; None goes step by step."""
    tolerance = arguments.bound("tolerance", tolerance)
    if isinstance(parallel, (bool, np.bool_)):
        return Parallel(tolerance=tolerance) if parallel else None
    if isinstance(parallel, str) and parallel == "auto":
        return Parallel(tolerance=tolerance, auto=True)
    if not isinstance(parallel, (tuple, list)) or len(parallel) != 2:
        raise ArgumentError(
            f"parallel is {parallel!r}, expected True, False, 'auto', or a pair (chunks, steps of "
            "warm-up) or ('scan', chunks)"
        )
    if isinstance(parallel[0], str) and parallel[0] == "scan":
        count = arguments.size("parallel[1]", parallel[1])
        return Parallel(count, tolerance=tolerance, scan=True)
    chunks = arguments.size("parallel[0]", parallel[0])
    return Parallel(chunks, arguments.seed("parallel[1]", parallel[1]), tolerance)


class Cut(NamedTuple):
    """How a sequence is cut."""

    chunks: int = 1
    warm_up: int = 0
    gain: float = 1.0  # how many times as quick as step by step it should be: modelled
    why: str = ""  # it is not cut


def modelled(layer, T: int, B: int, counts: list[int], warm_up: int) -> list[float]:
    """How many times as quick so many chunks should be, forward and back, with warm-ups, what is
    carried on at seams, a look at how soon the layer forgets, and copies of x, y, dE/dx and dE/dy;
    of each of counts.
    """
    alone, look = T * cost(layer, B), warm_up * cost(layer, 2 * B) / 2
    copied = 2 * T * B * (layer.input_size + layer.hidden_size)
    more = look + copied * layer.backend.copying + layer.backend.waking + CALLS
    steps = [-(-T // count) + warm_up for count in counts]
    each = zip(steps, counts, strict=True)
    return [alone / (own * cost(layer, count * B) + more) for own, count in each]


def cost(layer, rows: int) -> float:
    """Nanoseconds of a step of so many samples, forward and back: modelled."""
    cell = layer.noise.around(layer.cell, training=True)
    return layer.backend.cost(cell, layer.hidden_size, rows, layer.dtype, layer.precision)


def best(layer, T: int, B: int, warm_up: int) -> Cut:
    """The number of chunks, a power of two, whose modelled gain is the largest."""
    counts = [2]
    while 2 * counts[-1] <= min(MOST, T // SHORTEST):
        counts.append(2 * counts[-1])
    gains = modelled(layer, T, B, counts, warm_up)
    gain = max(gains)
    return Cut(counts[gains.index(gain)], warm_up, gain)


def lying(layer, T: int, B: int, count: int, anew: bool = False) -> Chunks:
    """At most so many Chunks: of one sample in place, where the device takes them so, unless it may
    begin `anew` within them.
    """
    cut = chunks_of(T, B, count)
    if anew or B != 1 or not layer.backend.takes_parts:
        return cut
    return cut.placed(layer.hidden_size * np.dtype(layer.dtype).itemsize)


def cut_of(layer, x, steps: Steps, pass_: Pass) -> Cut:
    """How x (T, B, m) is cut: as pass_.parallel says, or as the device's model and this layer's
    forgetting of this x let expect.
    """
    way, (T, B, _) = pass_.parallel, x.shape
    cut = first_cut(layer, T, B, way)
    if cut.why or way.chunks is not None:
        return cut
    most, longest = T // cut.chunks // 2, longest_of(layer.backend, steps)
    needed = forgetting(layer, x, steps, pass_, min(most, longest))
    if needed is None and longest > most:
        return Cut(why=f"it does not forget within {most} steps: measured")
    needed = longest if needed is None else needed
    return if_worth(best(layer, T, B, needed), way)


def first_cut(layer, T: int, B: int, way: Parallel) -> Cut:
    """How T steps of B samples would be cut, before anybody has looked at how soon the layer
    forgets.
    """
    if way.scan:
        return Cut(why="only the way back is asked for: a scan")
    if not B or T < 2 or way.chunks == 1:
        return Cut(why="there is one chunk")
    if way.chunks is not None and way.warm_up is not None:
        cut = chunks_of(T, B, way.chunks)
        warm_up = min(way.warm_up, cut.length)
        (gain,) = modelled(layer, T, B, [cut.count], warm_up)
        return Cut(cut.count, warm_up, gain)
    few = LONG if way.auto else 4 * SHORTEST  # fewer are not worth a look
    if few > T:
        return Cut(why=f"{T} steps are few: from {few} on")
    cut = best(layer, T, B, GUESS)
    if way.auto and cut.gain < GREAT and T * cost(layer, B) < SHORT:
        return Cut(gain=cut.gain, why="a pass is too short to gain by it: modelled")
    return if_worth(cut, way)


def if_worth(cut: Cut, way: Parallel) -> Cut:
    """The cut, or none where it gains too little for "auto"."""
    if not way.auto or cut.gain >= WORTH:
        return cut
    return Cut(gain=cut.gain, why=f"chunks would be {cut.gain:.2f} times as quick: modelled")


def expected(layer, T: int, B: int, way: Parallel) -> str:
    """What chunks of T steps of B samples should gain, for people."""
    cut = first_cut(layer, T, B, way)
    if cut.why:
        return f"in chunks: no, {cut.why}"
    measured = "" if way.chunks else "; how soon the layer forgets is measured in each call"
    chunks = lying(layer, T, B, cut.chunks)
    return (
        f"in chunks: {chunks.count} of {chunks.length:,} steps, {cut.gain:.2f} times as quick "
        f"with a warm-up of {cut.warm_up} steps: modelled{measured}"
    )


def forgetting(layer, x, steps: Steps, pass_: Pass, most: int) -> int | None:
    """The steps after which two trajectories that began apart are the same within a quarter of the
    tolerance, from a third of what happens of x (T, B, m) on, as if no sample began anew; None
    where that takes more than `most`.

    It looks at them every PIECE steps, and ends early where they do not approach, or do so
    steadily.
    """
    d, B, number = layer.backend, x.shape[1], layer.backend.numpy
    ε, n = float(np.finfo(layer.dtype).eps), layer.hidden_size
    allowed = max(pass_.parallel.tolerance / 4, SAME * ε)
    cell = layer.noise.around(layer.cell, pass_.training)
    state = d.zeros((cell.states, 2 * B, n), layer.dtype)
    # one from zero, one from ½ and −½ in turn
    state[:, B:] = d.array(np.where(np.arange(n) % 2, 0.5, -0.5), layer.dtype)
    first = last = 0.5
    begin, most = looked_from(layer, steps, most)
    for start in range(0, most, PIECE):
        end = min(start + PIECE, most)
        x_there, there = looked_at(layer, x, steps, begin + start, begin + end)
        state = probed(layer, cell, pass_, (x_there, there), state)
        distances = apart(number(state[:, :B]), number(state[:, B:]))
        alive = number(there.flags)[:, :B].any(0)  # the others stand still
        distance = float(distances[alive].max(initial=0)) if alive.any() else last
        if distance <= allowed or (distance <= ROUNDING * ε and 2 * distance >= last):
            return start + int(np.ceil((end - start) * share_of(last, distance, allowed)))
        if not start:
            first = distance
        elif not distance < first:
            if start >= 2 * PIECE:
                return None
        else:
            fade = np.log(first / distance) / start  # a step
            left = np.log(distance / allowed) / fade
            if end + left > 2 * most:
                return None
            if start >= 2 * PIECE and np.log(last / distance) > STEADY * fade * (end - start):
                return end + int(np.ceil(left)) if end + left <= most else None
        last = distance
    return None


def longest_of(device, steps: Steps) -> int:
    """For how many steps a sample goes on, at most, until it begins anew or ends."""
    T, B = steps.flags.shape
    if not steps.masked:
        return T
    flags, t = device.numpy(steps.flags), np.arange(T)[:, None]
    begun = np.maximum.accumulate(np.where(flags & RESET != 0, t, 0))
    return int(((t + 1 - begun) * (flags & LIVE != 0)).max(initial=0))


def share_of(before: float, after: float, allowed: float) -> float:
    """Which share of some steps, over which a distance has faded evenly, was enough."""
    if not allowed < before < np.inf or not 0 < after < allowed:
        return 1.0
    return float(np.log(before / allowed) / np.log(before / after))


def looked_from(layer, steps: Steps, most: int) -> tuple[int, int]:
    """(a third of the layer's own steps, from the first to the last that happens to any sample;
    how many of at most `most` there are from there on).
    """
    start, end = 0, len(steps.flags)
    if steps.masked:
        happens = (layer.backend.numpy(steps.flags) & LIVE != 0).any(1)
        places = np.nonzero(happens[::-1] if layer.reverse else happens)[0]
        if places.size:
            start, end = int(places[0]), int(places[-1]) + 1
    begin = start + (end - start) // 3
    return begin, min(most, end - begin)


def looked_at(layer, x, steps: Steps, first: int, last: int) -> tuple[Any, Steps]:
    """x of some of the layer's own steps, and its Steps, these twice beside each other; in that
    order.
    """
    d, T = layer.backend, len(x)
    first, last = (T - last, T - first) if layer.reverse else (first, last)

    def beside(a):
        return layer.in_turn(np.concatenate([a[first:last]] * 2, 1))

    dead = None if steps.dead is None else beside(steps.dead)
    flags = d.array(beside(steps.flags) & np.uint8(LIVE), np.uint8)
    return layer.in_turn(x[first:last]), Steps(flags, dead, None, steps.first)


def probed(layer, cell, pass_: Pass, given: tuple, state) -> Any:
    """The states (S, 2B, n) after some steps from `state`; both of a sample draw the same noise."""
    d, (x, steps) = layer.backend, given
    p, mask = layer.inputs(x, steps, pass_)
    p, mask = np.concatenate([p, p], 1), mask if mask is None else np.concatenate([mask, mask])
    L, columns, _, n = p.shape
    s = d.empty((cell.states, L + 1, columns, n), layer.dtype)
    s[:, 0] = state
    if mask is not None:
        s[0, 0] = mask * s[1, 0]
    kept = d.empty((L, columns, cell.kept, n), layer.dtype)
    W, c = layer.parameters["W"], layer.recurrent_bias
    d.forward(cell, Forward(p, W, c, s, kept, steps.flags, steps.masked), layer.precision)
    return s[:, -1]
