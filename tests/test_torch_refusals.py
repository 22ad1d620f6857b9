"""What modules of rnn_gpu.torch refuse at the door, and in what words. Skipped without torch."""

import pytest

torch = pytest.importorskip("torch")

import rnn_gpu.torch as ours
from door import refuses, table
from rnn_gpu import (
    ArgumentError,
    DeviceError,
    DtypeError,
    ShapeError,
)
from rnn_gpu.bridges.torch.base import KindError, SizeError
from torch_pairs import (
    H,
    M,
    N,
    X,
)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        (
            "projection",
            lambda: ours.GRU(M, N, proj_size=2),
            ArgumentError,
            "proj_size argument is only supported for LSTM",
        ),
        ("size", lambda: ours.GRU(M, 0), ValueError, "hidden_size must be greater than zero"),
        ("layers", lambda: ours.GRU(M, N, 0), ValueError, "num_layers must be greater than zero"),
        (
            "dropout",
            lambda: ours.GRU(M, N, 2, dropout=1.5),
            ValueError,
            "dropout should be a number in range",
        ),
        (
            "activation",
            lambda: ours.RNN(M, N, nonlinearity="tanhh"),
            ArgumentError,
            "activation is 'tanhh', expected one of",
        ),
        (
            "cell",
            lambda: ours.Recurrent("lstmm", M, N),
            ArgumentError,
            "cell is 'lstmm', expected one of",
        ),
        (
            "rank",
            lambda: ours.GRU(M, N)(X[0, 0]),
            ShapeError,
            "GRU: Expected input to be 2D or 3D, got 1D instead",
        ),
        (
            "features",
            lambda: ours.GRU(M, N, batch_first=True)(X[..., 1:]),
            SizeError,
            r"input.size\(-1\) must be equal to input_size. Expected 4, got 3",
        ),
        (
            "no steps",
            lambda: ours.GRU(M, N)(X[:0]),
            SizeError,
            "Expected sequence length to be larger than 0 in RNN",
        ),
        (
            "dtype",
            lambda: ours.GRU(M, N)(X.double()),
            DtypeError,
            r"RNN input dtype \(torch.float64\) does not match weight dtype \(torch.float32\)",
        ),
        (
            "state's dtype",
            lambda: ours.GRU(M, N)(X, H.double()),
            DtypeError,
            "hx is torch.float64, but the parameters are",
        ),
        (
            "state's shape",
            lambda: ours.GRU(M, N, 2)(X, H),
            SizeError,
            r"Expected hidden size \(2, 3, 7\), got \[1, 3, 7\]",
        ),
        (
            "one state",
            lambda: ours.LSTM(M, N)(X, H),
            ShapeError,
            "hx is a Tensor, expected a tuple of 2 tensors",
        ),
        (
            "three states",
            lambda: ours.LSTM(M, N)(X, (H, H, H)),
            ShapeError,
            "hx is a tuple of 3, expected a tuple of 2 tensors",
        ),
        ("no state", lambda: ours.GRU(M, N)(X, 0), ShapeError, "hx is 0, expected a tensor"),
        (
            "bias",
            lambda: ours.LSTM(M, N, bias="False"),
            KindError,
            "bias should be of type bool, got: str",
        ),
        (
            "bias by place",
            lambda: ours.LSTM(M, N, 1, 0),
            KindError,
            "bias should be of type bool, got: int",
        ),
        (
            "batch_first",
            lambda: ours.GRU(M, N, batch_first="no"),
            KindError,
            "batch_first should be of type bool, got: str",
        ),
        (
            "bidirectional",
            lambda: ours.RNN(M, N, bidirectional=2),
            ArgumentError,
            "bidirectional is 2, expected True or False",
        ),
        (
            "tape",
            lambda: ours.RNN(M, N)(X, tape="no"),
            ArgumentError,
            "tape is 'no', expected True or False",
        ),
        (
            "device",
            lambda: ours.GRU(M, N)(X.to("meta")),
            DeviceError,
            "input is on meta, but the parameters are on cpu",
        ),
        (
            "value",
            lambda: ours.GRU(M, N, clip_step_value=0),
            ArgumentError,
            "clip_step_value is 0, expected a number above 0",
        ),
        (
            "norm",
            lambda: ours.RNN(M, N, clip_step_norm="1"),
            ArgumentError,
            "clip_step_norm is '1', expected a number above 0",
        ),
    ),
)
def test_what_cannot_be_is_refused(call, error, message):
    refuses(error, f"^{message}", call)


LIVE = X[..., 0] > 0


@pytest.mark.parametrize("name", ["mask", "resets"])
@pytest.mark.parametrize(
    ("rows", "x", "values", "error", "message"),
    table(
        ("floats", False, X, X[..., 0], DtypeError, "is float32, expected booleans"),
        ("axes", False, X, LIVE.T, ShapeError, r"has shape \(3, 5\), expected \(5, 3\), \(T, B\)"),
        (
            "rows first",
            True,
            X,
            LIVE.T,
            ShapeError,
            r"has shape \(3, 5\), expected \(5, 3\), \(B, T\)",
        ),
        (
            "no batch",
            False,
            X[:, 0],
            LIVE,
            ShapeError,
            r"has shape \(5, 3\), expected \(5,\), \(T\)",
        ),
        (
            "packed",
            False,
            torch.nn.utils.rnn.pack_sequence([X[:, 0]]),
            LIVE,
            ArgumentError,
            "is given with a PackedSequence",
        ),
    ),
)
def test_masks_and_resets_are_refused(name, rows, x, values, error, message):
    refuses(
        error, f"^{name} {message}", lambda: ours.GRU(M, N, batch_first=rows)(x, **{name: values})
    )
