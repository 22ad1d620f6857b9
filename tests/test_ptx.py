"""What the simulator cannot see: the types, registers and memory of every CUDA kernel, compiled without a GPU.

The simulator may be on in this process, so `benchmarks/sass.py` compiles in another. Without NVIDIA's compiler the tests are skipped;
RNN_GPU_REQUIRE_PTX=1 makes them fail instead.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.losses import LOSSES

SASS = Path(__file__).parents[1] / "benchmarks" / "sass.py"
MISSING = 3  # its exit status where the compiler is not installed
CHOSEN = ("elman_tanh", "gru", "lstm")
REGISTERS = 65_536  # of a multiprocessor; a thread can name 255


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """One dict for each kernel × dtype × compute capability."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    command = [sys.executable, "-P", SASS, "--json", "--quick", "--guilty"]  # -P: rnn_gpu as installed, wherever that is
    elsewhere = tmp_path_factory.mktemp("sass")
    run = subprocess.run(command, check=False, env=environment, cwd=elsewhere, capture_output=True, encoding="utf-8", timeout=900)
    if run.returncode == MISSING:
        (pytest.fail if os.environ.get("RNN_GPU_REQUIRE_PTX") == "1" else pytest.skip)(run.stderr.strip())
    assert run.stdout, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def kernels(lines):
    """The kernels of the library that compiled."""
    return [one for one in lines if not one["error"] and not is_guilty(one)]


@pytest.fixture(scope="module")
def guilty(lines):
    """name -> the lines of a kernel that is bad on purpose."""
    found = [one for one in lines if is_guilty(one)]
    return {name: [one for one in found if one["kernel"] == name] for name in {one["kernel"] for one in found}}


def is_guilty(line):
    return line["kernel"].startswith("guilty")


def who(line):
    return f"{line['kernel']} {line['dtype']} sm_{line['cc'][0]}{line['cc'][1]}"


def float64_in(line):
    return [f"{line['float64_ptx']} .f64 in PTX"] * bool(line["float64_ptx"]) + line["float64_sass"]


def memory_of(line):
    """What a thread keeps outside its registers."""
    found = {"local": line["local"], "stack": line["stack"], **{op: line["counts"].get(op, 0) for op in ("LDL", "STL")}}
    return {name: amount for name, amount in found.items() if amount}


def test_every_kernel_compiles_for_every_type_and_capability(lines):
    assert [f"{who(one)}: {one['error']}" for one in lines if one["error"]] == []
    ways = ("forward", "backward")
    recurrent = {f"plain.{way}[{cell}]" for way in ways for cell in CELLS} | {"plain.matvec"}
    block = {f"block.{way}[{cell} n=33 B=64]" for way in ways for cell in CELLS}
    clipping = {f"{name}.backward.clipping[{cell}]" for name in ("plain", "gemm") for cell in CHOSEN}
    clipping |= {f"block.backward.clipping[{cell} n=64 B=64]" for cell in CHOSEN}
    noisy = {f"block.{way}[dropped_zoned_lstm n=33 B=64]" for way in ways}
    pointwise = {f"elementwise[{prefix}{name}]" for prefix in ("", "d") for name in ACTIVATIONS}
    pointwise |= {f"elementwise[{name}]" for name in (*LOSSES, "sgd", "adam")}
    for dtype in ("float32", "float64"):
        for cc in ([7, 5], [9, 0]):
            most = block | clipping | noisy if dtype == "float32" and cc == [9, 0] else {"block.forward[lstm n=64 B=64]"}
            expected = recurrent | pointwise | most
            assert expected <= {one["kernel"] for one in lines if one["dtype"] == dtype and one["cc"] == cc}


def test_ampere_is_between(kernels):
    """What an A100 gets of the listed cells: its own plans, PTX of its own."""
    between = {one["kernel"] for one in kernels if one["cc"] == [8, 0]}
    for cell in CHOSEN:
        for way in ("forward", "backward"):
            assert {f"plain.{way}[{cell}]", f"gemm.{way}[{cell}]", f"block.{way}[{cell} n=64 B=64]"} <= between


def test_no_float64_enters_a_float32_kernel(kernels):
    single = [one for one in kernels if one["dtype"] == "float32"]
    assert all(one["instructions"] for one in single if one["cc"] == [9, 0])  # that is, SASS was looked at
    assert {who(one): float64_in(one) for one in single if float64_in(one)} == {}


def test_recurrent_kernels_keep_everything_in_registers(kernels):
    recurrent = [one for one in kernels if one["recurrent"]]
    assert {who(one): memory_of(one) for one in recurrent if memory_of(one)} == {}


def test_a_block_finds_enough_registers(kernels):
    """A multiprocessor hands them out by eights."""
    needed = {who(one): one["threads"] * -(-one["registers"] // 8) * 8 for one in kernels}
    assert {name: count for name, count in needed.items() if not 0 < count <= REGISTERS} == {}


def test_the_block_schedule_reads_shared_memory_16_bytes_at_a_time(kernels):
    looked_at = [one for one in kernels if one["kernel"].startswith("block") and one["instructions"]]
    assert len(looked_at) >= 2 * len(CELLS)
    assert {who(one) for one in looked_at if one["loads_of_16_bytes"] != one["counts"].get("LDS", 0)} == set()


def test_an_untyped_literal_is_noticed(guilty):
    found = guilty["guilty[untyped]"]
    assert len(found) == 2
    assert all(one["float64_ptx"] for one in found)
    assert [one["float64_sass"] for one in found if one["cc"] == [9, 0]] == [["DADD", "DMUL", "F2F.F32.F64", "F2F.F64.F32"]]


@pytest.mark.parametrize("kind", ["local", "spilling"])
def test_memory_outside_the_registers_is_noticed(guilty, kind):
    found = guilty[f"guilty[{kind}]"]
    assert len(found) == 2
    assert all(memory_of(one).get("stack") for one in found)
    assert all(memory_of(one).get("STL") and memory_of(one).get("LDL") for one in found if one["cc"] == [9, 0])
