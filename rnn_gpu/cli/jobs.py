"""The data sets that ship with the library, and the settings that suit them."""

from typing import NamedTuple

from .. import datasets


class Job(NamedTuple):
    """A data set and the settings that suit it."""

    train: datasets.Sequences
    test: datasets.Sequences
    features: int
    embedded: int  # the size of a symbol's vector; 0 for features that are numbers
    outputs: int
    steps: str
    hidden: int
    batch_size: int
    epochs: int
    held_out: str


def job(data: str) -> Job:
    """The Job of a data set's name."""
    if data == "vowels":
        train, test = datasets.vowels(standardise=True)
        return Job(train, test, 12, 0, 9, "last", 64, 27, 60, "test")
    text = datasets.python_manual()
    k = len(text.vocabulary)
    return Job(text.train, text.validation, k, 64, k, "every", 128, 32, 5, "validation")
