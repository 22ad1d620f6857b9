"""What threads know of each other: vector clocks, and the memory of who touched what.

Where more than the barriers of a block brings threads in order (clusters, groups), an order is
proven and not met by luck. Each thread counts its own time, and knows up to which time of every
other thread all has happened before now. There are two kinds of knowing. What *synchronises*
(barriers, an mbarrier's phase, acquire of what was released) makes writes visible: reads are judged
by it. What merely *follows* (a shuffle, a packet that was read, a store that was counted) proves
that a read is over, since what it read went into what was sent: overwriting is judged by it.

A society is the threads that can be in order at all: a cluster, or the whole grid.
"""

from typing import NamedTuple

import numpy as np

SYNCHRONISED, FOLLOWS = 0, 1  # the first index of what is known; what synchronises also follows
NOBODY, SEVERAL_SOCIETIES = -1, -2  # in place of a thread's number
WEAK, OF_BLOCK, OF_CLUSTER, OF_GRID = range(4)  # how far an access is strong
MBARRIERS = 16  # that a block may have here


class Places(NamedTuple):
    """How the threads of a grid stand together."""

    count: int  # of all threads
    threads: int  # of a block
    cluster: int  # blocks of a cluster
    society: int  # blocks of a society
    mbarriers: int = 0  # that a block may have


