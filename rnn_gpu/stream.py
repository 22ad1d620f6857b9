"""Inference on sequences as they come: see Stream."""

from .network.stream import Stream

__all__ = ["Stream"]
