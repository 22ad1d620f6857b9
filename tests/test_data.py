"""Windows, scalers, vocabularies, the calendar; text and series that go on."""

import json
from datetime import datetime

import numpy as np
import pytest

import rnn_gpu
from rnn_gpu import ArgumentError, Dense, Network, ShapeError, data

ON = {"device": "reference"}
SERIES = np.arange(24.0).reshape(12, 2)
NAN = float("nan")


# windows


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("target", [None, 1])
def test_windows_are_those_of_a_loop(stride, target):
    found = data.windows(SERIES, 4, 3, target=target, stride=stride)
    x, y, rows = [], [], []
    for end in range(4, 12 - 3 + 1, stride):
        x.append(SERIES[end - 4 : end])
        after = SERIES[end : end + 3]
        y.append(after.reshape(-1) if target is None else after[:, target])
        rows.append(end)
    assert np.array_equal(found.x, x) and np.array_equal(found.y, y)
    assert found.rows.tolist() == rows


def test_one_column_needs_no_second_axis():
    found = data.windows(np.arange(5), 2)
    assert found.x.shape == (3, 2, 1) and found.y.tolist() == [[2], [3], [4]]


def test_a_row_that_is_missing_is_a_step_that_does_not_happen():
    """What a layer's mask does: outputs of the window without the row are those with the mask."""
    series = np.random.default_rng(0).normal(size=(9, 2))
    series[3, 1] = NAN
    found = data.windows(series, 4, target=0, missing="mask")
    assert [len(x) for x in found.x] == [3, 3, 3, 3, 4]
    assert found.rows.tolist() == [4, 5, 6, 7, 8]
    layer = rnn_gpu.LSTM(2, 5, dtype="float64", **ON)
    mask = ~np.isnan(series[1:5]).any(1)
    masked, last = layer(np.nan_to_num(series[1:5])[:, None], mask=mask[:, None])
    _, without = layer(found.x[1][:, None])
    assert np.array_equal(last[0], without[0]) and np.array_equal(last[1], without[1])


def test_a_target_that_is_missing_gives_no_sample():
    series = np.arange(8.0)
    series[5] = NAN
    assert data.windows(series, 3, 2, missing="mask").rows.tolist() == [3, 6]


REFUSED = {
    "series has 3 missing numbers, the first in row 1, column 0": lambda: data.windows(
        [0, NAN, NAN, NAN, 1], 1
    ),
    "series has 3 rows, expected at least window + horizon = 4": lambda: data.windows(
        [0.0, 1.0, 2.0], 3
    ),
    "series has shape (2, 2, 2)": lambda: data.windows(np.zeros((2, 2, 2)), 1),
    "series has an infinite number in row 1": lambda: data.windows([0.0, np.inf, 1.0], 1),
    "series has no window": lambda: data.windows([NAN, 1.0, NAN, 1.0], 1, missing="mask"),
    "window is 0": lambda: data.windows(SERIES, 0),
    "horizon is 1.5": lambda: data.windows(SERIES, 2, 1.5),
    "stride is 0": lambda: data.windows(SERIES, 2, stride=0),
    "target is 2, but series has the columns 0..1": lambda: data.windows(SERIES, 2, target=2),
    "missing is 'drop'": lambda: data.windows(SERIES, 2, missing="drop"),
    "train has no number in column 1": lambda: data.Scaler.standard([[1.0, NAN], [2.0, NAN]]),
    "size is [0.0]": lambda: data.Scaler(0, 0),
    "shift has shape (2,), size (1,)": lambda: data.Scaler([0, 1], 1),
    "shift is [nan]": lambda: data.Scaler(NAN, 1),
    "x has 1 columns, but this scaler has 2": lambda: data.Scaler([0, 0], [1, 1]).scale([1.0]),
    "y has shape (3,), expected (…, 2)": lambda: data.Scaler([0, 0], [1, 1]).unscale(
        [1.0, 2.0, 3.0]
    ),
    "column is 1, but this scaler has 0..0": lambda: data.Scaler(0, 1).unscale([1.0], column=1),
    "low is 1.0, high is 0.0": lambda: data.Scaler.min_max(SERIES, 1, 0),
    "text has 'x' at 2": lambda: data.Vocabulary("ab").encode("abx"),
    "text is 3, expected a str": lambda: data.Vocabulary("ab").encode(3),
    "text is '', expected a text": lambda: data.Vocabulary.of_characters(""),
    "tokens has 'ab', expected single": lambda: data.Vocabulary(["ab"]),
    "tokens is empty, or has one twice": lambda: data.Vocabulary("aa"),
    "unknown is 'c', expected one of tokens": lambda: data.Vocabulary("ab", unknown="c"),
    "symbols has the symbol 2": lambda: data.Vocabulary("ab").decode([0, 2]),
    "times cannot be made datetimes": lambda: data.time_features(["yesterday"]),
    "times is not a list of datetimes": lambda: data.time_features(["NaT"]),
    "periods is 'month'": lambda: data.time_features(["2000-01-01"], ["month"]),
    "periods is []": lambda: data.time_features(["2000-01-01"], []),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_used_is_named(message):
    with pytest.raises(ArgumentError) as error:
        REFUSED[message]()
    assert str(error.value).startswith(message)


# Scaler


def test_standard_is_of_the_training_rows_only():
    scaler = data.Scaler.standard(SERIES[:6])
    scaled = scaler.scale(SERIES)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:6].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[:6].std(0), 1, rtol=1e-6)
    assert (scaled[6:].mean(0) > 1).all()


