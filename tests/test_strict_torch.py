"""rnn_gpu.torch and the layers' door on tensors of a card, which are played: nobody waits, torch's
stream is used, no memory of the host is read; to the last bit what the simulator gives on NumPy's
arrays.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import rnn_gpu
import rnn_gpu.torch as ours
from conftest import STRICT
from rnn_gpu.bridges.torch import calls, stack, tensors
from rnn_gpu.kernels.devices.cuda.launch import SIMULATED
from rnn_gpu.kernels.emulator import arrays as played
from rnn_gpu.kernels.emulator.arrays.counts import counted
from rnn_gpu.kernels.emulator.arrays.order import ordered
from rnn_gpu.kernels.emulator.simulated import Strict, strict
from rnn_gpu.training import Samples

CHECKOUT = Path(__file__).parents[1]
if not SIMULATED or STRICT or not (CHECKOUT / "benchmarks").exists():
    pytest.skip(
        "compared with NumPy's arrays, played by benchmarks/_played.py", allow_module_level=True
    )
sys.path.append(str(CHECKOUT))

from benchmarks import _played

T, B, M, N = 5, 3, 4, 7
MASK, RESETS = torch.rand(T, B) < 0.7, torch.rand(T, B) < 0.4
OPTIONS = {
    "plain": ({}, {}),
    "deep": ({"num_layers": 2, "bidirectional": True, "dropout": 0.2}, {}),
    "rows": ({"batch_first": True}, {}),
    "bare": ({"bias": False}, {}),
    "masked": ({}, {"mask": MASK, "resets": RESETS, "tape": True}),
    "given": ({}, {"resets": RESETS, "reset_state": torch.rand(1, T, B, N)}),
    "clipped": ({"clip_step_norm": 0.1}, {}),
    "double": ({"dtype": torch.float64}, {}),
    "tf32": ({"precision": "tf32"}, {}),
    "half": ({"dtype": torch.float16}, {}),
    "bfloat16": ({"dtype": torch.bfloat16, "num_layers": 2}, {"resets": RESETS}),
}
BEGINS = torch.rand(2, T, B, 3), torch.rand(2, T, B, N)
PROJECTED = {
    "projected": ({"proj_size": 3}, {"hx": (torch.rand(1, B, 3), torch.rand(1, B, N))}),
    "projected, masked": ({"proj_size": 3, "num_layers": 2}, {"mask": MASK, "resets": RESETS}),
    "projected, given": (
        {"proj_size": 3, "bidirectional": True},
        {"resets": RESETS, "reset_state": BEGINS},
    ),
}
CASES = [(kind, options) for kind in ("RNN", "LSTM", "GRU") for options in OPTIONS]
CASES += [("LSTM", options) for options in PROJECTED]


def passes(kind, options, call, on=lambda a: a):
    """Outputs, states and gradients of a module, as NumPy's arrays."""
    torch.manual_seed(0)
    module = on(getattr(ours, kind)(M, N, **options))
    x = on(torch.randn(T, B, M, dtype=options.get("dtype"))).requires_grad_()
    torch.manual_seed(1)
    if kind == "LSTM" and isinstance(call.get("reset_state"), torch.Tensor):
        call = call | {"reset_state": (call["reset_state"],) * 2}
    call = {
        name: a if name == "tape" else tuple(map(on, a)) if isinstance(a, tuple) else on(a)
        for name, a in call.items()
    }
    y, s = module(x, **call)
    states = s if isinstance(s, tuple) else (s,)
    (y.square().sum() + sum(a.sum() for a in states)).backward()
    found = [y, *states, x.grad, *(θ.grad for θ in module.parameters())]
    tapes = [tape.ds for tape in module.tapes] if "tape" in call else []
    if tapes and isinstance(tapes[0], played.ndarray):
        tapes[0].device.synchronize()  # CuPy's stream is not torch's
        tapes = [a.get() for a in tapes]
    return [as_numpy(a) for a in found] + tapes


def as_numpy(a):
    """Of a type that NumPy knows, with the same numbers."""
    a = a.detach().cpu()
    return (a.float() if a.dtype == torch.bfloat16 else a).numpy()


