"""`reset_state` of samples: fit, evaluate and predict go on from given states where samples begin
anew, as they do from the `state` of samples that are cut there.
"""

from itertools import pairwise

import numpy as np
import pytest

from conftest import close
from door import parameters_of, refuses, same, table
from fitting import alike, trained
from rnn_gpu import GRU, LSTM, ArgumentError, Bidirectional, Dense, DtypeError, Network, ShapeError
from rnn_gpu.network import replay
from rnn_gpu.training import Samples, Ways

RNG = np.random.default_rng(0)
LENGTHS = (4, 7, 5, 6, 3, 7)
N = len(LENGTHS)
X = [RNG.normal(size=(T, 3)) for T in LENGTHS]
Y = [RNG.integers(0, 3, T) for T in LENGTHS]
BEGINS = [RNG.random(T) < 0.4 for T in LENGTHS]
BEGINS[0][0], BEGINS[1][0] = True, False


def drawn(n):
    """Of each sample (T, n), NaN where nothing begins."""
    each = zip(LENGTHS, BEGINS, strict=True)
    return [np.where(begins[:, None], RNG.normal(size=(T, n)), np.nan) for T, begins in each]


GIVEN = [(drawn(4), drawn(4)), drawn(5)]
FIRST = [tuple(RNG.normal(size=(2, N, 4))), RNG.normal(size=(N, 5))]
ALL = {"resets": BEGINS, "reset_state": GIVEN, "state": FIRST}


def network(device="reference", steps="every"):
    on = {"device": device, "dtype": "float64"}
    layers = [LSTM(3, 4, **on), GRU(4, 5, **on), Dense(5, 3, **on)]
    return Network(layers, loss="softmax_cross_entropy", steps=steps)


def pieces():
    """X and Y cut where samples begin anew, and the states that the pieces begin with."""
    found = []
    for i, (x, y, begins) in enumerate(zip(X, Y, BEGINS, strict=True)):
        cuts = sorted({0, len(x), *begins.nonzero()[0].tolist()})
        for first, end in pairwise(cuts):
            (h, c), g = GIVEN
            (h0, c0), g0 = FIRST
            own = [a[i][first] for a in (h, c, g)] if begins[first] else [h0[i], c0[i], g0[i]]
            found.append((x[first:end], y[first:end], *own))
    x, y, h, c, g = zip(*found, strict=True)
    return list(x), list(y), [(np.stack(h), np.stack(c)), np.stack(g)]


def test_samples_go_on_as_pieces_begin(device):
    x, y, state = pieces()
    got = trained(network(device), X, Y, **ALL)
    alike(got, trained(network(device), x, y, state=state))
    net = network(device)
    assert net.evaluate(X, Y, batch_size=4, **ALL) == pytest.approx(net.evaluate(x, y, state=state))
    for predict in (net.predict, net.predict_proba):
        o, expected = predict(X, batch_size=4, **ALL), predict(x, state=state)
        close(np.concatenate(o), np.concatenate(expected), "float64")


def test_a_layer_without_one_begins_with_its_initial_state(device):
    """As in a call, also in reverse; samples of one length."""
    on, T = {"device": device, "dtype": "float64"}, 6
    both = Bidirectional(GRU(3, 4, **on))
    net = Network([both, GRU(8, 5, **on), Dense(5, 3, **on)])
    x, begins = RNG.normal(size=(N, T, 3)), RNG.random((N, T)) < 0.4
    given = [None, RNG.normal(size=(N, T, 4)), RNG.normal(size=(N, T, 5))]
    turned = [a if a is None else a.swapaxes(0, 1) for a in given]
    o, _ = net(x.swapaxes(0, 1), resets=begins.T, reset_state=turned)
    found = net.predict(x, resets=begins, reset_state=given, batch_size=4)
    close(np.stack(found, 1), o, "float64")
    plain = network(device)
    nowhere = {"resets": BEGINS, "reset_state": [None, None]}
    same(trained(plain, X, Y, **nowhere), trained(network(device), X, Y, resets=BEGINS))


def of(chosen):
    """Samples of these numbers, as Samples takes them."""
    own = [[a[i] for i in chosen] for a in (X, Y, BEGINS, *GIVEN[0], GIVEN[1])]
    return own[:2], {"resets": own[2], "reset_state": [(own[3], own[4]), own[5]]}


def beginnings(batch):
    """What the samples of a batch go on from, as arrays by name."""
    parts = {"states": batch.steps.flags}
    for k, given in enumerate(batch.given.values()):
        parts |= {f"states[{k}]": given.states, f"first[{k}]": given.first}
    return parts


def test_given_states_follow_their_samples():
    """Into batches in any order, into a share, and with batches that are made."""
    (data, options), net = of(range(N)), network()
    samples, chosen = Samples(net, *data, **options), [3, 1, 0]
    others, expected = of(chosen)
    expected = Samples(net, *others, **expected).batch([2, 0])
    assert len(expected.given) == 2 and all(own.first.any() for own in expected.given.values())
    for batch in (samples.part(chosen).batch([2, 0]), samples.batch([0, 3])):
        same(beginnings(batch), beginnings(expected))

    def made(epoch):
        for k in range(0, N, 2):
            own, options = of(range(k, k + 2))
            yield *own, options

    whole = trained(network(), *data, batch_size=2, **options)
    same(trained(network(), made, None, batch_size=None), whole)