class Clocks:
    """Of all threads, and of mbarriers, which count their phases.

    Actors are the threads by number, then the mbarriers, `Places.mbarriers` a block.
    """

    def __init__(self, places: Places):
        count, threads, blocks = places.count, places.threads, places.society
        self.places, self.size = places, threads * blocks
        each, barriers = np.arange(count), np.arange(count // threads * places.mbarriers)
        per_block = max(1, places.mbarriers)
        self.block = np.concatenate([each // threads, barriers // per_block])
        self.cluster, self.society = self.block // places.cluster, self.block // blocks
        of_barriers = self.size + barriers % (per_block * blocks)
        self.column = np.concatenate([each % self.size, of_barriers])
        width = self.size + places.mbarriers * blocks
        self.known = np.zeros((2, count, width), "i4")
        self.known[:, each, self.column[:count]] = 1

    def own(self, who):
        """The time of each."""
        return self.known[FOLLOWS, who, self.column[who]]

    def tick(self, who):
        """What they do from here on is not what they have told."""
        self.known[:, who, self.column[who]] += 1

    def told(self, who):
        """(2, all, columns): what each knows, from which on it is a moment later."""
        known = self.known[:, who]
        self.tick(who)
        return known

    def hear(self, who, told):
        self.known[:, who] = np.maximum(self.known[:, who], told)

    def meet(self, who):
        """All of them at a barrier."""
        self.hear(who, self.told(who).max(1, keepdims=True))

    def follow(self, who, source):
        """Each gets a number that another thread made of what it had read."""
        known = self.known[FOLLOWS]
        known[who] = np.maximum(known[who], known[source])
        self.tick(who)

    def mingle(self, who):
        """Each gets numbers that all of them made of what they had read."""
        known = self.known[FOLLOWS]
        known[who] = known[who].max(0)
        self.tick(who)

    def distance(self, actors, who):
        """How far an access must be strong for these to be so with each other."""
        near = np.where(self.cluster[actors] == self.cluster[who], OF_CLUSTER, OF_GRID)
        return np.where(self.block[actors] == self.block[who], OF_BLOCK, near)

    def threads_of(self, blocks):
        """(all, threads of a block): the columns of the threads of these blocks."""
        first = blocks % self.places.society * self.places.threads
        return np.asarray(first)[..., None] + np.arange(self.places.threads)


class History:
    """Who wrote and who read each of `cells` cells of memory, and when by its own clock."""

    def __init__(self, cells: int, clocks: Clocks):
        self.clocks = clocks
        self.writer, self.wrote = np.full(cells, NOBODY, "i4"), np.zeros(cells, "i4")
        self.reader, self.read_at = np.full(cells, NOBODY, "i4"), np.zeros(cells, "i4")
        self.write_level, self.read_level = np.zeros(cells, "i1"), np.zeros(cells, "i1")
        # the row of a cell that several have read: the time of each thread of the society
        self.row, self.rows = np.zeros(cells, "i4"), np.zeros((64, clocks.size), "i4")
        self.used, places = 1, clocks.places
        self.widest = OF_GRID if places.society > places.cluster else OF_CLUSTER

    def written(self, cells):
        return self.writer[cells] != NOBODY

    # Who is not in order with an access

    def wrote_unordered(self, cells, who, level):
        """Where another wrote last, that who reads or writes has not heard of."""
        clocks, writer = self.clocks, self.writer[cells]
        heard = clocks.known[SYNCHRONISED, who, clocks.column[writer]] >= self.wrote[cells]
        heard &= clocks.society[writer] == clocks.society[who]
        both = np.minimum(level, self.write_level[cells]) >= clocks.distance(writer, who)
        return (writer != NOBODY) & (writer != who) & ~heard & ~both

    def read_unordered(self, cells, who, level):
        """Where another has read, and who writes does not know that it is over."""
        clocks, reader = self.clocks, self.reader[cells]
        heard = clocks.known[FOLLOWS, who, clocks.column[reader]] >= self.read_at[cells]
        heard &= clocks.society[reader] == clocks.society[who]
        strong = np.minimum(level, self.read_level[cells])
        one = (reader >= 0) & (reader != who) & ~heard & (strong < clocks.distance(reader, who))
        several = (reader == SEVERAL_SOCIETIES) & (strong < OF_GRID)
        if (many := (self.row[cells] > 0) & (strong < self.widest)).any():
            known = clocks.known[FOLLOWS, who[many], : clocks.size]
            several[many] |= (self.rows[self.row[cells[many]]] > known).any(1)
        return one | several

    # Accesses

    def read(self, cells, who, level):
        """Remember reads; returns where they race with a write."""
        bad, clocks, now = (
            self.wrote_unordered(cells, who, level),
            self.clocks,
            self.clocks.own(who),
        )
        reader, several = self.reader[cells], self.row[cells] > 0
        heard = clocks.known[FOLLOWS, who, clocks.column[reader]] >= self.read_at[cells]
        far = clocks.society[reader] != clocks.society[who]
        free = reader == NOBODY
        self.read_level[cells] = np.where(free, level, np.minimum(level, self.read_level[cells]))
        taken = free | ~several & (reader >= 0) & ((reader == who) | heard & ~far)
        self.reader[cells[taken]], self.read_at[cells[taken]] = who[taken], now[taken]
        last = self.reader[cells]
        far = (last >= 0) & (clocks.society[last] != clocks.society[who])
        self.reader[cells[far]] = SEVERAL_SOCIETIES
        last = self.reader[cells]
        many = (several | (last != who)) & (last >= 0)
        if many.any():
            self.join(cells[many], who[many], now[many])
        return bad

    def join(self, cells, who, now):
        """Several threads of a society read these cells: each is noted in the cell's row."""
        new = np.unique(cells[self.row[cells] == 0])
        if self.used + len(new) > len(self.rows):
            more = max(len(self.rows), len(new))
            self.rows = np.concatenate([self.rows, np.zeros((more, self.clocks.size), "i4")])
        self.row[new] = np.arange(self.used, self.used + len(new))
        self.used += len(new)
        self.rows[self.row[new], self.clocks.column[self.reader[new]]] = self.read_at[new]
        self.rows[self.row[cells], self.clocks.column[who]] = now

    def write(self, cells, who, level):
        """Remember writes; returns where they meet, without order, (another's write before, another
        write of this moment, another's read before).
        """
        before = self.wrote_unordered(cells, who, level)
        was_read = self.read_unordered(cells, who, level)
        self.put(cells, who, self.clocks.own(who), level)
        return before, self.writer[cells] != who, was_read

    def put(self, cells, actors, time, level):
        """What was read before is in order with this write, or has been told."""
        self.writer[cells], self.wrote[cells], self.write_level[cells] = actors, time, level
        self.reader[cells] = NOBODY
        rows = self.row[cells]
        self.rows[rows[rows > 0]] = 0

    def deliver(self, cells, actor: int, phase: int, known):
        """Remember what st.async brings, which the phase of an mbarrier (`actor`) makes known;
        returns where it meets (a write, a read) that is not among what its sender knew.

        known  (columns,) what the sender could follow
        """
        clocks, writer, reader = self.clocks, self.writer[cells], self.reader[cells]
        wrote = (writer != NOBODY) & (known[clocks.column[writer]] < self.wrote[cells])
        was_read = (reader >= 0) & (known[clocks.column[reader]] < self.read_at[cells])
        was_read |= (self.rows[self.row[cells]] > known[: clocks.size]).any(1)
        self.put(cells, actor, phase, WEAK)
        return wrote, was_read
