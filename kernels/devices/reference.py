"""The definition: NumPy, slow and obvious. Every other device is judged by this one."""

import itertools
from functools import cache

import numpy as np

from .. import LIVE
from ..binding import bind, interpreted_maths
from ..products import products

name = "reference"
MATHS = interpreted_maths()
project, project_back, gradient_sum, bias_sum = products(np.matmul)


def array(x, dtype):
    return np.ascontiguousarray(x, dtype)


def numpy(a):
    return np.asarray(a)


def empty(shape, dtype):
    return np.empty(shape, dtype)


@cache
def formula(f):
    """f on whole arrays; number by number where f cannot take an array (it says `if`)."""
    bound = bind(f, None, MATHS, lambda g: g)

    def apply(*arguments):
        with np.errstate(all="ignore"):
            try:
                return bound(*arguments)
            except (TypeError, ValueError):  # the truth value of an array is ambiguous, or it wants one number
                return one_by_one(bound, arguments)

    return apply


def one_by_one(f, arguments):
    """f of nested tuples of equally shaped arrays, called once for each element."""
    shape = np.broadcast_shapes(*(np.shape(a) for a in leaves(arguments)))
    picked = [f(*pick(arguments, index, shape)) for index in itertools.product(*map(range, shape))]
    return stack(picked, shape)


def leaves(tree):
    return itertools.chain.from_iterable(map(leaves, tree)) if isinstance(tree, tuple) else (tree,)


def pick(tree, index, shape):
    return tuple(pick(t, index, shape) for t in tree) if isinstance(tree, tuple) else np.broadcast_to(tree, shape)[index]


def stack(trees, shape):
    if isinstance(trees[0], tuple):
        return tuple(stack([t[k] for t in trees], shape) for k in range(len(trees[0])))
    return np.reshape(trees, shape)


def elementwise(f, outputs, inputs, scalars=()):
    """outputs[0][i], … = f(inputs[0][i], …, scalars[0], …) for every element i.  All arrays have one shape and dtype."""
    values = formula(f)(*inputs, *map(outputs[0].dtype.type, scalars))
    for output, value in zip(outputs, values if isinstance(values, tuple) else (values,), strict=True):
        output[...] = value


def matvec(W, s, out):
    """Batched matrix-vector product, out_b = W s_b.  W (r, n), s (B, n), out (B, r); overwrites out."""
    for b in range(s.shape[0]):
        out[b] = W @ s[b]


def forward(cell, p, W, c, s, kept, flags):
    """Carry s through time: s[:, t+1] = cell.step(p[t], W s[0, t] + c, s[:, t]).  式2.  Overwrites s[:, 1:] and kept.

    p (T, B, G, n), W (G·n, n), c (G·n,) where the cell takes p and q apart, else (0,), s (S, T+1, B, n), kept (T, B, K, n),
    flags (T, B) uint8: where LIVE is not set the state is carried through and kept is zero.
    """
    T, B, G, n = p.shape
    step = formula(cell.step)
    for t in range(T):
        q = s[0, t] @ W.T
        if cell.apart:
            q = q + c
        s_next, k = step(unpack(p[t], 1), unpack(q.reshape(B, G, n), 1), unpack(s[:, t], 0))
        live = (flags[t] & LIVE)[:, None] != 0
        for i in range(cell.states):
            s[i, t + 1] = np.where(live, s_next[i], s[i, t])
        for i in range(cell.kept):
            kept[t, :, i] = np.where(live, k[i], 0)


def backward(cell, dy, W, c, s, kept, flags, dp, dq, ds):
    """Carry δ back through time (式3).  Overwrites dp, dq and ds.

    dy (T, B, n) is dE/dy of every step; W, c, s, kept, flags as `forward` left them; dp (T, B, G, n) becomes δ of the input
    side, dq of the recurrent side: the same array unless the cell takes p and q apart. ds (S, B, n) enters as dE/ds after
    the last step and leaves as dE/ds before the first. Where LIVE is not set δ is exactly zero and dy is not looked at.
    """
    T, B, G, n = dp.shape
    back = formula(cell.back)
    for t in reversed(range(T)):
        live = (flags[t] & LIVE)[:, None] != 0
        d = unpack(ds, 0)
        total = (d[0] + np.where(live, dy[t], 0), *d[1:])
        δp, δq, d_prev = back(total, unpack(kept[t], 1), unpack(s[:, t], 0), unpack(s[:, t + 1], 0))
        for g in range(G):
            dp[t, :, g] = np.where(live, δp[g], 0)
            dq[t, :, g] = np.where(live, δq[g], 0)
        ds[:] = [np.where(live, d_prev[i], d[i]) for i in range(cell.states)]
        ds[0] += dq[t].reshape(B, G * n) @ W


def explain(cell, n, B, dtype) -> str:
    """Which kernels one layer of n units runs for B samples, and why."""
    return "reference: NumPy, one step after another; slow, the definition"


def unpack(a, axis):
    """The tuple of the slices of a along an axis."""
    return tuple(np.moveaxis(a, axis, 0))
