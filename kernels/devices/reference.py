"""The definition: NumPy, slow and obvious. Every other device is judged by this one."""

from contextlib import nullcontext

import numpy as np

from .. import LIVE, RESET, UNCLIPPED, Backward, Forward
from ..clipping import bounded, factor
from ..fingerprint import mixed
from ..host_updates import host_loss, host_update, norms  # noqa: F401  part of every device
from ..parts import states_of_parts
from ..products import by_chunks, products
from ..transfers import transfers_of
from ..whole_arrays import formula, unpack

name, preference, copying, waking, takes_parts = "reference", 0, 0.5, 0, True
CHUNK_ROWS = 256  # rows of a chunk: see products.py


def missing(precision="fp32"):
    return ""


def compiles():
    return False


def precisions(dtype):
    return ("fp32",)


def array(x, dtype):
    return np.ascontiguousarray(x, dtype)


def numpy(a):
    return np.asarray(a)


def empty(shape, dtype):
    return np.empty(shape, dtype)


def zeros(shape, dtype):
    return np.zeros(shape, dtype)


def copy(a):
    return a.copy()


def finite(a):
    return bool(np.isfinite(a).all())


def fingerprint(words):
    return mixed(words, np.arange(words.size, dtype=np.uint32)).sum(dtype=np.uint32)


def chunk(B):
    return max(1, CHUNK_ROWS // B)


def matmul(a, b, precision, out=None, add=False):
    if not add:
        return np.matmul(a, b, out=out)
    out += a @ b
    return out


def columns(δ, out=None):
    if out is None:
        return δ.sum(0)
    out += δ.sum(0)
    return out


project, project_back = products(chunk, *by_chunks(matmul, columns, empty))


def elementwise(f, outputs, inputs, scalars=()):
    values = formula(f)(*inputs, *map(outputs[0].dtype.type, scalars))
    for output, value in zip(
        outputs, values if isinstance(values, tuple) else (values,), strict=True
    ):
        output[...] = value


loss, update = host_loss(elementwise, empty), host_update(elementwise)


def matvec(W, s, out):
    for b in range(s.shape[0]):
        out[b] = W @ s[b]


def forward(cell, call: Forward, precision="fp32"):
    if call.s.ndim == 3:
        forward_in_parts(cell, call)
        return
    p, W, c, s, kept, flags, _ = call
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


def forward_in_parts(cell, call: Forward):
    """`forward` of the parts of one sequence."""
    T, B = call.flags.shape
    S, _, n = call.s.shape
    s = np.empty((S, T + 1, B, n), call.s.dtype)
    s[:, 0] = call.s[:, B * T + 1 :]
    p, kept = (a.swapaxes(0, 1) for a in (call.p, call.kept))
    forward(cell, call._replace(p=p, s=s, kept=kept))
    call.s[:, 1 : B * T + 1] = s[:, 1:].swapaxes(1, 2).reshape((S, B * T, n))


def backward(cell, call: Backward, precision="fp32"):
    if call.s.ndim == 3:
        T, s = len(call.flags), states_of_parts(call.s, *call.flags.shape)
        kept, dp, dq = (a.swapaxes(0, 1) for a in (call.kept, call.dp, call.dq))
        return backward(cell, call._replace(s=s, kept=kept, dp=dp, dq=dq))
    dy, W, s, kept, flags, dp, dq, ds, clip, _ = call
    T, B, G, n = dp.shape
    back = formula(cell.back)
    ds, given = (ds[:, 0], ds[:, 1:]) if ds.ndim == 4 else (ds, None)
    ds0 = np.zeros_like(ds)
    clipped = 0
    for t in reversed(range(T)):
        live = has(flags[t], LIVE)
        d = unpack(ds, 0)
        total = tuple(
            each + np.where(live, dy[t], 0) if i == cell.output else each
            for i, each in enumerate(d)
        )
        before, after = unpack(entered(s, flags, t), 0), unpack(s[:, t + 1], 0)
        δp, δq, d_prev = back(total, unpack(kept[t], 1), before, after)
        for g in range(G):
            dp[t, :, g] = np.where(live, δp[g], 0)
            dq[t, :, g] = np.where(live, δq[g], 0)
        if clip != UNCLIPPED:
            clipped += clip_step([dp[t], dq[t]] if cell.apart else [dp[t]], clip)
        ds[:] = [np.where(live, d_prev[i], d[i]) for i in range(cell.states)]
        ds[0] += dq[t].reshape(B, G * n) @ W
        reset = has(flags[t], RESET)
        at = ds0 if given is None else given[:, t]
        at += np.where(reset, ds, 0)
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
    T = len(flags)
    first = s[:, T + 1 + t] if s.shape[1] > T + 1 else s[:, 0]
    return np.where(has(flags[t], RESET), first, s[:, t])


CALLS_OF_NUMPY = 200_000  # nanoseconds of those of a step


def cost(cell, n, B, dtype, precision="fp32"):
    return B * cell.gates * n * n + CALLS_OF_NUMPY


transfers, arriving, scan_cost = transfers_of(backward, cost, empty, array)


def explain(cell, n, B, dtype, precision="fp32"):
    return "reference: NumPy, one step after another; slow, the definition"


def captured(action):
    return None


def on_stream(pointer, number=None, allocate=None):
    return nullcontext()


def release():
    return 0
