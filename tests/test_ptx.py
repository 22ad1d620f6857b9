"""What the simulator cannot see: the types, registers and memory of every CUDA kernel, compiled
without a GPU.

The simulator may be on in this process, so `benchmarks/sass.py` compiles in others. Without
NVIDIA's compiler the tests are skipped; RNN_GPU_REQUIRE_PTX=1 makes them fail instead. However slow
a machine is, it has its time as long as kernels come: where none comes for long, one test fails and
says how far it got, and what needs all kernels is skipped.
"""

import os
import time
from pathlib import Path

import pytest

from compiling import awaited, compiled
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.losses import LOSSES

pytestmark = pytest.mark.slow

MISSING = 3  # its exit status where the compiler is not installed
CHOSEN = ("elman_tanh", "gru", "lstm")
UNLIKE = (*CHOSEN, "elman_elu")  # the others differ from the first in their activation alone
STREAMING = ("plain", "gemm")
LISTED = 20  # kernels of clusters, at least
LARGE = (("elman_tanh", 256, 16), ("gru", 256, 16), ("lstm", 128, 1))  # over clusters
VARIANTS = (".clipping", ".masked", ".clipping.masked")
REGISTERS = 65_536  # of a multiprocessor; a thread can name 255
# what a kernel puts aside before the loop of its steps and takes back after it (read off SASS)
ASIDE = {"block.backward[elman_tanh n=64 B=64] float32 sm_80": {"stack": 8}}


@pytest.fixture(scope="module")
def run(request):
    run = awaited(getattr(request.config, "workerinput", {}).get("testrunuid", ""))
    if run.status == MISSING:
        (pytest.fail if os.environ.get("RNN_GPU_REQUIRE_PTX") == "1" else pytest.skip)(
            run.unfinished
        )
    return run


@pytest.fixture(scope="module")
def kernels(run):
    """The kernels of the library that compiled."""
    return [one for one in run.lines if not one["error"] and not is_guilty(one)]


@pytest.fixture(scope="module")
def every_kernel(run, kernels):
    """The same, for a test that needs all of them: where some are missing, only the first test
    below is to fail.
    """
    if run.unfinished:
        pytest.skip(run.unfinished)
    return kernels


@pytest.fixture(scope="module")
def guilty(run, every_kernel):
    """name -> the lines of a kernel that is bad on purpose."""
    found = [one for one in run.lines if is_guilty(one)]
    return {
        name: [one for one in found if one["kernel"] == name]
        for name in {one["kernel"] for one in found}
    }


def is_guilty(line):
    return line["kernel"].startswith("guilty")


def who(line):
    return f"{line['kernel']} {line['dtype']} sm_{line['cc'][0]}{line['cc'][1]}"


def float64_in(line):
    return [f"{line['float64_ptx']} .f64 in PTX"] * bool(line["float64_ptx"]) + line["float64_sass"]


def memory_of(line):
    """What a thread keeps outside its registers."""
    found = {
        "local": line["local"],
        "stack": line["stack"],
        **{op: line["counts"].get(op, 0) for op in ("LDL", "STL")},
    }
    return {name: amount for name, amount in found.items() if amount}


def test_the_compiler_is_given_its_time_and_does_all(run):
    assert not run.unfinished


def test_what_the_compiler_takes_compiles(run):
    assert [f"{who(one)}: {one['error']}" for one in run.lines if one["error"]] == []


