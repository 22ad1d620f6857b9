"""What CUDA can do and Numba has no word for: each intrinsic, and its twin for the simulator under
the same name.

A *place* is where a number stands in global memory: on a card its address, in the simulator its
index in a flat array. So a kernel goes from a step to the next by adding a distance, where an index
of an array in four dimensions takes a dozen instructions. Both have 64 bits.
"""

from typing import Any, NamedTuple

import numpy as np

from .launch import SIMULATED, device_function, types


def flat_view(a):
    """a, C-contiguous, as `load` and `store` take it."""
    assert a.is_c_contiguous(), "places are reckoned in contiguous arrays"
    return a.reshape(-1)


def index(a, i):
    """The place of number i of a, before the first and behind the last too."""
    return i


def numbers(a, count):
    """The distance of `count` numbers of a."""
    return count


def element(a, place, i):
    """The number of a that stands i numbers behind the place."""
    assert 0 <= place + i < a.size, "read outside the array"
    return a[place + i]


def put_element(a, place, i, value):
    """`load`'s opposite."""
    assert 0 <= place + i < a.size, "written outside the array"
    a[place + i] = value


def nothing_fetched(place):
    """What stands there will be asked for soon: a card fetches 128 bytes to its L2 cache."""


def shared_index(a, i):
    """The place of number i of shared memory: 32 bits."""
    return i


def four(a, place, i):
    """Four numbers of shared memory, the first i numbers behind the place: a multiple of 4."""
    assert (place + i) % 4 == 0, "a quad begins at a multiple of 4"
    return tuple(a[place + i + k] for k in range(4))


def put_shared_element(a, place, i, value):
    a[place + i] = value


def put_four(a, place, i, values):
    """`four`'s opposite."""
    assert (place + i) % 4 == 0, "a quad begins at a multiple of 4"
    for k in range(4):
        a[place + i + k] = values[k]


def one_over_root(x):
    """1/√x of a positive number, within two units in the last place."""
    return 1 / np.sqrt(x)


class Intrinsics(NamedTuple):
    """Names of this module; `twins` says what each does."""

    flat: Any
    place: Any
    distance: Any
    load: Any
    store: Any
    prefetch: Any
    shared_place: Any
    quad: Any
    put_shared: Any
    put_quad: Any
    inverse_root: Any


def twins() -> Intrinsics:
    return Intrinsics(
        flat_view,
        index,
        numbers,
        element,
        put_element,
        nothing_fetched,
        shared_index,
        four,
        put_shared_element,
        put_four,
        one_over_root,
    )


