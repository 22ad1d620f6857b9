"""What the CUDA kernels become: registers, memory and instructions of each, compiled on any
machine, GPU or not.

    python -m benchmarks.sass                                    every kernel, float32 and float64,
    sm_75 and sm_90
    python -m benchmarks.sass --cell lstm --dtype float32 --cc 9.0 --dump FOLDER

numba-cuda compiles as it does for a launch (NVVM, then nvJitLink); nvdisasm and cuobjdump read the
result.
"""

import argparse
import gc
import inspect
import itertools
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba.core import config

try:
    import numba.cuda  # noqa: F401
except RuntimeError as error:  # where no CUDA library is installed at all
    print(
        f"numba.cuda cannot be imported ({str(error).strip()}). pip install 'numba-cuda[cu13]'.",
        file=sys.stderr,
    )
    sys.exit(3)

sys.path.append(str(Path(__file__).parents[1]))  # a script too; last: rnn_gpu as installed
from benchmarks import _probes
from rnn_gpu.kernels import updates
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.lstm import lstm
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.devices.cuda import (
    block,
    cluster,
    elementwise_kernel,
    gemm,
    group,
    plain,
    transfer,
)
from rnn_gpu.kernels.devices.cuda.carrying import arriving_kernel
from rnn_gpu.kernels.devices.cuda.contract import Bounds, Card, Problem
from rnn_gpu.kernels.devices.cuda.launch import cuda, types
from rnn_gpu.kernels.devices.cuda.plans import instructions, tensor_plans
from rnn_gpu.kernels.devices.cuda.schedules import H200, decide, known
from rnn_gpu.kernels.losses import LOSSES, value_and_slope
from rnn_gpu.kernels.private import pretended_capability
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

CAPABILITIES = ((7, 5), (8, 0), (9, 0))
NUMBERS = {"float32": np.float32, "float64": np.float64}
COUNTED = (
    "FFMA",
    "FADD",
    "FMUL",
    "MUFU",
    "DFMA",
    "DADD",
    "DMUL",
    "LDG",
    "STG",
    "LDS",
    "STS",
    "LDL",
    "STL",
    "BAR",
    "SHFL",
    "CALL",
)
# objects, as gc counts them: most of Numba's stay as long as a process
RARELY = (100_000, 50, 1000)
MISSING = 3  # exit status: not compiled, because a part of the toolkit is not installed

OPCODE = re.compile(
    r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.a-z]*)", re.MULTILINE
)
BRANCH = re.compile(r"(?:(@!?U?P\w+)\s+)?(BRA|EXIT|RET)\b[^`]*(?:`\((\.L\w+)\))?")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
# the last two: conversions, and MUFU.RCP64H
FLOAT64 = re.compile(r"D(ADD|FMA|MUL|SETP|MNMX|MMA|SET)\b|.*(\.F64|64H)\b")


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
    N = 64
    made, threads = partial(arriving_kernel, number, N, 32, 16), 16 * N
    yield Job(f"arriving[N={N}]", "", True, made, {"maps": 3, "ds": 3, "out": 3}, threads)


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


class Compiled(NamedTuple):
    ptx: str
    sass: str  # "" where it was not asked for
    registers: int  # a thread
    shared: int  # static bytes a block
    local: int  # bytes a thread
    stack: int  # bytes a thread: this is where local arrays and spilled registers are


def compile_kernel(
    kernel, signature: tuple, cc: tuple[int, int], disassemble: bool = True
) -> Compiled:
    """Compile a `@cuda.jit` kernel for a compute capability, past every cache.

    One compute capability a process: device functions are compiled once for all kernels that call
    them.
    """
    from numba.cuda import dispatcher

    with pretended_device(cc):
        library = dispatcher._Kernel(kernel.py_func, signature, **kernel.targetoptions)._codelibrary
        ptx, cubin = library.get_asm_str(), library.get_cubin().code
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        # the kernel, and functions not inlined in it
        usage = USAGE.findall(output(tool("cuobjdump"), "-res-usage", path))
        sass = output(tool("nvdisasm"), "-c", path) if disassemble else ""
    registers, stack, shared, local = (max(map(int, column)) for column in zip(*usage, strict=True))
    return Compiled(ptx, sass, registers, shared, local, stack)


pretended: dict[str, tuple[int, int]] = {}


