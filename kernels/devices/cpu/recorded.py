"""Calls of kernels without Python: recorded once, made again on other memory, by compiled code that
knows nothing but addresses. Such is who calls from a library's own threads, where Python would have
to be waited for.

What is recorded is a table of numbers of 64 bits, a `Recorded`: the kernel's address, what it is
called with, and which of these are to be written anew for a call. The types of a kernel's arguments
are compiled into what makes the call, its *entry*; so kernels of all cells share a few entries.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types

from ...private import address_of, array_on, c_address_of
from .compilation import intrinsic, jit, within
from .memory import CACHE_LINE, at_a_line, bytes_for
from .simd import I64
from .stored import keep
from .threads import ASLEEP, COMING, NOBODY, SPACING, THREADS, TURN, Turns, shared

BYTE, WORD = ir.IntType(8).as_pointer(), I64.as_pointer()
BYTES = 8  # of a number
SLEEP, DONE, FAILED = range(3)  # what an entry returns; SLEEP: nothing was done, threads sleep
# of a Recorded: the address of what is 1 while the call goes on, of what makes the call, of the
# kernel, of the words it is called with
TAKEN, ENTRY, KERNEL, WORDS = range(4)
# how many lines the next three have, and where they are
PLACES, PLACES_AT, COPIES, COPIES_AT, ZEROS, ZEROS_AT = range(4, 10)
# how many threads, the addresses of their board and of another that is one's own, and of TEAM
COUNT, BOARD, ALONE, TEAM_AT = range(10, 14)
LENGTH = 14
AT_ONCE = 4  # calls that need desks of one size
NOTHING = -1  # in place of the number of an operand: copies of it are zero
# the words of a shared call begin with: address and length of the board, count, awake
BOARD_WORD, COUNT_WORD, AWAKE_WORD = 0, 2, 3

turns = Turns()  # of these calls, with threads of their own: nobody waits here for Python's lock
TEAM = np.zeros(1, np.int64)  # 1 while one of these calls has the threads


class Operand(NamedTuple):
    """Memory that will be another in every call, and an array that stands for it."""

    number: int  # among those that a call is given
    array: Any


class Recorded(NamedTuple):
    """A call that compiled code can make: numbers, and what they are addresses of."""

    numbers: np.ndarray
    held: tuple


# Compiled code and addresses


@intrinsic
def word(typing, address, k):
    """The k-th number of 64 bits behind an address."""

    def build(context, builder, sig, values):
        return builder.load(builder.gep(builder.inttoptr(values[0], WORD), [values[1]]))

    return types.int64(types.int64, types.int64), build


@intrinsic
def put_word(typing, address, k, value):
    """Write it."""

    def build(context, builder, sig, values):
        pointer = builder.gep(builder.inttoptr(values[0], WORD), [values[1]])
        builder.store(values[2], pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), build


@intrinsic
def exchange(typing, address, value):
    """Write the number at an address; returns what it was."""

    def build(context, builder, sig, values):
        pointer = builder.inttoptr(values[0], WORD)
        return builder.atomic_rmw("xchg", pointer, values[1], "seq_cst")

    return types.int64(types.int64, types.int64), build


@intrinsic
def move(typing, to, source, size):
    """Copy bytes."""

    def build(context, builder, sig, values):
        pointers = [builder.inttoptr(value, BYTE) for value in values[:2]]
        call_memory(builder, "memcpy.p0.p0.i64", *pointers, values[2])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), build


@intrinsic
def clear(typing, to, size):
    """Bytes become zero."""

    def build(context, builder, sig, values):
        zero = ir.Constant(ir.IntType(8), 0)
        call_memory(builder, "memset.p0.i64", builder.inttoptr(values[0], BYTE), zero, values[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


def call_memory(builder, name: str, *values):
    """One of LLVM's own functions of memory, not volatile."""
    values = *values, ir.Constant(ir.IntType(1), 0)
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    name = f"llvm.{name}"
    builder.call(
        builder.module.globals.get(name) or ir.Function(builder.module, kind, name), values
    )


@intrinsic
def call_c(typing, address, a, b):
    """The C function (int64, int64) -> int64 at an address."""

    def build(context, builder, sig, values):
        kind = ir.FunctionType(I64, [I64, I64])
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.int64(types.int64, types.int64, types.int64), build


# Entries


def words_of(value) -> list[int]:
    """An argument as numbers of 64 bits, as `taken_out` reads them."""
    if isinstance(value, tuple):
        return [number for part in value for number in words_of(part)]
    if isinstance(value, np.ndarray):
        return [value.ctypes.data, *value.shape]
    if isinstance(value, np.floating):
        return [int(np.float64(value).view(np.int64))]
    return [int(value)]


