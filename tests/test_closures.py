"""Functions of G, S and K numbers: spelled out in any count, in Python as in compiled code."""

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from rnn_gpu.kernels.binding import bind
from rnn_gpu.kernels.binding.closures import as_it_is, each, each_over, tuple_of, tuple_over
from rnn_gpu.kernels.binding.names import interpreted_maths

COUNTS = (0, 1, 2, 3, 4, 5, 8, 9, 13)
COMPILE = {"python": as_it_is, "numba": njit}


@pytest.fixture(params=COMPILE, ids=str)
def compile(request):
    return COMPILE[request.param]


@pytest.mark.parametrize("count", COUNTS)
def test_a_tuple_is_spelled_out(count, compile):
    element = compile(lambda k, a, b: a[k] + b)
    a = np.arange(20)
    assert tuple_of(count, element, compile)(a, 100) == tuple(range(100, 100 + count))
    assert tuple_of(count, element, compile, first=3)(a, 0) == tuple(range(3, 3 + count))


@pytest.mark.parametrize("count", COUNTS)
def test_what_is_done_for_each_is_done_once_in_order(count, compile):
    @compile
    def put(k, a, add):
        a[k + 1] = a[k] + add

    @compile
    def put_value(k, value, a):
        a[k] += value

    a = np.zeros(20)
    each(count, put, compile)(a, 2)
    assert a.tolist() == [2 * k if k <= count else 0 for k in range(20)]
    each_over(count, put_value, compile)(tuple(range(100, 120)), a)
    assert a.tolist() == [(2 * k if k <= count else 0) + (100 + k) * (k < count) for k in range(20)]


def test_a_tuple_of_mixed_types_is_gone_over_where_an_index_cannot_be_counted():
    mixed = (np.float32(1.5), 2, 2.5, True, np.float64(7))
    double = njit(lambda k, value: value + value)
    assert tuple_over(5, double, njit)(mixed) == (3.0, 4, 5.0, 2, 14.0)
    assert tuple_over(2, double, njit, first=2)(mixed) == (5.0, 2)
    with pytest.raises(TypingError, match="getitem"):
        tuple_of(5, njit(lambda k, values: values[k]), njit)(mixed)


def test_in_a_formula_that_is_bound_an_index_stays_whole_and_literals_do_not():
    last = tuple_over(2, lambda k, value, z: value * 2 + z[k], first=1)
    f = bind(last, np.float32, interpreted_maths(), njit)
    one, half = np.float32(1), np.float32(0.5)
    assert f((one, one, one), (half, 2 * half, 3 * half)) == (3.0, 3.5)
    assert str(f.nopython_signatures[0].return_type) == "UniTuple(float32 x 2)"
