"""torchrl's LSTMModule and GRUModule on our kernels (extra `rl`): the same arguments, keys and
modes, the same numbers and gradients.

>>> import torch
>>> from tensordict import TensorDict
>>> from torchrl.modules import set_recurrent_mode
>>> from rnn_gpu.rl import GRUModule
>>> gru = GRUModule(3, 8, in_keys=["seen", "state"], out_keys=["known", ("next", "state")])
>>> steps = {"seen": torch.zeros(2, 5, 3), "is_init": torch.rand(2, 5, 1) < 0.3}
>>> with set_recurrent_mode(True):
...     known = gru(TensorDict(steps, [2, 5]))["known"]  # (B, T, n)
"""

from .bridges.torch.rl import GRUModule, LSTMModule

__all__ = ["GRUModule", "LSTMModule"]
