"""One long sequence as chunks side by side: against the same, step by step."""

import re

import numpy as np
import pytest

import rnn_gpu
from conftest import DEVICES, REPRESENTATIVE, RTOL
from in_chunks import (
    CUT,
    KINDS,
    RNG,
    TOLERANCE,
    B,
    M,
    N,
    T,
    both_ways,
    close,
    draw,
    forgetful,
    remembering,
    same_in_chunks,
)
from rnn_gpu.kernels.devices import find
from rnn_gpu.layers import cutting
from rnn_gpu.layers.cutting import LONG, PIECE, Cut, Parallel, forgetting
from rnn_gpu.layers.overlap import chunks_of, gathered, growth, per_chunk, scatter
from rnn_gpu.layers.passes import Pass
from rnn_gpu.layers.steps import all_live_of

# Chunks


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_chunks_are_cut_and_joined(count):
    device, a = find("reference"), draw(T, B, M)
    cut = chunks_of(T, B, count)
    out = cut.cut(device, a)
    assert cut.count == count and out.shape == (cut.length, count * B, M)
    for c in range(count):
        for step in range(cut.length):
            t = c * cut.length + step
            wanted = a[t] if t < T else np.zeros((B, M))
            assert (out[step, c * B : (c + 1) * B] == wanted).all()
    assert (cut.joined(device, out) == a).all()


def test_columns_of_chunks_are_gathered_and_written_back():
    device, cut, a = find("reference"), chunks_of(T, B, 6), draw(4, 12, N)
    own = cut.columns([1, 2, 5])
    assert own == [slice(2, 6), slice(10, 12)]
    assert (gathered(device, a, 1, own) == a[:, [2, 3, 4, 5, 10, 11]]).all()
    before, more = a.copy(), draw(4, 6, N)
    scatter(a, 1, own, more, add=True)
    assert (a[:, [2, 3, 4, 5, 10, 11]] == before[:, [2, 3, 4, 5, 10, 11]] + more).all()
    assert (a[:, [0, 1, 6, 9]] == before[:, [0, 1, 6, 9]]).all()


def test_growth_is_the_largest_ratio_of_a_later_distance_to_an_earlier():
    distances, floor = np.exp(draw(20, 3)), 0.5
    wanted = max(
        later / d
        for column in distances.T
        for i, d in enumerate(column)
        for later in column[i:]
        if d > floor
    )
    assert growth(distances, floor) == wanted > 1
    assert growth(np.zeros((4, 2)), floor) == 1
    assert growth(np.array([[1.0], [np.nan]]), floor) == np.inf


def test_a_nan_of_one_sample_is_its_chunks():
    assert np.isnan(per_chunk(np.array([1.0, np.nan, 2.0, 3.0]), 2)).tolist() == [True, False]


# Forward and back


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_chunks_give_what_steps_give(name, device, dtype):
    layer = forgetful(KINDS[name], device, dtype)
    same_in_chunks(layer)
    assert layer.parallel_report.chunks == 4
    assert not layer.parallel_report.sequential and not layer.parallel_report.sequential_back


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_rows_that_need_not_be_copied(name, device, dtype):
    """One sample, and chunks of one length: dE/dy is read where it is, and stays as it is."""
    layer = forgetful(KINDS[name], device, dtype)
    x, dy = draw(120, 1, M, dtype=dtype), draw(120, 1, N, dtype=dtype)
    before = dy.copy()
    wanted = both_ways(layer, x, dy, parallel=False)
    close(both_ways(layer, x, dy, parallel=(3, 11)), wanted, 10 * RTOL[dtype])
    assert (dy == before).all() and not layer.parallel_report.sequential_back
    cut, d = chunks_of(120, 1, 3), find(device)
    rows = d.array(dy, dtype)
    seen, copied = (d.numpy(make(d, rows)) for make in (cut.beside, cut.cut))
    assert (seen == copied).all() and seen.shape == (40, 3, N)


@pytest.mark.parametrize("name", REPRESENTATIVE)
@pytest.mark.parametrize("warm_up", [0, 1, 1000])
def test_whatever_the_warm_up(name, warm_up):
    layer = forgetful(KINDS[name])
    same_in_chunks(layer, cut=(2, warm_up))
    assert (layer.parallel_report.repaired > 0) == (warm_up < 1000)
    assert not layer.parallel_report.sequential


