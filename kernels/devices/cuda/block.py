"""The block schedule: W of one SM's size on the chip, a slice of the batch a block.

Its reach is a block: what a unit makes is stored in the block's shared memory, and one barrier a
step is enough: a step reads one half and writes the other, and none writes a half again before all
have read it and come to the barrier between.
"""

from functools import cache

from ... import Backward, Forward
from .compiled import factory
from .contract import Choice, Problem
from .launch import cuda, device_function, launch
from .persistent import Reach, plan_of
from .persistent_back import backward_of
from .persistent_forward import forward_of
from .plans import Plan, cycles, fitting
from .pointwise import nothing
from .ptx import put_shared

name = "block"


@cache
def publisher(threads: int):
    alone = threads == 1

    @device_function
    def publish(mail, thread, here, share, place, behind, value):
        if here and (alone or share == 0):
            put_shared(thread.shared, place, behind, value)

    return publish


@device_function
def begin(thread, call, complete):
    cuda.syncthreads()
    return ()


@device_function
def wait(mail):
    cuda.syncthreads()  # the next step reads every unit


@device_function
def onward(mail):
    return mail


WITHIN_A_BLOCK = Reach(begin, publisher, wait, nothing, onward)


@factory
def forward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.forward`."""
    return forward_of(cell, number, plan, WITHIN_A_BLOCK)


@factory
def backward_kernel(cell, number, plan: Plan):
    """The kernel (call) for one plan: `Device.backward`."""
    return backward_of(cell, number, plan, WITHIN_A_BLOCK)


def plans(problem: Problem, asked: bool = False) -> tuple[Choice, ...]:
    return tuple(choice_of(plan, problem) for plan in fitting(problem))


def choice_of(plan: Plan, problem: Problem) -> Choice:
    why = (
        f"W fits one multiprocessor: {plan.in_registers} of {plan.quads} quads of weights a "
        "lane in registers, the rest in shared memory"
    )
    blocks, shared = -(-problem.B // plan.samples), plan.shared * problem.itemsize
    return Choice(name, plan, blocks, plan.threads, shared, why, cycles(plan, problem))


def forward(cell, call: Forward, choice: Choice, precision: str):
    kernel = forward_kernel(cell, call.p.dtype.type, plan_of(choice.plan, call))
    launch(kernel, choice.blocks, choice.threads, call, shared=choice.shared)


def backward(cell, call: Backward, choice: Choice, precision: str):
    kernel = backward_kernel(cell, call.dp.dtype.type, plan_of(choice.plan, call))
    launch(kernel, choice.blocks, choice.threads, call, shared=choice.shared)


def describe(choice: Choice) -> str:
    plan = choice.plan
    return (
        f"one launch whatever T: {choice.grid}, {plan.lanes} lanes for {plan.units} "
        f"unit{'s' * (plan.units > 1)}, {plan.samples} samples a block, "
        f"{choice.shared} bytes of shared memory"
    )
