"""Threads that share one call: as many as numba.set_num_threads says, where there is work for them.

A call of some hundred microseconds cannot wait for Python to hand its parts out. So the parts of a call are handed from compiled
code to compiled code, by a board of numbers in memory: the other threads of a team look at it for a while after each call, and
sleep, until a bell rings, when none follows.
"""

import atexit
import os
from functools import cache
from queue import SimpleQueue
from threading import Lock, Thread

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compilation import jit, within
from .simd import I32, I64, flat, place
from .stored import Stored, keep

ENOUGH = 4e6  # operations of a call; below, one thread is done before a second has begun
PATIENCE = 1000  # looks at a number before the processor is offered to others
LOOKS = 1500  # at the board before a thread sleeps: some 200 µs

NOBODY = np.zeros(1, np.int64)  # where a call meets itself: more have arrived than it waits for
LINE = 8  # numbers of 64 bits: each on the board has a cache line of its own
COMING, TURN, DONE, FAILED, WORK, WITH, ASLEEP = (LINE * k for k in range(7))  # of the board; sleepers one behind the other


class Turns:
    """One call at a time has the team: threads of two calls that wait for each other within each could wait for ever."""

    def __init__(self):
        self.lock = Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.begin_anew)  # threads do not survive a fork

    def begin_anew(self):
        self.lock = Lock()
        team.cache_clear()


class Team:
    """The threads 1 … count − 1 of calls that `count` threads share."""

    def __init__(self, count: int):
        self.board = np.zeros(ASLEEP + LINE * count, np.int64)
        self.bells = [SimpleQueue() for _ in range(count)]
        self.threads = [Thread(target=self.attend, args=(i,), name=f"rnn_gpu-{i}", daemon=True) for i in range(1, count)]
        for thread in self.threads:
            thread.start()
        atexit.register(self.end)  # a thread must not come out of compiled code when Python is no more

    def attend(self, i: int):
        turns_done, goes_on = 0, True
        while goes_on:
            turns_done = serve(self.board, i, len(self.bells), turns_done)
            goes_on = self.bells[i].get()

    def end(self):
        for bell in self.bells:
            bell.put(False)
        for thread in self.threads:
            thread.join()

    def share(self, kernel, arguments):
        announce(self.board)
        for i in range(1, len(self.bells)):
            if awaken(self.board, i):
                self.bells[i].put(True)
        shared(kernel)(self.board, len(self.bells), *arguments)


team, turns = cache(Team), Turns()


def threads_for(operations: float, parts: int) -> int:
    """How many threads share a call of so many multiplications and additions that can be cut in `parts`."""
    return 1 if operations < ENOUGH else max(1, min(numba.get_num_threads(), parts))


def share(kernel, count: int, *arguments):
    """kernel(*arguments, arrived, i, count) for every i < count, at once; i = 0 in the caller's thread.  RuntimeError where a part raises.

    arrived is where the parts of this call `meet`.
    """
    if count == 1:
        kernel(*arguments, NOBODY, 0, 1)
        return
    with turns.lock:
        team(count).share(kernel, (*arguments, np.zeros(1, np.int64)))


# Numbers that threads share: a window's, at an index


def number_at(context, builder, sig, values):
    return builder.gep(place(context, builder, sig.args[0], values[0]), [values[1]])


@intrinsic
def add(typing, a, i, value):
    """Count up; returns what it was."""

    def build(context, builder, sig, values):
        return builder.atomic_rmw("add", number_at(context, builder, sig, values), values[2], "seq_cst")

    return types.int64(a, types.intp, types.int64), build


@intrinsic
def swap(typing, a, i, value):
    """Write; returns what it was."""

    def build(context, builder, sig, values):
        return builder.atomic_rmw("xchg", number_at(context, builder, sig, values), values[2], "seq_cst")

    return types.int64(a, types.intp, types.int64), build


@intrinsic
def seen(typing, a, i):
    """A number as other threads left it."""

    def build(context, builder, sig, values):
        return builder.load_atomic(number_at(context, builder, sig, values), "seq_cst", 8)

    return types.int64(a, types.intp), build


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
def wait_for(a, i, value):
    """Go on when the number at i has come to `value`."""
    looks = 0
    while seen(a, i) < value:
        looks += 1
        if looks > PATIENCE:
            step_aside()


