"""How precise the GEMMs are: strict float32, or TF32 where a layer asks for it.

TF32 keeps 10 of float32's 23 bits of the mantissa of both operands, and sums in float32. CuPy's own
setting is one for the whole process, so it is set around our products and put back: the user's
products are not ours to change, nor ours theirs.
"""

from contextlib import contextmanager

import numpy as np

from .launch import SIMULATED, arrays, cuda

MISSING_BITS = np.uint32(13)  # of float32's mantissa, in TF32's


def matmul(a, b, precision: str, out=None):
    """The product of two matrices in "fp32" or "tf32"; in the simulator by NumPy, TF32 by rounding
    the operands.
    """
    if not SIMULATED:
        with compute_type(precision):
            return arrays().matmul(a, b, out=out)
    if precision == "tf32":
        a, b = rounded(a), rounded(b)
    return np.matmul(a, b, out=out)


@contextmanager
def compute_type(precision: str):
    """CuPy's products of float32 in this precision, whatever its setting was (CUPY_TF32=1 makes
    TF32 its default).
    """
    from ...private import cupy_core as core
    from ...private import gemm_types

    types = gemm_types()
    before = core.get_compute_type(np.float32)
    core.set_compute_type(
        np.float32, types.COMPUTE_TYPE_TF32 if precision == "tf32" else types.COMPUTE_TYPE_DEFAULT
    )
    try:
        yield
    finally:
        core.set_compute_type(np.float32, before)


def rounded(a):
    """float32 to the nearest number that TF32 has, ties to even; NaN and infinity stay."""
    bits = a.view(np.uint32)
    ONE = np.uint32(1)
    below_half = (ONE << (MISSING_BITS - ONE)) - ONE
    up = below_half + (bits >> MISSING_BITS & ONE)
    near = ((bits + up) >> MISSING_BITS << MISSING_BITS).view(np.float32)
    return np.where(np.isfinite(a), near, a)


def lacks_tf32() -> str:
    """Why there is no TF32 here; "" where there is."""
    if SIMULATED or cuda.get_current_device().compute_capability >= (8, 0):
        return ""
    return "this GPU is older than compute capability 8.0 and has none"
