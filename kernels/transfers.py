"""The maps by which samples carry dE/ds from behind their last step to before their first.

δ's recurrence is linear: what leaves a sequence of steps is a matrix times what comes in behind
it, and what the steps' own dE/dy add. A long sequence in chunks, each a sample of a batch, then is
a product of few matrices: see docs/parallel.md. Here the ordinary way back of a device makes them,
of one sample more for each number of the state.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import LIVE, RESET, Backward

AT_A_TIME = 1 << 24  # numbers that one call works on, roughly


def transfers_of(backward: Callable, cost: Callable, empty: Callable, array: Callable) -> tuple:
    """(transfers, arriving, scan_cost) of a device, from its other functions."""

    def transfers(cell, call: Backward, precision: str = "fp32"):
        (L, B, K, n), S, dtype = call.kept.shape, cell.states, call.kept.dtype
        flags, whole = call.flags, None
        if call.masked:
            flags, whole = until_reset(call.flags)
            flags = array(flags, np.uint8)
        s, N, G = call.s[:, : L + 1], S * n, len(call.W) // n
        out = empty((B, N + 1, N), dtype)

        def back(ds, dy, *arrays):
            columns = ds.shape[1]
            dp = empty((L, columns, G, n), dtype)
            dq = empty(dp.shape, dtype) if cell.apart else dp
            given = Backward(dy, call.W, *arrays, dp, dq, ds, masked=call.masked)
            backward(cell, given, precision)

        ds = array(np.zeros((S, B, n)), dtype)
        back(ds, call.dy, array(s, dtype), call.kept, flags)
        out[:, N] = ds.swapaxes(0, 1).reshape(B, N)
        most = max(1, min(N, AT_A_TIME // (L * B * (K + S + 2 * G + 1) * n + 1)))
        for first in range(0, N, most):
            rows = np.eye(N, dtype=dtype)[first : first + most]
            R = len(rows)
            ds = empty((S, B, R, n), dtype)
            ds[...] = array(rows.reshape(R, S, n).swapaxes(0, 1), dtype)[:, None]
            if whole is not None:
                ds *= array(whole, dtype)[:, None, None]
            ds, dy = ds.reshape(S, B * R, n), array(np.zeros((L, B * R, n)), dtype)
            again = [
                repeated(empty, a, axis, R) for a, axis in ((s, 2), (call.kept, 1), (flags, 1))
            ]
            back(ds, dy, *again)
            left = ds.reshape(S, B, R, n).swapaxes(0, 1).swapaxes(1, 2)
            out[:, first : first + R] = left.reshape(B, R, N)
        return out

    @np.errstate(all="ignore")  # as kernels do not warn
    def arriving(maps, ds):
        (rows, _, N), (S, B, n) = maps.shape, ds.shape
        maps = maps.reshape(rows // B, B, N + 1, N)
        out = empty((S, len(maps), B, n), ds.dtype)
        state = array(ds.swapaxes(0, 1), ds.dtype).reshape(B, 1, N)
        for c in reversed(range(len(maps))):
            out[:, c] = state.reshape(B, S, n).swapaxes(0, 1)
            state = state @ maps[c, :, :N] + maps[c, :, N:]
        return out.reshape(S, rows, n)

    def scan_cost(cell, n, B, T, chunks, dtype, precision="fp32"):
        length, N = -(-T // chunks), cell.states * n
        rows = chunks * B * (N + 2) if chunks > 1 else B
        return (
            length * cost(cell, n, rows, dtype, precision) / 2 + (chunks > 1) * chunks * B * N * N
        )

    return transfers, arriving, scan_cost


def until_reset(flags) -> tuple[Any, Any]:
    """(flags (T, B) of the steps before the first that begins anew, those from there on dead; (B,)
    bool, is there none?).
    """
    before = ((flags & RESET) != 0).astype(np.int32).cumsum(0) == 0
    return flags & LIVE & before.astype(np.uint8) * np.uint8(LIVE), before[-1]


def repeated(empty: Callable, a, axis: int, count: int):
    """Each of a's entries along an axis `count` times: a copy."""
    shape = a.shape
    out = empty((*shape[: axis + 1], count, *shape[axis + 1 :]), a.dtype)
    out[...] = a.reshape((*shape[: axis + 1], 1, *shape[axis + 1 :]))
    return out.reshape((*shape[:axis], shape[axis] * count, *shape[axis + 1 :]))
