"""Threads that share one call: as many as numba.set_num_threads says, where there is work for them."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .simd import I32, I64, place
from .tiles import within

ENOUGH = 8e6  # operations of a call; below, one thread is done before a second has begun
PATIENCE = 1000  # looks at a barrier before the processor is offered to others


@cache
def workers(count: int):
    return ThreadPoolExecutor(count, "rnn_gpu")


class Turns:
    """One call at a time has the workers: threads of two calls that wait for each other within each could wait for ever."""

    def __init__(self):
        self.lock = Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.begin_anew)  # threads do not survive a fork

    def begin_anew(self):
        self.lock = Lock()
        workers.cache_clear()


turns = Turns()


def threads_for(operations: float, parts: int) -> int:
    """How many threads share a call of so many multiplications and additions that can be cut in `parts`."""
    return 1 if operations < ENOUGH else max(1, min(numba.get_num_threads(), parts))


def share(kernel, count: int, *arguments):
    """kernel(*arguments, i, count) for every i < count, at once; i = 0 in the caller's thread."""
    if count == 1:
        kernel(*arguments, 0, 1)
        return
    with turns.lock:
        others = [workers(count - 1).submit(kernel, *arguments, i, count) for i in range(1, count)]
        kernel(*arguments, 0, count)
        for other in others:
            other.result()


@intrinsic
def add_one(typing, counter):
    """Count up a window's first number, for all threads; returns what it was."""

    def build(context, builder, sig, values):
        return builder.atomic_rmw("add", place(context, builder, counter, values[0]), I64(1), "acq_rel")

    return types.int64(counter), build


@intrinsic
def seen(typing, counter):
    """A window's first number, as other threads left it."""

    def build(context, builder, sig, values):
        return builder.load_atomic(place(context, builder, counter, values[0]), "acquire", 8)

    return types.int64(counter), build


@intrinsic
def step_aside(typing):
    """Let another thread have this processor, where the operating system knows how."""

    def build(context, builder, sig, values):
        if os.name == "posix":
            f = builder.module.globals.get("sched_yield") or ir.Function(builder.module, ir.FunctionType(I32, []), "sched_yield")
            builder.call(f, [])
        return context.get_dummy_value()

    return types.void(), build


@within
def meet(counter, arrivals):
    """Go on when `arrivals` threads in all have come here. The counter is never taken back."""
    add_one(counter)
    looks = 0
    while seen(counter) < arrivals:
        looks += 1
        if looks > PATIENCE:
            step_aside()