@pytest.mark.parametrize(
    "options",
    [
        {"reverse": True},
        {"batch_first": False, "recurrent_dropout": 0.3, "zoneout": 0.2},
        {"recurrent_dropout": 0.3, "reverse": True},
    ],
)
def test_whatever_the_layer(options):
    for kind in KINDS.values():
        for training in (False, True):
            wanted, found = forgetful(kind, **options), forgetful(kind, **options)
            x, dy = draw(T, B, M), draw(T, B, N)
            called = {"training": training}
            a = both_ways(wanted, x, dy, parallel=False, **called)
            b = both_ways(found, x, dy, parallel=CUT, **called)
            close(b, a, 1e-9)
            assert not found.parallel_report.sequential


def test_lengths_masks_states_and_directions():
    lengths, mask = np.array([T, 40]), RNG.random((T, B)) < 0.7
    for kind in KINDS.values():
        layer = forgetful(kind)
        state = (draw(B, N),) * layer.cell.states
        state = state if len(state) > 1 else state[0]
        same_in_chunks(layer, lengths=lengths)
        same_in_chunks(layer, mask=mask, state=state)
        close(layer.delta[~mask], np.zeros_like(layer.delta[~mask]), 0)
        same_in_chunks(rnn_gpu.Bidirectional(layer), lengths=lengths)


def test_what_arrives_behind_the_last_step_comes_in():
    for kind in KINDS.values():
        layer = forgetful(kind)
        x, dstate = draw(T, B, M), [draw(B, N) for _ in range(layer.cell.states)]
        dstate = tuple(dstate) if len(dstate) > 1 else dstate[0]
        both = []
        for parallel in (False, CUT):
            both.append(both_ways(layer, x, None, parallel=parallel, dstate=dstate))
        close(both[1], both[0], 1e-9)


@pytest.mark.parametrize("samples", [1, B])
def test_delta_and_the_tape_are_those_of_steps(samples):
    layer, x, dy = forgetful(rnn_gpu.LSTM), draw(T, samples, M), draw(T, samples, N)
    both_ways(layer, x, dy, parallel=False, back={"tape": True})
    delta, tape = layer.delta, layer.tape
    both_ways(layer, x, dy, parallel=CUT)
    close(layer.delta, delta, 1e-9)
    both_ways(layer, x, dy, parallel=CUT, back={"tape": True})
    close(list(layer.tape), list(tape), 1e-9)
    assert layer.parallel_report.sequential_back == "tape=True"


def test_clipping_is_not_linear_and_goes_step_by_step():
    layer = forgetful(rnn_gpu.GRU)
    same_in_chunks(layer, back={"clip_step_norm": 0.01})
    assert layer.clipped_steps > 0
    assert "clipped" in layer.parallel_report.sequential_back


# What does not forget


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["bistable", "chaotic", "relu", "4", "8"])
def test_what_does_not_forget_is_found_out_and_ends_right(name, dtype):
    layer = remembering(name, device="cpu", dtype=dtype, seed=3)
    x = draw(160, B, M, dtype=dtype)
    same_in_chunks(layer, x)
    report = layer.parallel_report
    assert report.sequential or report.repaired


def test_what_arrives_at_the_first_step_has_gone_through_every_chunk():
    """A state that is carried from the first step to the last: repairs and carries go all the
    way.
    """
    layer = rnn_gpu.RNN(M, N, "relu", device="reference", dtype="float64")
    layer.parameters["W"][...] = np.diag([1.0, 0.5, 0.4, 0.3, 0.2])
    x = np.zeros((T, B, M))
    dy = np.zeros((T, B, N))
    dy[-1] = 1
    state = np.ones((B, N))
    for parallel in (False, CUT):
        y, *_, ds = both_ways(layer, x, dy, parallel=parallel, state=state)[:4]
        assert y[-1, 0, 0] == 1 and ds[0, 0] == 1
    assert layer.parallel_report.sequential


def test_a_unit_that_flips_in_one_chunk_is_right_in_the_next():
    """Bistable: an impulse in the second chunk sets it, one in the last sets it back; a warm-up
    sees neither.
    """
    layer = rnn_gpu.RNN(1, 1, device="reference", dtype="float64")
    layer.parameters["W"][...], layer.parameters["U"][...] = 3.0, 1.0
    x, dy = np.zeros((8 * PIECE, 1, 1)), draw(8 * PIECE, 1, 1)
    x[[0, 100, 230], 0, 0] = (9, -9, 9)
    wanted = both_ways(layer, x, dy, parallel=False)
    found = both_ways(layer, x, dy, parallel=(4, 20))
    close(found, wanted, 1e-9)
    assert found[0][70] > 0.9 > -0.9 > found[0][200]


