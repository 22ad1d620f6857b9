"""The GPU: Numba `@cuda.jit` kernels, CuPy's arrays and cuBLAS. Under the simulator the same
kernels on NumPy's arrays.
"""

from typing import Any

import numpy as np

from ... import UNCLIPPED, Backward, Forward
from ...binding.closures import each_over, tuple_over
from ...products import by_chunks, products
from ...transfers import transfers_of
from . import carrying, plain, transfer
from .compiled import factory
from .contract import Bounds, Problem
from .driver import driver
from .fingerprints import fingerprint  # noqa: F401  part of every device
from .graphs import captured, capturing, wait  # noqa: F401  the first is part of every device
from .launch import (
    SIMULATED,
    THREADS,
    arrays,
    blocks_for,
    cuda,
    device_function,
    formula,
    launch,
    matmul,
    on_stream,  # noqa: F401  for rnn_gpu.torch
    threads_for,
)
from .reductions import loss, norms, update  # noqa: F401  part of every device
from .schedules import card, named, ranked
from .tuning import choose, wanted

name, preference = "cuda", 0 if SIMULATED else 2
copying, waking, takes_parts = 0.005, 0, False
CHUNK_ROWS = 65_536  # rows of a chunk (see products.py): enough that cuBLAS is called once or twice


def missing(precision="fp32"):
    wanted()  # ValueError where the environment says what there is not
    if why_not := driver().missing():
        return why_not
    if precision != "fp32" and driver().facts(driver().device()).capability < (8, 0):
        return "this GPU is older than compute capability 8.0 and has none"
    return ""


def compiles():
    return driver().language == "cubin"


def precisions(dtype):
    return ("fp32", "tf32", "bf16") if dtype == "float32" else ("fp32",)


def array(x, dtype):
    return arrays().ascontiguousarray(arrays().asarray(x), dtype)


def numpy(a):
    return a if isinstance(a, np.ndarray) else a.get()


def empty(shape, dtype):
    return arrays().empty(shape, dtype)


def zeros(shape, dtype):
    return arrays().zeros(shape, dtype)


def copy(a):
    return a.copy()


def finite(a):
    xp = np if isinstance(a, np.ndarray) else arrays()
    return bool(xp.isfinite(a).all())


