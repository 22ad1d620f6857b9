"""Philox-4x32-10 (Salmon et al., SC 2011): a random word is a function of its place. Operators
only, so any device's arrays do.
"""

import numpy as np

LOW = 0xFFFFFFFF


def philox(counter, key):
    """Four words of a counter and two of a key -> four words, each uniform in 0 … 2³²−1.

    Words are integers below 2³², Python's or arrays of uint64 that broadcast: the product of two
    then does not overflow.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & LOW, (a >> 32) ^ c3 ^ k1, a & LOW
        k0, k1 = k0 + 0x9E3779B9 & LOW, k1 + 0xBB67AE85 & LOW
    return c0, c1, c2, c3


def words(array, T: int, B: int, n: int, seed: int, layer: int, draw: int, first: int = 0):
    """A word for unit j of sample b at step t, (T, B, n) uint64: word j mod 4 of the counter
    (⌊j/4⌋, b, t, draw), key (seed, layer).

    first  is the number of the first step
    array  makes a device's array of a NumPy one: (a, dtype) -> array
    """
    quads, samples, steps = (array(np.arange(count), np.uint64) for count in (-(-n // 4), B, T))
    four = philox((quads, samples[:, None], (first + steps)[:, None, None], draw), (seed, layer))
    return np.stack(four, -1).reshape(T, B, 4 * len(quads))[:, :, :n]