@pytest.fixture
def streams(monkeypatch):
    """(card, stream) of every kernel that is started on the strict arrays."""
    seen, start = [], Strict.start

    def spy(self, *given):
        cuda = played.cuda
        seen.append((cuda.runtime.getDevice(), cuda.get_current_stream().ptr))
        return start(self, *given)

    monkeypatch.setattr(Strict, "start", spy)
    return seen


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("kind", "how"), CASES, ids=map("-".join, CASES))
def test_a_module_works_where_its_tensors_are(kind, how, number, streams, monkeypatch):
    options = (OPTIONS | PROJECTED)[how]
    with monkeypatch.context() as simulator:
        for home in (calls, tensors):
            simulator.setattr(home, "device_of", lambda tensor: "cuda")
        simulator.setattr(stack, "whole", lambda *given: None)
        expected = passes(kind, *options)
    with strict(), _played.cuda_tensors(), ordered(), counted() as counts:
        found = passes(kind, *options, on=lambda a: _played.on_the_card(a, number))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert set(streams) == {(number, _played.STREAMS[number])}
    assert played.cuda.runtime.getDevice() == 0 and played.cuda.get_current_stream().ptr == 0
    assert counts.launches == len(streams)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_a_cell_steps_where_its_tensors_are(kind, dtype, streams, monkeypatch):
    """Two steps, of which the first begins with zero, on the other card."""

    def steps(on=lambda a: a):
        torch.manual_seed(0)
        cell = on(getattr(ours, kind)(M, N, dtype=dtype))
        x = on(torch.randn(B, M, dtype=dtype)).requires_grad_()
        states = cell(x, cell(x))
        states = states if isinstance(states, tuple) else (states,)
        sum(s.square().sum() for s in states).backward()
        return [as_numpy(a) for a in (*states, x.grad, *(θ.grad for θ in cell.parameters()))]

    with monkeypatch.context() as simulator:
        for home in (calls, tensors):
            simulator.setattr(home, "device_of", lambda tensor: "cuda")
        expected = steps()
    with strict(), _played.cuda_tensors(), ordered(), counted() as counts:
        found = steps(lambda a: _played.on_the_card(a, 1))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert set(streams) == {(1, _played.STREAMS[1])} and counts.launches == len(streams)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_nobody_waits_for_a_card(kind):
    with strict(), _played.cuda_tensors():
        module = _played.on_the_card(getattr(ours, kind)(M, N, num_layers=2))
        x = _played.on_the_card(torch.randn(T, B, M))
        module(x)[0].sum().backward()
        with counted() as counts:
            module(x)[0].sum().backward()
    assert counts.waits == counts.copies_from == counts.copies_to == 0, counts.of
    assert all(name.endswith("another library") for name in counts.of["allocations"])  # torch's


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_torch_may_capture_a_module_into_a_graph(kind):
    """In the mode that torch.cuda.graph has: nothing is allocated, nor copied from the host; what
    torch itself would do in the graph is done once, here.
    """
    with strict(), _played.cuda_tensors():
        module = _played.on_the_card(getattr(ours, kind)(M, N, bias=False))
        x = _played.on_the_card(torch.randn(T, B, M)).requires_grad_()

        def step():
            y, _ = module(x)
            grads = torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y))
            return [y, *grads]

        step()
        stream = played.cuda.ExternalStream(_played.STREAMS[0])
        stream.begin_capture(played.cuda.runtime.streamCaptureModeGlobal)
        made = step()
        graph = stream.end_capture()
        for seed in (1, 2):
            torch.manual_seed(seed)
            with torch.no_grad():
                x.copy_(torch.randn(T, B, M))
            graph.launch()
            found = [a.detach().cpu().numpy() for a in made]
            for a, b in zip(found, step(), strict=True):
                assert np.array_equal(a, b.detach().cpu().numpy())


def test_layers_take_tensors_of_a_card_and_give_them():
    layer, network = (
        kind(device="cuda")
        for kind in (
            lambda **on: rnn_gpu.LSTM(M, N, **on),
            lambda **on: rnn_gpu.Network([rnn_gpu.GRU(M, N, **on), rnn_gpu.Dense(N, 2, **on)]),
        )
    )
    x = torch.randn(T, B, M)
    expected = [layer(x.numpy())[0], layer.backward(np.ones((T, B, N), "f"))[0]]
    expected.append(network(x.numpy())[0])
    with strict(), _played.cuda_tensors(), ordered():
        layer, network = layer.copy(), network.copy()
        on_card = _played.on_the_card(x)
        y, (h, _) = layer(on_card)
        dx, _ = layer.backward(_played.on_the_card(torch.ones(T, B, N)))
        o, _ = network(on_card)
        found = [y, dx, o]
        assert {type(a) for a in (*found, h)} == {_played.Tensor}
        found = [a.cpu().numpy() for a in found]
        samples = Samples(network, [on_card[:, 0]], [_played.on_the_card(torch.ones(T, 2))])
        assert np.array_equal(samples.x[0], x[:, 0].numpy())
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)
