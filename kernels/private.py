"""What we use of Numba, numba-cuda and CuPy that they do not promise to keep: all of it is here.

Each name comes from its home when it is asked for, so that a device that is not used needs none of
its packages. tests/test_private.py looks for every one, and for what it is used for: where a new
version of a package has lost one, that line says what breaks.
"""

from contextlib import contextmanager
from importlib import import_module
from itertools import count
from threading import RLock
from types import SimpleNamespace
from typing import Any

# name: (where it lives, what does not work without it)
NAMES = {
    "config": ("numba.core.config", "the settings that a kept kernel depends on; the simulator"),
    "NumbaError": (
        "numba.core.errors.NumbaError",
        "cells that say `if`: they are tried on vectors",
    ),
    "NumbaPerformanceWarning": (
        "numba.core.errors.NumbaPerformanceWarning",
        "few blocks without a warning",
    ),
    # compiling on the CPU
    "CPUDispatcher": ("numba.core.registry.CPUDispatcher", "Ctrl-C while a kernel is compiled"),
    "Compiler": ("numba.core.compiler.Compiler", "the same"),
    "global_compiler_lock": (
        "numba.core.compiler_lock.global_compiler_lock",
        "the same; forks while another thread compiles",
    ),
    "JITCodeLibrary": ("numba.core.codegen.JITCodeLibrary", "pieces of kernels: compile time"),
    "CompilerBase": ("numba.core.compiler.CompilerBase", "the same"),
    "DefaultPassBuilder": ("numba.core.compiler.DefaultPassBuilder", "the same"),
    "LoweringPass": ("numba.core.compiler_machinery.LoweringPass", "the same"),
    "register_pass": ("numba.core.compiler_machinery.register_pass", "the same"),
    "NativeLowering": ("numba.core.typed_passes.NativeLowering", "the same"),
    # vectors as values of compiled code
    "cgutils": ("numba.core.cgutils", "intrinsics"),
    "lower_builtin": ("numba.core.imputils.lower_builtin", "operators of vectors"),
    "lower_cast": ("numba.core.imputils.lower_cast", "numbers among vectors"),
    "signature": ("numba.core.typing.signature", "operators of vectors"),
    "AbstractTemplate": ("numba.core.typing.templates.AbstractTemplate", "operators of vectors"),
    "infer_global": ("numba.core.typing.templates.infer_global", "operators of vectors"),
    "cpu_target": ("numba.core.registry.cpu_target", "the width of vectors; keys of kept kernels"),
    "parallel": ("numba.np.ufunc.parallel", "threads: how many, without starting Numba's own"),
    "arrayobj": ("numba.np.arrayobj", "calls of kernels without Python: arrays on bare memory"),
    "from_dtype": ("numba.np.numpy_support.from_dtype", "arrays on the stack"),
    # kernels that are kept on disk
    "FunctionIdentity": (
        "numba.core.bytecode.FunctionIdentity",
        "kept kernels: numbers of functions",
    ),
    "CompileResult": ("numba.core.compiler.CompileResult", "kept kernels: how they are read"),
    "serialize": ("numba.core.serialize", "kept kernels: how they are written"),
    "AppDirs": ("numba.misc.appdirs.AppDirs", "kept kernels: their folder"),
    # the GPU
    "cuda_dispatcher": ("numba.cuda.dispatcher", "kernels as cubins and as PTX"),
    "cuda_devices": ("numba.cuda.cudadrv.devices", "compiling for a GPU where there is none"),
    "cuda_nvvm": ("numba.cuda.cudadrv.nvvm", "PTX that is executed where there is no GPU"),
    "cuda_config": ("numba.cuda.core.config", "the settings that a kept cubin depends on"),
    # the simulator, made stronger
    "simulator_api": ("numba.cuda.simulator.api", "options of kernels that it does not know"),
    "simulator_kernel": ("numba.cuda.simulator.kernel", "several blocks at a time"),
    "simulator_kernelapi": ("numba.cuda.simulator.kernelapi", "warps, strict barriers, memory"),
    "FakeCUDAArray": (
        "numba.cuda.simulator.cudadrv.devicearray.FakeCUDAArray",
        "arrays that are not copied in and out",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"{__name__} has no {name!r}")
    home, _, last = NAMES[name][0].rpartition(".")
    try:
        return getattr(import_module(home), last)
    except AttributeError:
        return import_module(NAMES[name][0])


# Attributes


def value_of(structure):
    """The LLVM value of a structure that is being built."""
    return structure._getvalue()


def number_functions_from(first: int):
    """Numba's functions of this process are counted from here on."""
    __getattr__("FunctionIdentity")._unique_ids = count(first)


def as_plain_data(compiled) -> tuple:
    """What Numba makes of a function, as what can be pickled."""
    return compiled._reduce()


def compiled_of(target_context, data: tuple):
    return __getattr__("CompileResult")._rebuild(target_context, *data)


def cache_of(kernel):
    """Where a function's compiled code is looked for and kept."""
    return kernel._cache


def keep_in(kernel, cache):
    kernel._cache = cache


def compile_for(kernel, arguments):
    """Compile a function for arguments of such types, whatever it does when it is called."""
    type(kernel)._compile_for_args(kernel, *arguments)


def instead_of_compiling(kernel, f):
    """f(*arguments) is called where the function is called with types it is not compiled for."""
    kernel._compile_for_args = f


def threads_of(parallel) -> int:
    """numba.get_num_threads(), which starts Numba's own threads where there are none yet: these
    change how many torch has.
    """
    return parallel.get_num_threads() if parallel._is_initialized else parallel.NUM_THREADS


def address_of(compiled) -> int:
    """Where a compiled function is, for code that calls as Numba does."""
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def c_address_of(compiled) -> int:
    """Where a compiled function of numbers is, for code that calls as C does."""
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


def array_on(context, builder, kind, address, shape):
    """LLVM's value of a C-contiguous array on memory that is not its own."""
    made = context.make_array(kind)(context, builder)
    item = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    number = address.type
    strides = [number(item)]
    for size in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], size))
    __getattr__("arrayobj").populate_array(
        made,
        data=builder.inttoptr(address, made.data.type),
        shape=shape,
        strides=strides,
        itemsize=number(item),
        meminfo=None,
    )
    return value_of(made)


