"""Kernels of groups, executed: blocks that wait for each other through global memory."""

import numpy as np
import pytest

from emulated import address, kernel, kinds, run
from rnn_gpu.kernels.emulator import turns
from rnn_gpu.kernels.emulator.findings import Kind
from rnn_gpu.kernels.emulator.machine import Grid

# Packets {value, tag}: in every step each thread stores its number for all, in one of two places of
# its own; then it adds up everybody's, each of which it has waited for.

BEGIN = """
ld.param.u64 %rd9, [kernel_param_18];
ld.global.u32 %r9, [%rd9];
ld.param.u64 %rd10, [kernel_param_25];
mov.u32 %r8, %nctaid.x;
mul.lo.u32 %r8, %r8, %r3;
ld.global.f32 %f1, [%rd1];
mov.f32 %f2, %f1;
mov.u32 %r13, 0;
$step:
add.u32 %r13, %r13, 1;
setp.ge.u32 %p2, %r13, %r9;
@%p2 bra $end;
and.b32 %r14, %r13, 1;
mul.lo.u32 %r15, %r14, %r8;
mul.wide.u32 %rd11, %r15, 8;
add.s64 %rd11, %rd11, %rd10;
mul.wide.u32 %rd12, %r4, 8;
add.s64 %rd12, %rd12, %rd11;
mov.b32 %r16, %f2;
mov.b64 %rd13, {%r16, %r13};
st.relaxed.gpu.global.b64 [%rd12], %rd13;
mov.f32 %f2, 0f00000000;
mov.u32 %r17, 0;
$other:
mul.wide.u32 %rd14, %r17, 8;
add.s64 %rd14, %rd14, %rd11;
$look:
ld.relaxed.gpu.global.b64 %rd15, [%rd14];
mov.b64 {%r18, %r19}, %rd15;
setp.ne.u32 %p3, %r19, %r13;
@%p3 bra $look;
mov.b32 %f3, %r18;
add.f32 %f2, %f2, %f3;
add.u32 %r17, %r17, 1;
setp.lt.u32 %p4, %r17, %r8;
@%p4 bra $other;
fma.rn.f32 %f2, %f2, 0f3D800000, %f1;
bra.uni $step;
$end:
st.global.f32 [%rd3], %f2;
"""


def exchanged(change=lambda text: text, blocks=3, threads=4, seed=None, T=5, cooperative=True):
    """(the largest error, the run)."""
    count = blocks * threads
    x = np.random.default_rng(1).normal(size=count).astype(np.float32)
    out, h = np.full_like(x, np.nan), x.copy()
    for _ in range(1, T):
        h = x + h.sum() * np.float32(1 / 16)
    it = kernel(change(address(0, 1) + address(1, 3) + BEGIN), 4)
    grid = Grid(blocks, threads, 0, 1, cooperative)
    done = run(it, grid, x, out, np.array([T], np.uint32), np.zeros(2 * count, np.int64), seed=seed)
    return abs(out - h).max(), done


@pytest.mark.parametrize("blocks, threads, T", [(3, 4, 5), (2, 16, 4), (4, 32, 3), (1, 8, 4)])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_packets_that_are_right_have_no_finding(blocks, threads, T, seed):
    error, done = exchanged(blocks=blocks, threads=threads, T=T, seed=seed)
    assert done.findings == () and error < 1e-3


def instead(old, new, count=-1):
    def change(text):
        assert old in text
        return text.replace(old, new, count)

    return change


RACE = {Kind.READ_AFTER_WRITE}
FAULTS = {
    "one place for two": (
        instead("and.b32 %r14, %r13, 1;", "mov.u32 %r14, 0;"),
        {Kind.OVERWRITTEN, Kind.WAITS_FOR_EVER},
    ),
    "a tag that nobody stores": (
        instead("mov.b64 %rd13, {%r16, %r13};", "mov.b64 %rd13, {%r16, %r14};"),
        {Kind.WAITS_FOR_EVER},
    ),
    "a value and its tag apart": (
        lambda text: instead("ld.relaxed.gpu.global.b64 %rd15, [%rd14];\n", "")(text).replace(
            "mov.b64 {%r18, %r19}, %rd15;",
            "ld.relaxed.gpu.global.v2.b32 {%r18, %r19}, [%rd14];",
        ),
        {Kind.TORN},
    ),
    "stored for the own block": (instead("st.relaxed.gpu", "st.relaxed.cta"), RACE),
    "read for the own block": (instead("ld.relaxed.gpu", "ld.relaxed.cta"), RACE),
    "a store that is not strong": (instead("st.relaxed.gpu", "st"), RACE),
    "a load that is not strong": (instead("ld.relaxed.gpu", "ld"), RACE),
    "a block that stores nothing": (
        instead("st.relaxed", "setp.eq.u32 %p9, %r2, 1;\n@!%p9 st.relaxed"),
        {Kind.WAITS_FOR_EVER},
    ),
}  # fmt: skip


