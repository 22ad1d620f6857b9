"""Kernels of clusters, executed: that the right one has no finding, and every fault has its name.

The kernel is the shape of a recurrence over a cluster: in every step each thread sends its number
to all blocks, in one of two buffers, whose mbarrier counts the bytes; then it adds what has come.
"""

import numpy as np
import pytest

from emulated import address, kernel, kinds, run
from rnn_gpu.kernels.emulator.findings import Kind, PTXError
from rnn_gpu.kernels.emulator.machine import Grid

BEGIN = """
ld.param.u64 %rd9, [kernel_param_18];
ld.global.u32 %r9, [%rd9];
ld.global.f32 %f1, [%rd1];
mov.f32 %f2, %f1;
mov.u32 %r10, buffers;
mov.u32 %r11, bars;
mov.u32 %r12, %cluster_ctarank;
setp.ne.u32 %p1, %r1, 0;
@%p1 bra $ready;
mbarrier.init.shared.b64 [%r11], 1;
mbarrier.init.shared.b64 [%r11+8], 1;
fence.mbarrier_init.release.cluster;
mbarrier.arrive.expect_tx.shared.b64 %rd20, [%r11], BYTES;
mbarrier.arrive.expect_tx.shared.b64 _, [%r11+8], BYTES;
$ready:
barrier.cluster.arrive.release.aligned;
barrier.cluster.wait.acquire.aligned;
mov.u32 %r13, 0;
"""
AWAIT = """
$step:
setp.ge.u32 %p2, %r13, %r9;
@%p2 bra $end;
and.b32 %r14, %r13, 1;
mul.lo.u32 %r17, %r14, BYTES;
add.u32 %r17, %r17, %r10;
shl.b32 %r15, %r14, 3;
add.u32 %r15, %r15, %r11;
setp.eq.u32 %p3, %r13, 0;
@%p3 bra $send;
sub.u32 %r16, %r13, 1;
shr.u32 %r16, %r16, 1;
and.b32 %r16, %r16, 1;
$wait:
mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [%r15], %r16;
@!%p4 bra $wait;
@!%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r15], BYTES;
mov.f32 %f2, 0f00000000;
"""
ADD = "ld.shared.f32 %f3, [%r17+OFFSET];\nadd.f32 %f2, %f2, %f3;\n"
PLACE = """
fma.rn.f32 %f2, %f2, 0f3D800000, %f1;
$send:
add.u32 %r13, %r13, 1;
setp.ge.u32 %p2, %r13, %r9;
@%p2 bra $step;
and.b32 %r14, %r13, 1;
mul.lo.u32 %r17, %r14, BYTES;
add.u32 %r17, %r17, %r10;
mad.lo.u32 %r18, %r12, %r3, %r1;
shl.b32 %r18, %r18, 2;
add.u32 %r17, %r17, %r18;
shl.b32 %r15, %r14, 3;
add.u32 %r15, %r15, %r11;
"""
SEND = """
mapa.shared::cluster.u32 %r20, %r17, RANK;
mapa.shared::cluster.u32 %r21, %r15, RANK;
st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%r20], %f2, [%r21];
"""
END = """
bra.uni $step;
$end:
st.global.f32 [%rd3], %f2;
"""
C, THREADS, STEPS = 2, 8, 5


def text(blocks=C, threads=THREADS):
    """The body of the kernel."""
    added = "".join(ADD.replace("OFFSET", str(4 * k)) for k in range(blocks * threads))
    sent = "".join(SEND.replace("RANK", str(rank)) for rank in range(blocks))
    body = address(0, 1) + address(1, 3) + BEGIN + AWAIT + added + PLACE + sent + END
    return body.replace("BYTES", str(4 * blocks * threads))


