"""A formula, bound to a device, has the kernel's type throughout and means what it meant in
Python.
"""

import math
from collections import namedtuple
from functools import cache
from math import pi, tanh

import numpy as np
import pytest
from numba import njit, types
from numpy import exp as e

from conftest import close
from rnn_gpu.kernels import whole_arrays
from rnn_gpu.kernels.binding import bind
from rnn_gpu.kernels.binding.literals import retyped
from rnn_gpu.kernels.binding.names import NAMES, interpreted_maths
from rnn_gpu.kernels.devices import cpu, reference

NUMBA = {np.float32: types.float32, np.float64: types.float64}


@pytest.fixture(params=NUMBA, ids=lambda number: number.__name__)
def number(request):
    return request.param


def define(name, text, **names):
    """The function that a text defines: of more literals, or arguments, than one writes by hand."""
    names["__name__"] = __name__
    exec(compile(text, f"<{name}>", "exec"), names)
    return names[name]


def as_is(f):
    return f


def interpreted(f, number=np.float32):
    """f as the simulator runs it: bound, but not compiled."""
    return bind(f, number, interpreted_maths(), as_is)


def compiled(f, number, *arguments):
    """(value, Numba's type of it) of the CPU's f."""
    bound = cpu.formula(f, number)
    value = bound(*map(number, arguments))
    (signature,) = bound.nopython_signatures
    return value, signature.return_type


class Probe:
    """Answers with the type of what it is indexed with, raised to, or called with."""

    def __getitem__(self, k):
        return type(k)

    __pow__ = __call__ = __getitem__


def types_in(f, number=np.float32):
    return retyped(f, number)(Probe())


# Literals


def test_a_literal_has_the_type_of_the_kernel(number):
    def f(y):
        return 1 - y * y

    value, type_ = compiled(f, number, 0.5)
    assert type_ == NUMBA[number]
    assert value == 0.75
    unbound = njit(f)
    unbound(np.float32(0.5))
    # or there were nothing to test
    assert unbound.nopython_signatures[0].return_type == types.float64


@pytest.mark.parametrize(
    "f",
    [
        lambda y: y if y > 0 else 0,
        lambda y: 1 if y > 2 else 0.5,
        lambda y: 2 * y**2 + 2**y,
        lambda y: -1 * y - 0.5,
        lambda y: 1 / 6 * y + 2**-3,
        lambda y: (y * 3.0e-5 + 1) ** 0.5,
        lambda y: max(y, 0) + min(y, 1) + abs(y) * 2,
        lambda y: np.where(y > 0, 1, 0) + np.maximum(y, 0) + np.minimum(1, y),
        lambda y: y // 2 + y % 1,
    ],
)
def test_no_literal_widens(f):
    value, type_ = compiled(f, np.float32, 0.7)
    assert type_ == types.float32
    close(value, f(0.7), "float32")


def test_folded_and_negative_constants_are_retyped(number):
    def f(_):
        return 1, 0, 2.5, -1, -0.5, 1 / 3, 2**10, 10**9

    values = retyped(f, number)(None)
    assert {type(value) for value in values} == {number}
    assert values == tuple(map(number, f(None)))


def test_a_literal_that_is_returned_alone_is_retyped(number):
    for f in (lambda _: 1, lambda _: -7, lambda _: 1000, lambda _: 0.25):
        assert type(retyped(f, number)(None)) is number
        assert retyped(f, number)(None) == f(None)


def test_numbers_in_tuples_are_retyped_and_nothing_else():
    def f(_):
        return (1, (2, 0.5), True, None, "text", 1j), False, None, "text"

    (one, (two, half), *rest), *others = retyped(f, np.float32)(None)
    assert {type(one), type(two), type(half)} == {np.float32}
    assert (one, two, half) == (1, 2, 0.5)
    assert (rest, others) == ([True, None, "text", 1j], [False, None, "text"])
    assert rest[0] is True and others[0] is False


def test_without_a_number_literals_stay():
    def f(_):
        return 1, 0.5

    assert retyped(f, None) is f
    assert list(map(type, interpreted(f, None)(None))) == [int, float]


def test_integers_that_index_or_are_exponents_stay():
    assert types_in(lambda p: (p[0], p[1], p[-1], p[300], p**2, p**-2, p**300)) == (int,) * 7
    assert types_in(lambda p: (p[0.0], p**2.0, p(2))) == (np.float32,) * 3


