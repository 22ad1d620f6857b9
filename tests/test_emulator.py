"""The machine that executes PTX: what instructions do, and that every fault has its name."""

import numpy as np
import pytest

from rnn_gpu.kernels.emulator import arrays
from rnn_gpu.kernels.emulator.card import Card, Function, unallocated
from rnn_gpu.kernels.emulator.findings import Kind, PTXError
from rnn_gpu.kernels.emulator.machine import Grid, Kernel
from rnn_gpu.kernels.emulator.memory import flat

# A kernel of two arrays, each 7 numbers: %f1 is a thread's element of the first, %rd5 the address
# of its element of the second, %rd8 that of its word of shared memory.
PARAMETERS = ",\n".join(f".param .u64 kernel_param_{k}" for k in range(14))
TEXT = """
.version 9.0
.target sm_90a
.address_size 64
HEAD
.visible .entry kernel(
PARAMETERS
)
{
.reg .pred %p<9>;
.reg .b16 %rs<9>;
.reg .b32 %r<40>;
.reg .b64 %rd<40>;
.reg .f32 %f<40>;
.reg .f64 %fd<40>;
LOCAL
ld.param.u64 %rd1, [kernel_param_4]; // comments
ld.param.u64 %rd2, [kernel_param_11]; /* are left out */
cvta.to.global.u64 %rd1, %rd1;
cvta.to.global.u64 %rd2, %rd2;
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %ntid.x;
mad.lo.s32 %r4, %r2, %r3, %r1;
mul.wide.s32 %rd3, %r4, 4;
add.s64 %rd4, %rd1, %rd3;
add.s64 %rd5, %rd2, %rd3;
mul.wide.s32 %rd6, %r1, 4;
mov.u64 %rd7, memory;
add.s64 %rd8, %rd7, %rd6;
ld.global.f32 %f1, [%rd4];
BODY
ret;
}
"""
SHARED = ".extern .shared .align 16 .b8 memory[];"
COUNT = 64  # threads


def kernel(body, head="", local=""):
    text = TEXT.replace("PARAMETERS", PARAMETERS).replace("BODY", body)
    return Kernel(text.replace("HEAD", SHARED + head).replace("LOCAL", local))


