"""The arithmetic behind the choice of a schedule: what fits one multiprocessor, and what a step
costs.
"""

from collections.abc import Iterable
from math import ceil, gcd, log2
from typing import NamedTuple

from .contract import Card, Problem
from .launch import ROUND_TO

WARP = 32
QUAD = 4  # neighbouring numbers: what one load of shared memory brings, 16 bytes of float32
MOST_THREADS = 1024  # of a block, on every card
MOST_REGISTERS = 255  # of a thread, on every card
SCHEDULERS = 4  # of a multiprocessor; they share its warps evenly
RESIDENT_THREADS = 2048  # of a multiprocessor, at most
# what a kernel needs beside weights, states and inputs (read off SASS; the tests hold it to that)
SPARE_REGISTERS = 76
REACHING_REGISTERS = 16  # what it needs to send and to wait in a cluster
UNDER_WAY = 8  # registers of quads from shared memory, in one sum of many
UNDER_WAY_OF_UNITS = 32  # of several units
COLUMNS = 8  # samples that tensor cores take together
TENSOR_CORES = (8, 0)  # compute capability from which they know "tf32" and "bf16"
CHAINS = 4  # sums under way that keep a thread busy
L2_BYTES_A_CYCLE = 64  # that one multiprocessor reads of weights all of them share


