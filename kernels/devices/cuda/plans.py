"""The arithmetic behind the choice of a schedule: what fits one multiprocessor, and what a step
costs.
"""

from math import ceil, log2
from typing import NamedTuple

from .contract import Card, Problem
from .launch import ROUND_TO

WARP = 32
QUAD = 4  # neighbouring numbers: what one load of shared memory brings, 16 bytes of float32
MOST_THREADS = 1024  # of a block, on every card
MOST_REGISTERS = 255  # of a thread, on every card
SCHEDULERS = 4  # of a multiprocessor; they share its warps evenly
RESIDENT_THREADS = 2048  # of a multiprocessor, at most
TYPICAL_REGISTERS = 128  # of a thread, where it is asked how many blocks are resident
# what a kernel needs beside weights, states and inputs (read off SASS; the tests hold it to that)
SPARE_REGISTERS = 72
L2_BYTES_A_CYCLE = 64  # that one multiprocessor reads of weights all of them share
GEMM_CYCLES = 80_000  # two launches by Numba and CuPy, about 40 µs of the host: an estimate


class Plan(NamedTuple):
    """What is fixed when a kernel of the block schedule is compiled. A quad is four neighbouring
    inputs: one 16-byte load.
    """

    n: int  # units
    inputs: int  # length of the vector that W multiplies: n forward, G·n backward
    outputs: int  # sums a unit takes: G forward, 1 backward
    lanes: int  # neighbouring threads that share a unit: 1, 2, 4 or 8
    samples: int  # of a block
    # quads of inputs whose weights a lane has in registers; the others are in shared memory
    in_registers: int
    clips: bool = False  # δ is clipped

    @property
    def quads(self) -> int:
        """Quads of inputs a lane."""
        return ceil(self.inputs / (QUAD * self.lanes))

    @property
    def width(self) -> int:
        """Inputs, padded to whole quads for every lane."""
        return QUAD * self.lanes * self.quads

    @property
    def threads(self) -> int:
        """Of a block: whole warps."""
        return ceil(self.n * self.lanes / ROUND_TO) * ROUND_TO

    @property
    def shared(self) -> int:
        """Numbers in shared memory: inputs of every sample twice, weights that registers do not
        hold, and δ² if it is clipped.
        """
        return self.first_square + self.clips * 2 * self.samples * self.padded

    @property
    def padded(self) -> int:
        """Units, padded to whole quads."""
        return ceil(self.n / QUAD) * QUAD

    @property
    def first_weight(self) -> int:
        """Where in shared memory the weights begin: behind the inputs."""
        return 2 * self.samples * self.width

    @property
    def first_square(self) -> int:
        """Where in shared memory Σ δ² of each unit begins, for every sample, twice."""
        in_shared = self.quads - self.in_registers
        return self.first_weight + QUAD * in_shared * self.outputs * self.threads


def best(problem: Problem) -> Plan | None:
    """The plan whose step is estimated to be the quickest; None if W fits no multiprocessor."""
    plans = [
        plan
        for lanes in (1, 2, 4, 8)
        for samples in (1, 2, 4, 8)
        if problem.n * lanes <= MOST_THREADS
        and samples <= max(1, problem.B)
        and (plan := fitted(problem, lanes, samples))
    ]
    return min(plans, key=lambda plan: cycles(plan, problem), default=None)


def fitted(problem: Problem, lanes: int, samples: int) -> Plan | None:
    """The plan with as many weights in registers as go, or None if the others do not fit shared
    memory.
    """
    cell, n, itemsize, card = problem.cell, problem.n, problem.itemsize, problem.card
    states, gates, registers_each = cell.states, cell.gates, itemsize // 4
    if problem.direction == "forward":
        inputs, outputs = n, gates
        # numbers that a thread keeps of a sample: states, sums, this step's inputs and the next's
        of_sample = states + 3 * gates + 2 * cell.drawn
    else:
        inputs, outputs = gates * n, 1
        # dE/ds, states before and after the step, what is kept of it, dy, flags, the sum
        of_sample = 3 * states + cell.kept + 3 + problem.clips
    of_sample += 3 if outputs == 1 else 1  # read off SASS
    plan = Plan(n, inputs, outputs, lanes, samples, 0, problem.clips)
    needed = SPARE_REGISTERS + registers_each * (samples * of_sample + 2 * gates)
    available = registers(plan, card)
    quad = QUAD * outputs * registers_each  # registers that the weights of one take
    most = min(plan.quads, (available - needed) // quad, card.weight_registers // quad)
    plan = plan._replace(in_registers=max(0, most))
    return plan if plan.shared * itemsize <= card.shared and available >= needed else None


def registers(plan: Plan, card: Card) -> int:
    """That a thread may have: they are handed out by eights, to warps that schedulers share."""
    threads = SCHEDULERS * WARP
    return min(MOST_REGISTERS, card.registers // (ceil(plan.threads / threads) * threads) // 8 * 8)


# The estimate of a step. Instructions are those of SASS, a warp issues one a cycle; latencies are
# those of a coarse model of one multiprocessor: good for an order, not for a time.

REDUCTION = 8  # instructions of one shuffle and its sum, with what prepares them
WEIGHTS_LOAD = 4  # cycles of a warp's quads from shared memory: 512 bytes at 128 a cycle
STEP = 200  # cycles of a step that nothing hides: barrier, cell, addresses
A_QUAD, A_SHUFFLE, A_SAMPLE = 16, 25, 40  # cycles that each adds to the chain


def cycles(plan: Plan, problem: Problem) -> float:
    """An estimate of one step, in cycles: what a multiprocessor must issue, or the chain that
    cannot be hidden, times the waves.
    """
    card, registers_each, warps = problem.card, problem.itemsize // 4, ceil(plan.threads / WARP)
    shuffles = log2(plan.lanes)
    sums = plan.quads * plan.outputs * plan.samples
    loads = plan.quads * plan.samples
    reductions = REDUCTION * plan.samples * plan.outputs * shuffles
    in_shared = (plan.quads - plan.in_registers) * plan.outputs
    issue = warps * registers_each * (sums + loads + WEIGHTS_LOAD * in_shared)
    issue += warps * registers_each * reductions / SCHEDULERS
    chain = STEP + A_QUAD * plan.quads + A_SHUFFLE * shuffles + A_SAMPLE * plan.samples
    blocks = ceil(problem.B / plan.samples)
    resident = max(
        1,
        min(
            card.shared // max(1, plan.shared * problem.itemsize),
            RESIDENT_THREADS // plan.threads,
            card.registers // (plan.threads * TYPICAL_REGISTERS),
        ),
    )
    waves = ceil(blocks / (card.multiprocessors * resident))
    on_one = min(resident, ceil(blocks / card.multiprocessors))
    return waves * max(chain, on_one * issue)


def size(problem: Problem) -> int:
    """Bytes of W."""
    return problem.cell.gates * problem.n * problem.n * problem.itemsize


def streaming(problem: Problem) -> float:
    """Cycles of a step in which each block reads W from the L2 cache."""
    return size(problem) / L2_BYTES_A_CYCLE * ceil(problem.B / problem.card.multiprocessors)


def too_large(problem: Problem) -> str:
    return (
        f"W has {size(problem)} bytes, more than registers and shared memory of one "
        "multiprocessor hold"
    )
