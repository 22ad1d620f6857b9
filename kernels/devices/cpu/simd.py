"""Vectors of numbers as values of compiled code: what a formula is compiled on, to work on L units
at once.

Numba knows scalars and arrays; here it learns a type whose values are LLVM vectors, with Python's
operators and the functions of math. LLVM by itself would call a scalar `tanh` or `exp` L times: no
vector library comes with Numba.
"""

import math
import operator
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from ...binding.names import NAMES, SAME_NAME
from ...private import (
    AbstractTemplate,
    cpu_target,
    infer_global,
    lower_builtin,
    lower_cast,
    signature,
)

I32, I64 = ir.IntType(32), ir.IntType(64)


@cache
def machine() -> tuple[int, int]:
    """(bytes of a vector register, how many of them) of the processor that Numba compiles for."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    if "+avx512f" in features.split(","):
        return 64, 32
    if "+avx" in features.split(","):
        return 32, 16
    return 16, 32 if triple.startswith(("aarch64", "arm64")) else 16


@cache
def lanes(number) -> int:
    """L: how many numbers a vector register holds."""
    return machine()[0] // np.dtype(number).itemsize


class Vector(types.Type):
    """The numbers of one float type that so many registers hold."""

    def __init__(self, element, registers=1):
        self.element, self.lanes = element, registers * lanes(element.name)
        self.ir = ir.VectorType(
            ir.FloatType() if element == types.float32 else ir.DoubleType(), self.lanes
        )
        self.bits = ir.VectorType(ir.IntType(element.bitwidth), self.lanes)
        super().__init__(f"{self.lanes} × {element}")


class Mask(types.Type):
    """L truth values: what comparing two vectors gives."""

    def __init__(self, vector):
        self.vector, self.ir = vector, ir.VectorType(ir.IntType(1), vector.lanes)
        super().__init__(f"truth of {vector}")


@register_model(Vector)
@register_model(Mask)
class Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.ir)


# The terms of (eʳ − 1 − r)/r², of r⁰ first. Taylor's next one is below the last bit of a float64;
# NEAREST has the least relative error of eʳ − 1 that five can have, 1.3e-8, by Lawson's method on
# |r| ≤ ½ ln 2.
TAYLORS = [1 / math.factorial(k) for k in range(2, 14)]
NEAREST = [
    0.49999998149620656,
    0.16666543424311742,
    0.041667200711305696,
    0.008366547127217125,
    0.001388251648923074,
]


# Of 2ʳ: the terms of r¹ first, with the least relative error that five can have beside 1, 9.1e-8,
# by the same method on |r| ≤ ½. In a gate at most a quarter of it is left.
OF_2 = [
    0.6931469775991657,
    0.2402224208537598,
    0.055507337432499956,
    0.009671512639608127,
    0.0013264727197784235,
]


# by float type: numbers from which on the lowest bit is 1; ln 2 in two parts
MAGIC = {np.float32: 1.5 * 2**23, np.float64: 1.5 * 2**52}
LN2 = {
    np.float32: (0.693359375, -2.12194440e-4),
    np.float64: (0.6931471803691238, 1.9082149292705877e-10),
}


class Build:
    """Writes LLVM's instructions for vectors of one kind."""

    def __init__(self, builder, v: Vector, context: Any = None):
        self.b, self.v, self.context = builder, v, context
        self.number = np.dtype(v.element.name).type

    def __call__(self, value: float):
        return ir.Constant(self.v.ir, [float(self.number(value))] * self.v.lanes)

    def splat(self, number):
        one = self.b.insert_element(
            ir.Constant(ir.VectorType(number.type, self.v.lanes), ir.Undefined), number, I32(0)
        )
        return self.b.shuffle_vector(
            one, one, ir.Constant(ir.VectorType(I32, self.v.lanes), [0] * self.v.lanes)
        )

    def call(self, name, *values, kind=None, suffix=""):
        """One of LLVM's own operations on vectors, such as fma."""
        name = f"llvm.{name}.v{self.v.lanes}f{self.v.element.bitwidth}{suffix}"
        kind = ir.FunctionType(kind or self.v.ir, [value.type for value in values])
        return self.b.call(
            self.b.module.globals.get(name) or ir.Function(self.b.module, kind, name), values
        )

    def each(self, f, *values):
        """f of math, one lane after another."""
        typing = self.context.typing_context
        kind = typing.resolve_value_type(f)
        scalar = self.context.get_function(
            kind, kind.get_call_type(typing, [self.v.element] * len(values), {})
        )
        y = ir.Constant(self.v.ir, ir.Undefined)
        for lane in range(self.v.lanes):
            y = self.b.insert_element(
                y, scalar(self.b, [self.b.extract_element(x, I32(lane)) for x in values]), I32(lane)
            )
        return y

    def power(self, x, n):
        return self.call("powi", x, self.b.trunc(n, I32), suffix=".i32")

    def add(self, x, y):
        return self.b.fadd(x, y, ("contract",))

    def sub(self, x, y):
        return self.b.fsub(x, y, ("contract",))

    def mul(self, x, y):
        return self.b.fmul(x, y, ("contract",))

    def fma(self, x, y, z):
        return self.call("fmuladd", x, y, z)  # one instruction where the processor has it

    def choose(self, comparison, x, y):
        """x where the comparison (sign, a, b) holds, else y."""
        sign, a, b = comparison
        compare = self.b.fcmp_unordered if sign == "uno" else self.b.fcmp_ordered
        return self.b.select(compare(sign, a, b), x, y)

    def at_least(self, x, low):
        return self.choose(("<", x, self(low)), self(low), x)  # NaN passes

    def at_most(self, x, high):
        return self.choose((">", x, self(high)), self(high), x)

    def whole(self, value: int):
        return ir.Constant(self.v.bits, [value] * self.v.lanes)

    def power_of_2(self, n):
        """2ⁿ of whole numbers n in the range of the exponent."""
        bits, bias = (23, 127) if self.number is np.float32 else (52, 1023)
        return self.b.bitcast(
            self.b.shl(self.b.add(n, self.whole(bias)), self.whole(bits)), self.v.ir
        )

    def rounded(self, shifted):
        """(n, n as whole numbers), the nearest to x, of x + MAGIC: it stands in the lowest bits."""
        magic = self(MAGIC[self.number])
        bits = (self.b.bitcast(each, self.v.bits) for each in (shifted, magic))
        return self.b.fsub(shifted, magic), self.b.sub(*bits)

    def reduced(self, x, by=1, few=False):
        """by·x = n ln 2 + by·r with |by·r| ≤ ½ ln 2.  Returns (n as whole numbers, (e^(by·r) −
        1)/by).

        few  n is below 32: then the nearest float32 to ln 2, which is 2e-9 from it, is near enough
        """
        # ln 2 has two parts, the first so short that n times it is exact
        single = self.number is np.float32
        parts = (math.log(2),) if single and few else LN2[self.number]
        shifted = self.fma(x, self(by * math.log2(math.e)), self(MAGIC[self.number]))
        (n, whole), r = self.rounded(shifted), x
        for part in parts:
            r = self.fma(n, self(-part / by), r)
        series = NEAREST if single else TAYLORS
        *terms, y = (self(by ** (k + 1) * term) for k, term in enumerate(series))
        for term in reversed(terms):
            y = self.fma(y, r, term)
        return whole, self.fma(self.mul(r, r), y, r)

    def exp(self, x):
        low, high = (-104, 89) if self.number is np.float32 else (-746, 710)
        n, y = self.reduced(self.at_most(self.at_least(x, low), high))
        # in two steps: what overflows becomes infinite, what underflows does so gradually
        half = self.b.ashr(n, self.whole(1))
        y = self.b.fmul(self.b.fadd(y, self(1)), self.power_of_2(half))
        return self.b.fmul(y, self.power_of_2(self.b.sub(n, half)))

    def expm1(self, x):
        high = 89 if self.number is np.float32 else 710
        n, y = self.reduced(self.at_most(self.at_least(x, -80), high))  # e⁻⁸⁰ is nothing beside 1
        half = self.power_of_2(self.b.sub(n, self.whole(1)))
        return self.b.fmul(self(2), self.fma(y, half, self.b.fsub(half, self(0.5))))

    def tanh(self, x):
        """w/(w + 1) with w = ½ (e²ˣ − 1)."""
        beyond = 9.5 if self.number is np.float32 else 19.5  # there it is 1
        n, y = self.reduced(self.at_most(self.at_least(x, -beyond), beyond), by=2, few=True)
        power = self.power_of_2(n)
        w = self.fma(power, y, self.fma(power, self(0.5), self(-0.5)))
        return self.b.fdiv(w, self.b.fadd(w, self(1)))

    def gate(self, x):
        """1/(1 + 2ᵗ) with t = −x/ln 2, which in float32 is near enough: what t is wrong by, 2ᵗ is
        wrong by t times, but a gate that is far from ½ is wrong by 2ᵗ or 2⁻ᵗ times that.
        """
        if self.number is np.float64:
            return self.fma(self.tanh(self.mul(x, self(0.5))), self(0.5), self(0.5))
        t = self.b.fmul(x, self(-math.log2(math.e)))
        t = self.at_most(self.at_least(t, -100), 100)  # beyond, slopes would not be normal numbers
        n, whole = self.rounded(self.b.fadd(t, self(MAGIC[self.number])))
        r = self.b.fsub(t, n)
        *terms, y = map(self, [1, *OF_2])
        for term in reversed(terms):
            y = self.fma(y, r, term)
        return self.b.fdiv(self(1), self.fma(y, self.power_of_2(whole), self(1)))


