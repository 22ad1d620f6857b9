"""Cells as a user writes them: a leaky integrator, and one with two gates, which enter apart."""

import numpy as np

import rnn_gpu


def leaky_step(p, q, s):
    """s ← s + α (tanh(p + q) − s), a leaky integrator."""
    f = np.tanh(p[0] + q[0])
    return (s[0] + 0.25 * (f - s[0]),), (f,)


def leaky_back(ds, kept, s, s_next):
    δ = 0.25 * ds[0] * (1 - kept[0] ** 2)
    return (δ,), (δ,), (0.75 * ds[0],)


LEAKY = rnn_gpu.cell("leaky", gates=1, states=1, kept=1, step=leaky_step, back=leaky_back)


def mine_step(p, q, s):
    """Keeps p's own numbers, in another order."""
    return (np.tanh(p[0] + q[0]) * p[1] + q[1],), (p[1], p[0] + q[0])


def mine_back(ds, kept, s, s_next):
    y = np.tanh(kept[1])
    return (
        (ds[0] * kept[0] * (1.0 - y * y), ds[0] * y),
        (ds[0] * kept[0] * (1.0 - y * y), ds[0]),
        (0.0,),
    )


MINE = rnn_gpu.cell("mine", gates=2, states=1, kept=2, step=mine_step, back=mine_back, apart=True)
