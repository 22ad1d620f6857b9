"""Thread-block clusters: blocks that reach each other's shared memory, and barriers that count the
bytes which come. Each intrinsic has its twin for the simulator under the same name.

Places are those of ptx.py: 32 bits. A *remote* place is that of another block of the cluster, and
goes on by the same distances. An *mbarrier* is eight bytes of shared memory that count: the bytes
that are still to come, and the threads that are still to say so; when none is missing, its phase
is over and the next begins. A phase is told from the one before it by its parity, 0 first.

    together()                                     first of all: in_clusters_of(C)
    if threadIdx.x == 0:
        init_mbarrier(full, 1)
        fence_mbarriers()
        arm(full, BYTES)                           of the first phase
    cluster_arrive(), cluster_wait()               from here on others may send
    send(a, remote(place, rank), i, value, remote(full, rank))
    await_phase(full, parity)                      BYTES have come; thread 0 arms the next phase

A number that is sent is seen by who has awaited the phase that counts it, and by nothing else: a
barrier of the cluster does not wait for it. So what is not awaited must not be sent, and a block
ends when it has all that is sent to it.
"""

from typing import Any, NamedTuple

import numpy as np

from ...binding.closures import tuple_of
from .assembly import assembly, emit, letters
from .crowd import RANK_BITS, Delivery, Home, Mbarrier, me
from .launch import SIMULATED, cuda, device_function, types
from .ptx import shared_place


class Clusters(NamedTuple):
    """Names of this module."""

    in_clusters_of: Any  # (C) -> the function () that a kernel of clusters of C calls first
    cluster_rank: Any  # () -> which block of the cluster this is
    cluster_arrive: Any  # (): this warp's threads have come to a barrier of the cluster
    cluster_wait: Any  # (): all threads of the cluster have; what they wrote before is seen
    remote: Any  # (place, rank) -> the same place in the shared memory of that block
    load_remote: Any  # (a, place, i) -> the number i behind a remote place
    store_remote: Any  # (a, place, i, value): seen after a barrier of the cluster
    # (a, place, i, value, mbarrier): to a remote place, which a remote mbarrier counts
    send: Any
    send_two: Any  # the same of two, to a multiple of two numbers: their first one's i
    send_four: Any  # of four, to a multiple of four
    init_mbarrier: Any  # (mbarrier, count): so many threads arm each phase of it
    fence_mbarriers: Any  # (): by who initialised them, before the barrier of the cluster
    arm: Any  # (mbarrier, bytes): one thread of `count`; so many bytes are to come in this phase
    phase_over: Any  # (mbarrier, parity) -> 1 if the phase of that parity is over, else 0; a look


def of_the_cluster(place) -> tuple[Home, int]:
    """(the block that a remote place is of, the place there)."""
    rank, there = divmod(int(place), 1 << RANK_BITS)
    if not rank:
        raise RuntimeError(f"place {there} is not a remote one")
    return me().home.blocks[rank - 1], there


def home_in_a_cluster() -> Home:
    if me().home.meeting is None:
        raise RuntimeError("this launch has no clusters: launch(…, cluster=C)")
    return me().home


def in_clusters(size):
    def check():
        if len(me().home.blocks) != size:
            raise RuntimeError(
                f"a kernel of clusters of {size} blocks is launched in clusters of "
                f"{len(me().home.blocks)}"
            )

    return check


def rank_of_block():
    return np.int32(home_in_a_cluster().rank)


def arrive_at_cluster():
    home_in_a_cluster().meeting.arrive()


def wait_for_cluster():
    home_in_a_cluster().meeting.wait()


def place_in_other(place, rank):
    size = len(home_in_a_cluster().blocks)
    if not 0 <= rank < size:
        raise RuntimeError(f"block {rank} of a cluster of {size} is asked for")
    return np.int32(place + ((int(rank) + 1) << RANK_BITS))


