"""A simulated grid whose blocks wait for each other: what is under way between them, and who can
go on.

What one block sends to another lands when it likes, in any order, and now and then a thread is
late, those of one block often: all of it drawn by chance, from a seed. Where no thread can go on
and nothing is under way, RuntimeError says who waits for what: on a card that grid would hang.
"""

import random
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

RANK_BITS = 24  # of a remote place: which block's is above them
LONGEST = 5e-4  # seconds that a thread may be late
LATE, OF_SLOW = 1 / 32, 1 / 3  # how often it is, and how often one of the grid's slow block
FREE = 64  # looks in vain of a thread, at several things in turn, before it has to sleep


def me() -> Any:
    """The calling thread, of those that the simulator makes."""
    return threading.current_thread()


class Delivery(NamedTuple):
    """What is under way to other threads."""

    where: Any  # of two to one place the first comes first; None: in any order
    home: Any  # the block whose memory it changes; None: global memory
    act: Callable  # () -> at what a look finds something else from now on; None: at nothing


class Home:
    """A block: its place in the cluster, its shared memory, its mbarriers."""

    def __init__(self, number: int, rank: int, threads: int):
        self.number, self.rank, self.left, self.ended = number, rank, threads, False
        self.blocks: list[Home] = [self]  # of the cluster, by rank
        self.meeting: Any = None  # the cluster's barrier
        self.memory: dict[Any, Any] = {}  # name -> array
        self.mbarriers: dict[int, Mbarrier] = {}  # by place

    def twin_of(self, a):
        """The array of this block that a is in the block of the calling thread."""
        owner = a if a.base is None else a.base
        name = next(key for key, memory in me().home.memory.items() if memory is owner)
        if name not in self.memory:
            raise RuntimeError(f"{self} has no such array yet: nothing may reach it")
        return self.memory[name].reshape(-1).view(a.dtype)

    def mbarrier(self, place) -> "Mbarrier":
        if int(place) not in self.mbarriers:
            raise RuntimeError(f"{self} has initialised no mbarrier at place {int(place)}")
        return self.mbarriers[int(place)]

    def unawaited(self) -> str:
        """What came here and nobody waited for; "" where there is no such thing."""
        return next((said for one in self.mbarriers.values() if (said := one.unawaited())), "")

    def __str__(self) -> str:
        return f"block {self.number}"


class Mbarrier:
    """Of one block: counts threads that arm it, and bytes."""

    def __init__(self, home: Home, place: int, threads: int):
        self.home, self.place, self.threads = home, place, threads
        self.pending, self.missing, self.came = threads, 0, 0
        self.phase, self.awaited, self.counted = (
            0,
            0,
            False,
        )  # is the phase before this one of bytes?
        self.made_by, self.met, self.synced, self.fenced = me(), me().met, me().synced, False

    def arm(self, bytes: int):
        if not self.pending:
            raise RuntimeError(f"{self} is armed again before its phase is over")
        self.pending -= 1
        self.missing += bytes
        return self.go_on_if_complete()

    def come(self, bytes: int):
        self.missing -= bytes
        self.came += bytes
        return self.go_on_if_complete()

    def go_on_if_complete(self):
        """Itself, where its phase is over with that."""
        if self.pending or self.missing:
            return None
        self.phase += 1
        self.pending, self.counted, self.came = self.threads, self.came > 0, 0
        return self

    def over(self, parity: int) -> bool:
        """Is the phase of this parity over, the one before this or an earlier one?"""
        if (self.phase & 1) == parity:
            return False
        self.awaited = self.phase
        return True

    def check_reached(self):
        """Raise where the calling thread cannot know that it is there."""
        thread = me()
        here = thread is self.made_by or (thread.home is self.home and thread.synced > self.synced)
        if not here and thread.met <= self.met:
            raise RuntimeError(f"{self} is used with no barrier since it was initialised")
        if thread.home is not self.home and not self.fenced:
            raise RuntimeError(f"{self} is used by another block, but fence_mbarriers() is missing")

    def unawaited(self) -> str:
        if self.came or (self.counted and self.awaited < self.phase):
            phase = self.phase if self.came else self.phase - 1
            return f"{self.home} ends, but nobody has awaited phase {phase} of {self}"
        return ""

    def waits(self) -> str:
        if self.pending:
            return f"phase {self.phase} of {self}, which nobody has armed ({self.came} bytes came)"
        whole = self.came + self.missing
        return f"phase {self.phase} of {self}: {self.came} of {whole} bytes have come"

    def __str__(self) -> str:
        return f"mbarrier {self.place} of {self.home}"


class Meeting:
    """The barrier of a cluster: to arrive at it is one thing, to wait another. Who has ended has
    arrived.
    """

    def __init__(self, crowd: "Crowd", threads: int):
        self.crowd, self.missing, self.parties, self.generation = crowd, threads, threads, 0
        self.sleeping: list = []

    def arrive(self):
        with self.crowd.turn:
            self.crowd.check()
            if me().arrived is not None:
                raise RuntimeError(
                    "cluster_arrive() twice without cluster_wait(): undefined on a GPU"
                )
            me().arrived = self.generation
            self.missing -= 1
            self.go_on_if_complete()

    def wait(self):
        thread = me()
        with self.crowd.turn:
            if thread.arrived is None:
                raise RuntimeError("cluster_wait() without cluster_arrive()")
            if thread.arrived == self.generation:
                self.sleeping.append(thread)
                self.crowd.sleep(lambda: "a barrier of the cluster")
                while thread.arrived == self.generation and not self.crowd.broken:
                    self.crowd.turn.wait()
            self.crowd.check()
            thread.arrived = None
            thread.met += 1

    def leave(self):
        """A thread has ended."""
        self.parties -= 1
        if me().arrived is None or me().arrived != self.generation:
            self.missing -= 1
        self.go_on_if_complete()

    def go_on_if_complete(self):
        if self.missing == 0 and self.parties:
            self.generation += 1
            self.missing = self.parties
            self.crowd.wake(self.sleeping)
            self.sleeping = []
            self.crowd.turn.notify_all()


