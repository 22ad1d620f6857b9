"""What torch.onnx.export needs to know of our operators: ONNX's own RNN, LSTM and GRU, as cells
name them (see rnn_gpu.bridges.onnx).
"""

from importlib import import_module

from ...errors import UnsupportedError
from ...kernels import Cell
from ..registry import cell_named
from .operators import FORWARD, How


def onnx_translations() -> dict:
    """A table for torch.onnx.export(…, dynamo=True, custom_translation_table=…), which then knows
    the modules of rnn_gpu.torch, with T and B free.

    Raises ImportError without onnxscript, which torch.onnx.export needs, too; and that export
    raises UnsupportedError, as the cause of its own error, for a cell that ONNX has not, and for
    masks, resets and a PackedSequence.
    """
    op = import_module("onnxscript").opset18

    def forward(x, s0, U, W, b, c, flags, *how):
        return as_onnx(op, (x, s0), (U, W, b, c), flags, How(*how))

    return {FORWARD: forward}


def as_onnx(op, given, weights, flags, how: How) -> tuple:
    """rnn_gpu::forward as nodes; op: onnxscript's operators.  Results as of the operator, but that
    those which only the way back reads are zero.
    """
    cell, (x, s0), (U, W, b, c) = cell_named(how.cell), given, weights
    if cell.onnx is None:
        raise UnsupportedError(f"cell is {cell.name!r}, which ONNX does not have")
    if flags is not None:
        raise UnsupportedError("mask, resets and lengths of samples: ONNX's operators have no such")
    first = op.Constant(value_ints=[0])
    n = W.shape[1]
    rows = op.Constant(value_ints=[k * n + j for k in cell.onnx.gates for j in range(n)])
    weights = [op.Unsqueeze(op.Gather(a, rows, axis=0), first) for a in (U, W)]
    zero = op.CastLike(op.Constant(value_float=0.0), b)
    recurrent = op.Mul(b, zero) if c is None else c
    biases = op.Concat(*(op.Gather(a, rows, axis=0) for a in (b, recurrent)), axis=0)
    states = [
        op.Slice(s0, op.Constant(value_ints=[k]), op.Constant(value_ints=[k + 1]), first)
        for k in range(cell.states)
    ]
    y, *last = getattr(op, cell.onnx.name)(
        x,
        *weights,
        op.Unsqueeze(biases, first),
        None,
        *states,
        hidden_size=n,
        direction="reverse" if how.reverse else "forward",
        **dict(cell.onnx.attributes),
    )
    last = op.Concat(*last, axis=0) if len(last) > 1 else last[0]
    return op.Squeeze(y, op.Constant(value_ints=[1])), last, *unread(op, x, W, cell)


def unread(op, x, W, cell: Cell) -> tuple:
    """Zeros in the place of s (S, T+1, B, n), kept (T, B, K, n) and cut, which nobody reads."""
    T, B = (
        op.Slice(op.Shape(x), *(op.Constant(value_ints=[k + i]) for i in (0, 1))) for k in (0, 1)
    )
    one, n = op.Constant(value_ints=[1]), op.Constant(value_ints=[W.shape[1]])
    S, K = op.Constant(value_ints=[cell.states]), op.Constant(value_ints=[cell.kept])
    shapes = (S, op.Add(T, one), B, n), (T, B, K, n)
    zeros = (op.ConstantOfShape(op.Concat(*shape, axis=0)) for shape in shapes)
    return *(op.CastLike(a, x) for a in zeros), op.Constant(value_int=0)
