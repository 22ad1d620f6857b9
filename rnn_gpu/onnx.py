"""A network as an ONNX graph: see `export`."""

from .bridges.onnx import export

__all__ = ["export"]