def test_every_kernel_is_there_for_every_type_and_capability(every_kernel):
    ways = ("forward", "backward")
    chosen = {f"{one}.{way}[{cell}]" for one in STREAMING for way in ways for cell in CHOSEN}
    streaming = {f"plain.{way}[{cell}]" for way in ways for cell in CELLS}
    streaming |= {f"gemm.{way}[{cell}]" for way in ways for cell in UNLIKE}
    block = {f"block.{way}[{cell} n=33 B=64]" for way in ways for cell in UNLIKE}
    kinds = ("forward.masked", *(f"backward{kind}" for kind in VARIANTS))
    variants = {f"{one}.{kind}[{cell}]" for one in STREAMING for kind in kinds for cell in CHOSEN}
    variants |= {f"block.{kind}[{cell} n=64 B=64]" for kind in kinds for cell in CHOSEN}
    variants |= {f"block.{kind}.given[lstm n=64 B=64]" for kind in kinds if "masked" in kind}
    noisy = {f"block.{way}[dropped_zoned_lstm n=33 B=64]" for way in ways}
    reaching = {
        f"cluster.{kind}[{cell} n={n} B={B}]" for kind in (*ways, *kinds) for cell, n, B in LARGE
    }
    pointwise = {f"elementwise[{prefix}{name}]" for prefix in ("", "d") for name in ACTIVATIONS}
    pointwise |= {f"elementwise[{name}]" for name in (*LOSSES, "sgd", "adam")}
    everywhere = chosen | {"plain.matvec", "block.forward[lstm n=64 B=64]"}
    most = streaming | block | variants | noisy | reaching
    for dtype, cc, more in (
        ("float32", [9, 0], pointwise | most),
        ("float64", [9, 0], pointwise),
        ("float32", [7, 5], set()),
    ):
        assert everywhere | more <= {
            one["kernel"] for one in every_kernel if one["dtype"] == dtype and one["cc"] == cc
        }


def test_ampere_is_between(every_kernel):
    """What an A100 gets of the listed cells: its own plans, PTX of its own."""
    between = {one["kernel"] for one in every_kernel if one["cc"] == [8, 0]}
    assert "group.forward[elman_tanh n=1024 B=1]" in between
    for cell in CHOSEN:
        for way in ("forward", "backward"):
            assert {
                f"plain.{way}[{cell}]",
                f"gemm.{way}[{cell}]",
                f"block.{way}[{cell} n=64 B=64]",
            } <= between


def test_no_float64_enters_a_float32_kernel(kernels):
    single = [one for one in kernels if one["dtype"] == "float32"]
    # that is, SASS was looked at
    assert all(one["instructions"] for one in single if one["cc"] == [9, 0])
    assert {who(one): float64_in(one) for one in single if float64_in(one)} == {}


def test_recurrent_kernels_keep_everything_in_registers(kernels):
    recurrent = [one for one in kernels if one["recurrent"]]
    outside = {who(one): memory_of(one) for one in recurrent if memory_of(one)}
    assert {name: found for name, found in outside.items() if found != ASIDE.get(name)} == {}


