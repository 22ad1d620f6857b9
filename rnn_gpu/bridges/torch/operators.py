"""One layer in one direction as operators of torch's: what torch.compile, torch.export, torch.func
and tensors without numbers see of it.

rnn_gpu::forward   a layer's way forward; its slope is
rnn_gpu::backward  BPTT, which has none

All that goes in is a tensor, a number, a bool or a string. A cell goes by its name in the registry.
"""

from math import inf
from typing import Any, ClassVar, NamedTuple

import torch

from ...errors import ShapeError
from ...kernels import Clip
from ..registry import cell_named
from .chunks import gone_by, way_of
from .functions import refuse_second_derivatives
from .passes import Call, Left, carry, check_saved, check_shapes, retreat, steps_in
from .private import SingleLevelFunction, below_autograd, one_level, watched
from .small import PLAIN, carried, retreated
from .tensors import device_of, precision_of

NAMESPACE = "rnn_gpu"


class How(NamedTuple):
    """What an operator takes behind its tensors."""

    cell: str  # its name in the registry
    precision: str  # of products; "" is what torch's own modules have
    reverse: bool  # from the last step to the first
    dead: bool  # flags may say that a step does not happen
    resets: bool  # flags may say that a sample begins anew
    clip_value: float | None  # see Clip; None is no bound
    clip_norm: float | None
    parallel: str = ""  # how a long sequence is cut in chunks: see chunks.said
    tolerance: float = 1e-6  # of chunks


HOW = (
    "str cell, str precision, bool reverse, bool dead, bool resets, float? clip_value, "
    "float? clip_norm, str parallel='', float tolerance=1e-6"
)
SCHEMAS = {
    # x (T, B, m), s0 (S, B, n), flags (T, B) uint8 -> y (T, B, n), last (S, B, n); s (S, T+1, B, n)
    # and kept (T, B, K, n) for the way back: see carry, with states that are given in s0 too; cut
    # () int64 of the host, Gone.number
    "forward": f"(Tensor x, Tensor s0, Tensor U, Tensor W, Tensor b, Tensor? c, Tensor? flags, "
    f"{HOW}) -> (Tensor y, Tensor last, Tensor s, Tensor kept, Tensor cut)",
    # -> gradients; dc is (0,) of a cell without c; clipped () int64
    "backward": f"(Tensor dy, Tensor dlast, Tensor x, Tensor U, Tensor W, Tensor s, Tensor kept, "
    f"Tensor? flags, Tensor? cut, {HOW}) -> (Tensor dx, Tensor ds0, Tensor dU, Tensor dW, "
    "Tensor db, Tensor dc, Tensor clipped)",
}


def call_of(x, flags, how: How) -> Call:
    """The call that an operator's arguments describe."""
    device = device_of(x)
    steps = steps_in(device, x, flags, how.dead, how.resets)
    precision, way = precision_of(x, how.precision or None), way_of(how.parallel, how.tolerance)
    cell, clip, left = cell_named(how.cell), clip_of(how), Left(False)
    return Call(cell, device, precision, steps, how.reverse, clip, left, way, joined=True)


def clip_of(how: How) -> Clip:
    """The bounds of δ that an operator's arguments say."""
    value, norm = (inf if b is None else b for b in (how.clip_value, how.clip_norm))
    return Clip(value, norm)


def may_be_small(how: How, flags) -> bool:
    """May a call go by addresses, as far as it is told beside its tensors?"""
    return flags is None and not how.parallel and how.precision in ("", "fp32")


def forward(x, s0, U, W, b, c, flags, *how):
    """rnn_gpu::forward on tensors that have numbers."""
    how, found = How(*how), None
    check_shapes(cell_named(how.cell), x, s0, U, W, b, c)
    if may_be_small(how, flags):
        found = carried(cell_named(how.cell), how.reverse, x, s0, U, W, b, c)
    if found is not None:
        return *found, torch.tensor(0)
    call = call_of(x, flags, how)
    return *carry(call, x, s0, U, W, b, c), torch.tensor(call.left.gone.number)


def backward(dy, dlast, x, U, W, s, kept, *others):
    """rnn_gpu::backward on tensors that have numbers; others: flags, cut and a How's."""
    flags, cut, *how = others
    how, tensors, found = How(*how), (dy, dlast, x, U, W, s, kept), None
    (T, B, _), cell = x.shape, cell_named(how.cell)
    check_saved(cell, *tensors)
    if s.shape[1:3] not in ((T + 1, B), (2 * T + 1, B)) or kept.shape[:2] != (T, B):
        raise ShapeError(f"s {tuple(s.shape)} and kept {tuple(kept.shape)} of x {tuple(x.shape)}")
    if may_be_small(how, flags):
        found = retreated(cell, how.reverse, clip_of(how), *tensors)
    if found is None:
        call = call_of(x, flags, how)
        if cut is not None:
            call.left.gone = gone_by(int(cut), T, B)
        back, gradients = retreat(call, *tensors)
        found = gradients, back.clipped_steps
    (*gradients, dc), clipped = found
    clipped = torch.as_tensor(clipped, dtype=torch.int64, device=x.device)
    return *gradients, U.new_empty(0) if dc is None else dc, clipped


def forward_shapes(x, s0, U, W, b, c, flags, *how):
    """rnn_gpu::forward on tensors without numbers."""
    (T, B, _), (_, n), cell = x.shape, W.shape, cell_named(How(*how).cell)
    y, last = x.new_empty((T, B, n)), x.new_empty((cell.states, B, n))
    steps = 2 * T + 1 if s0.dim() == 4 else T + 1
    s, kept = x.new_empty((cell.states, steps, B, n)), x.new_empty((T, B, cell.kept, n))
    return y, last, s, kept, torch.empty((), dtype=torch.int64)


