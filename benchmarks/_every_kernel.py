"""Every kernel of the CUDA device, as sass.py compiles it: how it is made, and what it takes."""

import inspect
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks import _probes
from rnn_gpu.kernels import updates
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.lstm import lstm
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.devices.cuda import (
    block,
    carrying,
    cluster,
    elementwise_kernel,
    gemm,
    group,
    plain,
    transfer,
)
from rnn_gpu.kernels.devices.cuda.contract import Bounds, Card, Problem
from rnn_gpu.kernels.devices.cuda.launch import cuda, types
from rnn_gpu.kernels.devices.cuda.plans import instructions, tensor_plans
from rnn_gpu.kernels.devices.cuda.schedules import H200, decide, known
from rnn_gpu.kernels.losses import LOSSES, value_and_slope
from rnn_gpu.layers.stateless import output_formula

# What kernels take, by the names of their parameters and of the fields of Forward and Backward. A
# whole number is the dimensions of a C-contiguous array of the kernel's type; else it is a Numba
# type.
FLAGS = types.Array(types.uint8, 2, "C")
ARRAYS = {"p": 4, "W": 2, "c": 1, "s": 4, "kept": 4, "flags": ()}
ARRAYS |= {"dy": 3, "dp": 4, "dq": 4, "ds": 4, "clip": (), "masked": ()}
ARRAYS |= {"W_T": 2, "dq_of_step": 4, "carried": 4, "q": 2, "h": 2, "through_W": 2, "out": 2}
ARRAYS |= {"t": types.int64, "words": types.Array(types.int64, 1, "C"), "earlier": types.int64}
NUMBER = 0  # dimensions of none
BOUNDS = Bounds(NUMBER, NUMBER, FLAGS)  # call.clip of a kernel that clips
FORWARD_KERNELS = (plain.forward_kernel, gemm.forward_kernel)  # factory(cell, number, masked)
# factory(cell, number, clips, masked)
BACKWARD_KERNELS = (plain.backward_kernel, gemm.backward_kernel)
VARIANTS = tuple(itertools.product((False, True), repeat=2))  # clips, masked
GROUP_KERNELS = {  # factory(cell, number, plan); what they take as `call`
    "forward": (group.forward_kernel, group.ForwardOfGroup),
    "backward": (group.backward_kernel, group.BackwardOfGroup),
}
GROUP_SIZES = (  # (cell, direction, n, B, clips, masked); of the H200 all, of other cards the first
    ("elman_tanh", "forward", 1024, 1, False, False),
    ("elman_tanh", "backward", 1024, 4, True, True),
    ("lstm", "forward", 768, 1, False, True),
    ("lstm", "backward", 1024, 1, False, False),
)
MODELS = {block: instructions, cluster: cluster.instructions_of}  # of a step
OTHER_KERNELS = (plain.matvec_kernel,)  # factory(number)
BLOCK_SIZES = {  # (n, samples) that the table plans
    "elman_tanh": ((64, 64), (224, 64), (200, 1000)),
    "gru": ((64, 64), (128, 64), (128, 1000)),
    "lstm": ((64, 64), (117, 64), (100, 1000)),
}
CLUSTER_SIZES = {
    "elman_tanh": ((256, 16), (1024, 4)),
    "gru": ((256, 16), (200, 100)),
    "lstm": ((128, 1), (256, 16), (500, 4)),
}
CARDS = {  # whose plans are compiled; for another cc the H200's
    (7, 5): known("T4", (7, 5), 40, 65_536, 65_536),
    (8, 0): known("A100", (8, 0), 108, 65_536, 166_912),
    (9, 0): H200,
}
NOISY = dropped(zoned(lstm))


def formulas() -> Iterator[tuple[str, Callable, int, int, int]]:
    """(name, f, outputs, inputs, scalars) of all that layers, losses and optimizers give to
    `elementwise`.
    """
    for name, activation in ACTIVATIONS.items():
        yield name, activation.f, 1, 1, 0
        yield f"d{name}", output_formula(activation), 1, 2, 0
    for name, loss in LOSSES.items():
        yield name, value_and_slope(loss), 2, 3, 0
    for name, update in inspect.getmembers(updates, inspect.isfunction):
        arguments = list(inspect.signature(update).parameters)
        inputs = arguments.index("dθ") + 1  # the weight, its moments, its gradient; then scalars
        yield name, update, inputs - 1, inputs, len(arguments) - inputs


class Job(NamedTuple):
    name: str  # plain.forward[lstm]
    cell: str  # "" for a kernel that knows no cell
    recurrent: bool  # runs over time: must keep everything in registers
    make: Callable  # () -> the kernel
    given: dict = {}  # noqa: RUF012  what this kernel takes otherwise than ARRAYS has it
    threads: int = 256  # of a block
    model: float = 0.0  # instructions of a step as the choice of a plan has them; 0: has not
    varied: bool = False  # clips, or looks at flags
    further: bool = False  # of a size that is not the first of those that are listed


