"""How functions are compiled: `jit` what Python calls, `inlined` formulas, `within` our own pieces
of kernels.

A kernel is some ten pieces within each other. Numba makes of each piece an optimized program of its
own before it is inlined in the next, which is a third of the time that compiling takes. A piece
that is only ever a part of kernels needs none.
"""

from collections.abc import Callable
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
    register_pass,
)
from ...tally import counted
from ...undisturbed import undisturbed


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


of_kernels = {"error_model": "numpy", "nogil": True, "nopython": True}


class Kernel(CPUDispatcher):
    """A function that Python calls: compiled, or read from disk, by a thread that no signal
    stops, and counted.
    """

    def compile(self, sig):
        before, found = len(self.overloads), sum(self.stats.cache_hits.values())
        entry = undisturbed(super().compile, sig)
        if len(self.overloads) > before:
            hit = sum(self.stats.cache_hits.values()) > found
            counted["found" if hit else "compiled"] += 1
        return entry


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
