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


class Told(local):
    """What calls of this thread are told."""

    most = sys.maxsize  # threads that share one
    pool: Pool | None = None  # whose threads they are; None is our own
    region = 0  # threads that a region of the pool has, whatever a call needs


told = Told()


class AtMost:
    """Within it calls of this thread are shared by at most so many threads: our own, or a pool's,
    whose regions have so many.
    """

    def __init__(self, most: int, pool: Pool | None = None):
        self.most, self.pool = most, pool

    def __enter__(self):
        self.before = told.most, told.pool, told.region
        told.most, told.pool, told.region = min(told.most, self.most), self.pool, self.most

    def __exit__(self, *error):
        told.most, told.pool, told.region = self.before


def lent() -> tuple[Pool, int] | None:
    """The pool whose threads share calls of this thread, and how many a region of it has."""
    pool = told.pool
    return None if pool is None or pool.process != os.getpid() else (pool, told.region)
