"""What the tests of the simulator share: a launch that cannot hang, and what kernels need to wait
for each other.
"""

import math
import threading
import time

import numpy as np
import pytest
from numba import cuda

from rnn_gpu.kernels.devices.cuda.driver import driver
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED

simulated = pytest.mark.skipif(
    not SIMULATED, reason="these kernels are for the simulator: a GPU is being used"
)

PATIENCE = 20.0  # seconds a launch may take; each takes a fraction of one

deadline = math.inf


def run(kernel, blocks, threads, *arguments, shared=0, patience=PATIENCE, **together):
    """Launch a kernel and wait for it; raise what it raises, and fail if it hangs.

    together  cluster=, cooperative=, as `Driver.start` has them
    """
    global deadline
    raised = []

    def start():
        try:
            driver().start(kernel, blocks, threads, shared, arguments, **together)
        except Exception as error:
            raised.append(error)

    deadline = time.monotonic() + 2 * patience  # what spins is seen to hang first
    host = threading.Thread(target=start, daemon=True)
    host.start()
    host.join(patience)
    hangs = host.is_alive()
    if hangs:  # let its threads go, so that other tests can launch
        for thread in threading.enumerate():
            for barrier in getattr(thread, "all_barriers", ()):
                barrier.abort()
        host.join(2 * patience)
    assert not hangs, f"{kernel.__name__} hangs"
    if raised:
        raise raised[0]


def poisoned(*shape, dtype="float32"):
    return np.full(shape, np.nan, dtype)


def hurry():
    if time.monotonic() > deadline:
        raise TimeoutError("the others do not come")


@cuda.jit(device=True)
def wait_for_every_block(arrived, turn):
    """The barrier between blocks of KERNELS.md §3: the first thread of each counts itself in, and
    spins.
    """
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        cuda.atomic.add(arrived, 0, 1)
        while cuda.atomic.add(arrived, 0, 0) < (turn + 1) * cuda.gridDim.x:
            hurry()
    cuda.syncthreads()
