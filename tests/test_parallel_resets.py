"""Chunks side by side of samples that begin anew, or end, on the way: against the same, step by
step.
"""

import itertools

import numpy as np
import pytest

import rnn_gpu
from conftest import DEVICES, REPRESENTATIVE
from in_chunks import (
    CUT,
    KINDS,
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
from rnn_gpu.layers.cutting import PIECE

L = 51  # steps of each of four chunks
PATTERNS = ("resets", "given", "everything")


def marked(*places, samples=slice(None), steps=T, B=B):
    """Resets at these steps of these samples."""
    resets = np.zeros((steps, B), bool)
    resets[list(places), samples] = True
    return resets


def called_with(pattern: str, states: int = 1) -> dict:
    rng = np.random.default_rng(5)
    call = {"resets": rng.random((T, B)) < 0.05}
    call["resets"][[0, L, 2 * L - 4], 0] = True  # where chunks and, one step on, warm-ups begin
    call["resets"][2 * L] = True
    call["resets"][: L + 1, 1] = False  # goes over the first seam
    if pattern != "resets":
        given = tuple(rng.normal(size=(T, B, N)) for _ in range(states))
        call["reset_state"] = given if states > 1 else given[0]
    if pattern == "everything":
        call["lengths"] = np.array([T, T // 2])
        call["mask"] = rng.random((T, B)) < 0.7
        state = tuple(rng.normal(size=(B, N)) for _ in range(states))
        call["state"] = state if states > 1 else state[0]
    return call


def of_dtype(call: dict, dtype: str) -> dict:
    def cast(a):
        if isinstance(a, tuple):
            return tuple(cast(one) for one in a)
        return a.astype(dtype) if a.dtype.kind == "f" else a

    return {name: cast(a) for name, a in call.items()}


# Forward and back


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", REPRESENTATIVE)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_chunks_give_what_steps_give(pattern, name, device, dtype):
    layer = forgetful(KINDS[name], device, dtype)
    same_in_chunks(layer, **of_dtype(called_with(pattern, layer.cell.states), dtype))
    report = layer.parallel_report
    assert report.chunks == 4 and not report.sequential + report.sequential_back


@pytest.mark.parametrize("warm_up", [0, 1, 30, 1000])
def test_whatever_the_warm_up(warm_up):
    for kind, pattern in itertools.product(KINDS.values(), PATTERNS):
        layer = forgetful(kind)
        same_in_chunks(layer, cut=(3, warm_up), **called_with(pattern, layer.cell.states))
        assert not layer.parallel_report.sequential


@pytest.mark.parametrize(
    "options",
    [
        {"reverse": True},
        {"recurrent_dropout": 0.3, "zoneout": 0.2},
        {"recurrent_dropout": 0.3, "reverse": True},
    ],
)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_whatever_the_layer(pattern, options):
    for kind in KINDS.values():
        wanted, found = forgetful(kind, **options), forgetful(kind, **options)
        call = called_with(pattern, wanted.cell.states) | {"training": True}
        x, dy = draw(T, B, M), draw(T, B, N)
        a = both_ways(wanted, x, dy, parallel=False, **call)
        b = both_ways(found, x, dy, parallel=CUT, **call)
        close(b, a, 1e-9)
        assert not found.parallel_report.sequential


def test_both_directions():
    for kind in KINDS.values():
        same_in_chunks(rnn_gpu.Bidirectional(forgetful(kind)), **called_with("resets"))


@pytest.mark.parametrize(("name", "budget"), [("gru", 270_000), ("lstm", 310_000)])
def test_segments_of_a_network(name, budget):
    layer = forgetful(KINDS[name])
    network = rnn_gpu.Network([layer, rnn_gpu.Dense(N, 2, device="reference", dtype="float64")])
    call = called_with("given", layer.cell.states)
    call["reset_state"] = [call["reset_state"]]
    same_in_chunks(network, memory_budget=budget, **call)
    report = network.parallel_reports[0]
    assert report.chunks > 1 and not report.sequential + report.sequential_back


def test_what_arrives_behind_the_last_step_comes_in():
    for kind, pattern in itertools.product(KINDS.values(), PATTERNS):
        layer = forgetful(kind)
        x, dstate = draw(T, B, M), [draw(B, N) for _ in range(layer.cell.states)]
        dstate = tuple(dstate) if len(dstate) > 1 else dstate[0]
        call = called_with(pattern, layer.cell.states)
        both = [both_ways(layer, x, None, parallel=p, dstate=dstate, **call) for p in (False, CUT)]
        close(both[1], both[0], 1e-9)


def test_delta_and_the_tape_are_those_of_steps():
    layer, x, dy = forgetful(rnn_gpu.LSTM), draw(T, B, M), draw(T, B, N)
    call = called_with("given", 2)
    both_ways(layer, x, dy, parallel=False, back={"tape": True}, **call)
    delta, tape = layer.delta, layer.tape
    both_ways(layer, x, dy, parallel=CUT, **call)
    close(layer.delta, delta, 1e-9)
    both_ways(layer, x, dy, parallel=CUT, back={"tape": True}, **call)
    close(list(layer.tape), list(tape), 1e-9)
    assert layer.parallel_report.sequential_back == "tape=True"


# A reset is a free seam


@pytest.mark.parametrize("name", ["bistable", "chaotic", "relu", "8"])
@pytest.mark.parametrize("given", [False, True])
def test_chunks_that_begin_with_a_reset_need_no_warm_up(name, given):
    """Of what does not forget, too: no steps beyond those of the sequence, and nothing carried."""
    layer = remembering(name, device="cpu", dtype="float64", seed=3)
    n = layer.hidden_size
    call = {"resets": marked(L, 2 * L, 3 * L)}
    if given:
        states = tuple(draw(T, B, n) for _ in range(layer.cell.states))
        call["reset_state"] = states if len(states) > 1 else states[0]
    same_in_chunks(layer, **call)
    report = layer.parallel_report
    assert not report.sequential + report.sequential_back
    assert (report.jump, report.warm_up, report.repaired) == (0, 0, 0)
    assert report.extra_steps == 4 * L * B - T * B == B  # of the last chunk, which is padded
    assert report.extra_steps_back == 0


def test_a_warm_up_that_meets_a_reset_is_exact():
    layer = remembering("8", device="cpu", dtype="float64", seed=3)
    near = [L - 7, 2 * L - 5, 3 * L - 3]
    same_in_chunks(layer, resets=marked(*near))
    report = layer.parallel_report
    assert (report.repaired, report.warm_up, report.sequential) == (0, 7, "")
    assert report.jump == 0
    same_in_chunks(layer, cut=(4, 4), resets=marked(*near))  # of the first chunk's it knows nothing
    assert layer.parallel_report.repaired > 0


def test_repairs_and_carries_end_where_samples_begin_anew():
    """A state that would last, but for a reset in the first and the last piece of each chunk."""
    layer = remembering("relu", device="reference", dtype="float64")
    steps, length = 16 * PIECE, 4 * PIECE
    places = [c * length + step for c in range(4) for step in (5, length - 9)]
    x, resets = np.abs(draw(steps, B, M)), marked(*places, steps=steps)
    same_in_chunks(layer, x, cut=(4, 0), rtol=1e-9, resets=resets)
    report = layer.parallel_report
    assert not report.sequential + report.sequential_back
    assert (report.rounds, report.repaired) == (1, 3)
    assert report.extra_steps == 3 * PIECE * B
    assert report.back_rounds == 1 and report.extra_steps_back == 3 * PIECE * B


def test_nothing_goes_past_a_reset():
    layer = remembering("relu", device="cpu", dtype="float64")
    x, dy, at = draw(T, B, M), np.zeros((T, B, N)), 2 * L + 9
    dy[-1] = 1
    for parallel in (False, (4, 0)):
        given = draw(T, B, N)
        call = {"resets": marked(at), "reset_state": given}
        y, _, dx, ds, *_, dgiven = both_ways(layer, x, dy, parallel=parallel, **call)
        other = both_ways(layer, np.concatenate([-x[:at], x[at:]]), dy, parallel=parallel, **call)
        assert (other[0][at:] == y[at:]).all()
        assert not dx[:at].any() and not ds.any()
        arrived = dgiven[0] if isinstance(dgiven, (list, tuple)) else dgiven
        assert arrived[at].any() and not arrived[:at].any() and not arrived[at + 1 :].any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["bistable", "chaotic", "relu", "4", "8"])
def test_what_does_not_forget_is_found_out_and_ends_right(name, dtype):
    layer = remembering(name, device="cpu", dtype=dtype, seed=3)
    resets = marked(11, 12, samples=0, steps=160) | marked(100, samples=1, steps=160)
    same_in_chunks(layer, draw(160, B, M, dtype=dtype), resets=resets)
    report = layer.parallel_report
    assert report.sequential or report.repaired


def test_the_look_knows_that_no_sample_goes_on_for_long():
    """What does not forget begins anew every some steps: no chunk has to start earlier."""
    layer, steps, every = remembering("8", device="cpu", seed=3), 1280, 20
    x = draw(steps, B, M, dtype="float32")
    resets = marked(*range(7, steps, every), steps=steps)
    same_in_chunks(layer, x, cut=True, resets=resets)
    report = layer.parallel_report
    assert report.chunks > 1 and not report.sequential
    assert 0 < report.warm_up <= every and report.repaired == 0
    same_in_chunks(layer, x, cut=True, resets=marked(7, steps=steps))
    assert "does not forget" in layer.parallel_report.sequential


# Samples that end


@pytest.mark.parametrize("length", [40, L, L + 9])
@pytest.mark.parametrize("name", ["bistable", "chaotic", "8"])
def test_no_step_is_run_for_what_has_ended(name, length):
    """Chunks in which nothing happens have the states of the last that lives."""
    layer = remembering(name, device="cpu", dtype="float64", seed=3)
    n, states = layer.hidden_size, layer.cell.states
    x, dy, dstate = draw(T, 1, M), draw(T, 1, n), tuple(draw(1, n) for _ in range(states))
    dstate = dstate if states > 1 else dstate[0]
    lengths, both = np.array([length]), []
    for parallel in (False, (4, 0)):
        both.append(both_ways(layer, x, dy, parallel=parallel, dstate=dstate, lengths=lengths))
    close(both[1], both[0], 1e-9)
    report = layer.parallel_report
    assert not report.sequential + report.sequential_back
    live = length > L  # steps of the second chunk
    assert report.repaired == live
    assert report.extra_steps <= 4 * L - T + PIECE * live
    assert report.extra_steps_back <= 2 * L * live


def test_a_long_sample_beside_short_ones():
    lengths = np.array([T, 3])
    for kind, cut in itertools.product(KINDS.values(), (CUT, (4, 0), (7, 11))):
        layer = forgetful(kind)
        x, dstate = draw(T, B, M), [draw(B, N) for _ in range(layer.cell.states)]
        dstate = tuple(dstate) if len(dstate) > 1 else dstate[0]
        dy, both = draw(T, B, N), []
        for parallel in (False, cut):
            both.append(both_ways(layer, x, dy, parallel=parallel, dstate=dstate, lengths=lengths))
        close(both[1], both[0], 1e-9)


def test_nothing_is_run_for_a_chunk_that_a_mask_leaves_out():
    layer, mask = forgetful(rnn_gpu.GRU), np.ones((T, 1), bool)
    mask[2 * L : 3 * L] = False
    x, dy, both = draw(T, 1, M), draw(T, 1, N), []
    for parallel in (False, (4, 0)):
        both.append(both_ways(layer, x, dy, parallel=parallel, mask=mask))
    close(both[1], both[0], 1e-9)
    report = layer.parallel_report
    assert (report.rounds, report.repaired, report.back_rounds) == (1, 2, 1)
    assert report.extra_steps_back == 2 * PIECE