def test_a_loss_of_the_last_step_alone_is_not_carried_on_for_nothing():
    """What arrives at seams is far below dE/dy, which it adds to: it is left."""
    layer = forgetful(rnn_gpu.LSTM)
    x, dy = draw(T, B, M), np.zeros((T, B, N))
    dy[-1] = 1
    wanted = both_ways(layer, x, dy, parallel=False)
    close(both_ways(layer, x, dy, parallel=CUT), wanted, 1e-9)
    assert layer.parallel_report.extra_steps_back == 0


def test_states_that_are_not_finite_go_step_by_step():
    layer = rnn_gpu.RNN(M, N, "relu", device="reference")
    layer.parameters["W"][...] = 9 * np.eye(N)
    layer.parameters["b"][...] = 1
    with np.errstate(all="ignore"):
        layer(draw(T, B, M, dtype="float32"), parallel=CUT)
    assert "finite" in layer.parallel_report.sequential


# How many chunks


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_a_layer_is_cut_as_it_forgets(device):
    T = 512
    layer = forgetful(rnn_gpu.GRU, device, "float32")
    same_in_chunks(layer, draw(T, 1, M, dtype="float32"), cut=True)
    report = layer.parallel_report
    assert report.chunks > 1 and not report.sequential
    assert 0 < report.warm_up <= 4 * PIECE and report.repaired == 0


@pytest.mark.parametrize("options", [{"recurrent_dropout": 0.4}, {"zoneout": 0.3}])
def test_noise_hides_from_the_look_no_more_than_it_must(options):
    """Two trajectories meet that draw the same."""
    for kind in KINDS.values():
        layer = forgetful(kind, dtype="float32", **options)
        layer(draw(1024, B, M, dtype="float32"), parallel=True, training=True)
        report = layer.parallel_report
        assert report.chunks > 1 and not report.sequential


def test_the_look_says_when_two_trajectories_are_the_same():
    """One unit that halves its state: from ½ apart they are within a tolerance after as many
    steps as it has halvings.
    """
    layer = rnn_gpu.RNN(1, 1, "identity", device="reference", dtype="float64")
    layer.parameters["W"][...] = 0.5
    for halvings in (10, 30, 40):
        pass_ = Pass(parallel=Parallel(tolerance=4 * 0.5 ** (halvings + 1)))
        x = np.zeros((600, 1, 1))
        steps = all_live_of(layer.backend, x)
        assert forgetting(layer, x, steps, pass_, 100) == halvings


@pytest.mark.parametrize("name", ["bistable", "chaotic", "relu", "8"])
def test_the_look_finds_out_what_does_not_forget(name):
    layer = remembering(name, device="cpu")
    x = draw(1200, B, M, dtype="float32") / 10
    wanted = layer(x)[0]
    assert (layer(x, parallel=True)[0] == wanted).all()
    assert "does not forget" in layer.parallel_report.sequential
    assert layer.parallel_report.extra_steps == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_samples_that_end_early_are_looked_at_where_something_happens(reverse):
    """Before a third of the steps, here; the others are not what a layer does not forget."""
    layer = rnn_gpu.GRU(M, 16, device="cpu", reverse=reverse)
    x, lengths = draw(4000, 2, M, dtype="float32"), np.array([900, 300])
    y, _ = layer(x, parallel=True, lengths=lengths)
    report = layer.parallel_report
    assert report.chunks == 8 and not report.sequential and not report.repaired
    close(y, layer(x, lengths=lengths)[0], 1e-6)


def test_auto_goes_step_by_step_where_it_would_not_pay():
    x = draw(LONG, 8, M, dtype="float32")
    layer = rnn_gpu.GRU(M, 64, device="cpu")
    wanted = layer(x)[0]
    assert (layer(x, parallel="auto")[0] == wanted).all()
    assert re.search("times as quick|too short", layer.parallel_report.sequential)
    layer(x[: LONG - 1, :1], parallel="auto")
    assert "few" in layer.parallel_report.sequential


