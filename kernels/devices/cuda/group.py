"""The group schedule: W over several blocks of the grid, for a slice of the batch. For cards
without clusters, and for a W that no cluster holds.

Its reach is the L2 cache. What a unit makes of a step is a packet (packets.py) in global memory,
whose tag is the number of the message; the threads of a block look at all packets of a message
until they have come, and put them in shared memory; one barrier of the block, and all multiply.
Packets stand in two halves, as shared memory does. Who writes a half again has a packet of every
block of the message between, and each block sent those when it had the message before. So every
block sends something of every message, of units and samples that are not there zeros.

All blocks of a launch are on the card at once, or the launch is refused. Where the batch is more
than they hold, one launch follows the other.
"""

from functools import cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from ... import Backward, Forward
from ...binding.closures import each, tuple_of
from .compiled import factory
from .contract import Choice, Problem
from .launch import arrays, cuda, device_function, launch
from .packets import packets_of
from .persistent import Reach, plan_of
from .persistent_back import backward_of
from .persistent_forward import forward_of
from .plans import Plan, cycles, fitting, instructions, of_size, spread
from .pointwise import nothing
from .ptx import flat, place, put_shared, shared_place
from .sums import distance_of

name = "group"
LOOKS = 8  # words that a thread looks at together: what one waits for, all do


class ForwardOfGroup(NamedTuple):
    """Forward, and what one of its launches needs."""

    p: Any
    W: Any
    c: Any
    s: Any
    kept: Any
    flags: Any
    masked: Any
    words: Any  # (groups · packets,) int64, zero: no message has the number 0
    earlier: Any  # samples that earlier launches have had


class BackwardOfGroup(NamedTuple):
    """Backward, likewise."""

    dy: Any
    W: Any
    s: Any
    kept: Any
    flags: Any
    dp: Any
    dq: Any
    ds: Any
    clip: Any
    masked: Any
    words: Any
    earlier: Any


class Mail(NamedTuple):
    """Of one message."""

    words: Any  # of all groups
    first: Any  # place of this group's
    shared: Any
    begins: Any  # where the half begins, in shared memory and among the packets
    tag: Any  # of its packets; 0 of a message that is there without any


@cache
def all_of(count: int):
    """The device function (truths) -> are the first `count` of them true?"""
    last = count - 1
    if last == 0:
        return device_function(lambda truths: truths[0])
    others = all_of(last)
    return device_function(lambda truths: others(truths) and truths[last])


def packets_in(plan: Plan) -> int:
    """Of a group: both halves."""
    return 2 * plan.half


