"""A layer's pass on memory of another library's, by addresses: one compiled call each way. Of a
small layer a call computes for 5 µs; to make arrays of a dozen tensors takes 30.

Its numbers are those of `Device`'s functions: no sum depends on who takes part. Threads share a
call where each of its kernels would have so many.
"""

from functools import cached_property
from sys import maxsize
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, types

from ... import LIVE, UNCLIPPED, Cell
from ...once import once
from . import products, recurrence
from .compilation import intrinsic, jit, within
from .memory import scratch
from .products import chunk
from .simd import I64
from .stored import keep_with
from .threads import ENOUGH, SPACING, barrier, share, threads_for
from .tiles import FEW, slice_of
from .windows import flat

LINE = 16  # numbers: each of the arrays on the desk begins at a multiple
# counters of the barriers within the kernels of a call, which one thread never waits at; and of
# steps that were clipped, which are not counted where none is
ALONE, UNCOUNTED = np.zeros(3 * SPACING, np.int64), np.zeros(1, np.int64)


class Sizes(NamedTuple):
    """Of a call: steps, samples, features of the input, units."""

    T: Any
    B: Any
    m: Any
    n: Any


class Given(NamedTuple):
    """What goes forward through a layer beside states, or the gradients of it; 0 is none."""

    x: Any  # (T, B, m)
    U: Any  # (G·n, m)
    W: Any  # (G·n, n)
    b: Any  # (G·n,), beside U
    c: Any  # (G·n,), beside W


class Rows(NamedTuple):
    """Where the numbers of a (T, B, n) stand."""

    at: Any  # the first one
    step: Any  # how many numbers further that of the next step, sample and unit stand
    sample: Any
    unit: Any


