"""What we use of torch that it does not promise to keep: all of it is here.

Present since torch 2.4, and in every version up to 2.13.
"""

from typing import Any

import torch
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad, function

TENSOR: Any = torch.Tensor
JIT: Any = torch.jit
EXTENSION: str = torch._C.__file__  # from which all that torch has loaded is found
# an autograd.Function for one level of torch.func's transforms
SingleLevelFunction: Any = function._SingleLevelFunction
# within it a SingleLevelFunction may be applied under torch.func's transforms
one_level = enable_single_level_autograd_function
# within it operators are called where autograd looks no more
below_autograd = torch._C._AutoDispatchBelowAutograd


def is_tracing() -> bool:
    """Is this a call of torch.jit.trace's."""
    return JIT.is_tracing()


def is_forward_mode() -> bool:
    """Does torch carry tangents beside numbers?"""
    return forward_ad._current_level >= 0


def is_batched(x: Any) -> bool:
    """Does vmap have many tensors behind this one?"""
    if x is None:
        return False
    return _functorch.is_batchedtensor(x) or _functorch.is_legacy_batchedtensor(x)


def watched(x: Any) -> bool:
    """Does anything but autograd look at what is computed of x: x itself, torch.func, a tracer, a
    mode?
    """
    return (
        type(x).__torch_dispatch__ is not TENSOR.__torch_dispatch__
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def parameters_of(module: Any) -> list:
    """The parameters of a torch.nn.RNNBase in the order of its arguments; None for one that is
    something else by now: parametrized, say, or taken apart by FSDP.
    """
    own = module._parameters
    return [own.get(name) for name in module._flat_weights_names]
