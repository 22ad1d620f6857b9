"""Layers: parameters, and the way of an array through them, forward and backward. They know nothing
about devices.
"""

from .base import Layer
from .directions import Bidirectional, stack
from .recurrent import GRU, LSTM, RNN, DeltaTape, Recurrent
from .stateless import Dense, Dropout, Embedding

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "DeltaTape",
    "Dense",
    "Dropout",
    "Embedding",
    "Layer",
    "Recurrent",
    "stack",
]