def exchanged(change=lambda text: text, blocks=C, threads=THREADS, clusters=1, seed=None, T=STEPS):
    """(the largest error, the run)."""
    count = blocks * threads
    x = np.random.default_rng(1).normal(size=clusters * count).astype(np.float32)
    out, h = np.full_like(x, np.nan), x.copy()
    for _ in range(1, T):
        h = x + np.repeat(h.reshape(-1, count).sum(1), count) * np.float32(1 / 16)
    shared = f".shared .align 16 .b8 buffers[{8 * count}];\n.shared .align 8 .b8 bars[16];"
    it = kernel(change(text(blocks, threads)), 3, shared, blocks)
    grid = Grid(clusters * blocks, threads, 0, blocks)
    done = run(it, grid, x, out, np.array([T], np.uint32), seed=seed)
    return abs(out - h).max(), done


SHAPES = [(2, 8, 1, 5), (2, 32, 1, 5), (4, 16, 2, 4), (3, 40, 1, 3), (2, 8, 1, 1), (2, 8, 3, 2)]


@pytest.mark.parametrize("blocks, threads, clusters, T", SHAPES)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_kernel_of_clusters_that_is_right_has_no_finding(blocks, threads, clusters, T, seed):
    error, done = exchanged(blocks=blocks, threads=threads, clusters=clusters, seed=seed, T=T)
    assert done.findings == () and error < 1e-3


def instead(old, new, count=-1):
    def change(text):
        assert old in text
        return text.replace(old, new, count)

    return change


def before(old, new, count=-1):
    return instead(old, new + old, count)


BYTES = str(4 * C * THREADS)
SECOND = "mbarrier.arrive.expect_tx.shared.b64 _, [%r11+8], BYTES;".replace("BYTES", BYTES)
ARMED = "@!%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r15], BYTES;".replace("BYTES", BYTES)
WAIT = "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [%r15], %r16;"
BARRIER = "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;"
FAULTS = {
    "one buffer for two": (
        instead(f"mul.lo.u32 %r17, %r14, {BYTES};", "mov.u32 %r17, 0;"),
        {Kind.WRITE_AFTER_READ},
    ),
    "one mbarrier for two": (
        lambda text: instead("shl.b32 %r15, %r14, 3;", "mov.u32 %r15, 0;")(text).replace(
            "shr.u32 %r16, %r16, 1;", ""
        ),
        {Kind.WRONG_PHASE},
    ),
    "the other parity": (
        before("$wait:", "xor.b32 %r16, %r16, 1;\n"),
        {Kind.WAITS_FOR_EVER, Kind.READ_AFTER_WRITE, Kind.UNWRITTEN},
    ),
    "armed once alone": (instead(ARMED, ""), {Kind.WAITS_FOR_EVER}),
    "armed before the wait": (
        lambda text: before("$wait:", ARMED)(instead(ARMED, "")(text)),
        {Kind.WRONG_PHASE, Kind.TOO_MUCH},
    ),
    "armed by all": (instead(ARMED, ARMED[6:]), {Kind.TOO_MUCH}),
    "never armed": (instead(SECOND, ""), {Kind.WAITS_FOR_EVER}),
    "a number too few": (
        instead(SECOND, SECOND.replace(f" {BYTES};", f" {int(BYTES) - 4};")),
        {Kind.READ_AFTER_WRITE},
    ),
    "a number too many": (
        instead(SECOND, SECOND.replace(f" {BYTES};", f" {int(BYTES) + 4};")),
        {Kind.WAITS_FOR_EVER},
    ),
    "no barrier after init": (instead(BARRIER, ""), {Kind.NO_MBARRIER}),
    "a barrier that releases nothing": (
        instead("arrive.release.aligned", "arrive.relaxed.aligned"),
        {Kind.NO_MBARRIER},
    ),
    "init that is not published": (
        instead("fence.mbarrier_init.release.cluster;", ""),
        {Kind.UNFENCED},
    ),
    "another block's buffer": (
        instead("%r20, %r17, 1;", "%r20, %r17, 0;"),
        {Kind.ELSEWHERE},
    ),
    "another block": (
        instead(", %r17, 1;", ", %r17, 0;"),
        {Kind.ELSEWHERE},
    ),
    "a rank that none has": (
        lambda text: instead("%r17, 1;", "%r17, 2;")(instead("%r15, 1;", "%r15, 2;")(text)),
        {Kind.ABSENT_BLOCK},
    ),
    "a last store that nobody awaits": (
        instead("@%p2 bra $step;\nand", "and"),
        {Kind.UNAWAITED},
    ),
    "a wait for the own block's threads": (
        instead("try_wait.parity.acquire.cluster", "try_wait.parity.acquire.cta"),
        {Kind.READ_AFTER_WRITE},
    ),
    "a wait that acquires nothing": (
        instead("try_wait.parity.acquire.cluster", "try_wait.parity.relaxed.cluster"),
        {Kind.READ_AFTER_WRITE},
    ),
    "an mbarrier at half an address": (
        lambda text: instead("[%r11+8]", "[%r11+4]")(instead("r14, 3;", "r14, 2;")(text)),
        {Kind.MISALIGNED},
    ),
    "a thread that sends nothing": (
        before("st.async", "setp.eq.u32 %p9, %r4, 3;\n@!%p9 "),
        {Kind.WAITS_FOR_EVER},
    ),
    "a store that nobody counts": (
        instead(
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%r20], %f2, [%r21];",
            "st.shared::cluster.f32 [%r20], %f2;",
        ),
        {Kind.WAITS_FOR_EVER},
    ),
    "a store into an mbarrier": (
        before("$send:", "@%p1 st.shared.f32 [%r11], %f2;\n"),
        {Kind.MBARRIER_MEMORY},
    ),
    "arrives twice": (before(BARRIER, "barrier.cluster.arrive.aligned;\n"), {Kind.UNPAIRED}),
    "waits for nothing": (before("st.global.f32", "barrier.cluster.wait;\n"), {Kind.UNPAIRED}),
    "a part of a warp at an aligned barrier": (
        instead(BARRIER, "@%p1 bra $late;\n" + BARRIER + "\n$late:\n@!%p1 bra $all;\n" + BARRIER
                + "\n$all:"),
        {Kind.ABSENT_LANES},
    ),
}  # fmt: skip


