"""What the microbenchmarks say in PTX: each intrinsic, and its twin for the simulator where that
has one; and how their kernels get a name in the store.
"""

import inspect
import time
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rnn_gpu.kernels.devices.cuda.launch import SIMULATED, cuda, types
from rnn_gpu.kernels.store import digest

# of the same name as a function of the device
compiling = import_module("rnn_gpu.kernels.devices.cuda.compiled")


def kernel_of(make: Callable) -> Callable:
    """What makes a kernel of numbers: its name in the store is made of the file that it stands in,
    and of this one.
    """
    home = digest([Path(__file__), Path(inspect.getfile(make))])

    @compiling.factory
    @wraps(make)
    def from_source(_, *made_of):
        return make(*made_of)

    return lambda *made_of: from_source(home, *made_of)


if SIMULATED:

    def add_in_order(counter, i, value):
        cuda.atomic.add(counter, i, value)

    def load_in_order(a, i):
        time.sleep(0)
        return a[i]

    def load_in_order_64(a, i):
        time.sleep(0)
        return np.uint64(a[i])

    def store_in_order(a, i, word):
        a[i] = np.int64(word)

    add_release, load_acquire = add_in_order, load_in_order
    load_word, store_word = load_in_order_64, store_in_order

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    LETTERS = {types.uint32: "r", types.float32: "f", types.uint64: "l"}

    def assembly(text: str, returns, *arguments) -> Any:
        """An intrinsic of some numbers (`arguments`, their types) that is one piece of PTX; $0 is
        the result where there is one.
        """
        results = [] if returns is None else [f"={LETTERS[returns]}"]
        constraints = results + [LETTERS[one] for one in arguments] + ["~{memory}"]

        def codegen(context, builder, signature, values):
            result = ir.VoidType() if returns is None else context.get_value_type(returns)
            form = ir.FunctionType(result, [one.type for one in values])
            called = builder.call(
                ir.InlineAsm(form, text, ",".join(constraints), side_effect=True), values
            )
            return context.get_dummy_value() if returns is None else called

        found = (types.void if returns is None else returns)(*arguments), codegen
        typings = (  # an intrinsic names its arguments
            lambda context: found,
            lambda context, a: found,
            lambda context, a, b: found,
            lambda context, a, b, c: found,
        )
        return intrinsic(typings[len(arguments)])

    def address(space: int | None, size) -> Any:
        """The intrinsic (a, i) -> the address of a[i]: generic where `space` is None, else within
        that space.
        """

        def typing(context, a, i):
            def codegen(context, builder, signature, values):
                array = context.make_array(signature.args[0])(context, builder, values[0])
                pointer = builder.gep(array.data, [values[1]])
                if space is not None:
                    pointer = builder.addrspacecast(
                        pointer, ir.PointerType(pointer.type.pointee, space)
                    )
                return builder.ptrtoint(pointer, context.get_value_type(size))

            return size(a, types.intp), codegen

        return intrinsic(typing)

    global_address, shared_address = address(None, types.uint64), address(3, types.uint32)
    u32, u64, f32 = types.uint32, types.uint64, types.float32

    # between the blocks of a grid
    red_release = assembly("red.release.gpu.global.add.u32 [$0], $1;", None, u64, u32)
    ld_acquire = assembly("ld.acquire.gpu.global.u32 $0, [$1];", u32, u64)
    ld_relaxed = assembly("ld.relaxed.gpu.global.u64 $0, [$1];", u64, u64)
    st_relaxed = assembly("st.relaxed.gpu.global.u64 [$0], $1;", None, u64, u64)

    # between the blocks of a cluster
    cluster_arrive = assembly("barrier.cluster.arrive.release.aligned;", None)
    cluster_wait = assembly("barrier.cluster.wait.acquire.aligned;", None)
    cluster_rank = assembly("mov.u32 $0, %cluster_ctarank;", u32)
    remote = assembly("mapa.shared::cluster.u32 $0, $1, $2;", u32, u32, u32)
    store_remote = assembly("st.shared::cluster.f32 [$0], $1;", None, u32, f32)
    # a store that adds its bytes to those an mbarrier waits for
    store_async = assembly(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [$0], $1, [$2];",
        None,
        *(u32, f32, u32),
    )
    mbarrier_init = assembly("mbarrier.init.shared.b64 [$0], $1;", None, u32, u32)
    mbarriers_are_there = assembly("fence.mbarrier_init.release.cluster;", None)
    mbarrier_expect = assembly(
        "{ .reg .b64 s; mbarrier.arrive.expect_tx.shared.b64 s, [$0], $1; }", None, u32, u32
    )
    TRY = (
        "{{ .reg .pred p; mbarrier.try_wait.parity.{0}.cluster.shared::cta.b64 p, [$1], $2; "
        "selp.u32 $0, 1, 0, p; }}"
    )
    try_wait_acquire = assembly(TRY.format("acquire"), u32, u32, u32)
    try_wait_relaxed = assembly(TRY.format("relaxed"), u32, u32, u32)
    # what makes the second as good as the first for shared memory, and leaves L1 alone
    acquire_shared = assembly("fence.acquire.sync_restrict::shared::cluster.cluster;", None)

    @cuda.jit(device=True, forceinline=True)
    def add_release(counter, i, value):
        red_release(global_address(counter, i), np.uint32(value))

    @cuda.jit(device=True, forceinline=True)
    def load_acquire(counter, i):
        return ld_acquire(global_address(counter, i))

    @cuda.jit(device=True, forceinline=True)
    def load_word(a, i):
        return ld_relaxed(global_address(a, i))

    @cuda.jit(device=True, forceinline=True)
    def store_word(a, i, word):
        st_relaxed(global_address(a, i), word)

    def in_clusters_of(size: int) -> Any:
        """The intrinsic () that, called in a kernel, makes its blocks come in clusters of
        `size`.
        """

        def typing(context):
            def codegen(context, builder, signature, values):
                function = builder.function
                notes = function.module.add_named_metadata("nvvm.annotations")
                for axis, count in (("x", size), ("y", 1), ("z", 1)):
                    count = ir.Constant(ir.IntType(32), count)
                    notes.add(
                        function.module.add_metadata([function, f"cluster_dim_{axis}", count])
                    )
                return context.get_dummy_value()

            return types.void(), codegen

        return intrinsic(typing)
