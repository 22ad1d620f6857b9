"""TF32 and bfloat16 as numbers: 10 and 7 of float32's 23 bits of the mantissa of both operands of a
product, whose sum is float32.
"""

import numpy as np

MISSING_BITS = {"tf32": np.uint32(13), "bf16": np.uint32(16)}  # of float32's mantissa


def rounded(a, precision: str = "tf32"):
    """float32 to the nearest number of that precision, ties to even; NaN and infinity stay."""
    bits, missing, ONE = a.view(np.uint32), MISSING_BITS[precision], np.uint32(1)
    below_half = (ONE << (missing - ONE)) - ONE
    up = below_half + (bits >> missing & ONE)
    near = ((bits + up) >> missing << missing).view(np.float32)
    return np.where(np.isfinite(a), near, a)
