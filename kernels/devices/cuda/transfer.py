"""`Device.transfers` in a kernel, for the few units whose matrices fit a multiprocessor.

A block has one sample and takes the matrix of all its steps, back in time, from one half of shared
memory to the other: a column for each number that may come in, and one for dE/dy. A step's own
matrix is made of two: what passes by W, number by number of a unit, which is the cell's back of
unit vectors; and what passes through W, the sum over gates of W with its rows scaled by the cell's
δ of unit vectors. So the product of a step has S·n inputs, not G·n. One warp makes the cell's
numbers of the step after the next, while the others multiply, and make what passes through W in the
next: one barrier a step.

Units, and columns, are padded to quads of zeros.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ... import LIVE, RESET, Backward
from ...binding.closures import each, each_over, tuple_of
from .compiled import factory
from .contract import Card
from .launch import ROUND_TO, arrays, cuda, device_function, formula, launch
from .persistent import AHEAD, numbers_in
from .plans import QUAD, RESIDENT_THREADS, SCHEDULERS, STALL, WARP, WEIGHTS_LOAD
from .ptx import distance, prefetch, put_quad, quad, shared_place
from .tracks import ABSENT, apart, beside

UNITS = 32  # at most: those of one warp


def up(count: int, to: int) -> int:
    return -(-count // to) * to


class Sizes(NamedTuple):
    """What is fixed when the kernel of `transfers` is compiled."""

    n: int  # units
    states: int  # S
    gates: int  # G

    @property
    def numbers(self) -> int:
        """N, of a state."""
        return self.states * self.n

    @property
    def places(self) -> int:
        """Of units."""
        return up(self.n, QUAD)

    @property
    def inputs(self) -> int:
        """Of a step's matrix."""
        return self.states * self.places

    @property
    def columns(self) -> int:
        return up(self.numbers + 1, QUAD)

    @property
    def half(self) -> int:
        """Numbers of the matrix of all steps so far."""
        return self.inputs * self.columns

    @property
    def through(self) -> int:
        """Numbers of what passes through W in one step."""
        return self.inputs * self.places

    @property
    def of_cell(self) -> int:
        """Numbers of one step that the cell makes: δ, what passes by W, and dE/dy."""
        return self.places * (self.states * (self.gates + self.states) + 1)

    @property
    def shared(self) -> int:
        """Numbers of shared memory."""
        weights = self.gates * self.places**2
        return 2 * self.half + 2 * self.through + 3 * self.of_cell + weights

    @property
    def tiles(self) -> int:
        """Of four units by four columns: one a thread."""
        return self.columns // QUAD * (self.places // QUAD)

    @property
    def workers(self) -> int:
        """Threads that multiply."""
        return up(self.tiles, ROUND_TO)

    @property
    def threads(self) -> int:
        return self.workers + up(self.places, ROUND_TO)


def sizes_of(cell, n: int) -> Sizes:
    return Sizes(n, cell.states, cell.gates)


def fits(sizes: Sizes, itemsize: int, card: Card) -> bool:
    return sizes.n <= UNITS and sizes.shared * itemsize <= card.shared


class Arrays(NamedTuple):
    """Of a thread that asks the cell: tracks, or places on them."""

    dy: Any
    flags: Any  # () where no step is masked
    kept: Any
    s: Any


class Ring(NamedTuple):
    """Where the cell's numbers of two steps stand in shared memory."""

    now: Any
    next: Any


class Halves(NamedTuple):
    """Where in shared memory matrices stand."""

    matrix: Any  # of the steps so far
    out: Any  # with one step more
    step: Any  # what passes through W in that step


