"""What `Network.fit` is made of, for whoever trains by hand: samples, settings, loop, one update.

>>> import numpy as np, rnn_gpu
>>> from rnn_gpu.training import Samples, Settings, Training
>>> network = rnn_gpu.Network([rnn_gpu.LSTM(3, 5, device="cpu"), rnn_gpu.Dense(5, 1, device="cpu")])
>>> samples = Samples(network, np.zeros((4, 7, 3), "float32"), np.zeros((4, 7, 1), "float32"))
>>> training = Training(network, samples, rnn_gpu.optimizers.Adam(), Settings(epochs=2))
>>> losses = [update.loss for update in training]
"""

from .network.batches import Samples, held_out
from .network.counting import Counting
from .network.gradients import Ways, forward_backward
from .network.sources import Source
from .network.training import History, Settings, Training, Update
from .network.update import Clipping, train_step

__all__ = [
    "Clipping",
    "Counting",
    "History",
    "Samples",
    "Settings",
    "Source",
    "Training",
    "Update",
    "Ways",
    "forward_backward",
    "held_out",
    "train_step",
]
