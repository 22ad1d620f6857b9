"""Numbers that decide the design of a schedule: barriers, where weights stand, what a launch costs.

    python -m benchmarks micro [--seconds 60] [--rehearse]

Each measurement is a generator of rows, tried by itself; those that might upset the GPU come last.
Microseconds.
"""

import argparse
import itertools
import time
import traceback
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks import _machine
from benchmarks._machine import NOT_HERE, REHEARSAL, first_line
from benchmarks._timing import (
    Budget,
    by_events,
    nothing,
    of_the_host,
    repeats_for,
    summary,
    synchronise,
)
from rnn_gpu.kernels import Forward
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices import cuda as device
from rnn_gpu.kernels.devices import reference
from rnn_gpu.kernels.devices.cuda import block
from rnn_gpu.kernels.devices.cuda.contract import Problem
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED, cuda, launch, types
from rnn_gpu.kernels.devices.cuda.plans import MOST_THREADS, Plan, cycles, fitted
from rnn_gpu.kernels.devices.cuda.schedules import card

# looks at a counter before a block gives up: a barrier that is never complete ends too
PATIENCE = 1 << 22
BARRIERS = 3 if REHEARSAL else 2000  # in one launch
CLOCK = 1980  # cycles a microsecond, of an H200

if SIMULATED:

    def add_in_order(counter, i, value):
        cuda.atomic.add(counter, i, value)

    def load_in_order(counter, i):
        time.sleep(0)
        return counter[i]

    add_release, load_acquire = add_in_order, load_in_order

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    LETTERS = {types.uint32: "r", types.float32: "f", types.uint64: "l"}

    def assembly(text: str, returns, *arguments) -> Any:
        """An intrinsic of some numbers (`arguments`, their types) that is one piece of PTX; $0 is
        the result where there is one.
        """
        results = [] if returns is None else [f"={LETTERS[returns]}"]
        constraints = results + [LETTERS[one] for one in arguments] + ["~{memory}"]

        def codegen(context, builder, signature, values):
            result = ir.VoidType() if returns is None else context.get_value_type(returns)
            form = ir.FunctionType(result, [one.type for one in values])
            called = builder.call(
                ir.InlineAsm(form, text, ",".join(constraints), side_effect=True), values
            )
            return context.get_dummy_value() if returns is None else called

        found = (types.void if returns is None else returns)(*arguments), codegen
        typings = (  # an intrinsic names its arguments
            lambda context: found,
            lambda context, a: found,
            lambda context, a, b: found,
        )
        return intrinsic(typings[len(arguments)])

    def address(space: int | None, size) -> Any:
        """The intrinsic (a, i) -> the address of a[i]: generic where `space` is None, else within
        that space.
        """

        def typing(context, a, i):
            def codegen(context, builder, signature, values):
                array = context.make_array(signature.args[0])(context, builder, values[0])
                pointer = builder.gep(array.data, [values[1]])
                if space is not None:
                    pointer = builder.addrspacecast(
                        pointer, ir.PointerType(pointer.type.pointee, space)
                    )
                return builder.ptrtoint(pointer, context.get_value_type(size))

            return size(a, types.intp), codegen

        return intrinsic(typing)

    global_address, shared_address = address(None, types.uint64), address(3, types.uint32)
    red_release = assembly(
        "red.release.gpu.global.add.u32 [$0], $1;", None, types.uint64, types.uint32
    )
    ld_acquire = assembly("ld.acquire.gpu.global.u32 $0, [$1];", types.uint32, types.uint64)
    cluster_arrive = assembly("barrier.cluster.arrive.release.aligned;", None)
    cluster_wait = assembly("barrier.cluster.wait.acquire.aligned;", None)
    cluster_rank = assembly("mov.u32 $0, %cluster_ctarank;", types.uint32)
    remote = assembly(
        "mapa.shared::cluster.u32 $0, $1, $2;", types.uint32, types.uint32, types.uint32
    )
    store_remote = assembly("st.shared::cluster.f32 [$0], $1;", None, types.uint32, types.float32)

    @cuda.jit(device=True, forceinline=True)
    def add_release(counter, i, value):
        red_release(global_address(counter, i), np.uint32(value))

    @cuda.jit(device=True, forceinline=True)
    def load_acquire(counter, i):
        return ld_acquire(global_address(counter, i))

    def in_clusters_of(size: int) -> Any:
        """The intrinsic () that, called in a kernel, makes its blocks come in clusters of
        `size`.
        """

        def typing(context):
            def codegen(context, builder, signature, values):
                function = builder.function
                notes = function.module.add_named_metadata("nvvm.annotations")
                for axis, count in (("x", size), ("y", 1), ("z", 1)):
                    count = ir.Constant(ir.IntType(32), count)
                    notes.add(
                        function.module.add_metadata([function, f"cluster_dim_{axis}", count])
                    )
                return context.get_dummy_value()

            return types.void(), codegen

        return intrinsic(typing)


