"""Functions of a cell's G, S or K numbers.

How many these are is known when a kernel is made, and what runs over them must be spelled out:
compiled code knows no generator expressions, tuples of mixed types no index that is counted, and
an array stays in registers only if every index is a constant. So up to four calls are spelled out
here, and more are composed of four and the rest (halves, down to single calls, would take 13 to
45 % longer to compile).
"""

from collections.abc import Callable, Iterator

FEW = 4  # calls that are spelled out


class Index(int):
    """A number that a formula counts with: `bind` retypes literals, but not this one."""


def as_it_is(f: Callable) -> Callable:
    """What `compile` is where the functions are formulas, which a device binds later."""
    return f


def indices(first: int, compile: Callable) -> Iterator[int]:
    """The next few numbers from `first` on, as what is compiled, or bound later, can index with."""
    return map(Index if compile is as_it_is else int, range(first, first + FEW))


def tuple_of(
    count: int, element: Callable, compile: Callable = as_it_is, first: int = 0
) -> Callable:
    """(…) -> the tuple of element(k, …) for k = first … first + count − 1, each k a constant."""
    a, b, c, d = indices(first, compile)
    if count > FEW:
        front = tuple_of(FEW, element, compile, first)
        rest = tuple_of(count - FEW, element, compile, first + FEW)
        return compile(lambda *x: front(*x) + rest(*x))
    spelled_out = (
        lambda *x: (),
        lambda *x: (element(a, *x),),
        lambda *x: (element(a, *x), element(b, *x)),
        lambda *x: (element(a, *x), element(b, *x), element(c, *x)),
        lambda *x: (element(a, *x), element(b, *x), element(c, *x), element(d, *x)),
    )
    return compile(spelled_out[count])


def tuple_over(
    count: int, element: Callable, compile: Callable = as_it_is, first: int = 0
) -> Callable:
    """(values, …) -> the tuple of element(k, values[k], …): for a tuple whose types may differ."""
    a, b, c, d = indices(first, compile)
    if count > FEW:
        front = tuple_over(FEW, element, compile, first)
        rest = tuple_over(count - FEW, element, compile, first + FEW)
        return compile(lambda v, *x: front(v, *x) + rest(v, *x))
    spelled_out = (
        lambda v, *x: (),
        lambda v, *x: (element(a, v[a], *x),),
        lambda v, *x: (element(a, v[a], *x), element(b, v[b], *x)),
        lambda v, *x: (element(a, v[a], *x), element(b, v[b], *x), element(c, v[c], *x)),
        lambda v, *x: (
            element(a, v[a], *x),
            element(b, v[b], *x),
            element(c, v[c], *x),
            element(d, v[d], *x),
        ),
    )
    return compile(spelled_out[count])


def each(count: int, act: Callable, compile: Callable = as_it_is) -> Callable:
    """(…) -> what nobody needs; does act(k, …) for k = 0 … count − 1, each k a constant."""
    return tuple_of(count, act, compile)


def each_over(count: int, act: Callable, compile: Callable = as_it_is) -> Callable:
    """(values, …) -> what nobody needs; does act(k, values[k], …): the types may differ."""
    return tuple_over(count, act, compile)