@contextmanager
def pretended_device(cc: tuple[int, int]):
    """A context that compiles for cards of this compute capability: one a process."""
    if pretended.setdefault("cc", cc) != cc:
        raise ValueError(
            f"this process compiles for {pretended['cc']}; compile for {cc} in another one"
        )
    with pretended_capability(cc):
        yield


@cache
def tool(name: str) -> str | None:
    """Where nvdisasm or cuobjdump is: in the folder CUDA_TOOLS, in NVIDIA's wheels, or on PATH."""
    nvidia = find_spec("nvidia")
    wheels = [
        str(bin)
        for base in ((nvidia and nvidia.submodule_search_locations) or ())
        for bin in sorted(Path(base).glob("*/bin"))
    ]
    places = [os.environ.get("CUDA_TOOLS", ""), *wheels, os.environ.get("PATH", "")]
    return shutil.which(name, path=os.pathsep.join(filter(None, places)))


def output(*command) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def missing() -> str:
    """What of the toolkit is not installed; "" where kernels can be compiled."""
    from numba.cuda.cudadrv import nvvm

    driver: Any = import_module("numba.cuda.cudadrv.driver")
    lacking = [name for name in ("nvdisasm", "cuobjdump") if not tool(name)]
    try:
        nvvm.NVVM()
    except (ImportError, RuntimeError) as error:
        lacking.append(f"libNVVM ({error})")
    if not driver._have_nvjitlink():
        lacking.append("nvJitLink")
    if not lacking:
        return ""
    advice = (
        "pip install 'numba-cuda[cu13]' nvidia-cuda-nvdisasm nvidia-cuda-cuobjdump, or name their "
        "folder in CUDA_TOOLS"
    )
    return f"not found: {', '.join(lacking)}. {advice}."


def chosen(cc: tuple[int, int], dtype: str, options) -> list[Job]:
    """The kernels of a compute capability and type that the options ask for."""
    number = NUMBERS[dtype]
    guilty = guilty_kernels(number) if options.guilty and dtype == "float32" else ()
    every = itertools.chain(jobs(number, CARDS.get(cc, H200)), guilty)
    return [job for job in every if wanted(job, options) and matters(job, cc, dtype, options)]


class Task(NamedTuple):
    """A kernel that another process finds again, since a Job cannot be sent there."""

    cc: tuple[int, int]
    dtype: str
    place: int  # among the chosen


found: dict[tuple, list[Job]] = {}  # by (cc, dtype), in a process that compiles


def report(task: Task, options) -> dict:
    """The line of a kernel; "error" says why it did not compile."""
    cc, dtype, place = task
    if (cc, dtype) not in found:
        found[cc, dtype] = chosen(cc, dtype, options)
    return line(found[cc, dtype][place], cc, dtype, options)


def matters(job: Job, cc: tuple[int, int], dtype: str, options) -> bool:
    """Where time is short: of the newest cc every kernel of float32, but of those that clip or look
    at flags one size, of the LSTM all. Else of all cells those whose block sizes are listed; the
    others have their counts, and activations are compiled by themselves. Between the oldest cc and
    the newest, nothing but these cells in float32, in one size.
    """
    oldest, newest = min(options.cc), max(options.cc)
    if not options.quick:
        return True
    if cc == newest and dtype == "float32":
        return not (job.varied and job.further and job.cell != "lstm")
    if oldest < cc < newest:
        return dtype == "float32" and job.cell in BLOCK_SIZES and not job.further
    return job.cell in ("", *BLOCK_SIZES)


def wanted(job: Job, options) -> bool:
    return (not options.cell or job.cell in options.cell) and re.search(
        options.match, job.name
    ) is not None


WAITS = 3  # SYNCS of a step of a cluster: two looks at an mbarrier, of which it may need more


class Loop(NamedTuple):
    """The loop over time in a kernel: what a warp issues, each branch of it counted as taken, and
    waiting once. The compiler may have made one round of several steps.
    """

    once: Counter  # opcode -> how often, outside the loops within
    within: list[int]  # instructions of each loop within, each counted once

    def a_step(self, barriers: int = 1) -> float:
        """Instructions of a step that has so many barriers, or one mbarrier."""
        all_of_it = self.once.total() + sum(self.within)
        if self.once["BAR"]:
            return all_of_it * barriers / self.once["BAR"]
        return all_of_it * WAITS / self.once["SYNCS"]