@cache
def asked_of(cell, number, n: int, masked: bool):
    """The device functions of a thread that asks the cell: (call, j) -> (Arrays of tracks, Arrays
    of places of the last step); (call, at, tracks, j, registers): the states behind that;
    (at, tracks, registers) -> flags of a step, and what else it needs to registers; (at, tracks):
    what is needed AHEAD steps before, to L2; (at, go, tracks) -> the step before, or the same;
    (shared, first, j, flag, registers): the cell's numbers of a step, to shared memory.
    """
    G, S, K = cell.gates, cell.states, cell.kept
    sizes, back = sizes_of(cell, n), formula(cell.back, number)
    PLACES, OF_S, ZERO, ONE = sizes.places, sizes.gates + sizes.states, number(0), number(1)
    outputs, activations, states = beside(1, n), beside(K, n), apart(S, n)
    flags = beside(1, 1) if masked else ABSENT
    kept_in, put_kept_in = numbers_in(K)
    states_in, put_states_in = numbers_in(S)

    @device_function
    def tracks_of(call, j):
        (L, B), b = call.kept.shape[:2], cuda.blockIdx.x
        tracks = Arrays(
            outputs.track(call.dy, -B),
            flags.track(call.flags, -B),
            activations.track(call.kept, -B),
            states.track(call.s, -B),
        )
        at = Arrays(
            outputs.start(call.dy, L - 1, b, j),
            flags.start(call.flags, L - 1, b, 0),
            activations.start(call.kept, L - 1, b, j),
            states.start(call.s, L - 1, b, j),
        )
        return tracks, at

    @device_function
    def load_after(call, at, tracks, j, registers):
        places = states.start(call.s, call.kept.shape[0], cuda.blockIdx.x, j)
        put_states_in(states.numbers(places, tracks.s, 0), registers, 1 + K + S)

    @device_function
    def load_step(at, tracks, registers):
        (registers[0],) = outputs.numbers(at.dy, tracks.dy, 0)
        put_kept_in(activations.numbers(at.kept, tracks.kept, 0), registers, 1)
        put_states_in(states.numbers(at.s, tracks.s, 0), registers, 1 + K)
        if masked:
            (flag,) = flags.numbers(at.flags, tracks.flags, 0)
            return np.int32(flag)
        return np.int32(LIVE)

    @device_function
    def fetch_kept(k, at, tracks):
        track = tracks.kept
        prefetch(at.kept + AHEAD * track.step + distance(track.a, k * n))

    @device_function
    def fetch_state(k, place, tracks):
        prefetch(place + AHEAD * tracks.s.step)

    fetch_all_kept = each(K, fetch_kept, device_function)
    fetch_states = each_over(S, fetch_state, device_function)

    @device_function
    def fetch(at, tracks):
        prefetch(at.dy + AHEAD * tracks.dy.step)
        fetch_all_kept(at, tracks)
        fetch_states(at.s, tracks)

    @device_function
    def onward(at, go, tracks):
        return Arrays(
            outputs.onward(at.dy, go, tracks.dy),
            flags.onward(at.flags, go, tracks.flags),
            activations.onward(at.kept, go, tracks.kept),
            states.onward(at.s, go, tracks.s),
        )

    @device_function
    def unit(k, i):
        return ONE if k == i else ZERO

    unit_vector = tuple_of(S, unit, device_function)

    @device_function
    def put(k, value, shared, place):
        shared[place + k * PLACES] = value

    put_gates, put_states = (each_over(count, put, device_function) for count in (G, S))
    no_gates = tuple_of(G, device_function(lambda k: ZERO), device_function)
    no_states = tuple_of(S, device_function(lambda k: ZERO), device_function)

    @device_function
    def put_of_state(i, shared, first, flag, kept, before, after):
        δ, d = no_gates(), no_states()
        if not masked or not flag & RESET:
            d = unit_vector(i)
            if not masked or flag & LIVE:
                _, δ, d = back(d, kept, before, after)
        put_gates(δ, shared, first + i * OF_S * PLACES)
        put_states(d, shared, first + (i * OF_S + G) * PLACES)

    put_all = each(S, put_of_state, device_function)

    @device_function
    def ask(shared, first, j, flag, registers):
        before, after = states_in(registers, 1 + K), states_in(registers, 1 + K + S)
        put_all(shared, first + j, flag, kept_in(registers, 1), before, after)
        put_states_in(before, registers, 1 + K + S)
        shared[first + S * OF_S * PLACES + j] = registers[0] if flag & LIVE else ZERO

    return tracks_of, load_after, load_step, fetch, onward, ask


