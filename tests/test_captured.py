"""A layer's passes as a graph: captured once on the strict arrays, and replayed with other numbers
in the same memory.
"""

import numpy as np
import pytest

from rnn_gpu import GRU, LSTM, RNN
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED
from rnn_gpu.kernels.devices.cuda.schedules import NAMES, only
from rnn_gpu.kernels.emulator import arrays
from rnn_gpu.kernels.emulator.arrays.counts import counted
from rnn_gpu.kernels.emulator.arrays.order import ordered
from rnn_gpu.kernels.emulator.simulated import strict
from rnn_gpu.layers.stateful import zero_states
from rnn_gpu.layers.steps import all_live_of

pytestmark = pytest.mark.skipif(not SIMULATED, reason="the strict arrays are for the simulator")

T, B, M, N = 5, 3, 4, 6


def drawn(*shape):
    return arrays.asarray(np.random.default_rng(0).normal(size=shape).astype("f"))


def passes(layer, x, dy):
    """A way forward and back, as training makes it: all that it computes, by name."""
    states = zero_states(layer.recurrent, B)
    y, (s,), tape = layer.forward(x, states, all_live_of(layer.backend, x))
    back = layer.back(tape, dy, zero_states(layer.recurrent, B))
    return {"y": y, "s": s, "dx": back.dx, "ds": back.ds[0], **back.grads}


def captured(work):
    """(the graph of a work, what the work returned), in memory of its own."""
    pool, stream = arrays.cuda.MemoryPool(), arrays.cuda.Stream(non_blocking=True)
    arrays.cuda.get_current_stream().synchronize()
    with stream, arrays.cuda.using_allocator(pool.malloc):
        work()  # kernels and what is cached are there before
        stream.synchronize()
        stream.begin_capture()
        try:
            found = work()
        finally:
            graph = stream.end_capture()
    return graph, found


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_passes_are_captured_and_replayed(kind, schedule):
    with strict(), ordered(), only(schedule):
        layer, x, dy = kind(M, N, device="cuda"), drawn(T, B, M), drawn(T, B, N)
        graph, found = captured(lambda: passes(layer, x, dy))
        for _ in range(2):
            x *= -1.5
            layer.parameters["W"][...] *= 0.9
            with counted() as counts:
                graph.launch()
            assert counts.graphs == 1 and counts.launches == counts.operations == 0
            expected = passes(layer, x, dy)
            for name, a in expected.items():
                assert np.array_equal(found[name].get(), a.get()), name


def test_a_call_that_waits_cannot_be_captured():
    """As the users' door does, which looks at x."""
    with strict():
        layer, x = LSTM(M, N, device="cuda"), drawn(T, B, M)
        with pytest.raises(RuntimeError, match="StreamCaptureUnsupported: wait"):
            captured(lambda: layer(x))