def test_a_block_finds_enough_registers(kernels):
    """A multiprocessor hands them out by eights."""
    needed = {who(one): one["threads"] * -(-one["registers"] // 8) * 8 for one in kernels}
    assert {name: count for name, count in needed.items() if not 0 < count <= REGISTERS} == {}


def persistent(lines, schedule):
    """Those of a schedule that were disassembled."""
    return [one for one in lines if one["kernel"].startswith(schedule) and one["instructions"]]


def test_persistent_kernels_read_shared_memory_16_bytes_at_a_time(every_kernel):
    looked_at = persistent(every_kernel, "block") + persistent(every_kernel, "cluster")
    assert len(looked_at) >= 2 * len(UNLIKE) + LISTED
    assert {
        who(one) for one in looked_at if one["loads_of_16_bytes"] != one["counts"].get("LDS", 0)
    } == set()


def test_clusters_send_and_wait_for_bytes_without_a_barrier(every_kernel):
    """Nor is L1 emptied but once, at the barrier before the loop."""
    looked_at = persistent(every_kernel, "cluster")
    assert len(looked_at) >= LISTED
    for one in looked_at:
        counts = one["counts"]
        assert counts.get("STAS") and counts.get("SYNCS"), who(one)
        assert (one["barriers"], one["L1_emptied"]) == (0, 1), who(one)


def test_the_choice_of_a_plan_knows_what_a_warp_issues(every_kernel):
    """In a step, for the cells that the numbers of plans.py are read off; and from map to map."""
    known = (*CHOSEN, "")
    told = [one for one in every_kernel if one["cell"] in known and one["a_step"]]
    assert len(told) >= 30 and any(one["kernel"] == "arriving[N=113]" for one in told)
    ratios = {who(one): round(one["a_step"] / one["model"], 2) for one in told}
    assert {name: ratio for name, ratio in ratios.items() if not 1 / 1.3 <= ratio <= 1.05} == {}


def test_intrinsics_become_the_instructions_that_are_meant(every_kernel):
    """On sm_90, of float32; that none of them is in any other kernel is not asked."""
    probes = {
        one["kernel"]: one["counts"]
        for one in every_kernel
        if one["kernel"].startswith("probe") and one["instructions"]
    }
    assert set(probes) == {"probe.cluster", "probe.packet", "probe.tensor"}
    cluster, packet = probes["probe.cluster"], probes["probe.packet"]
    assert cluster["STAS"] == 2  # one number, and four in one piece
    assert cluster["SYNCS"] >= 3  # an mbarrier is made, armed, looked at
    assert cluster["UCGABAR_ARV"] == cluster["UCGABAR_WAIT"] == 1
    assert cluster["CCTL"] <= 1  # at the cluster's own barrier: waiting for bytes leaves L1 alone
    assert packet["LDG"] >= 2 and not packet.keys() & {"MEMBAR", "CCTL", "ERRBAR", "ATOMG"}
    assert probes["probe.tensor"]["HMMA"] == 2


def test_groups_wait_for_words_and_for_nothing_else(every_kernel):
    """A fence would wait for all that a thread has written before."""
    groups = [one for one in every_kernel if one["kernel"].startswith("group")]
    assert len([one for one in groups if one["instructions"]]) == 4
    assert {one["cc"][0] for one in groups} == {7, 8, 9}
    fences = {"MEMBAR", "ERRBAR", "ATOM", "ATOMG", "RED", "REDG"}
    assert [who(one) for one in groups if one["counts"].keys() & fences] == []


def test_plans_by_tensor_cores_multiply_by_nothing_else(every_kernel):
    """A product of each tile in registers, and the loop over those in shared memory; what FFMA is
    left is the cell's.
    """
    tensor = {one["kernel"]: one["counts"] for one in every_kernel if one["kernel"][:6] == "tensor"}
    assert set(tensor) == {f"tensor.{one}[lstm n=256 B=64 {two}]" for one, two in WAYS}
    for counts in tensor.values():
        assert counts["HMMA"] >= 32 and counts["FFMA"] < 100


WAYS = (("forward", "tf32"), ("backward", "bf16"))


def test_an_untyped_literal_is_noticed(guilty):
    found = guilty["guilty[untyped]"]
    assert len(found) == 2
    assert all(one["float64_ptx"] for one in found)
    assert [one["float64_sass"] for one in found if one["cc"] == [9, 0]] == [
        ["DADD", "DMUL", "F2F.F32.F64", "F2F.F64.F32"]
    ]


@pytest.mark.parametrize("kind", ["local", "spilling"])
def test_memory_outside_the_registers_is_noticed(guilty, kind):
    found = guilty[f"guilty[{kind}]"]
    assert len(found) == 2
    assert all(memory_of(one).get("stack") for one in found)
    assert all(
        memory_of(one).get("STL") and memory_of(one).get("LDL")
        for one in found
        if one["cc"] == [9, 0]
    )


# The compiler's time


def test_a_slow_compiler_has_its_time(tmp_path):
    """More in all than the patience, but never so long without a kernel."""
    run = compiled(
        ["sh", "-c", "echo '{\"planned\": 5}'; for k in 1 2 3 4 5; do sleep 0.7; echo '{}'; done"],
        3.0,
        tmp_path,
    )
    assert run == ([{}] * 5, "", 0)


def test_a_compiler_that_hangs_is_stopped_and_told_how_far_it_got(tmp_path):
    run = compiled(
        ["sh", "-c", "sleep 600 & echo $! >pid; echo '{\"planned\": 3}'; echo '{}'; wait"],
        1.0,
        tmp_path,
    )
    assert run.lines == [{}]
    assert (
        run.unfinished
        == "1 of 3 kernels done; slow machine, or a compiler that hangs: none in the last 1 s"
    )
    assert not alive(int((tmp_path / "pid").read_text()))  # nor what it started


def test_a_compiler_that_breaks_is_not_taken_for_a_slow_one(tmp_path):
    run = compiled(
        ["sh", "-c", "echo '{\"planned\": 3}'; echo '{}'; echo no memory >&2; exit 7"],
        60.0,
        tmp_path,
    )
    assert run == ([{}], "1 of 3 kernels done; the process ended with status 7: no memory", 7)


def alive(pid: int) -> bool:
    """Whether a process that was killed a moment ago still runs: not one that nobody has asked for
    its status yet.
    """
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.1)
    return True
