"""Where a sample begins anew it may go on from a state that is given: the kernels of every device
and schedule, layers, networks; the gradient arrives there, and nowhere else.
"""

import itertools
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from conftest import close
from door import refuses, results, same
from rnn_gpu import (
    GRU,
    LSTM,
    RNN,
    ArgumentError,
    Bidirectional,
    Dense,
    Network,
    gradcheck,
)
from rnn_gpu.errors import DtypeError, OrderError, ShapeError
from rnn_gpu.kernels import UNCLIPPED, Clip
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.devices.cuda.schedules import only
from rnn_gpu.kernels.devices.cuda.tuning import choose
from twins import OTHERS, one_pass

SCHEDULES = ("plain", "gemm", "block", "cluster", "group")
NOISY = {"noisy": dropped(zoned(CELLS["lstm"]))}
CLIPS = (UNCLIPPED, Clip(0.4, 0.6))


def agree(device, cell, dtype, **settings):
    """One pass of the device and of the reference, with given states."""
    expected, _, beyond = one_pass("reference", cell, dtype, given=True, **settings)
    got, _, clipped = one_pass(device, cell, dtype, given=True, **settings)
    for a, b in zip(got, expected, strict=True):
        close(a, b, dtype)
    assert clipped == beyond
    return expected


@pytest.mark.parametrize("other", OTHERS)
def test_twins_agree_on_given_states(cell, other, dtype):
    for pattern in (1, 2):
        *_, ds = agree(other, cell, dtype, pattern=pattern)
        assert ds[:, 1:].any() and not ds[:, 1].any()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["lstm", "gru", "noisy"])
def test_schedules_agree_on_given_states(name, schedule):
    cell = (CELLS | NOISY)[name]
    sizes = (7,) if schedule == "group" else (7, 9)  # which takes longest in the simulator
    for clip, n in itertools.product(CLIPS, sizes):
        with only(schedule):
            assert choose(cell, "forward", n, 5, 8, masked=True).schedule == schedule
            agree("cuda", cell, "float64", pattern=4, clip=clip, n=n)


T, B, M, N = 7, 4, 3, 5
KINDS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
RNG = np.random.default_rng(5)
X, DY = RNG.normal(size=(T, B, M)), RNG.normal(size=(T, B, N))
MASK, RESETS, LENGTHS = RNG.random((T, B)) < 0.8, RNG.random((T, B)) < 0.3, [7, 4, 6, 7]
RESETS[0, :2] = True, False
REFERENCE = {"device": "reference", "dtype": "float64"}
ALL = {"lengths": LENGTHS, "mask": MASK, "resets": RESETS}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["ahead", "reverse"])
def reverse(request):
    return request.param


def drawn(layer, *axes, scale=1.0):
    """A state of a layer, (*axes, n), as users have it."""
    rng = np.random.default_rng(len(axes))
    parts = scale * rng.normal(size=(layer.cell.states, *axes, layer.hidden_size))
    parts = tuple(parts.astype(layer.dtype))
    return parts if len(parts) > 1 else parts[0]


def each(f, state):
    """A state with each of its arrays changed."""
    return tuple(map(f, state)) if isinstance(state, tuple) else f(state)


def pieces(begins, reverse):
    """The steps between those that begin anew: (slice, where the piece takes its state from, a step
    or None for the initial one).
    """
    cuts = [0, *(t for t in range(1, T) if begins[t]), T]
    for first, end in itertools.pairwise(cuts):
        if reverse:
            yield slice(first, end), end if end < T else None
        else:
            yield slice(first, end), first if begins[first] else None


