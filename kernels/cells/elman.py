"""Elman network, 式2: s_t = f(U x_t + W s_{t-1}), for any activation f."""

from functools import cache

from .. import Activation, Cell
from ..activations import ACTIVATIONS


@cache
def elman(activation: Activation) -> Cell:
    """The Elman cell of an activation. relu starts with W = I (Le, Jaitly, Hinton 2015)."""
    f, df = activation.f, activation.df

    def step(p, q, s):
        (p,), (q,) = p, q
        return (f(p + q),), ()

    def back(ds, kept, s, s_next):
        (ds,), (y,) = ds, s_next
        δ = ds * df(y)
        return (δ,), (δ,), (0.0,)  # no way around W

    start = "identity" if activation.name == "relu" else "orthogonal"
    return Cell(f"elman_{activation.name}", gates=1, states=1, kept=0, step=step, back=back, initial_recurrent=start)


CELLS = tuple(elman(activation) for activation in ACTIVATIONS.values())
