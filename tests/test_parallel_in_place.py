"""Chunks of one sequence that stand side by side where they lie: against copied ones, and steps."""

import numpy as np
import pytest

import rnn_gpu
from conftest import REPRESENTATIVE, RTOL
from in_chunks import CUT, KINDS, M, N, both_ways, close, draw, forgetful, remembering
from rnn_gpu.kernels import LIVE, UNCLIPPED, Backward, Forward
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices import find
from rnn_gpu.kernels.devices.cpu import recurrence, threads
from rnn_gpu.kernels.parts import states_of_parts
from rnn_gpu.layers.overlap import PAGE, chunks_of

TAKES = ("reference", "cpu")
PATTERNS = {
    "plain": {},
    "lengths": {"lengths": np.array([130])},
    "mask": {"mask": np.random.default_rng(3).random((203, 1)) < 0.7},
    "reverse": {"reverse": True},
    "noise": {"recurrent_dropout": 0.3, "zoneout": 0.2, "training": True},
}


OWN = {"reverse", "recurrent_dropout", "zoneout"}  # of the layer, not of a call


@pytest.fixture(params=TAKES)
def device(request):
    return request.param


def copied(monkeypatch, device, way):
    """What `way` gives where chunks are copied beside each other."""
    with monkeypatch.context() as change:
        change.setattr(find(device), "takes_parts", False)
        return way()


# The contract of devices


def call_of(cell, parts, T, n, dtype):
    """(a Forward of parts, dE/dy, dE/ds behind the last step)."""
    rng, (G, D, S, K) = np.random.default_rng(0), (cell.gates, cell.drawn, cell.states, cell.kept)
    some = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    p, kept = some(parts, T, G + D, n), np.zeros((parts, T, K, n), dtype)
    s = np.full((S, parts * T + 1 + parts, n), np.nan, dtype)
    s[:, 0], s[:, parts * T + 1 :] = 0.5, some(S, parts, n)
    s[:, parts * T + 1] = s[:, 0]
    flags = (rng.random((T, parts)) < 0.8).astype(np.uint8) * np.uint8(LIVE)
    W, c = some(G * n, n) / n, some(G * n if cell.apart else 0)
    return Forward(p, W, c, s, kept, flags), some(T, parts, n), some(S, parts, n)


def back_of(cell, call, dy, ds) -> Backward:
    """The Backward of what a Forward has left."""
    dp = np.zeros((*call.kept.shape[:2], cell.gates, ds.shape[-1]), ds.dtype)
    dq = np.zeros_like(dp) if cell.apart else dp
    return Backward(dy, call.W, call.s, call.kept, call.flags, dp, dq, ds.copy(), UNCLIPPED)


def beside(call, T, parts):
    """The same Forward, each of whose arrays is copied to (T, parts, …)."""
    s = np.zeros((len(call.s), T + 1, parts, call.s.shape[2]), call.s.dtype)
    s[:, 0] = call.s[:, parts * T + 1 :]
    p, kept = (np.ascontiguousarray(a.swapaxes(0, 1)) for a in (call.p, call.kept))
    return call._replace(p=p, s=s, kept=kept)


@pytest.mark.parametrize("cell", REPRESENTATIVE)
@pytest.mark.parametrize("n, parts, count", [(5, 3, 1), (20, 33, 2), (70, 2, 2)])
def test_parts_give_what_samples_give(cell, device, n, parts, count, monkeypatch):
    """To the bit. On the way back each begins with what the one before ends with."""
    monkeypatch.setattr(threads, "ENOUGH", 1)
    monkeypatch.setattr(recurrence, "WORTH_BARRIER", 1)
    monkeypatch.setattr(threads, "most", lambda: count)
    cell, T, d = CELLS[cell], 7, find(device)
    call, dy, ds = call_of(cell, parts, T, n, "float32")
    other = beside(call, T, parts)
    d.forward(cell, call)
    d.forward(cell, other)
    assert (states_of_parts(call.s, T, parts)[:, 1:] == other.s[:, 1:]).all()
    assert (call.kept.swapaxes(0, 1) == other.kept).all()
    assert (call.s[:, 0] == 0.5).all()  # nor is anything overwritten that a part begins with
    assert (call.s[:, parts * T + 1 :] == other.s[:, 0]).all()

    other.s[:, 0, 1:] = other.s[:, -1, :-1]
    found, wanted = back_of(cell, call, dy, ds), back_of(cell, other, dy, ds)
    d.backward(cell, found)
    d.backward(cell, wanted)
    assert (found.dp.swapaxes(0, 1) == wanted.dp).all() and wanted.dp.any()
    assert (found.dq.swapaxes(0, 1) == wanted.dq).all()
    assert (found.ds == wanted.ds).all()


