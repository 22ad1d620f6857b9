"""The definition: NumPy, slow and obvious. Every other device is judged by this one."""

import itertools

import numpy as np

from .. import LIVE, RESET, UNCLIPPED
from ..binding import bind, interpreted_maths
from ..clipping import bounded, factor
from ..fingerprint import mixed
from ..once import once
from ..products import by_chunks, products

name = "reference"
MATHS = interpreted_maths()
TOGETHER = 256  # rows of a chunk: see products.py


def array(x, dtype):
    return np.ascontiguousarray(x, dtype)


def numpy(a):
    return np.asarray(a)


def empty(shape, dtype):
    return np.empty(shape, dtype)


def copy(a):
    return a.copy()


def finite(a):
    return bool(np.isfinite(a).all())


def fingerprint(words):
    """A number of an array (·,) of uint32: where anything in it was written, another one, but for a
    chance in some 2³².

    Every device has a number of its own. On a GPU it is an array () that nobody has waited for
    until it is compared.
    """
    return mixed(words, np.arange(words.size, dtype=np.uint32)).sum(dtype=np.uint32)


def chunk(B):
    """The steps of B samples whose products are taken together, counted from the last step;
    whatever T is.
    """
    return max(1, TOGETHER // B)


project, project_back = products(chunk, *by_chunks(np.matmul, empty))


@once
def formula(f):
    """f on whole arrays; number by number where f cannot take an array (it says `if`)."""
    bound = bind(f, None, MATHS, lambda g: g)

    def apply(*arguments):
        with np.errstate(all="ignore"):
            try:
                return bound(*arguments)
            # the truth value of an array is ambiguous, or it wants one number
            except (TypeError, ValueError):
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
    return (
        tuple(pick(t, index, shape) for t in tree)
        if isinstance(tree, tuple)
        else np.broadcast_to(tree, shape)[index]
    )


def stack(trees, shape):
    if isinstance(trees[0], tuple):
        return tuple(stack([t[k] for t in trees], shape) for k in range(len(trees[0])))
    return np.reshape(trees, shape)


def elementwise(f, outputs, inputs, scalars=()):
    """outputs[0][i], … = f(inputs[0][i], …, scalars[0], …) for every element i.  All arrays have
    one shape and dtype.
    """
    values = formula(f)(*inputs, *map(outputs[0].dtype.type, scalars))
    for output, value in zip(
        outputs, values if isinstance(values, tuple) else (values,), strict=True
    ):
        output[...] = value


def matvec(W, s, out):
    """Batched matrix-vector product, out_b = W s_b.  W (r, n), s (B, n), out (B, r); overwrites
    out.
    """
    for b in range(s.shape[0]):
        out[b] = W @ s[b]


def forward(cell, p, W, c, s, kept, flags):
    """Carry s through time: s[:, t+1] = cell.step(p[t], W s[0, t] + c, s[:, t]).  式2.  Overwrites
    s[:, 1:] and kept.

    p (T, B, G + D, n), W (G·n, n), c (G·n,) where the cell takes p and q apart, else (0,), s (S,
    T+1, B, n), kept (T, B, K, n), or p itself where K is G + D: a step's numbers are read before
    any of them is written, flags (T, B) uint8: where RESET is set the step begins with s[:, 0]
    instead of s[:, t]; where LIVE is not set the state is carried through and kept is zero. With
    RESET and without LIVE it is the initial state that is carried through.
    """
    T, B, _, n = p.shape
    step = formula(cell.step)
    for t in range(T):
        before = entered(s, flags, t)
        q = before[0] @ W.T
        if cell.apart:
            q = q + c
        s_next, k = step(unpack(p[t], 1), unpack(q.reshape(B, cell.gates, n), 1), unpack(before, 0))
        live = has(flags[t], LIVE)
        for i in range(cell.states):
            s[i, t + 1] = np.where(live, s_next[i], before[i])
        # all of them before p is written over
        for i, value in enumerate([np.where(live, value, 0) for value in k]):
            kept[t, :, i] = value


def backward(cell, dy, W, c, s, kept, flags, dp, dq, ds, clip=UNCLIPPED) -> int:
    """Carry δ back through time (式3).  Overwrites dp, dq and ds.  Returns how many (step, sample)
    pairs were clipped.

    dy (T, B, n) is dE/dy of every step; W, c, s, kept, flags as `forward` left them; dp (T, B, G,
    n) becomes δ of the input side, dq of the recurrent side: the same array unless the cell takes p
    and q apart. ds (S, B, n) enters as dE/ds after the last step and leaves as dE/ds[:, 0], the sum
    over all uses of the initial state: before the first step, and at each RESET, where nothing goes
    further back. Where LIVE is not set δ is exactly zero and dy is not looked at.

    clip bounds δ of each step and sample before it is used: each number of dp and of dq to
    ±clip.value; then both by the one factor that makes ‖dp‖ at most clip.norm. What goes back past
    W, the third result of cell.back, is not clipped.
    """
    T, B, G, n = dp.shape
    back, ds0, clipped = formula(cell.back), np.zeros_like(ds), 0
    for t in reversed(range(T)):
        live = has(flags[t], LIVE)
        d = unpack(ds, 0)
        total = tuple(
            each + np.where(live, dy[t], 0) if i == cell.output else each
            for i, each in enumerate(d)
        )
        δp, δq, d_prev = back(
            total, unpack(kept[t], 1), unpack(entered(s, flags, t), 0), unpack(s[:, t + 1], 0)
        )
        for g in range(G):
            dp[t, :, g] = np.where(live, δp[g], 0)
            dq[t, :, g] = np.where(live, δq[g], 0)
        if clip != UNCLIPPED:
            clipped += clip_step([dp[t], dq[t]] if cell.apart else [dp[t]], clip)
        ds[:] = [np.where(live, d_prev[i], d[i]) for i in range(cell.states)]
        ds[0] += dq[t].reshape(B, G * n) @ W
        reset = has(flags[t], RESET)
        ds0 += np.where(reset, ds, 0)
        ds[:] = np.where(reset, 0, ds)
    ds += ds0
    return clipped


@np.errstate(all="ignore")  # as kernels do not warn
def clip_step(deltas, clip) -> int:
    """δ of one step within the bounds.  deltas [dp, dq] or [dp], each (B, G, n); overwritten.
    Returns how many samples were beyond.
    """
    beyond = np.zeros(len(deltas[0]), bool)
    for δ in deltas:
        beyond |= (abs(δ) > clip.value).any((1, 2))
        δ[...] = bounded(δ, clip.value)
    square = ((deltas[0] / clip.norm) ** 2).sum((1, 2))
    for δ in deltas:
        δ *= factor(square)[:, None, None].astype(δ.dtype)
    return int((beyond | (square > 1)).sum())


def has(flags, bit):
    """Is the bit set?  (B,) -> (B, 1)."""
    return (flags & bit)[:, None] != 0


def entered(s, flags, t):
    """The state that step t begins with, (S, B, n)."""
    return np.where(has(flags[t], RESET), s[:, 0], s[:, t])


def explain(cell, n, B, dtype) -> str:
    """Which kernels one layer of n units runs for B samples, and why."""
    return "reference: NumPy, one step after another; slow, the definition"


def unpack(a, axis):
    """The tuple of the slices of a along an axis."""
    return tuple(np.moveaxis(a, axis, 0))