def intrinsics() -> Intrinsics:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    half, word, nothing = ir.IntType(32), ir.IntType(64), ir.VoidType()
    GLOBAL, SHARED = 1, 3  # LLVM's numbers of memories: with them no access has to ask for its own

    def size_of(context, array):
        return context.get_abi_sizeof(context.get_data_type(array.dtype))

    def pointer(context, builder, array, memory, place, i):
        """To what stands i numbers behind the place."""
        number = ir.PointerType(context.get_data_type(array.dtype), memory)
        return builder.gep(builder.inttoptr(place, number), [i])

    @intrinsic
    def place(typingctx, a, i):
        def codegen(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            return builder.ptrtoint(builder.gep(array.data, [arguments[1]]), word)

        return types.int64(a, types.int64), codegen

    @intrinsic
    def distance(typingctx, a, count):
        def codegen(context, builder, signature, arguments):
            bytes = ir.Constant(word, size_of(context, signature.args[0]))
            return builder.mul(arguments[1], bytes)

        return types.int64(a, types.int64), codegen

    @intrinsic
    def load(typingctx, a, place, i):
        def codegen(context, builder, signature, arguments):
            _, place, i = arguments
            return builder.load(pointer(context, builder, signature.args[0], GLOBAL, place, i))

        return a.dtype(a, types.int64, types.int64), codegen

    @intrinsic
    def store(typingctx, a, place, i, value):
        def codegen(context, builder, signature, arguments):
            _, place, i, value = arguments
            builder.store(value, pointer(context, builder, signature.args[0], GLOBAL, place, i))
            return context.get_dummy_value()

        return types.void(a, types.int64, types.int64, a.dtype), codegen

    @intrinsic
    def prefetch(typingctx, place):
        def codegen(context, builder, signature, arguments):
            form = ir.FunctionType(nothing, [word])
            fetch = ir.InlineAsm(form, "prefetch.global.L2 [$0];", "l", side_effect=True)
            builder.call(fetch, arguments)
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    @intrinsic
    def shared_place(typingctx, a, i):
        def codegen(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            number = context.get_data_type(signature.args[0].dtype)
            first = builder.addrspacecast(array.data, ir.PointerType(number, SHARED))
            return builder.trunc(builder.ptrtoint(builder.gep(first, [arguments[1]]), word), half)

        return types.int32(a, types.int64), codegen

    @intrinsic
    def quad(typingctx, a, place, i):
        """One load of 16 bytes, two for float64."""
        count = 128 // a.dtype.bitwidth

        def codegen(context, builder, signature, arguments):
            _, place, i = arguments
            number = context.get_data_type(a.dtype)
            vector = ir.PointerType(ir.VectorType(number, count), SHARED)
            values = []
            for first in range(0, 4, count):
                behind = builder.add(i, ir.Constant(i.type, first))
                where = pointer(context, builder, a, SHARED, builder.zext(place, word), behind)
                loaded = builder.load(builder.bitcast(where, vector), align=16)
                values += [builder.extract_element(loaded, half(k)) for k in range(count)]
            return context.make_tuple(builder, signature.return_type, values)

        return types.UniTuple(a.dtype, 4)(a, types.int32, types.int64), codegen

    @intrinsic
    def put_shared(typingctx, a, place, i, value):
        def codegen(context, builder, signature, arguments):
            _, place, i, value = arguments
            place = builder.zext(place, word)
            builder.store(value, pointer(context, builder, signature.args[0], SHARED, place, i))
            return context.get_dummy_value()

        return types.void(a, types.int32, types.int64, a.dtype), codegen

    @intrinsic
    def put_quad(typingctx, a, place, i, values):
        """One store of 16 bytes, two for float64."""
        count = 128 // a.dtype.bitwidth

        def codegen(context, builder, signature, arguments):
            _, place, i, values = arguments
            form = ir.VectorType(context.get_data_type(a.dtype), count)
            for first in range(0, 4, count):
                behind = builder.add(i, ir.Constant(i.type, first))
                where = pointer(context, builder, a, SHARED, builder.zext(place, word), behind)
                vector = ir.Constant(form, ir.Undefined)
                for k in range(count):
                    value = builder.extract_value(values, first + k)
                    vector = builder.insert_element(vector, value, half(k))
                where = builder.bitcast(where, ir.PointerType(form, SHARED))
                builder.store(vector, where, align=16)
            return context.get_dummy_value()

        own = types.UniTuple(a.dtype, 4)
        return types.void(a, types.int32, types.int64, own), codegen

    @intrinsic
    def inverse_root(typingctx, x):
        if x == types.float32:
            text, constraints = "rsqrt.approx.ftz.f32 $0, $1;", "=f,f"
        else:
            text = "{.reg .f64 root; sqrt.rn.f64 root, $1; rcp.rn.f64 $0, root;}"
            constraints = "=d,d"

        def codegen(context, builder, signature, arguments):
            form = ir.FunctionType(arguments[0].type, [arguments[0].type])
            return builder.call(ir.InlineAsm(form, text, constraints), arguments)

        return x(x), codegen

    return Intrinsics(
        device_function(lambda a: a),
        place,
        distance,
        load,
        store,
        prefetch,
        shared_place,
        quad,
        put_shared,
        put_quad,
        inverse_root,
    )


chosen = twins() if SIMULATED else intrinsics()
flat, place, distance, load, store, prefetch = chosen[:6]
shared_place, quad, put_shared, put_quad, inverse_root = chosen[6:]
