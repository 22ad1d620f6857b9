"""Arrays from anywhere: taken by DLPack without a copy, given back as the caller's kind; what lives
elsewhere is refused.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from door import refuses, results, same, table
from rnn_gpu import (
    GRU,
    LSTM,
    ArgumentError,
    Dense,
    DeviceError,
    DtypeError,
    Network,
    ShapeError,
    Stream,
    arguments,
)
from rnn_gpu.kernels.devices.cuda.driver import Hardware, played_by

T, B, M, N = 5, 3, 4, 7
X = np.random.default_rng(0).normal(size=(T, B, M)).astype("float32")


class Foreign:
    """An array of another library, as far as DLPack tells; this module is that library."""

    def __init__(self, a, kind=1):
        self.a, self.kind = a, kind

    dtype = property(lambda self: self.a.dtype)
    shape = property(lambda self: self.a.shape)

    def __dlpack__(self, **options):
        return self.a.__dlpack__()

    def __dlpack_device__(self):
        return self.kind, 0


def from_dlpack(a):
    return Foreign(np.from_dlpack(a))


def libraries():
    yield "foreign", lambda a: Foreign(a)
    for name, make in (
        ("torch", lambda torch, a: torch.from_numpy(a)),
        ("jax", lambda jax, a: jax.numpy.asarray(a)),
    ):
        yield name, lambda a, name=name, make=make: make(pytest.importorskip(name), a)


@pytest.fixture(params=[make for _, make in libraries()], ids=[name for name, _ in libraries()])
def make(request):
    return request.param


def plain(a):
    return np.from_dlpack(a)


def test_an_array_is_taken_without_a_copy(make):
    a = make(X)
    assert np.shares_memory(arguments.as_array("x", a, "float32"), plain(a))


def test_the_result_is_of_the_callers_kind(make, device):
    network = Network([LSTM(M, N, device=device), Dense(N, 2, device=device)])
    state = (np.ones((B, N), "float32"), np.zeros((B, N), "float32"))
    expected = results(network, X, np.ones((T, B, 2), "float32"), [state], lengths=[5, 1, 3])
    y, ((h, c),) = network(make(X), [tuple(map(make, state))], lengths=make(np.array([5, 1, 3])))
    dx, ((dh, dc),) = network.backward(make(np.ones((T, B, 2), "float32")))
    for name, a in {
        "y": y,
        "last[0][0]": h,
        "last[0][1]": c,
        "dx": dx,
        "first[0][0]": dh,
        "first[0][1]": dc,
    }.items():
        assert type(a) is type(make(X))
        same(np.array(plain(a)), expected[name])


def test_layers_and_streams_give_the_callers_kind(make):
    layer = GRU(M, N, device="reference")
    y, _ = layer(make(X))
    dx, _ = layer.backward(y)
    dense = Dense(M, 2, device="reference")
    more = [
        dense(make(X)),
        dense.backward(make(np.ones((T, B, 2), "float32"))),
        Stream(Network([layer]))(make(X[0])),
    ]
    assert {type(a) for a in (y, dx, *more)} == {type(make(X))}


def test_writing_into_a_result_leaves_backward_alone(make):
    layer = GRU(M, N, device="reference")
    dy = np.ones((T, B, N), "float32")
    expected = results(layer, X, dy)["dx"]
    y, h = layer(make(X))
    if isinstance(y, Foreign):
        y.a[...], h.a[...] = np.nan, np.nan
    elif hasattr(y, "fill_"):
        y.fill_(np.nan), h.fill_(np.nan)
    same(np.array(plain(layer.backward(make(dy))[0])), expected)


def test_sequences_of_another_library_are_learnt_from(make):
    x, y = [X[:, b] for b in range(B)], [np.zeros(2, "float32")] * B

    def curve(kind):
        network = Network(
            [GRU(M, N, device="reference"), Dense(N, 2, device="reference")], steps="last"
        )
        return network.fit(
            [kind(np.array(a)) for a in x], [kind(a) for a in y], epochs=2, progress=False
        )["step_loss"]

    assert curve(make) == curve(np.array)


LAYER = GRU(M, N, device="cpu")
ON_GPU = Foreign(X, kind=2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        (
            "dtype",
            lambda: LAYER(Foreign(X.astype("float64"))),
            DtypeError,
            "x is float64, but this was built for float32",
        ),
        (
            "shape",
            lambda: LAYER(Foreign(X[0])),
            ShapeError,
            r"x has shape \(3, 4\), expected 3 axes",
        ),
        (
            "state",
            lambda: LAYER(X, Foreign(X[0])),
            ShapeError,
            r"state has shape \(3, 4\), expected 7 on axis 1",
        ),
        (
            "complex",
            lambda: LAYER(Foreign(X.astype("complex64"))),
            DtypeError,
            "x is complex64, but this was built for float32",
        ),
    ),
)
def test_an_array_of_another_library_is_checked_as_ours_are(call, error, message):
    refuses(error, f"^{message}", call)


def test_an_array_on_a_gpu_is_for_the_gpu(monkeypatch):
    """Without CuPy it cannot be taken; with it (here: a module that takes it) a layer on the CPU
    refuses it.
    """
    monkeypatch.setitem(sys.modules, "cupy", None)
    card = Hardware()
    with played_by(card):
        refuses(
            DeviceError,
            "^x is on a GPU, but what takes it there is not installed",
            lambda: LAYER(ON_GPU),
        )

    class OnGPU(np.ndarray):
        def __dlpack_device__(self):
            return 2, 0

    gpu = np.ones_like
    card.arrays = SimpleNamespace(ndarray=OnGPU, from_dlpack=lambda a: X.view(OnGPU))
    message = "^x is on a GPU, but device is 'cpu': say device='cuda'"
    with played_by(card):
        refuses(DeviceError, message, lambda: LAYER(ON_GPU))
    y, h = LAYER(X)
    refuses(DeviceError, "^dy is on a GPU", lambda: LAYER.backward(gpu(y).view(OnGPU)))
    refuses(DeviceError, "^state is on a GPU", lambda: LAYER(X, gpu(h).view(OnGPU)))


def test_a_tensor_with_a_gradient_says_what_to_do():
    torch = pytest.importorskip("torch")
    refuses(
        ArgumentError,
        "^x, a Tensor, cannot be taken by DLPack: .*detach",
        lambda: LAYER(torch.from_numpy(X).requires_grad_()),
    )
