"""Shuffles: what the lanes of a warp tell each other."""

import numpy as np

WARP = 32
SOURCES = {  # the lane that a lane asks; `first` and `keep` are those of its part of the warp
    "bfly": lambda lane, by, first, keep: lane ^ by,
    "idx": lambda lane, by, first, keep: first | (by & ~keep),
    "down": lambda lane, by, first, keep: lane + by,
    "up": lambda lane, by, first, keep: lane - by,
}


def sources(mode: str, lane, by, c):
    """(the lane that each lane of shfl.mode gets its number from, whether it is the one it asks).

    c  as PTX has it: the last lane of a part, and in bits 8 to 12 what divides the warp in parts
    """
    keep, clamp = c >> 8 & (WARP - 1), c & (WARP - 1)
    first = lane & keep
    last = first | (clamp & ~keep)
    source = SOURCES[mode](lane, by, first, keep)
    there = source >= last if mode == "up" else source <= last
    return np.where(there, source, lane), there


def absent(who, lane, block, mask, source):
    """Where a lane that `mask` names, or that is asked, does not execute the same shuffle.

    who     threads that execute it, with the lane of each
    block   of every thread of the grid
    source  the thread that each asks
    """
    here = np.zeros(len(block) + WARP, bool)
    here[who] = True
    warp = (who - lane)[:, None] + np.arange(WARP)
    same_block = np.append(block, np.full(WARP, -1))[warp] == block[who][:, None]
    bits = np.broadcast_to(mask, len(who)).astype("u4")[:, None] >> np.arange(WARP, dtype="u4")
    named = (bits & 1).astype(bool)
    return (named & ~(here[warp] & same_block)).any(1) | ~here[source]