def test_one_literal_can_be_both_an_integer_and_a_number():
    assert types_in(lambda p: (p[2], p(2), p**2, p(2), p[2])) == (
        int,
        np.float32,
        int,
        np.float32,
        int,
    )
    assert types_in(lambda p: (p(1), p[1], p(1.0), p[True])) == (np.float32, int, np.float32, bool)

    def index(p, y):
        return 0.0 * p[0] + 0 * p[0] + 1 * p[1] - 2 * y**2 + 2

    f = define("f", "def f(a, b, y): return index((a, b), y)", index=index)
    value, type_ = compiled(f, np.float32, 3, 4, 0.5)
    assert type_ == types.float32
    assert value == 5.5


def test_an_exponent_in_place_stays():
    def f(p):
        p **= 2
        return p

    assert types_in(f) is int


def test_integers_that_count_stay():
    def f(p, y):
        total = 0
        for k in range(1, 3):
            total = total + p[k] * y
        return total + 1

    p = tuple(map(np.float32, (7, 0.5, 2)))
    assert interpreted(f)(p, np.float32(2)) == 6
    assert type(interpreted(f)(p, np.float32(2))) is np.float32
    flat = define("flat", "def flat(a, b, c, y): return f((a, b, c), y)", f=f)
    assert compiled(flat, np.float32, *p, 2) == (6, types.float32)


def many(terms, start="0.0"):
    return define("many", f"def many(p):\n    return ({', '.join(terms)}, {start})\n")


def test_literals_past_the_256th_are_retyped():
    values = retyped(
        many([f"{k}.5" for k in range(300)] + [f"-{k}" for k in range(1, 300)]), np.float32
    )(None)
    assert {type(value) for value in values} == {np.float32}
    assert values == tuple(k + 0.5 for k in range(300)) + tuple(-k for k in range(1, 300)) + (0,)


def test_more_literals_than_bytecode_can_name_are_refused():
    with pytest.raises(ValueError, match=r"many has too many literals.*split it"):
        retyped(many([f"{k}.5" for k in range(300)] + ["p[0]"]), np.float32)


def test_an_index_may_be_used_often():
    assert types_in(many(["p[0]", "p(0)"] * 300)) == (int, np.float32) * 300 + (0,)


def test_far_jumps_land_where_they_did():
    lines = "".join(f"    if y > {k}: y = y - p[{k % 3}] ** 2 * {k}.5\n" for k in range(60))
    body = lines.replace("    ", "        ")
    f = define("f", f"def f(p, y):\n    while y > 50:\n{body}    return y\n")
    p = (0.5, 0.25, 0.125)
    assert retyped(f, np.float64)(p, 1000) == f(p, 1000)


# Names


SLOPE = 3
TENTH = 0.1
POINTS = (1, 0.5)
Constants = namedtuple("Constants", "slope tenth")
CONSTANTS = Constants(3, 0.1)


def test_defaults_are_retyped(number):
    def f(y, slope=3, tenth=0.1):
        return y * slope + tenth

    value, type_ = compiled(f, number, 2)
    assert type_ == NUMBA[number]
    assert value == number(2) * number(3) + number(0.1)
    assert {type(default) for default in interpreted(f, number).__defaults__} == {number}


def test_keyword_only_arguments_are_refused():
    def f(y, *, slope=3):
        return slope * y

    for formula in (whole_arrays.formula, lambda f: cpu.formula(f, np.float32)):
        with pytest.raises(ValueError, match="f has keyword-only arguments"):
            formula(f)


def closure(slope, tenth, points, g):
    def f(y):
        return g(slope * y) + tenth * points[1]

    return f


def test_closures_are_retyped(number):
    f = closure(3, 0.1, (1, 0.5), lambda z: 1 - z)
    value, type_ = compiled(f, number, 2)
    assert type_ == NUMBA[number]
    close(value, -4.95, number.__name__)
    assert [
        type(cell.cell_contents) for cell in f.__closure__ if not callable(cell.cell_contents)
    ] == [tuple, int, float]


def test_globals_are_retyped(number):
    def f(y):
        return SLOPE * y + TENTH * POINTS[1]

    value, type_ = compiled(f, number, 2)
    assert type_ == NUMBA[number]
    close(value, 6.05, number.__name__)
    assert (type(SLOPE), type(TENTH)) == (int, float)


def test_named_tuples_keep_their_names():
    def f(y):
        return CONSTANTS.slope * y + CONSTANTS.tenth

    close(whole_arrays.formula(f)(np.ones(3)), np.full(3, 3.1))
    value, type_ = compiled(f, np.float32, 1)
    assert type_ == types.float32
    close(value, 3.1, "float32")


