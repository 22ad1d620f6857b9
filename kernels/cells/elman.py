"""Elman network, 式2: s_t = f(U x_t + W s_{t-1}), for any activation f."""

from .. import Activation, Cell, Operator
from ..activations import ACTIVATIONS
from ..once import once


def elman(activation: Activation) -> Cell:
    """The Elman cell of an activation. relu starts with W = I (Le, Jaitly, Hinton 2015)."""
    return BUILT_IN.get(activation) or made(activation)


@once
def made(activation: Activation) -> Cell:
    f, df = activation.f, activation.df

    def step(p, q, s):
        """y = f(p + q)."""
        (p,), (q,) = p, q
        return (f(p + q),), ()

    def back(ds, kept, s, s_next):
        """δ = dy f′(y) (式3); nothing goes on but through W."""
        (ds,), (y,) = ds, s_next
        δ = ds * df(y)
        return (δ,), (δ,), (0.0,)  # no way around W

    start = "identity" if activation.name == "relu" else "orthogonal"
    return Cell(
        f"elman_{activation.name}",
        gates=1,
        states=1,
        kept=0,
        step=step,
        back=back,
        initial_recurrent=start,
        keras=(0,),  # SimpleRNN takes any function
        onnx=activation.onnx and rnn_of_onnx(activation.onnx),
    )


def rnn_of_onnx(f: Operator) -> Operator:
    """ONNX's RNN with this function in it, where the identity is called by another name."""
    if f.name == "Identity":
        f = Operator("Affine", attributes=(("alpha", 1.0), ("beta", 0.0)))
    constants = tuple((f"activation_{name}", (value,)) for name, value in f.attributes)
    return Operator("RNN", gates=(0,), attributes=(("activations", (f.name,)), *constants))


BUILT_IN = {activation: made(activation) for activation in ACTIVATIONS.values()}
CELLS = tuple(BUILT_IN.values())