@cache
def place_of(plan: Plan, looks: int):
    """(i) -> where in a half the i-th number of a message stands; the last one behind the end. i is
    below `looks`.
    """
    samples, width, vector = plan.samples, plan.width, plan.vector
    of_vector, parts, squares = samples * vector, plan.blocks * plan.parts, plan.squares
    count, CLIPS = plan.message, plan.clips
    EXACT, APART, LAST = looks == count, width != vector, np.uint32(count - 1)

    @device_function
    def among_the_vectors(i):
        return np.uint32(i // vector * width + i % vector) if APART else i

    @device_function
    def number_at(i):
        i = i if EXACT or i <= LAST else LAST
        if CLIPS and i >= of_vector:
            i = np.uint32(i - of_vector)
            return np.uint32(samples * width + i // parts * squares + i % parts)
        return among_the_vectors(i) if samples > 1 else i

    return number_at


@cache
def through_L2(plan: Plan, number) -> Reach:
    blocks, threads, half, each_block = plan.blocks, plan.threads, plan.half, plan.units_each
    words, put, get = packets_of(number)
    together = min(ceil(plan.message / threads), LOOKS // words)
    ROUNDS, TOGETHER = ceil(plan.message / (threads * together)), together
    GROUP, all_there = packets_in(plan) * words, all_of(together)
    number_at = place_of(plan, ROUNDS * TOGETHER * threads)

    @device_function
    def begin(thread, call, complete):
        cuda.syncthreads()
        first = place(call.words, cuda.blockIdx.x // blocks * GROUP)
        tag = np.int32(0 if complete else 1)
        return Mail(flat(call.words), first, thread.shared, np.int64(0), tag)

    def publisher(count: int):
        alone = count == 1

        @device_function
        def publish(mail, thread, here, share, place, behind, value):
            if (here or thread.unit < each_block) and (alone or share == 0):
                first, one = shared_place(thread.shared, 0), distance_of(thread.shared, 1)
                put(mail.words, mail.first, (place - first) // one + behind, value, mail.tag)

        return publish

    @device_function
    def look(k, i, mail, values):
        at = mail.begins + np.int64(number_at(np.uint32(i + k * threads)))
        values[k], there = get(mail.words, mail.first, at, mail.tag)
        return there

    @device_function
    def take(k, i, mail, values):
        at = mail.begins + np.int64(number_at(np.uint32(i + k * threads)))
        put_shared(mail.shared, shared_place(mail.shared, 0), at, values[k])

    look_at_all = tuple_of(together, look, device_function)
    take_all = each(together, take, device_function)

    @device_function
    def wait(mail):
        if mail.tag != 0:
            values = cuda.local.array(TOGETHER, number)
            i = np.uint32(cuda.threadIdx.x)
            for _ in range(ROUNDS):
                there = False
                while not there:
                    there = all_there(look_at_all(i, mail, values))
                take_all(i, mail, values)
                i = np.uint32(i + TOGETHER * threads)
        cuda.syncthreads()

    @device_function
    def onward(mail):
        tag = np.int32(mail.tag + 1)
        return Mail(mail.words, mail.first, mail.shared, half - mail.begins, tag)

    earlier = device_function(lambda call: call.earlier)
    return Reach(begin, publisher, wait, nothing, onward, earlier=earlier)


@factory
def forward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.forward`, of some samples."""
    return forward_of(cell, number, plan, through_L2(plan, number))


@factory
def backward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.backward`, of some samples."""
    return backward_of(cell, number, plan, through_L2(plan, number))


EXCHANGE = 1400  # cycles from a store to L2 until another block has seen it: an estimate
A_LOOK = 8  # instructions that look at a word and put its number in shared memory


def plans(problem: Problem, asked: bool = False) -> tuple[Choice, ...]:
    """Where W fits one multiprocessor there is nothing to share out, unless that is asked for."""
    if not asked and fitting(problem):
        return ()
    found = [choice_of(plan, problem) for plan in spread(problem, sizes(problem))]
    return tuple(sorted(found, key=lambda choice: choice.cycles))


def sizes(problem: Problem) -> list[int]:
    """Blocks that a group may have: those that leave each as many units, or nearly."""
    n, most = problem.n, problem.card.multiprocessors
    found = {ceil(n / units) for units in range(1, min(n, 64) + 1)}
    return sorted(P for P in found if 2 <= P <= most)


def choice_of(plan: Plan, problem: Problem) -> Choice:
    groups = problem.card.multiprocessors // plan.blocks
    launches = ceil(ceil(problem.B / plan.samples) / groups)
    groups = min(groups, ceil(problem.B / plan.samples))
    looks = ceil(plan.message / plan.threads) * problem.itemsize // 4
    alone = problem._replace(B=plan.samples)
    step = cycles(plan, alone, instructions(plan, problem) + A_LOOK * looks, EXCHANGE)
    why = f"{of_size(problem)}: {plan.blocks} blocks hold it together"
    shared = plan.shared * problem.itemsize
    blocks, threads = groups * plan.blocks, plan.threads
    return Choice(name, plan, blocks, threads, shared, why, launches * step, 1, True)


def forward(cell, call: Forward, choice: Choice, precision: str):
    kernel = forward_kernel(cell, call.p.dtype.type, plan_of(choice.plan, call))
    run(kernel, choice, call.p, lambda *more: ForwardOfGroup(*call, *more))


def backward(cell, call: Backward, choice: Choice, precision: str):
    kernel = backward_kernel(cell, call.dp.dtype.type, plan_of(choice.plan, call))
    run(kernel, choice, call.dp, lambda *more: BackwardOfGroup(*call, *more))


def run(kernel, choice: Choice, a, call_with):
    """One launch after the other, until all samples of a (T, B, ·, n) have been.

    Packets of a launch before must not be taken for those of this one: each has zeros.
    """
    plan, B = choice.plan, a.shape[1]
    words = packets_in(plan) * packets_of(a.dtype.type).words
    earlier = 0
    while earlier < B:
        groups = min(choice.blocks // plan.blocks, ceil((B - earlier) / plan.samples))
        call = call_with(arrays().zeros(groups * words, np.int64), earlier)
        shared, blocks = choice.shared, groups * plan.blocks
        launch(kernel, blocks, choice.threads, call, shared=shared, cooperative=True)
        earlier += groups * plan.samples


def describe(choice: Choice) -> str:
    plan, groups = choice.plan, choice.blocks // choice.plan.blocks
    return (
        f"one launch for {groups * plan.samples} samples, whatever T: {choice.grid}, "
        f"{plan.blocks} a group, {plan.lanes} lanes for {plan.units} unit{'s' * (plan.units > 1)}, "
        f"{plan.samples} sample{'s' * (plan.samples > 1)} a group, {choice.shared} bytes of shared "
        "memory"
    )