GOES_ON = {
    "truncate": {"truncate": (3, 3)},
    "truncate, burnt in": {"truncate": (3, 3), "burn_in": 3},
    "stateful": {"stateful": True, "batch_size": 2},
}


@pytest.mark.parametrize("how", GOES_ON)
def test_what_goes_on_begins_anew_with_given_states(how, device):
    """By a training of each part alone, which begins where the one before has ended."""
    truncated = how != "stateful"
    count, T = (2, 9) if truncated else (4, 3)
    x, y = RNG.normal(size=(count, T, 3)), RNG.integers(0, 3, (count, T))
    begins = RNG.random((count, T)) < 0.4
    begins[:, ::3] = np.eye(count, -(-T // 3), dtype=bool)  # with a part, of some samples
    h, c, g = (RNG.normal(size=(count, T, n)) for n in (4, 4, 5))
    given = {"resets": begins, "reset_state": [(h, c), g]}
    got = trained(network(device), x, y, epochs=1, **given, **GOES_ON[how])
    net, losses, state = network(device), [], None
    for first in range(0, T, 3) if truncated else (0, 2):
        part = np.s_[:, first : first + 3] if truncated else slice(first, first + 2)
        x_, y_, *own = (a[part] for a in (x, y, begins, h, c, g))
        before = net.copy()
        if first or "burnt" not in how:
            given = {"resets": own[0], "reset_state": [(own[1], own[2]), own[3]]}
            losses += trained(net, x_, y_, epochs=1, state=state, **given)["step_loss"].tolist()
        x_, *own = (a.swapaxes(0, 1) for a in (x_, *own))
        given = {"resets": own[0], "reset_state": [(own[1], own[2]), own[3]]}
        _, state = before(x_, state, **given)
    close(got["step_loss"], np.array(losses), "float64")
    for name, a in parameters_of(net).items():
        close(got[name], a, "float64")


def test_segments_train_as_the_whole(device, monkeypatch):
    data, options = of(range(N))
    net = network(device)
    monkeypatch.setitem(net.backend.chunk.__globals__, "CHUNK_ROWS", 2 * N)  # chunks of two steps
    budget = net.plan(7, N, ragged=True, reset_state=True).bytes - 1
    assert net.plan(7, N, budget, ragged=True, reset_state=True).segment < 7
    same(trained(net, *data, memory_budget=budget, **options),
         trained(network(device), *data, **options))  # fmt: skip


def test_a_graph_knows_no_given_states():
    """Not even of the first step alone, of which the flags say nothing."""
    net = network()
    begins = np.arange(7) == np.zeros((2, 1))
    x, y = RNG.normal(size=(2, 7, 3)), RNG.integers(0, 3, (2, 7))
    given = [None, RNG.normal(size=(2, 7, 5))]
    kept = [
        replay.may_be_kept(net, Samples(net, x, y, **options).batch([0, 1]), Ways())
        for options in ({}, {"resets": begins}, {"resets": begins, "reset_state": given})
    ]
    assert kept == [True, True, False]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    table(
        ("no resets", {"resets": None}, ArgumentError,
         r"reset_state is given, but resets is None, expected N times \(T,\) booleans"),
        ("one", {"reset_state": GIVEN[:1]}, ShapeError, "reset_state is .*, expected a list of 2"),
        ("h alone", {"reset_state": [GIVEN[0][0], None]}, ShapeError,
         r"reset_state\[0\] is .*, expected a tuple of 2 of N samples, \(T, n\) each"),
        ("samples", {"reset_state": [None, GIVEN[1][:2]]}, ShapeError,
         r"reset_state\[1\] has 2 samples, expected 6"),
        ("steps", {"reset_state": [None, [GIVEN[1][0]] * N]}, ShapeError,
         r"reset_state\[1\]\[1\] has shape \(4, 5\), expected 7 on axis 0"),
        ("units", {"reset_state": [GIVEN[0], GIVEN[0][0]]}, ShapeError,
         r"reset_state\[1\]\[0\] has shape \(4, 4\), expected 5 on axis 1"),
        ("dtype", {"reset_state": [None, [a.astype("f") for a in GIVEN[1]]]}, DtypeError,
         r"reset_state\[1\]\[0\] is float32"),
        ("NaN", {"resets": [begins | True for begins in BEGINS]}, ArgumentError,
         r"reset_state\[0\]\[0\]\[0\] is nan at \(1, 0\)"),
        ("one layer", {"reset_state": [None, GIVEN[1]], "truncate": (2, 2)}, ArgumentError,
         "resets is given, and truncate: .*give every recurrent layer its reset_state"),
        ("going on", {"reset_state": [None, GIVEN[1]], "stateful": True, "batch_size": 6},
         ArgumentError, "resets is given, and stateful: what goes on"),
    ),
)  # fmt: skip
def test_what_cannot_be_is_refused(options, error, message):
    given = {"resets": BEGINS, "reset_state": GIVEN} | options
    refuses(error, f"^{message}", lambda: trained(network(), X, Y, **given))


def test_rows_have_no_states():
    net = Network([Dense(3, 2, device="reference", dtype="float64")])
    message = "^reset_state is given, but this network has no recurrent layer"
    refuses(ArgumentError, message, lambda: net.predict(np.ones((2, 3)), reset_state=[]))
