"""torch's tensors on a card, played where torch has none: `with cuda_tensors():`.

Tensors of the host that say they are on a card, in memory that the stand-in for CuPy knows.  Shown
by it: what rnn_gpu.torch asks of a tensor on a card, on which stream it works, and that neither
reads the other's memory but by the protocols.  Not shown: what torch itself does on a card.
Gradients that autograd hands to the way back are taken for tensors on the card.
"""

import ctypes
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch

from rnn_gpu.bridges.torch import functions, tensors
from rnn_gpu.kernels.emulator import arrays
from rnn_gpu.kernels.emulator.arrays.memory import LIVE, Foreign
from rnn_gpu.kernels.emulator.arrays.operations import of

STREAMS = (0x7042_0040, 0x7042_0080)  # of torch, one a card, which are not CuPy's


class Tensor(torch.Tensor):
    """A tensor that says it is on card 0."""

    __module__ = "torch"  # whose own it plays
    card = 0
    is_cuda = True
    device = property(lambda self: torch.device("cuda", self.card))

    def get_device(self):
        return self.card

    @property
    def __cuda_array_interface__(self):
        if self.requires_grad:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")
        keep_captured(self)
        plain = self.as_subclass(torch.Tensor).numpy()
        pointer, storage = self.data_ptr(), self.untyped_storage()
        if plain.size and LIVE.find(pointer) is None:
            first, size = storage.data_ptr(), storage.nbytes()
            memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(first))
            # as long as this tensor, which the array that takes it keeps
            self.said = Foreign(first, memory, self.card)
        return {
            "shape": tuple(self.shape),
            "typestr": plain.dtype.str,
            "strides": None if plain.flags.c_contiguous else plain.strides,
            "data": (pointer if plain.size else 0, False),
            "version": 2,
        }

    def __dlpack_device__(self):
        return 2, self.card

    def __dlpack__(self, *, stream=None, **options):
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        with arrays.cuda.Device(self.card), arrays.cuda.ExternalStream(STREAMS[self.card]):
            return arrays.asarray(self.detach()).__dlpack__(stream=stream)

    # by name, for within a Function torch makes plain tensors of those of a subclass

    def detach(self):
        return super().detach().as_subclass(type(self))

    def clone(self, **options):
        if arrays.cuda.get_current_stream().is_capturing():  # by what a graph does again
            return from_dlpack(arrays.asarray(self).copy())
        return super().clone(**options).as_subclass(type(self))

    def cpu(self):
        return self.as_subclass(torch.Tensor).clone()

    def numpy(self, **options):
        raise TypeError("can't convert cuda device type tensor to numpy. Use Tensor.cpu()")


class Second(Tensor):
    """A tensor that says it is on card 1."""

    __module__ = "torch"
    card = 1


CARDS = (Tensor, Second)


class Holder:
    """What keeps an array of the card while NumPy's view of it is used."""

    def __init__(self, a):
        self.a, self.__array_interface__ = a, of(a).__array_interface__


def from_dlpack(a):
    """A tensor of the same memory as an array of the card; others by torch itself."""
    if not isinstance(a, arrays.ndarray):
        return FROM_DLPACK(a)
    a = a.__dlpack__(stream=STREAMS[a.device.id]).array
    return torch.from_numpy(np.asarray(Holder(a))).as_subclass(CARDS[a.device.id])


FROM_DLPACK = torch.from_dlpack


def on_the_card(a, number: int = 0):
    """A tensor with values of its own, or a module with its parameters, that says it is on this
    card.
    """
    if isinstance(a, torch.nn.Module):
        for home in a.modules():
            for name, θ in list(home.named_parameters(recurse=False)):
                delattr(home, name)
                home.register_parameter(name, torch.nn.Parameter(on_the_card(θ, number)))
        return a
    if a.dtype == torch.bfloat16:  # which NumPy does not know
        return on_the_card(a.float(), number).to(a.dtype)
    with arrays.cuda.Device(number), arrays.cuda.ExternalStream(STREAMS[number]):
        return from_dlpack(arrays.asarray(a.detach().numpy()))


CAPTURED: list = []  # memory that a captured stream uses stays, as in the pool of torch.cuda.graph


def keep_captured(tensor):
    """A tensor that is used while a stream captures."""
    if arrays.cuda.get_current_stream().is_capturing():
        CAPTURED.append(tensor)


def memory_of_the_host():
    """The bridge's `memory_on`, in memory of the host."""
    take = tensors.memory_on("cpu")

    def allocate(size: int):
        address, owner = take(size)
        keep_captured(owner)
        return address, owner

    return lambda device: allocate


@contextmanager
def cuda_tensors():
    """Within it torch takes arrays of the played card, and has a stream there."""
    went_back = functions.retreat

    def retreat(call, *given):
        kind = CARDS[call.steps.flags.device.id]
        return went_back(call, *(a.as_subclass(kind) for a in given))

    def current_stream(device=None):
        return SimpleNamespace(cuda_stream=STREAMS[torch.device(device or "cuda").index or 0])

    with ExitStack() as stack:
        stack.callback(CAPTURED.clear)
        stack.enter_context(patch.object(torch, "from_dlpack", from_dlpack))
        stack.enter_context(patch.object(torch.cuda, "current_stream", current_stream))
        stack.enter_context(patch.object(tensors, "memory_on", memory_of_the_host()))
        stack.enter_context(patch.object(functions, "retreat", retreat))
        yield