def taken_out(context, builder, kind, read: Callable):
    """LLVM's value of an argument of this type; read() is the next number."""
    if isinstance(kind, types.BaseTuple):
        parts = [taken_out(context, builder, part, read) for part in kind]
        return context.make_tuple(builder, kind, parts)
    if isinstance(kind, types.Array):
        data, shape = read(), [read() for _ in range(kind.ndim)]
        return array_on(context, builder, kind, data, shape)
    if isinstance(kind, types.Float):
        value = builder.bitcast(read(), ir.DoubleType())
        return context.cast(builder, value, types.float64, kind)
    return context.cast(builder, read(), types.int64, kind)


@cache
def caller_of(arguments: tuple, result):
    """An intrinsic (kernel's address, words' address) -> SLEEP, DONE or FAILED that calls a kernel
    of these types.
    """

    @intrinsic
    def call(typing, kernel, words):
        def build(context, builder, sig, values):
            pointer, at = builder.inttoptr(values[1], WORD), iter(range(1 << 20))

            def read():
                return builder.load(builder.gep(pointer, [I64(next(at))]))

            taken = [taken_out(context, builder, kind, read) for kind in arguments]
            convention = context.call_conv
            kind = convention.get_function_type(result, arguments)
            f = builder.inttoptr(values[0], kind.as_pointer())
            status, done = convention.call_function(builder, f, result, arguments, taken)
            done = I64(DONE) if result == types.none else builder.zext(done, I64)
            return builder.select(status.is_error, I64(FAILED), done)

        return types.int64(types.int64, types.int64), build

    return call


@cache
def entry_of(arguments: tuple, result) -> int:
    """The address of a C function that does what `caller_of` says."""
    call = caller_of(arguments, result)

    @jit
    def entry(kernel, words):
        """The kernel at an address, on what the words at another say."""
        return call(kernel, words)

    keep(entry, str(arguments), str(result))
    return c_function(entry, (types.int64, types.int64))


def c_function(f, arguments: tuple) -> int:
    """The address of a function of numbers, compiled for C to call; it lives as long as f."""
    f.compile(arguments)
    HELD.append(f)
    return c_address_of(f.overloads[arguments])


HELD: list[Any] = []


# Making a call


@within
def play(numbers, operands, ring):
    """Make a recorded call.  Was it made? If not, it may be made anew: nothing was read that is
    overwritten.

    numbers   address of a Recorded's
    operands  addresses of its operands' memory, by their numbers
    ring      address of a C function (board, count) -> 1 when it has woken the board's threads
    """
    taken = word(numbers, TAKEN)
    if exchange(taken, 1) != 0:
        return False
    words = word(numbers, WORDS)
    for k in range(word(numbers, PLACES)):
        place = word(numbers, PLACES_AT) + BYTES * 3 * k
        put_word(words, word(place, 0), operands[word(place, 1)] + word(place, 2))
    for k in range(word(numbers, COPIES)):
        copy = word(numbers, COPIES_AT) + BYTES * 5 * k
        to = operands[word(copy, 0)] + word(copy, 1)
        if word(copy, 2) == NOTHING:
            clear(to, word(copy, 4))
        else:
            move(to, operands[word(copy, 2)] + word(copy, 3), word(copy, 4))
    for k in range(word(numbers, ZEROS)):
        zero = word(numbers, ZEROS_AT) + BYTES * 2 * k
        clear(word(zero, 0), word(zero, 1))
    if word(numbers, COUNT) > 1:
        done = play_together(numbers, words, ring)
    else:
        done = call_c(word(numbers, ENTRY), word(numbers, KERNEL), words)
    exchange(taken, 0)
    return done == DONE


@within
def play_together(numbers, words, ring):
    """The same of a call that threads share, if nobody has them: else by this one alone."""
    entry, kernel, team = word(numbers, ENTRY), word(numbers, KERNEL), word(numbers, TEAM_AT)
    free = exchange(team, 1) == 0
    put_word(words, BOARD_WORD, word(numbers, BOARD if free else ALONE))
    put_word(words, COUNT_WORD, word(numbers, COUNT) if free else 1)
    put_word(words, AWAKE_WORD, 0 if free else 1)
    done = call_c(entry, kernel, words)
    if done == SLEEP:
        if call_c(ring, word(numbers, BOARD), word(numbers, COUNT)) != 1:
            board = word(numbers, BOARD)
            put_word(board, COMING, word(board, TURN))  # it was announced
            put_word(words, BOARD_WORD, word(numbers, ALONE))
            put_word(words, COUNT_WORD, 1)
        put_word(words, AWAKE_WORD, 1)
        done = call_c(entry, kernel, words)
    if free:
        exchange(team, 0)
    return done


# Recording


