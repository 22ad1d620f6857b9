"""A pass belongs to the thread that made it and to the weights that it saw; its parts are never
mixed with those of another.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from conftest import close
from door import (
    DOORS,
    MODELS,
    STATELESS,
    B,
    M,
    N,
    T,
    X,
    but,
    draw,
    network,
    refuses,
    same,
    table,
    way_back,
)
from rnn_gpu import GRU, LSTM, Bidirectional, Dense, Network, OrderError
from rnn_gpu.device import resolve
from rnn_gpu.layers import steps

BOTH = {"Bidirectional": lambda: Bidirectional(GRU(M, N, device="reference"))}
LIKE_X = MODELS | BOTH | {"Dense": STATELESS["Dense"]}
BUILDS = pytest.mark.parametrize("build", LIKE_X.values(), ids=LIKE_X)


def elsewhere(call):
    """What call() returns in a thread of its own; what it raises is raised here."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(call).result()


def output(model, x):
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


def gradients(model, y):
    """Of ½Σy², so that they are a function of x."""
    dx = model.backward(y)
    return {"dx": dx[0] if isinstance(dx, tuple) else dx} | {
        name: np.array(g) for name, g in model.grads.items()
    }


# Threads


@BUILDS
def test_the_way_back_of_another_threads_pass_is_refused(build):
    model = build()
    y = output(model, X)
    expected = gradients(model, y)
    elsewhere(lambda: output(model, 2 * X))
    message = (
        f"^{type(model).__name__}: another thread has called it since; give each thread a copy"
    )
    refuses(OrderError, message, lambda: model.backward(y))
    output(model, X)
    same(gradients(model, y), expected)


@BUILDS
def test_gradients_of_another_thread_are_not_taken_for_ones_own(build):
    model = build()
    y = output(model, X)
    gradients(model, y)
    elsewhere(lambda: gradients(model, output(model, 2 * X)))
    refuses(
        OrderError,
        f"^grads is of another thread, which has called this {type(model).__name__} since",
        lambda: model.grads,
    )


@BUILDS
def test_a_thread_that_only_looks_sees_the_gradients_of_the_one_that_computes(build):
    model, other = build(), build()
    elsewhere(lambda: gradients(model, output(model, X)))
    expected = gradients(other, output(other, X))
    same(
        {name: np.array(g) for name, g in model.grads.items()},
        {name: expected[name] for name in model.grads},
    )


