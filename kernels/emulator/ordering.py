"""Instructions by which blocks and threads come in order: what each does, as in instructions.py."""

import operator
from collections.abc import Callable

import numpy as np

from .clocks import OF_BLOCK, OF_GRID
from .memory import OWN, Access
from .operands import SCOPES, Operands, members
from .text import DTYPES

PUBLISH = "fence.mbarrier_init.release.cluster"
BLOCKS, NO_RANK = 255, 254  # the bits of an address that name a block, and a rank that none has
BEHIND_WAITS = "fence.acquire.sync_restrict::shared::cluster.cluster"


def map_address(o: Operands) -> Callable:
    """mapa: an address of the own block's shared memory, as that of a block of the cluster."""
    address, rank = o.get(o.it.operands[1]), o.get(o.it.operands[2], "u32")
    if o.type not in ("u32", "u64"):
        raise o.unknown()
    number, put = np.dtype(DTYPES[o.type]).type, o.put()
    if "shared::cluster" not in o.it.parts and o.type == "u32":
        raise o.unknown()

    def act(here):
        named = np.minimum(rank(here), np.uint32(NO_RANK)).astype(number) + number(1)
        put(here, address(here) & ~number(BLOCKS << OWN) | named << number(OWN))

    return act


def send(o: Operands) -> Callable:
    """st.async, whose bytes an mbarrier counts."""
    target, source, bar = o.it.operands
    if "mbarrier::complete_tx::bytes" not in o.it.parts or o.space() != "cluster":
        raise o.unknown()
    address, counter = o.address(target), o.address(bar)
    gets = [o.get(name) for name in members(source)]
    access = Access("cluster", DTYPES[o.type], len(gets), o.it.text)

    def act(here):
        values = [get(here) for get in gets]
        here.machine.clusters.send(access, address(here), counter(here), here.who, values)

    return act


# mbarriers


def mbarrier(o: Operands) -> Callable:
    verb = o.it.parts[1]
    if verb not in OF_MBARRIERS or o.type != "b64":
        raise o.unknown()
    return OF_MBARRIERS[verb](o)


def of_mbarrier(o: Operands) -> Access:
    return Access(o.space(), "u8", 1, o.it.text, o.scope(OF_BLOCK))


def begin(o: Operands) -> Callable:
    place, count = o.it.operands
    address, get, access = o.address(place), o.get(count, "u32"), of_mbarrier(o)
    return lambda here: here.machine.bars.begin(access, address(here), here.who, get(here))


def arrive(o: Operands) -> Callable:
    """Arrivals, or bytes that are expected, or both: of an arrival that expects bytes one."""
    arrives = o.it.parts[1] == "arrive"
    token, *rest = o.it.operands if arrives else ("_", *o.it.operands)
    address, access = o.address(rest[0]), of_mbarrier(o)
    number = o.get(rest[1], "u32") if len(rest) > 1 else lambda here: np.uint32(1)
    expects, releases = "expect_tx" in o.it.parts, "relaxed" not in o.it.parts
    put = o.put("b64", token) if token != "_" else None

    def act(here):
        count = number(here)
        arrivals = (1 if expects else count) if arrives else 0
        expected = count.astype("i8") if expects else 0
        who, bars = here.who, here.machine.bars
        found = bars.arrive(access, address(here), who, arrivals, expected, releases)
        if put:
            put(here, found.view("i8"))

    return act


def wait(o: Operands) -> Callable:
    """test_wait and try_wait, of a parity or a token; a thread that looks in vain sleeps."""
    _, place, state, *_ = o.it.operands
    parity, access = "parity" in o.it.parts, of_mbarrier(o)
    relaxed = "relaxed" in o.it.parts
    address, put = o.address(place), o.put("pred")
    get = o.get(state, "u32" if parity else "u64")

    def act(here):
        who, machine = here.who, here.machine
        wanted = np.broadcast_to(get(here), len(who))

        def over(phase, rows):
            return phase % 2 != wanted[rows] if parity else phase > wanted[rows]

        answer, places = machine.clusters.wait(access, address(here), who, over, relaxed)
        put(here, answer)
        vain = ~answer
        if vain.any():
            machine.turns.sleep(who[vain], o.it.text, places[vain])

    return act


# Strong accesses, and fences


def strong(o: Operands, count: int) -> Access:
    """That of an instruction for `count` numbers; what names no scope is for all of the card."""
    return Access(o.space(), DTYPES[o.type], count, o.it.text, o.scope(OF_GRID))


def strong_load(o: Operands) -> Callable:
    target, source = o.it.operands
    puts, address = o.puts(target), o.address(source)
    access, acquires = strong(o, len(members(target))), "acquire" in o.it.parts

    def act(here):
        values = here.machine.strong.load(access, address(here), here.who, acquires)
        for place, put in puts:
            put(here, values[place])

    return act


def strong_store(o: Operands) -> Callable:
    target, source = o.it.operands
    address, gets = o.address(target), [o.get(name) for name in members(source)]
    access, releases = strong(o, len(gets)), "release" in o.it.parts

    def act(here):
        values = [get(here) for get in gets]
        here.machine.strong.store(access, address(here), here.who, values, releases)

    return act


def atomic(o: Operands) -> Callable:
    """atom, and red, which returns nothing."""
    name = next((part for part in o.it.parts[1:] if part in ATOMIC), None)
    returns = o.it.verb == "atom"
    target, place, *given = o.it.operands if returns else ("_", *o.it.operands)
    if name is None or len(given) != (2 if name == "cas" else 1):
        raise o.unknown()
    address, gets, access = o.address(place), [o.get(one) for one in given], strong(o, 1)
    parts, f = set(o.it.parts), ATOMIC[name]
    kinds = bool(parts & {"acquire", "acq_rel"}), bool(parts & {"release", "acq_rel"})
    put = o.put(operand=target) if target != "_" else None

    def act(here):
        values = [get(here) for get in gets]
        found = here.machine.strong.change(access, address(here), here.who, f, values, kinds)
        if put:
            put(here, found)

    return act


def fence(o: Operands) -> Callable:
    """Of memory; or of what mbarriers say."""
    if o.it.op == PUBLISH:
        return lambda here: here.machine.bars.publish(here.who)
    if o.it.op == BEHIND_WAITS:
        return lambda here: here.machine.clusters.acquire(here.who)
    kind, *scope = o.it.parts[1:]
    level = SCOPES.get(kind if o.it.verb == "membar" else "".join(scope))
    if level is None or (o.it.verb == "fence" and kind not in ("acq_rel", "sc")):
        raise o.unknown()
    return lambda here: here.machine.strong.fence(here.who, level)


def pause(o: Operands) -> Callable:
    """nanosleep: others may go on meanwhile, as always."""
    return lambda here: None


ATOMIC = {
    "add": operator.add,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "max": max,
    "min": min,
    "exch": lambda old, new: new,
    "cas": lambda old, compared, new: new if old == compared else old,
}
OF_MBARRIERS = {
    "init": begin,
    "arrive": arrive,
    "expect_tx": arrive,
    "test_wait": wait,
    "try_wait": wait,
}
VERBS: dict[str, Callable[[Operands], Callable]] = {
    "mapa": map_address,
    "mbarrier": mbarrier,
    "fence": fence,
    "membar": fence,
    "atom": atomic,
    "red": atomic,
    "nanosleep": pause,
}
