"""The part of `cupy.linalg` that this library uses."""

import numpy as np

from .operations import operate

__all__ = ["norm"]


def norm(x, ord=None, axis=None, keepdims=False):
    return operate("linalg.norm", np.linalg.norm, x, ord=ord, axis=axis, keepdims=keepdims)