def test_constants_of_the_maths_are_retyped(number):
    def f(y):
        return np.pi * y, math.pi * y, pi * y, np.e * y, math.e * y

    values, type_ = compiled(f, number, 2)
    assert type_ == types.UniTuple(NUMBA[number], 5)
    close(values, f(2.0), number.__name__)
    close(whole_arrays.formula(f)(np.float64(2)), f(2.0))


def test_infinity_is_a_constant_of_the_maths():
    def f(y):
        return np.inf * y, math.inf * y, np.nan * y, math.nan * y, math.tau * 0

    np.testing.assert_array_equal(whole_arrays.formula(f)(2.0), f(2.0))
    values, type_ = compiled(f, np.float32, 2)
    assert type_ == types.UniTuple(types.float32, 5)
    np.testing.assert_array_equal(values, f(2.0))


def cosh(z):  # named as what it calls
    return 2 * np.cosh(z)


def helper(z):
    return 1 - cosh(z)


@njit
def jitted(z):
    return 1 - z * z


@njit
def jitted_helper(z):
    return jitted(z) + np.cosh(z)


@pytest.mark.parametrize(
    "f",
    [
        lambda z: np.tanh(z) + math.tanh(z) + tanh(z) + e(-z),
        lambda z: np.arctan(z) + math.atan(z) + math.fabs(z) + np.absolute(z) + np.abs(z),
        cosh,
        lambda z: 1 - helper(z) * cosh(z),
        jitted,
        jitted_helper,
        lambda z: 1 - jitted_helper(z),
        tanh,
        np.tanh,
        math.fabs,
        abs,
    ],
)
def test_a_formula_means_on_every_device_what_it_means_in_python(f, number):
    z = np.array([-1.5, 0.25, 2.0], number)
    expected = [getattr(f, "py_func", f)(one) for one in z.tolist()]
    close(whole_arrays.formula(f)(z), expected, number.__name__)
    close([interpreted(f, number)(one) for one in z], expected, number.__name__)
    out = np.full(3, np.nan, number)
    cpu.elementwise(f, [out], [z])
    close(out, expected, number.__name__)
    # not where it is math's own function
    if hasattr(cpu.formula(f, number), "nopython_signatures"):
        assert compiled(f, number, 0.5)[1] == NUMBA[number]


def test_a_function_is_compiled_once_and_after_those_it_calls():
    made = []

    def compile(f):
        made.append(f.__name__)
        return f

    def f(z):
        return helper(z) + cosh(z) + helper(2 * z)

    bind(f, np.float32, interpreted_maths(), compile)
    assert made == ["cosh", "helper", "f"]


def test_binding_leaves_a_formula_as_it_was():
    def f(z, a=2):
        return np.tanh(z) + SLOPE * a * cosh(1)

    before = f.__code__, f.__defaults__, dict(f.__globals__)
    bound = interpreted(f)
    assert (f.__code__, f.__defaults__, f.__globals__) == before
    assert (bound.__name__, bound.__module__) == ("f", __name__)
    assert type(f(1.0)) is not type(bound(np.float32(1)))


def test_functions_within_a_formula_are_bound_too():
    def f(z):
        def inner(a):
            return (1 - np.arctan(a)) * SLOPE

        return inner(z) - 1

    value, type_ = compiled(f, np.float32, 0.5)
    assert type_ == types.float32
    close(value, f(0.5), "float32")
    assert type(interpreted(f)(np.float32(0.5))) is np.float32


def forever(z):
    return forever(z - 1) if z > 0 else z


def even(z):
    return odd(z - 1) if z > 0 else 1


def odd(z):
    return even(z - 1) if z > 0 else 0


def closed():
    def within(z):
        return within(z - 1) if z > 0 else z

    return within


@pytest.mark.parametrize(
    ("f", "name"),
    [(forever, "forever"), (even, "even"), (closed(), "within"), (lambda z: forever(z), "forever")],
)
def test_recursion_is_refused(f, name):
    with pytest.raises(
        ValueError, match=f"{name} calls itself: a formula that is compiled into a kernel cannot"
    ):
        cpu.formula(f, np.float32)
    with pytest.raises(ValueError, match=f"{name} calls itself"):
        whole_arrays.formula(f)


# The maths of a device


INSIDE = {  # of the domain; everywhere else
    "arccosh": (1.0, 1.5, 7.0),
    **dict.fromkeys(["arcsin", "arccos", "arctanh"], (-0.9, -0.3, 0.0, 0.8)),
    **dict.fromkeys(["log", "log2", "log10", "sqrt", "power"], (0.1, 1.0, 2.5, 30.0)),
    "log1p": (-0.9, 0.0, 1e-6, 30.0),
}
EVERYWHERE = (-2.5, -0.3, 0.0, 0.7, 4.0)
OF_TWO = ("hypot", "power", "arctan2")


