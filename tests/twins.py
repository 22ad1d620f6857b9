"""What the tests of twins share: all that one pass of a device gives, with its buffers poisoned."""

import numpy as np

from rnn_gpu.device import resolve
from rnn_gpu.kernels import LIVE, RESET, UNCLIPPED, Backward, Forward, updates
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.losses import LOSSES, value_and_slope
from rnn_gpu.layers.stateless import output_formula

T, B, N = 6, 5, 7
OTHERS = ("cpu", "cuda")


def poison(shape, dtype):
    """NaNs as in memory that nobody has written, where the card is played (kernels/emulator)."""
    return np.full(shape, -1, f"i{np.dtype(dtype).itemsize}").view(dtype)


def one_pass(
    device, cell, dtype, B=B, n=N, pattern=None, clip=UNCLIPPED, in_place=False, given=False
):
    """([s, kept, dp, dq, ds], lengths or None, how many were clipped) of one pass forward and back,
    as NumPy arrays.

    pattern  a seed draws flags at random, resets among them; None draws lengths; "live": every step
             happens, and the device is told so
    given    a drawn pattern's resets begin with states that are given, NaN where there is no reset
    """
    d, rng = resolve(device), np.random.default_rng(7)
    G, S, K = cell.gates, cell.states, cell.kept

    def draw(*shape, scale=1.0):
        return d.array(scale * rng.normal(size=shape), dtype)

    def poisoned(*shape):
        return d.array(poison(shape, dtype), dtype)

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
    s = poisoned(S, 2 * T + 1 if given else T + 1, B, n)
    kept = p if in_place else poisoned(T, B, K, n)
    s[:, 0] = draw(S, B, n)
    if given:
        flags[0] &= LIVE
        reset = d.numpy(flags)[:, :, None] & RESET != 0
        s[:, T + 1 :] = d.array(np.where(reset, rng.normal(size=(S, T, B, n)), np.nan), dtype)
    masked = pattern != "live"
    d.forward(cell, Forward(p, W, c, s, kept, flags, masked))
    dy = rng.normal(size=(T, B, n))
    dy[d.numpy(flags) & LIVE == 0] = np.nan  # not looked at
    dp, ds = poisoned(T, B, G, n), draw(S, B, n)
    if given:
        ds = d.array(np.concatenate([d.numpy(ds)[:, None], np.zeros((S, T, B, n))], 1), dtype)
    dq = poisoned(T, B, G, n) if cell.apart else dp
    call = Backward(d.array(dy, dtype), W, s, kept, flags, dp, dq, ds, clip, masked)
    clipped = d.backward(cell, call)
    return [d.numpy(a) for a in (s[:, : T + 1], kept, dp, dq, ds)], lengths, clipped


def matvec_pass(device, dtype):
    """(W s, what it should be)."""
    rng = np.random.default_rng(0)
    W, s = rng.normal(size=(13, 7)), rng.normal(size=(5, 7))
    d = resolve(device)
    out = d.array(poison((5, 13), dtype), dtype)
    d.matvec(d.array(W, dtype), d.array(s, dtype), out)
    return d.numpy(out), s @ W.T


def elementwise_cases():
    for activation in ACTIVATIONS.values():
        yield f"f {activation.name}", activation.f, 1, 1, ()
        yield f"δ {activation.name}", output_formula(activation), 1, 2, ()
    for loss in LOSSES.values():
        yield loss.name, value_and_slope(loss), 2, 3, ()
    scalars = {
        "sgd": (0.1, 0.2),
        "momentum": (0.1, 0.2, 0.9),
        "nesterov": (0.1, 0.2, 0.9),
        "rmsprop": (0.1, 0.2, 0.9, 1e-3),
    }
    adams = dict.fromkeys(("adam", "adamw"), (0.1, 0.2, 0.9, 0.99, 1e-3, 2.0, 3.0))
    for name, values in (scalars | adams).items():
        moments = {"sgd": 0, "adam": 2, "adamw": 2}.get(name, 1)
        yield name, getattr(updates, name), 1 + moments, 2 + moments, values


def elementwise_pass(device, case, dtype):
    """The outputs of one case."""
    _, f, outputs, inputs, scalars = case
    d, rng = resolve(device), np.random.default_rng(3)
    values = [
        np.abs(rng.normal(size=(3, 37))) if inputs > 2 else 3 * rng.normal(size=(3, 37))
        for _ in range(inputs)
    ]
    out = [d.array(poison((3, 37), dtype), dtype) for _ in range(outputs)]
    d.elementwise(f, out, [d.array(v, dtype) for v in values], scalars)
    return [d.numpy(a) for a in out]
