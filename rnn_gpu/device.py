"""The dispatcher: a device's name -> the device of kernels/devices that does the work."""

from .errors import ArgumentError, DeviceError
from .kernels import devices
from .kernels.devices import Device

NAMES = ("auto", *devices.NAMES)
PRECISIONS = ("fp32", "tf32", "bf16")  # of products of matrices


def resolve(device: str, dtype: str = "float32", precision: str = "fp32") -> Device:
    """Return the device of this name, or the one that "auto" stands for here.

    "auto" is "cuda" where Numba sees a real GPU and CuPy can be imported, else "cpu"; it never
    chooses the CUDA simulator. "cuda" never falls back: DeviceError says what is missing. Nor does
    precision="tf32" or "bf16", for float32 on "cuda" alone.
    """
    if device not in NAMES:
        raise DeviceError(f"device is {device!r}, expected one of {', '.join(map(repr, NAMES))}")
    if device == "auto":
        device = chosen()
    if reason := why_not(device):
        raise DeviceError(
            f"device={device!r}, but {reason}. Say device='cpu', or 'auto' to let rnn_gpu choose."
        )
    found = devices.find(device)
    if precision == "fp32":
        return found
    if precision not in found.precisions(dtype):
        here = f"precision is {precision!r}, but device is {device!r} and dtype {dtype!r}"
        raise ArgumentError(f"{here}: that is for 'cuda' and 'float32'. Say precision='fp32'.")
    if reason := found.missing(precision):
        raise DeviceError(f"precision={precision!r}, but {reason}. Say precision='fp32'.")
    return found


def chosen() -> str:
    """What "auto" stands for here."""
    here = [name for name in devices.NAMES if not why_not(name)]
    return max(here, key=lambda name: devices.find(name).preference)


def why_not(device: str) -> str:
    """What keeps a device from working here; "" where it works, on a GPU or in the simulator.

    ArgumentError where the device does not understand what the environment says.
    """
    try:
        return devices.missing(device)
    except ValueError as error:
        raise ArgumentError(error) from None


def simulated() -> bool:
    """Is the CUDA simulator on (NUMBA_ENABLE_CUDASIM=1 before the first import of numba)?"""
    from .kernels.private import config

    return bool(config.ENABLE_CUDASIM)
