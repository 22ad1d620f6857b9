"""`--task text`: the next character of a text."""

import math

from .. import datasets
from ..data import Vocabulary
from ..datasets import Sequences
from ..errors import ArgumentError
from ..network import Network
from .choices import Chosen, Defaults, chosen_of, words_of
from .labelled import Labelled

TEST, LENGTH = 0.1, 64


class Texts(Labelled):
    """A text in windows of characters, in its order: to train on, to validate, to test.

    words  what `metadata` gave of another: its vocabulary is taken
    whole  True: all of the text is there to test
    """

    task = "text"
    loss, steps, embedded = "softmax_cross_entropy", "every", 64
    defaults = Defaults(hidden=128, batch_size=32, epochs=5, patience=3)

    def __init__(self, chosen: Chosen, words: dict | None = None, whole: bool = False):
        self.chosen = chosen
        if chosen.data == "python-manual":
            text = datasets.python_manual(LENGTH, TEST)
            self.vocabulary = Vocabulary(text.vocabulary)
            rest, test = text.train, text.validation
        else:
            said = read_text(chosen)
            border = 0 if whole else round(len(said) * (1 - chosen.test_share(TEST)))
            self.vocabulary = (
                Vocabulary.of_dict(words["vocabulary"])
                if words
                else Vocabulary.of_characters(said[:border])
            )
            rest, test = (
                cut(self.vocabulary.encode(part)) for part in (said[:border], said[border:])
            )
        held_out = len(rest.x) - round(chosen.validation * len(rest.x))
        self.parts = {
            "train": Sequences(rest.x[:held_out], rest.y[:held_out]),
            "validation": Sequences(rest.x[held_out:], rest.y[held_out:]),
            "test": test,
        }
        empty = [name for name, part in self.parts.items() if not part.x]
        if empty and not (whole and self.parts["test"].x):
            raise ArgumentError(
                f"{chosen.data} is too short: its {empty[0]} part has not {LENGTH + 1} characters"
            )
        self.input_size = self.outputs = len(self.vocabulary)

    @property
    def metadata(self) -> dict:
        """What another command must know."""
        return {
            "task": self.task,
            "chosen": words_of(self.chosen),
            "vocabulary": self.vocabulary.to_dict(),
        }

    def size(self) -> str:
        """Its parts, in words."""
        counts = {name: len(part.x) for name, part in self.parts.items()}
        return (
            f"{counts['train']:,} sequences of {LENGTH} characters to train on, "
            f"{counts['validation']:,} to validate, {counts['test']:,} to test; "
            f"{len(self.vocabulary)} different characters"
        )

    def measured(self, network: Network, name: str = "test") -> dict:
        """Loss and accuracy of a part."""
        return network.evaluate(*self.parts[name])

    def said(self, found: dict) -> str:
        """`measured`, in a line."""
        bits = found["loss"] / math.log(2)
        return (
            f"test accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}, {bits:.3f} bits a "
            "character"
        )


def read_text(chosen: Chosen) -> str:
    """The text of a file, UTF-8."""
    try:
        return chosen.path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{chosen.data} is not UTF-8 at byte {error.start}") from None


def cut(symbols) -> Sequences:
    """Consecutive windows, each with the same one symbol later as its target."""
    count = max(len(symbols) - 1, 0) // LENGTH
    x, y = (symbols[start : start + count * LENGTH].reshape(count, LENGTH) for start in (0, 1))
    return Sequences(list(x), list(y))


def again(words: dict, data: str | None) -> Texts:
    """What a model was trained on; or all of another file, to test."""
    chosen = chosen_of(words["chosen"])
    if data is not None:
        chosen = chosen._replace(data=data)
    return Texts(chosen, words, whole=data is not None and data != "python-manual")


def vocabulary_of(model, network: Network) -> Vocabulary:
    """The characters that a model knows.  ArgumentError for one of another task."""
    words = network.metadata or {}
    if words.get("task") != "text":
        raise ArgumentError(
            f"{model} is no model of a text: `rnn-gpu train --data text.txt` makes one"
        )
    return Vocabulary.of_dict(words["vocabulary"])