@pytest.mark.parametrize("clip", [{}, {"clip_step_value": 0.3, "clip_step_norm": 0.5}])
def test_given_states_are_those_that_pieces_begin_with(kind, reverse, clip):
    """By calls on each piece alone."""
    layer = kind(M, N, reverse=reverse, **REFERENCE)
    given, s0 = drawn(layer, T, B), drawn(layer, B)
    got = results(layer, X, DY, s0, resets=RESETS, reset_state=given, **clip)
    clipped, sums = layer.clipped_steps, dict.fromkeys(("dU", "dW", "db"), 0)
    expected_clipped = 0
    states = [name for name in got if name.startswith("dgiven")]
    arrived = {name: np.zeros((T, B, N)) for name in states}
    first = {name.replace("dgiven", "first"): np.zeros((B, N)) for name in states}
    for b in range(B):
        one = slice(b, b + 1)
        for steps, at in pieces(RESETS[:, b], reverse):
            begin = each(lambda s, b=b: s[b : b + 1], s0)
            if at is not None:
                begin = each(lambda s, at=at, b=b: s[at, b : b + 1], given)
            found = results(layer, X[steps, one], DY[steps, one], begin, **clip)
            expected_clipped += layer.clipped_steps
            close(got["y"][steps, one], found["y"])
            close(got["dx"][steps, one], found["dx"])
            for name in sums:
                sums[name] = sums[name] + found[name]
            for name in states:
                into = (
                    arrived[name][at] if at is not None else first[name.replace("dgiven", "first")]
                )
                into[b] = found[name.replace("dgiven", "first")][0]
    for name, a in (sums | arrived | first).items():
        close(got[name], a)
    assert clipped == expected_clipped and (clipped > 0) == bool(clip)


@pytest.mark.parametrize("name", ["ahead", "reverse", "both", "network"])
def test_gradients_of_given_states_are_slopes_of_the_loss(name, kind):
    made = {
        "ahead": lambda: kind(M, N, **REFERENCE),
        "reverse": lambda: kind(M, N, reverse=True, **REFERENCE),
        "both": lambda: Bidirectional(kind(M, N, **REFERENCE)),
        "network": lambda: kind(M, N, **REFERENCE),
    }[name]()
    layers = (
        [made, kind(N, 4, **REFERENCE), Dense(4, 2, **REFERENCE)] if name == "network" else [made]
    )
    network = Network(layers)
    given = [drawn(layer, T, B) for layer in network.recurrent]
    if name == "network":
        given[1] = None
    y = RNG.normal(size=(T, B, network.output_size))
    check = gradcheck(network, X, y, reset_state=given, **ALL)
    assert "reset_state[0]" in check.errors and ("reset_state[1]" in check.errors) == (
        name == "both"
    )


@pytest.mark.quick_on_devices("LSTM")
@pytest.mark.parametrize("other", OTHERS)
def test_layers_agree_on_every_device(kind, reverse, other):
    noise = {"recurrent_dropout": 0.3, "zoneout": 0.2}
    for build, call in (({}, {}), (noise, {"training": True}), ({}, {"clip_step_norm": 0.4})):
        found = []
        for device in ("reference", other):
            layer = kind(M, N, reverse=reverse, device=device, dtype="float64", **build)
            s0, given = drawn(layer, B), drawn(layer, T, B)
            given = each(lambda s: np.where(RESETS[:, :, None], s, np.nan), given)
            ds = drawn(layer, B, scale=0.5)
            found.append(results(layer, X, DY, s0, ds, reset_state=given, **ALL, **call))
            taped = results(layer, X, DY, s0, ds, reset_state=given, tape=True, **ALL, **call)
            if not call.get("training"):  # another pass draws other masks
                for name, a in taped.items():
                    close(a, found[-1][name])
        assert list(found[0]) == list(found[1])
        for name, a in found[0].items():
            close(found[1][name], a)


