"""The way back by a scan over chunks: against the same, step by step."""

import copy as copies
import itertools
import pickle
import re
from threading import Thread

import numpy as np
import pytest

import rnn_gpu
from conftest import DEVICES, REPRESENTATIVE
from rnn_gpu.kernels import LIVE, RESET, Backward, Forward
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices import find

T, B, M, N = 47, 2, 3, 5
KINDS = {"elman_tanh": rnn_gpu.RNN, "gru": rnn_gpu.GRU, "lstm": rnn_gpu.LSTM}
RTOL = {"float64": 1e-12, "float32": 1e-5}
PATTERNS = ("all", "lengths", "mask", "resets", "given", "everything")
RNG = np.random.default_rng(11)


def draw(*shape, dtype="float64"):
    return RNG.normal(size=shape).astype(dtype)


def remembering(name, device="reference", dtype="float64", n=N, **options):
    """A layer that does not forget: it is chaotic, or its forget gate stays open."""
    layer = KINDS[name](M, n, device=device, dtype=dtype, seed=2, **options)
    layer.parameters["W"][...] *= 2
    if name != "elman_tanh":  # of a GRU the update gate, of an LSTM the forget gate
        layer.parameters["b"][n : 2 * n] = 4
    return layer


def numbers(value):
    """All arrays of what a call gives, flat."""
    if isinstance(value, (tuple, list)):
        return [a for one in value for a in numbers(one)]
    return [value.get() if hasattr(value, "get") else np.asarray(value)]


