"""What XLA's programs call, on NumPy's arrays: a layer's way forward and back in four kernels.

A program has a `How` as a text, so that nothing hidden belongs to it.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...kernels import Backward, Cell, Clip, Forward
from ...kernels.devices.cpu.memory import scratch
from ...kernels.devices.cpu.products import chunk, multiply_back_call, multiply_call
from ...kernels.devices.cpu.recorded import Operand, record
from ...kernels.devices.cpu.recurrence import backward_call, forward_call
from ...kernels.devices.cpu.threads import share
from ...kernels.sharing import AtMost
from .. import registry
from . import entrance


class How(NamedTuple):
    """What a call needs beside arrays."""

    cell: Cell
    masked: bool  # see Forward
    clip: Clip
    # that share a call, at most: Numba's number is each thread's own, and a call may come in one of
    # XLA's
    threads: int
    counted: bool = False  # of `back`: is asked how many steps were clipped
    # of `sums`: is δ M asked for, and Σ δ
    below: bool = True
    bias: bool = True


class Job(NamedTuple):
    """A call of a kernel."""

    of: Callable  # scratch -> what `share` is told
    copies: tuple = ()  # (to, from) arrays, before it; None is zeros


# The work: of the arguments and results of a primitive, see Call in calls.py


def project(how: How, given, results) -> Job:
    """x (T, B, m), U (G·n, m), b (G·n,) -> p (T, B, G, n)."""
    (x, U, b), (p,) = given, results
    (T, B, m), N = x.shape, len(U)
    return Job(lambda desk: multiply_call(x.reshape(T * B, m), U, b, p.reshape(T * B, N), desk))


def forward(how: How, given, results) -> Job | None:
    """p (T, B, G, n), W (G·n, n), c (G·n,) or (0,), s0 (S, 1, B, n) or with given states (S, 1 + T,
    B, n), flags (T, B) -> s (S, T + 1, B, n) or (S, 2T + 1, B, n), kept (T, B, K, n).
    """
    (p, W, c, s0, flags), (s, kept), T = given, results, len(given[0])
    call = Forward(p, W, c, s, kept, flags, how.masked)
    copies = [(s[k, :1], s0[k, :1]) for k in range(len(s))]
    if s0.shape[1] > 1:
        copies += [(s[k, T + 1 :], s0[k, 1:]) for k in range(len(s))]
    return Job(lambda desk: forward_call(how.cell, call, desk), tuple(copies)) if s0.size else None


def back(how: How, given, results) -> Job | None:
    """dy (T, B, n), W, s, kept, flags, ds (S, B, n) -> dp (T, B, G, n), ds0 (S, 1, B, n) or (S, 1 +
    T, B, n), for each thread the 8 bytes of how many steps it has clipped, if `counted`, and of a
    cell that is apart dq.
    """
    (dy, W, s, kept, flags, ds), (dp, ds0, counts, *dq) = given, results
    if not ds.size:
        counts[...] = 0
        return None
    call = Backward(dy, W, s, kept, flags, dp, dq[0] if dq else dp, ds0, how.clip, how.masked)
    copies = [(ds0[k, :1], ds[k : k + 1]) for k in range(len(s))]
    copies += [(ds0[k, 1:], None) for k in range(len(s)) if ds0.shape[1] > 1]
    copies += [(counts, None)] if how.counted else []
    clipped = counts.view(np.int64)[:, 0] if how.counted else None
    return Job(lambda desk: backward_call(how.cell, call, desk, clipped), tuple(copies))


def sums(how: How, given, results) -> Job:
    """δ (T, B, G, n), a (T, B, m), M (G·n, m) -> δ M (T, B, m), or (0,), dM (G·n, m), Σ δ (G·n,),
    or (0,).
    """
    (δ, a, M), (da, dM, db) = given, results
    (T, B, m), N = a.shape, len(M)
    rows = chunk(B) * B if B else 1
    arrays = δ.reshape(T * B, N), a.reshape(T * B, m), M, dM, db, da.reshape(-1, m)
    return Job(lambda desk: multiply_back_call(arrays, True, rows, desk))


WORK = {work.__name__: work for work in (project, forward, back, sums)}


# A call as a text


def text_of(name: str, how: How, arrays) -> str:
    """What a program has of a call: the name of its work, its How, and of all its arguments and
    results dtypes and shapes, or None where one is not known yet.
    """
    kinds = [[(np.dtype(array.dtype).name, *array.shape) for array in some] for some in arrays]
    known = all(isinstance(size, int) for some in kinds for _, *shape in some for size in shape)
    return json.dumps([name, registry.register(how.cell), *how[1:], kinds if known else None])


@lru_cache(maxsize=1024)
def told(text: str) -> tuple[str, How]:
    """(name of the work, its How) of a text.  UnsupportedError where this process does not know its
    cell.
    """
    name, cell, masked, clip, *others = json.loads(text)[:-1]
    return name, How(registry.cell_named(cell), masked, Clip(*clip), *others)


def do(text: str, given, results) -> None:
    """Overwrite results."""
    name, how = told(text)
    prepare(text)
    with AtMost(how.threads):
        job = WORK[name](how, given, results)
        if job is None:
            return
        for to, a in job.copies:
            to[...] = 0 if a is None else a
        share(*job.of(scratch))


def prepare(text: str) -> None:
    """Compile what the call needs, and have compiled code know it, where its shapes are known."""
    *_, kinds = json.loads(text)
    if kinds is None or entrance.is_full() or entrance.is_prepared(text):
        return
    name, how = told(text)
    given, results = ([np.empty(shape, dtype) for dtype, *shape in some] for some in kinds)
    with AtMost(how.threads):
        job = WORK[name](how, given, results)
        if job is not None:
            operands = [Operand(k, a) for k, a in enumerate((*given, *results))]
            entrance.put(text, record(job.of, operands, job.copies), given, results)
