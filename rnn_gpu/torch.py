"""torch.nn.RNN, LSTM and GRU on our kernels: the same arguments, the same state_dict, autograd; and
what torch has not.

>>> import torch, rnn_gpu.torch
>>> lstm = rnn_gpu.torch.LSTM(3, 5, num_layers=2, bidirectional=True)
>>> y, (h, c) = lstm(torch.zeros(7, 2, 3))                     # as torch.nn.LSTM
>>> y.sum().backward()

CPU tensors go to the device "cpu", CUDA tensors to "cuda" on torch's current stream; neither is
copied on its way in or out.
"""

from .bridges.registry import register
from .bridges.torch.cells import GRUCell, LSTMCell, RNNCell
from .bridges.torch.convert import convert, revert
from .bridges.torch.modules import GRU, LSTM, RNN, Recurrent
from .bridges.torch.onnx import onnx_translations
from .bridges.torch.stack import Stack

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Recurrent",
    "Stack",
    "convert",
    "onnx_translations",
    "register",
    "revert",
]
