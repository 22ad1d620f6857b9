"""The CPU: Numba `@njit` kernels; each step a product in tiles, and the cells on the vectors that
come out of it.
"""

from contextlib import nullcontext

import numpy as np

from ...binding.closures import each_over, tuple_over
from ...host_updates import host_update, norms  # noqa: F401  part of every device
from ...once import caches, once
from ...transfers import transfers_of
from ..reference import array, missing, numpy, precisions  # noqa: F401  NumPy's arrays are the CPU's
from .compilation import jit, within
from .losses import loss  # noqa: F401  part of every device
from .memory import copy, empty, release  # noqa: F401
from .products import chunk, project, project_back  # noqa: F401  part of every device
from .recurrence import backward, cost, formula, forward, sharing, vectorized  # noqa: F401
from .simd import lanes
from .stored import keep
from .threads import post_of, shared
from .tiles import layout, rows_of_tiles

name, preference, copying, waking, takes_parts = "cpu", 1, 0.5, 2e6, True
HALF = 64
KEYS = np.random.default_rng(0).integers(1, 1 << 32, 2 * HALF).astype(np.uint32)
ODD = np.uint64(0x9E3779B97F4A7C15)
caches += post_of, shared  # of kernels


def compiles():
    return True


@jit
def finite(a):
    """Without a branch, so that it works on vectors."""
    good, numbers = True, a.ravel()
    for i in range(numbers.size):
        good &= abs(numbers[i]) < np.inf
    return good


@jit
def fingerprint(words):
    """By sums of products of two words and their keys (NH, as in UMAC), four times as fast as
    `mixed`.
    """
    whole, full = np.uint64(0), words.size - words.size % (2 * HALF)
    for first in range(0, full, 2 * HALF):
        block = np.uint64(0)
        for j in range(HALF):
            one, other = words[first + j] + KEYS[j], words[first + HALF + j] + KEYS[HALF + j]
            block += np.uint64(np.uint32(one)) * np.uint64(np.uint32(other))
        whole = whole * ODD + block
    for j in range(full, words.size):
        whole = whole * ODD + np.uint64(words[j])
    return whole


keep(finite)
keep(fingerprint)


@once
def elementwise_kernel(f, number, outputs, inputs, scalars):
    """The kernel of a formula of so many arrays and numbers."""
    apply, many = formula(f, number), outputs > 1
    at = tuple_over(inputs, within(lambda k, a, i: a[i]), within)

    @within
    def put_number(k, a, i, values):
        a[i] = values[k] if many else values

    put = each_over(outputs, put_number, within)

    @jit
    def kernel(outputs, inputs, scalars):
        """`Device.elementwise`, of arrays (·,)."""
        for i in range(outputs[0].size):
            put(outputs, i, apply(*(at(inputs, i) + scalars)))

    return keep(kernel, f, number, outputs, inputs, scalars)


def elementwise(f, outputs, inputs, scalars=()):
    number = outputs[0].dtype.type
    kernel = elementwise_kernel(f, number, len(outputs), len(inputs), len(scalars))
    flat = [
        tuple([a if a.ndim == 1 else a.reshape(-1) for a in arrays]) for arrays in (outputs, inputs)
    ]
    kernel(*flat, tuple(map(number, scalars)))


update = host_update(elementwise)
transfers, arriving, scan_cost = transfers_of(backward, cost, empty, array)


def zeros(shape, dtype):
    a = empty(shape, dtype)
    a[...] = 0
    return a


def matvec(W, s, out):
    out[...] = project(s[None], W, None, 1)[0, :, 0]


def captured(action):
    return None


def on_stream(pointer, number=None, allocate=None):
    return nullcontext()


def explain(cell, n, B, dtype, precision="fp32"):
    number = np.dtype(dtype).type
    way = (
        "vectors"
        if vectorized(cell, number)
        else "one number at a time (its formulas cannot be compiled on vectors)"
    )
    lines = [
        f"cpu: one call a direction, whatever T; {lanes(number)} numbers a vector; the cell works "
        f"on {way}"
    ]
    for direction, gates in (("forward", cell.gates), ("backward", 1)):
        V, H = layout(gates, n, number, B)
        tile = f"tiles of up to {rows_of_tiles(H * V)[0]} samples by {V * lanes(number)} units"
        tile += f", {H} of {gates} gates at a time" if gates > H else ""
        panels = -(-n // (V * lanes(number)))
        lines.append(f"{direction:9}{tile}; {sharing(cell, B, n, panels, np.dtype(dtype))}")
    return "\n".join(lines)
