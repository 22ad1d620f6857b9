"""What the tests of kept kernels share: formulas, made anew, and what they read."""

import types

import numpy as np


def double(z):
    return 2.0 * z


def module(name, **values):
    made = types.ModuleType(name)
    vars(made).update(values)
    return made


def formula(text, **names):
    """The function f of a text, anew each time, as in another run; it refers to the names."""
    names["np"] = np
    exec(text, names)
    return names["f"]
