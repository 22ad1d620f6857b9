"""What whoever calls says of the threads that share a call on the CPU."""

import sys
from threading import local


class Told(local):
    """What the calls of this thread are told."""

    most = sys.maxsize  # threads that may share one


told = Told()


class AtMost:
    """Within it at most so many threads share a call of this thread."""

    def __init__(self, most: int):
        self.most = most

    def __enter__(self):
        self.before, told.most = told.most, min(told.most, self.most)

    def __exit__(self, *error):
        told.most = self.before