def number_of_other(a, place, i):
    """(the array of the block that has a remote place, the index there)."""
    home, there = of_the_cluster(place)
    if me().met == 0:
        raise RuntimeError(f"{home} is reached before a barrier of the cluster: is it there yet?")
    memory = home.twin_of(a)
    if not 0 <= there + i < memory.size:
        raise RuntimeError(f"number {there + i} of {memory.size} of {home} is asked for")
    return memory, there + i


def load_from_other(a, place, i):
    memory, at = number_of_other(a, place, i)
    return memory[at]


def store_to_other(a, place, i, value):
    memory, at = number_of_other(a, place, i)
    memory[at] = value


def sent(count: int):
    """What sends `count` numbers in one piece."""

    def send(a, place, i, values, mbarrier):
        values = values if count > 1 else (values,)
        memory, at = number_of_other(a, place, i)
        home, counted = of_the_cluster(place)[0], of_the_cluster(mbarrier)
        if counted[0] is not home:
            raise RuntimeError(f"what is sent to {home} is counted by {counted[0]}")
        if at % count or at + count > memory.size:
            raise RuntimeError(f"{count} numbers are sent to place {at}, not a multiple of {count}")
        full = home.mbarrier(counted[1])
        full.check_reached()

        def land():
            memory[at : at + count] = values
            return full.come(count * memory.itemsize)

        me().crowd.send(Delivery(None, home, land))

    return send


def make_mbarrier(mbarrier, threads):
    home = home_in_a_cluster()
    if int(mbarrier) in home.mbarriers:
        raise RuntimeError(f"{home.mbarrier(mbarrier)} is initialised twice")
    home.mbarriers[int(mbarrier)] = Mbarrier(home, int(mbarrier), int(threads))


def fence_own_mbarriers():
    for one in home_in_a_cluster().mbarriers.values():
        one.fenced |= one.made_by is me()


def arm_own(mbarrier, bytes):
    one = home_in_a_cluster().mbarrier(mbarrier)
    one.check_reached()
    me().crowd.change(lambda: one.arm(int(bytes)))


def look_at_phase(mbarrier, parity):
    one = home_in_a_cluster().mbarrier(mbarrier)
    one.check_reached()
    return int(me().crowd.look(lambda: one.over(int(parity)), one, one.waits))


def twins() -> Clusters:
    return Clusters(
        in_clusters,
        rank_of_block,
        arrive_at_cluster,
        wait_for_cluster,
        place_in_other,
        load_from_other,
        store_to_other,
        sent(1),
        sent(2),
        sent(4),
        make_mbarrier,
        fence_own_mbarriers,
        arm_own,
        look_at_phase,
    )


def mbarriers_of(count: int) -> Any:
    """The device function () -> the places of so many mbarriers of this block, a tuple."""
    words = count + count % 2  # what lies behind begins at a multiple of 16 bytes
    places = tuple_of(count, device_function(lambda k, a: shared_place(a, k)), device_function)

    @device_function
    def mbarriers():
        return places(cuda.shared.array(words, types.uint64, 16))

    return mbarriers


