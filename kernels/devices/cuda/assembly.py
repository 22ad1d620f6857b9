"""Intrinsics that are one piece of PTX. For cards alone: the simulator has none."""

from collections.abc import Callable
from functools import cache
from typing import Any

from .launch import types


@cache
def letters() -> dict:
    """How a piece of PTX calls registers of these types."""
    known = {"f": "float32", "d": "float64", "r": "int32 uint32", "l": "int64 uint64"}
    return {getattr(types, name): key for key, names in known.items() for name in names.split()}


def emit(builder, text: str, results: list, values: list, pure: bool = False) -> Any:
    """One piece of PTX; $0, $1, … are first its results, then the values. `results` are pairs of a
    letter and LLVM's type, `values` of a letter and a value.

    What is `pure` may be left out, or done once for twice; all else stays where it is, and no
    access of memory passes it.
    """
    from llvmlite import ir

    kinds = [kind for _, kind in results]
    alone = kinds[0] if len(kinds) == 1 else ir.LiteralStructType(kinds)
    form = ir.FunctionType(
        alone if kinds else ir.VoidType(), [value.type for _, value in values], False
    )
    constraints = [f"={letter}" for letter, _ in results] + [letter for letter, _ in values]
    constraints += ["~{memory}"] * (not pure)
    asm = ir.InlineAsm(form, text, ",".join(constraints), side_effect=not pure)
    return builder.call(asm, [value for _, value in values])


def assembly(text: str, returns, *arguments, pure: bool = False) -> Any:
    """The intrinsic of some numbers, whose types are `arguments`, that is one piece of PTX.

    returns  a type, a tuple of them, or None
    """
    from numba.cuda.extending import intrinsic

    given = () if returns is None else returns if isinstance(returns, tuple) else (returns,)

    def codegen(context, builder, signature, values):
        results = [(letters()[one], context.get_value_type(one)) for one in given]
        named = [letters()[one] for one in arguments]
        pairs = list(zip(named, values, strict=True))
        made = emit(builder, text, results, pairs, pure)
        if not given:
            return context.get_dummy_value()
        if not isinstance(returns, tuple):
            return made
        parts = [builder.extract_value(made, k) for k in range(len(given))]
        return context.make_tuple(builder, signature.return_type, parts)

    result = types.void if returns is None else returns
    result = types.Tuple(result) if isinstance(result, tuple) else result
    return intrinsic(typing_of(len(arguments), (result(*arguments), codegen)))


def typing_of(count: int, found: tuple) -> Callable:
    """What says the same of any `count` arguments: an intrinsic names them."""
    return (
        lambda context: found,
        lambda context, a: found,
        lambda context, a, b: found,
        lambda context, a, b, c: found,
    )[count]
