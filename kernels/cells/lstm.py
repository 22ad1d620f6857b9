"""Long short-term memory with forget gate (Gers, Schmidhuber, Cummins 2000), no peepholes. torch's
gate order i f g o.
"""

import numpy as np

from .. import Cell, Operator
from ..activations import dsigmoid, dtanh, gate


def step(p, q, s):
    """i, f, o = σ(p + q), g = tanh(p + q), each of its gate; c ← f c + i g, h ← o tanh c."""
    p_i, p_f, p_g, p_o = p
    q_i, q_f, q_g, q_o = q
    h, c = s
    i = gate(p_i + q_i)
    f = gate(p_f + q_f)
    g = np.tanh(p_g + q_g)
    o = gate(p_o + q_o)
    c = f * c + i * g
    return (o * np.tanh(c), c), (i, f, g, o)


def back(ds, kept, s, s_next):
    """With r = tanh c, and dc ← dc + dh o r′: δ_i = dc g i′, δ_f = dc c₋₁ f′, δ_g = dc i g′,
    δ_o = dh r o′, where ′ is the slope by the output; dc f goes on to the step before.
    """
    dh, dc = ds
    i, f, g, o = kept
    h, c = s
    h_next, c_next = s_next
    r = np.tanh(c_next)  # cheaper than keeping it
    dc = dc + dh * o * dtanh(r)
    δ = (dc * g * dsigmoid(i), dc * c * dsigmoid(f), dc * i * dtanh(g), dh * r * dsigmoid(o))
    return δ, δ, (0.0 * dh, dc * f)


lstm = Cell(
    "lstm",
    gates=4,
    states=2,
    kept=4,
    step=step,
    back=back,
    initial_bias=(0.0, 1.0, 0.0, 0.0),
    keras=(0, 1, 2, 3),  # i f c o
    onnx=Operator("LSTM", gates=(0, 3, 1, 2)),  # i o f c
)

CELLS = (lstm,)