@pytest.mark.parametrize("rows, cut", [(64, True), (2, False)], ids=["great", "small"])
def test_auto_looks_at_a_short_pass_only_for_a_great_gain(rows, cut, monkeypatch):
    """A step takes a microsecond, whether of one sample or of so many: as on a GPU, or a CPU."""
    monkeypatch.setattr(cutting, "cost", lambda layer, its: 1e3 * -(-its // rows))
    layer, T = rnn_gpu.LSTM(M, N, device="reference"), 2 * LONG
    found = cutting.first_cut(layer, T, 1, Parallel(auto=True))
    assert T * 1e3 < cutting.SHORT and bool(found.why) != cut
    assert (found.chunks >= rows and found.gain > 5) if cut else "too short" in found.why


@pytest.mark.parametrize("name", ["bistable", "chaotic", "relu", "8"])
def test_to_look_at_what_does_not_forget_costs_auto_little(name, monkeypatch):
    """Steps of two samples, each of which takes at most 1.5 of a step of one."""
    layer, run, probed = remembering(name, device="cpu"), [], cutting.probed
    monkeypatch.setattr(cutting, "first_cut", lambda *its: Cut(4, 64, 2.0))  # of any size
    monkeypatch.setattr(cutting, "probed", lambda *its: run.append(len(its[3][0])) or probed(*its))
    layer(draw(LONG, 1, M, dtype="float32"), parallel="auto")
    assert "does not forget" in layer.parallel_report.sequential
    assert 0 < 1.5 * sum(run) <= 0.03 * LONG


def test_devices_model_what_a_step_costs(device):
    cell, model = rnn_gpu.GRU(1, 1, device=device).cell, find(device).cost
    costs = [model(cell, 128, rows, "float32") for rows in (1, 2, 4, 8, 64)]
    assert costs == sorted(costs) and costs[0] > 0
    assert costs[0] > costs[2] / 4  # a sample of four is cheaper than one alone
    assert model(cell, 256, 4, "float32") > costs[2]


def test_a_layer_explains_what_chunks_should_gain():
    layer = rnn_gpu.GRU(M, 128, device="cpu")
    assert "in chunks" not in layer.explain(4096, 1)
    assert re.search(r"in chunks: 4 of 1,025 steps, \d\.\d+ times", layer.explain(4096, 1, (4, 64)))
    assert "in chunks: no, " in layer.explain(100, 1, "auto")


def test_it_explains_the_chunks_that_there_will_be():
    layer = forgetful(rnn_gpu.GRU, device="cpu")
    for cut in ((65, 2), (10**30, 10**30), (7, 1000)):
        layer(draw(64, B, M), parallel=cut)
        report, told = layer.parallel_report, layer.explain(64, B, cut)
        assert f"in chunks: {report.chunks} of {-(-64 // report.chunks)} steps" in told
        assert f"a warm-up of {report.warm_up} steps" in told


# Networks


def network_of(kind, **options):
    layers = [forgetful(kind, seed=1), rnn_gpu.Dropout(0.2, device="reference", dtype="float64")]
    more = kind(N, N, device="reference", dtype="float64")
    more.parameters["W"][...] *= 0.1
    more.parameters["b"][N : 2 * N] = -2
    dense = rnn_gpu.Dense(N, 2, device="reference", dtype="float64")
    return rnn_gpu.Network([*layers, more, dense], **options)


@pytest.mark.parametrize("called", [{}, {"memory_budget": 400_000}])
def test_a_network_gives_the_same(called):
    for training in (False, True):
        wanted, found = network_of(rnn_gpu.GRU), network_of(rnn_gpu.GRU)
        x, dy = draw(512, B, M), draw(512, B, 2)
        a = both_ways(wanted, x, dy, parallel=False, training=training, **called)
        b = both_ways(found, x, dy, parallel=CUT, training=training, **called)
        close(b, a, 1e-9)
        assert all(report.chunks == 4 for report in found.parallel_reports)


@pytest.mark.parametrize(
    "options", [{}, {"truncate": (64, 64)}, {"truncate": (32, 96)}, {"memory_budget": 300_000}]
)
def test_training_gives_the_same(options):
    x, y, losses = draw(4, 256, M), draw(4, 256, 2), []
    for parallel in (False, CUT):
        network = network_of(rnn_gpu.LSTM)
        options = options | {"parallel": parallel, "tolerance": 1e-13}
        history = network.fit(x, y, batch_size=2, updates=6, progress=False, **options)
        losses.append(history["step_loss"])
    close(losses[1], losses[0], 1e-9)
    assert all(report.chunks > 1 for report in network.parallel_reports)


def test_evaluate_and_predict_give_the_same():
    network, x, y = network_of(rnn_gpu.GRU), draw(3, T, M), draw(3, T, 2)
    close(network.predict(x, parallel=CUT, tolerance=1e-13), network.predict(x), 1e-9)
    found = network.evaluate(x, y, parallel=CUT, tolerance=1e-13)
    close(found["loss"], network.evaluate(x, y)["loss"], 1e-9)


@pytest.mark.parametrize("parallel", [1, "yes", (0, 3), (2, -1), (2.5, 3), (2,), None, (True, 2)])
def test_refused(parallel):
    with pytest.raises(rnn_gpu.ArgumentError, match="parallel"):
        forgetful(rnn_gpu.GRU)(draw(T, B, M), parallel=parallel)


def test_a_tolerance_is_above_zero():
    for tolerance in (0, None, 10**400):
        with pytest.raises(rnn_gpu.ArgumentError, match=r"^tolerance is .* a number above 0$"):
            forgetful(rnn_gpu.GRU)(draw(T, B, M), parallel=CUT, tolerance=tolerance)


def test_a_tolerance_that_float32_has_no_number_for_is_one_all_the_same():
    layer = forgetful(rnn_gpu.GRU, device="cpu", dtype="float32")
    y, _ = layer(draw(T, B, M, dtype="float32"), parallel=CUT, tolerance=1e300)
    layer.backward(np.ones_like(y))
    assert layer.parallel_report.repaired == layer.parallel_report.back_rounds == 0


# Larger


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, **SLOW) for seed in range(1, 20))])
@pytest.mark.parametrize("name", ["bistable", "chaotic", "relu", "4", "8"])
def test_a_hundred_that_do_not_forget_are_found_out_and_end_right(name, seed):
    layer = remembering(name, device="cpu", seed=seed)
    x = np.random.default_rng(seed).normal(size=(160, 1, M)).astype("float32")
    for cut in ((4, 16), (8, 8)):
        same_in_chunks(layer, x, cut=cut)
        report = layer.parallel_report
        assert report.sequential or report.repaired or report.rounds