@pytest.fixture
def in_a_hurry():
    """Threads take turns every few steps of the interpreter."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(model, threads: int, calls: int) -> tuple[int, int]:
    """(right gradients, OrderErrors) of so many calls in each of so many threads; anything else is
    raised.
    """
    twin = model.copy()
    given = [draw(T, B, M) for _ in range(threads)]
    expected = [gradients(twin, output(twin, x)) for x in given]
    begin = threading.Barrier(threads)

    def run(k):
        right = refused = 0
        begin.wait()
        for _ in range(calls):
            y = output(model, given[k])
            try:
                got = gradients(model, y)
            except OrderError:
                refused += 1
                continue
            same(got, expected[k])
            right += 1
        return right, refused

    with ThreadPoolExecutor(threads) as pool:
        counts = list(pool.map(run, range(threads)))
    return sum(right for right, _ in counts), sum(refused for _, refused in counts)


@BUILDS
@pytest.mark.parametrize(
    ("threads", "calls"), [(3, 40), pytest.param(4, 300, marks=pytest.mark.stress)]
)
def test_threads_that_share_a_model_get_right_gradients_or_an_error(
    threads, calls, build, in_a_hurry
):
    right, refused = at_once(build(), threads, calls)
    print(f"{right} right, {refused} refused")
    assert right + refused == threads * calls


def test_a_network_is_trained_by_one_thread_at_a_time():
    net, (x, y) = network(), ([draw(T, M)], [draw(T, 2)])
    tried = []

    def again():
        net.fit(x, y, epochs=1, progress=False)

    def train_elsewhere(net, history):
        refuses(
            OrderError,
            "^fit: this network is in fit already, here or in another thread",
            lambda: elsewhere(again),
        )
        tried.append(history)

    net.fit(x, y, epochs=1, progress=False, on_epoch=train_elsewhere)
    assert tried
    again()


# Weights


def written(model):
    return next(iter(model.parameters))


@BUILDS
@pytest.mark.parametrize(
    "write",
    table(
        ("an element", lambda a: a.__setitem__((0, 0), a[0, 0] + 1)),
        ("its last bit", lambda a: a.__setitem__((-1, -1), np.nextafter(a[-1, -1], np.float32(9)))),
        ("all", lambda a: a.__imul__(2)),
        ("two rows in turn", lambda a: a.__setitem__(slice(0, 2), a[1::-1].copy())),
    ),
)
def test_weights_that_were_written_after_the_way_forward_are_seen(build, write):
    model = build()
    y = output(model, X)
    write(model.parameters[written(model)])
    message = (
        f"^{type(model).__name__}: its parameters were written since it was called; call it on x "
        "again"
    )
    refuses(OrderError, message, lambda: model.backward(y))
    gradients(model, output(model, X))


def test_an_update_by_hand_between_the_ways_is_seen(device, dtype):
    layer, x = LSTM(M, N, device=device, dtype=dtype), draw(T, B, M, dtype=dtype)
    y, _ = layer(x)
    layer.backward(y)
    layer.backward(y)  # as often as one likes
    layer.parameters["W"] -= 0.1 * layer.grads["W"]
    refuses(OrderError, "^LSTM: its parameters were written", lambda: layer.backward(y))


@pytest.mark.parametrize("size", [1, 127, 128, 13 * 33])
def test_a_fingerprint_is_another_where_a_word_or_the_order_is(size, device, dtype):
    d, a = resolve(device), draw(size, dtype=dtype)
    others = [
        a,
        -a,
        np.nextafter(a, a + 1),
        np.roll(a, 1),
        a[::-1],
        but(a, size - 1, 0),
        but(a, 0, -a[0]),
    ]
    found = [int(d.fingerprint(d.array(other, dtype).view(np.uint32))) for other in others]
    assert int(d.fingerprint(d.array(a.copy(), dtype).view(np.uint32))) == found[0]
    assert len(set(found)) == len({other.tobytes() for other in others})


# What a pass gives


def test_delta_of_a_dense_layer_is_the_slope_before_its_activation(device, dtype):
    layer = Dense(M, N, "tanh", device=device, dtype=dtype)
    x, dy = draw(B, M, dtype=dtype), draw(B, N, dtype=dtype)
    y = layer(x)
    refuses(OrderError, "^delta is known after backward", lambda: layer.delta)
    layer.backward(dy)
    close(layer.backend.numpy(layer.delta), dy * (1 - y * y), dtype)
    close(layer.backend.numpy(layer.grads["b"]), (dy * (1 - y * y)).sum(0), dtype)
    layer(draw(T, B, M, dtype=dtype))
    layer.backward(draw(T, B, N, dtype=dtype))
    assert layer.delta.shape == (T, B, N)


@pytest.mark.parametrize("build", (DOORS | BOTH).values(), ids=DOORS | BOTH)
def test_an_empty_batch_goes_forward_and_back(build, device, dtype):
    model = build().copy(device, dtype)
    y, state = model(X[:, :0].astype(dtype), lengths=[])
    dx, dstate = model.backward(y)
    assert y.shape[:2] == (T, 0) and dx.shape == (T, 0, M)
    assert {name: g.shape for name, g in model.grads.items()} == {
        name: θ.shape for name, θ in model.parameters.items()
    }
    assert all((model.backend.numpy(g) == 0).all() for g in model.grads.values())
    again, _ = model(X[:, :0].astype(dtype), state, mask=np.ones((T, 0), bool), training=True)
    assert again.shape == y.shape


def test_an_empty_batch_of_rows_goes_forward_and_back(device):
    net = Network([Dense(M, N, device=device), Dense(N, 2, device=device)])
    y, _ = net(X[0, :0])
    dx, _ = net.backward(y)
    assert y.shape == (0, 2) and dx.shape == (0, M)


# A GPU's arrays


class Card:
    """What CuPy calls a device: it cannot be hashed."""

    id = 0
    __hash__ = None


class OnCard(np.ndarray):
    device = Card()


class Device:
    """The reference, with arrays that say where they are as CuPy's do."""

    name = "cuda"

    def __getattr__(self, name):
        return getattr(resolve("reference"), name)

    def array(self, x, dtype):
        return np.ascontiguousarray(x, dtype).view(OnCard)


def test_steps_are_found_again_where_a_device_has_no_hash():
    steps.all_live.cache_clear()
    device = Device()
    first, second = (steps.enter(device, X, M, "float32", None)[1] for _ in range(2))
    assert first is second and first.flags.shape == (T, B)


def test_a_layer_remembers_nothing_before_its_checks_have_passed():
    layer = LSTM(M, N, device="reference")
    y, _ = layer(X)
    expected = way_back(layer, y)
    layer(X)
    with pytest.raises(ValueError, match="expected 4 on axis 2"):
        layer(X[:, :, :1])
    same(way_back(layer, y), expected)
