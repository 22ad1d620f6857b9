"""Data that come batch by batch, by a function of the epoch, a loader or a generator: as samples in
that order.
"""

import numpy as np
import pytest

from door import refuses, same, table
from fitting import (
    LABELS,
    LIVE,
    Kill,
    X,
    network,
    trained,
)
from rnn_gpu import ArgumentError
from rnn_gpu.training import Source


def in_order(batch=2, times=1):
    return [(X[i : i + batch], LABELS[i : i + batch]) for i in range(0, 6, batch)] * times


@pytest.mark.parametrize(
    "make",
    [
        lambda: lambda epoch: in_order(),
        lambda: lambda epoch: (batch for batch in in_order()),
        lambda: dict.fromkeys(()) or Reiterable(),
    ],
    ids=["function", "function that makes generators", "iterable"],
)
def test_batches_that_are_made_are_samples_in_that_order(make):
    pair = X[:1], LABELS[:1]
    expected = trained(network(), X, LABELS, batch_size=2, validation=pair)
    same(trained(network(), make(), None, batch_size=None, validation=pair), expected)


class Reiterable:
    """As a DataLoader: gone through anew each epoch."""

    def __iter__(self):
        return iter(in_order())


def test_a_loader_of_torchs_is_taken():
    torch = pytest.importorskip("torch")
    x, y = np.stack([x[:3] for x in X]).astype("float32"), np.stack([a[:3] for a in LABELS])
    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    got = trained(network(), loader, None, batch_size=None)
    same(got, trained(network(), x, y, batch_size=4))


def test_a_function_knows_the_epoch_and_a_batch_its_options():
    epochs = []

    def make(epoch):
        epochs.append(epoch)
        for i in range(0, 6, 2):
            part = slice(i, i + 2)
            yield X[part], LABELS[part], {"mask": LIVE[part], "sample_weight": [1, 2]}

    got = trained(network(), make, None, batch_size=None)
    assert epochs == [0, 1, 2]
    weight = [1, 2] * 3
    same(got, trained(network(), X, LABELS, mask=LIVE, sample_weight=weight, batch_size=2))


def test_a_generator_is_for_one_epoch():
    options = {"batch_size": None, "epochs": 1}
    expected = trained(network(), X, LABELS, batch_size=2, epochs=1)
    same(trained(network(), iter(in_order()), None, **options), expected)
    message = "^x is a generator that has ended, but epoch 1 is to come: give a function"
    refuses(
        ArgumentError,
        message,
        lambda: trained(network(), iter(in_order()), None, batch_size=None, epochs=2),
    )
    endless = iter(in_order(times=9))
    history = network().fit(endless, updates=5, progress=False)
    assert len(history["step_loss"]) == 5 and "loss" not in history


def test_the_bar_says_how_many_batches_of_an_unknown_number_are_done(capsys):
    network().fit(iter(in_order()), updates=2)
    assert "2 batches" in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, 3, 4])
def test_made_batches_go_on_bit_for_bit_where_a_function_makes_them(number, tmp_path):
    def make(epoch):
        order = np.random.default_rng(epoch).permutation(6)
        for i in range(0, 6, 2):
            yield [X[j] for j in order[i : i + 2]], [LABELS[j] for j in order[i : i + 2]]

    path, options = tmp_path / "checkpoint", {"batch_size": None, "stateful": True}
    kept = {"checkpoint": path, "checkpoint_every": 1, "callbacks": [Kill(number)]}
    with pytest.raises(KeyboardInterrupt):
        trained(network(), make, None, **options | kept)
    expected = trained(network(), make, None, **options)
    same(trained(network(), make, None, **options, resume=path), expected)
    if number % 3:
        message = "^resume is .*, a checkpoint within an epoch, but x is a Reiterable, gone through"
        refuses(
            ArgumentError,
            message,
            lambda: trained(network(), Reiterable(), None, **options, resume=path),
        )


def test_what_is_made_is_checked_as_samples_are():
    def wrong(epoch):
        yield from in_order()[:1]
        yield X[:2], [LABELS[0] + 1, LABELS[1] + 1]

    message = r"^batch 1 of epoch 0: y\[.\] has the class 3, expected 0..2"
    refuses(ArgumentError, message, lambda: trained(network(), wrong, None, batch_size=None))


def test_a_source_is_made_by_hand_too():
    source = Source(network(), lambda epoch: in_order())
    assert [len(samples) for samples in source.epoch(0, 1)] == [2, 2]


def made(**options):
    return lambda: trained(
        network(), lambda epoch: in_order(), None, **{"batch_size": None} | options
    )


@pytest.mark.parametrize(
    ("call", "message"),
    table(
        ("of a size", made(batch_size=2), "batch_size is 2, but x makes batches"),
        ("weighted", made(sample_weight=[1]),
         "sample_weight is given, but x makes batches: give it with each batch"),
        ("a share", made(validation=0.5),
         "validation is 0.5, a share of samples, but x makes batches"),
        ("none", lambda: trained(network(), lambda epoch: [], None, batch_size=None),
         "epoch 0 has no batches"),
        ("nothing", lambda: trained(network(), lambda epoch: 3, None, batch_size=None),
         r"x\(0\) is 3, expected batches"),
        ("x", lambda: trained(network(), lambda epoch: [X], None, batch_size=None),
         "batch 0 of epoch 0: is a list of 6, expected a pair"),
    ),
)  # fmt: skip
def test_what_is_no_batch_or_not_of_batches_is_refused(call, message):
    refuses(ArgumentError, f"^{message}", call)
