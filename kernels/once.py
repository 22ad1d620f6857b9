"""What is made once for a formula: its check, the cells and kernels that have it; and how all of that is let go.

A formula is compiled with what it refers to: a global of its own, a constant of a module. When that has changed, nothing that was
made of the formula is true any more.
"""

from contextlib import suppress
from functools import cache, wraps

from .description import description, formulas

caches = []


def once(f):
    """functools.cache, for what is made of formulas: `forget` empties it."""
    caches.append(cache(f))
    return caches[-1]


def forget():
    """Let go of all that was made of formulas. What is asked for again is made again, of what they refer to by then."""
    for each in caches:
        each.cache_clear()


@once
def at_first(formula):
    """The description of a formula when it was first seen.  LookupError where it has none."""
    return description(formula)


def once_as_it_reads(check):
    """check(activation or cell) once for each; all is forgotten where a formula refers to something else than when it was first seen."""
    done = once(check)

    @wraps(check)
    def checked(made_of):
        with suppress(LookupError):
            if any(at_first(formula) != description(formula) for formula in formulas(made_of)):
                forget()
        done(made_of)

    return checked