def jobs(number, card: Card) -> Iterator[Job]:
    """Every kernel of the CUDA device for one type of number.

    For float32 on the H200 also the block schedule of every cell, a cell with noise around it, and
    what clips δ for the cells whose block sizes are listed.
    """
    most = card is H200 and number is np.float32
    yield from streaming_jobs(number, most)
    for cell in (*CELLS.values(), *[NOISY] * most):
        odd = ((33, 64),) if most else ()
        yield from persistent_jobs(
            block, cell, odd + BLOCK_SIZES.get(cell.name, ()), number, card, most
        )
        if most:
            sizes = CLUSTER_SIZES.get(cell.name, ((33, 16),) * (cell is NOISY))
            yield from persistent_jobs(cluster, cell, sizes, number, card, most)
    for factory in OTHER_KERNELS:
        yield Job(title(factory), "", True, partial(factory, number))
    yield from group_jobs(number, card, most)
    yield from transfer_jobs(number, most)
    yield from tensor_jobs(number, most)
    yield from probe_jobs(number, card)
    for name, f, *counts in formulas():
        made = partial(elementwise_kernel, f, number, *counts)
        groups = zip(("outputs", "inputs", "scalars"), (1, 1, NUMBER), counts, strict=True)
        given = {group: (one,) * count for group, one, count in groups}
        yield Job(f"elementwise[{name}]", "", False, made, given)


def streaming_jobs(number, most: bool) -> Iterator[Job]:
    """The schedules for W of any size."""
    cells = [*CELLS.values(), *[NOISY] * most]
    for cell, factory, masked in itertools.product(cells, FORWARD_KERNELS, (False, True)):
        if not masked or (most and cell.name in BLOCK_SIZES):
            name, made = title(factory, False, masked), partial(factory, cell, number, masked)
            yield Job(f"{name}[{cell.name}]", cell.name, True, made, given(False, masked))
    for cell, factory, variant in itertools.product(cells, BACKWARD_KERNELS, VARIANTS):
        if not any(variant) or (most and cell.name in BLOCK_SIZES):
            name, made = title(factory, *variant), partial(factory, cell, number, *variant)
            yield Job(f"{name}[{cell.name}]", cell.name, True, made, given(*variant))


def persistent_jobs(schedule, cell, sizes, number, card: Card, most: bool) -> Iterator[Job]:
    """A schedule that keeps W on the chip, where it is asked for; of clips and masks the listed
    sizes of a block, the smallest of a cluster.
    """
    chosen = most and cell.name in BLOCK_SIZES
    for direction, (clips, masked) in itertools.product(("forward", "backward"), VARIANTS):
        if ((clips or masked) and not chosen) or (clips and direction == "forward"):
            continue
        factory = getattr(schedule, f"{direction}_kernel")
        listed = BLOCK_SIZES.get(cell.name, ()) if schedule is block else sizes[:1]
        for n, B in listed if clips or masked else sizes:
            problem = Problem(cell, direction, n, B, number().itemsize, card, clips, masked)
            choice = decide(problem, schedule.name)
            if choice.schedule == schedule.name:
                name = f"{title(factory, clips, masked)}[{cell.name} n={n} B={B}]"
                made, plan = partial(factory, cell, number, choice.plan), choice.plan
                model = MODELS[schedule](plan, problem)
                arguments = given(clips, masked)
                kind = clips or masked, (n, B) not in sizes[:1] + listed[:1]
                yield Job(name, cell.name, True, made, arguments, plan.threads, model, *kind)
                if masked and cell is lstm and (n, B) == listed[0]:
                    name = name.replace("masked", "masked.given")
                    made = partial(factory, cell, number, plan._replace(given=True))
                    yield Job(name, cell.name, True, made, arguments, plan.threads)


def group_jobs(number, card: Card, most: bool) -> Iterator[Job]:
    """The group schedule, where it would be chosen of those that keep W on the chip."""
    for name, direction, n, B, clips, masked in GROUP_SIZES if most else GROUP_SIZES[:1]:
        cell, (factory, call) = CELLS[name], GROUP_KERNELS[direction]
        problem = Problem(cell, direction, n, B, number().itemsize, card, clips, masked)
        if plans := group.plans(problem):
            made, plan = partial(factory, cell, number, plans[0].plan), plans[0].plan
            known = given(clips, masked) | {"call": call}
            label = f"{title(factory, clips, masked)}[{name} n={n} B={B}]"
            yield Job(label, name, True, made, known, plan.threads)


