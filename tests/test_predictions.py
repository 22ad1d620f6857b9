"""What a step is expected to take on an H200: stored, so that it cannot grow unseen."""

import itertools
import sys
from pathlib import Path

import pytest

from programs import need_compiler, python

CHECKOUT = Path(__file__).parents[1]
if not (CHECKOUT / "benchmarks").exists():
    pytest.skip("the benchmarks are no part of what is installed", allow_module_level=True)
sys.path.append(str(CHECKOUT))

from benchmarks import _predictions, modelled

# microseconds a step, modelled, with 400 cycles for an exchange; B is 1 or 16
BOUNDS = {
    ("elman", 512, "forward"): 0.56,
    ("elman", 512, "backward"): 0.56,
    ("lstm", 128, "forward"): 0.5,
    ("lstm", 128, "backward"): 0.47,
    ("lstm", 256, "forward"): 0.6,
    ("lstm", 256, "backward"): 0.62,
}


def key(row: dict) -> tuple:
    return row["cell"], row["n"], row["B"], row["direction"]


def test_no_step_is_expected_to_take_longer_than_it_was():
    """`python -m benchmarks _predictions --count` writes the numbers anew, of other plans."""
    rows = {key(row): row for row in _predictions.stored()}
    assert list(rows) == list(_predictions.cases())
    for case, row in rows.items():
        assert _predictions.modelled(*case)["us"] <= _predictions.MORE * row["us"], case


def test_steps_keep_to_their_bounds():
    """And what is counted in the compiled code is what the model takes it for."""
    rows = {(row["cell"], row["n"], row["direction"]): row for row in _predictions.stored()}
    assert set(BOUNDS) <= set(rows)
    for row in _predictions.stored():
        assert row["us"] <= BOUNDS.get((row["cell"], row["n"], row["direction"]), 1.0), row
        assert row["us_counted"]["400"] <= 1.05 * row["us"], row


def test_no_step_spills_or_is_slower_than_what_is_published_at_its_worst():
    for row in _predictions.stored():
        assert row["stack"] == 0 and row["us"] < row["cudnn_us"][1], row


def test_stored_steps_are_of_the_plans_of_today():
    """Of others only the time is compared, not what they issue."""
    stored = [(row, _predictions.modelled(*key(row))) for row in _predictions.stored()]
    assert all(_predictions.fields(a["plan"]) == _predictions.fields(b["plan"]) for a, b in stored)


def test_half_of_the_steps_are_of_every_cell_size_and_direction():
    rows, every = _predictions.half(), _predictions.stored()
    assert 2 * len(rows) == len(every)
    for what in (("cell", "n", "direction"), ("cell", "n", "B")):
        kinds, there = ({tuple(row[one] for one in what) for row in of} for of in (rows, every))
        assert kinds == there


def test_the_docs_say_what_is_modelled_of_long_sequences():
    """`python -m benchmarks modelled` prints it."""
    text = (CHECKOUT / "docs" / "parallel.md").read_text(encoding="utf-8")
    with modelled.on_an_H200():
        assert modelled.scans() in text and modelled.warm_ups() in text


def test_a_scan_is_modelled_to_be_ten_times_as_quick_on_a_card():
    """And chunks with warm-ups, the host's time among theirs, six times, of 256 units."""
    with modelled.on_an_H200():
        kinds, sizes = modelled.KINDS.values(), modelled.UNITS
        for kind, n, T in itertools.product(kinds, sizes, modelled.LENGTHS):
            chunks, alone, gain = modelled.of_a_scan(kind, n, T)
            assert alone >= 10 and chunks >= 128 and gain >= 5
        assert modelled.of_warm_ups(256, modelled.LENGTHS[0], 192)[2] >= 6
        assert modelled.of_warm_ups(64, modelled.LENGTHS[0], 192)[1] >= 10


def grown(rows: str) -> str:
    need_compiler()
    check = f"from benchmarks import _predictions as p; print(*p.grown(p.{rows}()))"
    done = python(check, options=(), cwd=CHECKOUT, patience=900, NUMBA_ENABLE_CUDASIM=None)
    return done.stdout.strip()


@pytest.mark.slow
def test_no_step_of_half_of_them_issues_more_than_it_did():
    assert grown("half") == ""


@pytest.mark.stress
def test_no_step_issues_more_than_it_did():
    assert grown("stored") == ""
