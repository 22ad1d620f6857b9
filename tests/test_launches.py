"""device="cuda" really launches kernels, one a pass, and spreads their work over blocks and
threads.
"""

import threading
from importlib import import_module

import numpy as np
import pytest

import rnn_gpu
from rnn_gpu.kernels.devices import cuda as device
from simulation import simulated

pytestmark = simulated


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels of all launches to come."""
    seen = []

    launch = import_module("rnn_gpu.kernels.devices.cuda.launch")
    prepared = launch.prepared

    def spy(kernel, *arguments, **options):
        seen.append(kernel.__name__)
        return prepared(kernel, *arguments, **options)

    monkeypatch.setattr(launch, "prepared", spy)
    return seen


@pytest.mark.parametrize("T", [3, 30])
@pytest.mark.parametrize("layer", ["RNN", "LSTM", "GRU"])
def test_a_layer_is_one_launch_forward_and_one_back(launches, layer, T):
    layer = getattr(rnn_gpu, layer)(2, 3, device="cuda")
    y, _ = layer(np.ones((T, 2, 2), "float32"))
    assert launches == ["fingerprint", "forward"]
    layer.backward(y)
    assert launches == ["fingerprint", "forward", "fingerprint", "backward"]


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_other_devices_launch_nothing(launches, name):
    layer = rnn_gpu.RNN(2, 3, device=name)
    y, _ = layer(np.ones((3, 2, 2), "float32"))
    layer.backward(y)
    assert launches == []


calls = []  # (block, thread) of every number that `noted` took on a device with threads


def note():
    me = threading.current_thread()
    if hasattr(me, "blockIdx"):
        calls.append((me.blockIdx.x, me.threadIdx.x))


def noted(z):
    note()
    return np.tanh(z)


def dnoted(y):
    note()
    return 1 - y * y


def test_samples_are_spread_over_blocks_and_units_over_threads():
    T, B, n = 3, 5, 6
    layer = rnn_gpu.RNN(2, n, (noted, dnoted), device="cuda")
    for pass_over in (
        lambda: layer(np.ones((T, B, 2), "float32")),
        lambda: layer.backward(np.ones((T, B, n), "float32")),
    ):
        calls.clear()
        pass_over()
        assert len(calls) >= T * B * n
        assert len({block for block, _ in calls}) > 1
        for block in {block for block, _ in calls}:
            assert len({thread for b, thread in calls if b == block}) > 1


def test_an_elementwise_formula_is_spread_over_threads():
    out = np.zeros(50)
    calls.clear()
    device.elementwise(noted, [out], [np.ones(50)])
    assert len(calls) == out.size
    assert len(set(calls)) > 1 and len({block for block, _ in calls}) > 1
