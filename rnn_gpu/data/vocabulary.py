"""Vocabularies: characters or words as symbols 0, 1, 2, …, and back."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .. import arguments
from ..errors import ArgumentError

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
WORD = re.compile(r"\w+|[^\w\s]")  # a word, or a mark


class Vocabulary:
    """Symbol k stands for tokens[k].

    unknown  the token that stands for all others, one of `tokens`; None: others are refused
    words    True: a text is words and marks, and spaces are lost; False: characters
    """

    def __init__(self, tokens: Sequence[str], *, unknown: str | None = None, words: bool = False):
        self.tokens, self.words = list(tokens), arguments.flag("words", words)
        for one in self.tokens:
            if not isinstance(one, str) or not one or (not words and len(one) > 1):
                kind = "words" if words else "single characters"
                raise ArgumentError(f"tokens has {one!r}, expected {kind}")
        self.symbols = {token: k for k, token in enumerate(self.tokens)}
        if not self.tokens or len(self.symbols) < len(self.tokens):
            raise ArgumentError("tokens is empty, or has one twice")
        if unknown is not None and unknown not in self.symbols:
            raise ArgumentError(f"unknown is {unknown!r}, expected one of tokens, or None")
        self.unknown = unknown

    @classmethod
    def of_characters(cls, text: str, most: int | None = None, *, unknown: bool = True):
        """The characters of a text, sorted; or the `most` frequent ones."""
        return cls._counted(Counter(text), text, most, UNKNOWN if unknown else None, False)

    @classmethod
    def of_words(cls, text: str, most: int | None = None, *, unknown: bool = True):
        """The words and marks of a text, sorted; or the `most` frequent ones."""
        counts = Counter(WORD.findall(text)) if isinstance(text, str) else Counter()
        return cls._counted(counts, text, most, "<unknown>" if unknown else None, True)

    @classmethod
    def _counted(cls, counts, text, most, unknown, words):
        if not isinstance(text, str) or not counts:
            raise ArgumentError(
                f"text is {arguments.came(text)}, expected a text that is not empty"
            )
        chosen = counts.most_common(None if most is None else arguments.size("most", most))
        if unknown is not None:
            chosen = [*chosen, (unknown, 0)]
        return cls(sorted({token for token, _ in chosen}), unknown=unknown, words=words)

    def __len__(self):
        return len(self.tokens)

    def __repr__(self):
        kind = "words" if self.words else "characters"
        return f"Vocabulary({len(self)} {kind}, unknown={self.unknown!r})"

    def encode(self, text: str) -> np.ndarray:
        """A text -> int64 (T,).  ArgumentError, which says where, for what is unknown, unless there
        is a symbol for that.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"text is {arguments.came(text)}, expected a str")
        parts = WORD.findall(text) if self.words else text
        other = None if self.unknown is None else self.symbols[self.unknown]
        found = [self.symbols.get(token, other) for token in parts]
        if None in found:
            at = found.index(None)
            raise ArgumentError(f"text has {parts[at]!r} at {at}, which is not in this vocabulary")
        return np.array(found, "int64")

    def decode(self, symbols) -> str:
        """Symbols (T,) -> their text."""
        a = arguments.symbols("symbols", np.asarray(symbols), len(self), "(T,)", 1)
        return (" " if self.words else "").join(self.tokens[k] for k in a)

    def to_dict(self) -> dict:
        """In JSON's types, for a model's metadata."""
        return {"tokens": self.tokens, "unknown": self.unknown, "words": self.words}

    @classmethod
    def of_dict(cls, words: dict) -> "Vocabulary":
        """What `to_dict` wrote down."""
        return cls(words["tokens"], unknown=words["unknown"], words=words["words"])
