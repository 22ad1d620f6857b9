"""What torch computes in few bits is computed here in float32, and returned in torch's dtypes."""

import torch

from ...errors import DeviceError, DtypeError

DTYPES = {torch.float32: "float32", torch.float64: "float64"}  # that kernels compute in
LOW = (torch.float16, torch.bfloat16)
ONEDNN = torch.backends.mkldnn.is_available()


def in_full(dtype: torch.dtype) -> torch.dtype:
    """The dtype that kernels compute in: float32 for one of fewer bits, else the same."""
    return torch.float32 if dtype in LOW else dtype


def computed(tensor):
    """The tensor in the dtype that kernels compute in."""
    return tensor.float() if tensor.dtype in LOW else tensor


def autocast_to(kind: str) -> torch.dtype | None:
    """The dtype that autocast casts to on devices of a kind; None where it is off."""
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def computed_like(name: str, tensor, like):
    """`computed` of a tensor that goes with parameters as `like`, of the same device and dtype; but
    autocast takes any that are computed in the same.
    """
    if tensor.device != like.device:
        raise DeviceError(
            f"{name} is on {tensor.device}, but the parameters are on {like.device}: move one"
        )
    full, cast = in_full(like.dtype), autocast_to(tensor.device.type) is not None
    if full not in (torch.float32, torch.float64):
        raise DtypeError(
            f"the parameters are {like.dtype}, expected float64, float32, float16 or bfloat16"
        )
    if tensor.dtype != like.dtype and not (cast and in_full(tensor.dtype) == full):
        raise DtypeError(
            f"{name} is {tensor.dtype}, but the parameters are {like.dtype}: convert one"
        )
    return computed(tensor)


def returned(mode: str, x, states, padded=False, projected=False) -> tuple[torch.dtype, ...]:
    """The dtypes of the states that torch's module of this mode returns; the output has the first.

    x       a tensor of the input
    states  dtypes of the states that came
    padded  is x of several steps, and not packed
    Under autocast what a product gives has autocast's dtype, and what is added to a state the wider
    one of both; cuDNN and oneDNN, which torch hands LSTMs of padded batches to, cast all.
    """
    low = autocast_to(x.device.type)
    if low is None or x.dtype == torch.float64:
        return states
    wider = tuple(torch.promote_types(low, dtype) for dtype in states)
    if x.device.type == "cuda" or mode.startswith("RNN_"):
        return (low,) * len(states)
    if mode != "LSTM":
        return wider
    if padded and not projected and by_onednn(x):
        return low, low
    return low if projected else wider[1], wider[1]  # h is o·tanh(c), or a product of that


def by_onednn(x) -> bool:
    """Does torch hand an LSTM of x (T, B, m) to oneDNN under autocast?"""
    # torch.compile does not read the switch, which is on unless a program has turned it off
    on = ONEDNN and (torch.compiler.is_compiling() or torch.backends.mkldnn.enabled)
    return on and x.dtype in (torch.float32, torch.bfloat16) and x.numel() > 0