class Instruction(NamedTuple):
    opcode: str  # FFMA, without what follows the first full stop
    falls: bool  # the next one may follow
    target: int | None  # place of the one that it may jump to


def listing(sass: str) -> list[Instruction]:
    """The instructions of the kernel in nvdisasm's text, slow paths of divisions among them."""
    texts, labels = [], {}
    for text in map(str.strip, sass.splitlines()):
        if text.startswith(".L_x_"):
            labels[text.rstrip(":")] = len(texts)
        elif found := re.match(r"/\*[0-9a-f]{4,}\*/\s+(.*)", text):
            texts.append(found[1])
    return [parsed(text, labels) for text in texts]


def parsed(text: str, labels: dict[str, int]) -> Instruction:
    opcode = re.sub(r"^@!?U?P\w+\s+", "", text).partition(" ")[0].rstrip(";")
    found = BRANCH.match(text)
    if not found or opcode.startswith("BRA.DIV"):  # which is for warps that have come apart
        return Instruction(opcode.partition(".")[0], True, None)
    conditional = bool(found[1]) or re.search(r"BRA\S* !?U?P\d", text) is not None
    return Instruction(found[2], conditional, labels.get(found[3]))


def preceding(code: list[Instruction]) -> dict[int, list[int]]:
    """place -> the places of the instructions that may come just before it."""
    before: dict[int, list[int]] = {}
    for place, (_, falls, target) in enumerate(code):
        for follower in ([place + 1] if falls else []) + ([target] if target is not None else []):
            before.setdefault(follower, []).append(place)
    return before


def loop_of(before: dict[int, list[int]], header: int, last: int) -> set[int]:
    """The places of the natural loop whose last instruction jumps back to its header."""
    found, todo = {header}, [last]
    while todo:
        if (place := todo.pop()) not in found:
            found.add(place)
            todo += before.get(place, [])
    return found


def time_loop(sass: str) -> Loop | None:
    """The innermost loop with a barrier in it, or that sends to a cluster; None where there is no
    such loop.
    """
    code, loops = listing(sass), {}
    before = preceding(code)
    for place, (_, _, target) in enumerate(code):
        if target is not None and target < place:
            loops.setdefault(target, set()).update(loop_of(before, target, place))
    found = sorted(loops.values(), key=len)
    steps = next((one for one in found if {code[k].opcode for k in one} & {"BAR", "STAS"}), None)
    if steps is None:
        return None
    found = [one for one in found if all(code[k].opcode != "SYNCS" for k in one)]
    within: list[set[int]] = []
    for one in reversed(found):  # of loops within loops the outer
        if one < steps and not any(one <= other for other in within):
            within.append(one)
    once = Counter(code[k].opcode for k in steps.difference(*within))
    return Loop(once, sorted(map(len, within)))


def line(job: Job, cc: tuple[int, int], dtype: str, options) -> dict:
    number = NUMBERS[dtype]
    disassemble = not options.quick or (dtype == "float32" and cc == max(options.cc))
    head = {
        "kernel": job.name,
        "cell": job.cell,
        "recurrent": job.recurrent,
        "threads": job.threads,
        "dtype": dtype,
        "cc": cc,
    }
    try:
        kernel = job.make()
        compiled = compile_kernel(kernel, signature(kernel, job.given, number), cc, disassemble)
    except Exception as error:
        return head | {"error": f"{type(error).__name__}: {error}"}
    if options.dump:
        stem = Path(options.dump, f"{job.name}.{dtype}.sm_{cc[0]}{cc[1]}")
        Path(f"{stem}.ptx").write_text(compiled.ptx, encoding="utf-8")
        Path(f"{stem}.sass").write_text(compiled.sass, encoding="utf-8")
    opcodes, loop = OPCODE.findall(compiled.sass), time_loop(compiled.sass)
    return head | {
        "error": "",
        "registers": compiled.registers,
        "shared": compiled.shared,
        "local": compiled.local,
        "stack": compiled.stack,
        "float64_ptx": compiled.ptx.count(".f64"),
        "float64_sass": sorted({one for one in opcodes if FLOAT64.match(one)}),
        "instructions": len(opcodes),  # 0 where it was not disassembled
        "counts": Counter(one.partition(".")[0] for one in opcodes),
        # of the block schedule, with one barrier; null where a loop within cannot be counted
        "a_step": loop.a_step() if job.model and loop and not loop.within else None,
        "model": job.model,
        "barriers": loop.once["BAR"] if loop else None,  # of a block, in the loop over time
        "L1_emptied": opcodes.count("CCTL.IVALL"),
        # from shared memory
        "loads_of_16_bytes": sum(one.startswith("LDS") and "128" in one for one in opcodes),
    }


