"""Microbenchmarks: what a warp pays for shared memory, for memory beyond L2, and where weights
stand.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from benchmarks._machine import COMPILING, REHEARSAL
from benchmarks._ptx import cuda, kernel_of
from benchmarks._timing import arrays, timed
from rnn_gpu.kernels import Forward
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices import cuda as device
from rnn_gpu.kernels.devices import reference
from rnn_gpu.kernels.devices.cuda import block
from rnn_gpu.kernels.devices.cuda.contract import Problem
from rnn_gpu.kernels.devices.cuda.launch import launch
from rnn_gpu.kernels.devices.cuda.plans import MOST_THREADS, Plan, cycles, fitted
from rnn_gpu.kernels.devices.cuda.ptx import place, prefetch, quad, shared_place
from rnn_gpu.kernels.devices.cuda.schedules import card

CLOCK = 1980  # cycles a microsecond, of an H200
FEW = REHEARSAL or COMPILING  # sizes make no other kernel
TIMES = 3 if FEW else 2000

# Shared memory

LOADS = 8  # spelled out in the loop
ROOM = 2048  # numbers of shared memory


@kernel_of
def broadcast_kernel(addresses: int):
    """Loads of 16 bytes, `addresses` different ones in a warp, neighbours, as lanes of a unit read
    what W multiplies.  out (threads,): the sum of all, which are ones.
    """
    STEP, MASK = 4 * addresses, ROOM - 1

    @cuda.jit
    def read_shared(times, out):
        shared = cuda.shared.array(ROOM, np.float32)
        i = cuda.threadIdx.x
        while i < ROOM:
            shared[i] = np.float32(1)
            i += cuda.blockDim.x
        cuda.syncthreads()
        a0, a1, a2, a3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        first, at, t = shared_place(shared, 0), (cuda.threadIdx.x % addresses) * 4, 0
        while t < times:
            for k in range(LOADS):
                x0, x1, x2, x3 = quad(shared, first, (at + k * STEP) & MASK)
                a0 += x0
                a1 += x1
                a2 += x2
                a3 += x3
            at += LOADS * STEP
            t += 1
        out[cuda.threadIdx.x] = (a0 + a1) + (a2 + a3)

    return read_shared


def loads_of_shared_memory() -> Iterator[dict]:
    """A warp's load of 16 bytes a lane, when its lanes read 1, 2, 4 or 8 addresses: microseconds of
    one load of every warp of the block.
    """
    for threads, addresses in itertools.product((8,) if REHEARSAL else (128, 512), (1, 2, 4, 8)):
        out = device.zeros(threads, np.float32)
        kernel = broadcast_kernel(addresses)
        row = timed(lambda k=kernel, n=threads, o=out: launch(k, 1, n, TIMES, o), TIMES * LOADS)
        right = (device.numpy(out) == 4 * LOADS * TIMES).all()
        head = {"threads": threads, "addresses": addresses}
        yield head | (row if right else {"error": "not the sum of what lies there"})


# Memory beyond L2

ARRAYS = 4  # that a thread reads a number of, each step
CHAIN = 40  # additions one after another: the arithmetic of a step


@kernel_of
def ahead_kernel(distance: int):
    """T steps as a schedule takes them: a number of each array is loaded one step before it is
    used; where `distance` says so, it is brought to L2 so many steps before.

    x (T · blocks · ARRAYS · threads,) ones; out (blocks · threads,): the sum of all.
    """

    @cuda.jit
    def go_through(x, T, out):
        N, B = cuda.blockDim.x, cuda.gridDim.x
        i, b = cuda.threadIdx.x, cuda.blockIdx.x
        step = B * ARRAYS * N
        ONE, NIL = np.float32(1), np.float32(0)
        total, at, t = NIL, b * ARRAYS * N + i, 0
        n0, n1, n2, n3 = x[at], x[at + N], x[at + 2 * N], x[at + 3 * N]
        while t < T:
            a0, a1, a2, a3 = n0, n1, n2, n3
            if t + 1 < T:
                at += step
                n0, n1, n2, n3 = x[at], x[at + N], x[at + 2 * N], x[at + 3 * N]
            if distance > 0 and t + 1 + distance < T:
                for k in range(ARRAYS):
                    prefetch(place(x, at + distance * step + k * N))
            work = (a0 + a1) + (a2 + a3)
            for _ in range(CHAIN):
                work = work * a0 + (ONE - a0)  # ones stay what they are, the sum too
            total += work
            cuda.syncthreads()
            t += 1
        out[b * N + i] = total

    return go_through


def prefetches_to_L2() -> Iterator[dict]:
    """A step that reads four numbers a thread from beyond L2, which the whole array exceeds; they
    are prefetched so many steps before.
    """
    T, blocks, threads = (5, 2, 4) if FEW else (1024, 132, 128)
    x = arrays().ones(T * blocks * ARRAYS * threads, np.float32)
    out = device.zeros(blocks * threads, np.float32)
    for distance in (0, 2, 4, 8, 16):
        kernel = ahead_kernel(distance)
        row = timed(lambda k=kernel: launch(k, blocks, threads, x, T, out), T)
        right = (device.numpy(out) == ARRAYS * T).all()
        yield {"ahead": distance} | (row if right else {"error": "not the sum of what lies there"})


# Weights


def weights_in_registers_or_shared() -> Iterator[dict]:
    """The block schedule's way forward with all weights in registers that go there, and with none:
    a sample a block.
    """
    T, B = (3, 2) if FEW else (256, 132)
    sizes = (
        (("elman_tanh", 5),)
        if REHEARSAL
        else (("elman_tanh", 64), ("lstm", 64), ("elman_tanh", 128), ("gru", 128))
    )
    for (name, n), lanes in itertools.product(sizes, (2,) if REHEARSAL else (1, 2, 4, 8)):
        problem = Problem(CELLS[name], "forward", n, B, 4, card())
        full = fitted(problem, lanes, 1) if n * lanes <= MOST_THREADS else None
        for plan in dict.fromkeys((full._replace(in_registers=0), full)) if full else ():
            head = {"cell": name, "n": n, "lanes": lanes, "quads": plan.quads}
            head |= {"in_registers": plan.in_registers}
            if plan.shared * 4 > card().shared:
                yield head | {"error": "W does not fit shared memory"}
                continue
            head |= {"estimated_us": cycles(plan, problem) / CLOCK}
            yield head | forward_of(problem.cell, plan, T, B)


def forward_of(cell, plan: Plan, T: int, B: int) -> dict:
    """Microseconds a step of one plan; the first steps compared with the definition."""
    rng, n, G, few = np.random.default_rng(4), plan.n, cell.gates, 3
    host = Forward(
        np.resize(rng.normal(size=(few, B, G, n)), (T, B, G, n)),
        rng.uniform(-1, 1, (G * n, n)) * n**-0.5,
        rng.normal(size=G * n if cell.apart else 0),
        np.zeros((cell.states, T + 1, B, n)),
        np.zeros((T, B, cell.kept, n)),
        np.ones((T, B), np.uint8),
    )
    kinds = (np.float32,) * 5 + (np.uint8,)
    call = device.for_kernels(Forward(*map(device.array, host, kinds), masked=plan.masked))
    kernel, blocks = block.forward_kernel(cell, np.float32, plan), -(-B // plan.samples)

    def work():
        launch(kernel, blocks, plan.threads, call, shared=plan.shared * 4)

    row = timed(work, T)
    right = host._replace(
        p=host.p[:few], s=host.s[:, : few + 1].copy(), kept=host.kept[:few], flags=host.flags[:few]
    )
    reference.forward(cell, right)
    error = float(np.abs(device.numpy(call.s)[:, : few + 1] - right.s).max())
    return row if error < 1e-4 else {"error": f"wrong by {error:.1e}"}