@cache
def through_of(sizes: Sizes, number):
    """The device function (worker, shared, cell, out): what passes through W in a step whose
    numbers of the cell stand at `cell`, to places `out` and behind of shared memory.
    """
    G, PLACES, OF_S = sizes.gates, sizes.places, sizes.gates + sizes.states
    WIDE, ITEMS, WORKERS = PLACES // QUAD, sizes.inputs * (PLACES // QUAD), sizes.workers
    WEIGHTS, ZERO = sizes.shared - G * PLACES**2, number(0)
    four, _ = numbers_in(QUAD)

    @device_function
    def clear(k, sums):
        sums[k] = ZERO

    clear_all = each(QUAD, clear, device_function)

    @device_function
    def add(k, w, δ, sums):
        sums[k] += δ * w

    add_all = each_over(QUAD, add, device_function)

    @device_function
    def add_gate(g, shared, δ, w, sums):
        weights = quad(shared, w, g * PLACES * PLACES)
        add_all(weights, shared[δ + g * PLACES], sums)

    add_gates = each(G, add_gate, device_function)

    @device_function
    def through(worker, shared, cell, out, sums):
        item = worker
        while item < ITEMS:
            row, units = item // WIDE, item % WIDE * QUAD
            state, unit = row // PLACES, row % PLACES
            clear_all(sums)
            w = shared_place(shared, WEIGHTS + unit * PLACES + units)
            add_gates(shared, cell + state * OF_S * PLACES + unit, w, sums)
            put_quad(shared, shared_place(shared, out + row * PLACES + units), 0, four(sums, 0))
            item += WORKERS

    return through


@cache
def product_of(sizes: Sizes, number, output: int):
    """The device function (worker, shared, Halves, Ring, more, sums, after): the matrix of one step
    more, of a tile of units and columns.  `more`: there is a step before this one.
    """
    G, S, PLACES, COLUMNS = sizes.gates, sizes.states, sizes.places, sizes.columns
    OF_S, N, INPUTS, WIDE = G + S, sizes.numbers, sizes.inputs, PLACES // QUAD
    ZERO, LAST, OF_DY = number(0), N % QUAD, S * OF_S * PLACES
    four, _ = numbers_in(QUAD)

    @device_function
    def clear(k, sums):
        sums[k] = ZERO

    clear_sums = each(QUAD * QUAD, clear, device_function)
    clear_others = each(QUAD * S, clear, device_function)

    @device_function
    def add(k, d, w, sums, first):
        sums[first + k] += d * w

    add_columns = each_over(QUAD, add, device_function)

    @device_function
    def add_unit(u, w, d, sums):
        add_columns(d, w, sums, u * QUAD)

    add_units = each_over(QUAD, add_unit, device_function)

    @device_function
    def take(k, sums, first, after):
        after[k] = sums[first + k]

    take_all = each(QUAD, take, device_function)

    @device_function
    def add_past(state, d, shared, cell, after):
        add_columns(d, shared[cell + state * PLACES], after, state * QUAD)

    past_all = each(S, add_past, device_function)

    @device_function
    def add_state(i, shared, own, cell, after):
        d = quad(shared, own, i * PLACES * COLUMNS)
        past_all(d, shared, cell + (i * OF_S + G) * PLACES, after)

    add_states = each(S, add_state, device_function)

    @device_function
    def put(state, after, shared, own):
        put_quad(shared, own, state * PLACES * COLUMNS, four(after, state * QUAD))

    put_all = each(S, put, device_function)

    @device_function
    def finish(u, tile, shared, where, ring, more, sums, after):
        column, j = tile
        here = (j + u) * COLUMNS + column
        clear_others(after)
        take_all(sums, u * QUAD, after)
        add_states(shared, shared_place(shared, where.matrix + here), ring.now + j + u, after)
        if more and column == N - LAST:
            after[output * QUAD + LAST] += shared[ring.next + OF_DY + j + u]
        put_all(after, shared, shared_place(shared, where.out + here))

    finish_all = each(QUAD, finish, device_function)

    @device_function
    def product(worker, shared, where, ring, more, sums, after):
        column, j = worker // WIDE * QUAD, worker % WIDE * QUAD
        d, w = shared_place(shared, where.matrix + column), shared_place(shared, where.step + j)
        clear_sums(sums)
        i = np.int64(0)
        while i < INPUTS:
            add_units(quad(shared, w, i * PLACES), quad(shared, d, i * COLUMNS), sums)
            i += 1
        finish_all((column, j), shared, where, ring, more, sums, after)

    return product


