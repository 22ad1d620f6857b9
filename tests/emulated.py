"""PTX by hand, for the machine that executes it: kernels of threads that wait for each other."""

import numpy as np

from rnn_gpu.kernels.emulator.machine import Grid, Kernel
from rnn_gpu.kernels.emulator.memory import flat

HEAD = """
.version 9.0
.target sm_90a
.address_size 64
SHARED
.visible .entry kernel(
PARAMETERS
)
ATTRIBUTES
{
.reg .pred %p<20>;
.reg .b16 %rs<20>;
.reg .b32 %r<99>;
.reg .b64 %rd<99>;
.reg .f32 %f<99>;
.reg .f64 %fd<20>;
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %ntid.x;
mad.lo.s32 %r4, %r2, %r3, %r1;
BODY
ret;
}
"""
OF_ARRAY = 7  # numbers that a kernel gets of an array in one dimension


def kernel(body: str, arrays: int, shared: str = "", cluster: int = 0) -> Kernel:
    """A kernel of so many arrays in one dimension.

    %r1 is a thread's place in its block, %r2 the block, %r3 the threads of one, %r4 the thread's
    number in the grid; `address(k)` goes before what uses %rd{k}.
    """
    names = (f".param .u64 kernel_param_{k}" for k in range(OF_ARRAY * arrays))
    text = HEAD.replace("PARAMETERS", ",\n".join(names)).replace("BODY", body)
    attributes = f".reqnctapercluster {cluster}" if cluster else ""
    return Kernel(text.replace("SHARED", shared).replace("ATTRIBUTES", attributes))


def address(array: int, register: int, size: int = 4) -> str:
    """%rd{register}: where the thread has its number of an array; the next one: the array."""
    first = f"ld.param.u64 %rd{register + 1}, [kernel_param_{OF_ARRAY * array + 4}]; "
    return first + (
        f"mul.wide.u32 %rd{register}, %r4, {size}; "
        f"add.s64 %rd{register}, %rd{register}, %rd{register + 1};"
    )


def run(it: Kernel, grid: Grid, *arrays, seed=None):
    order = None if seed is None else np.random.default_rng(seed)
    return it.run(grid, flat(*arrays), order)


def kinds(done):
    return {one.kind for one in done.findings}
