"""What of the data `fit` counts, and from which state it goes on: each option is what it stands
for, and goes on from a checkpoint.
"""

import re

import numpy as np
import pytest

from conftest import close
from door import refuses, same, table
from fitting import (
    CLASSES,
    LABELS,
    LENGTHS,
    LIVE,
    NUMBERS,
    RNG,
    SOFTMAX,
    Kill,
    X,
    alike,
    network,
    trained,
)
from rnn_gpu import GRU, LSTM, ArgumentError, Dense, Dropout, DtypeError, Network, ShapeError
from rnn_gpu.callbacks import Validation
from rnn_gpu.training import Samples


def segments(monkeypatch, net, T, B):
    """The least budget of memory for T steps of B samples, which cuts them into segments of few
    steps.
    """
    monkeypatch.setitem(net.backend.chunk.__globals__, "CHUNK_ROWS", 2 * B)
    with pytest.raises(ArgumentError) as caught:
        net.plan(T, B, 1, ragged=True)
    least = int(re.search(r"at least (\d+) bytes", str(caught.value))[1])
    assert net.plan(T, B, least, ragged=True).segment < T
    return {"memory_budget": least}


# Weights


@pytest.mark.parametrize("steps", ["every", "last"])
def test_whole_weights_are_samples_that_come_so_often(steps, device):
    y, weight = (LABELS if steps == "every" else CLASSES), [2, 1, 0, 3, 1, 2]
    order = np.repeat(np.arange(6), weight)
    often = [X[i] for i in order], [y[i] for i in order]
    got = trained(network(steps, device=device), X, y, sample_weight=weight)
    alike(got, trained(network(steps, device=device), *often))


def test_the_weight_of_a_class_is_that_of_its_samples(device):
    by_class, each = {0: 2.0, 2: 0.5}, np.array([2, 0.5, 1, 1, 0.5, 2])
    expected = trained(network("last", device=device), X, CLASSES, sample_weight=each)
    got = trained(network("last", device=device), X, CLASSES, class_weight=by_class)
    same(got, expected)
    same(trained(network("last", device=device), X, CLASSES, class_weight=[2, 1, 0.5]), expected)


def test_the_weight_of_a_class_is_how_often_it_comes():
    order = np.repeat(np.arange(6), [3 if label == 1 else 1 for label in CLASSES])
    often = [X[i] for i in order], [CLASSES[i] for i in order]
    alike(
        trained(network("last"), X, CLASSES, class_weight={1: 3}), trained(network("last"), *often)
    )


def test_classes_of_one_output_have_weights():
    y, each = [0, 1, 1, 0, 1, 0], [3.0, 1, 1, 3, 1, 3]
    made = [network("last", "binary_cross_entropy", k=1) for _ in range(2)]
    expected = trained(made[0], X, y, sample_weight=each)
    same(trained(made[1], X, y, class_weight=[3.0, 1.0]), expected)


def test_accuracy_is_weighted_and_validation_is_not():
    net, weight = network("last"), np.array([5, 1, 1, 1, 1, 1.0])
    hits = net.predict(X).argmax(-1) == CLASSES
    history = net.fit(X, CLASSES, sample_weight=weight, validation=(X, CLASSES), learning_rate=0.0,
                      epochs=1, progress=False)  # fmt: skip
    assert history["accuracy"] == [pytest.approx((hits * weight).sum() / weight.sum())]
    assert history["validation_accuracy"] == [pytest.approx(hits.mean())]
    assert net.evaluate(X, CLASSES, sample_weight=weight)["accuracy"] == pytest.approx(
        history["accuracy"][0]
    )


# What is left out


def test_what_is_ignored_is_left_out(device):
    y = [2, -100, 1, 0, -100, 1]
    some = [0, 2, 3, 5]
    got = trained(network("last", device=device), X, y, ignore_index=-100)
    alike(got, trained(network("last", device=device), [X[i] for i in some], [y[i] for i in some]))


