"""cuBLAS played by NumPy, behind the arguments that kernels/devices/cuda/cublas.py gives it."""

import ctypes
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

DTYPES = {0: np.float32, 1: np.float64}  # by cudaDataType_t
COMPUTES = {68: "fp32", 70: "fp32", 75: "bf16", 77: "tf32"}  # by cublasComputeType_t
SUCCESS, INVALID = 0, 7  # cublasStatus_t


def at_once(work: Callable, addresses):
    """Do the work now."""
    work()


class Blas:
    """What `ctypes.CDLL` gives of cuBLAS, as far as we call it.

    find   (address, bytes) -> those bytes of the card's memory as an array of uint8; raises where
           they are nobody's
    round  (operand, "tf32" or "bf16"): what that does to it
    start  (work, addresses) does the work, which touches memory there, or keeps it for a graph
    """

    def __init__(self, find: Callable, round: Callable, start: Callable = at_once):
        self.find, self.round, self.start = find, round, start
        self.handles = 0
        self.streams: dict[int, int] = {}  # of each handle
        self.workspaces: dict[int, int] = {}  # bytes of each
        self.products: list[tuple] = []  # (rows, inputs, columns of ours, precision, is it added)

    def cublasCreate_v2(self, handle) -> int:
        self.handles += 1
        handle.contents.value = self.handles
        return SUCCESS

    def cublasDestroy_v2(self, handle) -> int:
        return SUCCESS

    def cublasSetStream_v2(self, handle, stream) -> int:
        self.streams[handle.value] = stream.value or 0
        self.workspaces[handle.value] = 0  # as the manual says
        return SUCCESS

    def cublasSetWorkspace_v2(self, handle, pointer, size) -> int:
        if pointer.value % 256:
            return INVALID
        self.find(pointer.value, size.value)
        self.workspaces[handle.value] = size.value
        return SUCCESS

    def cublasGemmEx(self, handle, *given) -> int:
        """C = α op(A) op(B) + β C, by columns; m, n, k are the sizes of C and of the sum."""
        transa, transb, m, n, k, α, A, of_a, lda, B, of_b, ldb, β, C, of_c, ldc, how, _ = given
        least = (k if transa else m), (n if transb else k), m
        if any(step < max(1, rows) for step, rows in zip((lda, ldb, ldc), least, strict=True)):
            return INVALID
        if len({of_a, of_b, of_c}) > 1 or not self.workspaces.get(handle.value):
            return INVALID
        dtype = DTYPES[of_c]
        a = self.by_columns(A.value, (k, m) if transa else (m, k), lda, dtype)
        b = self.by_columns(B.value, (n, k) if transb else (k, n), ldb, dtype)
        c = self.by_columns(C.value, (m, n), ldc, dtype)
        a, b = (a.T if transa else a), (b.T if transb else b)
        precision, add = COMPUTES[how], bool(β.contents.value)
        self.start(lambda: self.multiply(a, b, c, precision, add), (A.value, B.value, C.value))
        self.products.append((n, k, m, precision, add))
        return SUCCESS

    def multiply(self, a, b, c, precision: str, add: bool):
        """c = a b, or c += a b: by rows, as the simulator multiplies, with the same bits."""
        rows = [np.ascontiguousarray(x.T) for x in (b, a)]
        if precision != "fp32":
            rows = [self.round(x, precision) for x in rows]
        made = np.matmul(*rows).T
        c[...] = made + c if add else made

    def by_columns(self, address, shape, step: int, dtype):
        """A matrix of BLAS's in the card's memory."""
        rows, columns = shape
        size = np.dtype(dtype).itemsize
        count = step * (columns - 1) + rows if rows and columns else 0
        whole = self.find(address, count * size).view(dtype)
        return as_strided(whole, shape, (size, step * size))


def memory_at(address: int, count: int):
    """`count` bytes of this process, for arrays that lie in it; nobody asks whose they are."""
    if not count:
        return np.empty(0, np.uint8)
    return np.frombuffer((ctypes.c_uint8 * count).from_address(address), np.uint8)
