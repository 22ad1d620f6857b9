"""What each path asks of a card is what benchmarks/results/counts/host.json says, no more and no
less.
"""

import sys
from pathlib import Path

import pytest

from rnn_gpu.kernels.devices.cuda.launch import SIMULATED

CHECKOUT = Path(__file__).parents[1]
if not SIMULATED or not (CHECKOUT / "benchmarks").exists():
    pytest.skip("counted in the simulator, by benchmarks/counts.py", allow_module_level=True)
sys.path.append(str(CHECKOUT))

from benchmarks import counts

WRITE = "python -m benchmarks counts writes the table anew"
STORED = counts.stored()
# the others differ from these in their cell or schedule alone
QUICK = ("LSTM forward", "gemm", "fit, LSTM and Dense, Adam, clip_norm", "Stream", "torch LSTM")


def paths():
    for name in counts.PATHS:
        quick = any(name.startswith(word) or name.endswith(word) for word in QUICK)
        yield pytest.param(name, marks=() if quick else pytest.mark.slow)


def difference(found: dict, stored: dict) -> list[str]:
    """What is not as it was, in words, those of which there is more first."""
    flat = [
        {key: n for key, n in row.items() if key != "by"}
        | {f"{field} {what}": n for field, of in row["by"].items() for what, n in of.items()}
        for row in (found, stored)
    ]
    keys = [key for key in flat[0] | flat[1] if flat[0].get(key, 0) != flat[1].get(key, 0)]
    keys.sort(key=lambda key: flat[1].get(key, 0) - flat[0].get(key, 0))
    return [f"{key}: {flat[0].get(key, 0)}, stored {flat[1].get(key, 0)}" for key in keys]


@pytest.mark.parametrize("name", list(paths()))
def test_a_path_asks_for_what_the_table_says(name):
    assert difference(counts.measured(name), STORED[name]) == [], WRITE


def test_every_path_has_a_line_and_every_line_a_path():
    absent = set(STORED) - set(counts.PATHS)
    assert set(counts.PATHS) <= set(STORED), WRITE
    assert all(name.startswith("torch") for name in absent), WRITE  # where there is no torch


def test_what_is_more_is_told_first():
    less, more = (
        {"waits": 1, "by": {"waits": {"get": 1}}},
        {"waits": 3, "by": {"waits": {"get": 3}}},
    )
    assert difference(more | {"views": 1}, less | {"views": 4}) == [
        "waits: 3, stored 1",
        "waits get: 3, stored 1",
        "views: 1, stored 4",
    ]


def test_a_wait_more_is_seen(monkeypatch):
    """Planted: a layer that looks whether its output is finite."""
    forward = counts.LSTM.forward

    def looks(self, *given):
        y, s, tape = forward(self, *given)
        assert self.backend.finite(y)
        return y, s, tape

    monkeypatch.setattr(counts.LSTM, "forward", looks)
    found = difference(counts.measured("LSTM forward"), STORED["LSTM forward"])
    waits = STORED["LSTM forward"]["waits"]
    assert f"waits: {waits + 1}, stored {waits}" in found
