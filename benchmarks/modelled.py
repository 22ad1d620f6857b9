"""What long sequences should gain on an H200, by the model of its schedules: nothing here is
measured, and no GPU is needed.

    python -m benchmarks modelled

The first table: the way back by a scan over chunks, of networks that do not forget. The second:
chunks with warm-ups, forward and back, of networks that forget. B = 1, float32. Each gain is that
of the card alone, and with what chunks ask of the host; products over all steps are in neither.
docs/parallel.md has both, and tests/test_predictions.py holds it to them.
"""

import os
from contextlib import contextmanager
from unittest.mock import patch

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")  # before the first import of numba

from rnn_gpu import GRU, LSTM, RNN
from rnn_gpu.kernels.devices import cuda
from rnn_gpu.kernels.devices.cuda.schedules import H200
from rnn_gpu.layers import cutting, scan

KINDS = {"Elman": RNN, "GRU": GRU, "LSTM": LSTM}
UNITS = (8, 16, 32)
LENGTHS = (16_384, 65_536)
FORGETFUL = (64, 256)  # units of an LSTM that forgets
WARM_UPS = (64, 192)


@contextmanager
def on_an_H200():
    """The cuda device models that card, whatever is here."""
    with patch.object(cuda, "card", lambda: H200):
        yield


def made(kind, n: int):
    return kind(8, n, device="cuda")


def of_a_scan(kind, n: int, T: int) -> tuple[int, float, float]:
    """(chunks, gain of the card alone, with the host) of the way back."""
    layer = made(kind, n)
    cut = scan.planned(layer, T, 1, cutting.Parallel())
    alone = scan.cost(layer, T, 1, 1) / scan.cost(layer, T, 1, cut.chunks)
    return cut.chunks, alone, cut.gain


def of_warm_ups(n: int, T: int, warm_up: int) -> tuple[int, float, float]:
    """The same of an LSTM's way forward and back with warm-ups."""
    layer = made(LSTM, n)
    cut = cutting.best(layer, T, 1, warm_up)
    with patch.object(cutting, "CALLS", 0.0):
        (alone,) = cutting.modelled(layer, T, 1, [cut.chunks], warm_up)
    return cut.chunks, alone, cut.gain


def scans() -> str:
    rows = [
        f"| {name} {n} | {T:,} | {chunks} | {alone:.0f} | {gain:.1f} |"
        for T in LENGTHS
        for name, kind in KINDS.items()
        for n in UNITS
        for chunks, alone, gain in [of_a_scan(kind, n, T)]
    ]
    head = "| | T | chunks | the card alone | with the host |", "| --- | --- | --- | --- | --- |"
    return "\n".join([*head, *rows])


def warm_ups() -> str:
    rows = [
        f"| LSTM {n} | {warm_up} | {chunks} | {alone:.0f} | {gain:.1f} |"
        for n in FORGETFUL
        for warm_up in WARM_UPS
        for chunks, alone, gain in [of_warm_ups(n, LENGTHS[0], warm_up)]
    ]
    head = (
        "| T = 16,384 | warm-up | chunks | the card alone | with the host |",
        "| --- | --- | --- | --- | --- |",
    )
    return "\n".join([*head, *rows])


def main():
    with on_an_H200():
        print(scans(), warm_ups(), sep="\n\n")


if __name__ == "__main__":
    main()
