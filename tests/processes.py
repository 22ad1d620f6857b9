"""What the tests of threads, signals and forks share: programs of their own, which must end, and a
call that shows a wrong number.
"""

import os
import random
import signal
import sys
import threading  # noqa: F401  for the programs, as what follows
import time
import warnings
from pathlib import Path

import numpy as np

import rnn_gpu  # noqa: F401
from programs import python
from rnn_gpu.kernels.devices.cpu import memory, recurrence, threads  # noqa: F401
from rnn_gpu.kernels.devices.cpu.compilation import jit
from rnn_gpu.kernels.devices.cpu.threads import barrier
from rnn_gpu.kernels.devices.cpu.windows import flat

PATIENCE = 240  # seconds that a program may take on a busy machine; each takes a few


def run(text: str, *arguments, patience=PATIENCE) -> str:
    """What a program prints, which finds what stands here; it must end by itself, and well."""
    done = python(text, *arguments, options=(), cwd=Path(__file__).parent, patience=patience)
    assert "Error" not in done.stderr, done.stderr  # of a finalizer, or of a thread
    return done.stdout


def adding(amount):
    """A kernel that adds to each number of a, all parts before and after a meeting."""

    @jit
    def add(a, arrived, part, parts):
        half = a.size // 2
        for i in range(part, half, parts):
            a[i] += amount
        barrier(flat(arrived), parts)
        for i in range(half + part, a.size, parts):
            a[i] += amount

    return add


add_one = adding(1)


def call(count=3, kernel=add_one, amount=1):
    """A call that `count` threads share; AssertionError where a part of it was done twice or not at
    all.
    """
    a = np.arange(100)
    threads.share(kernel, count, a)
    assert (a == np.arange(100) + amount).all(), a


def train(layer):
    """The bits of a layer's training step."""
    x = np.random.default_rng(0).normal(size=(7, 16, layer.input_size)).astype("f")
    y, _ = layer(x)
    dx, _ = layer.backward(np.ones_like(y))
    return [a.tobytes() for a in (y, dx, *layer.grads.values())]


def share_all(count: int = 2):
    """Every call is shared, however small."""
    threads.ENOUGH = recurrence.WORTH_BARRIER = 1
    threads.most = lambda: count


def interrupting(action, after: float) -> bool:
    """Do the action, and interrupt it after some seconds as Ctrl-C does; was it in time?"""
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        action()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        return True
    return False


def interrupt(number, frame):
    raise KeyboardInterrupt


def forked(action, at_once=False) -> int:
    """Do the action in a forked process, which ends as programs do, now and then at once; returns
    its id.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of threads and fork: that is what is tried
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code) if at_once or random.random() < 0.5 else sys.exit(code)
    return child


def ended(child: int, patience=PATIENCE / 4) -> int:
    """A forked process's exit status; it is killed, and TimeoutError raised, where it does not
    end.
    """
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"process {child} does not end")