@cache
def named(name):
    """The formula that calls a function by NumPy's and by math's name."""
    arguments = "x, z" if name in OF_TWO else "z"
    return define(
        "named",
        f"def named({arguments}):\n    return np.{name}({arguments}), "
        f"math.{NAMES[name]}({arguments})\n",
        np=np,
        math=math,
    )


def arguments(name, dtype):
    z = np.array(INSIDE.get(name, EVERYWHERE), dtype)
    return (z, z[::-1].copy()) if name in OF_TWO else (z,)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_what_it_is_in_numpy(name, dtype):
    z = arguments(name, dtype)
    expected = getattr(np, name)(*z)
    bound = cpu.formula(named(name), np.dtype(dtype).type)
    for got in (
        zip(*(bound(*one) for one in zip(*z, strict=True)), strict=True),
        whole_arrays.formula(named(name))(*z),
    ):
        for spelling in got:
            close(spelling, expected, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_widens(name):
    _, type_ = compiled(named(name), np.float32, *(a[0] for a in arguments(name, "float32")))
    assert type_ == types.UniTuple(types.float32, 2)


def test_rounding_of_what_no_integer_can_hold():
    def f(z):
        return np.floor(z), np.ceil(z)

    for z in np.array([1e20, -1e20, np.inf, -np.inf, np.nan]):
        np.testing.assert_array_equal(compiled(f, np.float64, z)[0], [np.floor(z), np.ceil(z)])


EXTREMES = [np.nan, -np.inf, -1.5, -0.0, 0.0, 0.5, np.inf]


def choices(a, b):
    return np.where(a > b, a, b), np.maximum(a, b), np.minimum(a, b), np.sign(a), np.square(b)


def test_choices_pass_nan_and_infinity_on_as_numpy_does(number):
    a, b = (x.ravel() for x in np.meshgrid(np.array(EXTREMES, number), np.array(EXTREMES, number)))
    with np.errstate(all="ignore"):
        expected = choices(a, b)
    np.testing.assert_array_equal(whole_arrays.formula(choices)(a, b), expected)
    out = [np.zeros_like(a) for _ in expected]
    cpu.elementwise(choices, out, [a, b])
    np.testing.assert_array_equal(out, expected)
    assert compiled(choices, number, 1, 2)[1] == types.UniTuple(NUMBA[number], 5)


def outside(z):
    return (
        np.log(z),
        np.sqrt(z),
        np.log1p(z),
        np.exp(-z),
        np.arcsin(z),
        np.arccosh(z),
        np.arctanh(z),
        1 / z,
        z / z,
    )


def test_outside_their_domain_functions_give_what_numpy_gives(number):
    z = np.array([0.0, -1.0, -1e6, np.inf, np.nan], number)
    with np.errstate(all="ignore"):
        expected = outside(z)
    got = [np.zeros_like(z) for _ in expected]
    cpu.elementwise(outside, got, [z])
    assert not np.isfinite(expected).all()
    np.testing.assert_allclose(got, expected, rtol=np.finfo(number).eps * 8)


def test_a_formula_that_says_if_runs_number_by_number_on_the_reference(number):
    def f(p, s):  # as a cell: tuples in, tuples of tuples out
        (a, b), (h,) = p, s
        if a > b and 0 < h < 1:
            return (a - 1, h), (b,)
        return (b, 2 * h), (a * 0,)

    rng = np.random.default_rng(0)
    a, b, h = rng.normal(size=(3, 4, 5)).astype(number)
    (x, y), (z,) = whole_arrays.formula(f)((a, b), (h,))
    flat = define(
        "flat", "def flat(a, b, h):\n    (x, y), (z,) = f((a, b), (h,))\n    return x, y, z\n", f=f
    )
    outputs = [np.full_like(a, np.nan) for _ in range(3)]
    cpu.elementwise(flat, outputs, [a, b, h])
    for got, expected in zip((x, y, z), outputs, strict=True):
        close(got, expected, number.__name__)
    branches = (a > b) & (h > 0) & (h < 1)
    assert branches.any() and not branches.all()
    close(x, np.where(branches, a - 1, b), number.__name__)


def test_scalars_of_an_elementwise_formula_are_not_widened_by_if(number):
    def f(z, a):
        return z if z > a else a

    out, z = np.zeros(3, number), np.array([-1, 0.5, 2], number)
    for device in (reference, cpu):
        device.elementwise(f, [out], [z], (0.75,))
        assert out.tolist() == [0.75, 0.75, 2]
