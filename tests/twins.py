"""What the tests of twins share: all that one pass of a device gives, with its buffers poisoned."""

import numpy as np

from rnn_gpu.device import resolve
from rnn_gpu.kernels import LIVE, RESET, UNCLIPPED, Backward, Forward

T, B, N = 6, 5, 7
OTHERS = ("cpu", "cuda")


def one_pass(device, cell, dtype, B=B, n=N, pattern=None, clip=UNCLIPPED, in_place=False):
    """([s, kept, dp, dq, ds], lengths or None, how many were clipped) of one pass forward and back,
    as NumPy arrays.

    pattern  a seed draws flags at random, resets among them; None draws lengths; "live": every step
             happens, and the device is told so
    """
    d, rng = resolve(device), np.random.default_rng(7)
    G, S, K = cell.gates, cell.states, cell.kept

    def draw(*shape, scale=1.0):
        return d.array(scale * rng.normal(size=shape), dtype)

    def poisoned(*shape):
        return d.array(np.full(shape, np.nan), dtype)

    p, W = draw(T, B, G + cell.drawn, n), draw(G * n, n, scale=n**-0.5)
    c = draw(G * n if cell.apart else 0)
    if pattern == "live":
        lengths, flags = None, d.array(np.full((T, B), LIVE), np.uint8)
    elif pattern is None:
        lengths = rng.integers(1, T + 1, B)
        lengths[0] = T
        flags = d.array(np.arange(T)[:, None] < lengths, np.uint8)
    else:
        lengths, drawn = None, np.random.default_rng(pattern)
        flags = d.array(
            (drawn.random((T, B)) < 0.7) * LIVE + (drawn.random((T, B)) < 0.3) * RESET, np.uint8
        )
    s, kept = poisoned(S, T + 1, B, n), p if in_place else poisoned(T, B, K, n)
    s[:, 0] = draw(S, B, n)
    masked = pattern != "live"
    d.forward(cell, Forward(p, W, c, s, kept, flags, masked))
    dy = rng.normal(size=(T, B, n))
    dy[d.numpy(flags) & LIVE == 0] = np.nan  # not looked at
    dp, ds = poisoned(T, B, G, n), draw(S, B, n)
    dq = poisoned(T, B, G, n) if cell.apart else dp
    call = Backward(d.array(dy, dtype), W, s, kept, flags, dp, dq, ds, clip, masked)
    clipped = d.backward(cell, call)
    return [d.numpy(a) for a in (s, kept, dp, dq, ds)], lengths, clipped
