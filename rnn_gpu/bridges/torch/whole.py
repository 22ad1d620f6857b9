"""A module's whole call as one node of autograd, by the addresses of its tensors: eager calls of
plain CPU tensors, all steps live, of which threads share all kernels or none. All others go layer
by layer: see calls.
"""

from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch

from ...errors import OrderError
from ...kernels import UNCLIPPED, Cell, Clip
from ...kernels.devices.cpu.by_address import Rows, way_of
from ...kernels.once import once
from ...layers.stateful import clip_of
from .functions import not_again
from .passes import Left
from .private import SingleLevelFunction, is_forward_mode, parameters_of, watched
from .small import NUMBERS, PLAIN, address, addresses, in_rows, is_plain, new, rows_of
from .threads import carried_by, pays, retreated_by

STRICT = None, "fp32"  # precisions that the CPU has
NOTHING = Left(False)  # of layers behind the first, which has all that a call leaves
needs_gradient = attrgetter("requires_grad")


class Plan:
    """What calls of a module have in common: `count` layers of n units, the first of m features, in
    one direction or two, with two parameters or four each, on numbers of one dtype.
    """

    def __init__(self, cell: Cell, m: int, n: int, count: int, directions: int, bias: bool, dtype):
        number, sizes = NUMBERS[dtype], (m, *[n * directions] * (count - 1))
        self.ways = tuple(way_of(cell, features, n, number) for features in sizes)
        self.n, self.width, self.directions = n, n * directions, directions
        self.states, self.item, self.each = cell.states, number.itemsize, 4 if bias else 2
        self.count, self.largest = count * directions, max(self.ways, key=attrgetter("m"))
        self.dtype, self.shapes = dtype, []  # of all parameters
        for features in sizes:
            rows = cell.gates * n
            of_one = ((rows, features), (rows, n), (rows,), (rows,))[: self.each]
            self.shapes += [torch.Size(shape) for shape in of_one] * directions
        self.matrices = [shape for shape in self.shapes if len(shape) == 2]


plan_of = once(Plan)


class Whole(NamedTuple):
    """What a call has beside tensors."""

    plan: Plan
    T: int
    B: int
    rows_first: bool  # is the output (B, T, ·)
    clip: Clip
    left: Left


def whole(module, input, hx: tuple | None) -> tuple | None:
    """(output, each last state) of a module's call; None where it does not go this way, for
    whatever reason, be it an error.  hx: a tensor of each state, or None
    """
    if torch.compiler.is_compiling() or type(input) not in PLAIN or not is_ready(module, input):
        return None
    dtype, (T, B, m), n = input.dtype, input.shape, module.hidden_size
    T, B = (B, T) if module.batch_first else (T, B)
    how = module.num_layers, 1 + module.bidirectional, module.bias
    plan = plan_of(module.cell, module.input_size, n, *how, dtype)
    if m != module.input_size or input.numel() == 0 or not pays(plan.largest, T, B):
        return None
    weights, states = parameters_of(module), hx or ()
    shapes = *plan.shapes, *[(plan.count, B, n)] * len(states)
    for tensor, shape in zip((*weights, *states), shapes, strict=True):
        if not (in_rows(tensor, dtype) and tensor.shape == shape):
            return None
    x = input.transpose(0, 1) if module.batch_first and T > 1 and B > 1 else input
    call = Whole(plan, T, B, module.batch_first, clip_of_module(module), Left(False))
    left = call.left, *[NOTHING] * (plan.count - 1)
    vars(module)["_left"] = left  # torch's own assignment takes longer than a step
    tensors = x.contiguous(), *states, *weights
    if torch.is_grad_enabled() and any(map(needs_gradient, tensors)):
        return Passed.apply(call, *tensors)
    return carried(call, False, *tensors)[0]


def is_ready(module, input) -> bool:
    """May a call of a module go this way, as far as its options and the input say?"""
    dtype, drops = input.dtype, module.dropout and module.training and module.num_layers > 1
    plain = dtype in NUMBERS and is_plain(input, dtype) and input.dim() == 3
    if not plain or watched(input) or is_forward_mode() or torch.is_autocast_enabled("cpu"):
        return False
    if module.precision not in STRICT:  # which is refused on the CPU
        return False
    return not (drops or module.proj_size or module.differentiable_twice or module.parallel)


def clip_of_module(module) -> Clip:
    """The bounds of δ that a module was given."""
    if module.clip_step_value is None and module.clip_step_norm is None:
        return UNCLIPPED
    return clip_of(module.clip_step_value, module.clip_step_norm)


class Places(NamedTuple):
    """Where in the memory of a call, in bytes, there is what it keeps."""

    numbers: int  # of it all
    tapes: list[tuple[int, int]]  # s and kept of each layer and direction
    between: list[int]  # the outputs (T, B, ·) of all layers but the last


@lru_cache(maxsize=64)
def places(plan: Plan, T: int, B: int, taped: bool) -> Places:
    """Of a call on T steps of B samples; tapes are kept if it is `taped`."""
    at, tapes, between = 0, [], []
    for way in plan.ways:
        for _ in range(plan.directions):
            s, kept = way.tape(T, B) if taped else (0, 0)
            tapes.append((at * plan.item, (at + s) * plan.item))
            at += s + kept
    for way in plan.ways[1:]:
        between.append(at * plan.item)
        at += T * B * way.m
    return Places(at, tapes, between)


