"""From and to arrays, which kernels see through windows: passing an array on would count its
references, at every call.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from ...private import cgutils, from_dtype, value_of
from .compilation import intrinsic
from .simd import I32, I64, Build, Vector


class Window(types.Type):
    """Where an array's numbers are: the first one's address, and the bytes from one to the next
    along each axis.
    """

    def __init__(self, dtype, ndim):
        self.dtype, self.ndim = dtype, ndim
        super().__init__(f"window on {ndim} axes of {dtype}")


@register_model(Window)
class WindowModel(models.StructModel):
    def __init__(self, manager, window):
        members = [
            ("data", types.CPointer(window.dtype)),
            ("strides", types.UniTuple(types.intp, window.ndim)),
        ]
        super().__init__(manager, window, members)


def windowed(context, builder, kind: Window, data, strides):
    made = cgutils.create_struct_proxy(kind)(context, builder)
    made.data = data
    made.strides = context.make_tuple(builder, types.UniTuple(types.intp, kind.ndim), strides)
    return value_of(made)


def look(flat: bool):
    @intrinsic
    def window(typing, a):
        def build(context, builder, sig, values):
            array = context.make_array(a)(context, builder, values[0])
            strides = [array.itemsize] if flat else cgutils.unpack_tuple(builder, array.strides)
            return windowed(context, builder, sig.return_type, array.data, strides)

        return Window(a.dtype, 1 if flat else a.ndim)(a), build

    return window


window, flat = look(False), look(True)  # the second shows a contiguous array as one row


@intrinsic
def carve(typing, a, at, shape):
    """A window of this shape on the numbers of a flat window from `at` on, row behind row."""

    def build(context, builder, sig, values):
        kinds, sizes = sig.args[2], cgutils.unpack_tuple(builder, values[2])
        strides = [I64(a.dtype.bitwidth // 8)]
        for size, kind in list(zip(sizes, kinds, strict=True))[:0:-1]:
            strides.insert(
                0, builder.mul(strides[0], context.cast(builder, size, kind, types.intp))
            )
        data = builder.gep(place(context, builder, a, values[0]), [values[1]])
        return windowed(context, builder, sig.return_type, data, strides)

    return Window(a.dtype, len(shape))(a, types.intp, shape), build


@intrinsic
def exchanged(typing, a, yes):
    """The window, with its first two axes exchanged where `yes`."""

    def build(context, builder, sig, values):
        window = cgutils.create_struct_proxy(a)(context, builder, values[0])
        first, second, *others = cgutils.unpack_tuple(builder, window.strides)
        strides = [
            builder.select(values[1], second, first),
            builder.select(values[1], first, second),
            *others,
        ]
        return windowed(context, builder, a, window.data, strides)

    return a(a, types.boolean), build


@intrinsic
def parted(typing, a, yes, length):
    """The window; where `yes`, its axis 2 goes over parts of so many rows of axis 1."""

    def build(context, builder, sig, values):
        window = cgutils.create_struct_proxy(a)(context, builder, values[0])
        strides = cgutils.unpack_tuple(builder, window.strides)
        far = builder.mul(strides[1], values[2])
        strides[2] = builder.select(values[1], far, strides[2])
        return windowed(context, builder, a, window.data, strides)

    return a(a, types.boolean, types.intp), build


def on_stack(number, shape: tuple[int, ...]):
    """What makes () -> an array of the function's own, at the beginning of a cache line: a flat
    window on it, and one of its shape.
    """
    element = from_dtype(np.dtype(number))
    strides = [element.bitwidth // 8 * math.prod(shape[k:]) for k in range(1, len(shape) + 1)]

    @intrinsic
    def room(typing):
        def build(context, builder, sig, values):
            item = context.get_value_type(element)
            memory = cgutils.alloca_once(builder, ir.ArrayType(item, math.prod(shape)))
            memory.align, data = 64, builder.bitcast(memory, item.as_pointer())
            kinds = zip(sig.return_type, (strides[-1:], strides), strict=True)
            views = [
                windowed(context, builder, kind, data, [I64(stride) for stride in steps])
                for kind, steps in kinds
            ]
            return context.make_tuple(builder, sig.return_type, views)

        return types.Tuple((Window(element, 1), Window(element, len(shape))))(), build

    return room


def place(context, builder, window, a, indices: Any = None, at=None):
    """A pointer to a[at]; without an index to the first number."""
    a = cgutils.create_struct_proxy(window)(context, builder, a)
    if at is None:
        return a.data
    p = builder.bitcast(a.data, ir.IntType(8).as_pointer())
    for i, kind, stride in zip(
        cgutils.unpack_tuple(builder, at),
        indices,
        cgutils.unpack_tuple(builder, a.strides),
        strict=True,
    ):
        p = builder.gep(p, [builder.mul(context.cast(builder, i, kind, types.intp), stride)])
    return builder.bitcast(p, a.data.type)


def access(storing: bool, how: str):
    """load(a, index, count) -> numbers, or store(a, index, count, numbers): those of window a that
    begin at a[index].

    how  "vector", "pair": all of one or two registers; "masked", "masked pair": their first `count`
         lanes; "scalar": a number
    """
    registers = 2 if "pair" in how else 1

    def build(context, builder, sig, values):
        a, (window, index) = values[0], sig.args[:2]
        p = place(context, builder, window, a, index, values[1])
        align = max(window.dtype.bitwidth // 8, 1)
        if how != "scalar":
            h = Build(builder, Vector(window.dtype, registers))
            p = builder.bitcast(p, h.v.ir.as_pointer())
        if "masked" in how:
            lane = ir.Constant(ir.VectorType(I64, h.v.lanes), list(range(h.v.lanes)))
            mask = builder.icmp_signed("<", lane, h.splat(values[2]))
            if storing:
                h.call(
                    "masked.store", values[3], p, I32(align), mask, kind=ir.VoidType(), suffix=".p0"
                )
            else:
                return h.call("masked.load", p, I32(align), mask, h(0), suffix=".p0")
        elif storing:
            builder.store(values[3], p).align = align
        else:
            x = builder.load(p)
            x.align = align
            return x
        return context.get_dummy_value()

    def kind(a):
        return a.dtype if how == "scalar" else Vector(a.dtype, registers)

    @intrinsic
    def load(typing, a, index, count):
        return kind(a)(a, index, types.intp), build

    @intrinsic
    def store(typing, a, index, count, x):
        return types.void(a, index, types.intp, kind(a)), build

    return store if storing else load


# how all of a register's or a pair's numbers are taken: how their first ones are
MASKED = {"vector": "masked", "pair": "masked pair"}
LOAD, STORE = (
    {how: access(storing, how) for how in (*MASKED, *MASKED.values(), "scalar")}
    for storing in (False, True)
)


@intrinsic
def prefetch(typing, a, index, count):
    """In place of a load: the line of the cache that a[index] stands in, which is soon to be read
    or written.  Returns `count`.
    """

    def build(context, builder, sig, values):
        p = place(context, builder, sig.args[0], values[0], sig.args[1], values[1])
        kind = ir.FunctionType(ir.VoidType(), [p.type, I32, I32, I32])
        prefetch = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0"
        )
        builder.call(prefetch, [p, I32(0), I32(3), I32(1)])
        return values[2]

    return types.intp(a, index, types.intp), build


@intrinsic
def transpose(typing, a, row, k, out, index):
    """out[index], L rows of L numbers along axis 1, become the transpose of a[row : row + L, k : k
    + L].
    """
    v = Vector(a.dtype)

    def build(context, builder, sig, values):
        L, align = v.lanes, a.dtype.bitwidth // 8
        source, target = (
            cgutils.create_struct_proxy(w)(context, builder, x)
            for w, x in ((a, values[0]), (out, values[3]))
        )
        steps = [
            cgutils.unpack_tuple(builder, s.strides)[axis] for s, axis in ((source, 0), (target, 1))
        ]
        at = context.make_tuple(
            builder,
            types.UniTuple(types.intp, 2),
            [context.cast(builder, x, types.intp, types.intp) for x in values[1:3]],
        )
        starts = (
            place(context, builder, a, values[0], (types.intp,) * 2, at),
            place(context, builder, out, values[3], index, values[4]),
        )

        def row_at(start, step, r):
            p = builder.gep(
                builder.bitcast(start, ir.IntType(8).as_pointer()), [builder.mul(step, I64(r))]
            )
            return builder.bitcast(p, v.ir.as_pointer())

        rows = [builder.load(row_at(starts[0], steps[0], r)) for r in range(L)]
        for x in rows:
            x.align = align
        half = L // 2
        while half:  # exchange the off-diagonal quarters of blocks of 2·half
            for r in (r for r in range(L) if not r & half):
                low = [lane if not lane & half else L + lane - half for lane in range(L)]
                high = [lane + half if not lane & half else L + lane for lane in range(L)]
                pair = rows[r], rows[r + half]
                rows[r], rows[r + half] = (
                    builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, L), order))
                    for order in (low, high)
                )
            half //= 2
        for r, x in enumerate(rows):
            builder.store(x, row_at(starts[1], steps[1], r)).align = align
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, out, index), build