# Layers


@pytest.mark.parametrize("steps", [203, 120])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_chunks_in_place(name, pattern, steps, device, monkeypatch):
    options = dict(PATTERNS[pattern])
    own = {key: options.pop(key) for key in set(options) & OWN}
    if "mask" in options:
        options["mask"] = options["mask"][:steps]
    if "lengths" in options:
        options["lengths"] = np.minimum(options["lengths"], steps - 5)

    def layer():
        return forgetful(KINDS[name], device, **own)

    x, dy = draw(steps, 1, M), draw(steps, 1, N)
    state = tuple(draw(1, N) for _ in range(layer().cell.states))
    options["state"] = state if len(state) > 1 else state[0]
    called = {"dstate": options["state"], **options}
    found = both_ways(one := layer(), x, dy, parallel=CUT, **called)
    assert not one.parallel_report.sequential and not one.parallel_report.sequential_back
    assert one._last.tape.chunks.in_place
    beside_each_other = copied(
        monkeypatch, device, lambda: both_ways(layer(), x, dy, parallel=CUT, **called)
    )
    assert (found[0] == beside_each_other[0]).all()
    close(found, beside_each_other, RTOL["float64"])
    close(found, both_ways(layer(), x, dy, parallel=False, **called), 10 * RTOL["float64"])


def test_repairs_in_place(device, monkeypatch):
    """Chunks that were not warmed up are run again, and are those that are copied."""
    layer = forgetful(rnn_gpu.LSTM, device)
    x, dy = draw(203, 1, M), draw(203, 1, N)
    found = both_ways(layer, x, dy, parallel=(4, 0))
    assert layer.parallel_report.repaired >= 3
    other = copied(monkeypatch, device, lambda: both_ways(layer, x, dy, parallel=(4, 0)))
    assert (found[0] == other[0]).all()
    close(found, both_ways(layer, x, dy, parallel=False), 1e-9)


@pytest.mark.parametrize("name", ["bistable", "8"])
def test_what_does_not_forget_in_place(name, device):
    layer = remembering(name, device=device, dtype="float64")
    n = layer.hidden_size
    x, dy = draw(400, 1, M), draw(400, 1, n)
    wanted = both_ways(layer, x, dy, parallel=False)
    close(both_ways(layer, x, dy, parallel=(4, 10)), wanted, 1e-9)
    assert layer.parallel_report.sequential or layer.parallel_report.repaired


def test_what_was_given_out_is_the_callers(device):
    """The output is a part of what the way back needs: a copy goes out."""
    layer, x, dy = forgetful(rnn_gpu.GRU, device), draw(120, 1, M), draw(120, 1, N)
    y, _ = layer(x, parallel=(3, 20))
    wanted = layer.backward(dy)[0]
    y, state = layer(x, parallel=(3, 20))
    y[...], state[...] = np.nan, np.nan
    x[...] = np.nan
    assert (layer.backward(dy)[0] == wanted).all()


def test_chunks_whose_rows_would_fall_on_each_other_are_a_step_longer():
    cut = chunks_of(16384, 1, 8)
    assert cut.length * 1024 % PAGE == 0
    longer = cut.placed(1024)
    assert longer == (16384, 1, 8, 2049, True) and longer.padded
    assert chunks_of(16376, 1, 8).placed(1024) == (16376, 1, 8, 2047, True)
    assert chunks_of(4, 1, 1).placed(1024).length == 4
    x = draw(16384, 1, 256, dtype="float32")
    layer = rnn_gpu.RNN(256, 256, device="cpu")
    y = layer(x, parallel=(8, 200))[0]
    assert layer._last.tape.chunks == longer
    assert "in chunks: 8 of 2,049 steps" in layer.explain(16384, 1, (8, 200))
    layer(x[:4096], parallel=(256, 16))
    assert layer.parallel_report.chunks == 241  # of 17 steps
    assert "in chunks: 241 of 17 steps" in layer.explain(4096, 1, (256, 16))
    assert np.abs(y - layer(x)[0]).max() <= 2e-6


def test_several_samples_and_given_states_are_copied(device):
    layer = forgetful(rnn_gpu.GRU, device)
    layer(draw(120, 2, M), parallel=(3, 20))
    assert not layer._last.tape.chunks.in_place
    resets = np.zeros((120, 1), bool)
    resets[50] = True
    layer(draw(120, 1, M), parallel=(3, 20), resets=resets)
    assert not layer._last.tape.chunks.in_place