@factory
def transfers_kernel(cell, number, n: int, masked: bool):
    sizes, S, K, OUTPUT = sizes_of(cell, n), cell.states, cell.kept, cell.output
    N, PLACES, COLUMNS, HALF = sizes.numbers, sizes.places, sizes.columns, sizes.half
    CELL, WORKERS, TILES, G = sizes.of_cell, sizes.workers, sizes.tiles, cell.gates
    # where a step's own matrix stands, by halves too, and what the cell makes, by thirds
    FIRST_STEP, FIRST = 2 * HALF, 2 * HALF + 2 * sizes.through
    BOTH_STEPS = 2 * FIRST_STEP + sizes.through
    WEIGHTS, ALL = FIRST + 3 * CELL, sizes.shared
    ZERO, ONE, OF_DY = number(0), number(1), S * (G + S) * PLACES
    TILE, COLUMN, REGISTERS = QUAD * QUAD, QUAD * S, 1 + K + 2 * S
    tracks_of, load_after, load_step, fetch, onward, ask = asked_of(cell, number, n, masked)
    through, product = through_of(sizes, number), product_of(sizes, number, OUTPUT)

    @device_function
    def begin(call, shared):
        """Zeros and W, and the matrix of no step."""
        thread, count = cuda.threadIdx.x, cuda.blockDim.x
        k = thread
        while k < ALL:
            shared[k] = ZERO
            k += count
        cuda.syncthreads()
        k = thread
        while k < G * n * n:
            row, j = k // n, k % n
            shared[WEIGHTS + (row // n * PLACES + row % n) * PLACES + j] = call.W[row, j]
            k += count
        k = thread
        while k < N:
            shared[(k // n * PLACES + k % n) * COLUMNS + k] = ONE
            k += count

    @device_function
    def end(out, shared, matrix):
        k = np.int64(cuda.threadIdx.x)
        while k < (N + 1) * N:
            column, i = k // N, k % N
            out[cuda.blockIdx.x, column, i] = shared[
                matrix + (i // n * PLACES + i % n) * COLUMNS + column
            ]
            k += cuda.blockDim.x

    @cuda.jit(launch_bounds=sizes.threads)
    def transfers(call: Backward, out):
        """`Device.transfers`, a sample a block, with sizes.shared numbers of shared memory."""
        shared = cuda.shared.array(0, number)
        sums, after = cuda.local.array(TILE, number), cuda.local.array(COLUMN, number)
        registers = cuda.local.array(REGISTERS, number)
        worker, L = np.int32(cuda.threadIdx.x), np.int32(call.kept.shape[0])
        j, flag = worker - np.int32(WORKERS), np.int32(LIVE)
        asks = 0 <= j < n
        tracks, at = tracks_of(call, j if asks else 0)
        begin(call, shared)
        matrix, step = np.int32(0), np.int32(FIRST_STEP)
        now, next, behind = np.int32(FIRST), np.int32(FIRST + CELL), np.int32(FIRST + 2 * CELL)
        cuda.syncthreads()
        if asks:
            load_after(call, at, tracks, j, registers)
            flag = load_step(at, tracks, registers)
            ask(shared, now, j, flag, registers)
            # dE/dy of the last step comes in before it
            shared[(OUTPUT * PLACES + j) * COLUMNS + N] = shared[now + OF_DY + j]
            at = onward(at, L > 1, tracks)
            flag = load_step(at, tracks, registers)
        cuda.syncthreads()
        if worker < WORKERS:
            through(worker, shared, now, step, sums)
        elif asks:
            ask(shared, next, j, flag, registers)
            at = onward(at, L > 2, tracks)
            flag = load_step(at, tracks, registers)
        cuda.syncthreads()
        left = L
        while left > 0:
            if worker < WORKERS:
                if worker < TILES:
                    ring, more = Ring(now, next), left > 1
                    where = Halves(matrix, np.int32(HALF - matrix), step)
                    product(worker, shared, where, ring, more, sums, after)
                through(worker, shared, next, np.int32(BOTH_STEPS - step), sums)
            elif asks:
                ask(shared, behind, j, flag, registers)
                if left > 3 + AHEAD:
                    fetch(at, tracks)
                at = onward(at, left > 3, tracks)
                flag = load_step(at, tracks, registers)
            cuda.syncthreads()
            matrix, step = np.int32(HALF - matrix), np.int32(BOTH_STEPS - step)
            now, next, behind = next, behind, now
            left = np.int32(left - 1)
        end(out, shared, matrix)

    return transfers


def transfers(cell, call: Backward, sizes: Sizes):
    """`Device.transfers` of a call whose flags and masked are () where no step is masked."""
    (_, B, _, n), dtype = call.kept.shape, call.kept.dtype
    out = arrays().empty((B, sizes.numbers + 1, sizes.numbers), dtype)
    kernel = transfers_kernel(cell, dtype.type, n, len(call.flags) > 0)
    call = call._replace(dp=(), dq=(), ds=(), clip=())
    launch(kernel, B, sizes.threads, call, out, shared=sizes.shared * dtype.itemsize)
    return out


# An estimate of cycles, as that of plans.py; instructions are read off SASS of n = 32.

AN_INPUT = 20  # instructions of a tile: 16 products, two quads, a share of the loop
A_FACTOR = 19  # of four weights of one gate, scaled
AN_ITEM = 20  # beside those
BESIDE = 60  # of a step


def cycles(sizes: Sizes, itemsize: int, B: int, card: Card) -> float:
    """Of one step of B samples: what a multiprocessor issues, or loads from shared memory, or one
    block alone with its stalls, times the waves.
    """
    S, G, workers = sizes.states, sizes.gates, -(-sizes.workers // WARP)
    items = -(-sizes.inputs * sizes.places // QUAD // sizes.workers)
    finish = QUAD * S * (QUAD * S + 10)
    issued = AN_INPUT * sizes.inputs + items * (AN_ITEM + A_FACTOR * G) + finish + BESIDE
    quads = 2 * sizes.inputs + items * (G + 1) + 2 * QUAD * S
    loaded = workers * (WEIGHTS_LOAD * quads + items * G + QUAD * S * S)
    warps, each_number = workers + 1, itemsize // 4
    busy = each_number * max(issued * warps / SCHEDULERS, loaded)
    alone = STALL + each_number * max(issued * -(-warps // SCHEDULERS), loaded)
    resident = min(card.shared // (sizes.shared * itemsize), RESIDENT_THREADS // sizes.threads)
    waves = -(-B // (card.multiprocessors * max(1, resident)))
    on_one = min(max(1, resident), -(-B // card.multiprocessors))
    return waves * max(alone, on_one * busy)