def trained(kind, n: int, task: str, dtype: str):
    """A layer of a network that has learnt a little of a task; None has not."""
    layer = kind(M, n, device="cpu", dtype=dtype, seed=n)
    if task == "none":
        return layer
    dense = rnn_gpu.Dense(n, 1, device="cpu", dtype=dtype)
    rng = np.random.default_rng(n)
    x = rng.normal(size=(32, 64, M)).astype(dtype)
    y = {
        "echo": np.roll(x[:, :, :1], 3, 1),
        "mean": np.cumsum(x[:, :, :1], 1) / np.arange(1, 65)[None, :, None],
        "sign": np.sign(x[:, :, :1] * np.roll(x[:, :, 1:2], 1, 1)),
    }[task].astype(dtype)
    network = rnn_gpu.Network([layer, dense])
    network.fit(x, y, updates=40, batch_size=16, learning_rate=3e-3, progress=False)
    return layer


TASKS = ["none", *(pytest.param(task, **SLOW) for task in ("echo", "mean", "sign"))]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n", [64, pytest.param(128, **SLOW), pytest.param(256, **SLOW)])
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_states_and_delta_of_larger_layers_are_those_of_steps(name, n, task, dtype):
    layer, T = trained(KINDS[name], n, task, dtype), 4096
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(T, 1, size)).astype(dtype) for size in (M, n))
    found = []
    for parallel in (False, (4, 160)):
        y, _ = layer(x, parallel=parallel, tolerance={"float32": 1e-6, "float64": 1e-13}[dtype])
        layer.backward(dy)
        found.append((y, layer.delta.copy()))
    (y, δ), (other, more) = found
    bounds = {"float32": (2e-6, 1e-5), "float64": (1e-13, 1e-12)}[dtype]
    bounds = bounds[0], bounds[1] * np.abs(δ).max()
    if dtype == "float32":  # a trained one may expand what rounding does, step by step too
        exact = layer.copy(dtype="float64")
        rounded = np.abs(y - exact(x.astype(float))[0]).max()
        exact.backward(dy.astype(float))
        bounds = np.maximum(bounds, (3 * rounded, 3 * np.abs(δ - exact.delta).max()))
    assert np.abs(other - y).max() <= bounds[0]
    assert np.abs(more - δ).max() <= bounds[1]
    # the others may remember for longer than half a chunk
    if task == "none" and dtype == "float32":
        assert not layer.parallel_report.sequential
