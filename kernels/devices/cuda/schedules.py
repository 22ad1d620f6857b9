"""Which schedule a call uses: the table, and the arithmetic behind the block schedule's plan."""

from contextlib import contextmanager
from functools import cache
from math import log2
from typing import NamedTuple

from ...once import once
from .block import Plan
from .launch import SIMULATED, blocks_for, cuda, threads_for

NAMES = ("block", "plain", "gemm")
L2_BYTES_A_CYCLE = 64  # that one multiprocessor reads of weights all of them share
GEMM_CYCLES = 80_000  # two launches by Numba and CuPy, about 40 µs of the host: an estimate
# what a kernel needs beside weights, states and inputs (read off SASS; the tests hold it to that)
SPARE_REGISTERS = 72


class Card(NamedTuple):
    """What the choice looks at."""

    name: str
    multiprocessors: int
    registers: int  # of 32 bits, a multiprocessor
    shared: int  # bytes that a block may have
    # registers of a thread that weights may take, so that the compiler still keeps them there (read
    # off SASS)
    held: int


SIMULATOR = Card("simulator", 2, 65_536, 232_448, 152)
H200 = Card("H200", 132, 65_536, 232_448, 152)
EARLIER_HELD = 96  # before Hopper: the same compiler spills there what it keeps for sm_90


@cache
def card() -> Card:
    if SIMULATED:
        return SIMULATOR
    device = cuda.get_current_device()
    return Card(
        str(device.name),
        device.MULTIPROCESSOR_COUNT,
        device.MAX_REGISTERS_PER_MULTIPROCESSOR,
        device.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        H200.held if device.compute_capability >= (9, 0) else EARLIER_HELD,
    )


class Choice(NamedTuple):
    """A schedule with everything that a launch needs, and the reason."""

    schedule: str
    plan: Plan | None
    blocks: int
    threads: int
    shared: int  # bytes
    why: str


forced: list[str] = []


@contextmanager
def only(schedule: str):
    """Use one schedule whatever the table says: for tests and benchmarks. ("block" where W
    fits.)
    """
    if schedule not in NAMES:
        raise ValueError(f"schedule is {schedule!r}, expected one of {', '.join(NAMES)}")
    forced.append(schedule)
    try:
        yield
    finally:
        forced.pop()


def choose(cell, direction: str, n: int, B: int, itemsize: int, clips: bool = False) -> Choice:
    """The schedule of one call.  direction is "forward" or "backward"; clips, whether that clips
    δ.
    """
    return decide(cell, direction, n, B, itemsize, card(), forced[-1] if forced else None, clips)


@once
def decide(
    cell,
    direction: str,
    n: int,
    B: int,
    itemsize: int,
    card: Card,
    wanted: str | None = None,
    clips: bool = False,
) -> Choice:
    if wanted in (None, "block"):
        plans = [
            plan
            for lanes in (1, 2, 4, 8)
            for rows in (1, 2, 4, 8)
            if n * lanes <= 1024
            and rows <= max(1, B)
            and (plan := fitted(cell, direction, n, lanes, rows, itemsize, card, clips))
        ]
        if plans:
            plan = min(plans, key=lambda plan: cycles(plan, B, itemsize, card))
            held = (
                f"{plan.held} of {plan.quads} quads of weights a lane in registers, the rest in "
                "shared memory"
            )
            return Choice(
                "block",
                plan,
                -(-B // plan.rows),
                plan.threads,
                plan.shared * itemsize,
                f"W fits one multiprocessor: {held}",
            )
    size = cell.gates * n * n * itemsize
    streamed = size / L2_BYTES_A_CYCLE * -(-B // card.multiprocessors)
    why = f"W has {size} bytes, more than registers and shared memory of one multiprocessor hold"
    if wanted == "gemm" or (wanted != "plain" and streamed > GEMM_CYCLES):
        return Choice(
            "gemm",
            None,
            blocks_for(B),
            threads_for(n),
            0,
            "asked for" if wanted == "gemm" else f"{why}; too many to stream each step",
        )
    return Choice(
        "plain",
        None,
        blocks_for(B),
        threads_for(n),
        0,
        "asked for" if wanted == "plain" else f"{why}; streamed from L2",
    )


def fitted(cell, direction, n, lanes, rows, itemsize, card, clips=False) -> Plan | None:
    """The plan with as many weights in registers as go, or None if the others do not fit shared
    memory.
    """
    states, gates, kept, words = cell.states, cell.gates, cell.kept, itemsize // 4
    # each: numbers that a thread has of a sample
    forward, backward = states + 3 * gates + 2 * cell.drawn, 3 * states + kept + 3 + clips
    inputs, outputs, each = (
        (n, gates, forward) if direction == "forward" else (gates * n, 1, backward)
    )
    plan = Plan(n, inputs, outputs, lanes, rows, 0, clips)
    # four schedulers share them evenly
    registers = min(255, card.registers // (-(-plan.threads // 128) * 128) // 8 * 8)
    own = SPARE_REGISTERS + words * (rows * (each + (3 if outputs == 1 else 1)) + 2 * gates)
    plan = plan._replace(
        held=max(
            0,
            min(
                plan.quads,
                (registers - own) // (4 * outputs * words),
                card.held // (4 * outputs * words),
            ),
        )
    )
    return plan if plan.shared * itemsize <= card.shared and registers >= own else None


def cycles(plan: Plan, B: int, itemsize: int, card: Card) -> float:
    """An estimate of one step, in cycles: what a multiprocessor must issue, or the chain that
    cannot be hidden, times the waves.
    """
    words, warps = itemsize // 4, -(-plan.threads // 32)
    sums = plan.quads * plan.outputs * plan.rows
    issue = warps * (
        4 * sums * words / 4
        + plan.quads * plan.rows * words
        + 8 * plan.rows * plan.outputs * log2(plan.lanes) * words / 4
    )
    # 512 bytes a warp at 128 a cycle
    issue += 4 * words * warps * (plan.quads - plan.held) * plan.outputs
    chain = 200 + 16 * plan.quads + 25 * log2(plan.lanes) + 40 * plan.rows
    blocks = -(-B // plan.rows)
    resident = max(
        1,
        min(
            card.shared // max(1, plan.shared * itemsize),
            2048 // plan.threads,
            card.registers // (plan.threads * 128),
        ),
    )
    waves = -(-blocks // (card.multiprocessors * resident))
    together = min(resident, -(-blocks // card.multiprocessors))
    return waves * max(chain, together * issue)
