"""TF32 as numbers: 10 of float32's 23 bits of the mantissa of both operands of a product, whose sum
is float32.
"""

import numpy as np

MISSING_BITS = np.uint32(13)  # of float32's mantissa, in TF32's


def rounded(a):
    """float32 to the nearest number that TF32 has, ties to even; NaN and infinity stay."""
    bits = a.view(np.uint32)
    ONE = np.uint32(1)
    below_half = (ONE << (MISSING_BITS - ONE)) - ONE
    up = below_half + (bits >> MISSING_BITS & ONE)
    near = ((bits + up) >> MISSING_BITS << MISSING_BITS).view(np.float32)
    return np.where(np.isfinite(a), near, a)
