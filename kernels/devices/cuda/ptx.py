"""What CUDA can do and Numba has no word for: each intrinsic, and its twin for the simulator under
the same name.
"""

from typing import Any

from .launch import SIMULATED, types


def four(a, i):
    """a[i], a[i+1], a[i+2], a[i+3] of a flat array, i a multiple of 4."""
    assert i % 4 == 0, "a quad begins at a multiple of 4"
    return a[i], a[i + 1], a[i + 2], a[i + 3]


def load_of_16_bytes():
    """The intrinsic that `four` is the twin of: one load of 16 bytes, two for float64."""
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    @intrinsic
    def quad(typingctx, a, i):
        number = a.dtype
        count = 128 // number.bitwidth

        def codegen(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            vector = ir.VectorType(context.get_value_type(number), count).as_pointer()
            values = []
            for first in range(0, 4, count):
                index = builder.add(arguments[1], ir.Constant(arguments[1].type, first))
                loaded = builder.load(
                    builder.bitcast(builder.gep(array.data, [index]), vector), align=16
                )
                values += [
                    builder.extract_element(loaded, ir.Constant(ir.IntType(32), k))
                    for k in range(count)
                ]
            return context.make_tuple(builder, signature.return_type, values)

        return types.UniTuple(number, 4)(a, types.intp), codegen

    return quad


quad: Any = four if SIMULATED else load_of_16_bytes()