def ring(board: int, count: int) -> int:
    """Wake the threads of a board, by its address. Returns 1; 0 where it is no team's any more."""
    team = turns.teams.get(count)
    if team is None or team.board.ctypes.data != board:
        return 0
    for i in range(1, count):
        if team.board[THREADS + SPACING * i + ASLEEP]:
            team.bells[i].put(None)
    return 1


class Desk:
    """Memory for what calls make on their way, one at a time."""

    def __init__(self, size: int):
        self.raw, self.taken = np.zeros(size + CACHE_LINE, np.uint8), np.zeros(1, np.int64)

    def scratch(self, count: int, dtype) -> np.ndarray:
        """See memory.scratch."""
        return at_a_line(self.raw, (count,), dtype)


class Desks:
    """Some of each size, which calls have in turn: the memory of all calls that were ever recorded
    is bounded.
    """

    def __init__(self):
        self.by_size: dict[int, list[Desk]] = {}
        self.given = 0

    def of(self, size: int) -> Desk:
        """One of at least so many bytes."""
        size = 1 << max(12, (size - 1).bit_length())
        some = self.by_size.setdefault(size, [])
        if len(some) < AT_ONCE:
            some.append(Desk(size))
            return some[-1]
        self.given += 1
        return some[self.given % AT_ONCE]


desks = Desks()


def record(of: Callable, operands: Sequence[Operand], copies=()) -> Recorded:
    """A call for compiled code to make.

    of        scratch -> the call as `share` takes it, (kernel, count, *arguments)
    operands  whose arrays, or views of them, are among the arguments; other arrays are the call's
              own: those that it does not have of `scratch` are zero when it begins
    copies    (to, from) arrays of operands, C-contiguous: copied before the call; None is zeros
    """
    sizes: list[int] = []
    of(lambda count, dtype: sizes.append(bytes_for((count,), dtype)) or np.empty(count, dtype))
    desk = desks.of(sum(sizes))
    kernel, count, *arguments = of(desk.scratch)
    if count == 1:
        called, words = kernel, (*arguments, NOBODY, 0, 1)
        board = np.zeros(1, np.int64)
    else:
        called = shared(kernel)
        with turns.lock:
            board = (turns.teams.get(count) or turns.gather(count)).board
        words = (board, count, False, *arguments, np.zeros(1, np.int64))
    kinds = tuple(numba.typeof(value) for value in words)
    if count > 1:  # as Numba takes what stands for *arguments
        kinds = *kinds[:3], types.BaseTuple.from_types(kinds[3:])
    called.compile(kinds)
    compiled = called.overloads[kinds]
    line = np.array(words_of(words), np.int64)
    places, zeros = found(words, operands, (board, NOBODY, desk.raw))
    moves = [
        (*at(to, operands), *((NOTHING, 0) if a is None else at(a, operands)), to.nbytes)
        for to, a in copies
    ]
    alone = np.zeros(THREADS + SPACING, np.int64)
    tables = [np.array(lines, np.int64) for lines in (places, moves, zeros)]
    numbers = np.zeros(LENGTH, np.int64)
    numbers[[TAKEN, ENTRY, KERNEL, WORDS]] = (
        desk.taken.ctypes.data,
        entry_of(kinds, compiled.signature.return_type),
        address_of(compiled),
        line.ctypes.data,
    )
    for k, table in enumerate(tables):
        numbers[PLACES + 2 * k : PLACES + 2 * k + 2] = len(table), table.ctypes.data
    boards = board.ctypes.data, alone.ctypes.data, TEAM.ctypes.data
    numbers[[COUNT, BOARD, ALONE, TEAM_AT]] = count, *boards
    return Recorded(numbers, (called, compiled, words, line, tables, alone, desk))


def at(array, operands) -> tuple[int, int]:
    """(number of the operand whose memory an array is on, bytes from its beginning)."""
    for operand in operands:
        offset = array.ctypes.data - operand.array.ctypes.data
        if 0 <= offset < operand.array.nbytes:
            return operand.number, offset
    raise LookupError("an array is on no operand's memory")


def found(words, operands, aside) -> tuple[list, list]:
    """Of a call's arguments (places among its words, operands' numbers, bytes from their beginning)
    and (addresses, bytes) of what is to be zero: arrays of no operand, but for those `aside`.
    """
    places, zeros, place = [], [], 0
    for value in leaves(words):
        if isinstance(value, np.ndarray) and value.size:
            try:
                places.append((place, *at(value, operands)))
            except LookupError:
                if not any(np.shares_memory(value, one) for one in aside):
                    zeros.append((value.ctypes.data, value.nbytes))
        place += len(words_of(value))
    return places, zeros


def leaves(value):
    """What is in tuples of tuples."""
    if isinstance(value, tuple):
        for part in value:
            yield from leaves(part)
    else:
        yield value
