"""Philox against its published answers; Dropout's masks: where they come from, what they depend on,
and the training they give.
"""

import numpy as np
import pytest

import rnn_gpu
from conftest import RTOL
from door import refuses
from rnn_gpu import RNN, ArgumentError, Dense, Dropout, Network
from rnn_gpu.kernels.philox import philox, words

F = 0xFFFFFFFF
ANSWERS = [  # kat_vectors of Random123, the library of the paper: philox4x32 10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((F, F, F, F), (F, F), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
X = np.ones((5, 3, 13), "float32")


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_philox_gives_the_published_answers(counter, key, answer):
    assert philox(counter, key) == answer
    arrays = philox([np.array([[word]], "uint64") for word in counter], key)
    assert [int(word[0, 0]) for word in arrays] == list(answer)


def test_each_word_is_philox_of_its_place():
    drawn = words(np.asarray, 3, 5, 7, seed=11, layer=2, draw=4)
    assert drawn.shape == (3, 5, 7)
    for t, b, j in np.ndindex(3, 5, 7):
        assert drawn[t, b, j] == philox((j // 4, b, t, 4), (11, 2))[j % 4]


def dropped(device="reference", place=0, passes=0, x=X, **options):
    layer = Dropout(**{"rate": 0.5, "seed": 5, "device": device} | options)
    layer.place, layer.passes = place, passes
    return layer(x, training=True)


def test_masks_are_bitwise_the_same_on_every_device(device, dtype):
    for variational in (False, True):
        options = {
            "dtype": dtype,
            "x": X.astype(dtype),
            "rate": 0.3,
            "variational": variational,
            "place": 2,
            "passes": 1,
        }
        assert (dropped(device, **options) == dropped("reference", **options)).all()


def test_masks_depend_on_seed_layer_pass_step_sample_and_unit():
    mask = dropped()
    for other in ({"seed": 6}, {"place": 1}, {"passes": 1}):
        assert (dropped(**other) != mask).mean() == pytest.approx(0.5, abs=0.15)
    for axis in range(3):
        assert (np.diff(mask, axis=axis) != 0).mean() == pytest.approx(0.5, abs=0.15)


def test_a_mask_does_not_depend_on_the_batch_around_it():
    assert (dropped(x=X[:3, :2, :6]) == dropped()[:3, :2, :6]).all()


def test_a_variational_mask_is_one_a_sequence():
    y = dropped(variational=True)
    assert (y == y[0]).all() and (y[0] != y[0, 0]).any()


def test_a_share_is_dropped_and_the_rest_scaled(device):
    y = dropped(device, rate=0.2, x=np.ones((20, 5, 51), "float32"))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1.25)}
    assert (y == 0).mean() == pytest.approx(0.2, abs=0.02)


def test_layers_of_a_network_have_masks_of_their_own_by_default():
    network = Network(
        [
            RNN(3, 4, device="reference"),
            Dropout(0.5, device="reference"),
            Dense(4, 4, device="reference"),
            Dropout(0.5, device="reference"),
        ]
    )
    network(np.ones((5, 3, 3), "float32"), training=True)
    assert (network.layers[1]._last.tape.mask != network.layers[3]._last.tape.mask).any()


def test_the_training_run_with_dropout_is_the_references(device, dtype):
    def curve(device):
        options = {"device": device, "dtype": dtype}
        layers = [
            Dropout(0.2, variational=True, **options),
            *rnn_gpu.stack(RNN, 3, 5, num_layers=2, dropout=0.5, **options),
        ]
        network = Network([*layers, Dense(5, 2, **options)], steps="last")
        x = [np.random.default_rng(i).normal(size=(i % 4 + 1, 3)).astype(dtype) for i in range(8)]
        return network.fit(
            x, np.eye(2, dtype=dtype)[[0, 1] * 4], epochs=2, batch_size=3, progress=False
        )["step_loss"]

    assert curve(device) == pytest.approx(curve("reference"), rel=10 * RTOL[dtype])


def test_a_seed_too_large_for_the_key_is_refused():
    Dropout(0.5, seed=F, device="reference")
    refuses(
        ArgumentError,
        f"^seed is {F + 1}, expected an integer of at most {F}",
        lambda: Dropout(0.5, seed=F + 1, device="reference"),
    )


def test_dropout_draws_anew_each_pass_and_its_gradient_has_the_mask():
    layer, x = Dropout(0.5, device="cpu"), np.ones((2, 40), "float32")
    first, second = layer(x, training=True), layer(x, training=True)
    assert (first != second).any()
    assert (layer.backward(np.full_like(x, 3)) == 3 * second).all()
    assert (layer(x) == x).all()


def test_dropout_is_off_outside_training():
    layers = [RNN(3, 5, device="cpu"), Dropout(0.9, device="cpu"), Dense(5, 2, device="cpu")]
    net = Network(layers, steps="last")
    plain = Network([layers[0], layers[2]], steps="last")
    x = list(np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32"))
    assert (net.predict(x) == plain.predict(x)).all()
    assert (net(x[0][:, None], training=True)[0] != plain(x[0][:, None])[0]).any()
