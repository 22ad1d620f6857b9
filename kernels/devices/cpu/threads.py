"""Threads that share one call: as many as numba.set_num_threads and whoever calls say, where there
is work for them.

A call of some hundred microseconds cannot wait for Python to hand its parts out. So the parts of a
call are handed from compiled code to compiled code, by a board of numbers in memory: the other
threads of a team look at it for a while after each call, and sleep, until a bell rings, when none
follows.

Python may stop a call between any two of its steps, for a signal, a finalizer or a fork. So a call
is one step, where nobody sleeps: compiled code announces it, hands it out and waits for it. Where
threads are to be woken first, it is two, and what was announced is taken back if the second does
not come.

Whoever calls may lend the threads of another library, which would else be in the way of ours: then
a call is a region of its OpenMP, opened by compiled code, in one step, too.
"""

import atexit
import os
import time
from functools import cache
from queue import SimpleQueue
from threading import RLock, Thread, get_native_id

import numpy as np
from llvmlite import ir
from numba import types

from ...private import (
    cgutils,
    compile_for,
    global_compiler_lock,
    instead_of_compiling,
    parallel,
    threads_of,
)
from ...sharing import lent, told
from .compilation import intrinsic, jit, within
from .simd import I32, I64
from .stored import keep, keep_with
from .windows import flat, place

ENOUGH = 4e6  # operations of a call; below, one thread is done before a second has begun
PATIENCE = 1000  # looks at a number before the processor is offered to others
LOOKS = 1500  # at the board before a thread sleeps: some 200 µs
GRACE = 2.0  # seconds at the end of Python for the calls of others, and for threads to end

NOBODY = np.zeros(1, np.int64)  # where a call meets itself: more have arrived than it waits for
SPACING = 8  # numbers of 64 bits: each on the board has a cache line of its own
# of the board
COMING, TURN, DONE, FAILED, WORK, WITH, ENDED = (SPACING * k for k in range(7))
# of that of a region: addresses of the pool's functions, its threads, and parts of the call
OPENS, NUMBER, SIZE, REGION, PARTS = (SPACING * k for k in range(7, 12))
THREADS = 12 * SPACING
ASLEEP, SERVED = 0, 1  # of each thread, whose lines stand one behind the other from THREADS on


class UncompiledError(Exception):
    """A function must first be compiled for these arguments, which takes seconds: not while others
    wait for it.
    """


class Turns:
    """One call at a time has the team: threads of two calls that wait for each other within each
    could wait for ever.

    A call is done alone, with the same bits, where this very thread is in the midst of another (it
    comes from a signal's handler or from a finalizer), and at the end of Python, when there are no
    threads any more.
    """

    def __init__(self):
        self.lock, self.taken, self.over, self.teams = RLock(), False, False, {}
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            before, after = global_compiler_lock.acquire, global_compiler_lock.release
            # Numba leaves it locked in a child
            os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)
            os.register_at_fork(after_in_child=self.begin_anew)

    def begin_anew(self):
        """Threads do not survive a fork, nor does who held the lock."""
        for team in self.teams.values():
            team.end()
        self.lock, self.taken, self.teams = RLock(), False, {}

    def give(self, call, count: int, arguments):
        shared = not self.over and (
            lend(call, count, arguments) or self.take(call, count, arguments)
        )
        if not shared:
            call(np.zeros(THREADS + SPACING, np.int64), 1, True, *arguments)

    def take(self, call, count: int, arguments) -> bool:
        """Have the call shared, unless there are no threads for it."""
        with self.lock:
            if self.taken or self.over:
                return False
            self.taken = True
            try:
                team = self.teams.get(count) or self.gather(count)
                team.share(call, arguments)
            finally:
                self.taken = False
        return True

    def gather(self, count: int):
        team = Team(count)
        try:
            for thread in team.threads:
                thread.start()
            self.teams[count] = team
        except RuntimeError:  # no thread can be started, now: the call is done alone
            team.end()
        except BaseException:
            team.end()
            raise
        return team

    def end(self):
        """The threads end: none must come out of compiled code when Python is no more."""
        # from here on nobody waits for the lock: a daemon that has it may never go on
        self.over = True
        limit = time.monotonic() + GRACE
        if self.lock.acquire(timeout=GRACE):  # a daemon's call is done
            self.lock.release()
        teams = list(self.teams.values())
        for team in teams:
            team.end()
        for thread in (thread for team in teams for thread in team.threads):
            thread.join(max(0.0, limit - time.monotonic()))