def ran(body, blocks=1, order=None, x=None, **more):
    """(the second array, the run) of a kernel with this body."""
    x = np.arange(COUNT, dtype=np.float32) if x is None else x
    out = np.full(COUNT, np.nan, np.float32)
    grid = Grid(blocks, COUNT // blocks, 4 * COUNT // blocks)
    return out, kernel(body, **more).run(grid, flat(x, out), order)


def kinds(run):
    return {one.kind for one in run.findings}


def well(body, **more):
    out, run = ran(body, **more)
    assert run.findings == ()
    return out


# Instructions

AS_FLOAT = "cvt.rn.f32.s32 %f9, %r9; st.global.f32 [%rd5], %f9;"
AS_FLOAT_64 = "cvt.rn.f32.s64 %f9, %rd9; st.global.f32 [%rd5], %f9;"
STORE = "st.global.f32 [%rd5], %f9;"
I = np.arange(COUNT)
F = I.astype(np.float32)
INSTRUCTIONS = [
    ("fma.rn.f32 %f9, %f1, %f1, 0f3F800000; " + STORE, F * F + 1),
    ("sub.f32 %f9, 0f3F800000, %f1; " + STORE, 1 - F),
    ("div.rn.f32 %f9, %f1, 0f40400000; " + STORE, F / np.float32(3)),
    ("max.f32 %f9, %f1, 0f41200000; " + STORE, np.maximum(F, 10)),
    ("neg.f32 %f9, %f1; abs.f32 %f9, %f9; " + STORE, F),
    ("copysign.f32 %f9, 0fBF800000, %f1; " + STORE, -F),
    ("ex2.approx.ftz.f32 %f9, 0f40400000; " + STORE, 8 + 0 * F),
    ("rcp.approx.ftz.f32 %f9, 0f41200000; " + STORE, np.float32(0.1) + 0 * F),
    ("rcp.approx.ftz.f32 %f9, 0f00000001; " + STORE, np.inf + F),
    ("cvt.f64.f32 %fd1, %f1; mul.f64 %fd1, %fd1, %fd1; cvt.rn.f32.f64 %f9, %fd1; " + STORE, F * F),
    ("cvt.rzi.s32.f32 %r9, 0fC0200000; " + AS_FLOAT, -2 + 0 * F),
    ("cvt.rni.s32.f32 %r9, 0f7F800000; " + AS_FLOAT, 2.0**31 + 0 * F),
    ("sub.s32 %r9, %r1, 9; shr.s32 %r9, %r9, 1; " + AS_FLOAT, (I - 9) >> 1),
    ("sub.s32 %r8, %r1, 9; shr.u32 %r9, %r8, 28; " + AS_FLOAT, np.where(I < 9, 15, 0)),
    ("mul.lo.s32 %r9, %r1, %r1; shl.b32 %r9, %r9, 1; " + AS_FLOAT, 2 * I * I),
    ("mul.hi.u32 %r9, %r1, -2147483648; " + AS_FLOAT, I // 2),
    ("div.s32 %r9, %r1, -3; " + AS_FLOAT, -(I // 3)),
    ("rem.s32 %r9, %r1, 5; " + AS_FLOAT, I % 5),
    ("and.b32 %r9, %r1, 12; xor.b32 %r9, %r9, 4; or.b32 %r9, %r9, 1; " + AS_FLOAT, I & 12 ^ 4 | 1),
    ("not.b32 %r9, %r1; " + AS_FLOAT, ~I),
    ("bfi.b32 %r9, %r1, 0, 8, 4; " + AS_FLOAT, (I & 15) << 8),
    ("bfe.u32 %r9, %r1, 2, 3; " + AS_FLOAT, I >> 2 & 7),
    ("mad.wide.s32 %rd9, %r1, 3, 7; " + AS_FLOAT_64, 3 * I + 7),
    ("cvt.s64.s32 %rd8, %r1; mul.hi.u64 %rd9, %rd8, -1; " + AS_FLOAT_64, np.maximum(I - 1, 0)),
    ("sub.s32 %r8, %r1, 9; cvt.s64.s32 %rd8, %r8; "
     "mul.hi.s64 %rd9, %rd8, 4611686018427387904; " + AS_FLOAT_64, (I - 9) // 4),
    ("mov.b64 %rd9, {%r1, %r1}; mov.b64 {_, %r9}, %rd9; " + AS_FLOAT, F),
    ("setp.lt.s32 %p1, %r1, 9; selp.f32 %f9, %f1, 0f00000000, %p1; " + STORE, F * (I < 9)),
    ("setp.gt.f32 %p1, %f1, 0f40A00000; setp.lt.and.s32 %p2, %r1, 9, %p1; "
     "selp.s32 %r9, 1, 0, %p2; " + AS_FLOAT, (I > 5) & (I < 9)),
    ("setp.neu.f32 %p1, 0f7FC00000, %f1; selp.s32 %r9, 1, 0, %p1; " + AS_FLOAT, 1 + 0 * I),
    ("setp.ne.f32 %p1, 0f7FC00000, %f1; selp.s32 %r9, 1, 0, %p1; " + AS_FLOAT, 0 * I),
    ("setp.geu.f32 %p1, %f1, 0f7FC00000; not.pred %p1, %p1; selp.s32 %r9, 1, 0, %p1; " + AS_FLOAT,
     0 * I),
    ("mov.u32 %r9, 5; setp.eq.s32 %p2, %r1, 7; @!%p2 mov.u32 %r9, %r1; " + AS_FLOAT,
     np.where(I == 7, 5, I)),
    ("{ .reg .f32 t; add.f32 t, %f1, 0f3F000000; mov.f32 %f9, t; } " + STORE, F + 0.5),
    ("fma.rn.f32 %f9, 0f3F800800, 0f3F800800, 0fBF801000; " + STORE, 2.0**-24 + 0 * F),
    ("fma.rn.f64 %fd1, 0d3FF0000000400000, 0d3FF0000000400000, 0dBFF0000000800000; "
     "cvt.rn.f32.f64 %f9, %fd1; " + STORE, 2.0**-60 + 0 * F),
    ("ex2.approx.ftz.f32 %f9, 0fC2FE0000; " + STORE, 0 * F),
    ("rcp.approx.ftz.f64 %fd1, 0d4008000000000000; mov.b64 %rd9, %fd1; mov.b64 {%r9, _}, %rd9; "
     + AS_FLOAT, 0 * F),
    ("cvt.rzi.s64.f32 %rd9, 0f7F800000; " + AS_FLOAT_64, 2.0**63 + 0 * F),
    ("mov.b32 %r8, %f1; shfl.sync.bfly.b32 %r9|%p1, %r8, 1, 31, -1; st.global.b32 [%rd5], %r9;",
     I ^ 1),
    ("mov.b32 %r8, %f1; shfl.sync.down.b32 %r9|%p1, %r8, 1, 31, -1; selp.b32 %r9, %r9, 0, %p1; "
     "st.global.b32 [%rd5], %r9;", np.where(I % 32 == 31, 0, I + 1)),
    ("mov.b32 %r8, %f1; shfl.sync.idx.b32 %r9, %r8, 1, 7199, -1; st.global.b32 [%rd5], %r9;",
     I // 4 * 4 + 1),
]  # fmt: skip


@pytest.mark.parametrize("body, expected", INSTRUCTIONS, ids=[one[0][:30] for one in INSTRUCTIONS])
def test_instructions(body, expected):
    for blocks in (1, 2):
        if blocks == 1 or "%r1" not in body:
            np.testing.assert_array_equal(well(body, blocks=blocks), np.float32(expected))


def test_threads_that_part_meet_again():
    """A loop as long as the thread's number."""
    body = """
    mov.f32 %f9, 0f00000000;
    mov.u32 %r9, 0;
    $again:
    setp.ge.s32 %p1, %r9, %r1;
    @%p1 bra $behind;
    add.f32 %f9, %f9, 0f3F800000;
    add.s32 %r9, %r9, 1;
    bra.uni $again;
    $behind:
    st.global.f32 [%rd5], %f9;
    """
    np.testing.assert_array_equal(well(body), F)
    np.testing.assert_array_equal(well(body, order=np.random.default_rng(0)), F)


def test_a_copy_of_a_register_stays_what_it_was():
    """Where some threads alone write the one."""
    body = """
    mov.f32 %f9, %f1;
    setp.lt.s32 %p1, %r1, 7;
    @%p1 add.f32 %f9, %f9, 0f40000000;
    sub.f32 %f9, %f9, %f1;
    st.global.f32 [%rd5], %f9;
    """
    np.testing.assert_array_equal(well(body), 2 * (I < 7))


def test_what_a_loop_hands_to_itself_is_kept():
    """Also where nothing stood there before its first turn."""
    body = """
    mov.u32 %r9, 0;
    $again:
    mov.f32 %f9, %f20;
    mov.f32 %f20, %f1;
    add.s32 %r9, %r9, 1;
    setp.le.s32 %p1, %r9, %r1;
    @%p1 bra $again;
    st.global.f32 [%rd5], %f9;
    """
    for order in (None, np.random.default_rng(0)):
        np.testing.assert_array_equal(well(body, order=order), np.where(I > 0, F, np.nan))


def test_memory_of_a_thread_is_its_own():
    """And is not read before it is written."""
    local = ".local .align 16 .b8 depot[16];\n.reg .b64 %SP;"
    body = "mov.u64 %SP, depot; STORE ld.local.f32 %f9, [%SP+4]; st.global.f32 [%rd5], %f9;"
    written = body.replace("STORE", "st.local.f32 [%SP+4], %f1;")
    np.testing.assert_array_equal(well(written, local=local), F)
    assert kinds(ran(body.replace("STORE", ""), local=local)[1]) == {Kind.UNWRITTEN}


@pytest.mark.parametrize("space, base", [("local", "depot"), ("shared", "memory")])
def test_a_generic_address_tells_its_space(space, base):
    local = ".local .align 16 .b8 depot[256];"
    own = "%rd6" if space == "shared" else "0"
    body = f"""
    mov.u64 %rd9, {base};
    add.s64 %rd9, %rd9, {own};
    cvta.{space}.u64 %rd10, %rd9;
    st.f32 [%rd10], %f1;
    cvta.to.{space}.u64 %rd11, %rd10;
    ld.{space}.f32 %f9, [%rd11];
    st.f32 [%rd5], %f9;
    """
    np.testing.assert_array_equal(well(body, local=local), F)


def test_tables_are_read():
    head = "\n.global .align 4 .b8 table[8] = {0, 0, 128, 63, 0, 0, 0, 64};"
    body = "mov.u64 %rd9, table; ld.global.f32 %f9, [%rd9+4]; st.global.f32 [%rd5], %f9;"
    np.testing.assert_array_equal(well(body, head=head), 2 + 0 * F)


@pytest.mark.parametrize(
    "body, said",
    [
        ("mma.sync %f1, %f1;", "not understood: mma.sync"),
        ("cvt.rz.bf16.f32 %rs1, %f1;", "not understood: cvt.rz.bf16.f32"),
        ("mul.hi.s16 %rs1, %rs1, %rs1;", "not understood: mul.hi.s16"),
        ("bar.warp.sync %r1;", "no other: bar.warp.sync"),
        ("barrier.cluster.arrive.acquire;", "no other: barrier.cluster.arrive.acquire"),
        ("fence.acq_rel;", "not understood: fence.acq_rel"),
        ("mbarrier.inval.shared.b64 [%rd8];", "not understood: mbarrier.inval"),
        ("st.async.shared::cluster.f32 [%r9], %f1, [%r8];", "not understood: st.async"),
        ("bar.sync 0, 32;", "no other: bar.sync 0, 32"),
    ],
)
def test_what_is_not_understood_is_told(body, said):
    with pytest.raises(PTXError, match=said):
        kernel(body)


# Findings

WRONG = {
    "beyond the end": ("st.global.f32 [%rd5+4], %f1;", {Kind.OUTSIDE}),
    "before the start": ("ld.global.f32 %f9, [%rd4+-4];", {Kind.OUTSIDE}),
    "beyond shared memory": ("st.shared.f32 [%rd8+4], %f1;", {Kind.OUTSIDE}),
    "an address of nothing": ("ld.global.f32 %f9, [%rd30];", {Kind.OUTSIDE}),
    "an odd address": ("ld.global.v2.f32 {%f9, %f8}, [%rd4];", {Kind.MISALIGNED, Kind.OUTSIDE}),
    "a prefetch": ("prefetch.global.L2 [%rd4+256];", {Kind.OUTSIDE}),
    "nobody wrote": ("ld.global.f32 %f9, [%rd5];", {Kind.UNWRITTEN}),
    "nobody wrote in shared memory": ("ld.shared.f32 %f9, [%rd8];", {Kind.UNWRITTEN}),
    "another lane's element": (
        "st.global.f32 [%rd5], %f1; ld.global.f32 %f9, [%rd2+20];",
        {Kind.READ_AFTER_WRITE},
    ),
    "an element of all": ("st.global.f32 [%rd2], %f1;", {Kind.TWO_WRITES}),
    "one value after another": (
        "setp.eq.s32 %p1, %r1, 3; setp.eq.s32 %p2, %r1, 5; @%p1 st.global.f32 [%rd2], %f1; "
        "@%p2 st.global.f32 [%rd2], %f1;",
        {Kind.TWO_WRITES},
    ),
    "read by all, then written by the last of them": (
        "st.shared.f32 [%rd8], %f1; bar.sync 0; ld.shared.f32 %f9, [%rd7+20]; "
        "setp.eq.s32 %p1, %r1, 63; @%p1 st.shared.f32 [%rd7+20], %f1;",
        {Kind.WRITE_AFTER_READ},
    ),
    "read by all, then written": (
        "ld.global.f32 %f9, [%rd1+20]; add.f32 %f9, %f9, 0f3F800000; st.global.f32 [%rd4], %f9;",
        {Kind.WRITE_AFTER_READ},
    ),
    "half a warp": (
        "setp.lt.s32 %p1, %r1, 16; @%p1 shfl.sync.bfly.b32 %r9|%p2, %r1, 1, 31, -1;",
        {Kind.ABSENT_LANES},
    ),
    "a lane that nobody names": (
        "setp.lt.s32 %p1, %r1, 16; @%p1 shfl.sync.idx.b32 %r9, %r1, 20, 31, 65535;",
        {Kind.ABSENT_LANES},
    ),
    "a barrier for some": (
        "setp.lt.s32 %p1, %r1, 16; @!%p1 bra $end; bar.sync 0; $end:",
        {Kind.MISSED_BARRIER},
    ),
    "two barriers": (
        "setp.lt.s32 %p1, %r1, 16; @%p1 bra $low; bar.sync 0; bra $end; $low: bar.sync 0; $end:",
        {Kind.PARTED_BARRIER},
    ),
}


@pytest.mark.parametrize("body, expected", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("seed", [None, 1])
def test_faults_have_names(body, expected, seed):
    x, rng = np.arange(COUNT, dtype=np.float32), seed and np.random.default_rng(seed)
    out = np.full(COUNT, -1, np.int32).view(np.float32)  # as no kernel has written it
    run = kernel(body).run(Grid(1, COUNT, 4 * COUNT), flat(x, out), rng)
    assert kinds(run) >= expected if seed else kinds(run) == expected
    assert all(str(one.kind) in str(one) and one.instruction for one in run.findings)


EXCHANGE = """
st.shared.f32 [%rd8], %f1;
BARRIER
xor.b32 %r8, %r1, 33;
mul.wide.s32 %rd9, %r8, 4;
add.s64 %rd9, %rd7, %rd9;
ld.shared.f32 %f9, [%rd9];
st.global.f32 [%rd5], %f9;
"""


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_barrier_that_is_left_out_is_a_race(seed):
    """Where all threads go on together every number is right all the same."""
    rng = seed and np.random.default_rng(seed)
    kept = well(EXCHANGE.replace("BARRIER", "bar.sync 0;"), order=rng)
    np.testing.assert_array_equal(kept, I ^ 33)
    out, run = ran(EXCHANGE.replace("BARRIER", ""), order=rng)
    assert Kind.READ_AFTER_WRITE in kinds(run)
    assert seed is not None or (out == I ^ 33).all()


def test_blocks_are_never_in_order():
    body = "bar.sync 0; st.global.f32 [%rd5], %f1; bar.sync 0; ld.global.f32 %f9, [%rd2+12];"
    assert well(body)[3] == 3
    assert kinds(ran(body, blocks=2)[1]) == {Kind.READ_AFTER_WRITE}
    body = """
    ld.global.f32 %f9, [%rd1+20];
    bar.sync 0;
    setp.eq.s32 %p1, %r4, 0;
    @%p1 st.global.f32 [%rd1+20], %f1;
    """
    assert ran(body)[1].findings == ()
    assert kinds(ran(body, blocks=2)[1]) == {Kind.WRITE_AFTER_READ}


def test_one_value_by_several_threads_is_counted_and_no_finding():
    body = "st.global.f32 [%rd2], 0f3F800000;"
    _, run = ran(body)
    assert run.findings == () and run.benign > 0


def test_a_finding_says_where_and_how_often():
    _, run = ran("setp.lt.s32 %p1, %r1, 30; @!%p1 st.global.f32 [%rd5+256], %f1;", blocks=2)
    (found,) = run.findings
    assert found.times == 4 and (found.block, found.thread) == (0, 30)
    assert str(found).endswith(
        "(global): @!%p1 st.global.f32 [%rd5+256], %f1 [4 times, first in thread 30 of block 0]"
    )


def test_views_of_one_buffer_stay_so():
    both = np.arange(2.0 * COUNT, dtype=np.float32)
    run = kernel("st.global.f32 [%rd5], %f1;").run(
        Grid(1, COUNT, 4 * COUNT), flat(both[:COUNT], both[COUNT // 2 :][:COUNT])
    )
    assert kinds(run) == {Kind.WRITE_AFTER_READ}


def test_an_argument_that_is_nobodys_memory_is_found():
    a = arrays.empty(COUNT, np.float32)
    values = [0, 0, a.size, a.itemsize, a.data.ptr, *a.shape, *a.strides]
    assert list(unallocated("kernel", values)) == []
    (longer,) = unallocated("kernel", [0, 0, 2 * COUNT, *values[3:]])
    assert longer.kind == Kind.FREED and "512 bytes at" in longer.instruction
    del a
    (freed,) = unallocated("kernel", values)
    assert freed.kind == Kind.FREED and "kernel: no allocation holds" in freed.instruction


def test_what_no_card_can_start_is_refused():
    entry = kernel("st.global.f32 [%rd5], %f1;")
    for grid in ((0, 32, 0), (1, 2048, 0), (1, 32, 1 << 16)):
        with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE: kernel is given"):
            Card().start(Function(entry, "kernel", 0), *grid, ())


def test_what_no_card_has_room_for_is_refused():
    """Clusters that a grid has not, or the kernel was not compiled for; a grid that must be there
    at once.
    """
    cases = [
        ((3, 32, 0), {"cluster": 2}, "3 blocks are no whole number of clusters of 2"),
        ((32, 32, 0), {"cluster": 32}, "clusters of 32 blocks"),
        ((4, 32, 0), {"cluster": 4}, "compiled for clusters of 2"),
        ((2, 32, 0), {}, "compiled for clusters of 2"),
        ((132 * 32 + 2, 32, 0), {"cluster": 2, "cooperative": True}, "holds 4096"),
        ((264, 1024, 200_000), {"cluster": 2, "cooperative": True}, "holds 128 of them"),
    ]
    text = kernel("bar.sync 0;").text._replace(cluster=2)
    entry = kernel("bar.sync 0;")
    entry.text = text
    for grid, together, said in cases:
        with pytest.raises(RuntimeError, match=said):
            Card().start(Function(entry, "kernel", 200_000), *grid, (), **together)
