"""The sums of the persistent schedules by tensor cores: another way for what sums.py does, of plans
whose `product` is "tf32" or "bf16".

A team is four lanes that share one unit, of which a warp has eight; samples come by eights. That is
how tensor cores deal out a tile (tensor_ops.py): lane 4 g + q has row g and row g + 8, here two
outputs of its unit, and columns 2 q and 2 q + 1, here samples q and q + 4. So a thread ends with
all sums of its own unit and samples, and nothing is shuffled. An odd output's tile is half empty.

Which input is which place of a tile's K does not matter, as long as weights and vector agree: of a
quad a lane takes the first two numbers for its first places and the others for the second, so that
both come by loads of 16 bytes. A *piece* is four words of weights: in TF32 those of one output and
quad, in bfloat16 of two outputs. Weights are rounded once, the vector before it goes to shared
memory or, to bfloat16, when it is read from there; sums are float32.
"""

from functools import cache

import numpy as np

from ...binding.closures import each, tuple_of
from .launch import cuda, device_function
from .packets import bits_of, number_of
from .plans import COLUMNS, QUAD, Plan
from .ptx import put_shared, quad, shared_place
from .tensor_ops import mma_bf16, mma_tf32, pack_bf16, to_tf32

CHAINS = 4  # tiles under way, of those that do not wait for each other


@device_function
def four_bf16(w0, w1, w2, w3):
    return pack_bf16(w0, w1), pack_bf16(w2, w3)


@device_function
def sample_of(column):
    """Which of eight samples stands in a column of the vector's tile."""
    return column // 2 + column % 2 * (COLUMNS // 2)


@cache
def clear_halves_of(plan: Plan, number):
    """The device function (thread): zero to all that a block will multiply."""
    count, threads, ZERO = plan.first_weight, plan.threads, number(0)

    @device_function
    def clear_halves(thread):
        first, i = shared_place(thread.shared, 0), cuda.threadIdx.x
        while i < count:
            put_shared(thread.shared, first, i, ZERO)  # padding stays so
            i += threads

    return clear_halves


@cache
def multiplied_of(plan: Plan):
    """The device function (a number of the vector) -> that number as it goes to shared memory."""
    if plan.product == "tf32":
        return device_function(lambda a: number_of((to_tf32(a),)))
    return device_function(lambda a: a)


