"""Recurrent networks trained by back-propagation through time, with kernels in Python.

>>> import numpy as np, rnn_gpu
>>> layer = rnn_gpu.LSTM(3, 5, device="cpu")
>>> y, (h, c) = layer(np.zeros((7, 2, 3), "float32"))          # x (T, B, m) -> y (T, B, n)
>>> dx, dstate = layer.backward(np.ones_like(y))               # layer.grads holds U, W and b
"""

from importlib.util import find_spec as _find_spec

if _find_spec(f"{__name__}.kernels") is None:
    raise ImportError(
        f"{__name__}.kernels is missing. In a checkout rnn_gpu/kernels is a link to the folder"
        " kernels beside rnn_gpu; git on Windows and some unpackers write a small file instead."
        " Install the checkout (`pip install .`, or `pip install -e .`): that needs no link."
        " Or turn on Windows' developer mode, and say `git config core.symlinks true` and"
        " `git checkout rnn_gpu/kernels`"
    )

from . import callbacks, data, datasets, optimizers, schedules
from .bridges.plots import plot
from .derivatives import activation, cell, loss
from .device import resolve as device
from .errors import (
    ArgumentError,
    DerivativeError,
    DeviceError,
    DtypeError,
    GradientError,
    ModelFileError,
    NonFiniteError,
    OrderError,
    RnnGpuError,
    ShapeError,
    UnsupportedError,
)
from .gradcheck import gradcheck
from .keeping import release
from .layers import GRU, LSTM, RNN, Bidirectional, Dense, Dropout, Embedding, Recurrent, stack
from .network import Network, Stream, load
from .verification import verify

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "ArgumentError",
    "Bidirectional",
    "Dense",
    "DerivativeError",
    "DeviceError",
    "Dropout",
    "DtypeError",
    "Embedding",
    "GradientError",
    "ModelFileError",
    "Network",
    "NonFiniteError",
    "OrderError",
    "Recurrent",
    "RnnGpuError",
    "ShapeError",
    "Stream",
    "UnsupportedError",
    "activation",
    "callbacks",
    "cell",
    "data",
    "datasets",
    "device",
    "gradcheck",
    "load",
    "loss",
    "optimizers",
    "plot",
    "release",
    "schedules",
    "stack",
    "verify",
]
