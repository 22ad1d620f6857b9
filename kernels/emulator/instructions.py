"""What each instruction does: a function of the threads that execute it (machine.Group).

VERBS has a translator for the first word of every opcode that is understood. What ends a basic
block (branches, barriers, ends) is the machine's.
"""

import operator
from collections.abc import Callable
from functools import partial

import numpy as np

from . import arithmetic, ordering, tensors
from .memory import WINDOWS, Access
from .operands import Operands, members
from .text import DTYPES, STRONG

COMPARISONS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "lo": operator.lt,
    "ls": operator.le,
    "hi": operator.gt,
    "hs": operator.ge,
    "num": arithmetic.ordered,
    "neu": operator.ne,  # true where a number is NaN, as NumPy's is
}
OF_FLOATS = {"ne": arithmetic.unequal}
OPPOSITES = {  # true also where a number is NaN
    "equ": arithmetic.unequal,
    "ltu": operator.ge,
    "leu": operator.gt,
    "gtu": operator.le,
    "geu": operator.lt,
    "nan": arithmetic.ordered,
}
LOGIC = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
ROUNDINGS = {"rni": np.rint, "rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc}


def calculation(f: Callable, inputs: list[Callable], put: Callable) -> Callable:
    """put(f(inputs))."""
    if len(inputs) == 1:
        (a,) = inputs
        return lambda here: put(here, f(a(here)))
    if len(inputs) == 2:
        a, b = inputs
        return lambda here: put(here, f(a(here), b(here)))
    a, b, c = inputs
    return lambda here: put(here, f(a(here), b(here), c(here)))


def of_one_type(f: Callable, count: int) -> Callable:
    """The translator of an instruction whose operands are all of its type."""
    return lambda o: calculation(f, o.inputs(count), o.put())


def by_kind(of_floats: Callable, of_whole: Callable) -> Callable:
    """The translator of an instruction with two inputs, which floats do otherwise."""

    def translate(o):
        return calculation(of_floats if is_float(o) else of_whole, o.inputs(2), o.put())

    return translate


def is_float(o: Operands) -> bool:
    return o.type.startswith("f")


def wider(o: Operands) -> str:
    """The type of twice the bits."""
    return o.type[0] + str(2 * int(o.type[1:]))


def unsigned(kind: str) -> str:
    return "u" + kind[1:]


# Arithmetic


def function(f: Callable) -> Callable:
    """The translator of a function of one float; .ftz makes zero of what is subnormal."""

    def translate(o):
        flushes = "ftz" in o.it.parts and o.type == "f32"

        def flushing(x):
            return arithmetic.flushed(f(arithmetic.flushed(x)))

        gross = o.it.op == "rcp.approx.ftz.f64"
        act = arithmetic.gross_reciprocal if gross else flushing if flushes else f
        return calculation(act, o.inputs(1), o.put())

    return translate


def multiply(o: Operands) -> Callable:
    if "wide" in o.it.parts:
        return widened(o, operator.mul, 2)
    if "hi" in o.it.parts:
        if o.type == "u64":
            return calculation(arithmetic.upper_of_product, o.inputs(2), o.put())
        if o.type == "s64":
            return calculation(arithmetic.upper_of_signed_product, o.inputs(2), o.put())
        if o.type in ("u32", "s32"):
            return calculation(partial(upper_word, wider(o)), o.inputs(2), o.put())
        raise o.unknown()
    return calculation(operator.mul, o.inputs(2), o.put())


def upper_word(wide: str, a, b):
    """The upper 32 of the 64 bits of a·b."""
    product = a.astype(DTYPES[wide]) * b.astype(DTYPES[wide])
    return (product >> product.dtype.type(32)).astype(a.dtype)


def widened(o: Operands, f: Callable, count: int) -> Callable:
    """Two factors of a type; what is added and the result of twice its bits."""
    kind = wider(o)
    dtype = DTYPES[kind]

    def as_wide(get):
        return lambda here: get(here).astype(dtype)

    inputs = [as_wide(get) for get in o.inputs(2)]
    if count == 3:
        inputs.append(o.get(o.it.operands[3], kind))
    return calculation(f, inputs, o.put(kind))


def multiplied_and_added(a, b, c):
    return a * b + c


def multiply_and_add(o: Operands) -> Callable:
    if is_float(o):
        fma = arithmetic.fma32 if o.type == "f32" else arithmetic.fma64
        return calculation(fma, o.inputs(3), o.put())
    if "wide" in o.it.parts:
        return widened(o, multiplied_and_added, 3)
    if "lo" in o.it.parts:
        return calculation(multiplied_and_added, o.inputs(3), o.put())
    raise o.unknown()


def extreme(of_floats: Callable, of_whole: Callable) -> Callable:
    """max or min: of floats the number where one is NaN, unless .NaN is said."""

    def translate(o):
        plain = not is_float(o) or "NaN" in o.it.parts
        return calculation(of_whole if plain else of_floats, o.inputs(2), o.put())

    return translate


def shift(f: Callable) -> Callable:
    def translate(o):
        kind = o.type if o.type.startswith("s") else unsigned(o.type)
        a, by, dtype = o.get(o.it.operands[1], kind), o.get(o.it.operands[2], "u32"), DTYPES[kind]
        return calculation(f, [a, lambda here: by(here).astype(dtype)], o.put(kind))

    return translate


def insert(o: Operands) -> Callable:
    _, a, b, position, length = o.it.operands
    kind = unsigned(o.type)
    put = partial(arithmetic.inserted, position=int(position), length=int(length))
    return calculation(put, [o.get(a, kind), o.get(b, kind)], o.put(kind))


def extract(o: Operands) -> Callable:
    _, _, position, length = o.it.operands
    if not o.type.startswith("u"):
        raise o.unknown()
    take = partial(arithmetic.extracted, position=int(position), length=int(length))
    return calculation(take, o.inputs(1), o.put())


def select(o: Operands) -> Callable:
    condition = o.get(o.it.operands[3], "pred")
    return calculation(arithmetic.select, [condition, *o.inputs(2)], o.put())


def compare(o: Operands) -> Callable:
    """setp: a comparison, and what it is combined with."""
    name, target = o.it.parts[1], o.it.operands[0].partition("|")[0]
    put, (a, b) = o.put("pred", target), o.inputs(2)
    opposite = name in OPPOSITES
    compared: Callable = OPPOSITES[name] if opposite else COMPARISONS[name]
    if is_float(o):
        compared = OF_FLOATS.get(name) or compared

    def answer(here):
        found = compared(a(here), b(here))
        return ~found if opposite else found

    if len(o.it.operands) == 4:
        combine, other = LOGIC[o.it.parts[2]], o.get(o.it.operands[3], "pred")
        return lambda here: put(here, combine(answer(here), other(here)))
    return lambda here: put(here, answer(here))


def convert(o: Operands) -> Callable:
    if tensors.FEW_BITS & set(o.it.parts):
        return tensors.convert(o)
    to, of = (part for part in o.it.parts if part in DTYPES)
    dtype, saturates = DTYPES[to], "sat" in o.it.parts
    rounding = next((ROUNDINGS[part] for part in o.it.parts if part in ROUNDINGS), None)
    to_whole = to[0] != "f" and of[0] == "f"
    if to_whole and rounding is None:
        raise o.unknown()

    def converted(x):
        if rounding and of[0] == "f":
            x = rounding(x)
        if saturates:
            x = np.clip(x, 0, 1)
        return arithmetic.to_whole(x, dtype) if to_whole else x.astype(dtype)

    return calculation(converted, [o.get(o.it.operands[1], of)], o.put(to))


# Moves


def move(o: Operands) -> Callable:
    target, source = o.it.operands
    if target.startswith("{"):
        return unpack(o, target, source)
    if source.startswith("{"):
        return pack(o, source)
    get, put = o.get(source), o.put()
    return lambda here: put(here, get(here))


def unpack(o: Operands, target: str, source: str) -> Callable:
    """The bits of one register to several, the lowest first."""
    whole, bits = unsigned(o.type), int(o.type[1:]) // len(members(target))
    get, kind = o.get(source, whole), f"u{bits}"
    puts, number = o.puts(target, kind), np.dtype(DTYPES[whole]).type

    def act(here):
        value = get(here)
        for place, put in puts:
            put(here, (value >> number(bits * place)).astype(DTYPES[kind]))

    return act


def pack(o: Operands, source: str) -> Callable:
    """The bits of several registers to one."""
    whole, names = unsigned(o.type), members(source)
    bits, number = int(o.type[1:]) // len(names), np.dtype(DTYPES[whole]).type
    gets, put = [o.get(name, f"u{bits}") for name in names], o.put(whole)

    def act(here):
        value = number(0)
        for place, get in enumerate(gets):
            value = value | get(here).astype(DTYPES[whole]) << number(bits * place)
        put(here, value)

    return act


# Memory


def load(o: Operands) -> Callable:
    target, source = o.it.operands
    if o.space() == "param":
        place, put = o.text.parameter(source.strip("[] ")), o.put()
        return lambda here: put(here, here.machine.parameters[place].view(DTYPES[o.type]))
    if STRONG & set(o.it.parts):
        return ordering.strong_load(o)
    puts, address = o.puts(target), o.address(source)
    access = Access(o.space(), DTYPES[o.type], len(members(target)), o.it.text)

    def act(here):
        values = here.machine.memory.load(access, address(here), here.who)
        for place, put in puts:
            put(here, values[place])

    return act


def store(o: Operands) -> Callable:
    if "async" in o.it.parts:
        return ordering.send(o)
    if STRONG & set(o.it.parts):
        return ordering.strong_store(o)
    target, source = o.it.operands
    address, gets = o.address(target), [o.get(name) for name in members(source)]
    access = Access(o.space(), DTYPES[o.type], len(gets), o.it.text)

    def act(here):
        values = [get(here) for get in gets]
        here.machine.memory.store(access, address(here), here.who, values)

    return act


def convert_address(o: Operands) -> Callable:
    """An address of a space to a generic one, or back."""
    window = WINDOWS.get(o.space(), 0) * (-1 if "to" in o.it.parts else 1)
    return calculation(lambda a: (a.view("i8") + np.int64(window)).view("u8"), o.inputs(1), o.put())


def prefetch(o: Operands) -> Callable:
    """A cache that is told of an address: nothing happens, but the address must be one."""
    address, access = o.address(o.it.operands[0]), Access(o.space(), "i1", 1, o.it.text)
    return lambda here: here.machine.memory.reach(access, address(here), here.who)


def shuffle(o: Operands) -> Callable:
    target, *given = o.it.operands
    target, _, there = target.partition("|")
    mode, put = o.it.parts[2], o.put("b32", target)
    gets = [o.get(one, kind) for one, kind in zip(given, ("b32", "u32", "u32", "u32"), strict=True)]
    put_there = o.put("pred", there) if there else None

    def act(here):
        values, found = here.shuffle(mode, *(get(here) for get in gets), o.it.text)
        put(here, values)
        if put_there:
            put_there(here, found)

    return act


VERBS: dict[str, Callable[[Operands], Callable]] = {
    "add": of_one_type(operator.add, 2),
    "sub": of_one_type(operator.sub, 2),
    "mul": multiply,
    "mad": multiply_and_add,
    "fma": multiply_and_add,
    "div": by_kind(operator.truediv, arithmetic.quotient),
    "rem": of_one_type(np.fmod, 2),
    "neg": of_one_type(operator.neg, 1),
    "abs": of_one_type(np.abs, 1),
    "max": extreme(np.fmax, np.maximum),
    "min": extreme(np.fmin, np.minimum),
    # PTX: the sign of the first, the magnitude of the second
    "copysign": of_one_type(lambda a, b: np.copysign(b, a), 2),
    "and": of_one_type(operator.and_, 2),
    "or": of_one_type(operator.or_, 2),
    "xor": of_one_type(operator.xor, 2),
    "not": of_one_type(operator.invert, 1),
    "shl": shift(operator.lshift),
    "shr": shift(operator.rshift),
    "bfi": insert,
    "bfe": extract,
    "rcp": function(lambda x: x.dtype.type(1) / x),
    "sqrt": function(np.sqrt),
    "rsqrt": function(lambda x: x.dtype.type(1) / np.sqrt(x)),
    "ex2": function(arithmetic.exponential),
    "lg2": function(np.log2),
    "sin": function(np.sin),
    "cos": function(np.cos),
    "tanh": function(np.tanh),
    "selp": select,
    "setp": compare,
    "cvt": convert,
    "mov": move,
    "cvta": convert_address,
    "ld": load,
    "ldu": load,
    "st": store,
    "prefetch": prefetch,
    "shfl": shuffle,
    **ordering.VERBS,
    **tensors.VERBS,
}


def translate(o: Operands) -> Callable:
    """The function of the threads that execute an instruction.  PTXError where it is not known."""
    if o.it.verb not in VERBS:
        raise o.unknown()
    return VERBS[o.it.verb](o)