TOGETHER = 120  # kernels of the processes of one pool: each that was compiled keeps 33 MB


def tasks(options) -> list[list[Task]]:
    """Lists of kernels, each of one compute capability."""
    found = []
    for cc in sorted(options.cc, reverse=True):
        every = [
            Task(cc, dtype, k)
            for dtype in options.dtype
            for k in range(len(chosen(cc, dtype, options)))
        ]
        found += [every[k : k + TOGETHER] for k in range(0, len(every), TOGETHER)]
    return found


def measure(options) -> Iterator[dict]:
    """The line of every kernel, as they come: all cores share the kernels of a list, then those of
    the next.
    """
    context = multiprocessing.get_context("spawn")
    rarely = {"initializer": gc.set_threshold, "initargs": RARELY, "mp_context": context}
    for kernels in tasks(options):
        with ProcessPoolExecutor(min(len(kernels), os.cpu_count() or 1), **rarely) as pool:
            yield from pool.map(report, kernels, itertools.repeat(options))


def table(lines: list[dict]) -> str:
    """The lines as text."""
    heads = ["kernel", "dtype", "sm", "reg", "shared", "local", "stack", "SASS", *COUNTED, "f64"]
    rows = [heads]
    for one in lines:
        start = [one["kernel"], one["dtype"], "{}{}".format(*one["cc"])]
        if one["error"]:
            rows.append([*start, one["error"].splitlines()[0]])
            continue
        counts = [one["counts"].get(name, 0) or "" for name in COUNTED]
        memory = [one[key] for key in ("registers", "shared", "local", "stack", "instructions")]
        rows.append([*start, *memory, *counts, one["float64_ptx"] or ""])
    widths = [
        max(len(str(row[k])) for row in rows if len(row) == len(heads)) for k in range(len(heads))
    ]
    widths[0] = max(len(row[0]) for row in rows)

    def text(row):
        cells = zip(map(str, row), widths, strict=False)  # an error's row is shorter
        return " ".join(
            one.ljust(width) if k < 2 else one.rjust(width) for k, (one, width) in enumerate(cells)
        )

    return "\n".join(map(text, rows))


def main(arguments=None) -> int:
    def capability(text):
        major, minor = text.split(".")
        return int(major), int(minor)

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sass", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument(
        "--cc",
        type=capability,
        nargs="+",
        default=list(CAPABILITIES),
        help="compute capabilities, such as 9.0",
    )
    parser.add_argument("--dtype", choices=list(NUMBERS), nargs="+", default=list(NUMBERS))
    parser.add_argument(
        "--cell", choices=list(CELLS), nargs="+", default=[], help="only kernels of these cells"
    )
    parser.add_argument(
        "--match", default="", help="only kernels whose name has this regular expression in it"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print how many kernels there are, then one a line as they come, as JSON",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="count instructions for float32 and the newest cc only; few kernels for other cc",
    )
    parser.add_argument(
        "--guilty", action="store_true", help="also float32 kernels that are bad on purpose"
    )
    parser.add_argument(
        "--dump", default="", metavar="FOLDER", help="write each kernel's PTX and SASS there"
    )
    options = parser.parse_args(arguments)
    if vars(config)["ENABLE_CUDASIM"]:
        parser.error("NUMBA_ENABLE_CUDASIM is set, and the simulator compiles nothing: unset it")
    if lacking := missing():
        print(lacking, file=sys.stderr)
        return MISSING
    if options.dump:
        Path(options.dump).mkdir(parents=True, exist_ok=True)
    lines = []
    if options.json:
        print(json.dumps({"planned": sum(map(len, tasks(options)))}), flush=True)
    for one in measure(options):
        lines.append(one)
        if options.json:
            print(json.dumps(one), flush=True)
    if not options.json:
        print(table(lines))
    return int(any(one["error"] for one in lines))


if __name__ == "__main__":
    sys.exit(main())
