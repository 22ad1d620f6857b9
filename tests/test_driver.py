"""What stands between the host and a card: cuBLAS, flat arguments, kernels as machine code."""

import threading
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from programs import python
from rnn_gpu.kernels.devices.cuda import cublas, precision
from rnn_gpu.kernels.devices.cuda.driver import Facts, driver, played_by
from rnn_gpu.kernels.emulator.blas import Blas, memory_at

rng = np.random.default_rng(0)


class OnCard:
    """What the host asks of an array of CuPy's."""

    def __init__(self, a):
        self.a, self.shape, self.strides, self.dtype = a, a.shape, a.strides, a.dtype
        self.itemsize, self.data = a.itemsize, SimpleNamespace(ptr=a.ctypes.data)

    def fill(self, value):
        self.a.fill(value)


class Memory:
    """What cupy.cuda.alloc gives, aligned as that is."""

    def __init__(self, count):
        self.whole = np.zeros(count + 256, np.uint8)
        self.ptr = -(-self.whole.ctypes.data // 256) * 256


class Played:
    """A driver whose cuBLAS is NumPy."""

    def __init__(self):
        self.blas = Blas(memory_at, precision.rounded)
        self.arrays = SimpleNamespace(cuda=SimpleNamespace(alloc=Memory))

    def facts(self, device):
        return Facts("played", (9, 0), 1, 65_536, 232_448)

    def cublas(self):
        return self.blas


@pytest.fixture
def card():
    played = Played()
    yield played
    cublas.handles.known.clear()


def multiply(card, a, b, how="fp32", out=None, stream=0):
    add = out is not None
    out = out if add else np.full((len(a), b.shape[1]), np.nan, a.dtype)
    cublas.products(card, 0, stream, (OnCard(a), OnCard(b), OnCard(out)), how, add)(0)
    return out


def drawn(rows, columns, dtype, transposed):
    a = rng.normal(size=(columns, rows) if transposed else (rows, columns)).astype(dtype)
    return a.T if transposed else a


SIZES = [(2, 3, 4), (1, 5, 3), (4, 1, 2), (3, 4, 1), (1, 1, 1), (1, 7, 1), (5, 0, 2)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("R, K, C", SIZES, ids=str)
def test_a_product_of_our_rows_is_that_of_its_columns(card, R, K, C, turned, dtype):
    a, b = drawn(R, K, dtype, turned[0]), drawn(K, C, dtype, turned[1])
    np.testing.assert_allclose(multiply(card, a, b), a @ b, rtol=1e-5, atol=1e-6)
    before = rng.normal(size=(R, C)).astype(dtype)
    after = multiply(card, a, b, out=before.copy())
    np.testing.assert_allclose(after, before + a @ b, rtol=1e-5, atol=1e-6)


def test_rows_of_a_larger_matrix_are_found(card):
    whole = rng.normal(size=(9, 4)).astype("f")
    a, b = whole[3:7], rng.normal(size=(4, 5)).astype("f")
    np.testing.assert_allclose(multiply(card, a, b), a @ b, rtol=1e-5)
    np.testing.assert_allclose(multiply(card, whole[:, 1:3], b[:2]), whole[:, 1:3] @ b[:2], 1e-5)


def test_a_product_of_each_of_a_stack(card):
    stack, b = rng.normal(size=(3, 2, 4)).astype("f"), rng.normal(size=(4, 5)).astype("f")
    out = np.empty((2, 5), "f")
    matrices = OnCard(stack[0]), OnCard(b), OnCard(out)
    multiply = cublas.products(card, 0, 0, matrices, "fp32", False, stack.strides[0])
    for t in (2, 0, 1, 1):
        multiply(t)
        assert (out == stack[t] @ b).all()


def test_nothing_is_asked_for_an_empty_product(card):
    multiply(card, np.ones((0, 3), "f"), np.ones((3, 2), "f"))
    assert not card.blas.products


def test_a_matrix_that_is_contiguous_neither_way_is_refused(card):
    a = np.ones((4, 6), "f")[::2, ::2]
    with pytest.raises(ValueError, match="matrix of strides"):
        multiply(card, a, np.ones((3, 2), "f"))


def test_each_product_says_its_precision(card):
    a, b = drawn(3, 4, "f", False), drawn(4, 2, "f", False)
    strict, tf32 = multiply(card, a, b), multiply(card, a, b, "tf32")
    assert (strict == a @ b).all()
    assert (tf32 == precision.rounded(a) @ precision.rounded(b)).all() and (tf32 != strict).any()
    assert [one[3] for one in card.blas.products] == ["fp32", "tf32"]


def test_a_handle_is_one_threads_and_has_its_workspace_on_every_stream(card):
    a = np.ones((2, 2), "f")
    for stream in (0, 5, 5, 7):
        multiply(card, a, a, stream=stream)
        assert card.blas.streams == {1: stream} and card.blas.workspaces == {1: 32 << 20}
    other = threading.Thread(target=multiply, args=(card, a, a))
    other.start()
    other.join()
    assert card.blas.handles == 2


def test_a_status_is_an_error(card, monkeypatch):
    monkeypatch.setattr(card.blas, "cublasGemmEx", lambda *given: 13)
    with pytest.raises(RuntimeError, match="cublasGemmEx fails with status 13"):
        multiply(card, np.ones((2, 2), "f"), np.ones((2, 2), "f"))


def test_drivers_take_turns():
    mine, other = driver(), Played()
    with played_by(other):
        assert driver() is other
        assert import_module("rnn_gpu.kernels.devices.cuda.launch").arrays() is other.arrays
    assert driver() is mine


KINDS = """
from types import SimpleNamespace
try:
    from numba import cuda
    from numba.cuda.cudadrv.devicearray import DeviceNDArray
except (ImportError, RuntimeError) as error:
    print(f"skip: {error}")
    raise SystemExit
import numpy as np
from rnn_gpu.kernels import Backward, Forward
from rnn_gpu.kernels.devices.cuda.contract import Bounds
from importlib import import_module

launch = import_module("rnn_gpu.kernels.devices.cuda.launch")


class Flags(dict):
    c_contiguous = True


class Array(DeviceNDArray):
    @property
    def data(self):
        return SimpleNamespace(ptr=256)

    itemsize = property(lambda self: self.dtype.itemsize)
    flags = Flags(C_CONTIGUOUS=True, F_CONTIGUOUS=False)


def array(*shape, dtype=np.float32):
    strides = np.empty(shape, dtype).strides
    return Array(shape, strides, np.dtype(dtype), gpu_data=SimpleNamespace(size=1 << 20))


@cuda.jit
def kernel(call):
    pass


a, flags = array(2, 3, 4, 5), array(2, 3, dtype=np.uint8)
bounds = Bounds(np.float32(1), np.float32(2), flags)
for call in (
    a,
    7,
    np.float64(3),
    Forward(a, a, a, a, a, flags, ()),
    Backward(a, a, a, a, flags, a, a, a, (), ()),
    Backward(a, a, a, a, flags, a, a, a, bounds, ()),
    (a, a),
    (),
):
    values, (kind,) = launch.flat((call,))
    print(launch.type_of(kind) == kernel.typeof_pyval(call), len(values))
"""


def test_the_type_of_an_argument_is_the_one_that_numba_would_find():
    """Without a GPU: what the dispatcher is given there, with arrays that lie nowhere."""
    done = python(KINDS, NUMBA_ENABLE_CUDASIM=None)
    if done.stdout.startswith("skip"):
        pytest.skip(done.stdout)
    array, flags = 5 + 4 + 4, 5 + 2 + 2
    counts = [array, 1, 1, 5 * array + flags, 7 * array + flags, 7 * array + 2 * flags + 2]
    assert done.stdout.split() == [
        word for count in [*counts, 2 * array, 0] for word in ("True", str(count))
    ]


def test_an_array_with_gaps_is_no_argument():
    launch = import_module("rnn_gpu.kernels.devices.cuda.launch")
    with pytest.raises(ValueError, match="strides"):
        launch.flat((np.ones((4, 4), "f")[:, ::2],))
