"""How functions are compiled: `jit` what Python calls, `inlined` formulas, `within` our own pieces
of kernels.

A kernel is some ten pieces within each other. Numba makes of each piece an optimized program of its
own before it is inlined in the next, which is a third of the time that compiling takes. A piece
that is only ever a part of kernels needs none.

Neither Numba nor LLVM can be stopped while they compile: after a Ctrl-C there the process crashes,
or takes a function for one that is still being compiled. Python's signals are the main thread's
affair, so it only waits, and another thread compiles.
"""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread, current_thread, main_thread
from typing import Any

from numba import njit
from numba.extending import intrinsic as numbas_intrinsic

from ...private import (
    Compiler,
    CompilerBase,
    CPUDispatcher,
    DefaultPassBuilder,
    JITCodeLibrary,
    LoweringPass,
    NativeLowering,
    global_compiler_lock,
    register_pass,
)


class Piece(JITCodeLibrary):
    """A function's code as it was written down, for the kernel to optimize."""

    def _optimize_functions(self, module):
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=False, analysis_only=False)
class Lowering(LoweringPass):
    """Numba's, into a Piece.  A formula is not a piece: what it prints needs an environment, which
    only whole programs have.
    """

    _name = "lowering of a piece"

    def __init__(self):
        super().__init__()
        self.numbas = NativeLowering()

    def run_pass(self, state):
        state.library = Piece(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        self.numbas.run_pass(state)
        # stands for the piece; Numba wants something built in, of its own for each
        entry = state.library.__sizeof__
        state.cr = state.cr._replace(cfunc=entry)
        state.targetctx.insert_user_function(entry, state.cr.fndesc, [state.library])
        return True


class ByPieces(CompilerBase):
    """Numba's passes, with our lowering in place of its own."""

    def define_pipelines(self):
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [
            (Lowering if each is NativeLowering else each, what) for each, what in passes.passes
        ]
        passes.finalize()
        return [passes]


def undisturbed(action, *arguments):
    """action(*arguments), to its end whatever comes meanwhile: a KeyboardInterrupt ends the wait
    for it, not the action.

    It is done here where no signal comes, where the lock of compilers is held already, and where no
    thread can be started any more.
    """
    if (
        current_thread() is not main_thread()
        or global_compiler_lock.is_locked()
        or sys.is_finalizing()
    ):
        return action(*arguments)
    done = Future()

    def act():
        try:
            done.set_result(action(*arguments))
        except BaseException as error:
            done.set_exception(error)

    thread = Thread(target=act, name="rnn_gpu-compiler")
    try:
        thread.start()
    except RuntimeError:
        return action(*arguments)
    while thread.is_alive():  # not in a process that a signal's handler has forked meanwhile
        thread.join(LOOK)
    return done.result() if done.done() else action(*arguments)


LOOK = 0.1  # seconds after which is looked whether a thread still compiles
of_kernels = {"error_model": "numpy", "nogil": True, "nopython": True}


class Kernel(CPUDispatcher):
    """A function that Python calls: compiled, or read from disk, by a thread that no signal
    stops.
    """

    def compile(self, sig):
        return undisturbed(super().compile, sig)


def jit(f: Callable) -> Kernel:
    """f compiled, at its first call, for Python to call."""
    return Kernel(f, targetoptions=of_kernels, pipeline_class=Compiler)


def intrinsic(typed: Callable) -> Callable:
    """The function of compiled code that typed(typing, *types) gives a type and LLVM's code."""
    return numbas_intrinsic(typed)


options: dict[str, Any] = {"error_model": "numpy", "nogil": True, "forceinline": True}
inlined: Callable = njit(**options)
within: Callable = njit(
    **options, no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=ByPieces
)
