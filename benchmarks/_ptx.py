"""What the microbenchmarks say in PTX and no schedule does: each intrinsic, and its twin for the
simulator where that has one; and how their kernels get a name in the store.
"""

import inspect
import time
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path

import numpy as np

from rnn_gpu.kernels.devices.cuda.assembly import assembly
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED, cuda, types
from rnn_gpu.kernels.devices.cuda.ptx import place
from rnn_gpu.kernels.store import digest

# of the same name as a function of the device
compiling = import_module("rnn_gpu.kernels.devices.cuda.compiled")


def kernel_of(make: Callable) -> Callable:
    """What makes a kernel of numbers: its name in the store is made of the file that it stands in,
    and of this one.
    """
    home = digest([Path(__file__), Path(inspect.getfile(make))])

    @compiling.factory
    @wraps(make)
    def from_source(_, *made_of):
        return make(*made_of)

    return lambda *made_of: from_source(home, *made_of)


if SIMULATED:

    def add_release(counter, i, value):
        cuda.atomic.add(counter, i, value)

    def load_acquire(a, i):
        time.sleep(0)
        return a[i]

    phase_over_acquire = None  # a cluster of the simulator has one way to wait

else:
    i32, u32, i64 = types.int32, types.uint32, types.int64
    red_release = assembly("red.release.gpu.global.add.u32 [$0], $1;", None, i64, u32)
    ld_acquire = assembly("ld.acquire.gpu.global.u32 $0, [$1];", u32, i64)
    # (mbarrier, parity) as clusters.phase_over, which is relaxed and has a fence
    phase_over_acquire = assembly(
        "{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [$1], $2; "
        "selp.u32 $0, 1, 0, p; }",
        *(i32, i32, i32),
    )

    @cuda.jit(device=True, forceinline=True)
    def add_release(counter, i, value):
        red_release(place(counter, i), np.uint32(value))

    @cuda.jit(device=True, forceinline=True)
    def load_acquire(counter, i):
        return ld_acquire(place(counter, i))
