"""Formulas on whole NumPy arrays: how the reference device computes, and checks of formulas do."""

import itertools

import numpy as np

from .binding import bind
from .binding.names import interpreted_maths
from .once import once

MATHS = interpreted_maths()


@once
def formula(f):
    """f on whole arrays; number by number where f cannot take an array (it says `if`)."""
    bound = bind(f, None, MATHS, lambda g: g)

    def apply(*arguments):
        with np.errstate(all="ignore"):
            try:
                return bound(*arguments)
            # the truth value of an array is ambiguous, or it wants one number
            except (TypeError, ValueError):
                return one_by_one(bound, arguments)

    return apply


def one_by_one(f, arguments):
    """f of nested tuples of equally shaped arrays, called once for each element."""
    shape = np.broadcast_shapes(*(np.shape(a) for a in leaves(arguments)))
    picked = [f(*pick(arguments, index, shape)) for index in itertools.product(*map(range, shape))]
    return stack(picked, shape)


def leaves(tree):
    return itertools.chain.from_iterable(map(leaves, tree)) if isinstance(tree, tuple) else (tree,)


def pick(tree, index, shape):
    return (
        tuple(pick(t, index, shape) for t in tree)
        if isinstance(tree, tuple)
        else np.broadcast_to(tree, shape)[index]
    )


def stack(trees, shape):
    if isinstance(trees[0], tuple):
        return tuple(stack([t[k] for t in trees], shape) for k in range(len(trees[0])))
    return np.reshape(trees, shape)


def unpack(a, axis):
    """The tuple of the slices of a along an axis."""
    return tuple(np.moveaxis(a, axis, 0))
