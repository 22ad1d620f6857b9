"""What `Network.fit` is made of, for whoever trains by hand: samples, their batches, one update."""

from .network.training import History, Samples, forward_backward, train_step

__all__ = ["History", "Samples", "forward_backward", "train_step"]