class Team:
    """The threads 1 … count − 1 of calls that `count` threads share.  A team that has ended does a
    call alone.
    """

    def __init__(self, count: int):
        self.home = get_native_id()
        self.board = np.zeros(THREADS + SPACING * count, np.int64)
        self.bells = [SimpleQueue() for _ in range(count)]
        self.threads = [
            Thread(target=self.attend, args=(i,), name=f"rnn_gpu-{i}", daemon=True)
            for i in range(1, count)
        ]

    def attend(self, i: int):
        try:
            # where Python's threads are greenlets, there is nobody to share with
            while get_native_id() != self.home:
                serve(self.board, i, len(self.bells))
                if self.board[ENDED]:
                    return
                self.bells[i].get()
        finally:
            self.board[ENDED] = 1

    def end(self):
        self.board[ENDED] = 1
        for bell in self.bells:
            bell.put(None)

    def share(self, call, arguments):
        board, count = self.board, len(self.bells)
        try:
            if not call(board, count, False, *arguments):
                for i in range(1, count):
                    if board[THREADS + SPACING * i + ASLEEP]:
                        self.bells[i].put(None)
                call(board, count, True, *arguments)
        except BaseException:
            # taken back without a call: another Ctrl-C could come at the first line of one
            board[COMING] = board[TURN]
            raise


@cache
def board_of(pool, threads: int):
    """The board of a region of so many threads of a pool."""
    board = np.zeros(THREADS + SPACING, np.int64)
    board[[OPENS, NUMBER, SIZE, REGION]] = *pool[:3], threads
    return board


def lend(call, count: int, arguments) -> bool:
    """Have the call shared by the threads of a pool, if whoever calls lends one.  Each thread that
    calls has a region of its own, so nobody waits for another.
    """
    lender = lent()
    if lender is None:
        return False
    call(board_of(*lender).copy(), count, True, *arguments)
    return True


turns = Turns()


def most() -> int:
    """How many threads may share a call: as many as Numba has been told, and whoever calls."""
    return min(threads_of(parallel), told.most)


def threads_for(operations: float, parts: int) -> int:
    """How many threads share a call of so many multiplications and additions that can be cut in
    `parts`.
    """
    return 1 if operations < ENOUGH else max(1, min(most(), parts))


def share(kernel, count: int, *arguments):
    """kernel(*arguments, arrived, i, count) for every i < count, at once; i = 0 in the caller's
    thread.  RuntimeError where a part raises.

    arrived is the counter of the barriers between these parts.
    """
    if count == 1:
        kernel(*arguments, NOBODY, 0, 1)
        return
    call, arguments = shared(kernel), (*arguments, np.zeros(1, np.int64))
    try:
        turns.give(call, count, arguments)
    except UncompiledError as missing:
        compile_for(call, missing.args)
        turns.give(call, count, arguments)


# Numbers that threads share: a window's, at an index


def number_at(context, builder, sig, values):
    return builder.gep(place(context, builder, sig.args[0], values[0]), [values[1]])


@intrinsic
def add(typing, a, i, value):
    """Count up; returns what it was."""

    def build(context, builder, sig, values):
        return builder.atomic_rmw(
            "add", number_at(context, builder, sig, values), values[2], "seq_cst"
        )

    return types.int64(a, types.intp, types.int64), build


@intrinsic
def swap(typing, a, i, value):
    """Write; returns what it was."""

    def build(context, builder, sig, values):
        return builder.atomic_rmw(
            "xchg", number_at(context, builder, sig, values), values[2], "seq_cst"
        )

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
            f = builder.module.globals.get("sched_yield") or ir.Function(
                builder.module, ir.FunctionType(I32, []), "sched_yield"
            )
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
def barrier(counter, arrivals):
    """Go on when `arrivals` threads in all have come here. The counter is never taken back."""
    add(counter, 0, 1)
    wait_for(counter, 0, arrivals)


# The board


# (arguments, part, parts) -> did it raise?
ENTRY = ir.FunctionType(I64, [ir.IntType(8).as_pointer(), I64, I64])


@cache
def post_of(kernel):
    """An intrinsic (board, arguments) that writes there what others are to call, and with what: a
    tuple on the caller's stack.
    """

    def part_of(arguments, part, parts):
        kernel(*arguments, part, parts)

    @intrinsic
    def post(typing, board, arguments):
        def build(context, builder, sig, values):
            part_sig = types.void(arguments, types.intp, types.intp)
            compiled = context.compile_subroutine(builder, part_of, part_sig)
            entry = ir.Function(
                builder.module,
                ENTRY,
                context.mangler("entry", (), abi_tags=(compiled.fndesc.mangled_name,)),
            )
            entry.linkage = "internal"
            inside = ir.IRBuilder(entry.append_basic_block())
            given = inside.load(inside.bitcast(entry.args[0], values[1].type.as_pointer()))
            status, _ = context.call_internal_no_propagate(
                inside, compiled.fndesc, part_sig, (given, *entry.args[1:])
            )
            inside.ret(inside.zext(status.is_error, I64))
            numbers = place(context, builder, board, values[0])
            for at, pointer in (
                (WORK, entry),
                (WITH, cgutils.alloca_once_value(builder, values[1])),
            ):
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
        return builder.call(
            builder.inttoptr(entry, ENTRY.as_pointer()),
            [builder.inttoptr(given, ENTRY.args[0]), *values[1:]],
        )

    return types.int64(board, types.intp, types.intp), build


