"""Where XLA's programs come in: compiled code, which makes calls that were prepared by itself, and
asks Python for others.

A call's attribute is a text, which says all of it beside its arrays. Those that are prepared stand
in a table by their texts.
"""

import ctypes
from pathlib import Path

import numpy as np
from llvmlite import binding, ir
from numba import types

from ...kernels.devices.cpu import recorded
from ...kernels.devices.cpu.compilation import intrinsic, jit, within
from ...kernels.devices.cpu.recorded import Recorded, call_c, play, word
from ...kernels.devices.cpu.simd import I64
from ...kernels.devices.cpu.stored import keep
from ...kernels.store import digest
from . import frames
from .frames import Attributes, Buffer, Frame, Several, Text

BYTES = recorded.BYTES
SLOTS = 1 << 12  # of the table; a power of two
# What compiled code knows: addresses of the table and of C functions (frame, 0) -> error, (board,
# count) -> done and () -> nothing; whether a Ctrl-C came; how many calls go on
TABLE, PYTHON, RING, INTERRUPT, INTERRUPTED, UNDER_WAY = range(6)
known = np.zeros(6, np.int64)
table = np.zeros(SLOTS, np.int64)  # addresses of lines
# of a line: address and length of the text, address of a Recorded's numbers, how many buffers, and
# of each of them its dtype, how many axes, and these
TEXT, LENGTH, NUMBERS, ARGUMENTS, RESULTS, BUFFERS = range(6)
PRIME, FIRST = 0x100000001B3, -0x340D631B7BDDDCDB  # of FNV-1a, with 64 bits
HELD: list = []

# places in the structs that XLA hands over, in numbers of 64 bits
SHORT = 0xFFFFFFFF  # what a number of 32 bits leaves of one of 64


def place(*fields) -> int:
    """Where a field of a struct, or of a struct in it, stands."""
    offset = sum(field.offset for field in fields)
    assert offset % BYTES == 0
    return offset // BYTES


EXTENSION, STAGE = place(Frame.extension), place(Frame.stage)
GIVEN, GIVEN_AT = (place(Frame.arguments, field) for field in (Several.count, Several.at))
MADE, MADE_AT = (place(Frame.results, field) for field in (Several.count, Several.at))
COUNT, KINDS, AT = (
    place(Frame.attributes, field) for field in (Attributes.count, Attributes.kinds, Attributes.at)
)
TEXT_AT, TEXT_LENGTH = place(Text.at), place(Text.length)
DTYPE, DATA, RANK, SHAPE = (
    place(field) for field in (Buffer.dtype, Buffer.data, Buffer.rank, Buffer.shape)
)


@intrinsic
def what_is_known(typing):
    """The address of `known` in this process: compiled code is kept, addresses are not."""

    def build(context, builder, sig, values):
        name, module = "rnn_gpu_xla_known", builder.module
        there = module.globals.get(name) or ir.GlobalVariable(module, I64, name)
        there.linkage = "external"
        return builder.ptrtoint(there, I64)

    return types.int64(), build


@intrinsic
def add_word(typing, address, k, more):
    """Add to the k-th number behind an address, whoever else does."""

    def build(context, builder, sig, values):
        pointer = builder.gep(builder.inttoptr(values[0], I64.as_pointer()), [values[1]])
        builder.atomic_rmw("add", pointer, values[2], "seq_cst")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), build