def test_what_is_ignored_at_the_end_is_not_there():
    cut = [labels.copy() for labels in LABELS]
    for labels in cut:
        labels[-2:] = -1
    got = trained(network(), X, cut, ignore_index=-1, validation=(X, cut))
    shorter = [x[:-2] for x in X], [labels[:-2] for labels in LABELS]
    alike(got, trained(network(), *shorter, validation=shorter))


@pytest.mark.parametrize("options", [{}, {"truncate": (2, 3)}, {"memory_budget": "1GB"}], ids=str)
def test_steps_that_burn_in_are_steps_that_are_ignored(options, device):
    ignored = [labels.copy() for labels in LABELS]
    for labels in ignored:
        labels[:2] = 9
    nets = [network(device=device) for _ in range(2)]
    expected = trained(nets[1], X, ignored, ignore_index=9, **options)
    same(trained(nets[0], X, LABELS, burn_in=2, **options), expected)


def test_steps_that_burn_in_shape_the_state():
    net = network()
    whole = np.concatenate([o[2:] for o in net.predict(X)])
    logits = whole - np.log(np.exp(whole).sum(-1, keepdims=True))
    labels = np.concatenate([labels[2:] for labels in LABELS])
    expected = -logits[np.arange(len(labels)), labels].mean()
    assert net.evaluate(X, LABELS, burn_in=2)["loss"] == pytest.approx(expected, rel=1e-12)


def test_a_batch_that_counts_nothing_is_passed_over(tmp_path):
    """Its samples may as well not be there; a checkpoint of after it is gone on from."""
    weight, path = [1, 1, 0, 0, 1, 1], tmp_path / "checkpoint"
    options = {"batch_size": 2, "optimizer": "adam", "learning_rate": 0.1}
    some = [0, 1, 4, 5]
    left = [X[i] for i in some], [LABELS[i] for i in some]
    net = network()
    got = trained(net, X, LABELS, sample_weight=weight, **options)
    alike(got, trained(network(), *left, **options))
    assert len(got["step_loss"]) == 6
    trained(network(), X, LABELS, sample_weight=weight, checkpoint=path, updates=3,
            **options | {"epochs": None})  # fmt: skip
    again = network()
    same(trained(again, X, LABELS, sample_weight=weight, resume=path, **options), got)


# Steps that do not happen, beginnings, states


@pytest.mark.parametrize("steps", ["every", "last"])
@pytest.mark.parametrize("way", ["whole", "segments"])
def test_masked_steps_may_as_well_be_deleted(steps, way, device, monkeypatch):
    y = LABELS if steps == "every" else CLASSES
    x = [np.where(live[:, None], a, np.nan) for a, live in zip(X, LIVE, strict=True)]
    net = network(steps, device=device)
    deleted = [a[live] for a, live in zip(X, LIVE, strict=True)]
    targets = [a[live] for a, live in zip(y, LIVE, strict=True)] if steps == "every" else y
    expected = network(steps, device=device)
    assert net.evaluate(x, y, mask=LIVE) == pytest.approx(expected.evaluate(deleted, targets))
    predicted = net.predict(x, mask=LIVE)
    for o, live, other in zip(predicted, LIVE, expected.predict(deleted), strict=True):
        close(o[live] if steps == "every" else o, other, "float64")
        assert steps == "last" or not o[~live].any()
    options = segments(monkeypatch, net, 7, 6) if way == "segments" else {}
    got = trained(net, x, y, mask=LIVE, **options)
    alike(got, trained(expected, deleted, targets))


def test_masked_steps_may_be_anything_where_the_sequence_is_cut():
    """And those of a window that has no other."""
    mask = [np.arange(T) % 4 < 2 for T in LENGTHS]
    found = []
    for other in (np.nan, 0.0):
        x = [np.where(live[:, None], a, other) for a, live in zip(X, mask, strict=True)]
        found.append(trained(network(), x, LABELS, mask=mask, truncate=(2, 3)))
    same(*found)


