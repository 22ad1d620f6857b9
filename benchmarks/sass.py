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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
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
from benchmarks._disassembly import FLOAT64, OPCODE, time_loop
from benchmarks._every_kernel import BLOCK_SIZES, CARDS, Job, guilty_kernels, jobs, signature
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda.schedules import H200
from rnn_gpu.kernels.private import pretended_capability

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
# looks at flags and, on the way back, clips too
MOST = ("block.forward.masked[", "block.backward.clipping.masked[")
# differ from elman_tanh in their activation alone; but for elu, which chooses and has a function
ALIKE = {name for name in CELLS if name.startswith("elman_")} - {"elman_tanh", "elman_elu"}
MISSING = 3  # exit status: not compiled, because a part of the toolkit is not installed

USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


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
    at flags one size, of the LSTM all of what does both; and of the cells that are ALIKE one
    schedule. Else of all cells those whose block sizes are listed; the others have their counts,
    and activations are compiled by themselves. Before the newest cc, of these cells in float32; of
    what is between it and the oldest nothing else, and one size.
    """
    oldest, newest = min(options.cc), max(options.cc)
    if not options.quick:
        return True
    if cc == newest and dtype == "float32":
        if job.varied and job.further:
            return job.cell == "lstm" and job.name.startswith(MOST)
        return job.cell not in ALIKE or job.name.startswith("plain.")
    if oldest < cc < newest:
        return dtype == "float32" and job.cell in BLOCK_SIZES and not job.further
    if cc < newest and (dtype == "float64" or job.name.startswith("elementwise")):
        return False
    return job.cell in ("", *BLOCK_SIZES)


def wanted(job: Job, options) -> bool:
    return (not options.cell or job.cell in options.cell) and re.search(
        options.match, job.name
    ) is not None


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