@lower_cast(types.Number, Vector)
def number_to_vector(context, builder, number, vector, value):
    return Build(builder, vector).splat(context.cast(builder, value, number, vector.element))


def where(condition, a, b):
    """NumPy's, for vectors; so are the following."""


def maximum(a, b): ...


def minimum(a, b): ...


def sign(a): ...


def gate(a):
    """activations.gate."""


IN_PLACE_OF_PYTHONS = {f.__name__: f for f in (where, maximum, minimum, sign)}  # binding's say `if`


def offer(f, kinds, build, result: type[types.Type] = Vector):
    """Compiled code may call f with values of these kinds, numbers standing for vectors;
    build(Build, values…) writes it.
    """

    def fits(argument, kind):
        return isinstance(argument, kind) or (
            kind is Vector and isinstance(argument, (types.Number, types.Boolean))
        )

    @infer_global(f)
    class Typing(AbstractTemplate):
        def generic(self, arguments, keywords):
            found = [getattr(a, "vector", a) for a in arguments if isinstance(a, (Vector, Mask))]
            if (
                found
                and not keywords
                and len(arguments) == len(kinds)
                and all(map(fits, arguments, kinds))
            ):
                v = found[0]
                wanted = [
                    v if kind is Vector else argument
                    for argument, kind in zip(arguments, kinds, strict=True)
                ]
                return signature(v if result is Vector else Mask(v), *wanted)
            return None

    @lower_builtin(f, *kinds)
    def lower(context, builder, sig, values):
        return build(Build(builder, getattr(sig.args[0], "vector", sig.args[0]), context), *values)