def by_layers(weights, each: int, count: int) -> list[tuple]:
    """The addresses of `each` parameters of every layer and direction, and 0 up to a count."""
    at, none = addresses(weights), (0,) * (count - each)
    return [(*at[i : i + each], *none) for i in range(0, len(at), each)]


def moved(addresses, by: int) -> tuple:
    """So many bytes further; 0, which is none, stays."""
    return tuple([at and at + by for at in addresses])


def beyond(base: int, places: tuple[int, int]) -> tuple[int, int]:
    """The addresses of two places in the memory there."""
    return base + places[0], base + places[1]


def of_direction(rows: Rows, d: int, plan: Plan) -> tuple:
    """The part that one direction has of them."""
    at, *steps = rows
    return at + d * plan.n * rows.unit * plan.item, *steps


def carried(call: Whole, taped: bool, x, *tensors) -> tuple[tuple, Any]:
    """x (T, B, m), states and parameters -> ((output, each last state), what the way back needs,
    if anything is kept).
    """
    plan, T, B, rows_first, *_ = call
    S, width, here = plan.states, plan.width, places(plan, T, B, taped)
    y = new(x, (B, T, width) if rows_first else (T, B, width))
    last = [x.new_empty((plan.count, B, plan.n)) for _ in range(S)]
    room = new(x, (here.numbers,)) if here.numbers else x
    states, θ = tensors[: -len(plan.shapes)], by_layers(tensors[-len(plan.shapes) :], plan.each, 4)
    begin, end = addresses(states) or [0] * S, addresses(last)
    at, base, state = address(x), address(room), B * plan.n * plan.item
    for k, way in enumerate(plan.ways):
        top = k == len(here.between)
        out = rows_of(y, rows_first) if top else Rows(base + here.between[k], B * width, width, 1)
        for d in range(plan.directions):
            i = k * plan.directions + d
            s0, s = moved(begin, i * state), moved(end, i * state)
            tape = beyond(base, here.tapes[i]) if taped else (0, 0)
            y_d = of_direction(out, d, plan)
            carried_by(way, T, B, (at, *θ[i]), s0, y_d, s, tape, d == 1)
        at = out.at
    return (y, *last), room


def retreated(call: Whole, needed, x, room, dy, *tensors) -> tuple:
    """dE/d(output) and dE/d(each last state), None is zero, back through all layers -> gradients of
    what `carried` took; None of x if it is not needed.

    needed   which of these are
    tensors  dE/d(each last state), then U and W of each layer and direction
    """
    plan, T, B, rows_first, clip, left = call
    S, width, here = plan.states, plan.width, places(plan, T, B, True)
    dy = x.new_zeros(1).expand(T, B, width) if dy is None else dy.resolve_neg()
    dlast = [None if d is None else d.resolve_neg().contiguous() for d in tensors[:S]]
    ds0 = [x.new_empty((plan.count, B, plan.n)) for _ in needed[1 : -len(plan.shapes)]]
    dθ = [x.new_empty(shape) for shape in plan.shapes]
    arrived, begin = addresses(dlast), addresses(ds0) or [0] * S
    θ, into = by_layers(tensors[S:], 2, 2), by_layers(dθ, plan.each, 4)
    out, base, state = rows_of(dy, rows_first), room.data_ptr(), B * plan.n * plan.item
    clipped = 0
    for k, way in reversed(list(enumerate(plan.ways))):
        at, below = base + here.between[k - 1] if k else x.data_ptr(), []
        for d in range(plan.directions):
            i = k * plan.directions + d
            if k or needed[0]:
                below.append(new(x, (T, B, way.m) if k else x.shape))
            given, dy_d = (at, *θ[i], *beyond(base, here.tapes[i])), of_direction(out, d, plan)
            ends = moved(arrived, i * state), moved(begin, i * state)
            to = below[d].data_ptr() if below else 0, *into[i]
            how = given, dy_d, ends, to, d == 1, clip
            clipped += retreated_by(way, T, B, *how)
        dx = sum(below[1:], below[0]) if below else None  # whose numbers `out` is
        out = rows_of(dx, False) if k else out
    left.clipped_steps = clipped
    return dx, *ds0, *dθ


def as_saved(call: Whole, x, room, *weights) -> list:
    """What the way forward saved, row behind row.  OrderError where it is no more what it was, of
    which torch tells nobody: by module.double(), θ.data = …, or a hook of saved tensors.
    """
    plan, T, B, *_ = call
    sizes = T * B * plan.ways[0].m, places(plan, T, B, True).numbers
    same = (x.numel(), room.numel()) == sizes and [a.shape for a in weights] == plan.matrices
    if not (same and all(a.dtype is plan.dtype for a in (x, room, *weights))):
        raise OrderError(
            "what the way forward saved has another dtype or shape now: change parameters, as by "
            "module.double(), before a call or after its backward"
        )
    return [a.contiguous() for a in (x, room, *weights)]


class Passed(SingleLevelFunction):
    """A call, and BPTT through all of its layers."""

    @staticmethod
    def forward(ctx, call, *tensors):
        results, room = carried(call, True, *tensors)
        ctx.call = call
        ctx.set_materialize_grads(False)
        weights = [a for a in tensors[-len(call.plan.shapes) :] if a.dim() == 2]
        ctx.save_for_backward(tensors[0], room, *weights)  # torch then sees what was written into
        return results

    @staticmethod
    def backward(ctx, *gradients):
        x, room, *weights = as_saved(ctx.call, *ctx.saved_tensors)
        back = partial(retreated, ctx.call, ctx.needs_input_grad[1:], x, room)
        return None, *not_again(back, *gradients, *weights)