def intrinsics() -> Clusters:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    i32, half = types.int32, ir.IntType(32)

    def in_clusters_of(size):
        def typing(context):
            def codegen(context, builder, signature, values):
                module, function = builder.function.module, builder.function
                notes = module.add_named_metadata("nvvm.annotations")
                for axis, count in (("x", size), ("y", 1), ("z", 1)):
                    note = [function, f"cluster_dim_{axis}", ir.Constant(half, count)]
                    notes.add(module.add_metadata(note))
                return context.get_dummy_value()

            return types.void(), codegen

        return intrinsic(typing)

    def address(context, builder, array, place, i):
        size = ir.Constant(half, context.get_abi_sizeof(context.get_data_type(array.dtype)))
        return builder.add(place, builder.mul(builder.trunc(i, half), size))

    def pieces(dtype, count: int) -> tuple[int, ...]:
        """So many numbers of each store: 16 bytes are the most."""
        most = 128 // dtype.bitwidth
        return (most,) * (count // most) if count > most else (count,)

    def sending(count: int) -> Any:
        """The intrinsic that sends `count` numbers."""

        def typing(context, a, place, i, values, mbarrier):
            def codegen(context, builder, signature, arguments):
                array, (_, place, i, value, mbarrier) = signature.args[0], arguments
                letter, first = letters()[array.dtype], 0
                kind = ("f" if letter in "fd" else "b") + str(array.dtype.bitwidth)
                for many in pieces(array.dtype, count):
                    vector = f".v{many}" if many > 1 else ""
                    names = ", ".join(f"${k + 1}" for k in range(many))
                    text = (
                        f"st.async.shared::cluster.mbarrier::complete_tx::bytes{vector}.{kind} "
                        f"[$0], {{{names}}}, [${many + 1}];"
                    )
                    if many == 1:
                        text = text.replace("{$1}", "$1")
                    behind = builder.add(i, ir.Constant(i.type, first))
                    to = address(context, builder, array, place, behind)
                    taken = [
                        builder.extract_value(value, first + k) if count > 1 else value
                        for k in range(many)
                    ]
                    sent = [(letter, one) for one in taken]
                    emit(builder, text, [], [("r", to), *sent, ("r", mbarrier)])
                    first += many
                return context.get_dummy_value()

            sent = types.UniTuple(a.dtype, count) if count > 1 else a.dtype
            return types.void(a, i32, types.int64, sent, i32), codegen

        return intrinsic(typing)

    @intrinsic
    def load_remote(typingctx, a, place, i):
        def codegen(context, builder, signature, arguments):
            letter, (_, place, i) = letters()[a.dtype], arguments
            kind, bits = context.get_value_type(a.dtype), a.dtype.bitwidth
            at = address(context, builder, a, place, i)
            text = f"ld.shared::cluster.{'f' if letter in 'fd' else 'b'}{bits} $0, [$1];"
            return emit(builder, text, [(letter, kind)], [("r", at)])

        return a.dtype(a, i32, types.int64), codegen

    @intrinsic
    def store_remote(typingctx, a, place, i, value):
        def codegen(context, builder, signature, arguments):
            letter, (_, place, i, value) = letters()[a.dtype], arguments
            at = address(context, builder, a, place, i)
            kind = ("f" if letter in "fd" else "b") + str(a.dtype.bitwidth)
            text = f"st.shared::cluster.{kind} [$0], $1;"
            emit(builder, text, [], [("r", at), (letter, value)])
            return context.get_dummy_value()

        return types.void(a, i32, types.int64, a.dtype), codegen

    return Clusters(
        in_clusters_of,
        assembly("mov.u32 $0, %cluster_ctarank;", i32, pure=True),
        assembly("barrier.cluster.arrive.release.aligned;", None),
        assembly("barrier.cluster.wait.acquire.aligned;", None),
        assembly("mapa.shared::cluster.u32 $0, $1, $2;", i32, i32, i32, pure=True),
        load_remote,
        store_remote,
        sending(1),
        sending(2),
        sending(4),
        assembly("mbarrier.init.shared::cta.b64 [$0], $1;", None, i32, i32),
        assembly("fence.mbarrier_init.release.cluster;", None),
        assembly("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", None, i32, i32),
        # relaxed, and a fence for shared memory alone: .acquire would empty L1 at every look
        assembly(
            "{ .reg .pred p; mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 p, [$1], $2; "
            "@p fence.acquire.sync_restrict::shared::cluster.cluster; selp.u32 $0, 1, 0, p; }",
            *(i32, i32, i32),
        ),
    )


chosen = twins() if SIMULATED else intrinsics()
in_clusters_of, cluster_rank, cluster_arrive, cluster_wait, remote = chosen[:5]
load_remote, store_remote, send, send_two, send_four = chosen[5:10]
init_mbarrier, fence_mbarriers, arm, phase_over = chosen[10:]


@device_function
def await_phase(mbarrier, parity):
    """Wait until the phase of this parity is over; what it counted is seen."""
    while phase_over(mbarrier, parity) == 0:
        pass


@device_function
def meet():
    """A barrier of the cluster."""
    cluster_arrive()
    cluster_wait()
