"""A network in a table: layers, shapes, parameters, bytes."""

from typing import Any, NamedTuple

import numpy as np

from .. import outline


class LayerSummary(NamedTuple):
    """One layer."""

    words: str  # the call that makes it
    output: str  # the shape of what it gives
    shapes: dict[str, tuple[int, ...]]  # of its parameters by name
    parameters: int  # numbers
    bytes: int


class Summary(NamedTuple):
    """What `network.summary()` returns: print it, or read its layers.

    parameters and bytes are those of all layers; training has gradients beside them, as many again,
    and the optimizer's moments. What a pass needs says `network.plan(T, B)`.
    """

    layers: list[LayerSummary]
    head: str  # device, dtype and loss in words
    output: str  # the shape of what `predict` gives of N samples
    parameters: int
    bytes: int

    def __repr__(self):
        rows = [("", "layer", "output", "parameters", "shapes")]
        for i, layer in enumerate(self.layers):
            shapes = ", ".join(f"{name} {shape}" for name, shape in layer.shapes.items())
            rows.append((str(i), layer.words, layer.output, f"{layer.parameters:,}", shapes))
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        lines = [
            f"{i:>{widths[0]}}  {words:<{widths[1]}}  {output:<{widths[2]}}  {count:>{widths[3]}}"
            f"  {shapes}".rstrip()
            for i, words, output, count, shapes in rows
        ]
        ends = f"{self.parameters:,} parameters, {self.bytes:,} bytes; predict gives {self.output}"
        return "\n".join([self.head, *lines, ends])

    __str__ = __repr__


def summary(network) -> Summary:
    """Layers, the shapes of what they give and of their parameters, the device, bytes."""
    layers, size, rows = [], network.input_size, "T, B" if network.recurrent else "B"
    for layer in network.layers:
        size = layer.output_size or size
        arrays = layer.parameters
        layers.append(
            LayerSummary(
                short(layer),
                f"({rows}, {size})",
                {name: tuple(a.shape) for name, a in arrays.items()},
                sum(a.size for a in arrays.values()),
                sum(a.size * np.dtype(a.dtype).itemsize for a in arrays.values()),
            )
        )
    every = network.recurrent and network.steps == "every"
    settings = f"{network.device}, {network.dtype}; loss {network.objective.loss.name}"
    return Summary(
        layers,
        f"Network on {settings}, steps {network.steps}",
        f"N of (T, {size})" if every else f"(N, {size})",
        sum(layer.parameters for layer in layers),
        sum(layer.bytes for layer in layers),
    )


def short(layer: Any) -> str:
    """The call that makes a layer, without what the head says, and seeds."""
    parts = layer.recurrent if len(layer.recurrent) > 1 else ()
    if parts:
        return f"Bidirectional({short(parts[0])})"
    settings = {key: value for key, value in layer.config().items() if key != "seed"}
    return outline.call(layer, settings)
