"""What autograd differentiates in eager calls of plain tensors: the shortest way to the kernels."""

from functools import partial

import torch

from ...errors import UnsupportedError
from .passes import Call, carry, retreat
from .private import is_batched, is_forward_mode


def refuse_second_derivatives(ctx, *gradients):
    """The slope of a way back, which the kernels do not have."""
    raise UnsupportedError(
        "double backward: the kernels give first derivatives alone; build the module with "
        "differentiable_twice=True, which is slow, or use torch.nn's"
    )


class Final(torch.autograd.Function):
    """What a way back computes, which itself cannot be differentiated."""

    @staticmethod
    def forward(ctx, compute, witness, *tensors):
        return compute(*tensors)

    backward = staticmethod(refuse_second_derivatives)


def not_again(compute, *tensors) -> tuple:
    """compute(*tensors), gradients, which cannot be differentiated: where nobody would, at once.

    Whatever they depend on, be it none of the tensors: a witness that asks for a gradient has who
    would refused.  UnsupportedError for a batch of gradients at once, which lie at no address.
    """
    if any(map(is_batched, tensors)):
        raise UnsupportedError(
            "gradients of many outputs at once: the kernels take one; say vectorize=False or "
            "is_grads_batched=False, or use torch.func"
        )
    if not torch.is_grad_enabled():
        return compute(*tensors)
    return Final.apply(compute, torch.empty(0, requires_grad=True), *tensors)


class Recurrence(torch.autograd.Function):
    """One layer in one direction: forward carries the state through time, backward is BPTT."""

    @staticmethod
    def forward(ctx, call, x, s0, U, W, b, c):
        y, last, s, kept = carry(call, x, s0, U, W, b, c)
        ctx.call = call
        ctx.save_for_backward(x, U, W, s, kept)  # torch then sees when one was written into
        return y, last

    @staticmethod
    def backward(ctx, dy, dlast):
        return None, *not_again(partial(gradients, ctx.call), dy, dlast, *ctx.saved_tensors)


def gradients(call: Call, *tensors) -> tuple:
    """Those of `retreat`; what else it gives is left in call.left."""
    back, found = retreat(call, *tensors)
    call.left.tape, call.left.clipped_steps = back.tape, back.clipped_steps
    call.left.report = back.report
    return found


def recurrence(call: Call, *tensors):
    """Recurrence.apply, but without what it costs where nobody asks for a gradient."""
    if torch.is_grad_enabled() or is_forward_mode():
        return Recurrence.apply(call, *tensors)
    y, last, _, _ = carry(call, *tensors)
    return y, last
