"""What a card is asked to do, counted: `with counted() as counts:`."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

FIELDS = (
    "operations",  # calls of CuPy that start something on the card, by name
    "views",  # calls of CuPy that give another view of the same memory
    "launches",  # of kernels of ours, by the kernel's name
    "products",  # of matrices
    "waits",  # the host waits for the card
    "copies_to",  # from the host's memory
    "copies_from",
    "allocations",
    "graphs",  # launches of captured graphs
)


@dataclass(eq=False)
class Counts:
    """How often each thing was asked for, by field and name."""

    of: dict[str, Counter] = field(default_factory=lambda: {name: Counter() for name in FIELDS})

    def __getattr__(self, name):
        if name not in FIELDS:
            raise AttributeError(name)
        return self.of[name].total()

    def named(self, name: str) -> dict[str, int]:
        """A field by the names of what was counted, the most frequent first."""
        return dict(self.of[name].most_common())

    def table(self) -> dict[str, int]:
        """The totals of all fields."""
        return {name: self.of[name].total() for name in FIELDS}


OPEN: list[Counts] = []


@contextmanager
def counted():
    """Count what every thread asks for within it."""
    counts = Counts()
    OPEN.append(counts)
    try:
        yield counts
    finally:
        OPEN.remove(counts)


def count(name: str, what: str):
    """One more of a field, in all who count."""
    for counts in OPEN:
        counts.of[name][what] += 1
