"""Callbacks for `Network.fit(…, callbacks=[…])`: ready ones, and Callback for your own.

>>> from rnn_gpu.callbacks import BestModel, Callback
>>> class Enough(Callback):
...     def on_epoch(self, training):
...         if training.history["loss"][-1] < 0.01:
...             training.stop()
"""

from .network.best import BestModel, EarlyStopping, ReduceOnPlateau
from .network.callbacks import Callback, Checkpoint, Validation
from .network.logs import CSVLog, TensorBoard
from .network.progress import Progress

__all__ = [
    "BestModel",
    "CSVLog",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "Progress",
    "ReduceOnPlateau",
    "TensorBoard",
    "Validation",
]
