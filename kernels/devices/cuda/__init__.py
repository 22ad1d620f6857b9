"""The GPU: Numba `@cuda.jit` kernels, CuPy's arrays and cuBLAS. Under the simulator the same
kernels on NumPy's arrays.
"""

import numpy as np

from ... import UNCLIPPED, Backward, Forward
from ...binding.text import define, elementwise_source
from ...fingerprint import mixed
from ...once import once
from ...products import by_chunks, products
from . import block, gemm, plain
from .launch import (
    SIMULATED,
    THREADS,
    arrays,
    blocks_for,
    cuda,
    formula,
    launch,
    on_stream,  # noqa: F401  for rnn_gpu.torch
    threads_for,
)
from .precision import lacks_tf32, matmul
from .schedules import card, choose

name, preference = "cuda", 0 if SIMULATED else 2
TOGETHER = 2048  # rows of a chunk (see products.py): enough that cuBLAS is not called often


def missing(precision="fp32"):
    if not SIMULATED:
        if not cuda.is_available():
            return "Numba sees no GPU (no driver, or no CUDA toolkit beside it)"
        try:
            arrays()
        except ImportError as error:
            return f"CuPy cannot be imported ({error})"
    return lacks_tf32() if precision == "tf32" else ""


def precisions(dtype):
    return ("fp32", "tf32") if dtype == "float32" else ("fp32",)


def array(x, dtype):
    return arrays().ascontiguousarray(arrays().asarray(x), dtype)


def numpy(a):
    return a if isinstance(a, np.ndarray) else a.get()


def empty(shape, dtype):
    return arrays().empty(shape, dtype)


def copy(a):
    return a.copy()


def finite(a):
    return bool(arrays().isfinite(a).all())


def fingerprint(words):
    return mixed(words, arrays().arange(words.size, dtype=np.uint32)).sum(dtype=np.uint32)


def chunk(B):
    return max(1, TOGETHER // B)


def release():
    if SIMULATED:
        return 0
    pool = arrays().get_default_memory_pool()
    before = pool.total_bytes()
    pool.free_all_blocks()
    return before - pool.total_bytes()


project, project_back = products(chunk, *by_chunks(matmul, empty))


@once
def elementwise_kernel(f, number, outputs, inputs, scalars):
    text = elementwise_source(
        outputs, inputs, scalars, "range(cuda.grid(1), o0.size, cuda.gridsize(1))"
    )
    return cuda.jit(define("kernel", text, f=formula(f, number), cuda=cuda))


def elementwise(f, outputs, inputs, scalars=()):
    number = outputs[0].dtype.type
    kernel = elementwise_kernel(f, number, len(outputs), len(inputs), len(scalars))
    blocks = blocks_for(-(-outputs[0].size // THREADS))
    launch(
        kernel,
        blocks,
        THREADS,
        *(a.reshape(-1) for a in (*outputs, *inputs)),
        *map(number, scalars),
    )


def matvec(W, s, out):
    B, n = s.shape
    # neighbouring threads read neighbouring weights
    kernel, W_T = plain.matvec_kernel(out.dtype.type), W.T.copy()
    launch(kernel, blocks_for(B), threads_for(out.shape[1]), W_T, s.reshape(1, 1, B, n), out)


def forward(cell, call: Forward, precision="fp32"):
    p, W, c, s, kept, flags = call
    T, B, _, n = p.shape
    it, number = choose(cell, "forward", n, B, p.itemsize), p.dtype.type
    if it.schedule == "gemm":
        gemm.forward(cell, p, W, c, s, kept, flags, precision)
        return
    if it.schedule == "block":
        kernel = block.forward_kernel(cell, number, it.plan)
    else:
        # neighbouring threads read neighbouring weights
        kernel, W = plain.forward_kernel(cell, number), W.T.copy()
    launch(kernel, it.blocks, it.threads, p, W, c, s, kept, flags, shared=it.shared)


def backward(cell, call: Backward, precision="fp32"):
    dy, W, s, kept, flags, dp, dq, ds, clip = call
    T, B, G, n = dp.shape
    clips, number, carried = clip != UNCLIPPED, dp.dtype.type, ds.reshape(len(ds), 1, B, n)
    bounds = (
        (number(clip.value), number(clip.norm), arrays().zeros((T, B), np.uint8)) if clips else ()
    )
    it = choose(cell, "backward", n, B, dp.itemsize, clips)
    if it.schedule == "gemm":
        gemm.backward(
            cell,
            dy,
            W,
            s,
            kept,
            flags,
            dp,
            dq,
            carried,
            arrays().empty(carried.shape, dp.dtype),
            bounds,
            precision,
        )
    elif it.schedule == "block":
        kernel = block.backward_kernel(cell, number, it.plan)
        launch(
            kernel,
            it.blocks,
            it.threads,
            dy,
            W,
            s,
            kept,
            flags,
            dp,
            dq,
            carried,
            bounds,
            shared=it.shared,
        )
    else:
        kernel = plain.backward_kernel(cell, number, clips)
        rows, now = dq.reshape(1, T, B, G * n), arrays().empty(carried.shape, dp.dtype)
        launch(
            kernel, it.blocks, it.threads, dy, W, s, kept, flags, dp, dq, rows, carried, now, bounds
        )
    return int(bounds[2].sum()) if clips else 0


def explain(cell, n, B, dtype, precision="fp32"):
    strict = "TF32" if precision == "tf32" else f"strict {dtype}"
    itemsize = np.dtype(dtype).itemsize
    lines = [f"cuda ({card().name}), GEMMs by {arrays().__name__} in {strict}"]
    for direction in ("forward", "backward"):
        it = choose(cell, direction, n, B, itemsize)
        plan = f"{it.plan.lanes} lanes a unit, {it.plan.rows} samples a block, " if it.plan else ""
        grid = (
            f"{it.blocks} blocks of {it.threads} threads, {plan}{it.shared} bytes of shared memory"
        )
        launches = "two launches a step" if it.schedule == "gemm" else "one launch whatever T"
        lines.append(f"{direction:9}{it.schedule}, {launches}: {grid}; {it.why}")
    return "\n".join(lines)
