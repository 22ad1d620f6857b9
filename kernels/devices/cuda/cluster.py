"""The cluster schedule: W over the registers and shared memory of 2 to 16 multiprocessors.

Its reach is a thread-block cluster, whose blocks share the units. What a unit makes is sent into
the shared memory of each of them (`st.async`), where an mbarrier counts the bytes. There is no
barrier in the loop: who has all of a message knows that everybody has read the one before it, for
what is sent has gone through all that a warp has read. So two halves are enough, each with its own
mbarrier, which thread 0 arms again after it has waited itself.

Units that are not there, of a block that is not full, and samples beyond the last are sent all the
same, as zero: the bytes of a message are always as many, and nobody is forgotten by those who wait.
The last state is sent to nobody: what is not awaited must not be sent, and a block may end when it
has all that is sent to it.
"""

from functools import cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from ... import Backward, Forward
from ...binding.closures import each
from .clusters import (
    arm,
    await_phase,
    fence_mbarriers,
    in_clusters_of,
    init_mbarrier,
    mbarriers_of,
    meet,
    remote,
    send,
    send_four,
)
from .compiled import factory
from .contract import Choice, Problem
from .launch import cuda, device_function, launch
from .persistent import Reach, plan_of
from .persistent_back import backward_of
from .persistent_forward import forward_of
from .plans import Plan, cycles, instructions, spread
from .sums import other

name = "cluster"
SIZES = (2, 4, 8, 16)  # blocks; more than 8 a kernel must ask for


class Mail(NamedTuple):
    """Of the next message."""

    full: Any  # place of its mbarrier
    both: Any  # what that and the other's come to
    count: Any  # which message it is


@cache
def within_a_cluster(plan: Plan, itemsize: int) -> Reach:
    blocks, placed, units_each = plan.blocks, plan.placed, plan.units_each
    BYTES, NONE, mbarriers = plan.message * itemsize, 0, mbarriers_of(2)

    @device_function
    def begin(thread, call, complete):
        first, second = mbarriers()
        if cuda.threadIdx.x == 0:
            init_mbarrier(first, 1)
            init_mbarrier(second, 1)
            fence_mbarriers()
            arm(first, np.int32(NONE if complete else BYTES))
            arm(second, np.int32(BYTES))
        meet()
        return Mail(first, np.int32(first + second), np.int32(0))

    def publisher_by(send_it, threads: int):
        @device_function
        def publish_to(k, mail, thread, share, place, behind, value):
            rank = np.int32(share + k * threads)
            send_it(thread.shared, remote(place, rank), behind, value, remote(mail.full, rank))

        publish_to_all = each(max(1, blocks // threads), publish_to, device_function)

        @device_function
        def publish(mail, thread, here, share, place, behind, value):
            sends = placed or here or thread.unit < units_each
            if sends and (threads <= blocks or share < blocks):
                publish_to_all(mail, thread, share, place, behind, value)

        return publish

    @device_function
    def wait(mail):
        await_phase(mail.full, (mail.count >> 1) & 1)
        if cuda.threadIdx.x == 0:
            arm(mail.full, np.int32(BYTES))

    @device_function
    def read():
        cuda.syncwarp()  # what one lane sends says that all of its warp have read

    @device_function
    def onward(mail):
        return Mail(other(mail.both, mail.full), mail.both, np.int32(mail.count + 1))

    def publisher(threads: int):
        return publisher_by(send, threads)

    def publisher_of_four(threads: int):
        return publisher_by(send_four, threads)

    enter = in_clusters_of(blocks)
    return Reach(begin, publisher, wait, read, onward, publisher_of_four, enter)


@factory
def forward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.forward`."""
    return forward_of(cell, number, plan, within_a_cluster(plan, number().itemsize))


@factory
def backward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.backward`."""
    return backward_of(cell, number, plan, within_a_cluster(plan, number().itemsize))


# Cycles from what a cluster's blocks send to what they have received: others measured from 240 (a
# store to another block) to 700 (there and back)
EXCHANGE = 400
A_SEND = 4  # instructions that bring a number to one block
AWAITED = 12  # that wait for an mbarrier, and arm it
OF_CLIPPING = 20  # that add up the blocks' sums of δ²


def instructions_of(plan: Plan, problem: Problem) -> float:
    """What a warp issues in a step."""
    messages = 1 if plan.in_quads else plan.numbers
    of_sample = messages * ceil(plan.blocks / plan.repeats)
    of_sample += plan.clips * ceil(plan.blocks * plan.scattered / plan.together)
    sends = plan.held * (A_SEND * of_sample + plan.clips * OF_CLIPPING)
    return instructions(plan, problem) + AWAITED + sends


def plans(problem: Problem, asked: bool = False) -> tuple[Choice, ...]:
    sizes = [size for size in SIZES if size <= problem.card.cluster]
    found = [choice_of(plan, problem) for plan in spread(problem, sizes)]
    return tuple(sorted(found, key=lambda choice: choice.cycles))


def choice_of(plan: Plan, problem: Problem) -> Choice:
    why = (
        f"W over clusters of {plan.blocks} multiprocessors: {plan.in_registers} of {plan.quads} "
        "quads of weights a lane in registers, the rest in shared memory"
    )
    blocks = -(-problem.B // plan.samples) * plan.blocks
    expected = cycles(plan, problem, instructions_of(plan, problem), EXCHANGE)
    shared = plan.shared * problem.itemsize
    return Choice(name, plan, blocks, plan.threads, shared, why, expected, cluster=plan.blocks)


def forward(cell, call: Forward, choice: Choice, precision: str):
    kernel = forward_kernel(cell, call.p.dtype.type, plan_of(choice.plan, call))
    sizes = {"shared": choice.shared, "cluster": choice.cluster}
    launch(kernel, choice.blocks, choice.threads, call, **sizes)


def backward(cell, call: Backward, choice: Choice, precision: str):
    kernel = backward_kernel(cell, call.dp.dtype.type, plan_of(choice.plan, call))
    sizes = {"shared": choice.shared, "cluster": choice.cluster}
    launch(kernel, choice.blocks, choice.threads, call, **sizes)


def describe(choice: Choice) -> str:
    plan = choice.plan
    return (
        f"one launch whatever T: {choice.grid}, clusters of {choice.cluster}, {plan.lanes} lanes "
        f"for {plan.units} unit{'s' * (plan.units > 1)}, {plan.samples} samples a cluster, "
        f"{choice.shared} bytes of shared memory"
    )