def test_min_max_has_its_ends():
    scaled = data.Scaler.min_max(SERIES, -1, 2, dtype="float64").scale(SERIES)
    np.testing.assert_allclose([scaled.min(0), scaled.max(0)], [[-1, -1], [2, 2]], rtol=1e-12)


@pytest.mark.parametrize("kind", [data.Scaler.standard, data.Scaler.min_max])
def test_a_scaler_goes_back_and_through_json(kind):
    scaler = kind(SERIES, dtype="float64")
    again = data.Scaler.of_dict(json.loads(json.dumps(scaler.to_dict())))
    scaled = again.scale(SERIES)
    assert np.array_equal(scaled, scaler.scale(SERIES))
    np.testing.assert_allclose(again.unscale(scaled), SERIES)
    np.testing.assert_allclose(again.unscale(scaled[:, 1], column=1), SERIES[:, 1])


def test_a_list_of_sequences_is_scaled_by_all_its_rows():
    found = data.Scaler.standard([SERIES[:5], SERIES[5:]])
    assert np.array_equal(found.shift, data.Scaler.standard(SERIES).shift)


def test_a_column_of_one_number_is_only_shifted_and_a_gap_left_out():
    scaler = data.Scaler.standard([[5.0, 1.0], [5.0, NAN], [5.0, 3.0]])
    assert scaler.shift.tolist() == [5, 2] and scaler.size.tolist() == [1, 1]
    assert np.isnan(scaler.scale([[5.0, NAN]])[0, 1])


# Vocabulary


@pytest.mark.parametrize(
    ("vocabulary", "text"),
    [
        (data.Vocabulary.of_characters("abracadabra"), "cad"),
        (data.Vocabulary.of_words("to be, or not to be"), "not to be , or"),
    ],
)
def test_a_text_comes_back_from_its_symbols_and_through_json(vocabulary, text):
    again = data.Vocabulary.of_dict(json.loads(json.dumps(vocabulary.to_dict())))
    symbols = vocabulary.encode(text)
    assert symbols.dtype == np.int64 and again.decode(symbols) == text
    assert again.unknown == vocabulary.unknown and len(again) == len(vocabulary)


def test_the_unknown_has_a_symbol_of_its_own():
    vocabulary = data.Vocabulary.of_characters("abracadabra", 2)
    assert sorted(vocabulary.tokens) == ["a", "b", "\N{REPLACEMENT CHARACTER}"]
    assert vocabulary.decode(vocabulary.encode("abc")) == "ab\N{REPLACEMENT CHARACTER}"
    assert data.Vocabulary.of_words("a b").decode([0]) == "<unknown>"


# the calendar


def test_noon_monday_and_midsummer():
    found = data.time_features([datetime(2024, 1, 1, 12, 30)], ["hour", "day", "week", "year"])
    angles = np.arctan2(found[0, ::2], found[0, 1::2]) / (2 * np.pi) % 1
    np.testing.assert_allclose(angles[:3], [0.5, 12.5 / 24, 12.5 / 168], atol=1e-6)
    assert min(angles[3], 1 - angles[3]) < 0.01
    assert found.dtype == np.float32 and found.shape == (1, 8)


