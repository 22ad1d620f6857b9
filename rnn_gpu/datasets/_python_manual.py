"""Characters of Python's own manual, to predict each next one."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

from ._sequences import Sequences


class Text(NamedTuple):
    """A text as windows of symbols: symbol k is the character vocabulary[k]."""

    train: Sequences
    validation: Sequences
    vocabulary: str


def python_manual(length=64, validation=0.1) -> Text:
    """Python's own reference manual, the pages behind `help("topics")`, for predicting each next
    character.

    The text is cut into consecutive windows of `length` characters: x[i] is int64 of shape
    (length,), and y[i], of the same shape, is the same window one character later. The last
    `validation` fraction of the text (0 for none) is held out, and no window crosses the border;
    what is left over at the end of either part is dropped. `vocabulary` is every character of the
    whole text, sorted.

    Source: pydoc_data.topics of the running interpreter, so the text (about 0.5 million characters,
    about 100 different ones) differs between Python versions. Licence: PSF License Version 2, that
    of Python itself.
    """
    if not isinstance(length, Integral) or isinstance(length, bool) or length < 1:
        raise ValueError(f"length is {length!r}, expected an integer of at least 1")
    if not isinstance(validation, Real) or not 0 <= validation < 1:
        raise ValueError(
            f"validation is {validation!r}, expected a fraction from 0 up to, not including, 1"
        )
    # here, since some minimal installations of Python leave it out
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    characters, symbols = np.unique(
        np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True
    )
    border = len(symbols) - round(validation * len(symbols))
    train, held_out = symbols[:border], symbols[border:]
    if len(train) <= length or (validation and len(held_out) <= length):
        parts = f"{len(train)} training and {len(held_out)} validation characters"
        raise ValueError(
            f"length is {length} and validation is {validation}, expected a window and one more "
            f"character to fit {parts}"
        )
    return Text(windows(train, length), windows(held_out, length), "".join(map(chr, characters)))


def windows(symbols, length):
    """Consecutive windows, each with the same one symbol later as its target."""
    count = max(len(symbols) - 1, 0) // length

    def cut(start):  # astype copies, so that no two windows share memory
        return list(symbols[start : start + count * length].reshape(count, length).astype(np.int64))

    return Sequences(cut(0), cut(1))