class Plan(NamedTuple):
    """What is fixed when a persistent kernel is compiled. A quad is four neighbouring numbers of
    the vector that W multiplies: one 16-byte load. A team is `lanes` neighbouring threads.
    """

    n: int  # units
    inputs: int  # numbers that W multiplies: n forward, G·n backward
    outputs: int  # sums a unit takes: G forward, 1 backward
    lanes: int  # threads of a team: a power of 2, at most a warp
    samples: int  # of a block, or of all that share the units
    # quads of inputs whose weights a lane has in registers; the others are in shared memory
    in_registers: int
    clips: bool = False  # δ is clipped
    masked: bool = False  # some step does not happen, or begins anew
    units: int = 1  # of a team: a power of 2, at most `lanes`
    blocks: int = 1  # that share the units
    product: str = "fp32"  # by what a thread sums; else by tensor cores, "tf32" or "bf16"
    given: bool = False  # samples that begin anew go on from given states

    @property
    def units_each(self) -> int:
        """Units of a block; the last may have fewer."""
        return ceil(self.n / self.blocks)

    @property
    def places(self) -> int:
        """Of units in the vector: as many of each block."""
        return self.blocks * self.units_each

    @property
    def numbers(self) -> int:
        """Of a unit in the vector."""
        return self.inputs // self.n

    @property
    def vector(self) -> int:
        """Numbers of the vector, those of units that are not there among them."""
        return self.numbers * self.places

    @property
    def in_quads(self) -> bool:
        """Do a unit's numbers stand beside each other in the vector? Else those of all units."""
        return self.blocks > 1 and self.numbers == QUAD

    @property
    def strides(self) -> tuple[int, int]:
        """In the vector, from a unit to the next, and from one of its numbers to the next."""
        return (QUAD, 1) if self.in_quads else (1, self.places)

    @property
    def quads(self) -> int:
        """Quads of inputs a lane."""
        return ceil(self.vector / (QUAD * self.lanes))

    @property
    def width(self) -> int:
        """The vector, padded to whole quads for every lane; for tensor cores to an odd number of
        them: eight samples stand in different banks.
        """
        quads = self.quads if self.product == "fp32" else self.quads | 1
        return QUAD * self.lanes * quads

    @property
    def teams(self) -> int:
        """Of a block."""
        return ceil(self.units_each / self.units)

    @property
    def threads(self) -> int:
        """Of a block: whole warps."""
        whole = ROUND_TO if self.product == "fp32" else WARP
        return ceil(self.teams * self.lanes / whole) * whole

    @property
    def placed(self) -> bool:
        """Has every thread one of its block's units?"""
        filled = self.teams * self.lanes == self.threads
        return filled and self.units_each % self.units == 0

    @property
    def full(self) -> bool:
        """Is that one of the layer's, too?"""
        return self.placed and self.places == self.n

    @property
    def scattered(self) -> int:
        """Lanes of a team that take different samples of a unit: a power of 2."""
        return gcd(self.samples, self.lanes // self.units)

    @property
    def held(self) -> int:
        """Samples whose step a thread takes."""
        return self.samples // self.scattered

    @property
    def repeats(self) -> int:
        """Lanes that take the same steps."""
        return self.lanes // (self.units * self.scattered)

    @property
    def chains(self) -> int:
        """Sums that a thread makes of each: one that waits for itself at every product takes four
        cycles for each.
        """
        return max(1, CHAINS // (self.outputs * self.units * self.samples))

    @property
    def between(self) -> int:
        """Sums from those of one sample that a thread holds to those of the next."""
        return self.scattered * self.units * self.outputs * self.chains

    @property
    def shared(self) -> int:
        """Numbers in shared memory: two halves, and weights that registers do not hold."""
        in_shared = self.quads - self.in_registers
        return self.first_weight + QUAD * in_shared * self.pieces * self.threads

    @property
    def pieces(self) -> int:
        """Quads of weights of one of the vector's."""
        sums = self.outputs * self.units
        return ceil(sums / 2) if self.product == "bf16" else sums

    @property
    def half(self) -> int:
        """Numbers of a half: inputs of every sample, and sums of δ² if it is clipped."""
        return self.samples * (self.width + self.clips * self.squares)

    @property
    def first_weight(self) -> int:
        """Where in shared memory the weights begin."""
        return 2 * self.half

    @property
    def register_pieces(self) -> int:
        """The same in registers, where tensor cores find theirs by fours: with zeros where a tile
        is half empty.
        """
        return self.pieces + self.pieces % 2 if self.product == "tf32" else self.pieces

    @property
    def weights(self) -> int:
        """Numbers of an array for the weights in registers: not empty."""
        return max(1, self.in_registers * self.register_pieces * QUAD)

    @property
    def sums(self) -> int:
        """Numbers of an array for the sums of a step."""
        return self.samples * self.units * self.outputs * self.chains

    @property
    def together(self) -> int:
        """Threads that sum their δ² by shuffles: of a warp, or of what divides the block."""
        count = self.lanes
        while count < WARP and self.threads % (2 * count) == 0:
            count *= 2
        return count

    @property
    def parts(self) -> int:
        """Sums of δ² that a block leaves of a sample."""
        return self.threads // self.together

    @property
    def sharers(self) -> int:
        """Lanes that add up the parts of a sample together."""
        return self.lanes // self.scattered

    @property
    def message(self) -> int:
        """Numbers that come to each block in a step: of its units' places, and sums of δ²."""
        return self.samples * (self.vector + self.clips * self.blocks * self.parts)

    @property
    def squares(self) -> int:
        """Sums of δ² of a sample, padded to whole quads for every lane that shares them."""
        whole = QUAD * self.sharers
        return ceil(self.blocks * self.parts / whole) * whole


def fitting(problem: Problem) -> list[Plan]:
    """All plans of one block, the one whose step is estimated to be the quickest first; [] if W
    fits no multiprocessor.
    """
    return sorted(spread(problem, (1,)), key=lambda plan: cycles(plan, problem))


def spread(problem: Problem, sizes: Iterable[int]) -> list[Plan]:
    """All plans of so many blocks that share the units, each of which has some."""
    sizes = [blocks for blocks in sizes if (blocks - 1) * ceil(problem.n / blocks) < problem.n]
    plans = [
        plan
        for blocks in sizes
        for lanes in (1, 2, 4, 8, 16, 32)
        for units in (1, 2, 4, 8)
        for samples in (1, 2, 4, 8)
        if units <= lanes
        and samples <= max(1, problem.B)
        and (plan := fitted(problem, lanes, samples, units, blocks))
    ]
    return plans + [plan for blocks in sizes for plan in tensor_plans(problem, blocks)]


def tensor_plans(problem: Problem, blocks: int = 1) -> list[Plan]:
    """Those for tensor cores, where precision and card allow them, from eight samples on."""
    kinds = {"fp32": (), "tf32": ("tf32",), "bf16": ("bf16",)}[problem.precision]
    if problem.card.capability < TENSOR_CORES or problem.itemsize != 4:
        return []
    return [
        plan
        for product in kinds
        for samples in (COLUMNS, 2 * COLUMNS)
        if samples <= problem.B
        and (plan := fitted(problem, QUAD, samples, 1, blocks, product=product))
    ]


def fitted(
    problem: Problem,
    lanes: int,
    samples: int,
    units: int = 1,
    blocks: int = 1,
    product: str = "fp32",
) -> Plan | None:
    """The plan with as many weights in registers as go, or None if the others do not fit shared
    memory.
    """
    cell, n, itemsize, card = problem.cell, problem.n, problem.itemsize, problem.card
    gates, registers_each = cell.gates, itemsize // 4
    forward = problem.direction == "forward"
    inputs, outputs = (n, gates) if forward else (gates * n, 1)
    plan = Plan(n, inputs, outputs, lanes, samples, 0, problem.clips, problem.masked, units, blocks)
    plan = plan._replace(product=product)
    if plan.threads > MOST_THREADS:
        return None
    needed, available = beside_weights(plan, problem), registers(plan, card)
    quad = QUAD * plan.register_pieces * registers_each  # registers that the weights of one take
    most = min(plan.quads, (available - needed) // quad, card.weight_registers // quad)
    if outputs == 1 and most < plan.quads:  # the others come through more, which are under way
        under_way = (UNDER_WAY if units == 1 else UNDER_WAY_OF_UNITS) * registers_each
        most = min(most, (available - needed - under_way) // quad)
        if gates == 1 and not forward:
            # an even number is loaded by twos, more than registers hold, and with one unit in one
            # block two more quads are under way (read off SASS)
            most -= 2 * (units == blocks == 1) + ((plan.quads - most) % 2 == 0)
    plan = plan._replace(in_registers=max(0, most))
    return plan if plan.shared * itemsize <= card.shared and available >= needed else None


def beside_weights(plan: Plan, problem: Problem) -> int:
    """Registers of a thread that weights cannot have."""
    cell, registers_each = problem.cell, problem.itemsize // 4
    states, gates = cell.states, cell.gates
    if problem.direction == "forward":
        # numbers that a thread keeps of a sample: states, this step's inputs and the next's
        of_sample = states + 2 * gates + 2 * cell.drawn
        tracks = 2 + states
    else:
        # dE/ds, states before and after the step, what is kept of it, dy, flags
        of_sample = 3 * states + cell.kept + 2
        # δ, until its norm is known; its square, and whether it is beyond
        of_sample += problem.clips * (2 + gates * (1 + cell.apart))
        tracks = 3 + states + cell.apart + problem.clips
    of_sample += 3 if plan.outputs == 1 else 1  # read off SASS
    places = 2 * (tracks + 2 * problem.masked)  # of 64 bits
    numbers = plan.held * of_sample + plan.samples * plan.units * plan.outputs + 2 * gates
    numbers += QUAD * (plan.samples - plan.held)  # a quad of each sample is under way
    reaching = REACHING_REGISTERS * (plan.blocks > 1)
    reaching += 40 * (problem.masked and plan.blocks > 1)  # read off SASS, of a group's LSTM
    return SPARE_REGISTERS + reaching + places + registers_each * numbers


def registers(plan: Plan, card: Card) -> int:
    """That a thread may have: they are handed out by eights, to warps that schedulers share."""
    threads = SCHEDULERS * WARP
    return min(MOST_REGISTERS, card.registers // (ceil(plan.threads / threads) * threads) // 8 * 8)


# The estimate of a step: good for an order, not for a time. What a warp issues is read off SASS
# (tests/test_ptx.py holds it to that); latencies are those of a coarse model of one multiprocessor.

STALL = 250  # cycles of a step in which its own block issues nothing: barrier, loads, the cell
A_SHUFFLE = 25  # cycles that each adds to them
WEIGHTS_LOAD = 4  # cycles of a warp's quads from shared memory: 512 bytes at 128 a cycle
LOOP = 14  # instructions of a step whatever its cell: the next places, the count, a line to fetch
A_TANH = 16  # instructions


def instructions(plan: Plan, problem: Problem) -> float:
    """What a warp issues in a step."""
    if plan.product != "fp32":
        return by_tensor_cores(plan) + loads(plan) + beside(plan, problem)
    each_quad = plan.outputs * plan.units * plan.samples
    products = QUAD * plan.quads * each_quad
    reductions = each_quad * (plan.chains - 1) + 2 * shuffles(plan)
    sums = products + loads(plan) + reductions
    return sums + beside(plan, problem)


A_TILE = 8  # instructions that could be issued while tensor cores take a product: an estimate
ROUNDING = {"tf32": 0, "bf16": 2}  # instructions of a quad, of numbers that were not rounded before


def by_tensor_cores(plan: Plan) -> float:
    """What a warp could have issued in the time of its products, and for their numbers."""
    tiles, batches = ceil(plan.outputs / 2), plan.samples / COLUMNS
    products = A_TILE * tiles * (2 if plan.product == "tf32" else 1)
    return plan.quads * batches * (products + ROUNDING[plan.product])


def loads(plan: Plan) -> float:
    """Of quads from shared memory, that a warp does in a step."""
    samples = plan.samples if plan.product == "fp32" else plan.samples / COLUMNS
    return plan.quads * samples + (plan.quads - plan.in_registers) * plan.pieces


def shuffles(plan: Plan) -> float:
    """That deal out the sums of a step."""
    of_units = plan.samples * (plan.units - 1)
    of_samples = plan.held * (plan.scattered - 1)
    return plan.outputs * (of_units + of_samples + plan.held * log2(plan.repeats))


def beside(plan: Plan, problem: Problem) -> float:
    """Instructions of a step beside W·s: the loop, and of each sample the cell with what it reads
    and writes.

    The cells that are here give the numbers; of others it is an estimate: that forward a function
    is computed for each gate and for each state but one, and on the way back for these.
    """
    cell = problem.cell
    gates, others = cell.gates, cell.states - 1
    if problem.direction == "forward":
        of_sample = 5 + 11 * gates + A_TANH * (gates + others) + 2 * cell.drawn
    else:
        of_sample = 12 + 11 * gates + A_TANH * others + 4 * gates * cell.apart
        of_sample += problem.clips * (27 + 11 * gates) + 2 * cell.drawn
    of_sample += problem.masked * (14 + 6 * gates + 30 * problem.clips)
    of_sample += (5 + 4 * problem.clips) * (not plan.full)
    return LOOP + plan.held * of_sample


def cycles(plan: Plan, problem: Problem, issued: float = 0.0, exchange: float = 0.0) -> float:
    """An estimate of one step, in cycles: what a multiprocessor must issue, or one block alone with
    its stalls, times the waves.

    issued    instructions of a warp, where they are not those of one block
    exchange  cycles until what a block has sent to others is there
    """
    issued = issued or instructions(plan, problem)
    card, registers_each, warps = problem.card, problem.itemsize // 4, ceil(plan.threads / WARP)
    issue = registers_each * warps * issued / SCHEDULERS
    in_shared = (plan.quads - plan.in_registers) * plan.pieces
    of_vector = loads(plan) - in_shared
    if plan.product != "fp32":  # each lane has one of its own
        of_vector *= WEIGHTS_LOAD
    memory = registers_each * warps * (of_vector + WEIGHTS_LOAD * in_shared)
    alone = registers_each * issued * ceil(warps / SCHEDULERS)
    chain = STALL + exchange + A_SHUFFLE * log2(plan.lanes) + max(alone, memory)
    used = beside_weights(plan, problem) + plan.weights * registers_each
    used = min(registers(plan, card), ceil(used / 8) * 8)
    together = ceil(problem.B / plan.samples)  # blocks, or clusters of them
    resident = max(
        1,
        min(
            card.shared // max(1, plan.shared * problem.itemsize),
            RESIDENT_THREADS // plan.threads,
            card.registers // (plan.threads * used),
        ),
    )
    places = card.at_once(plan.blocks)  # a block a multiprocessor
    waves = ceil(together / (places * resident))
    on_one = min(resident, ceil(together / places))
    return waves * max(chain, on_one * max(issue, memory))


def size(problem: Problem) -> int:
    """Bytes of W."""
    return problem.cell.gates * problem.n * problem.n * problem.itemsize


def streaming(problem: Problem) -> float:
    """Cycles of a step in which each block reads W from the L2 cache."""
    return size(problem) / L2_BYTES_A_CYCLE * ceil(problem.B / problem.card.multiprocessors)


def of_size(problem: Problem) -> str:
    return f"W has {size(problem)} bytes"