@pytest.mark.parametrize("change, expected", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("seed", [None, 1])
def test_faults_of_clusters_have_names(change, expected, seed):
    _, done = exchanged(change, seed=seed)
    assert kinds(done) & expected


def test_a_relaxed_wait_with_its_fence_acquires():
    fence = "fence.acquire.sync_restrict::shared::cluster.cluster;\n"
    relaxed = instead("try_wait.parity.acquire", "try_wait.parity.relaxed")
    for seed in (None, 1):
        _, done = exchanged(lambda text: before(ARMED, fence)(relaxed(text)), seed=seed)
        assert done.findings == ()


def test_tests_in_vain_sleep_as_waits_do():
    _, done = exchanged(instead("try_wait", "test_wait"), seed=1)
    assert done.findings == ()


def test_who_waits_for_ever_is_told_for_what():
    _, done = exchanged(instead(SECOND, ""))
    found = [one.instruction for one in done.findings if one.kind == Kind.WAITS_FOR_EVER]
    first = f"{WAIT[:-1]}: mbarrier 136 of block 0 lacks 1 arrivals and -{BYTES} bytes in phase 0"
    assert found == [first, first.replace("block 0", "block 1")]


# Shared memory of other blocks, without st.async

NEIGHBOUR = """
mov.u32 %r10, numbers;
mov.u32 %r11, %cluster_ctarank;
xor.b32 %r12, %r11, 1;
shl.b32 %r13, %r1, 2;
add.u32 %r13, %r13, %r10;
ld.global.f32 %f1, [%rd1];
st.shared.f32 [%r13], %f1;
barrier.cluster.arrive;
barrier.cluster.wait;
mapa.shared::cluster.u32 %r14, %r13, %r12;
ld.shared::cluster.f32 %f2, [%r14];
barrier.cluster.arrive.relaxed;
barrier.cluster.wait;
st.global.f32 [%rd3], %f2;
"""


def swapped(change=lambda text: text, seed=None, blocks=4, cluster=2):
    x = np.arange(8.0 * blocks, dtype=np.float32)
    out = np.full_like(x, np.nan)
    body = change(address(0, 1) + address(1, 3) + NEIGHBOUR)
    it = kernel(body, 2, ".shared .align 4 .b8 numbers[32];")
    return out, run(it, Grid(blocks, 8, 0, cluster), x, out, seed=seed)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_blocks_read_each_others_memory(seed):
    out, done = swapped(seed=seed)
    assert done.findings == ()
    np.testing.assert_array_equal(out, np.arange(32.0).reshape(2, 2, 8)[:, ::-1].ravel())


GENERIC = "cvt.u64.u32 %rd9, %r13; cvta.shared.u64 %rd10, %rd9; mapa.u64 %rd11, %rd10, %r12;"


def test_a_generic_address_names_a_block_too():
    def change(text):
        text = instead("mapa.shared::cluster.u32 %r14, %r13, %r12;", GENERIC)(text)
        return instead("ld.shared::cluster.f32 %f2, [%r14];", "ld.f32 %f2, [%rd11];")(text)

    assert swapped(change)[1].findings == ()


FIRST = "barrier.cluster.arrive;\nbarrier.cluster.wait;\n"
AT_NEIGHBOURS = {
    "no barrier before": (instead(FIRST, ""), {Kind.NOT_BEGUN, Kind.READ_AFTER_WRITE}),
    "no barrier behind": (
        instead("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;\n", ""),
        {Kind.ENDED},
    ),
    "a barrier of blocks alone": (instead(FIRST, "bar.sync 0;\n"), {Kind.NOT_BEGUN}),
    "beyond its memory": (instead("[%r14]", "[%r14+32]"), {Kind.OUTSIDE}),
    "a write where another reads": (
        before("barrier.cluster.arrive.relaxed", "st.shared.f32 [%r13], %f2;\n"),
        {Kind.WRITE_AFTER_READ, Kind.READ_AFTER_WRITE},
    ),
}


@pytest.mark.parametrize("change, expected", AT_NEIGHBOURS.values(), ids=AT_NEIGHBOURS)
@pytest.mark.parametrize("seed", [None, 1])
def test_faults_at_other_blocks_memory_have_names(change, expected, seed):
    assert kinds(swapped(change, seed)[1]) & expected


def test_who_reaches_a_block_that_has_ended_is_told():
    """In some order; in every order that others may reach it."""
    change, _ = AT_NEIGHBOURS["no barrier behind"]
    found = [one for seed in range(6) for one in swapped(change, seed)[1].findings]
    assert {Kind.ENDED} == {one.kind for one in found}
    assert any(one.instruction.startswith("ld.shared::cluster") for one in found)


def test_lanes_of_a_warp_are_in_order_by_its_barrier():
    body = """
    mov.u32 %r10, numbers;
    shl.b32 %r13, %r1, 2;
    add.u32 %r13, %r13, %r10;
    ld.global.f32 %f1, [%rd1];
    st.shared.f32 [%r13], %f1;
    BARRIER
    xor.b32 %r12, %r13, 4;
    ld.shared.f32 %f2, [%r12];
    st.global.f32 [%rd3], %f2;
    """
    for barrier, expected in (("bar.warp.sync -1;", set()), ("", {Kind.READ_AFTER_WRITE})):
        it = kernel(
            address(0, 1) + address(1, 3) + body.replace("BARRIER", barrier), 2,
            ".shared .align 8 .b8 numbers[256];",
        )  # fmt: skip
        x = np.arange(64, dtype=np.float32)
        done = run(it, Grid(1, 64), x, x.copy(), seed=1)
        assert kinds(done) == expected


def test_clusters_that_no_grid_has_are_refused():
    it = kernel("bar.sync 0;", 0, cluster=2)
    for grid in (Grid(3, 8, 0, 2), Grid(4, 8, 0, 4), Grid(4, 8)):
        with pytest.raises(PTXError, match=f"{grid.blocks} blocks in clusters of {grid.cluster}"):
            it.run(grid, [])