@intrinsic
def byte(typing, address, k):
    """The k-th byte behind an address."""

    def build(context, builder, sig, values):
        pointer = builder.inttoptr(values[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(builder.gep(pointer, [values[1]])), I64)

    return types.int64(types.int64, types.int64), build


@within
def same(text, other, length):
    differ = 0
    for k in range(length):
        differ |= byte(text, k) ^ byte(other, k)
    return differ == 0


@within
def looked_up(lines, text, length):
    """The address of a text's line, and its place in the table; 0 and where it would stand."""
    slot = FIRST
    for k in range(length):
        slot = (slot ^ byte(text, k)) * PRIME
    slot = (slot ^ (slot >> 32)) & (SLOTS - 1)
    while word(lines, slot) != 0:
        line = word(lines, slot)
        if word(line, LENGTH) == length and same(word(line, TEXT), text, length):
            return line, slot
        slot = (slot + 1) & (SLOTS - 1)
    return 0, slot


@within
def fit(buffers, first, count, expected, operands):
    """Write the addresses of buffers, by their places; returns where those behind are described, 0
    where one is not as expected.
    """
    for k in range(count):
        buffer = word(buffers, k)
        rank = word(expected, 1)
        if word(buffer, DTYPE) & SHORT != word(expected, 0) or word(buffer, RANK) != rank:
            return 0
        for axis in range(rank):
            if word(word(buffer, SHAPE), axis) != word(expected, 2 + axis):
                return 0
        operands[first + k] = word(buffer, DATA)
        expected += BYTES * (2 + rank)
    return expected


@within
def done_here(frame, here):
    """Was the call one that is prepared, and made?"""
    if word(frame, EXTENSION) != 0 or word(frame, STAGE) & SHORT != frames.EXECUTE:
        return False
    if word(frame, COUNT) != 1 or word(word(frame, KINDS), 0) & SHORT != frames.STRING:
        return False
    text = word(word(frame, AT), 0)
    line, _ = looked_up(word(here, TABLE), word(text, TEXT_AT), word(text, TEXT_LENGTH))
    if line == 0:
        return False
    given, made = word(line, ARGUMENTS), word(line, RESULTS)
    if word(frame, GIVEN) != given or word(frame, MADE) != made:
        return False
    operands = np.empty(given + made, np.int64)
    expected = fit(word(frame, GIVEN_AT), 0, given, line + BYTES * BUFFERS, operands)
    if expected == 0 or fit(word(frame, MADE_AT), given, made, expected, operands) == 0:
        return False
    return play(word(line, NUMBERS), operands, word(here, RING))


@jit
def handle(frame, _):
    """XLA_FFI_Handler: (address of a frame) -> address of an error, or 0."""
    here = what_is_known()
    add_word(here, UNDER_WAY, 1)
    error = 0 if done_here(frame, here) else call_c(word(here, PYTHON), frame, 0)
    add_word(here, UNDER_WAY, -1)
    if word(here, INTERRUPTED) != 0:  # Python raises it where it goes on, not in here
        recorded.put_word(here, INTERRUPTED, 0)
        call_c(word(here, INTERRUPT), 0, 0)
    return error


@jit
def slot_of(lines, text, length):
    """(the line of a text or 0, its place) for Python."""
    return looked_up(lines, text, length)


SOURCE = digest([Path(__file__), Path(frames.__file__)])  # what both are compiled from, in here
keep(handle, SOURCE)
keep(slot_of, SOURCE)


def ring(board: int, count: int) -> int:
    """`recorded.ring`, out of which nothing can be raised: a Ctrl-C is told when the call ends."""
    try:
        return recorded.ring(board, count)
    except BaseException as error:
        known[INTERRUPTED] |= isinstance(error, KeyboardInterrupt)
        return 0


def begin(python) -> int:
    """The address of the handler that XLA is to call; python (address of a frame, 0) -> error
    carries out what is not prepared.
    """
    of_two = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    functions = of_two(python), of_two(ring), ctypes.pythonapi.PyErr_SetInterrupt
    HELD.extend(functions)
    known[TABLE] = table.ctypes.data
    for at, f in zip((PYTHON, RING, INTERRUPT), functions, strict=True):
        known[at] = ctypes.cast(f, ctypes.c_void_p).value or 0
    binding.add_symbol("rnn_gpu_xla_known", known.ctypes.data)
    return recorded.c_function(handle, (types.int64, types.int64))


def is_prepared(text: str) -> bool:
    """Does compiled code know the call of this text?"""
    data = np.frombuffer(text.encode(), np.uint8)
    return slot_of(table.ctypes.data, data.ctypes.data, len(data))[0] != 0


def is_full() -> bool:
    """Is there no room for one more call?"""
    return bool(np.count_nonzero(table) >= SLOTS // 2)


def put(text: str, call: Recorded, arguments, results) -> None:
    """Have compiled code make the calls of this text from now on, on such arrays; where there is no
    more room, Python does.
    """
    data = np.frombuffer(text.encode(), np.uint8)
    found, slot = slot_of(table.ctypes.data, data.ctypes.data, len(data))
    if found or is_full():
        return
    line = [data.ctypes.data, len(data), call.numbers.ctypes.data, len(arguments), len(results)]
    for array in (*arguments, *results):
        line += [frames.CODES[array.dtype], array.ndim, *array.shape]
    line = np.array(line, np.int64)
    HELD.extend((data, call, line))
    table[slot] = line.ctypes.data  # whole: somebody may look at it now
