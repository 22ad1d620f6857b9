"""What CUDA can do and Numba has no word for: each intrinsic, and its twin for the simulator under
the same name.
"""

from .launch import SIMULATED

if SIMULATED:

    def quad(a, i):
        """a[i], a[i+1], a[i+2], a[i+3] of a flat array, i a multiple of 4: one 16-byte load (two
        for float64).
        """
        assert i % 4 == 0, "a quad begins at a multiple of 4"
        return a[i], a[i + 1], a[i + 2], a[i + 3]

else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    @intrinsic
    def quad(typingctx, a, i):
        """a[i], a[i+1], a[i+2], a[i+3] of a flat array, i a multiple of 4: one 16-byte load (two
        for float64).
        """
        number = a.dtype
        lanes = 128 // number.bitwidth

        def codegen(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            vector = ir.VectorType(context.get_value_type(number), lanes).as_pointer()
            values = []
            for first in range(0, 4, lanes):
                index = builder.add(arguments[1], ir.Constant(arguments[1].type, first))
                loaded = builder.load(
                    builder.bitcast(builder.gep(array.data, [index]), vector), align=16
                )
                values += [
                    builder.extract_element(loaded, ir.Constant(ir.IntType(32), k))
                    for k in range(lanes)
                ]
            return context.make_tuple(builder, signature.return_type, values)

        return types.UniTuple(number, 4)(a, types.intp), codegen