@cuda.jit
def meet(counter, times, given_up):
    """All blocks of the grid wait for each other, `times` times: counter[0] only grows."""
    P = cuda.gridDim.x
    t = 0
    while t < times:
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            add_release(counter, 0, 1)
            looks = 0
            while load_acquire(counter, 0) < (t + 1) * P and looks < PATIENCE:
                looks += 1
            if looks == PATIENCE:
                given_up[0] = 1
                t = times
        cuda.syncthreads()
        t += 1


@cuda.jit
def meet_in_block(times, out):
    """The threads of a block wait for each other, `times` times, and pass a number round."""
    shared = cuda.shared.array(1024, np.float32)
    i = cuda.threadIdx.x
    shared[i] = i
    cuda.syncthreads()
    t = 0
    while t < times:
        a = shared[(i + 1) % cuda.blockDim.x]
        cuda.syncthreads()
        shared[i] = a
        cuda.syncthreads()
        t += 1
    out[i] = shared[i]


def timed(work, per: int = 1) -> dict:
    """Quartiles of a call on the GPU, and microseconds of one of the `per` things that it does."""
    times = by_events(work, nothing, repeats_for(work))
    return summary(times) | {"us": float(np.median(times)) / per}


def grid_barrier() -> Iterator[dict]:
    """A barrier over P blocks by one counter (red.release, ld.acquire); no more blocks than
    multiprocessors.
    """
    for P in (2, 3) if REHEARSAL else (2, 4, 8, 16, 32, 64, 132):
        P = P if REHEARSAL else min(P, card().multiprocessors)
        counter, given_up = device.array([0], np.uint32), device.array([0], np.uint32)

        def work(P=P, counter=counter, given_up=given_up):
            counter[...] = 0
            launch(meet, P, 4 if REHEARSAL else 128, counter, BARRIERS, given_up)

        row = {"blocks": P} | timed(work, BARRIERS)
        if int(given_up[0]) or int(counter[0]) != P * BARRIERS:
            row = {
                "blocks": P,
                "error": f"the barrier did not hold: {int(counter[0])} arrivals of {P * BARRIERS}",
            }
        yield row


def block_barrier() -> Iterator[dict]:
    """Two syncthreads, a load and a store of shared memory."""
    for threads in (4, 8) if REHEARSAL else (128, 256, 512, 768, 1024):
        out = device.empty(threads, np.float32)
        row = timed(
            lambda threads=threads, out=out: launch(meet_in_block, 1, threads, BARRIERS, out),
            BARRIERS,
        )
        right = (np.arange(threads) + BARRIERS) % threads
        yield {"threads": threads} | (
            row if (device.numpy(out) == right).all() else {"error": "a barrier did not hold"}
        )


def weights_in_registers_or_shared() -> Iterator[dict]:
    """The block schedule's way forward with all weights in registers that go there, and with none:
    a sample a block.
    """
    T, B = (3, 2) if REHEARSAL else (1024, 132)
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
        rng.normal(size=(T, B, G, n)),
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


def take_4(a, b, c, d):
    return


def take_8(a, b, c, d, e, f, g, h):
    return


def launches() -> Iterator[dict]:
    """What the host pays for one launch of an empty kernel: Numba's way, the library's, and
    cuda.core's.
    """
    for count, empty in ((4, take_4), (8, take_8)):
        kernel = cuda.jit(empty)
        given = [device.array(np.zeros((2, 3)), np.float32) for _ in range(count)]
        repeats = 2 if REHEARSAL else 200
        launch(kernel, 1, 4 if SIMULATED else 32, *given)
        yield row_of(
            "rnn_gpu's launch, CuPy's arrays",
            count,
            lambda k=kernel, g=given: launch(k, 1, 4 if SIMULATED else 32, *g),
            repeats,
        )
        if SIMULATED:
            yield {"how": "Numba, cuda.core", "arrays": count, "error": NOT_HERE}
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one block is what is meant
            configured = kernel[1, 32]
        own = [cuda.as_cuda_array(a, sync=False) for a in given]
        yield row_of("Numba, its own arrays", count, lambda c=configured, o=own: c(*o), repeats)
        yield tried(
            "cuda.core, numbers prepared",
            count,
            lambda k=kernel, g=given: by_cuda_core(k, g, anew=False),
            repeats,
        )
        yield tried(
            "cuda.core, CuPy's arrays",
            count,
            lambda k=kernel, g=given: by_cuda_core(k, g, anew=True),
            repeats,
        )


def row_of(how: str, count: int, work, repeats: int) -> dict:
    for _ in range(3):
        work()
    found = summary(of_the_host(work, repeats))
    return {"how": how, "arrays": count, "us": found["median_us"]} | found