def called_with(pattern: str, states: int = 1, steps: int = T) -> dict:
    rng, call = np.random.default_rng(5), {}
    if pattern in ("lengths", "everything"):
        call["lengths"] = np.array([steps, 2 * steps // 3])
    if pattern in ("mask", "everything"):
        call["mask"] = rng.random((steps, B)) < 0.7
    if pattern in ("resets", "given", "everything"):
        call["resets"] = rng.random((steps, B)) < 0.1
        call["resets"][[12, 24], 0] = True  # where chunks begin
    if pattern in ("given", "everything"):
        given = tuple(rng.normal(size=(steps, B, N)) for _ in range(states))
        call["reset_state"] = given if states > 1 else given[0]
    return call


def gone_back(model, x, dy, parallel, back=None, **called):
    """All that a call and its way back give."""
    y, state = model(x, parallel=parallel, **called)
    given = model.backward(dy, **(back or {}))
    more = [model.delta] if hasattr(model, "delta") else []
    return numbers([y, state, *given, *more, *model.grads.values()])


def same_by_scan(model, count=4, steps=T, x=None, **called):
    """Assert that a way back by a scan gives what steps give."""
    x = draw(steps, B, M, dtype=model.dtype) if x is None else x
    dy = draw(*x.shape[:2], model.output_size, dtype=model.dtype)
    wanted = gone_back(model, x, dy, False, **called)
    found = gone_back(model, x, dy, ("scan", count), **called)
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(a - b).max() <= RTOL[model.dtype] * max(1.0, np.abs(b).max())
    return model


# Maps


def call_of(device, cell, dtype, pattern, n=N, L=9, columns=3):
    """A Backward after its way forward, all of `columns` samples."""
    d, G, S, K, rng = find(device), cell.gates, cell.states, cell.kept, np.random.default_rng(3)

    def drawn(*shape):
        return d.array(rng.normal(size=shape), dtype)

    W, c = drawn(G * n, n), drawn(G * n if cell.apart else 0)
    flags = np.full((L, columns), LIVE, np.uint8)
    if pattern:
        flags = (rng.random((L, columns)) < 0.7) * LIVE + (rng.random((L, columns)) < 0.1) * RESET
        flags[:, 0] &= LIVE
        flags[0, 1] |= RESET
    flags = d.array(flags, np.uint8)
    s, kept = d.zeros((S, L + 1, columns, n), dtype), d.zeros((L, columns, K, n), dtype)
    s[:, 0] = drawn(S, columns, n)
    p, masked = drawn(L, columns, G + cell.drawn, n), bool(pattern)
    d.forward(cell, Forward(p, W, c, s, kept, flags, masked))
    return Backward(drawn(L, columns, n), W, s, kept, flags, None, None, None, masked=masked)


def carried(device, cell, call, ds):
    """dE/ds before the first step of each sample, where it comes in behind the last: no more than
    goes through all of its steps.
    """
    d = find(device)
    (L, columns, _, n), S = call.kept.shape, cell.states
    # with given states what arrives at a reset is kept apart
    s = d.zeros((S, 2 * L + 1, columns, n), call.s.dtype)
    s[:, : L + 1], s[:, L + 1 :] = call.s, call.s[:, :1]
    whole = d.zeros((S, L + 1, columns, n), call.s.dtype)
    whole[:, 0] = d.array(ds, call.s.dtype)
    dp = d.zeros((L, columns, cell.gates, n), call.s.dtype)
    dq = d.zeros(dp.shape, call.s.dtype) if cell.apart else dp
    d.backward(cell, call._replace(s=s, ds=whole, dp=dp, dq=dq))
    first = np.where(d.numpy(call.flags)[0, :, None] & RESET != 0, 0, d.numpy(whole)[:, 0])
    return first.swapaxes(0, 1).reshape(columns, S * n)


QUICK = ("gru", "float64")
# every device with every cell and type; on a CPU, which compiles each, one is quick
ON_DEVICES = [
    pytest.param(*case, marks=[pytest.mark.slow] * (case[0] == "cpu" and case[1:] != QUICK))
    for case in itertools.product(DEVICES, REPRESENTATIVE, RTOL)
]


@pytest.mark.parametrize("pattern", [False, True])
@pytest.mark.parametrize("device, name, dtype", ON_DEVICES)
def test_maps_are_what_the_way_back_makes_of_each_number(device, name, dtype, pattern):
    cell = CELLS[name]
    wanted = call_of("reference", cell, "float64", pattern)
    found = call_of(device, cell, dtype, pattern)
    maps = find(device).numpy(find(device).transfers(cell, found))
    (S, _, columns, n), zero = found.s.shape, wanted._replace(dy=wanted.dy * 0)
    assert maps.shape == (columns, S * n + 1, S * n)
    for k in range(S * n):
        ds = np.zeros((S, columns, n))
        ds[k // n, :, k % n] = 1
        b = carried("reference", cell, zero, ds)
        assert np.abs(maps[:, k] - b).max() <= RTOL[dtype] * max(1.0, np.abs(b).max())
    b = carried("reference", cell, wanted, np.zeros((S, columns, n)))
    assert np.abs(maps[:, -1] - b).max() <= RTOL[dtype] * max(1.0, np.abs(b).max())


def from_map_to_map(device, dtype, S, n, count=6):
    """Assert that `Device.arriving` gives the products of maps."""
    d, rng = find(device), np.random.default_rng(1)
    maps, ds = rng.normal(size=(count * B, S * n + 1, S * n)), rng.normal(size=(S, B, n))
    found = d.numpy(d.arriving(d.array(maps, dtype), d.array(ds, dtype)))
    wanted = np.zeros((S, count * B, n))
    for b in range(B):
        state = ds[:, b].reshape(-1)
        for c in reversed(range(count)):
            wanted[:, c * B + b] = state.reshape(S, n)
            state = state @ maps[c * B + b, :-1] + maps[c * B + b, -1]
    assert np.abs(found - wanted).max() <= RTOL[dtype] * np.abs(wanted).max()


@pytest.mark.parametrize("S, n", [(2, 3), (1, 3), (2, 2)])
def test_what_arrives_is_carried_from_map_to_map(device, dtype, S, n):
    """Of three numbers two threads share each, in the simulator: two products and one."""
    from_map_to_map(device, dtype, S, n)


@pytest.mark.skipif("cuda" not in DEVICES, reason="no GPU, and none simulated")
def test_threads_share_the_numbers_of_a_state_whatever_their_count(monkeypatch):
    """On a card a block has 512 threads at most, each with few products: also of prime numbers."""
    from rnn_gpu.kernels.devices.cuda import carrying

    monkeypatch.setattr(carrying, "THREADS", 256)
    for N in range(1, carrying.NUMBERS + 1):
        parts = carrying.parts_of(N)
        each = -(-N // parts)
        assert N * parts <= 512 and each <= 32 and (parts - 1) * each < N


@pytest.mark.skipif("cuda" not in DEVICES, reason="no GPU, and none simulated")
@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_what_no_kernel_of_the_scan_holds_goes_by_samples_and_products(name, dtype, monkeypatch):
    from rnn_gpu.kernels.devices.cuda import carrying, transfer

    def refused(*given):
        raise AssertionError("a kernel of the scan was launched")

    monkeypatch.setattr(transfer, "UNITS", 0)
    monkeypatch.setattr(carrying, "NUMBERS", 0)
    monkeypatch.setattr(transfer, "transfers", refused)
    monkeypatch.setattr(carrying, "arriving", refused)
    from_map_to_map("cuda", dtype, 2, 3)
    for pattern in ("all", "lengths"):
        layer = same_by_scan(remembering(name, "cuda", dtype), **called_with(pattern))
        report = layer.parallel_report
        assert report.scan == 4 and not report.sequential_back


# The way back


@pytest.mark.parametrize("device, name, dtype", ON_DEVICES)
def test_a_scan_gives_what_steps_give(device, name, dtype):
    layer = same_by_scan(remembering(name, device, dtype))
    report = layer.parallel_report
    assert report.scan == 4 and not report.sequential_back and not report.without_scan
    assert "only the way back" in report.sequential


@pytest.mark.parametrize("pattern", PATTERNS[1:])
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_whatever_happens_to_samples(name, pattern):
    layer = remembering(name)
    for count in (4, 7):
        same_by_scan(layer, count, **called_with(pattern, layer.cell.states))
        assert layer.parallel_report.scan == count


@pytest.mark.parametrize("device", DEVICES[1:])
def test_whatever_happens_to_samples_on_devices(device):
    layer = remembering("gru", device)
    same_by_scan(layer, **called_with("everything"))
    assert layer.parallel_report.scan == 4


@pytest.mark.parametrize(
    "options", [{"reverse": True}, {"recurrent_dropout": 0.3, "zoneout": 0.2, "reverse": True}]
)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_whatever_the_layer(name, options):
    found, wanted = (remembering(name, **options) for _ in range(2))
    x, dy = draw(T, B, M), draw(T, B, N)
    call = called_with("resets") | {"training": True}
    a = gone_back(found, x, dy, ("scan", 5), **call)
    for one, other in zip(a, gone_back(wanted, x, dy, False, **call), strict=True):
        assert np.abs(one - other).max() <= 1e-12 * max(1.0, np.abs(other).max())
    assert found.parallel_report.scan == 5


def test_what_comes_in_behind_the_last_step_and_both_directions():
    layer = remembering("lstm")
    ds = (draw(B, N), draw(B, N))
    same_by_scan(layer, back={"dstate": ds})
    both = rnn_gpu.Bidirectional(layer)
    same_by_scan(both, **called_with("lengths"))


@pytest.mark.parametrize("called", [{}, {"memory_budget": 400_000}])
def test_a_network_gives_the_same(called):
    layers = [remembering("gru"), rnn_gpu.LSTM(N, N, device="reference", dtype="float64")]
    network = rnn_gpu.Network([*layers, rnn_gpu.Dense(N, 2, device="reference", dtype="float64")])
    same_by_scan(network, steps=512, **called)
    assert [report.scan for report in network.parallel_reports] == [4, 4]


def test_training_gives_the_same():
    x, y, losses = draw(4, 64, M), draw(4, 64, 2), []
    for parallel in (False, ("scan", 3)):
        layers = [remembering("gru"), rnn_gpu.Dense(N, 2, device="reference", dtype="float64")]
        network, options = rnn_gpu.Network(layers), {"batch_size": 2, "updates": 4}
        options |= {"progress": False, "truncate": (16, 48), "parallel": parallel}
        losses.append(network.fit(x, y, **options)["step_loss"])
    assert np.abs(np.subtract(*losses)).max() <= 1e-12
    assert network.parallel_reports[0].scan == 3


# parallel, and (T, B, n)
CORNERS = [
    (way, shape)
    for way in (("scan", 4), (4, 8))
    for shape in ((1, 2, 5), (2, 1, 1), (3, 2, 5), (4, 1, 5), (5, 2, 1), (47, 0, 5), (48, 3, 1))
]


@pytest.mark.parametrize("way, shape", CORNERS)
@pytest.mark.parametrize("name", KINDS)
def test_fewer_steps_than_chunks_one_unit_and_no_sample(name, way, shape):
    (steps, batch, n), layer = shape, remembering(name, n=shape[2])
    x, dy = draw(steps, batch, M), draw(steps, batch, n)
    wanted, found = (gone_back(layer, x, dy, parallel) for parallel in (False, way))
    rtol = 1e-12 if way[0] == "scan" else 1e-5
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0) <= rtol * max(1.0, np.abs(b).max(initial=0))


@pytest.mark.parametrize("way", [("scan", 4), (4, 8)])
def test_arrays_of_any_strides_and_a_tape_that_is_used_twice(way):
    layer, x, dy = remembering("gru"), draw(M, B, T).T, draw(T, B, N)[::-1]
    wanted = gone_back(layer, x.copy(), dy.copy(), way)
    found = gone_back(layer, x, dy, way)
    again = numbers([*layer.backward(dy), layer.delta, *layer.grads.values()])
    assert [a.tobytes() for a in found] == [a.tobytes() for a in wanted]
    assert [a.tobytes() for a in again] == [a.tobytes() for a in found[-len(again) :]]


@pytest.mark.parametrize("way", [("scan", 4), (4, 8)])
def test_the_way_back_is_that_of_the_last_call_and_copies_have_none(way):
    layer, x, dy = remembering("lstm"), draw(T, B, M), draw(T, B, N)
    wanted = gone_back(layer, x, dy, False)
    assert layer.parallel_report is None
    kept = gone_back(layer, x, dy, way)
    for copy in (copies.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copy.parallel_report is None
        with pytest.raises(rnn_gpu.OrderError, match="before forward"):
            copy.backward(dy)
        again = gone_back(copy, x, dy, way)
        assert [a.tobytes() for a in again] == [a.tobytes() for a in kept]
    assert layer.parallel_report is not None
    found = gone_back(layer, x, dy, False)
    assert [a.tobytes() for a in found] == [a.tobytes() for a in wanted]
    assert layer.parallel_report is None


def test_threads_go_their_own_ways_through_one_layer():
    layer, dy, found = remembering("gru", "cpu"), draw(T, B, N), {}
    ways = [("scan", 4), False, (4, 8), ("scan", 7)]
    inputs = [draw(T, B, M) for _ in ways]

    def going(x, way):
        y, _ = layer(x, parallel=way)
        return numbers([y, *layer.backward(dy)])

    def repeat(k):
        found[k] = [going(inputs[k], ways[k]) for _ in range(10)]

    threads = [Thread(target=repeat, args=(k,)) for k in range(len(ways))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, way in enumerate(ways):
        wanted = [a.tobytes() for a in going(inputs[k], way)]
        assert [[a.tobytes() for a in one] for one in found[k]] == [wanted] * 10


def test_a_gradient_that_grows_or_lasts_for_ever_is_the_same():
    """One that is carried from the last step to the first, and one that doubles ten times."""
    layer = rnn_gpu.RNN(M, N, "identity", device="reference", dtype="float64")
    for scale in (1.0, 2 ** (10 / T), 0.5):
        layer.parameters["W"][...] = scale * np.eye(N)[::-1]
        dy = np.zeros((T, B, N))
        dy[-1] = 1
        layer(draw(T, B, M), parallel=("scan", 6))
        _, ds = layer.backward(dy)
        assert np.abs(ds - scale**T).max() <= 1e-12 * scale**T
        assert layer.parallel_report.scan == 6


LARGER = [
    pytest.param("reference", 8, 512),
    pytest.param("cpu", 32, 1024, marks=pytest.mark.slow),
]
PLANTED = {"lstm": (4, 8), "gru": (0, 6), "elman_tanh": (1.0, 1.2, 1.5)}


@pytest.mark.parametrize("device, n, steps", LARGER)
@pytest.mark.parametrize("name, how", [(name, how) for name in PLANTED for how in PLANTED[name]])
def test_larger_layers_that_do_not_forget_have_the_gradient_of_steps(
    name, how, device, n, steps, dtype
):
    """Of gates that stay open, and of W that expands: there δ grows without bound."""
    layer = KINDS[name](M, n, device=device, dtype=dtype, seed=1)
    if name == "elman_tanh":
        layer.parameters["W"][...] *= how
    else:
        layer.parameters["b"][n : 2 * n] = how
    x, dy = (draw(steps, 1, size, dtype=dtype) for size in (M, n))
    wanted, found = (gone_back(layer, x, dy, way) for way in (False, ("scan", 32)))
    assert layer.parallel_report.scan == 32
    for a, b in zip(found, wanted, strict=True):
        assert np.isfinite(b).all() and np.abs(a - b).max() <= RTOL[dtype] * np.abs(b).max()


# What goes step by step


def test_clipping_and_the_tape_go_step_by_step_and_the_report_says_so():
    layer = remembering("gru")
    for back, why in (({"clip_step_norm": 0.01}, "not linear"), ({"tape": True}, "tape=True")):
        same_by_scan(layer, back=back)
        assert why in layer.parallel_report.sequential_back and not layer.parallel_report.scan


def test_maps_that_overflow_go_step_by_step():
    layer = rnn_gpu.RNN(M, N, "identity", device="reference", dtype="float32")
    layer.parameters["W"][...] = 1000 * np.eye(N)
    x, dy = np.zeros((T, 1, M), "float32"), np.zeros((T, 1, N), "float32")
    dy[0] = 1
    with np.errstate(all="ignore"):
        layer(x, parallel=("scan", 2))
        dx, _ = layer.backward(dy)
    assert np.isfinite(dx).all() and (layer.delta[0] == 1).all()
    assert "finite" in layer.parallel_report.sequential_back and not layer.parallel_report.scan


@pytest.mark.parametrize("parallel", [("scan",), ("scan", 0), ("scan", 2.5), ("scam", 3)])
def test_refused(parallel):
    with pytest.raises(rnn_gpu.ArgumentError, match="parallel"):
        remembering("gru")(draw(T, B, M), parallel=parallel)


# When


def test_what_forgets_too_late_for_chunks_goes_back_by_a_scan(monkeypatch):
    """Where the device's model says that it pays."""
    monkeypatch.setattr("rnn_gpu.layers.cutting.cost", lambda layer, rows: 1e6)
    monkeypatch.setattr("rnn_gpu.layers.cutting.SHORTEST", 64)
    monkeypatch.setattr("rnn_gpu.layers.cutting.LONG", 2048)
    cost = lambda cell, n, B, T, chunks, *rest: 1e9 / chunks  # noqa: E731
    monkeypatch.setattr(find("reference"), "scan_cost", cost)
    layer = remembering("lstm")
    layer.parameters["b"][N : 2 * N] = 9
    x, dy = draw(2100, 1, M), draw(2100, 1, N)
    found = gone_back(layer, x, dy, "auto")
    report = layer.parallel_report
    assert "does not forget" in report.sequential and report.scan == 128
    assert report.modelled_gain_back > 100
    wanted = gone_back(layer, x, dy, False)
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(a - b).max() <= 1e-12 * max(1.0, np.abs(b).max())


def test_a_way_back_in_chunks_that_does_not_fade_goes_on_by_a_scan(monkeypatch):
    """Forward every state is zero, whatever was before."""
    cost = lambda cell, n, B, T, chunks, *rest: 1e9 / chunks  # noqa: E731
    monkeypatch.setattr(find("reference"), "scan_cost", cost)
    layer = rnn_gpu.RNN(M, N, "identity", device="reference", dtype="float64")
    layer.parameters["W"][...] = np.eye(N)
    layer.parameters["U"][...] = 0
    x, dy = np.zeros((160, B, M)), draw(160, B, N)
    wanted = gone_back(layer, x, dy, False)
    for a, b in zip(gone_back(layer, x, dy, (4, 8)), wanted, strict=True):
        assert np.abs(a - b).max() <= 1e-12 * max(1.0, np.abs(b).max())
    report = layer.parallel_report
    assert not report.sequential and report.scan == 8 and not report.sequential_back


def test_a_cpu_does_not_take_it_of_itself():
    layer = rnn_gpu.GRU(M, 32, device="cpu", dtype="float64")
    layer(draw(4096, 1, M), parallel="auto")
    report = layer.parallel_report
    assert report.scan == 0 and "times as quick: modelled" in report.without_scan
    assert "back by a scan over chunks: no, " in layer.explain(4096, 1, "auto")
    asked = layer.explain(4096, 1, ("scan", 64))
    assert re.search(r"back by a scan over 64 chunks of 64 steps: \d\.\d+ times", asked)
