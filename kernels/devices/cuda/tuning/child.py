"""Where plans are tried: a process that may hang or be lost, and is ended by the one that began it.

It is told a problem, says that all is ready for a plan, tries it when it is told to, and says what
came of it: a line each. Then it may be told another.
"""

import base64
import ctypes
import json
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress

from ..launch import arrays
from ..schedules import ranked
from .records import Trial, identity
from .trials import LostCardError, tried

LOST = 70  # exit status where a plan took the card along
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def on_card(device: int):
    """A context in which this card is current."""
    cuda = getattr(arrays(), "cuda", None)
    return nullcontext() if cuda is None else cuda.Device(device)


def main():
    with suppress(OSError, AttributeError):  # elsewhere it ends at the end of its input
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    try:
        while line := sys.stdin.readline():
            problem, wanted, device = pickle.loads(base64.b64decode(line))
            choices = {identity(one): one for one in ranked(problem)}
            with on_card(device):
                tell(tried(problem, tuple(choices[one] for one in wanted)))
    except LostCardError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(LOST)


def tell(what: Iterator[int | Trial]):
    """A line each; go on from a place when that is asked for."""
    for said in what:
        print(json.dumps(said), flush=True)
        if isinstance(said, int) and not sys.stdin.readline():
            return


if __name__ == "__main__":
    main()
