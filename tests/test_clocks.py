"""What threads know of each other, and what that says of memory that they read and write."""

import numpy as np

from rnn_gpu.kernels.emulator.clocks import FOLLOWS, WEAK, Clocks, History, Places

CELL = np.array([0])


def of(threads: int, blocks: int = 1, cluster: int = 1, mbarriers: int = 0):
    """(clocks, the history of a cell) of blocks in clusters."""
    clocks = Clocks(Places(threads * blocks, threads, cluster, cluster, mbarriers))
    return clocks, History(1, clocks)


def reads(history, thread):
    return bool(history.read(CELL, np.array([thread]), WEAK)[0])


def writes(history, thread):
    """(is another's write unordered, is another's read)"""
    before, _, was_read = history.write(CELL, np.array([thread]), WEAK)
    return bool(before[0]), bool(was_read[0])


def test_a_write_is_known_by_what_synchronises():
    clocks, history = of(3)
    writes(history, 0)
    assert reads(history, 1)
    clocks.meet(np.array([0, 1]))
    assert not reads(history, 1) and reads(history, 2)


def test_what_is_told_is_told_of_the_time_before():
    clocks, history = of(2)
    clocks.meet(np.arange(2))
    writes(history, 0)
    assert reads(history, 1)


def test_threads_of_two_societies_are_never_in_order():
    """Whatever is known of the threads that have the same column."""
    clocks, history = of(1, blocks=4, cluster=2)
    clocks.meet(np.array([2, 3]))
    writes(history, 0)
    assert reads(history, 3) and writes(history, 3) == (True, False)


def test_a_read_by_two_societies_is_one_that_nobody_knows_of():
    clocks, history = of(1, blocks=4, cluster=2)
    reads(history, 0), reads(history, 2)
    clocks.meet(np.array([0, 1]))
    clocks.meet(np.array([2, 3]))
    assert writes(history, 1) == (False, True)


def test_every_one_of_several_readers_must_be_known_of():
    for known, expected in (((0, 1), False), ((0,), True), ((1,), True)):
        clocks, history = of(4)
        reads(history, 0), reads(history, 1)
        clocks.meet(np.array([*known, 2]))
        assert writes(history, 2) == (False, expected)


def test_readers_of_one_moment_are_several():
    clocks, history = of(3)
    history.read(np.array([0, 0]), np.array([0, 1]), WEAK)
    clocks.meet(np.array([1, 2]))
    assert writes(history, 2) == (False, True)


def test_what_follows_ends_a_read_and_shows_no_write():
    clocks, history = of(2)
    reads(history, 1)
    clocks.follow(np.array([0]), np.array([1]))
    assert writes(history, 0) == (False, False)
    clocks.follow(np.array([1]), np.array([0]))
    assert reads(history, 1)


def test_what_is_sent_must_not_meet_what_its_sender_cannot_know():
    """Nor another thing sent in the same phase."""
    for thread, phase, expected in ((1, 0, (True, True)), (2, 0, (False, True))):
        clocks, history = of(3, mbarriers=1)
        writes(history, 1)
        clocks.meet(np.array([1, 2]))
        reads(history, 1), reads(history, 2)
        known = clocks.known[FOLLOWS, 0 if thread == 1 else thread]
        wrote, was_read = history.deliver(CELL, 3, phase + 1, known)
        assert (bool(wrote[0]), bool(was_read[0])) == expected
        wrote, _ = history.deliver(CELL, 3, phase + 1, known)
        assert wrote[0]


def test_what_is_sent_must_not_meet_a_read_of_several():
    clocks, history = of(3, mbarriers=1)
    reads(history, 0), reads(history, 1)
    wrote, was_read = history.deliver(CELL, 3, 1, clocks.known[FOLLOWS, 0])
    assert was_read[0] and not wrote[0]


def test_who_awaits_a_phase_sees_what_it_counted():
    clocks, history = of(2, mbarriers=1)
    history.deliver(CELL, 2, 1, clocks.known[FOLLOWS, 0])
    assert reads(history, 1)
    told = np.zeros((2, 1, clocks.known.shape[2]), "i4")
    told[:, 0, clocks.column[2]] = 1
    clocks.hear(np.array([1]), told)
    assert not reads(history, 1)