def backward_shapes(dy, dlast, x, U, W, s, kept, *others):
    """rnn_gpu::backward on tensors without numbers; others: see backward."""
    _, _, *how = others
    (S, steps, B, n), T = s.shape, x.shape[0]
    rows, cell = U.shape[0], cell_named(How(*how).cell)
    ds0 = (S, B, n) if steps == T + 1 else (S, 1 + T, B, n)
    shapes = x.shape, ds0, U.shape, W.shape, (rows,), (rows if cell.apart else 0,)
    return *map(x.new_empty, shapes), x.new_empty((), dtype=torch.int64)


def setup_context(ctx, inputs, output):
    """Keep what rnn_gpu::backward takes of the arguments and results of rnn_gpu::forward."""
    x, _, U, W, _, c, flags, *how = inputs
    _, _, *left = output
    ctx.mark_non_differentiable(*left)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, U, W, *left, flags)
    ctx.how, ctx.apart = how, c is not None


def gradients(ctx, dy, dlast, *_):
    """The slope of rnn_gpu::forward, from dE/dy and dE/d(last); None is zero."""
    x, U, W, s, kept, cut, flags = ctx.saved_tensors
    (T, B, _), (_, n) = x.shape, W.shape
    dy = x.new_zeros((T, B, n)) if dy is None else dy
    dlast = x.new_zeros((s.shape[0], B, n)) if dlast is None else dlast
    *found, dc, _ = BACKWARD(dy, dlast, x, U, W, s, kept, flags, cut, *ctx.how)
    return *found, dc if ctx.apart else None, None, *(None for _ in ctx.how)


def forward_over_batch(info, in_dims, *given):
    """rnn_gpu::forward of V examples: one call of V·B samples, where they share the weights."""
    V, dims, tensors, how = info.batch_size, in_dims[:7], given[:7], given[7:]
    x, s0, *weights, flags = tensors
    if any(dim is not None for dim in dims[2:6]):
        return one_by_one(FORWARD, V, dims, tensors, how)
    x, s0 = (folded(a, dim, V) for a, dim in zip((x, s0), dims, strict=False))
    flags = None if flags is None else folded(flags[..., None], dims[6], V)[..., 0]
    *results, cut = FORWARD(x, s0, *weights, flags, *how)
    axes = 1, 1, 2, 1  # of samples
    each = [a.unflatten(axis, (V, -1)) for a, axis in zip(results, axes, strict=True)]
    return (*each, cut), (*axes, None)


def backward_over_batch(info, in_dims, *given):
    """rnn_gpu::backward of V examples, each of which has gradients of the weights of its own."""
    return one_by_one(BACKWARD, info.batch_size, in_dims[:9], given[:9], given[9:])


def folded(a, dim, V):
    """a (…, B, ·) of V examples, which are along dim, or share it (None) -> (…, V·B, ·)."""
    a = (
        a.unsqueeze(-3).expand(*a.shape[:-2], V, *a.shape[-2:])
        if dim is None
        else a.movedim(dim, -3)
    )
    return a.flatten(-3, -2)


def one_by_one(operator, V, dims, tensors, how):
    """An operator called for each of V examples; results (V, …)."""
    examples = [
        [a if dim is None else a.select(dim, i) for a, dim in zip(tensors, dims, strict=True)]
        for i in range(V)
    ]
    results = [operator(*example, *how) for example in examples]
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


class Slope(SingleLevelFunction):
    """How autograd sees an operator, whatever transforms of torch.func are around: what
    torch.library.register_autograd makes of setup_context and backward refuses torch.func.grad.
    """

    operator: ClassVar[Any]
    kernel: ClassVar[Any]

    @classmethod
    def called(cls, *given):
        """The operator where autograd may be looking."""
        if torch.is_grad_enabled():
            with one_level():
                return cls.apply(*given)
        tensors = [a for a in given if isinstance(a, torch.Tensor)]
        if all(type(a) in PLAIN for a in tensors) and not watched(tensors[0]):
            return cls.kernel(*given)  # what the operator would come to, which costs 10 µs
        return cls.below(*given)

    @classmethod
    def below(cls, *given):
        """The operator where autograd looks no more."""
        with below_autograd():
            return cls.operator(*given)


class Forward(Slope):
    """rnn_gpu::forward, whose slope is rnn_gpu::backward."""

    @staticmethod
    def forward(ctx, *given):
        results = Forward.below(*given)
        setup_context(ctx, given, results)
        return results

    backward = staticmethod(gradients)


class Backward(Slope):
    """rnn_gpu::backward, which has no slope."""

    @staticmethod
    def forward(ctx, *given):
        return Backward.below(*given)

    backward = staticmethod(refuse_second_derivatives)


def define(name: str, kernel, shapes, over_batch, slope: type[Slope]) -> Any:
    """Define an operator of torch's, with all that torch asks of one."""
    full = f"{NAMESPACE}::{name}"
    torch.library.define(full, SCHEMAS[name])
    slope.operator = getattr(getattr(torch.ops, NAMESPACE), name).default
    slope.kernel = staticmethod(kernel)
    torch.library.impl(full, "default", kernel)
    torch.library.impl(full, "Autograd", slope.called)
    torch.library.register_fake(full, shapes)
    if hasattr(torch.library, "register_vmap"):  # since torch 2.5
        torch.library.register_vmap(full, over_batch)
    return slope.operator


FORWARD = define("forward", forward, forward_shapes, forward_over_batch, Forward)
BACKWARD = define("backward", backward, backward_shapes, backward_over_batch, Backward)
