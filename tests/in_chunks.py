"""What the tests of chunks side by side share: layers that forget and that do not, and the
comparison with the same step by step.
"""

import numpy as np

import rnn_gpu
from conftest import RTOL

T, B, M, N = 203, 2, 3, 5
CUT = (4, 11)  # chunks, warm-up
TOLERANCE = {"float64": 1e-11, "float32": 1e-6}
KINDS = {"elman_tanh": rnn_gpu.RNN, "gru": rnn_gpu.GRU, "lstm": rnn_gpu.LSTM}
RNG = np.random.default_rng(7)


def draw(*shape, dtype="float64"):
    return RNG.normal(size=shape).astype(dtype)


def forgetful(kind, device="reference", dtype="float64", **options):
    """A layer that forgets what was some steps before."""
    layer = kind(M, N, device=device, dtype=dtype, **options)
    layer.parameters["W"][...] *= 0.1
    if layer.cell.gates > 1:  # of a GRU the update gate, of an LSTM the forget gate
        layer.parameters["b"][N : 2 * N] = -2
    return layer


def numbers(value):
    """All arrays of what a call gives, flat."""
    if isinstance(value, (tuple, list)):
        return [a for one in value for a in numbers(one)]
    return [value.get() if hasattr(value, "get") else np.asarray(value)]


def close(a, b, rtol):
    for one, other in zip(numbers(a), numbers(b), strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= rtol * max(1.0, np.abs(other).max())


def both_ways(model, x, dy, *, parallel, dstate=None, back=None, **called):
    """All that a call and its backward give, in chunks or step by step."""
    tolerance = TOLERANCE[model.dtype]
    y, state = model(x, parallel=parallel, tolerance=tolerance, **called)
    dx, ds = model.backward(dy, dstate, **(back or {}))
    more = [model.dreset_state] if "reset_state" in called else []
    return [y, state, dx, ds, *model.grads.values(), *more]


def same_in_chunks(model, x=None, *, back=None, rtol=None, cut=CUT, **called):
    """Assert that chunks give what steps give, both ways."""
    dtype = model.dtype
    x = draw(T, B, M, dtype=dtype) if x is None else x
    dy = draw(*x.shape[:2], model.output_size, dtype=dtype)
    wanted = both_ways(model, x, dy, parallel=False, back=back, **called)
    found = both_ways(model, x, dy, parallel=cut, back=back, **called)
    close(found, wanted, rtol or 10 * RTOL[dtype])


def remembering(name, **options):
    """A layer that does not forget."""
    if name == "bistable":
        layer = rnn_gpu.RNN(M, N, **options)
        layer.parameters["W"][...] = 3 * np.eye(N)
    elif name == "chaotic":
        layer = rnn_gpu.RNN(M, 32, **options)
        layer.parameters["W"][...] *= 3
        layer.parameters["U"][...] *= 0.1
    elif name == "relu":
        layer = rnn_gpu.RNN(M, N, "relu", **options)
        layer.parameters["W"][...] = np.eye(N)
        layer.parameters["U"][...] = np.abs(layer.parameters["U"]) / 100
    else:
        layer = rnn_gpu.LSTM(M, N, **options)
        layer.parameters["b"][N : 2 * N] = float(name)
    return layer
