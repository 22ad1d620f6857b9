"""What tasks have in common whose samples are labelled sequences."""

from typing import Any

from ..datasets import Sequences
from ..network import Network


class Labelled:
    """Parts of data, "train", "validation" and "test", as a network takes them."""

    parts: dict[str, Sequences]

    def sequences(self, name: str) -> Sequences:
        """A part as `fit` takes it."""
        return self.parts[name]

    at_end = sequences

    def final(self, network: Network) -> Network:
        """The network as it is used."""
        return network

    def title(self, found: dict) -> str:
        """Of the picture."""
        return f"test accuracy {found['accuracy']:.4f}"

    def draw(self, path: Any, title: str, history: dict, network: Network, found: dict):
        """Losses, accuracies, and how the gradient fares."""
        from .pictures import learning_picture

        learning_picture(path, title, history, network, self.parts["train"])
