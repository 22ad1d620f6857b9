"""What is kept for later calls, and how to let go of it."""

from . import arguments
from .kernels import devices
from .kernels.once import forget


def release(*, kernels: bool = False) -> int:
    """Give the memory that is kept for later calls back to the operating system; returns how many
    bytes.

    What is kept is that of large arrays on the CPU, at most an eighth of the machine's, and at most
    a gigabyte; and on a GPU what CuPy's pool has that no array uses.
    kernels  True also lets go of what was made of formulas, cells and activations, and of their
             kernels. An activation keeps some 20 MB while the process lives, 5 where its kernels
             were found on disk; a third to more than half of that comes back. Layers go on: what
             they need is compiled again, or read again.
    """
    if arguments.flag("kernels", kernels):
        forget()
    return sum(device.release() for device in devices.imported())