def test_texts_and_datetimes_are_alike():
    texts = ["2000-06-05T00:30", "2000-06-06"]
    assert np.array_equal(
        data.time_features(texts), data.time_features(np.array(texts, "datetime64[s]"))
    )


# going on


def next_letter():
    """A network that gives symbol k + 1 of 5 after symbol k, surely."""
    network = Network([Dense(5, 5, **ON)], loss="softmax_cross_entropy")
    layers = [rnn_gpu.RNN(5, 5, activation="identity", **ON), *network.layers]
    layers[0].parameters["U"] = np.eye(5, dtype="float32")
    layers[0].parameters["W"] = np.zeros((5, 5), "float32")
    layers[1].parameters["V"] = 9 * np.roll(np.eye(5, dtype="float32"), 1, 0)
    return Network(layers, loss="softmax_cross_entropy")


def test_generated_symbols_follow_the_network():
    found = data.generate(next_letter(), [1, 2], 6, temperature=0)
    assert found.tolist() == [3, 4, 0, 1, 2, 3] and found.dtype == np.int64


def test_temperature_top_k_and_seed():
    network = next_letter()
    hot = [data.generate(network, [0], 40, temperature=50, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(hot[0], hot[1]) and not np.array_equal(hot[0], hot[2])
    assert len(set(np.diff(hot[0]) % 5)) > 1
    one = data.generate(network, [0], 40, temperature=50, top_k=1)
    assert set(np.diff(one) % 5) == {1}


def test_draws_have_the_softmax_of_the_logits():
    from rnn_gpu.data.going_on import draw

    rng, logits = np.random.default_rng(0), np.array([0.0, 1.0, 2.0])
    counts = np.bincount([draw(logits, 2.0, 3, rng) for _ in range(4000)])
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    np.testing.assert_allclose(counts / 4000, expected, atol=0.03)


def linear(m=1):
    """A network of s_t = ½ s_{t−1} + x_t[0] and y = s."""
    layers = [rnn_gpu.RNN(m, 1, activation="identity", dtype="float64", **ON)]
    layers[0].parameters["U"] = np.eye(1, m)
    layers[0].parameters["W"] = np.array([[0.5]])
    return Network(layers, steps="last")


@pytest.mark.parametrize("window", [None, 2])
def test_a_forecast_takes_its_own_for_the_truth(window):
    x, network = [1.0, -2.0, 3.0], linear()
    expected, seen = [], list(x)
    for _ in range(4):
        s = 0.0
        for one in seen if window is None else seen[-window:]:
            s = 0.5 * s + one
        expected.append(s)
        seen.append(s)
    np.testing.assert_allclose(data.forecast(network, x, 4, window=window), expected)


def test_other_columns_of_the_future_are_given():
    x = np.array([[0.0, 1.0], [0.0, 2.0]])
    with pytest.raises(ArgumentError, match="future is None, but x has 2 columns"):
        data.forecast(linear(2), x, 2, target=1)
    future = np.array([[5.0, NAN]])
    with pytest.raises(ShapeError, match="future has shape"):
        data.forecast(linear(2), x, 3, target=1, future=future)
    assert data.forecast(linear(2), x, 2, target=1, future=np.array([[5.0, 0.0]])).tolist() == [
        0,
        5,
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.generate(next_letter(), [], 1), "prompt"),
        (lambda: data.generate(next_letter(), [7], 1), "prompt has the symbol 7"),
        (lambda: data.generate(next_letter(), [0], 1, temperature=-1), "temperature is -1"),
        (lambda: data.generate(next_letter(), [0], 1, top_k=0), "top_k is 0"),
        (lambda: data.generate(next_letter(), [0], -1), "length is -1"),
        (lambda: data.generate(3, [0], 1), "network is 3"),
        (lambda: data.forecast(linear(), [1.0], 0), "steps is 0"),
        (lambda: data.forecast(linear(), [1.0, NAN], 1), "x has 1 missing"),
        (lambda: data.forecast(linear(), [1.0], 1, target=1), "target is 1, but x has"),
        (lambda: data.forecast(linear(), [1.0], 1, window=0), "window is 0"),
    ],
)
def test_what_cannot_go_on_is_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