class Crowd:
    """All threads of a grid."""

    seeds = count()  # of one grid after the other

    def __init__(self, blocks: int, threads: int):
        self.lock = threading.RLock()
        self.turn = self.bell()
        self.random = random.Random(next(self.seeds))
        self.slow = self.random.randrange(blocks)
        self.eager = self.random.choice((0.0, 0.3, 0.9))  # how soon what is sent lands
        self.going = threads  # that neither wait nor have ended
        self.waiting: dict[Any, Callable] = {}  # thread -> (): for what, in words
        self.looking: dict[Any, Any] = {}  # of those, thread -> at what
        self.changes, self.roused = 0, 0  # of what is looked at; when all last looked again
        self.under_way: list[Delivery] = []
        self.fault, self.broken = "", False

    def bell(self) -> threading.Condition:
        """What one can wait for with the lock of all."""
        return threading.Condition(self.lock)

    def send(self, delivery: Delivery):
        with self.turn:
            self.check()
            self.check_home(delivery)
            self.under_way.append(delivery)
            while self.under_way and self.random.random() < self.eager:
                self.deliver()
        self.dawdle()

    def change(self, act: Callable):
        """Do what may change what a look finds: act() says at what; None: nothing."""
        with self.turn:
            self.check()
            if (key := act()) is not None:
                self.changed(key)

    def look(self, find: Callable, key, waits: Callable, enough: Callable = bool):
        """find(): what a thread finds that looks for what another does. Where that is not
        enough(found) the thread sleeps, once, until what it looks at has changed: waits() says for
        what.
        """
        thread = me()
        with self.turn:
            self.check()
            if self.under_way and self.random.random() < self.eager:
                self.deliver()
            found = find()
            if enough(found):
                thread.free = 0
            elif thread.free:
                thread.free -= 1
                return found
            else:
                self.looking[thread] = key
                self.sleep(waits)
                while thread in self.looking and not self.broken:
                    thread.bell.wait()
                self.check()
                found = find()
        self.dawdle()
        return found

    def dawdle(self):
        if self.random.random() < (OF_SLOW if me().home.number == self.slow else LATE):
            time.sleep(self.random.random() * LONGEST)

    def deliver(self):
        """One of what is under way lands."""
        chosen = self.random.choice(self.under_way)
        if chosen.where is not None:
            chosen = next(one for one in self.under_way if one.where == chosen.where)
        self.under_way.remove(chosen)
        self.check_home(chosen)
        if (key := chosen.act()) is not None:
            self.changed(key)

    def check_home(self, delivery: Delivery):
        if delivery.home and delivery.home.ended:
            raise RuntimeError(f"{delivery.home} has ended, and something is still sent to it")

    def changed(self, key):
        """Who looks at this finds something else."""
        self.changes += 1
        self.ring([thread for thread, at in self.looking.items() if at == key])

    def ring(self, threads: list):
        """Wake those of whom no other lock is waited for."""
        self.wake(threads)
        for thread in threads:
            self.looking.pop(thread, None)
            thread.bell.notify()

    def sleep(self, waits: Callable):
        """The calling thread cannot go on. It says so, with the lock of what wakes it."""
        with self.turn:
            self.going -= 1
            self.waiting[me()] = waits
            self.while_nobody_goes()
            if self.fault:
                raise RuntimeError(self.fault)

    def wake(self, threads):
        with self.turn:
            for thread in threads:
                if self.waiting.pop(thread, None):
                    self.going += 1

    def while_nobody_goes(self):
        while not self.going and self.waiting and not self.broken:
            if self.under_way:
                self.deliver()
            elif self.looking and self.roused < self.changes:  # who looks for this or for that
                self.roused = self.changes
                for thread in self.looking:
                    thread.free = FREE
                self.ring(list(self.looking))
            else:
                self.fail(f"nobody can go on: {self.who_waits()}")

    def who_waits(self) -> str:
        found: dict[str, list[str]] = {}
        for thread, waits in self.waiting.items():
            who = f"{thread.threadIdx.x} of block {thread.blockIdx.x}"
            found.setdefault(waits(), []).append(who)
        return "; ".join(
            f"thread {who[0]}{f' and {len(who) - 1} more' if who[1:] else ''} for {what}"
            for what, who in found.items()
        )

    def end(self, thread):
        """A thread has ended; what its block leaves behind is looked at with the last."""
        home = thread.home
        with self.turn:
            self.going -= 1
            home.left -= 1
            if home.meeting and not self.broken:
                home.meeting.leave()
            if not home.left and not self.broken:
                home.ended = True
                late = any(one.home is home for one in self.under_way)
                if said := home.unawaited():
                    self.fail(said)
                elif late:
                    self.fail(f"{home} ends while something is still sent to it")
            try:
                self.while_nobody_goes()
            except RuntimeError as error:  # what is delivered, to whom it must not be
                self.fail(str(error))

    def fail(self, fault: str):
        self.fault = self.fault or fault
        self.abort()

    def abort(self):
        with self.turn:
            self.broken = True
            self.turn.notify_all()
            for thread in self.looking:
                thread.bell.notify()

    def check(self):
        if self.fault:
            raise RuntimeError(self.fault)
        if self.broken:
            raise threading.BrokenBarrierError("another thread of the grid failed")
