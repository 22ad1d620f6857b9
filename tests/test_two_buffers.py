"""Why two buffers with an mbarrier each are enough for a recurrence over a cluster, and less is
not: every order of steps and deliveries of a small one, looked at.

Two blocks of two threads. In step t each thread waits for the buffer of t, reads the numbers of
both blocks in it, and gives what it made to the other thread (a shuffle); then thread k sends the
block's number of step t + 1 to block k. Thread 0 arms the mbarrier again, after its own wait. A
number stands for the step that it belongs to.
"""

from typing import NamedTuple

import pytest

BLOCKS, THREADS, STEPS = 2, 2, 4
Bar = tuple[int, int, int]  # phases that are over, arrivals and numbers that are missing


class Design(NamedTuple):
    """What a kernel does, and where it may go wrong."""

    buffers: int = 2
    bars: int = 2
    parity: int = 0  # what is added to the right one
    arms: str = "behind"  # "behind" its wait, or "before" it
    skipped: int = -1  # a step in which thread 1 sends nothing
    unawaited: bool = False  # is a number sent in the last step?
    together: bool = True  # do threads shuffle before they send?

    def actions(self, thread: int) -> list[tuple]:
        """What a thread does, one after another."""
        made: list[tuple] = []
        used = [0] * self.bars
        for t in range(STEPS):
            bar = t % self.bars
            if t:
                arm = [("arm", bar)] if thread == 0 else []
                wait = ("wait", bar, (used[bar] + self.parity) % 2)
                made += [*arm, wait] if self.arms == "before" else [wait, *arm]
                made += [("read", t, block) for block in range(BLOCKS)]
                used[bar] += 1
            made += [("meet", t)] if self.together else []
            if (t + 1 < STEPS or self.unawaited) and not (thread == 1 and t == self.skipped):
                made.append(("send", t + 1))
        return made


class State(NamedTuple):
    """At some moment."""

    at: tuple[int, ...]  # the next action of each thread, block by block
    bars: tuple[Bar, ...]  # of each block, one after another
    numbers: tuple[int, ...]  # of each block, in each buffer, from each block
    flying: tuple[tuple[int, int, int], ...]  # (from, to, step)


class OrderError(Exception):
    """Something that must not be."""


def turned(bar: Bar, arrivals: int, numbers: int) -> Bar:
    """An mbarrier behind some arrivals, and numbers that came (or are expected: fewer than 0)."""
    phase, threads, missing = bar[0], bar[1] - arrivals, bar[2] - numbers
    if threads < 0 or (threads == 0 and missing < 0):
        raise OrderError("an mbarrier counts more than it expects")
    return (phase + 1, 1, 0) if threads == missing == 0 else (phase, threads, missing)


def put(row: tuple, k: int, value) -> tuple:
    return (*row[:k], value, *row[k + 1 :])


class Model:
    """A design, and the states that may follow each other."""

    def __init__(self, design: Design):
        self.design = design
        self.actions = [design.actions(thread) for thread in range(THREADS)]

    def start(self) -> State:
        """Behind the barrier of the cluster: every mbarrier is armed."""
        bars = self.design.bars * BLOCKS
        numbers = self.design.buffers * BLOCKS * BLOCKS
        return State((0,) * BLOCKS * THREADS, ((0, 0, BLOCKS),) * bars, (-1,) * numbers, ())

    def next_of(self, state: State):
        """The states that may follow.  OrderError where one must not."""
        for k in range(len(state.at)):
            yield from self.acted(state, k)
        for sent in set(state.flying):
            yield self.landed(state, sent)

    def acted(self, state: State, k: int):
        """One thread goes on, if it can."""
        (block, thread), design = divmod(k, THREADS), self.design
        if self.over(state, k):
            return
        name, *how = self.actions[thread][state.at[k]]
        on = state._replace(at=put(state.at, k, state.at[k] + 1))
        if name == "wait":
            if state.bars[block * design.bars + how[0]][0] % 2 != how[1]:
                yield on
        elif name == "arm":
            bar = block * design.bars + how[0]
            yield on._replace(bars=put(state.bars, bar, turned(state.bars[bar], 1, -BLOCKS)))
        elif name == "read":
            step, source = how
            found = state.numbers[self.place(block, step, source)]
            if found != step:
                raise OrderError(f"step {step} reads what is of step {found}")
            yield on
        elif name == "send":
            yield on._replace(flying=tuple(sorted((*state.flying, (block, thread, how[0])))))
        elif all(self.next_action(state, other) == (name, *how) for other in self.own(block)):
            at = tuple(one + (j in self.own(block)) for j, one in enumerate(state.at))
            yield state._replace(at=at)

    def own(self, block: int) -> range:
        return range(block * THREADS, (block + 1) * THREADS)

    def next_action(self, state: State, k: int):
        return None if self.over(state, k) else self.actions[k % THREADS][state.at[k]]

    def over(self, state: State, k: int) -> bool:
        return state.at[k] == len(self.actions[k % THREADS])

    def place(self, block: int, step: int, source: int) -> int:
        buffers = self.design.buffers
        return (block * buffers + step % buffers) * BLOCKS + source

    def landed(self, state: State, sent) -> State:
        source, block, step = sent
        if all(self.over(state, k) for k in self.own(block)):
            raise OrderError("a number comes to a block that has ended")
        flying = list(state.flying)
        flying.remove(sent)
        bar = block * self.design.bars + step % self.design.bars
        return state._replace(
            flying=tuple(flying),
            numbers=put(state.numbers, self.place(block, step, source), step),
            bars=put(state.bars, bar, turned(state.bars[bar], 0, 1)),
        )


def explored(design: Design) -> int:
    """How many states there are, all of them looked at.  OrderError where one must not be."""
    model = Model(design)
    seen = {model.start()}
    found = [model.start()]
    while found:
        state = found.pop()
        following = list(model.next_of(state))
        ended = all(model.over(state, k) for k in range(len(state.at)))
        if not following and not ended:
            raise OrderError("threads that wait for ever")
        if ended and state.flying:
            raise OrderError("a number that nobody awaits")
        for one in following:
            if one not in seen:
                seen.add(one)
                found.append(one)
    return len(seen)


def test_two_buffers_with_an_mbarrier_each_are_enough():
    assert explored(Design()) > 1000


FAULTS = {
    "one buffer": (Design(buffers=1), "reads what is of step"),
    "one mbarrier for two buffers": (Design(bars=1), "reads what is of step|counts more"),
    "one of each": (Design(buffers=1, bars=1), "reads what is of step|counts more"),
    "a send left out": (Design(skipped=1), "wait for ever|reads"),
    "the other parity": (Design(parity=1), "reads what is of step|counts more"),
    "armed before the wait": (Design(arms="before"), "counts more"),
    "a last send": (Design(unawaited=True), "that has ended|nobody awaits"),
    "no shuffle before the sends": (Design(together=False), "reads what is of step"),
}


@pytest.mark.parametrize("design, said", FAULTS.values(), ids=FAULTS)
def test_with_less_some_order_goes_wrong(design, said):
    with pytest.raises(OrderError, match=said):
        explored(design)