@within
def announce(numbers, count):
    """Who looks at the board from now on does not sleep before the next call has come.  Does
    anybody sleep?
    """
    swap(numbers, COMING, seen(numbers, TURN) + 1)
    asleep = 0
    for i in range(1, count):
        asleep += seen(numbers, THREADS + SPACING * i + ASLEEP)
    return asleep > 0


@jit
def serve(board, i, count):
    """Take part in the calls on the board; returns when the thread may sleep or is to end."""
    numbers, mine, looks = flat(board), THREADS + SPACING * i, 0
    swap(numbers, mine + ASLEEP, 0)
    served = seen(numbers, mine + SERVED)
    while True:
        if seen(numbers, TURN) > served:
            served += 1
            swap(numbers, mine + SERVED, served)
            add(numbers, FAILED, work(numbers, i, count))
            add(numbers, DONE, 1)
            looks = 0
        elif seen(numbers, ENDED):
            return
        elif looks < LOOKS or seen(numbers, COMING) > served:
            looks += 1
            if looks > PATIENCE:
                step_aside()
        else:
            swap(numbers, mine + ASLEEP, 1)
            if seen(numbers, COMING) <= served:
                return
            swap(numbers, mine + ASLEEP, 0)


keep(serve)


# A region: the parts of a call by the threads of a pool


BYTES = ir.IntType(8).as_pointer()
TAKE = ir.FunctionType(ir.VoidType(), [BYTES])  # what each thread of a region calls
OPEN = ir.FunctionType(ir.VoidType(), [TAKE.as_pointer(), BYTES, I32, I32])
TELL = ir.FunctionType(I32, [])


@intrinsic
def told_by(typing, board, at):
    """What the function says whose address stands there on the board."""

    def build(context, builder, sig, values):
        numbers = place(context, builder, sig.args[0], values[0])
        address = builder.load(builder.gep(numbers, [values[1]]))
        return builder.sext(builder.call(builder.inttoptr(address, TELL.as_pointer()), []), I64)

    return types.int64(board, types.intp), build


@within
def take_part(board):
    """What each thread of a region does: its part, if there is one.  A region may have fewer
    threads than it was to have, one within another: then the first does all, for parts that are
    not there would be waited for.
    """
    part, parts = told_by(board, NUMBER), seen(board, PARTS)
    if told_by(board, SIZE) < parts:
        parts = 1
    if part < parts:
        add(board, FAILED, work(board, part, parts))


@intrinsic
def open_region(typing, board):
    """`take_part` by all threads of a region; returns when they are done."""

    def build(context, builder, sig, values):
        taking = types.void(board)
        compiled = context.compile_subroutine(builder, take_part.py_func, taking)
        name = context.mangler("take", (), abi_tags=(compiled.fndesc.mangled_name,))
        take = ir.Function(builder.module, TAKE, name)
        take.linkage = "internal"
        inside = ir.IRBuilder(take.append_basic_block())
        given = inside.load(inside.bitcast(take.args[0], values[0].type.as_pointer()))
        context.call_internal_no_propagate(inside, compiled.fndesc, taking, (given,))
        inside.ret_void()
        numbers = place(context, builder, board, values[0])
        address, threads = (builder.load(builder.gep(numbers, [I64(at)])) for at in (OPENS, REGION))
        shown = builder.bitcast(cgutils.alloca_once_value(builder, values[0]), BYTES)
        call = builder.inttoptr(address, OPEN.as_pointer())
        builder.call(call, [take, shown, builder.trunc(threads, I32), I32(0)])
        return context.get_dummy_value()

    return types.void(board), build


@cache
def shared(kernel):
    """The function (board, count, awake, *arguments): the kernel by `count` threads, this one the
    first; returns when all are done.

    Returns False where nothing was done but to announce the call: somebody sleeps. `awake` says
    that all have been woken. Raises UncompiledError for types that it was not compiled for.
    """
    serve.compile((types.int64[::1], types.intp, types.intp))  # no thread of a team compiles
    post = post_of(kernel)

    @jit
    def shared(board, count, awake, *arguments):
        """See above: announce, post, take part, wait."""
        numbers = flat(board)
        parts = 1 if seen(numbers, ENDED) else count
        if parts > 1 and not awake and announce(numbers, parts):
            return False
        post(numbers, arguments)
        if seen(numbers, OPENS):
            swap(numbers, PARTS, parts)
            open_region(numbers)
        else:
            turn = add(numbers, TURN, 1) + 1 if parts > 1 else 0
            add(numbers, FAILED, work(numbers, 0, parts))
            wait_for(numbers, DONE, turn * (parts - 1))  # the others read from this stack
        if swap(numbers, FAILED, 0):
            raise RuntimeError("a part of a call that threads share failed")
        return True

    instead_of_compiling(shared, refuse)
    return keep_with(shared, kernel)


def refuse(*arguments):
    raise UncompiledError(*arguments)
