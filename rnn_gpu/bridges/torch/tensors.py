"""What a tensor says of its device: ours of that name, torch's stream and memory there; arrays of
tensors, and tensors of arrays.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch

from ...device import resolve
from ...errors import DeviceError
from .threads import as_torch_shares

NOWHERE = nullcontext()
kernels_of = cache(resolve)  # the device of a name: to look for it takes 10 µs


def device_of(tensor) -> str:
    """The name of our device where a tensor lives."""
    if tensor.device.type not in ("cpu", "cuda"):
        raise DeviceError(f"input is on {tensor.device}, expected a CPU or a CUDA tensor")
    return tensor.device.type


def on_the_stream_of(tensor):
    """A context whose kernels run on the tensor's card, on torch's current stream there, in torch's
    memory: so that torch.cuda.graph may capture them.
    """
    if not tensor.is_cuda:
        return NOWHERE
    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    return kernels_of("cuda").on_stream(stream, tensor.get_device(), memory_on(tensor.device))


def as_torch_computes(tensor):
    """A context whose kernels run as torch's would: see `on_the_stream_of`; on the CPU by torch's
    threads.
    """
    return on_the_stream_of(tensor) if tensor.is_cuda else as_torch_shares()


def memory_on(device) -> Callable:
    """What takes memory from torch's allocator: bytes -> (address, tensor)."""

    def allocate(size: int):
        owner = torch.empty(size, dtype=torch.uint8, device=device)
        return owner.data_ptr(), owner

    return allocate


def precision_of_torch() -> str:
    """What torch's own recurrent modules do in float32 on a GPU, by torch's settings: "fp32" or
    "tf32".
    """
    cudnn = torch.backends.cudnn
    if hasattr(cudnn, "rnn"):  # since torch 2.9; "none" asks the wider setting
        settings = cudnn.rnn, cudnn, torch.backends
        said = [one.fp32_precision for one in settings if one.fp32_precision != "none"]
        return "tf32" if said[:1] == ["tf32"] else "fp32"
    return "tf32" if cudnn.allow_tf32 else "fp32"


def precision_of(x, asked: str | None) -> str:
    """Of products: what was asked for, or what torch would do where this GPU can."""
    if asked is not None or x.dtype != torch.float32 or device_of(x) == "cpu":
        return asked or "fp32"
    torchs = precision_of_torch()
    return "fp32" if kernels_of("cuda").missing(torchs) else torchs


FSDP = "torch.distributed.fsdp"


def array_of(device, tensor, dtype: str) -> Any:
    """A tensor as a contiguous array of our device, of the same memory where it can be."""
    tensor = tensor.detach()
    if tensor.is_cuda:
        return device.array(tensor, dtype)
    # FSDP gives memory back, which torch forbids after tensor.numpy(); that is quicker
    return device.array(np.from_dlpack(tensor) if FSDP in sys.modules else tensor.numpy(), dtype)


def tensor_of(a) -> torch.Tensor:
    """An array of our device as a tensor of the same memory."""
    if not isinstance(a, np.ndarray):
        return torch.from_dlpack(a)
    # one without numbers may still go backwards, which torch refuses
    return torch.from_numpy(a if a.size else np.empty(a.shape, a.dtype))
