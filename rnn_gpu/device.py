"""The dispatcher: a device's name -> the module of kernels/devices that does the work."""

from importlib import import_module
from types import ModuleType

from .errors import ArgumentError, DeviceError

NAMES = ("auto", "cpu", "cuda", "reference")
PRECISIONS = ("fp32", "tf32")  # of GEMMs


def resolve(device: str, dtype: str = "float32", precision: str = "fp32") -> ModuleType:
    """Return the device module of "cpu", "cuda", "reference", or of what "auto" stands for here.

    "auto" is "cuda" where Numba sees a real GPU and CuPy can be imported, else "cpu"; it never
    chooses the CUDA simulator. "cuda" never falls back: DeviceError says what is missing. Nor does
    precision="tf32", for float32 on "cuda" alone.
    """
    if device not in NAMES:
        raise DeviceError(f"device is {device!r}, expected one of {', '.join(map(repr, NAMES))}")
    if device == "auto":
        device = "cpu" if simulated() or why_no_cuda() else "cuda"
    if device == "cuda" and (reason := why_no_cuda()):
        raise DeviceError(
            f"device='cuda', but {reason}. Say device='cpu', or 'auto' to let rnn_gpu choose."
        )
    if precision == "fp32":
        return module_of(device)
    if (device, dtype) != ("cuda", "float32"):
        here = f"precision is {precision!r}, but device is {device!r} and dtype {dtype!r}"
        raise ArgumentError(f"{here}: TF32 is for 'cuda' and 'float32'. Say precision='fp32'.")
    module = import_module(f"rnn_gpu.kernels.devices.cuda.{precision}")
    if reason := module.missing():
        raise DeviceError(f"precision={precision!r}, but {reason}. Say precision='fp32'.")
    return module


def module_of(device: str) -> ModuleType:
    """The module of a device; ArgumentError where it does not understand what the environment
    says.
    """
    try:
        return import_module(f"rnn_gpu.kernels.devices.{device}")
    except ValueError as error:
        raise ArgumentError(error) from None


def why_no_cuda() -> str:
    """What keeps device="cuda" from working here; "" where it works, on a GPU or in the
    simulator.
    """
    try:
        return import_module("rnn_gpu.kernels.devices.cuda").missing()
    # without CUDA's libraries `import numba.cuda` itself raises RuntimeError
    except (ImportError, RuntimeError) as error:
        return f"numba-cuda cannot be imported ({error})"


def simulated() -> bool:
    """Is the CUDA simulator on (NUMBA_ENABLE_CUDASIM=1 before the first import of numba)?"""
    from numba import config

    return bool(vars(config)["ENABLE_CUDASIM"])
