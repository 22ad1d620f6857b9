"""What data sets of sequences are made of."""

from typing import NamedTuple

import numpy as np

from ..outline import fields


class Sequences(NamedTuple):
    """One split of a data set: N input sequences and their targets."""

    x: list[np.ndarray]  # N arrays, float (T_i, m) or int64 symbols (T_i,)
    # int64 (N,), one class per sequence, or N arrays (T_i,), one symbol per step
    y: np.ndarray | list[np.ndarray]

    __repr__ = fields
