"""The generator of persistent kernels: what both ways through time have in common, and what their
schedules differ in.

A persistent kernel keeps W on the chip and runs all T steps in one launch. Teams of threads have
the sums of sums.py; a thread takes the step of its own unit and samples. What a step makes stands
in shared memory, twice: a step reads one half and writes the other. How it comes there, to all
threads that multiply by it, is the schedule's `Reach`: to those of a block, or of several.

What the next step needs from global memory is loaded before the sums of this one, and what later
steps need is fetched to the L2 cache. After the last step there is no next: that one is loaded
again, which costs less than to ask. Arrays are followed by tracks (tracks.py), and where no step is
masked, flags are not looked at: `Forward.flags` is () then.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from ...binding.closures import each_over, tuple_of
from .launch import cuda, device_function
from .plans import Plan

AHEAD = 4  # steps between one and that whose numbers are fetched to L2
LINE = 128  # bytes that are fetched at once
NEVER = 2**31 - 1  # more steps than there are


@device_function
def nothing_first():
    pass


@device_function
def none_earlier(call):
    return 0


class Reach(NamedTuple):
    """How the numbers of a step come to all threads that multiply by them: device functions.

    A message is what all units make of one step. One follows the other, in one half of shared
    memory and the other; the first stands in the first half. A block has it all when `wait` is
    over, and then nobody still reads the message before the last: whoever publishes has read it.
    The mail is what a reach keeps in registers, of the next message.
    """

    # (thread, call, complete) -> the mail of the first message, which is there already where that
    # is complete; after it, all that the block has put in its shared memory is there
    begin: Callable
    # (number of threads) -> the device function publish(mail, thread, here, share, place, behind,
    # value): the number `behind` numbers behind a place of shared memory, in every block. So many
    # threads say the same; share is which of them this is. A thread that has no unit, or no sample,
    # is not `here`: it has nothing to say, or zero where it has a unit's place
    publisher: Callable
    wait: Callable  # (mail): until the message is there
    read: Callable  # (): this thread has read the message
    onward: Callable  # (mail) -> that of the message behind it
    # likewise of four numbers beside each other; None: they go one by one
    publisher_of_four: Callable | None = None
    enter: Callable = nothing_first  # (): what a kernel does first of all
    earlier: Callable = none_earlier  # (call) -> samples that earlier launches of the call have had


class Line(NamedTuple):
    """The 128 bytes of each step that a thread fetches to L2 for its block."""

    step: Any  # from those of a step to those of the next
    few: Any  # so few steps are left that there is none to fetch; all are few where it has no line


def plan_of(plan: Plan, call) -> Plan:
    """The plan of a Forward or Backward: whose s may have given states, which few have."""
    goes_on = plan.masked and call.s.shape[1] > call.kept.shape[0] + 1
    return plan._replace(given=True) if goes_on else plan


@device_function
def earlier_of(a, b):
    return a if a < b else b


@device_function
def get(k, a, base):
    return a[base + k]


@device_function
def put(k, value, a, base):
    a[base + k] = value


@cache
def numbers_in(count: int):
    """The functions (a, base) -> `count` numbers of registers, and (values, a, base) back."""
    return tuple_of(count, get, device_function), each_over(count, put, device_function)


@cache
def within_of(plan: Plan):
    """The device function (h, B, thread): does this thread have a unit, and an h-th sample?"""
    n, full, one, scattered = plan.n, plan.full, plan.samples == 1, plan.scattered

    @device_function
    def within(h, B, thread):
        return (full or thread.j < n) and (one or thread.b + h * scattered < B)

    return within


@cache
def writes_of(plan: Plan):
    """The device function (thread): does it write what others of its team have, too?"""
    alone = plan.repeats == 1

    @device_function
    def writes(thread):
        return alone or thread.repeat == 0

    return writes


@cache
def lines_of(plan: Plan, itemsize: int):
    """The device functions (numbers, B, thread) -> the lines of so many numbers a unit that this
    block, and those that share its units, read in a step; (thread) -> which of them it fetches.
    """
    samples, n, line, threads = plan.samples, plan.n, LINE // itemsize, plan.threads

    @device_function
    def lines(numbers, B, thread):
        return (earlier_of(samples, B - thread.first) * numbers * n + line - 1) // line

    @device_function
    def own_line(thread):
        return thread.rank * threads + cuda.threadIdx.x

    return lines, own_line