def test_burn_in_counts_the_steps_that_happen():
    deleted = [a[live] for a, live in zip(X, LIVE, strict=True) if live.sum() > 1]
    targets = [a[live] for a, live in zip(LABELS, LIVE, strict=True) if live.sum() > 1]
    some = [i for i, live in enumerate(LIVE) if live.sum() > 1]
    x, y, mask = ([a[i] for i in some] for a in (X, LABELS, LIVE))
    got = trained(network(), x, y, mask=mask, burn_in=1)
    alike(got, trained(network(), deleted, targets, burn_in=1))


def test_a_beginning_makes_two_samples_of_one(device):
    resets = [np.arange(T) == 2 for T in LENGTHS]
    pieces = [part for a in X for part in (a[:2], a[2:])]
    targets = [part for a in LABELS for part in (a[:2], a[2:])]
    got = trained(network(device=device), X, LABELS, resets=resets)
    alike(got, trained(network(device=device), pieces, targets))
    o = network().predict(X, resets=resets)
    close(np.concatenate(o), np.concatenate(network().predict(pieces)), "float64")


def test_samples_begin_with_their_state(device):
    """As if steps stood before, which do not count and are not learnt from."""
    net = network(kind=LSTM, device=device)
    before = RNG.normal(size=(2, 6, 3))
    _, state = net(before)
    longer = [np.concatenate([before[:, i], x]) for i, x in enumerate(X)]
    padded = [np.concatenate([[0, 0], labels]) for labels in LABELS]
    assert net.evaluate(X, LABELS, state=state) == pytest.approx(
        net.evaluate(longer, padded, burn_in=2)
    )
    for o, other in zip(net.predict(X, state=state), net.predict(longer), strict=True):
        close(o, other[2:], "float64")
    twin = network(kind=LSTM, device=device)
    first = trained(net, X, LABELS, state=state, epochs=1)
    expected = trained(twin, longer, padded, ignore_index=-1, burn_in=2, epochs=1, truncate=(2, 99))
    assert first["step_loss"] == pytest.approx(expected["step_loss"][:1], rel=0.5)


