"""Clipping of δ within BPTT: the bounds of one step and sample."""

import numpy as np


def bounded(δ, bound):
    """δ in [−bound, bound]; NaN stays."""
    return np.where(δ > bound, bound, np.where(δ < -bound, -bound, δ))


def factor(square):
    """What δ is multiplied by so that ‖δ‖ is at most the bound, from Σ (δ/bound)²; NaN where that
    overflows, so that it is seen.
    """
    return np.where(square > 1.0, 1.0 / np.sqrt(square) + (square - square), 1.0)
