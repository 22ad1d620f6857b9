"""What a formula is made of, told by its description: another formula, or another thing that it
reads, is another description, and the same is the same in every run.
"""

import functools

import numba
import numpy as np
import pytest

import rnn_gpu
from formulas import double, formula, module
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.description import description
from rnn_gpu.kernels.losses import LOSSES

SCALE = 2.0


def test_a_description_is_of_everything_a_formula_refers_to(monkeypatch):
    def through(f):
        return lambda z: f(z)

    def plus(b):
        def f(z, a=1.0):
            return SCALE * z + a * b

        return f

    assert description(plus(3.0)) == description(plus(3.0))
    different = [
        plus(3.0),
        plus(3),
        plus(-0.0),
        plus(0.0),
        through(plus(3.0)),
        through(plus(4.0)),
        through(np.tanh),
        lambda z: z + 1.0,
    ]
    different = [description(f) for f in different]
    monkeypatch.setattr("test_description.SCALE", 2.5)
    assert len({*different, description(plus(3.0))}) == len(different) + 1
    with pytest.raises(LookupError):
        description(plus(object()))


def settings_of(slope):
    return module(
        "settings",
        SLOPE=slope,
        within=module("within", SLOPE=slope),
        double=numba.njit(lambda z: slope * z),
    )


READS = {  # slope -> a formula that reads it
    "a name": lambda slope: formula("def f(z): return SLOPE * z", SLOPE=slope),
    "a module": lambda slope: formula("def f(z): return s.SLOPE * z", s=settings_of(slope)),
    "a module of a module": lambda slope: formula(
        "def f(z): return s.within.SLOPE * z", s=settings_of(slope)
    ),
    "a function of a module": lambda slope: formula(
        "def f(z): return s.double(z)", s=settings_of(slope)
    ),
    "within another": lambda slope: formula(
        "def f(z):\n    def g(y): return s.SLOPE * y\n    return g(z)", s=settings_of(slope)
    ),
    "by another": lambda slope: formula(
        "def f(z): return g(z)", g=formula("def f(z): return s.SLOPE * z", s=settings_of(slope))
    ),
    "in a closure": lambda slope: formula(
        "def make(s): return lambda z: s.SLOPE * z\nf = make(s)", s=settings_of(slope)
    ),
    "by keyword": lambda slope: formula("def f(z, *, a=SLOPE): return a * z", SLOPE=slope),
    "a named tuple": lambda slope: formula(
        "def f(z): return clip.value * z", clip=rnn_gpu.kernels.Clip(slope, 5.0 - slope)
    ),
}


@pytest.mark.parametrize("make", READS.values(), ids=READS)
def test_a_description_tells_what_a_formula_reads_and_is_the_same_in_another_run(make):
    assert description(make(2.0)) == description(make(2.0)) != description(make(3.0))


UNTOLD = {
    "a module that is handed on": "def f(z):\n    s = settings\n    return s.SLOPE * z",
    "a name that is computed": "def f(z): return getattr(settings, 'SLO' + 'PE') * z",
    "an import": "def f(z):\n    import settings\n    return settings.SLOPE * z",
    "an object": "def f(z): return config.SLOPE * z",
    "an object of a module": "def f(z): return settings.config.SLOPE * z",
    "a class": "def f(z): return Config.SLOPE * z",
    "a partial": "def f(z): return partial(z)",
    "a function compiled for given types": "def f(z): return given(z)",
}


class Config:
    SLOPE = 2.0


@pytest.mark.parametrize("name", UNTOLD)
def test_what_cannot_be_followed_has_no_description(name):
    partial, given = functools.partial(double), numba.njit("f4(f4)")(double)
    settings = module("settings", SLOPE=2.0, config=Config())
    f = formula(
        UNTOLD[name],
        settings=settings,
        config=Config(),
        Config=Config,
        partial=partial,
        given=given,
    )
    with pytest.raises(LookupError):
        description(f)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_everything_that_ships_has_a_description(cell):
    for made_of in (cell, dropped(cell), zoned(cell), *ACTIVATIONS.values(), *LOSSES.values()):
        assert description(made_of)
