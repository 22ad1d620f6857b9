"""The fingerprint of an array by one kernel: every word mixed with its place, all added up."""

import numpy as np

from .compiled import factory
from .launch import THREADS, arrays, cuda, device_function, launch
from .reductions import WARPS, parts_for, sum_of_block

EACH = 16  # words of a thread, where there are enough
# of MurmurHash3's last lines, as in kernels/fingerprint.py; here of 32 bits throughout
ODD, FIRST, SECOND = (np.uint32(one) for one in (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35))
NONE = np.int64(0)  # shuffles know no unsigned numbers


@device_function
def mixed_word(word, place):
    """kernels/fingerprint.py's `mixed`, of two uint32."""
    word = np.uint32(word ^ np.uint32(place * ODD))
    word = np.uint32(np.uint32(word ^ word >> 16) * FIRST)
    word = np.uint32(np.uint32(word ^ word >> 13) * SECOND)
    return np.uint32(word ^ word >> 16)


@factory
def fingerprint_kernel():
    """The kernel (words, parts): of `Device.fingerprint`, a part a block."""

    @cuda.jit
    def fingerprint(words, parts):
        """words (·,) uint32.  Overwrites parts (blocks,) int64, whose sum it is."""
        room = cuda.shared.array(WARPS, np.int64)
        total, i = NONE, cuda.grid(1)
        while i < words.size:
            total += np.int64(mixed_word(words[i], np.uint32(i)))
            i += cuda.gridsize(1)
        total = sum_of_block(total, room)
        if cuda.threadIdx.x == 0:
            parts[cuda.blockIdx.x] = total

    return fingerprint


def fingerprint(words):
    blocks = parts_for(-(-words.size // (THREADS * EACH)))
    parts = arrays().empty(blocks, np.int64)
    launch(fingerprint_kernel(), blocks, THREADS, words, parts)
    return parts.sum() if blocks > 1 else parts.reshape(())
