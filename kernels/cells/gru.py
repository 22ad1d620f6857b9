"""Gated recurrent unit (Cho et al. 2014), torch's variant: gate order r z n, and the reset acts
after the product with W.
"""

import numpy as np

from .. import Cell, Operator
from ..activations import dsigmoid, dtanh, gate


def step(p, q, s):
    """r, z = σ(p + q), each of its gate; n = tanh(p_n + r q_n); h ← (1 − z) n + z h."""
    p_r, p_z, p_n = p
    q_r, q_z, q_n = q
    (h,) = s
    r = gate(p_r + q_r)
    z = gate(p_z + q_z)
    n = np.tanh(p_n + r * q_n)
    return (n + z * (h - n),), (r, z, n, q_n)  # n + z(h − n) = (1 − z) n + z h


def back(ds, kept, s, s_next):
    """δ_z = dh (h₋₁ − n) z′, δ_n = dh (1 − z) n′, δ_r = δ_n q_n r′, where ′ is the slope by the
    output; the recurrent side of n has δ_n r; dh z goes on to the step before.
    """
    (dh,) = ds
    r, z, n, q_n = kept
    (h,) = s
    δ_z = dh * (h - n) * dsigmoid(z)
    δ_n = dh * (1.0 - z) * dtanh(n)
    δ_r = δ_n * q_n * dsigmoid(r)
    return (δ_r, δ_z, δ_n), (δ_r, δ_z, δ_n * r), (dh * z,)


gru = Cell(
    "gru",
    gates=3,
    states=1,
    kept=4,
    step=step,
    back=back,
    apart=True,
    keras=(1, 0, 2),  # z r h, with reset_after=True
    onnx=Operator("GRU", gates=(1, 0, 2), attributes=(("linear_before_reset", 1),)),  # z r h
)

CELLS = (gru,)
