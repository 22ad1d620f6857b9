"""Numbers that go through the L2 cache to other blocks of a grid, each with a tag in the same word:
who reads the tag has the number.

A word of 64 bits is 32 of a number and a tag of 32; a float64 takes two of them. A word is written
and read whole, and a reader never sees an older one after a newer, so neither store nor load has to
wait for any other: both are relaxed. What was written before says nothing of other memory.

That a word may be written anew when all have read it must follow from what comes in others: here,
that the writer has every block's numbers of the step between, which those sent after they had read.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .assembly import assembly
from .crowd import Delivery, me
from .launch import SIMULATED, device_function, types


class Words(NamedTuple):
    """Names of this module that cards and the simulator have each for themselves."""

    put_word: Any  # (a, place, i, bits, tag): the word i behind the place, in global memory
    # (a, place, i, tag) -> (bits, its tag): a look; the tag that is looked for tells the simulator
    # who waits for what
    word: Any
    bits_of: Any  # (number) -> its words of 32 bits, a tuple
    number_of: Any  # (bits) -> the number of such a tuple: float32 of one, float64 of two


def put_word_of_64(a, place, i, bits, tag):
    assert 0 <= place + i < a.size, "written outside the array"
    if me().crowd is None:
        raise RuntimeError("blocks of this launch may not wait for each other: cooperative=True")
    word = np.array([bits, int(tag) & 0xFFFFFFFF], np.uint32).view(np.int64)[0]

    def land():
        a[place + i] = word
        return int(place + i)

    me().crowd.send(Delivery(int(place + i), None, land))


def word_of_64(a, place, i, tag):
    assert 0 <= place + i < a.size, "read outside the array"
    if me().crowd is None:
        raise RuntimeError("blocks of this launch may not wait for each other: cooperative=True")

    def find():
        bits, tag = np.array([a[place + i]], np.int64).view(np.uint32)
        return bits, tag.view(np.int32)

    def waits():
        return f"word {place + i} of tag {tag}, whose tag is {find()[1]}"

    return me().crowd.look(find, int(place + i), waits, lambda found: found[1] == tag)


def words_of(number):
    return tuple(np.atleast_1d(number).view(np.uint32))


def from_words(bits):
    return np.array(bits, np.uint32).view(np.float32 if len(bits) == 1 else np.float64)[0]


def twins() -> Words:
    return Words(put_word_of_64, word_of_64, words_of, from_words)


def intrinsics() -> Words:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    u32, i64 = types.uint32, types.int64
    word_of = ir.IntType(64)
    put_at = assembly(
        "{ .reg .b64 w; mov.b64 w, {$1, $2}; st.relaxed.gpu.global.b64 [$0], w; }",
        *(None, i64, u32, types.int32),
    )
    at = assembly(
        "{ .reg .b64 w; ld.relaxed.gpu.global.b64 w, [$2]; mov.b64 {$0, $1}, w; }",
        *((u32, types.int32), i64),
    )

    @device_function
    def put_word(a, place, i, bits, tag):
        put_at(place + 8 * i, bits, tag)

    @device_function
    def word(a, place, i, tag):
        return at(place + 8 * i)

    @intrinsic
    def bits_of(typingctx, number):
        count = number.bitwidth // 32

        def codegen(context, builder, signature, arguments):
            half = ir.IntType(32)
            whole = builder.bitcast(arguments[0], ir.IntType(32 * count))
            parts = [
                builder.trunc(builder.lshr(whole, ir.Constant(whole.type, 32 * k)), half)
                if count > 1
                else whole
                for k in range(count)
            ]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(u32, count)(number), codegen

    @intrinsic
    def number_of(typingctx, bits):
        count = len(bits)
        number = types.float32 if count == 1 else types.float64

        def codegen(context, builder, signature, arguments):
            parts = [builder.extract_value(arguments[0], k) for k in range(count)]
            whole = parts[0]
            if count > 1:
                low, high = (builder.zext(part, word_of) for part in parts)
                whole = builder.or_(low, builder.shl(high, ir.Constant(word_of, 32)))
            return builder.bitcast(whole, context.get_value_type(number))

        return number(bits), codegen

    return Words(put_word, word, bits_of, number_of)


put_word, word, bits_of, number_of = twins() if SIMULATED else intrinsics()


class Packets(NamedTuple):
    """Of one type of number, in an array of int64."""

    words: int  # of each
    put: Any  # (a, place, i, value, tag): number i behind the place, whatever type it comes in
    get: Any  # (a, place, i, tag) -> (value, are its tags this one?): a look


@cache
def packets_of(number) -> Packets:
    words = np.dtype(number).itemsize // 4

    @device_function
    def put_one(a, place, i, value, tag):
        put_word(a, place, i, bits_of(number(value))[0], tag)

    @device_function
    def put_both(a, place, i, value, tag):
        low, high = bits_of(number(value))
        put_word(a, place, 2 * i, low, tag)
        put_word(a, place, 2 * i + 1, high, tag)

    @device_function
    def get_one(a, place, i, tag):
        bits, found = word(a, place, i, tag)
        return number_of((bits,)), found == tag

    @device_function
    def get_both(a, place, i, tag):
        low, of_low = word(a, place, 2 * i, tag)
        high, of_high = word(a, place, 2 * i + 1, tag)
        return number_of((low, high)), of_low == tag and of_high == tag

    return Packets(words, put_one, get_one) if words == 1 else Packets(words, put_both, get_both)
