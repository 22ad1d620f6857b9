"""What is made once for a formula: its check, the cells and kernels that have it; and how it is let
go.

A formula is compiled with what it refers to: a global of its own, a constant of a module. When that
has changed, nothing that was made of the formula is true any more.
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
    """Let go of all that was made of formulas.

    Layers go on: what they need is made again, of what their formulas refer to by then. An
    activation's kernels, forward and back, keep 21 MB on the CPU where they were compiled, 5 where
    they were found on disk. Of these 9 and 3 stay: machine code, which LLVM has no way to unload.
    """
    for each in caches:
        each.cache_clear()


def told(formula):
    """The description of a formula; None where it has none."""
    with suppress(LookupError):
        return description(formula)


@once
def at_first(formula):
    """What was told of a formula when it was first seen, and is compiled in whatever comes
    later.
    """
    return told(formula)


def once_as_it_reads(check):
    """check(activation or cell), once for each.

    All is forgotten where a formula refers to something else than when it was first seen.
    """
    done = once(check)

    @wraps(check)
    def checked(made_of):
        if any(at_first(formula) != told(formula) for formula in formulas(made_of)):
            forget()
        done(made_of)

    return checked
