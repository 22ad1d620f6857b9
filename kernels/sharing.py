"""What whoever calls says of the threads that share a call on the CPU: how many, and whose."""

import os
import sys
from threading import local
from typing import NamedTuple


class Pool(NamedTuple):
    """Threads of another library, by the addresses of its OpenMP's functions."""

    parallel: int  # GOMP_parallel(void (*)(void *), void *, unsigned, unsigned)
    number: int  # int omp_get_thread_num(void)
    size: int  # int omp_get_num_threads(void)
    process: int  # whose they are: they do not survive a fork


class AtMost:
    """Within it calls of this thread are shared by at most so many threads: our own, or a pool's,
    whose regions have so many.
    """

    __slots__ = "before", "most", "pool", "size"

    def __init__(self, size: int, pool: Pool | None = None):
        self.size, self.pool = size, pool

    def __enter__(self):
        self.before = told.now
        self.most = min(self.size, self.before.most) if self.before else self.size
        told.now = self

    def __exit__(self, *error):
        told.now = self.before


class Told(local):
    """What calls of this thread are told, if anything."""

    now: AtMost | None = None

    @property
    def most(self) -> int:
        """How many threads may share one."""
        return self.now.most if self.now else sys.maxsize


told = Told()


def lent() -> tuple[Pool, int] | None:
    """The pool whose threads share calls of this thread, and how many a region of it has."""
    now = told.now
    if now is None or now.pool is None or now.pool.process != os.getpid():
        return None
    return now.pool, now.size
