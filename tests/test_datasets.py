from pydoc_data.topics import topics

import numpy as np
import pytest

from rnn_gpu.datasets import Sequences, python_manual, vowels


def test_vowels_counts_lengths_and_classes():
    train, test = vowels()
    assert isinstance(train, Sequences) and isinstance(test, Sequences)
    assert np.bincount(train.y).tolist() == [30] * 9
    assert np.bincount(test.y).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    for split, count, longest, frames in ((train, 270, 26, 4274), (test, 370, 29, 5687)):
        lengths = [len(x) for x in split.x]
        assert (len(lengths), min(lengths), max(lengths), sum(lengths)) == (
            count,
            7,
            longest,
            frames,
        )
        assert (
            split.y.shape == (count,)
            and split.y.dtype == np.int64
            and (np.diff(split.y) >= 0).all()
        )
        for x in split.x:
            assert (
                x.shape[1] == 12
                and x.dtype == np.float32
                and x.flags.c_contiguous
                and np.isfinite(x).all()
            )


def test_vowels_are_the_published_values():
    """Lines of the files ae.train and ae.test as published; float64 holds their six decimals
    exactly.
    """
    train, test = vowels("float64")
    published = {
        "first of ae.train": (
            train.x[0][0],
            "1.860936 -0.207383 0.261557 -0.214562 -0.171253 -0.118167 -0.277557 0.025668 "
            "0.126701 -0.306756 -0.213076 0.088728",
        ),
        "last of ae.train": (
            train.x[-1][-1],
            "0.966744 -0.323093 0.305467 -0.419457 0.514195 -0.311060 -0.033985 0.154038 "
            "-0.389686 -0.089183 0.166250 0.173642",
        ),
        "first of the last block of ae.train": (
            train.x[-1][0],
            "1.240598 -0.352572 0.202753 -0.819913 -0.038500 -0.385671 -0.021062 0.434753 "
            "-0.200198 -0.184956 0.050853 0.061848",
        ),
        "last of ae.test": (
            test.x[-1][-1],
            "1.177449 -0.404080 0.052026 -0.284812 0.429840 -0.203484 -0.072393 -0.080955 "
            "-0.244424 -0.001849 -0.016634 0.224688",
        ),
    }
    for name, (frame, line) in published.items():
        assert frame.tolist() == [float(value) for value in line.split()], name
    assert len(train.x[-1]) == 9  # the last block of ae.train has nine lines
    for single, double in zip(vowels()[1].x, test.x, strict=True):
        assert np.array_equal(single, double.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64", np.float32, np.dtype("float64")])
def test_vowels_standardised_by_the_training_frames(dtype):
    raw = vowels("float64")
    train, test = vowels(dtype, standardise=True)
    frames = np.concatenate(train.x)
    tolerance = 1e-12 if frames.dtype == np.float64 else 1e-6
    assert frames.dtype == np.dtype(dtype)
    assert abs(frames.mean(0, dtype=np.float64)).max() < tolerance
    assert abs(frames.std(0, dtype=np.float64) - 1).max() < tolerance
    own = np.concatenate(raw[0].x)
    assert np.allclose(test.x[5], (raw[1].x[5] - own.mean(0)) / own.std(0), atol=10 * tolerance)
    assert np.array_equal(train.y, raw[0].y) and np.array_equal(test.y, raw[1].y)


def test_vowels_calls_are_independent():
    vowels()[0].x[0][:] = 7
    assert vowels()[0].x[0][0, 0] == np.float32(1.860936)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": "nonsense"}, "dtype"),
        ({"dtype": int}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"standardise": "yes"}, "standardise"),
        ({"standardise": None}, "standardise"),
    ],
)
def test_vowels_refuses(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} is .*, expected"):
        vowels(**arguments)


@pytest.mark.parametrize(
    "length, validation", [(64, 0.1), (1000, 0.25), (1, 0.5), (50, 0), (np.int64(7), 0.999)]
)
def test_manual_windows(length, validation):
    train, held_out, vocabulary = python_manual(length, validation)
    text = "\n\n".join(topics[name] for name in sorted(topics))
    assert vocabulary == "".join(sorted(set(text)))
    border = len(text) - round(validation * len(text))
    characters = np.array(list(vocabulary))
    # Windows and targets stay inside their own part, in order, and drop less than one window: the
    # two parts cannot overlap.
    for split, part in ((train, text[:border]), (held_out, text[border:])):
        assert len(split.x) == len(split.y) == max(len(part) - 1, 0) // length
        if split.x:
            x, y = np.stack(split.x), np.stack(split.y)
            assert x.shape[1] == length and x.dtype == y.dtype == split.x[0].dtype == np.int64
            assert (y[:, :-1] == x[:, 1:]).all() and (y[:-1, -1] == x[1:, 0]).all()
            assert (
                "".join(characters[x.ravel()]) == part[: x.size]
                and "".join(characters[y.ravel()]) == part[1 : 1 + y.size]
            )
    assert bool(held_out.x) == bool(validation)


def test_manual_defaults_and_determinism():
    first, second = python_manual(), python_manual()
    assert first.train.x[0].shape == first.train.y[0].shape == (64,)
    assert (
        len(first.vocabulary) > 90 and len(first.train.x) > 5000 and len(first.validation.x) > 500
    )
    assert np.array_equal(first.train.x, second.train.x) and np.array_equal(
        first.validation.y, second.validation.y
    )
    assert not np.shares_memory(first.train.x[0], first.train.y[0])


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"length": 0}, "length"),
        ({"length": -3}, "length"),
        ({"length": 6.0}, "length"),
        ({"length": True}, "length"),
        ({"length": "64"}, "length"),
        ({"length": 10**9}, "length"),
        ({"length": 100, "validation": 1e-6}, "length"),
        ({"validation": 1}, "validation"),
        ({"validation": -0.1}, "validation"),
        ({"validation": float("nan")}, "validation"),
        ({"validation": "0.1"}, "validation"),
        ({"validation": None}, "validation"),
    ],
)
def test_manual_refuses(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} is .*, expected"):
        python_manual(**arguments)