@within
def meet(counter, arrivals):
    """Go on when `arrivals` threads in all have come here. The counter is never taken back."""
    add(counter, 0, 1)
    wait_for(counter, 0, arrivals)


# The board


ENTRY = ir.FunctionType(I64, [ir.IntType(8).as_pointer(), I64, I64])  # (arguments, part, parts) -> did it raise?


@cache
def post_of(kernel):
    """An intrinsic (board, arguments) that writes there what others are to call, and with what: a tuple on the caller's stack."""

    def part_of(arguments, part, parts):
        kernel(*arguments, part, parts)

    @intrinsic
    def post(typing, board, arguments):
        def build(context, builder, sig, values):
            part_sig = types.void(arguments, types.intp, types.intp)
            compiled = context.compile_subroutine(builder, part_of, part_sig)
            entry = ir.Function(builder.module, ENTRY, context.mangler("entry", (), abi_tags=(compiled.fndesc.mangled_name,)))
            entry.linkage = "internal"
            inside = ir.IRBuilder(entry.append_basic_block())
            given = inside.load(inside.bitcast(entry.args[0], values[1].type.as_pointer()))
            status, _ = context.call_internal_no_propagate(inside, compiled.fndesc, part_sig, (given, *entry.args[1:]))
            inside.ret(inside.zext(status.is_error, I64))
            numbers = place(context, builder, board, values[0])
            for at, pointer in ((WORK, entry), (WITH, cgutils.alloca_once_value(builder, values[1]))):
                builder.store(builder.ptrtoint(pointer, I64), builder.gep(numbers, [I64(at)]))
            return context.get_dummy_value()

        return types.void(board, arguments), build

    return post


@intrinsic
def work(typing, board, part, parts):
    """Call what the board says; returns how many parts of it failed."""

    def build(context, builder, sig, values):
        numbers = place(context, builder, sig.args[0], values[0])
        entry, given = (builder.load(builder.gep(numbers, [I64(at)])) for at in (WORK, WITH))
        return builder.call(builder.inttoptr(entry, ENTRY.as_pointer()), [builder.inttoptr(given, ENTRY.args[0]), *values[1:]])

    return types.int64(board, types.intp, types.intp), build


@cache
def shared(kernel):
    """The function (board, count, *arguments): the kernel by `count` threads, this one the first; returns when all are done."""
    post = post_of(kernel)

    @jit
    def shared(board, count, *arguments):
        numbers = flat(board)
        post(numbers, arguments)
        turn = add(numbers, TURN, 1) + 1
        failed = work(numbers, 0, count)
        wait_for(numbers, DONE, turn * (count - 1))  # the others read from this stack
        if failed + swap(numbers, FAILED, 0):
            raise RuntimeError("a part of a call that threads share failed")

    return keep(shared, kernel._cache.key) if isinstance(kernel._cache, Stored) else shared


@jit
def serve(board, i, count, turns_done):
    """Take part in the calls on the board, from the one after `turns_done` on; returns how many there were when it may sleep."""
    numbers, looks = flat(board), 0
    while True:
        if seen(numbers, TURN) > turns_done:
            add(numbers, FAILED, work(numbers, i, count))
            add(numbers, DONE, 1)
            turns_done += 1
            looks = 0
        elif looks < LOOKS or seen(numbers, COMING) > turns_done:
            looks += 1
            if looks > PATIENCE:
                step_aside()
        else:
            swap(numbers, ASLEEP + LINE * i, 1)
            if seen(numbers, COMING) == turns_done:
                return turns_done
            swap(numbers, ASLEEP + LINE * i, 0)


@jit
def announce(board):
    """Who looks at the board from now on does not sleep before the call has come."""
    add(flat(board), COMING, 1)


@jit
def awaken(board, i):
    """Did thread i sleep?"""
    return swap(flat(board), ASLEEP + LINE * i, 0)


for function in (serve, announce, awaken):
    keep(function)