@cache
def pieces_of(plan: Plan, number, of_quad):
    """The device functions (W, transposed, q, k, thread) -> piece k of quad q of this lane, as four
    numbers that are made of its words: for registers, and for shared memory. of_quad is the
    weights' own: see sums.py.
    """
    outputs, ZERO, TF32 = plan.outputs, number(0), plan.product == "tf32"

    @device_function
    def weight(W, transposed, q, o, e, thread):
        return of_quad(W, transposed, q, 0, o, e, thread) if o < outputs else ZERO

    @device_function
    def two_by_two(W, transposed, q, o, e, thread):
        """Of neighbouring outputs and neighbouring numbers: one operand in TF32."""
        return (
            to_tf32(weight(W, transposed, q, o, e, thread)),
            to_tf32(weight(W, transposed, q, o + 1, e, thread)),
            to_tf32(weight(W, transposed, q, o, e + 1, thread)),
            to_tf32(weight(W, transposed, q, o + 1, e + 1, thread)),
        )

    @device_function
    def one_by_four(W, transposed, q, o, thread):
        """Of one output: half of two operands in TF32."""
        return (
            to_tf32(weight(W, transposed, q, o, 0, thread)),
            to_tf32(weight(W, transposed, q, o, 1, thread)),
            to_tf32(weight(W, transposed, q, o, 2, thread)),
            to_tf32(weight(W, transposed, q, o, 3, thread)),
        )

    @device_function
    def two_by_four(W, transposed, q, o, thread):
        """Of neighbouring outputs: one operand in bfloat16."""
        a = of_output(W, transposed, q, o, thread)
        b = of_output(W, transposed, q, o + 1, thread)
        return a[0], b[0], a[1], b[1]

    @device_function
    def of_output(W, transposed, q, o, thread):
        w0 = weight(W, transposed, q, o, 0, thread)
        w1 = weight(W, transposed, q, o, 1, thread)
        w2 = weight(W, transposed, q, o, 2, thread)
        w3 = weight(W, transposed, q, o, 3, thread)
        return pack_bf16(w0, w1), pack_bf16(w2, w3)

    @device_function
    def numbers(words):
        a, b, c, d = words
        return number_of((a,)), number_of((b,)), number_of((c,)), number_of((d,))

    @device_function
    def in_registers(W, transposed, q, k, thread):
        if not TF32:
            return numbers(two_by_four(W, transposed, q, 2 * k, thread))
        return numbers(two_by_two(W, transposed, q, k // 2 * 2, k % 2 * 2, thread))

    @device_function
    def in_shared(W, transposed, q, k, thread):
        if TF32 and k == outputs - 1 and k % 2 == 0:
            return numbers(one_by_four(W, transposed, q, k, thread))
        return in_registers(W, transposed, q, k, thread)

    return in_registers, in_shared


@cache
def tensor_loads_of(plan: Plan, number, of_quad):
    """The device function load_weights(W, transposed, thread): to where the plan wants them; and
    zero to all that they will multiply.
    """
    pieces, register_pieces, threads = plan.pieces, plan.register_pieces, plan.threads
    in_registers, quads, first_weight = plan.in_registers, plan.quads, plan.first_weight
    of_registers, of_shared = pieces_of(plan, number, of_quad)
    clear_halves = clear_halves_of(plan, number)

    @device_function
    def load_piece(k, q, W, transposed, thread):
        a, b, c, d = of_registers(W, transposed, q, k, thread)
        base, weights = (q * register_pieces + k) * QUAD, thread.weights
        weights[base], weights[base + 1], weights[base + 2], weights[base + 3] = a, b, c, d

    load_pieces = each(register_pieces, load_piece, device_function)

    @device_function
    def load_shared_piece(k, q, W, transposed, thread):
        shared, first = thread.shared, shared_place(thread.shared, 0)
        a, b, c, d = of_shared(W, transposed, q, k, thread)
        place = ((q - in_registers) * pieces + k) * threads + cuda.threadIdx.x
        at = first_weight + place * QUAD
        put_shared(shared, first, at, a)
        put_shared(shared, first, at + 1, b)
        put_shared(shared, first, at + 2, c)
        put_shared(shared, first, at + 3, d)

    load_shared_pieces = each(pieces, load_shared_piece, device_function)

    @device_function
    def load_quad(q, W, transposed, thread):
        load_pieces(q, W, transposed, thread)

    load_quads = each(in_registers, load_quad, device_function)

    @device_function
    def load_weights(W, transposed, thread):
        load_quads(W, transposed, thread)
        q = in_registers
        while q < quads:
            load_shared_pieces(q, W, transposed, thread)
            q += 1
        clear_halves(thread)

    return load_weights


@cache
def tensor_sums_of(plan: Plan, number):
    """The device function sums(thread, x), as `sums_of`; x is where the vector of this lane's
    column begins for it.
    """
    outputs, threads, lanes = plan.outputs, plan.threads, plan.lanes
    pieces, register_pieces, NONE = plan.pieces, plan.register_pieces, (np.uint32(0),) * 4
    width, between, ZERO, NOTHING = plan.width, plan.between, number(0), np.uint32(0)
    in_registers, quads, TF32 = plan.in_registers, plan.quads, plan.product == "tf32"
    TILES, BATCHES = -(-outputs // 2), plan.samples // COLUMNS
    chains = max(1, CHAINS // (TILES * BATCHES))
    SUMS = chains * TILES * BATCHES * 4

    @device_function
    def words(four):
        w0, w1, w2, w3 = four
        return bits_of(w0)[0], bits_of(w1)[0], bits_of(w2)[0], bits_of(w3)[0]

    @device_function
    def in_register(q, k, thread):
        base, weights = (q * register_pieces + k) * QUAD, thread.weights
        return words((weights[base], weights[base + 1], weights[base + 2], weights[base + 3]))

    @device_function
    def in_shared(q, k, thread):
        place = ((q - in_registers) * pieces + k) * threads * QUAD
        return words(quad(thread.shared, thread.w, place))

    @device_function
    def register_operands(q, tile, thread):
        """(of the first two numbers of a quad, of the others), in TF32; in bfloat16 one of all."""
        if not TF32:
            return in_register(q, tile, thread), NONE
        return in_register(q, 2 * tile, thread), in_register(q, 2 * tile + 1, thread)

    @device_function
    def shared_operands(q, tile, thread):
        if not TF32:
            return in_shared(q, tile, thread), NONE
        first = in_shared(q, 2 * tile, thread)
        if 2 * tile + 1 < outputs:
            return first, in_shared(q, 2 * tile + 1, thread)
        w0, w1, w2, w3 = first
        return (w0, NOTHING, w1, NOTHING), (w2, NOTHING, w3, NOTHING)

    @device_function
    def read(batch, q, x, thread):
        """Quad q of the vector of this lane's column, of a batch of samples."""
        four = quad(thread.shared, x, batch * COLUMNS * width + q * lanes * QUAD)
        return words(four) if TF32 else four_bf16(four[0], four[1], four[2], four[3])

    read_all = tuple_of(BATCHES, read, device_function)

    def adding(operands):
        """(q, chain, xs, sums, thread): the products of all tiles with every batch."""

        @device_function
        def add_batch(batch, tile, chain, first, second, xs, sums):
            base, x = ((chain * TILES + tile) * BATCHES + batch) * 4, xs[batch]
            c = sums[base], sums[base + 1], sums[base + 2], sums[base + 3]
            if TF32:
                d = mma_tf32(second, (x[2], x[3]), mma_tf32(first, (x[0], x[1]), c))
            else:
                d = mma_bf16(first, x, c)
            sums[base], sums[base + 1], sums[base + 2], sums[base + 3] = d

        add_batches = each(BATCHES, add_batch, device_function)

        @device_function
        def add_tile(tile, q, chain, xs, sums, thread):
            first, second = operands(q, tile, thread)
            add_batches(tile, chain, first, second, xs, sums)

        return each(TILES, add_tile, device_function)

    add_register_tiles, add_shared_tiles = adding(register_operands), adding(shared_operands)

    @device_function
    def add_quad(q, x, sums, thread):
        add_register_tiles(q, q % chains, read_all(q, x, thread), sums, thread)

    add_quads = each(in_registers, add_quad, device_function)

    @device_function
    def clear(k, sums):
        sums[k] = ZERO

    clear_all = each(SUMS, clear, device_function)

    @device_function
    def total_of(k, sums, total):
        """Sum k: of output o, the column of the batch."""
        o, column, batch = k % outputs, k // outputs % 2, k // (outputs * 2)
        base = (o // 2 * BATCHES + batch) * 4 + o % 2 * 2 + column
        value = sums[base]
        for chain in range(1, chains):
            value += sums[base + chain * TILES * BATCHES * 4]
        total[(2 * batch + column) * between + o] = value

    total_all = each(2 * BATCHES * outputs, total_of, device_function)

    @device_function
    def sums_of_tiles(thread, x):
        sums = cuda.local.array(SUMS, number)
        clear_all(sums)
        add_quads(x, sums, thread)
        q = in_registers
        while q < quads:
            add_shared_tiles(q, 0, read_all(q, x, thread), sums, thread)
            q += 1
        total_all(sums, thread.total)

    return sums_of_tiles