def compiled_cuda_kernel(kernel, signature: tuple, language: str) -> tuple[bytes, str]:
    """(a `@cuda.jit` kernel as "cubin" or "ptx" for these types, its name in there)."""
    dispatcher = __getattr__("cuda_dispatcher")
    made = dispatcher._Kernel(kernel.py_func, signature, **kernel.targetoptions)
    library = made._codelibrary
    code = library.get_asm_str().encode() if language == "ptx" else library.get_cubin().code
    return bytes(code), made.entry_name


def kernel_handle(kernel):
    """The driver's handle of a kernel that cuda.core has loaded: public since its version 1."""
    return getattr(kernel, "handle", None) or kernel._handle


@contextmanager
def pretended_capability(capability: tuple[int, int]):
    """numba-cuda asks the current device for nothing but its compute capability while it compiles:
    here it is told one, whatever device there is.
    """
    dispatcher, devices = __getattr__("cuda_dispatcher"), __getattr__("cuda_devices")
    device = SimpleNamespace(id=0, compute_capability=capability)
    context = SimpleNamespace(device=device)
    with PRETENDING:
        before = dispatcher.get_current_device, devices.get_context
        dispatcher.get_current_device, devices.get_context = lambda: device, lambda *_: context
        try:
            yield
        finally:
            dispatcher.get_current_device, devices.get_context = before


PRETENDING = RLock()


def running_grid():
    """What the simulator runs now; None where it runs nothing."""
    return __getattr__("simulator_kernel")._get_kernel_context()