def offer_all():
    one, two = (Vector,), (Vector, Vector)
    for f, method in ((operator.add, "add"), (operator.sub, "sub"), (operator.mul, "mul")):
        offer(f, two, getattr(Build, method))
    offer(operator.truediv, two, lambda h, x, y: h.b.fdiv(x, y))
    offer(operator.neg, one, lambda h, x: h.b.fneg(x))
    offer(operator.pos, one, lambda h, x: x)
    for f in (abs, math.fabs):
        offer(f, one, lambda h, x: h.call("fabs", x))
    for f in (math.sqrt, math.floor, math.ceil):
        offer(f, one, lambda h, x, name=f.__name__: h.call(name, x))
    for f in (math.exp, math.expm1, math.tanh, gate):
        offer(f, one, getattr(Build, f.__name__))
    for f, sign_ in (
        (operator.lt, "<"),
        (operator.le, "<="),
        (operator.gt, ">"),
        (operator.ge, ">="),
        (operator.eq, "=="),
    ):
        offer(f, two, lambda h, x, y, sign_=sign_: h.b.fcmp_ordered(sign_, x, y), Mask)
    offer(operator.ne, two, lambda h, x, y: h.b.fcmp_unordered("!=", x, y), Mask)
    offer(operator.and_, (Mask, Mask), lambda h, x, y: h.b.and_(x, y), Mask)
    offer(operator.or_, (Mask, Mask), lambda h, x, y: h.b.or_(x, y), Mask)
    offer(operator.invert, (Mask,), lambda h, x: h.b.not_(x), Mask)
    offer(where, (Mask, Vector, Vector), lambda h, c, x, y: h.b.select(c, x, y))
    for f, better in ((maximum, ">="), (minimum, "<=")):  # NaN passes through, as in NumPy
        offer(
            f,
            two,
            lambda h, x, y, better=better: h.b.select(
                h.b.fcmp_unordered("uno", x, x), x, h.b.select(h.b.fcmp_ordered(better, x, y), x, y)
            ),
        )
    offer(
        sign, one, lambda h, x: h.choose((">", x, h(0)), h(1), h.choose(("<", x, h(0)), h(-1), x))
    )
    offer(operator.pow, (Vector, types.Integer), Build.power)
    offer(operator.pow, two, lambda h, x, y: h.each(math.pow, x, y))
    done = (math.fabs, math.sqrt, math.floor, math.ceil, math.exp, math.expm1, math.tanh)
    for name in {*SAME_NAME, *NAMES.values()}:
        if (f := getattr(math, name)) not in done:
            offer(
                f,
                two if name in ("pow", "atan2", "hypot") else one,
                lambda h, *x, f=f: h.each(f, *x),
            )


offer_all()