def chunk(B):
    return max(1, CHUNK_ROWS // B)


def release():
    if arrays() is np:  # in the simulator memory is the host's
        return 0
    pool = arrays().get_default_memory_pool()
    before = pool.total_bytes()
    pool.free_all_blocks()
    return before - pool.total_bytes()


def columns(δ, out=None):
    """As a product, which needs no other kernel and no other order of sums."""
    add = out is not None
    out = out if add else arrays().empty(δ.shape[1], δ.dtype)
    row = ones(driver(), driver().device(), chunk_of_ones(len(δ)), δ.dtype)[:, : len(δ)]
    matmul(row, δ, "fp32", out.reshape(1, -1), add)
    return out


def chunk_of_ones(rows: int) -> int:
    """How many ones are made at once: few sizes for all."""
    return 1 << (rows - 1).bit_length() if rows else 1


rows_of_ones: dict[tuple, Any] = {}


def ones(card, device: int, count: int, dtype):
    """A row of ones, which stays on its card: whichever stream asks next, they are there.

    Where a stream captures they are made anew, within the graph.
    """
    key = card, device, count, dtype
    if key not in rows_of_ones:
        made = arrays().ones((1, count), dtype)
        if capturing():
            return made
        wait()
        rows_of_ones[key] = made
    return rows_of_ones[key]


project, project_back = products(chunk, *by_chunks(matmul, columns, empty))


@factory
def elementwise_kernel(f, number, outputs, inputs, scalars):
    apply, many = formula(f, number), outputs > 1
    get = tuple_over(inputs, device_function(lambda k, a, i: a[i]), device_function)

    @device_function
    def put_number(k, a, i, values):
        a[i] = values[k] if many else values

    put = each_over(outputs, put_number, device_function)

    @cuda.jit
    def elementwise(outputs, inputs, scalars):
        """`Device.elementwise`, of arrays (·,)."""
        for i in range(cuda.grid(1), outputs[0].size, cuda.gridsize(1)):
            put(outputs, i, apply(*(get(inputs, i) + scalars)))

    return elementwise


def elementwise(f, outputs, inputs, scalars=()):
    number = outputs[0].dtype.type
    kernel = elementwise_kernel(f, number, len(outputs), len(inputs), len(scalars))
    blocks = blocks_for(-(-outputs[0].size // THREADS))
    flat = (tuple(a.reshape(-1) for a in group) for group in (outputs, inputs))
    launch(kernel, blocks, THREADS, *flat, tuple(map(number, scalars)))


def matvec(W, s, out):
    B, n = s.shape
    # neighbouring threads read neighbouring weights
    kernel, W_T = plain.matvec_kernel(out.dtype.type), W.T.copy()
    launch(kernel, blocks_for(B), threads_for(out.shape[1]), W_T, s.reshape(1, 1, B, n), out)


def forward(cell, call: Forward, precision="fp32"):
    _, B, _, n = call.p.shape
    choice = choose(cell, "forward", n, B, call.p.itemsize, False, call.masked, precision)
    named(choice.schedule).forward(cell, for_kernels(call), choice, precision)


def backward(cell, call: Backward, precision="fp32"):
    T, B, _, n = call.dp.shape
    number, clip, clips = call.dp.dtype.type, call.clip, call.clip != UNCLIPPED
    bounds = ()
    if clips:
        beyond = arrays().zeros((T, B), np.uint8)
        bounds = Bounds(number(clip.value), inverse(clip.norm, number), beyond)
    choice = choose(cell, "backward", n, B, call.dp.itemsize, clips, call.masked, precision)
    dy = call.dy if call.dy.flags.c_contiguous else call.dy.copy()
    ds = call.ds if call.ds.ndim == 4 else call.ds.reshape(len(call.ds), 1, B, n)
    call = for_kernels(call)._replace(dy=dy, ds=ds, clip=bounds)
    named(choice.schedule).backward(cell, call, choice, precision)
    return bounds.beyond.sum() if bounds else 0


def for_kernels(call):
    """A Forward or Backward as kernels take it: without flags where they say nothing."""
    return call._replace(masked=()) if call.masked else call._replace(flags=(), masked=())


def inverse(norm: float, number):
    """1/norm, finite: so zero times it is zero."""
    return number(min(1.0 / norm, float(np.finfo(number).max)))


CYCLES = 1.8  # of a card in a nanosecond, roughly
BYTES = 2000  # likewise, that a card moves
CALL = 20_000  # nanoseconds of a product of small matrices that is asked for alone


def cost(cell, n, B, dtype, precision="fp32"):
    itemsize, own = np.dtype(dtype).itemsize, card()
    ways = ("forward", "backward")
    problems = [Problem(cell, way, n, B, itemsize, own, precision=precision) for way in ways]
    return sum(ranked(problem)[0].cycles for problem in problems) / CYCLES


by_samples, by_products, _ = transfers_of(backward, cost, empty, array)


def transfers(cell, call: Backward, precision="fp32"):
    sizes = transfer.sizes_of(cell, call.kept.shape[3])
    if not transfer.fits(sizes, call.kept.itemsize, card()):
        return by_samples(cell, call, precision)
    return transfer.transfers(cell, for_kernels(call), sizes)


def arriving(maps, ds):
    few = maps.shape[2] <= carrying.NUMBERS
    return carrying.arriving(maps, ds) if few else by_products(maps, ds)


def scan_cost(cell, n, B, T, chunks, dtype, precision="fp32"):
    itemsize, own, length = np.dtype(dtype).itemsize, card(), -(-T // chunks)
    N, sizes = cell.states * n, transfer.sizes_of(cell, n)

    def back(rows):
        problem = Problem(cell, "backward", n, rows, itemsize, own, precision=precision)
        return ranked(problem)[0].cycles

    if chunks == 1:
        return T * back(B) / CYCLES
    moved = 3 * T * B * n * itemsize * (cell.kept + cell.states + cell.gates + 1)
    if transfer.fits(sizes, itemsize, own):
        maps = length * transfer.cycles(sizes, itemsize, chunks * B, own)
        carried = chunks * carrying.cycles(N, itemsize)
    else:
        maps, carried = length * back(chunks * B * (N + 1)), chunks * CALL * CYCLES
        moved *= N + 1
    return (maps + carried + length * back(chunks * B)) / CYCLES + moved / BYTES


def explain(cell, n, B, dtype, precision="fp32"):
    strict = {"tf32": "TF32", "bf16": "bfloat16"}.get(precision, f"strict {dtype}")
    lines = [f"cuda ({card().name}), GEMMs by {arrays().__name__} in {strict}"]
    for direction in ("forward", "backward"):
        choice = choose(cell, direction, n, B, np.dtype(dtype).itemsize, precision=precision)
        described = named(choice.schedule).describe(choice)
        lines.append(f"{direction:9}{choice.schedule}, {described}; {choice.why}")
    return "\n".join(lines)
