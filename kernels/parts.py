"""States of the parts of one sequence, which lie one behind the other: see `kernels.Forward`."""

from numpy.lib.stride_tricks import as_strided


def states_of_parts(s, T: int, B: int):
    """s (S, B·T + 1 + B, n) -> a view (S, T + 1, B, n), to be read only: each part begins with what
    the one before ends with.
    """
    (S, _, n), (state, step, unit) = s.shape, s.strides
    strides = state, step, T * step, unit
    return as_strided(s, (S, T + 1, B, n), strides, writeable=False)