@pytest.mark.parametrize("change, expected", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("seed", [None, 1])
def test_faults_of_packets_have_names(change, expected, seed):
    _, done = exchanged(change, seed=seed)
    assert kinds(done) & expected


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_blocks_that_may_come_one_after_the_other_must_not_wait(seed):
    error, done = exchanged(seed=seed, cooperative=False)
    assert kinds(done) == {Kind.NOT_RESIDENT} and error < 1e-3
    assert exchanged(seed=seed, blocks=1, cooperative=False)[1].findings == ()


def test_volatile_accesses_are_strong():
    change = lambda text: text.replace("relaxed.gpu", "volatile")  # noqa: E731
    assert exchanged(change, seed=1)[1].findings == ()


# A flag: what was written before is there for who has seen it

HANDED = """
ld.param.u64 %rd9, [kernel_param_18];
ld.param.u64 %rd6, [kernel_param_4];
ld.param.u64 %rd8, [kernel_param_11];
setp.eq.u32 %p1, %r2, 0;
@!%p1 bra $other;
st.global.f32 [%rd3], 0f40A00000;
bar.sync 0;
setp.ne.u32 %p2, %r1, 0;
@%p2 bra $end;
STORE
bra.uni $end;
$other:
setp.ne.u32 %p2, %r1, 0;
@%p2 bra $met;
$look:
LOAD
setp.eq.u32 %p3, %r10, 0;
@%p3 bra $look;
BEHIND
$met:
bar.sync 0;
mul.wide.u32 %rd10, %r1, 4;
add.s64 %rd10, %rd10, %rd8;
ld.global.f32 %f1, [%rd10];
st.global.f32 [%rd1], %f1;
$end:
"""
RELEASE, ACQUIRE = "st.release.gpu.global.u32 [%rd9], 1;", "ld.acquire.gpu.global.u32 %r10, [%rd9];"
RELAXED, LOOK = RELEASE.replace("release", "relaxed"), ACQUIRE.replace("acquire", "relaxed")
FENCE, ADD = "fence.acq_rel.gpu;", "red.release.gpu.global.add.u32 [%rd9], 1;"
RIGHT = {
    "release and acquire": (RELEASE, ACQUIRE, ""),
    "fences": (FENCE + RELAXED, LOOK, FENCE),
    "a fence and an acquire": ("membar.gl;" + RELAXED, ACQUIRE, ""),
    "a release and a fence": (RELEASE, LOOK, "fence.sc.gpu;"),
    "an addition": (ADD, ACQUIRE, ""),
    "a look by an addition": (ADD, "atom.acquire.gpu.global.add.u32 %r10, [%rd9], 0;", ""),
    "an exchange": ("atom.acq_rel.gpu.global.exch.b32 _, [%rd9], 1;", ACQUIRE, ""),
    "a comparison": ("atom.release.gpu.global.cas.b32 %r11, [%rd9], 0, 1;", ACQUIRE, ""),
    "pauses": (RELEASE, "nanosleep.u32 20;" + ACQUIRE, ""),
}
WRONG = {
    "relaxed": (RELAXED, LOOK, ""),
    "no release": (RELAXED, ACQUIRE, ""),
    "no acquire": (RELEASE, LOOK, ""),
    "a fence behind the store": (RELAXED + FENCE, ACQUIRE, ""),
    "a release for the own block": (RELEASE.replace("gpu", "cta"), ACQUIRE, ""),
    "an acquire for the own block": (RELEASE, ACQUIRE.replace("gpu", "cta"), ""),
    "an acquire for the own cluster": (RELEASE, ACQUIRE.replace("gpu", "cluster"), ""),
    "a fence for the own block": ("fence.acq_rel.cta;" + RELAXED, ACQUIRE, ""),
    "an addition that releases nothing": (ADD.replace("release", "relaxed"), ACQUIRE, ""),
}


def handed(store, load, behind, seed=None):
    body = HANDED.replace("STORE", store).replace("LOAD", load).replace("BEHIND", behind)
    it = kernel(address(0, 1) + address(1, 3) + body, 3)
    out, given = np.zeros(32, np.float32), np.full(32, np.nan, np.float32)
    done = run(it, Grid(2, 16, 0, 1, True), out, given, np.zeros(1, np.uint32), seed=seed)
    return out[16:], done


@pytest.mark.parametrize("how", RIGHT.values(), ids=RIGHT)
@pytest.mark.parametrize("seed", [None, 1])
def test_what_is_released_is_there_for_who_acquires_it(how, seed):
    out, done = handed(*how, seed=seed)
    assert done.findings == () and (out == 5).all()


@pytest.mark.parametrize("how", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("seed", [None, 1])
def test_what_nobody_releases_or_acquires_is_a_race(how, seed):
    assert Kind.READ_AFTER_WRITE in kinds(handed(*how, seed=seed)[1])


def test_who_waits_for_a_flag_for_ever_is_told_for_what():
    _, done = handed("", ACQUIRE, "")
    told = [one for one in done.findings if one.kind == Kind.WAITS_FOR_EVER]
    assert [one.times for one in told] == [1, 15]
    assert told[0].instruction.startswith(ACQUIRE[:-1] + ": address 0x")
    assert told[1].instruction == "bar.sync 0"


def test_a_loop_in_which_nothing_changes_is_told(monkeypatch):
    monkeypatch.setattr(turns, "TURNS", 1000)
    weak = "ld.global.u32 %r10, [%rd9];"
    _, done = handed("", weak, "")
    assert Kind.WAITS_FOR_EVER in kinds(done)


def test_a_thread_that_gives_up_is_told():
    _, done = handed(RELEASE, ACQUIRE, "trap;")
    assert Kind.TRAPPED in kinds(done)


ATOMIC = {
    "add.u32": 0 + 3 * 64,
    "max.s32": 63,
    "min.s32": -1,
    "or.b32": 63,
    "and.b32": 0,
    "xor.b32": 0,
}


@pytest.mark.parametrize("operation, expected", ATOMIC.items())
@pytest.mark.parametrize("seed", [None, 1])
def test_threads_change_one_number_one_after_the_other(operation, expected, seed):
    value = "3" if operation == "add.u32" else "%r10"
    less = "sub.s32 %r10, %r4, 1;" if operation == "min.s32" else "mov.u32 %r10, %r4;"
    body = f"{address(0, 1)} {less} red.relaxed.gpu.global.{operation} [%rd2], {value};"
    out = np.zeros(1, np.int32)
    done = run(kernel(body, 1), Grid(2, 32), out, seed=seed)
    assert done.findings == () and out[0] == expected


def test_old_numbers_are_those_of_an_order():
    body = (
        address(0, 1)
        + address(1, 3)
        + """
    atom.add.u32 %r10, [%rd4], 1;
    st.global.u32 [%rd1], %r10;
    """
    )
    out, counter = np.zeros(64, np.int32), np.zeros(1, np.int32)
    done = run(kernel(body, 2), Grid(2, 32), out, counter, seed=1)
    assert done.findings == () and sorted(out) == list(range(64)) and counter[0] == 64


COUNTED = """
ld.param.u64 %rd9, [kernel_param_18];
setp.eq.u32 %p1, %r2, 2;
@%p1 bra $last;
st.global.f32 [%rd3], 0f40A00000;
red.release.gpu.global.add.u32 [%rd9], 1;
bra.uni $end;
$last:
ld.acquire.gpu.global.u32 %r10, [%rd9];
setp.lt.u32 %p2, %r10, 2;
@%p2 bra $last;
ld.global.f32 %f1, [%rd4];
ld.global.f32 %f2, [%rd4+4];
add.f32 %f1, %f1, %f2;
st.global.f32 [%rd1], %f1;
$end:
"""


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_who_acquires_a_count_hears_all_who_added_to_it(seed):
    it = kernel(address(0, 1) + address(1, 3) + COUNTED, 3)
    out, given = np.zeros(3, np.float32), np.full(3, np.nan, np.float32)
    done = run(it, Grid(3, 1, 0, 1, True), out, given, np.zeros(1, np.uint32), seed=seed)
    assert done.findings == () and out[2] == 10


APART = """
mov.u32 %r9, %r1;
mul.wide.u32 %rd9, %r1, 8;
add.s64 %rd9, %rd9, %rd4;
setp.eq.u32 %p1, %r2, 0;
@%p1 bra $later;
$look:
ld.relaxed.gpu.global.b64 %rd10, [%rd9];
setp.eq.u64 %p3, %rd10, 0;
@%p3 bra $look;
cvt.u32.u64 %r10, %rd10;
shfl.sync.bfly.b32 %r11, %r10, 1, 31, -1;
st.global.u32 [%rd1], %r11;
bra.uni $end;
$later:
add.u32 %r10, %r1, 1;
cvt.u64.u32 %rd10, %r10;
$again:
setp.eq.s32 %p2, %r9, 0;
@%p2 st.relaxed.gpu.global.b64 [%rd9], %rd10;
sub.s32 %r9, %r9, 1;
setp.gt.s32 %p4, %r9, -32;
@%p4 bra $again;
$end:
"""


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_lanes_that_have_their_packet_wait_for_those_that_have_not(seed):
    """Before they shuffle."""
    it = kernel(address(0, 1) + address(1, 3, 8) + APART, 2)
    out, packets = np.zeros(64, np.int32), np.zeros(64, np.int64)
    done = run(it, Grid(2, 32, 0, 1, True), out, packets, seed=seed)
    assert done.findings == ()
    np.testing.assert_array_equal(out[32:], 1 + (np.arange(32) ^ 1))
