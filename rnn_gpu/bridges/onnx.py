"""A network as an ONNX graph, for ONNX Runtime and what else reads it: T and B are free, states go
in and come out.

ONNX's own RNN, LSTM and GRU operators, as cells and activations name them, with their orders of
gates (see kernels.Operator).
"""

import itertools
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import UnsupportedError
from ..kernels import Activation, Cell, Operator
from ..kernels.activations import ACTIVATIONS
from ..kernels.cells import CELLS
from ..layers import Bidirectional, Dense, Dropout, Embedding, Recurrent
from ..network import Network
from .weights import by_gates

OPSET = 17
# and no other
WITHIN_RNN = (
    "Affine",
    "Elu",
    "HardSigmoid",
    "LeakyRelu",
    "Relu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Tanh",
)


class Graph:
    """Nodes, constants, inputs and outputs as they are added; arrays have names."""

    def __init__(self, dtype):
        self.number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.nodes, self.constants, self.inputs, self.outputs = [], [], [], []

    def node(self, operator, *inputs, outputs=1, **attributes):
        """Add a node; the names of its outputs, or the one name."""
        names = [f"{operator}_{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names if outputs > 1 else names[0]

    def constant(self, a):
        """Add an array; its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(a), name))
        return name

    def input(self, name, *shape, number=None):
        """Add an input of the graph; its name.  number: of ONNX's types, None is the graph's."""
        self.inputs.append(helper.make_tensor_value_info(name, number or self.number, shape))
        return name

    def optional(self, name, *shape):
        """Add an input of the graph that is zero where none is given; its name.  What is given may
        have more rows than the zero's one.
        """
        zero = np.zeros([1 if isinstance(size, str) else size for size in shape])
        number = helper.tensor_dtype_to_np_dtype(self.number)
        self.constants.append(numpy_helper.from_array(zero.astype(number), name))
        return self.input(name, *shape)

    def output(self, value, name, *shape):
        """Let a value leave the graph under this name."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, self.number, shape))


def export(network: Network, path):
    """Write the network, as it computes outside training, to an ONNX file.

    inputs   x (T, B, m), or int64 symbols (T, B) if the first layer is an Embedding, or (B, m)
             without recurrent layers; then for recurrent layer i `state_i` (B, n), or `state_i_0`,
             `state_i_1` (h and c of an LSTM), each zero where it is not given
    outputs  y (T, B, k), every step whatever network.steps says, or (B, k); then `last_i`, as the
             states

    Raises UnsupportedError for a cell or an activation that names no operator of ONNX's, and for
    zoneout.
    """
    graph, time = Graph(network.dtype), ["T"] if network.recurrent else []
    symbols = isinstance(network.layers[0], Embedding)
    x = graph.input(
        "x",
        *time,
        "B",
        *([] if symbols else [network.input_size]),
        number=TensorProto.INT64 if symbols else None,
    )
    last, count = [], itertools.count()
    for i, layer in enumerate(network.layers):
        if isinstance(layer, Embedding) and i == 0:
            x = graph.node("Gather", graph.constant(own(layer)["V"].T), x)
        elif isinstance(layer, Dense):
            x = dense(graph, layer, x)
        elif isinstance(layer, Bidirectional):
            x = graph.node(
                "Concat",
                *(recurrent(graph, one, next(count), x, last) for one in layer.recurrent),
                axis=2,
            )
        elif isinstance(layer, Recurrent):
            x = recurrent(graph, layer, next(count), x, last)
        elif not isinstance(layer, Dropout):
            raise UnsupportedError(
                f"layer {i} is a {type(layer).__name__}, which has no ONNX operator"
            )
    graph.output(x, "y", *time, "B", network.output_size)
    for name, value, n in last:
        graph.output(value, name, "B", n)
    made = helper.make_graph(graph.nodes, "rnn_gpu", graph.inputs, graph.outputs, graph.constants)
    options = {
        "opset_imports": [helper.make_opsetid("", OPSET)],
        "ir_version": 8,
        "producer_name": "rnn_gpu",
    }
    model = helper.make_model(made, **options)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def own(layer):
    """The layer's parameters by name, as NumPy's arrays."""
    return {name: layer.backend.numpy(a) for name, a in layer.parameters.items()}


def dense(graph, layer, x):
    """The nodes of a Dense layer; the name of its output."""
    θ, activation = own(layer), layer.activation
    operator = operator_of("activation", activation, ACTIVATIONS)
    x = graph.node("MatMul", x, graph.constant(θ["V"].T))
    x = graph.node("Add", x, graph.constant(θ["b"])) if "b" in θ else x
    return graph.node(operator.name, x, **dict(operator.attributes))


def operator_of(what, formula: Cell | Activation, ours) -> Operator:
    """ONNX's operator for a cell or an activation."""
    if formula.onnx is None:
        have = ", ".join(name for name, one in ours.items() if one.onnx)
        raise UnsupportedError(
            f"{what} is {formula.name!r}, which ONNX does not have: it has {have}"
        )
    return formula.onnx


def recurrent(graph, layer, i, x, last):
    """The node of recurrent layer i, one direction; the outputs of every step. Adds (name, value,
    n) of its last states to `last`.
    """
    θ, cell, n = own(layer), layer.cell, layer.hidden_size
    if layer.noise.zoneout:
        raise UnsupportedError(
            f"zoneout is {layer.zoneout!r}: outside training it mixes states, which ONNX's "
            "operators do not"
        )
    operator = operator_of("cell", cell, CELLS)
    options: dict[str, Any] = dict(operator.attributes)
    for name in options.get("activations", ()):
        if name not in WITHIN_RNN:
            raise UnsupportedError(
                f"cell is {cell.name!r}, but ONNX has no {name} in its {operator.name}: "
                f"{', '.join(WITHIN_RNN)}"
            )
    θ = {name: by_gates(a, operator.gates) for name, a in θ.items()}
    biases = np.concatenate([θ["b"], θ.get("c", np.zeros_like(θ["b"]))])
    names = [f"{i}_{k}" for k in range(cell.states)] if cell.states > 1 else [f"{i}"]
    axis = graph.constant(np.array([0]))
    B = graph.node("Gather", graph.node("Shape", x), graph.constant(np.array([1])))
    shape = graph.node("Concat", B, graph.constant(np.array([n])), axis=0)
    given = [graph.optional(f"state_{name}", "B or 1", n) for name in names]
    states = [graph.node("Unsqueeze", graph.node("Expand", state, shape), axis) for state in given]
    weights = [graph.constant(a[None]) for a in (θ["U"], θ["W"], biases)]
    direction = "reverse" if layer.reverse else "forward"
    y, *s = graph.node(
        operator.name,
        x,
        *weights,
        "",
        *states,
        outputs=1 + len(states),
        hidden_size=n,
        direction=direction,
        **options,
    )
    last += [
        (f"last_{name}", graph.node("Squeeze", value, axis), n)
        for name, value in zip(names, s, strict=True)
    ]
    return graph.node("Squeeze", y, graph.constant(np.array([1])))
