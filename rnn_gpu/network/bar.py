"""Lines of text that fit a number of columns: names and numbers, seconds, a bar."""

import os
import shutil
import sys
from typing import NamedTuple, TextIO

LEAST_BAR, MOST_BAR = 5, 30  # columns
GAP = "  "
VALIDATION = "validation_"


class Signs(NamedTuple):
    """What a line is drawn with."""

    norm: str
    best: str
    more: str
    full: str
    empty: str


def signs_for(file: TextIO) -> Signs:
    """Those that the file's encoding has."""
    signs = Signs("‖∇‖", "★ best", "…", "━", "─")
    try:
        "".join(signs).encode(getattr(file, "encoding", None) or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return Signs("|grad|", "* best", "...", "=", "-")
    return signs


def in_notebook() -> bool:
    """Does this run in a kernel of Jupyter's?"""
    home = sys.modules.get("IPython")
    return home is not None and type(home.get_ipython()).__name__ == "ZMQInteractiveShell"


def columns_of(file: TextIO) -> int:
    """Of the terminal behind a file; 80 where there is none, or it does not say."""
    try:
        found = os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):
        found = 0
    return found or shutil.get_terminal_size().columns


def named(numbers: dict[str, float]) -> list[str]:
    """ "loss 0.4312 (val. 0.5011)": names and numbers, those of validation beside their like."""
    words = []
    for name, value in numbers.items():
        held_out = numbers.get(VALIDATION + name)
        if name.removeprefix(VALIDATION) not in numbers or not name.startswith(VALIDATION):
            beside = "" if held_out is None else f" (val. {digits(held_out)})"
            words.append(f"{name} {digits(value)}{beside}")
    return words


def digits(value: float) -> str:
    """Four of them."""
    return f"{value:#.4g}".removesuffix(".")


def duration(seconds: float) -> str:
    """ "12.3 s", "1:42", "2:01:42"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def fitted(words: list[str], end: str, columns: int | None, signs: Signs) -> str:
    """The words in a line of at most so many columns; those that do not fit are left out, the last
    first, but never `end`.
    """
    last = [end] if end else []
    line = GAP.join(words + last)
    while columns is not None and len(line) > columns and len(words) > 1:
        words = words[:-1]
        line = GAP.join([*words, signs.more, *last])
    return line[:columns]


def with_bar(start: str, share: float, words: list[str], columns: int, signs: Signs) -> str:
    """A bar of `share`, 0 … 1, between start and words: it has the columns that they leave, and
    is not there where they leave few.
    """
    percent = f"{share:4.0%}"
    room = min(columns - len(GAP.join([start, "", percent, *words])), MOST_BAR)
    if room < LEAST_BAR:
        return fitted([start, percent, *words], "", columns, signs)
    full = round(share * room)
    bar = signs.full * full + signs.empty * (room - full)
    return GAP.join([start, bar, percent, *words])
