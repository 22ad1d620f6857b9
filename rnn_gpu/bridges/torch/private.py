"""What we use of torch that it does not promise to keep: all of it is here.

Present since torch 2.4, and in every version up to 2.13.
"""

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction as SingleLevelFunction

__all__ = ["SingleLevelFunction", "below_autograd", "one_level", "watched"]

# within it a SingleLevelFunction may be applied under torch.func's transforms
one_level = enable_single_level_autograd_function
# within it operators are called where autograd looks no more
below_autograd = torch._C._AutoDispatchBelowAutograd


def watched() -> bool:
    """Does anything but autograd look at what is computed: torch.func, a tracer, a mode?"""
    return (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
    )