def test_both_directions_have_given_states_of_their_own():
    both = Bidirectional(GRU(M, N, batch_first=True, **REFERENCE))
    given = [drawn(layer, T, B, scale=k + 1) for k, layer in enumerate(both.recurrent)]
    turned = [a.swapaxes(0, 1) for a in given]
    x, dy = X.swapaxes(0, 1), np.concatenate([DY, DY], 2).swapaxes(0, 1)
    got = results(both, x, dy, resets=RESETS.T, reset_state=turned)
    for k, layer in enumerate(both.recurrent):
        alone = layer.copy()
        found = results(alone, x, dy[..., :N], resets=RESETS.T, reset_state=turned[k])
        close(got["y"][..., k * N : (k + 1) * N], found["y"])
        close(got[f"dgiven[{k}]"], found["dgiven"])
        assert found["dgiven"].shape == (B, T, N) and found["dgiven"].any()
    one = results(both, x, dy, resets=RESETS.T, reset_state=[None, turned[1]])
    assert both.dreset_state[0] is None
    close(one["y"][..., N:], got["y"][..., N:])
    close(one["y"][..., :N], results(both, x, dy, resets=RESETS.T)["y"][..., :N])


def test_given_states_that_are_the_initial_one_change_nothing(kind, reverse):
    layer = kind(M, N, reverse=reverse, **REFERENCE)
    s0 = drawn(layer, B)
    same_everywhere = each(lambda s: np.broadcast_to(s, (T, B, N)).copy(), s0)
    got = results(layer, X, DY, s0, reset_state=same_everywhere, **ALL)
    expected = results(layer, X, DY, s0, **ALL)
    for name in expected:
        if not name.startswith("first"):
            close(got[name], expected[name])
    for name in [name for name in got if name.startswith("dgiven")]:
        first = name.replace("dgiven", "first")
        close(got[name].sum(0) + got[first], expected[first])


def test_without_any_reset_nothing_is_looked_at(kind):
    layer, nowhere = kind(M, N, **REFERENCE), np.zeros((T, B), bool)
    given = each(lambda s: np.full_like(s, np.nan), drawn(layer, T, B))
    got = results(layer, X, DY, drawn(layer, B), resets=nowhere, reset_state=given)
    expected = results(layer, X, DY, drawn(layer, B))
    same({name: got[name] for name in expected}, expected)
    assert not any(got[name].any() for name in got if name.startswith("dgiven"))


def test_the_door_says_what_is_wrong():
    lstm, gru = LSTM(M, N, **REFERENCE), GRU(M, N, **REFERENCE)
    h, c = drawn(lstm, T, B)
    refuses(
        ArgumentError,
        "reset_state is given, but resets is None",
        lambda: gru(X, reset_state=h),
    )
    for layer, given, message in (
        (lstm, h, r"reset_state is .*, expected a tuple of 2 arrays \(T, B, n\)"),
        (lstm, (h, c[:, :, :-1]), r"reset_state\[1\] has shape .*, expected 5 on axis 2"),
        (gru, h[0], r"reset_state has shape \(4, 5\), expected 3 axes, \(T, B, n\)"),
        (Bidirectional(gru), h, "reset_state is .*, expected a list of 2"),
        (Network([gru]), [h, h], "reset_state is .*, expected a list of 1"),
    ):
        call = partial(layer, X, resets=RESETS, reset_state=given)
        refuses(ShapeError, message, call)
    bad = h.copy()
    bad[0, 0, 2] = np.nan
    refuses(
        ArgumentError, r"reset_state.*\(0, 0, 2\)", lambda: gru(X, resets=RESETS, reset_state=bad)
    )
    bad = h.astype("f")
    refuses(DtypeError, "reset_state is float32", lambda: gru(X, resets=RESETS, reset_state=bad))
    refuses(
        ArgumentError,
        "reset_state is given, but this network has no recurrent layer",
        lambda: Network([Dense(M, 2, **REFERENCE)])(X[0], reset_state=[]),
    )
    gru(X, resets=RESETS)
    gru.backward(DY)
    refuses(OrderError, "dreset_state is known after backward", lambda: gru.dreset_state)


PAGE = Path(__file__).parents[1] / "docs" / "howto.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the tests run outside a checkout")
def test_what_the_page_does_can_be_done():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    exec(compile(code, str(PAGE), "exec"), {})
