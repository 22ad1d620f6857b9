"""Faults in the PTX of a kernel, each made by a change of its text, and what must be found."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rnn_gpu.kernels.emulator.findings import Kind

RACES = {Kind.READ_AFTER_WRITE, Kind.WRITE_AFTER_READ, Kind.TWO_WRITES}
APART = {Kind.MISSED_BARRIER, Kind.PARTED_BARRIER, Kind.WAITS_FOR_EVER}
# the instruction, for lane 1 alone left out
SKIPPED = "{ .reg .pred t; .reg .b32 i; mov.u32 i, %laneid; setp.ne.s32 t, i, 1; @t OLD }"
# in the lower half of a block's threads
PARTED = "{ .reg .pred t; .reg .b32 i; mov.u32 i, %tid.x; setp.lt.s32 t, i, 16; @t OLD }"


class Fault(NamedTuple):
    """A change, and the kinds of which one must be found."""

    name: str
    change: Callable[[str], str]
    expected: set[Kind]


def nth(pattern: str, k: int, new: Callable[[re.Match], str]) -> Callable[[str], str]:
    """The change of the k-th match of a pattern in a text."""

    def change(text):
        found = list(re.finditer(pattern, text))
        match = found[k % len(found)]
        return text[: match.start()] + new(match) + text[match.end() :]

    return change


def count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text))


BARRIER = r"bar\.sync\s+0;"
SHUFFLE = r"shfl\.sync\.bfly[^;]*;"
OF_SHARED = r"(ld\.shared\.v\d\.\w+[^;]*\[%rd\d+)(?:\+(\d+))?\]"
STORED_IN_SHARED = r"st\.shared\.\w+\s[^;]*;"
STORED = r"(st\.global\.f\d\d\s+\[%rd\d+)(?:\+(-?\d+))?\]"


# of blocks that wait for each other
PACKET_STORED, PACKET_READ = r"st\.relaxed\.gpu[^;]*;", r"ld\.relaxed\.gpu[^;]*;"
TAGGED = r"mov\.b64\s+(\S+), \{(%r\d+), (%r\d+)\};(?=[^;]*st\.relaxed)"
OTHER_TAG = "{{ .reg .b32 t; add.s32 t, {}, 1; mov.b64 {}, {{{}, t}}; }}"


# of clusters
TESTED = r"mbarrier\.try_wait\.parity\.relaxed\.cluster([^;]*), (%r\d+);"
OTHER_PARITY = (
    "{{ .reg .b32 q; xor.b32 q, {1}, 1; mbarrier.try_wait.parity.relaxed.cluster{0}, q; }}"
)
ACQUIRED = r"@p fence\.acquire\.sync_restrict[^;]*;"
ARMED = r"mbarrier\.arrive\.expect_tx[^;]*, (%r\d+);"
MAPPED = r"(mapa\.shared::cluster\.u32 %r\d+, %r\d+, )(%r\d+);"
SENT = r"st\.async\.shared::cluster\.mbarrier::complete_tx::bytes(\S*) (\[[^]]*\]), ([^;]*), \S*;"
MEETING = r"barrier\.cluster\.\w+[^;]*;"
PUBLISHED = r"fence\.mbarrier_init\.release\.cluster;"
UNSEEN = {Kind.READ_AFTER_WRITE}
MISCOUNTED = {Kind.WAITS_FOR_EVER, Kind.TOO_MUCH, Kind.WRONG_PHASE, Kind.UNAWAITED} | RACES


def every(pattern: str, new: Callable[[re.Match], str]) -> Callable[[str], str]:
    """The change of all matches of a pattern in a text."""
    return lambda text: re.sub(pattern, new, text)


def further(by: int):
    """An address that is moved."""
    return lambda match: f"{match[1]}+{int(match[2] or 0) + by}]"


def faults(text: str) -> Iterator[Fault]:
    """Every fault that this text has a place for."""
    for k in range(count(BARRIER, text)):
        yield Fault(f"barrier {k} left out", nth(BARRIER, k, lambda _: ""), RACES)
        parted = nth(BARRIER, k, lambda match: PARTED.replace("OLD", match[0]))
        yield Fault(f"barrier {k} for half a block", parted, APART | RACES)
    if count(SHUFFLE, text):
        skipped = nth(SHUFFLE, 0, lambda match: SKIPPED.replace("OLD", match[0]))
        yield Fault("a lane skips a shuffle", skipped, {Kind.ABSENT_LANES})
    if count(OF_SHARED, text):
        off = nth(OF_SHARED, 0, further(4))
        yield Fault("4 bytes off in shared memory", off, {Kind.MISALIGNED})
        beyond = nth(OF_SHARED, 0, further(1 << 18))
        yield Fault("beyond shared memory", beyond, {Kind.OUTSIDE})
    if count(STORED_IN_SHARED, text):
        lost = nth(STORED_IN_SHARED, 0, lambda _: "")
        yield Fault("shared memory that nobody writes", lost, {Kind.UNWRITTEN})
    if count(STORED, text):
        yield Fault("stored beyond the end", nth(STORED, 0, further(1 << 13)), {Kind.OUTSIDE})
        off = nth(STORED, 0, further(2))
        yield Fault("stored at half an address", off, {Kind.MISALIGNED})
    yield from faults_of_packets(text)
    yield from faults_of_clusters(text)


def for_a_block(match: re.Match) -> str:
    return match[0].replace("gpu", "cta")


def weakly(match: re.Match) -> str:
    return match[0].replace("relaxed.gpu.", "")


def faults_of_packets(text: str) -> Iterator[Fault]:
    """Of words with a tag, through global memory."""
    if not count(PACKET_STORED, text):
        return
    for name, pattern in (("stored", PACKET_STORED), ("read", PACKET_READ)):
        near, weak = nth(pattern, -1, for_a_block), nth(pattern, -1, weakly)
        yield Fault(f"a packet {name} for the own block", near, RACES)
        yield Fault(f"a packet {name} weakly", weak, RACES)
    skipped = nth(PACKET_STORED, 0, lambda match: SKIPPED.replace("OLD", match[0]))
    yield Fault("a packet that a lane does not store", skipped, {Kind.WAITS_FOR_EVER})
    if count(TAGGED, text):
        other = nth(TAGGED, 0, lambda match: OTHER_TAG.format(match[3], match[1], match[2]))
        yield Fault("another message's tag", other, {Kind.WAITS_FOR_EVER})


def faults_of_clusters(text: str) -> Iterator[Fault]:
    """Of what is sent into the shared memory of other blocks."""
    if not count(SENT, text):
        return

    def parity(match):
        return OTHER_PARITY.format(match[1], match[2])

    yield Fault("the other parity", every(TESTED, parity), MISCOUNTED | {Kind.UNWRITTEN})
    yield Fault("a wait that acquires nothing", every(ACQUIRED, lambda _: ""), UNSEEN)
    near = every(TESTED, lambda match: match[0].replace("relaxed.cluster", "acquire.cta"))
    yield Fault("a wait for the own block", lambda text: re.sub(ACQUIRED, "", near(text)), UNSEEN)
    for k in range(count(ARMED, text)):
        yield Fault(f"armed {k} left out", nth(ARMED, k, lambda _: ""), MISCOUNTED)
    more = nth(ARMED, -1, lambda match: match[0].replace(f", {match[1]};", ", 4096;"))
    yield Fault("more bytes than come", more, MISCOUNTED)
    yield Fault("no barrier of the cluster", every(MEETING, lambda _: ""), {Kind.NO_MBARRIER})
    yield Fault("init not published", every(PUBLISHED, lambda _: ""), {Kind.UNFENCED})
    first = every(MAPPED, lambda match: f"{match[1]}0;")
    yield Fault("all to the first block", first, MISCOUNTED)
    nobody = nth(MAPPED, 0, lambda match: f"{match[1]}9;")
    yield Fault("to a block that is not there", nobody, {Kind.ABSENT_BLOCK})
    skipped = nth(SENT, 0, lambda match: SKIPPED.replace("OLD", match[0]))
    yield Fault("a lane that sends nothing", skipped, MISCOUNTED)
    plain = nth(SENT, 0, lambda match: f"st.shared::cluster{match[1]} {match[2]}, {match[3]};")
    yield Fault("a number that nobody counts", plain, MISCOUNTED)