def test_states_follow_their_samples_into_batches_and_shares():
    net = network()
    state = [RNG.normal(size=(6, 4))]
    expected = net.evaluate(X, LABELS, state=state)
    assert net.evaluate(X, LABELS, state=state, batch_size=4) == pytest.approx(expected)
    samples = Samples(net, X, LABELS, state=state, mask=LIVE)
    part = samples.part([3, 1])
    other = Samples(net, [X[3], X[1]], [LABELS[3], LABELS[1]], mask=[LIVE[3], LIVE[1]],
                    state=[state[0][[3, 1]]])  # fmt: skip
    for a, b in zip(part.batch([0, 1])[:1], other.batch([0, 1])[:1], strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(part.batch([1, 0]).states[0], other.batch([1, 0]).states[0])


# Batches that go on


STREAMS, PIECES, STEPS = 2, 3, 4
LONG = RNG.normal(size=(STREAMS, PIECES * STEPS, 3))
LONG_LABELS = RNG.integers(0, 3, LONG.shape[:2])


def cut(a):
    """(streams, all steps, ·) -> the first piece of each, then the second of each, …"""
    pieces = np.split(a, PIECES, 1)
    return np.concatenate(pieces)


GOING_ON = {"stateful": True, "batch_size": STREAMS}


@pytest.mark.parametrize("inner", [None, (2, 3)])
@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_batches_that_go_on_are_one_long_one_truncated(kind, inner, device):
    """To the last bit: k1 = k2 = the steps of a batch; with a truncation of their own, too, where
    it cuts nothing off.
    """
    options = {"truncate": (STEPS, STEPS)}
    expected = trained(network(kind=kind, device=device), LONG, LONG_LABELS, **options)
    got = trained(network(kind=kind, device=device), cut(LONG), cut(LONG_LABELS), **GOING_ON)
    same(got, expected)
    if inner:
        options = {"truncate": (2, 2)}
        expected = trained(network(kind=kind, device=device), LONG, LONG_LABELS, **options)
        got = trained(
            network(kind=kind, device=device), cut(LONG), cut(LONG_LABELS), **GOING_ON | options
        )
        same(got, expected)


def test_within_a_budget_of_memory_batches_go_on_as_they_do_without(monkeypatch):
    net = network()
    options = segments(monkeypatch, net, STEPS, STREAMS) | GOING_ON
    expected = trained(network(), cut(LONG), cut(LONG_LABELS), **GOING_ON)
    same(trained(net, cut(LONG), cut(LONG_LABELS), **options), expected)


def test_burn_in_is_at_the_beginning_of_what_goes_on():
    ignored = LONG_LABELS.copy()
    ignored[:, :3] = 7
    expected = trained(network(), cut(LONG), cut(ignored), ignore_index=7, **GOING_ON)
    same(trained(network(), cut(LONG), cut(LONG_LABELS), burn_in=3, **GOING_ON), expected)


def test_what_counts_nothing_still_carries_the_state_on():
    """Of the middle piece no step counts; and of the first only the first steps."""
    ignored = LONG_LABELS.copy()
    ignored[:, STEPS // 2 : 2 * STEPS] = 7
    options = {"ignore_index": 7, "epochs": 2}
    expected = trained(network(), LONG, ignored, truncate=(2, 2), **options)
    got = trained(network(), cut(LONG), cut(ignored), truncate=(2, 2), **GOING_ON | options)
    same(got, expected)


def mean_error(outputs, targets):
    return abs(outputs.argmax(-1) - targets).mean()


RESUMED = {
    "weights": {"sample_weight": [2, 1, 0.5, 3, 1, 2], "class_weight": {0: 2}},
    "ignore_index": {"ignore_index": 0},
    "burn_in": {"burn_in": 1, "truncate": (2, 4)},
    "stateful": {"stateful": True, "shuffle": False},
    "stateful, truncated": {"stateful": True, "shuffle": False, "truncate": (2, 3)},
    "metrics": {"metrics": {"error": mean_error}, "validation": 0.3},
    "mask": {"mask": LIVE},
    "resets": {"resets": [~live for live in LIVE]},
    "state": {"state": [RNG.normal(size=(6, 4))]},
}


@pytest.mark.parametrize("number", [4, 5])
@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
def test_each_option_goes_on_bit_for_bit(options, number, tmp_path):
    path, x, y = tmp_path / "checkpoint", X, LABELS
    common = {"batch_size": 2, "optimizer": "adam", "learning_rate": 0.05, "shuffle": True}
    common |= options

    def noisy():
        return network(layers=[Dropout(0.2, device="reference", dtype="float64")])

    kept = {"checkpoint": path, "checkpoint_every": 1, "callbacks": [Kill(number)]}
    with pytest.raises(KeyboardInterrupt):
        trained(noisy(), x, y, **common | kept)
    got = trained(noisy(), x, y, **common, resume=path)
    same(got, trained(noisy(), x, y, **common))


@pytest.mark.parametrize("name", [name for name in RESUMED if name != "metrics"])
def test_a_checkpoint_of_another_option_is_refused(name, tmp_path):
    path, options = tmp_path / "checkpoint", {"batch_size": 2}
    trained(network(), X, LABELS, checkpoint=path, epochs=1, **options | RESUMED[name])
    with pytest.raises(ArgumentError, match=r"^resume is .*, a checkpoint"):
        trained(network(), X, LABELS, resume=path, **options)


def test_other_metrics_within_an_epoch_are_refused(tmp_path):
    path, options = tmp_path / "checkpoint", {"batch_size": 2, "epochs": None}
    trained(network(), X, LABELS, checkpoint=path, updates=2, metrics={"a": mean_error}, **options)
    message = r"^resume is .*, a checkpoint within an epoch with the metrics \['a'\], but here they"
    refuses(
        ArgumentError,
        message,
        lambda: trained(network(), X, LABELS, resume=path, updates=4, **options),
    )


# Metrics


@pytest.mark.parametrize("way", ["whole", "truncated", "segments"])
def test_metrics_are_averaged_as_the_loss_is(way, device, monkeypatch):
    """At a rate of zero: of all rows that count, whatever the batches."""
    net, o = network(loss="mae", device=device), network(device=device).predict(X)

    def mae(outputs, targets):
        assert outputs.shape == targets.shape and outputs.shape[1] == 3
        return np.abs(outputs - targets).sum(-1).mean()

    rows = np.concatenate(o), np.concatenate(NUMBERS)
    options = {"truncate": (2, 3)} if way == "truncated" else {}
    if way == "segments":
        options = segments(monkeypatch, net, 7, 2)
    metrics = {"error": mae, "rows": lambda outputs, targets: len(outputs)}
    history = net.fit(X, NUMBERS, metrics=metrics, validation=(X, NUMBERS), batch_size=2, epochs=1,
                      learning_rate=0.0, progress=False, **options)  # fmt: skip
    assert history["error"] == pytest.approx(history["loss"])
    assert history["error"] == [pytest.approx(mae(*rows))] == history["validation_error"]
    assert net.evaluate(X, NUMBERS, metrics=metrics)["rows"] == sum(LENGTHS)


def test_metrics_see_labels_of_what_counts():
    seen = []

    def look(outputs, targets):
        seen.append((outputs.shape, targets))
        return np.float32(0)

    network().evaluate(X, LABELS, ignore_index=1, burn_in=1, metrics={"look": look})
    ((shape, targets),) = seen
    assert 1 not in targets and shape == (len(targets), 3)
    expected = [label for labels in LABELS for label in labels[1:] if label != 1]
    assert sorted(targets) == sorted(expected)


# What is refused


def of(steps="every", y=LABELS, loss=SOFTMAX, **options):
    return lambda: trained(network(steps, loss), X, y, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        ("weights", of(sample_weight=[1, 2]), ShapeError, r"sample_weight has shape \(2,\), exp"),
        ("below 0", of(sample_weight=[-1] * 6), ArgumentError, "sample_weight has -1.0, expected"),
        ("NaN", of(sample_weight=[np.nan] * 6), ArgumentError, "sample_weight is nan at"),
        ("words", of(sample_weight=["1"] * 6), DtypeError, "sample_weight is <U1, expected num"),
        ("nothing", of(sample_weight=[0] * 6), ArgumentError, "nothing counts: every weight is 0"),
        ("class", of(class_weight={3: 1}), ArgumentError, "class_weight has the class 3, exp"),
        ("classes", of(class_weight=[1, 2]), ShapeError, "class_weight has shape"),
        ("no classes", of(class_weight={}, loss="mae", y=NUMBERS), ArgumentError,
         "class_weight is given, but with the loss 'mae' and 3 outputs a step has no class"),
        ("rows", of(class_weight={}, y=[np.eye(3)[a] for a in LABELS]), ArgumentError,
         "class_weight is given, but y holds no class labels"),
        ("ignored rows", of(ignore_index=0, y=[np.eye(3)[a] for a in LABELS]), ArgumentError,
         r"ignore_index is 0, but y\[0\] is no class labels"),
        ("ignored half", of(ignore_index=0.5), ArgumentError, "ignore_index is 0.5, expected a c"),
        ("burnt", of(burn_in=3), ArgumentError, r"burn_in is 3, but x\[4\] has 3 steps: nothing"),
        ("burnt half", of(burn_in=1.5), ArgumentError, "burn_in is 1.5, expected an integer"),
        ("burnt last", of("last", CLASSES, burn_in=1), ArgumentError, "burn_in is 1, but this net"),
        ("mask", of(mask=LIVE[:2]), ShapeError, "mask has 2 samples, expected 6"),
        ("mask's steps", of(mask=[LIVE[0]] * 6), ShapeError, r"mask\[1\] has shape \(4,\), exp"),
        ("mask's type", of(mask=[a * 1.0 for a in LIVE]), DtypeError, r"mask\[0\] is float64"),
        ("no step", of(mask=[a & False for a in LIVE]), ArgumentError, r"mask\[0\] is False ever"),
        ("resets cut", of(resets=LIVE, truncate=(2, 2)), ArgumentError,
         "resets is given, and truncate: what goes on"),
        ("resets in memory", of(resets=LIVE, memory_budget="1GB"), ArgumentError,
         "resets is given, and memory_budget: what goes on"),
        ("resets going on", of(resets=LIVE, stateful=True, batch_size=6), ArgumentError,
         "resets is given, and stateful: what goes on"),
        ("state", of(state=[np.zeros((5, 4))]), ShapeError, r"state\[0\]"),
        ("going on, shuffled", of(stateful=True, shuffle=True), ArgumentError,
         "stateful is True, and so is shuffle"),
        ("going on, uneven", of(stateful=True, batch_size=4), ArgumentError,
         "stateful is True, but 6 samples are no whole number of batches of 4"),
        ("metrics", of(metrics=[mean_error]), ArgumentError, "metrics is a list, expected a dict"),
        ("metric", of(metrics={"a": 1}), ArgumentError, r"metrics\['a'\] is 1, expected a funct"),
        ("metric's name", of(metrics={"loss": mean_error}), ArgumentError,
         "metrics has the name 'loss', expected one that is not there"),
        ("metric's number", of(metrics={"a": lambda o, t: "much"}), ArgumentError,
         r"metrics\['a'\] gives 'much', not a number"),
    ),
)  # fmt: skip
def test_what_cannot_be_is_refused(call, error, message):
    refuses(error, f"^{message}", call)


def test_layers_in_reverse_carry_no_state_on():
    net = Network([GRU(3, 4, reverse=True, device="reference", dtype="float64"),
                   Dense(4, 3, device="reference", dtype="float64")], loss=SOFTMAX)  # fmt: skip
    message = "^stateful is True, but this network has no state to carry on: a layer goes from"
    refuses(ArgumentError, message, lambda: trained(net, X, LABELS, stateful=True))


def test_floats_of_another_dtype_are_cast():
    on = {"device": "reference"}
    nets = [Network([GRU(3, 4, **on), Dense(4, 3, **on)]) for _ in range(2)]
    pairs = [([a.astype(kind) for a in X], [a.astype(kind) for a in NUMBERS])
             for kind in ("float64", "float32")]  # fmt: skip
    found = [trained(net, *pair, validation=pair) for net, pair in zip(nets, pairs, strict=True)]
    same(*found)
    for net, (x, y) in zip(nets, pairs, strict=True):
        found.append(net.evaluate(x, y) | {"o": np.concatenate(net.predict(x))})
    same(found[2]["o"], found[3]["o"])
    message = r"^x\[0\] is inf at \(0, 0\), expected finite numbers"
    refuses(ArgumentError, message, lambda: nets[0].predict([np.full((2, 3), 1e300)]))


def test_validation_of_other_samples_has_masks_of_its_own():
    net = network()
    held = Samples(net, X, LABELS, mask=LIVE)
    history = net.fit(X, LABELS, callbacks=[Validation(held)], epochs=1, progress=False)
    assert history["validation_loss"] == [pytest.approx(net.evaluate(X, LABELS, mask=LIVE)["loss"])]