def transfer_jobs(number, most: bool) -> Iterator[Job]:
    """The maps of samples, and what carries dE/ds from map to map."""
    none = dict.fromkeys(("dp", "dq", "ds", "clip", "masked"), ())
    for name in BLOCK_SIZES:
        for n, masked in ((32, False), (32, True), (8, False)) if most else ((32, False),):
            factory, cell = transfer.transfers_kernel, CELLS[name]
            known = none | {"out": 3} | ({"flags": FLAGS} if masked else {})
            label = f"{title(factory, False, masked)}[{name} n={n}]"
            made = partial(factory, cell, number, n, masked)
            yield Job(label, name, True, made, known, transfer.sizes_of(cell, n).threads)
    for N, n in ((64, 32), (37, 37), (113, 113)):  # primes: shares are not of one size
        parts, known = carrying.parts_of(N), {"maps": 3, "ds": 3, "out": 3}
        made = partial(carrying.arriving_kernel, number, N, n, parts)
        model = sum(carrying.issued(N)) / 2  # of two barriers
        yield Job(f"arriving[N={N}]", "", True, made, known, parts * N, model)


def tensor_jobs(number, most: bool) -> Iterator[Job]:
    """Sums by tensor cores: in clusters of eight on the H200, the first plan of each."""
    for direction, precision in (("forward", "tf32"), ("backward", "bf16")) if most else ():
        cell, factory = CELLS["lstm"], getattr(cluster, f"{direction}_kernel")
        problem = Problem(cell, direction, 256, 64, 4, H200, precision=precision)
        plan = tensor_plans(problem, 8)[0]
        made = partial(factory, cell, number, plan)
        name = f"tensor.{direction}[lstm n=256 B=64 {precision}]"
        yield Job(name, cell.name, True, made, given(False, False), plan.threads)


def probe_jobs(number, card: Card) -> Iterator[Job]:
    """The intrinsics of blocks that wait for each other, and of tensor cores, where a card has
    them.
    """
    given = {"x": 1, "out": 1}
    probes = [(_probes.packet_kernel, 128)]
    if card is H200:
        probes.append((_probes.cluster_kernel, 128))
    if card is not CARDS[7, 5] and number is np.float32:
        probes.append((_probes.tensor_kernel, 32))
    for factory, threads in probes:
        name = f"probe.{factory.__name__.removesuffix('_kernel')}"
        yield Job(name, "", True, partial(factory, number), given, threads)


def given(clips: bool, masked: bool) -> dict:
    """What kernels that clip, and those of masked steps, take otherwise than ARRAYS has it."""
    return ({"clip": BOUNDS} if clips else {}) | ({"flags": FLAGS} if masked else {})


def title(factory, clips: bool = False, masked: bool = False) -> str:
    name = factory.__module__.rpartition(".")[2] + "." + factory.__name__.removesuffix("_kernel")
    return name + ".clipping" * clips + ".masked" * masked


def guilty_kernels(number) -> Iterator[Job]:
    """Kernels that break the claims on purpose: what finds nothing here would find nothing
    anywhere.
    """

    @cuda.jit
    def untyped(
        o0, x0
    ):  # dy f'(y) as it is written, not bound to the kernel's type: 1.0 is a float64
        i = cuda.grid(1)
        o0[i] = o0[i] * (1.0 - x0[i] * x0[i])

    @cuda.jit
    def local(o0, x0):  # an array that is indexed at run time cannot stay in registers
        a = cuda.local.array(64, number)
        i = cuda.grid(1)
        for k in range(64):
            a[int(x0[i + k])] = x0[i]
        o0[i] = a[int(x0[0])]

    @cuda.jit(max_registers=24)
    def spilling(o0, x0):  # 64 numbers alive at once
        a = cuda.local.array(64, number)
        i = cuda.grid(1)
        for k in range(64):
            a[k] = x0[i + k]
        cuda.syncthreads()
        for k in range(64):
            o0[i + k] = a[63 - k]

    for kernel in (untyped, local, spilling):
        yield Job(
            f"guilty[{kernel.py_func.__name__}]", "", False, lambda k=kernel: k, {"o0": 1, "x0": 1}
        )


def signature(kernel, given: dict, number) -> tuple:
    """The Numba types of a kernel's arguments: a parameter is an array that ARRAYS or `given` has,
    or is annotated with the NamedTuple that it is.
    """
    element, known = getattr(types, number.__name__), ARRAYS | given

    def numba_type(argument):
        if isinstance(argument, int):
            return types.Array(element, argument, "C") if argument else element
        if isinstance(argument, tuple):
            members = tuple(map(numba_type, argument))
            return types.BaseTuple.from_types(members, type(argument))
        return argument

    def taken(parameter):
        kind = known.get(parameter.name, parameter.annotation)
        return kind(*(known[field] for field in kind._fields)) if isinstance(kind, type) else kind

    parameters = inspect.signature(kernel.py_func).parameters.values()
    return tuple(numba_type(taken(one)) for one in parameters)