def tried(how: str, count: int, make, repeats: int) -> dict:
    try:
        return row_of(how, count, make(), repeats)
    except Exception as error:
        return {"how": how, "arrays": count, "error": first_line(error)}


def flat(arrays) -> list[int]:
    """What Numba's kernels take of C-contiguous arrays: of each 0, 0, size, itemsize, pointer,
    shape…, strides….
    """
    return [x for a in arrays for x in (0, 0, a.size, a.itemsize, a.data.ptr, *a.shape, *a.strides)]


def by_cuda_core(kernel, given, anew: bool):
    """A launch past Numba, of the kernel that it has compiled; the numbers of the arrays found
    `anew` each time, or once.
    """
    core: Any = import_module("cuda.core")
    compiled = next(iter(kernel.overloads.values()))._codelibrary.get_cufunc().kernel
    numbers = flat(given)
    configuration, stream = core.LaunchConfig(grid=1, block=32), core.Stream.from_handle(0)
    return lambda: core.launch(stream, configuration, compiled, *(flat(given) if anew else numbers))


def clusters() -> Iterator[dict]:
    """A step over a thread-block cluster: its barrier alone, and after each block has pushed 128
    numbers to all the others.
    """
    for push, size in itertools.product((False, True), (2, 4, 8, 16)):
        head = {"blocks": size, "push": push}
        if SIMULATED:
            yield head | {"error": NOT_HERE}
            continue
        try:
            kernel, out = cluster_kernel(size, push), device.empty(size * 128, np.float32)
            if size > 8:
                allow_large_clusters(kernel)
            row = timed(
                lambda kernel=kernel, out=out, size=size: launch(kernel, size, 128, BARRIERS, out),
                BARRIERS,
            )
            right = np.repeat((np.arange(size) + BARRIERS * push) % size, 128)
            yield head | (
                row
                if (device.numpy(out) == right).all()
                else {"error": "not the numbers that were pushed"}
            )
        except Exception as error:
            yield head | {"error": first_line(error)}
            synchronise()  # where the GPU is lost this raises, and nothing more is measured


def cluster_kernel(size: int, push: bool):
    """`times` steps in which 128 numbers of every block reach all blocks, and go on from the next
    one's.  out (size · 128,).
    """
    together, N, BOTH = in_clusters_of(size), size * 128, 2 * size * 128

    @cuda.jit
    def pass_on(times, out):
        together()
        shared = cuda.shared.array(BOTH, np.float32)
        i, rank = cuda.threadIdx.x, cluster_rank()
        number = np.float32(rank)
        cluster_arrive()
        cluster_wait()  # a block's shared memory is there once it has started
        t = 0
        while t < times:
            if push:
                mine, k = (t & 1) * N + rank * 128 + i, 0
                while k < size:
                    store_remote(remote(shared_address(shared, mine), np.uint32(k)), number)
                    k += 1
            cluster_arrive()
            cluster_wait()
            if push:
                number = shared[(t & 1) * N + (rank + 1) % size * 128 + i]
            t += 1
        out[cuda.blockIdx.x * 128 + i] = number

    return pass_on


def allow_large_clusters(kernel):
    """More than 8 blocks a cluster must be asked for."""
    module: Any = import_module("numba.cuda.cudadrv.driver")
    kernel.compile((types.int64, types.Array(types.float32, 1, "C")))
    function = next(iter(kernel.overloads.values()))._codelibrary.get_cufunc()
    attribute = (
        module.binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
    )
    module.driver.cuKernelSetAttribute(attribute, 1, function.handle, function.device.id)


MEASUREMENTS = (grid_barrier, block_barrier, launches, weights_in_registers_or_shared, clusters)


def shown(row: dict) -> str:
    """A row without its quartiles."""
    kept = {
        key: value for key, value in row.items() if not key.endswith("_us") or key == "estimated_us"
    }
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in kept.items()
    )


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args()
    _machine.require_card()
    budget, results, errors, not_reached = Budget(chosen.seconds), {}, {}, []
    for measurement in MEASUREMENTS:
        name, rows = measurement.__name__, []
        results[name] = rows
        try:
            for row in measurement():
                rows.append(row)
                print(f"{name}: {shown(row)}", flush=True)
                if budget.left <= 0:
                    break
        except Exception as error:
            traceback.print_exc()
            errors[name] = first_line(error)
        if budget.left <= 0:
            not_reached = [
                one.__name__ for one in MEASUREMENTS[MEASUREMENTS.index(measurement) + 1 :]
            ]
        path = _machine.write(
            "micro", results, errors=errors, not_reached=not_reached, complete=not not_reached
        )
        if not_reached:
            break
    count = sum(map(len, results.values()))
    print(
        f"micro: {count} rows, {len(errors)} measurements failed, not reached: "
        f"{', '.join(not_reached) or 'nothing'} -> {path}"
    )


if __name__ == "__main__":
    main()
