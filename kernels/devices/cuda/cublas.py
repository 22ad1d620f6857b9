"""Products of matrices by cuBLAS itself, called through ctypes.

CuPy's products take a precision that is one for the whole process, and refuse a stream that is
being captured into a graph. Here every product says its own; handles, one a thread and card, have a
workspace of their own, so that nothing is allocated while a stream is captured.
"""

import ctypes
import threading
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

TRANSPOSED = {False: 0, True: 1}  # cublasOperation_t
# (cudaDataType_t, cublasComputeType_t) by dtype and precision
KINDS = {
    ("float32", "fp32"): (0, 68),
    ("float32", "tf32"): (0, 77),
    ("float32", "bf16"): (0, 75),
    ("float64", "fp32"): (1, 70),
}
# by bytes of a number, pointers to one and to zero
FACTORS = {
    ctypes.sizeof(number): (ctypes.pointer(number(1)), ctypes.pointer(number(0)))
    for number in (ctypes.c_float, ctypes.c_double)
}
ANY_ALGORITHM = -1  # cublasGemmAlgo_t
# bytes that NVIDIA's manual recommends, from compute capability 9.0 on and before
WORKSPACE, EARLIER_WORKSPACE = 32 << 20, 4 << 20


@cache
def library() -> Any:
    """cuBLAS, wherever wheels, a toolkit or the system have it."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)


class Handle:
    """cuBLAS for one thread on one card."""

    def __init__(self, driver, device: int):
        self.cublas, self.stream, handle = driver.cublas(), None, ctypes.c_void_p()
        demand(self.cublas.cublasCreate_v2(ctypes.pointer(handle)), "cublasCreate")
        self.value = handle
        recent = driver.facts(device).capability >= (9, 0)
        self.bytes = WORKSPACE if recent else EARLIER_WORKSPACE
        self.workspace = driver.arrays.cuda.alloc(self.bytes)
        # not at the end of the process, where CUDA may be gone before
        weakref.finalize(self, self.cublas.cublasDestroy_v2, handle).atexit = False

    def on(self, stream: int) -> ctypes.c_void_p:
        """The handle, its work on this stream."""
        if stream != self.stream:
            demand(
                self.cublas.cublasSetStream_v2(self.value, ctypes.c_void_p(stream)),
                "cublasSetStream",
            )
            # which has put the library's own workspace back
            pointer, size = ctypes.c_void_p(self.workspace.ptr), ctypes.c_size_t(self.bytes)
            demand(
                self.cublas.cublasSetWorkspace_v2(self.value, pointer, size), "cublasSetWorkspace"
            )
            self.stream = stream
        return self.value


class Handles(threading.local):
    """Those of one thread."""

    def __init__(self):
        self.known: dict[tuple, Handle] = {}


handles = Handles()


class Matrix(NamedTuple):
    """A matrix as BLAS sees it, by columns: of ours, by rows, it sees the transpose."""

    pointer: int
    step: int  # numbers from one row of ours to the next
    transposed: bool


def matrix(a) -> Matrix:
    """Raises ValueError where neither rows nor columns of a are contiguous."""
    (rows, columns), (down, along) = a.shape, a.strides
    if along == a.itemsize or columns == 1:
        step = down // a.itemsize if rows > 1 else columns
        return Matrix(a.data.ptr, max(step, columns, 1), False)
    if down == a.itemsize or rows == 1:
        step = along // a.itemsize if columns > 1 else rows
        return Matrix(a.data.ptr, max(step, rows, 1), True)
    raise ValueError(f"a product is given a matrix of strides {a.strides}: not contiguous")


def products(
    driver, device: int, stream: int, matrices: tuple, precision: str, add: bool, step: int = 0
) -> Callable[[int], None]:
    """What does out = a b, or out += a b, of matrices (a (R, K), b (K, C), out (R, C)), as often as
    it is called: with t, of the a that lies t times `step` bytes behind.

    By columns outᵀ = bᵀ aᵀ is asked for, which is out by rows.
    """
    a, b, out = matrices
    (R, K), (_, C) = a.shape, b.shape
    if not R or not C:
        return lambda t: None
    if not K:
        return lambda t: None if add else out.fill(0)
    key = driver, device
    handle = handles.known.get(key) or handles.known.setdefault(key, Handle(driver, device))
    kind, compute = KINDS[out.dtype.name, precision]
    one, zero = FACTORS[out.dtype.itemsize]
    first, second, result = matrix(b), matrix(a), matrix(out)
    gemm, moving = handle.cublas.cublasGemmEx, ctypes.c_void_p(second.pointer)
    given = (
        handle.on(stream),
        TRANSPOSED[first.transposed],
        TRANSPOSED[second.transposed],
        *(C, R, K),
        one,
        *(ctypes.c_void_p(first.pointer), kind, first.step),
        *(moving, kind, second.step),
        one if add else zero,
        *(ctypes.c_void_p(result.pointer), kind, result.step),
        compute,
        ANY_ALGORITHM,
    )

    def multiply(t: int):
        moving.value = second.pointer + t * step
        demand(gemm(*given), "cublasGemmEx")

    return multiply


def demand(status: int, what: str):
    if status:
        raise RuntimeError(f"{what} fails with status {status} (see cublasStatus_t)")
