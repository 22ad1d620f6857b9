"""Who wrote and who read each cell of memory last, and whether a barrier has come between.

An epoch is what a block does from one barrier to the next. Two threads of a block are in order if
their accesses are of different epochs; threads of different blocks never are. So a race is found
whatever the order in which threads happen to run, and where every number is right.
"""

import numpy as np

NOBODY, SEVERAL, OF_SEVERAL_BLOCKS = -1, -2, -3  # in place of a reader's number


class Shadow:
    """That of `cells` cells."""

    def __init__(self, cells: int, blocks_of_threads, epochs_of_blocks):
        self.block_of, self.epoch_of = blocks_of_threads, epochs_of_blocks
        self.writer, self.reader = np.full(cells, NOBODY, "i4"), np.full(cells, NOBODY, "i4")
        # epochs of the last write and read, and the block that read
        self.wrote_in, self.read_in = np.full(cells, -1, "i4"), np.full(cells, -1, "i4")
        self.read_by = np.full(cells, -1, "i4")

    def written(self, cells):
        return self.writer[cells] != NOBODY

    def written_by_others(self, cells, who, epochs):
        """Where another thread wrote last, and nothing orders that before now."""
        writer = self.writer[cells]
        elsewhere = self.block_of[writer] != self.block_of[who]
        unordered = elsewhere | (self.wrote_in[cells] == epochs)
        return (writer != NOBODY) & (writer != who) & unordered

    def read_by_others(self, cells, who, epochs):
        """Where another thread has read, and nothing orders that before now."""
        reader = self.reader[cells]
        near = (self.read_by[cells] != self.block_of[who]) | (self.read_in[cells] == epochs)
        others = (reader == SEVERAL) | ((reader >= 0) & (reader != who))
        return (reader == OF_SEVERAL_BLOCKS) | (others & near)

    def read(self, cells, who, level):
        """Remember reads; returns where they race with a write.  No access is strong here."""
        block = self.block_of[who]
        epochs = self.epoch_of[block]
        bad = self.written_by_others(cells, who, epochs)
        before, elsewhere = self.reader[cells], self.read_by[cells] != block
        many = (before == OF_SEVERAL_BLOCKS) | ((before != NOBODY) & elsewhere)
        fresh = (before == NOBODY) | (self.read_in[cells] != epochs) | (before == who)
        now = np.where(many, OF_SEVERAL_BLOCKS, np.where(fresh, who, SEVERAL))
        self.reader[cells], self.read_in[cells], self.read_by[cells] = now, epochs, block
        self.join(cells, now, block)
        return bad

    def join(self, cells, now, block):
        """Several threads of these reads may be at one cell, where only the last is noted."""
        other_block = self.read_by[cells] != block
        lost = other_block | (self.reader[cells] != now)
        if lost.any():
            far = other_block | (now == OF_SEVERAL_BLOCKS)
            self.reader[cells[lost]] = SEVERAL
            self.reader[cells[lost & far]] = OF_SEVERAL_BLOCKS

    def write(self, cells, who, level):
        """Remember writes; returns where they meet, without order, (another's write before, another
        write of this moment, another's read before).
        """
        epochs = self.epoch_of[self.block_of[who]]
        before = self.written_by_others(cells, who, epochs)
        was_read = self.read_by_others(cells, who, epochs)
        self.writer[cells], self.wrote_in[cells] = who, epochs
        # what was read before is in order with this write, or has been told
        self.reader[cells] = NOBODY
        return before, self.writer[cells] != who, was_read