@intrinsic
def pointer(typing, address):
    """What Numba makes arrays on."""

    def build(context, builder, sig, values):
        return builder.inttoptr(values[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), build


@intrinsic
def address_of(typing, a):
    """Where the numbers of an array are."""

    def build(context, builder, sig, values):
        array = context.make_array(a)(context, builder, values[0])
        return builder.ptrtoint(array.data, I64)

    return types.intp(a), build


# loops, for what Numba makes of a[...] = b takes seconds to compile


@within
def fill(a, number):
    for i in range(a.size):
        a[i] = number


@within
def copy(a, numbers):
    for i in range(a.size):
        a[i] = numbers[i]


def rounded(count):
    return (count + LINE - 1) // LINE * LINE


rounded_within = within(rounded)


def arrays_of(number):
    """(address, shape) -> an array of such numbers on that memory."""
    return within(lambda address, shape: carray(pointer(address), shape, number))


@within
def turn(a):
    """The rows of a (T, ·) from the last to the first, in place."""
    T, N = a.shape
    for t in range(T // 2):
        for j in range(N):
            a[t, j], a[T - 1 - t, j] = a[T - 1 - t, j], a[t, j]


def shares_memory(cell: Cell) -> bool:
    """May what is kept lie where the inputs to the gates were?"""
    return cell.kept == cell.gates


def tape_numbers(cell: Cell, T: int, B: int, n: int) -> tuple[int, int]:
    """Numbers of s (S, T + 1, B, n) and of kept (T, B, K, n)."""
    return cell.states * (T + 1) * B * n, T * B * cell.kept * n


@once
def forward_entry(cell: Cell, number, carry, multiply):
    """The compiled way forward of a layer, of the kernels of its recurrence and of its products."""
    array, item, bytes_at = arrays_of(number), np.dtype(number).itemsize, arrays_of(np.uint8)
    G, S, K, output = cell.gates, cell.states, cell.kept, cell.output
    APART, SHARED, ZERO = cell.apart, shares_memory(cell), number(0)

    @within
    def put(at, source, count):
        a = array(at, (count,))
        if source == 0:
            fill(a, ZERO)
        else:
            copy(a, array(source, (count,)))

    @jit
    def forward(sizes, given, ends, room, how, arrived, part, parts):
        """Through a layer, one of `parts` shares of it.

        ends     from s0 to y, Rows, and last; of s0 and last each state (B, n), 0 of s0 is zero
        room     where s and kept are left, 0: on the desk; the desk
        how      numbers that kernels take of the desk; is the layer in reverse; do parts have
                 units; counters of the barriers within kernels
        arrived  the counter of those between them
        """
        (T, B, m, n), (s0, y, last), (tape, desk) = sizes, ends, room
        pack, reverse, by_panels, counters = how
        meeting, met = flat(arrived), parts
        θ, out, start, N = Given(*given), Rows(*y), address_of(desk), G * n
        side, rows = item * rounded_within(N), T * B
        at_flags = start + 2 * side
        at_free = at_flags + item * rounded_within(rows)
        sums = at_free + item * rounded_within(pack)
        at_s, at_kept = tape
        if at_s == 0:
            at_kept = sums + (0 if SHARED else item * rounded_within(rows * N))
            at_s = at_kept + item * rounded_within(rows * K * n)
        s, kept = array(at_s, (S, T + 1, B, n)), array(at_kept, (T, B, K, n))
        p = kept if SHARED else array(sums, (T, B, G, n))
        state, each = item * B * n, item * (T + 1) * B * n
        b, c = array(start, (N,)), array(start + side, (N,))
        if part == 0:
            for k in range(S):
                put(at_s + k * each, s0[k], B * n)
            fill(bytes_at(at_flags, (rows,)), LIVE)
            put(start, θ.b, N)
            put(start + side, θ.c, N)
            if not APART:
                for j in range(N):
                    b[j] += c[j]
        barrier(meeting, met)
        free, net = array(at_free, (pack,)), array(address_of(p), (rows, N))
        x, U = array(θ.x, (rows, m)), array(θ.U, (N, m))
        multiply(x, U, b, net, free, counters[:1], part, parts)
        met += parts
        barrier(meeting, met)
        if reverse:
            if part == 0:
                turn(array(address_of(p), (T, B * N)))
            met += parts
            barrier(meeting, met)
        arrays = p, array(θ.W, (N, n)), c, s, kept, bytes_at(at_flags, (T, B))
        carry(arrays, False, free, by_panels, counters[SPACING : SPACING + 1], part, parts)
        barrier(meeting, met + parts)
        for t in range(*slice_of(T, part, parts)):
            step = T - 1 - t if reverse else t
            for i in range(B):
                row = out.at + item * (step * out.step + i * out.sample)
                at = at_s + output * each + (t + 1) * state + item * i * n
                copy(array(row, (n,)), array(at, (n,)))
        if part == 0:
            for k in range(S):
                put(last[k], at_s + k * each + T * state, B * n)

    return keep_with(forward, carry, multiply)


@once
def backward_entry(cell: Cell, number, retreat, back_U, back_W):
    """The compiled way back of a layer, of the kernels of its recurrence and of the ways back
    through U and W.
    """
    array, item, bytes_at = arrays_of(number), np.dtype(number).itemsize, arrays_of(np.uint8)
    G, S, K, APART, ZERO = cell.gates, cell.states, cell.kept, cell.apart, number(0)

    @jit
    def backward(sizes, given, slopes, desk, how, arrived, part, parts):
        """dE/dy, Rows, and dE/d(last) back through a layer. See `forward` for what is not told.

        given   x, U, W, s and kept
        slopes  dE/dy; dE/d(each last state), 0 is zero; where dE/d(each initial one) is left, and
                gradients, a Given; 0 of x, b, c, or of an initial state is not asked; c only with b
        how     numbers that kernels take of the desk; rows of a chunk; is δ repacked for U, for W;
                is the layer in reverse; do parts have units; the bounds of δ, and counts of each
                part, to which steps that were clipped are added; counters
        """
        (T, B, m, n), (x, at_U, at_W, at_s, at_kept) = sizes, given
        dy, dlast, ds0, found = slopes
        pack, together, repacked_U, repacked_W, reverse, by_panels, clip, counters = how
        out, into, meeting, met = Given(*found), Rows(*dy), flat(arrived), parts
        rows, N, state = T * B, G * n, item * rounded_within(B * n)
        at_ds = address_of(desk) + S * state
        at_dy = at_ds + S * state
        at_dp = at_dy + item * rounded_within(rows * n)
        at_dq = at_dp + item * rounded_within(rows * N) if APART else at_dp
        at_flags = at_dq + item * rounded_within(rows * N)
        flags, free = (
            bytes_at(at_flags, (T, B)),
            array(at_flags + item * rounded_within(rows), (pack,)),
        )
        s, kept = array(at_s, (S, T + 1, B, n)), array(at_kept, (T, B, K, n))
        ds, initial = array(at_ds, (S, 1, B, n)), array(address_of(desk), (S, 1, B, n))
        if part == 0:
            fill(bytes_at(at_flags, (rows,)), LIVE)
            fill(array(address_of(desk), (S * B * n,)), ZERO)
            for k in range(S):
                a = array(at_ds + item * k * B * n, (B * n,))
                if dlast[k] == 0:
                    fill(a, ZERO)
                else:
                    copy(a, array(dlast[k], (B * n,)))
        as_it_is = not reverse and into.step == B * n and into.sample == n and into.unit == 1
        d = array(into.at if as_it_is else at_dy, (T, B, n))
        for t in range(0 if as_it_is else T):
            step = T - 1 - t if reverse else t
            for i in range(*slice_of(B, part, parts)):
                row = into.at + item * (step * into.step + i * into.sample)
                if into.unit == 0:  # of a sum, say
                    fill(d[t, i], array(row, (1,))[0])
                elif into.unit == 1:
                    copy(d[t, i], array(row, (n,)))
                else:
                    for j in range(n):
                        d[t, i, j] = array(row + item * j * into.unit, (1,))[0]
        dp, dq = array(at_dp, (T, B, G, n)), array(at_dq, (T, B, G, n))
        value, norm, clipped = clip
        bounds = number(value), number(norm), clipped
        W, dW = array(at_W, (N, n)), array(out.W, (N, n))
        arrays = d, W, s, kept, flags, dp, dq, ds, bounds
        barrier(meeting, met)
        retreat(arrays, initial, LYING, free, by_panels, counters[:1], part, parts)
        met += parts
        barrier(meeting, met)
        if part == 0:
            for k in range(S):
                if ds0[k] != 0:
                    copy(array(ds0[k], (B * n,)), array(at_ds + item * k * B * n, (B * n,)))
        δ, before = array(at_dq, (rows, N)), array(at_s, (rows, n))
        bias, none = array(out.c, (N if APART and out.c else 0,)), array(at_s, (0, n))
        back = δ, before, W, dW, bias, none
        in_W = counters[SPACING : SPACING + 1]
        back_W(back, True, together, repacked_W != 0, free, in_W, part, parts)
        met += parts
        barrier(meeting, met)
        if reverse:
            if part == 0:
                turn(array(at_dp, (T, B * N)))
            met += parts
            barrier(meeting, met)
        δ, bias = array(at_dp, (rows, N)), array(out.b, (N if out.b else 0,))
        below = array(out.x, (rows if out.x else 0, m))
        back = δ, array(x, (rows, m)), array(at_U, (N, m)), array(out.U, (N, m)), bias, below
        in_U = counters[2 * SPACING : 2 * SPACING + 1]
        back_U(back, True, together, repacked_U != 0, free, in_U, part, parts)
        if not APART and out.c:
            barrier(meeting, met + parts)
            if part == 0:
                copy(array(out.c, (N,)), bias)

    return keep_with(backward, retreat, back_U, back_W)


class Way:
    """A layer of `cell`, m features and n units, forward and back by addresses."""

    def __init__(self, cell: Cell, m: int, n: int, dtype: np.dtype):
        _, panels, through_W = recurrence.plan(cell, n, dtype, None, 1)
        self.multiply, through_U = products.plan(cell.gates * n, m, dtype)
        self.cell, self.m, self.n, self.dtype = cell, m, n, dtype
        self.pack = max(through_U, through_W)
        # of units, forward and back
        self.panels = panels, recurrence.plan(cell, n, dtype, False, 1)[1]
        # of one step of one sample, all products together
        self.operations = 4 * cell.gates * n * max(n, m)

    @cached_property
    def of_few(self):
        """The kernel of the way forward for few samples."""
        return self.entry(FEW)

    @cached_property
    def of_many(self):
        """The same for more; itself where both have the same tiles."""
        return self.entry(FEW + 1)

    def entry(self, B: int):
        carry, *_ = recurrence.plan(self.cell, self.n, self.dtype, None, B)
        return forward_entry(self.cell, self.dtype.type, carry, self.multiply)

    def is_short(self, T: int, B: int) -> bool:
        """Is one thread done before a second has begun?"""
        return T * B * self.operations < ENOUGH

    def shares(self, T: int, B: int) -> tuple | None:
        """How threads share T steps of B samples, forward and back; None where not all kernels of
        a call would be shared by as many.
        """
        if self.is_short(T, B):
            return BY_ONE
        N = self.cell.gates * self.n
        most = threads_for(T * B * self.operations, maxsize)
        if most == 1:
            return BY_ONE
        call = self.cell, T, B, self.n
        found = tuple(recurrence.shares(*call, panels, self.dtype) for panels in self.panels)
        together = most <= min(T * B, N) // 8 and all(way.threads == most for way in found)
        return found if together else None

    def tape(self, T: int, B: int) -> tuple[int, int]:
        """Numbers that the way forward leaves for the way back: of s, of kept."""
        return tape_numbers(self.cell, T, B, self.n)

    def forward(self, T: int, B: int, given, s0, y, last, tape, reverse: bool) -> None:
        """Through the layer: see `forward_entry`."""
        rows, N = T * B, self.cell.gates * self.n
        numbers = 2 * rounded(N) + rounded(rows) + rounded(self.pack)
        numbers += 0 if shares_memory(self.cell) else rounded(rows * N)
        numbers += 0 if tape[0] else LINE + sum(self.tape(T, B))
        desk, sizes = scratch(numbers, self.dtype), (T, B, self.m, self.n)
        threads, by_panels = (self.shares(T, B) or BY_ONE)[0]
        how = self.pack, reverse, by_panels, counters_of(threads)
        carry = self.of_few if B <= FEW else self.of_many
        share(carry, threads, sizes, given, (s0, y, last), (tape, desk), how)

    def backward(self, T: int, B: int, given, dy, states, found, reverse: bool, clip=UNCLIPPED):
        """δ back through the layer: see `backward_entry`. Returns how many steps were clipped."""
        cell, m, n, dtype = self.cell, self.m, self.n, self.dtype
        threads, by_panels = (self.shares(T, B) or BY_ONE)[1]
        kind = found[0] != 0, clip != UNCLIPPED, threads
        entry, repacked, pack = plan_back(cell, m, n, dtype, *kind)
        each = rounded(T * B * cell.gates * n)
        numbers = 2 * cell.states * rounded(B * n) + rounded(T * B * n) + rounded(T * B)
        desk = scratch(numbers + (1 + cell.apart) * each + pack, dtype)
        clipped = UNCOUNTED if clip == UNCLIPPED else np.zeros(threads, np.int64)
        shared = reverse, by_panels, (*clip, clipped), counters_of(threads)
        how, sizes = (pack, chunk(B) * B, *repacked, *shared), (T, B, m, n)
        share(entry, threads, sizes, given, (dy, *states, found), desk, how)
        return 0 if clip == UNCLIPPED else int(clipped.sum())


def counters_of(threads: int):
    """Of the barriers within the kernels of a call."""
    return ALONE if threads == 1 else np.zeros(3 * SPACING, np.int64)


LYING = recurrence.Lies(False, False)
BY_ONE = recurrence.ALONE, recurrence.ALONE


@once
def way_of(cell: Cell, m: int, n: int, dtype: np.dtype) -> Way:
    """The Way of a layer, made once."""
    return Way(cell, m, n, dtype)


@once
def plan_back(
    cell: Cell, m: int, n: int, dtype: np.dtype, below: bool, clips: bool, parts: int
) -> tuple:
    """(kernel, (is δ repacked for U, for W), numbers that kernels take of the desk)."""
    N = cell.gates * n
    retreat, _, through = recurrence.plan(cell, n, dtype, clips, 1)  # whatever B: one gate a sum
    back_U, repacked_U, pack_U = products.plan_back(N, m, dtype, below, parts)
    back_W, repacked_W, pack_W = products.plan_back(N, n, dtype, False, parts)
    entry = backward_entry(cell, dtype.type, retreat, back_U, back_W)
    return entry, (repacked_U, repacked_W), max(pack_U, pack_W, through)
