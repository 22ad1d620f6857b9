"""`python -m benchmarks errors`: how far fp32, tf32 and bf16 are from float64, at few steps."""

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (CHECKOUT / "benchmarks").exists(),
    reason="no benchmarks beside the tests: this is no checkout",
)


@pytest.fixture
def errors(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT))
    from benchmarks import errors

    return errors


@pytest.mark.parametrize("kind", ["Elman", "LSTM", "GRU"])
def test_errors_are_within_their_bounds_and_of_their_precision(errors, kind):
    found = errors.errors(kind, 16)
    assert errors.beyond(found) == []
    for few, more in (("fp32", "tf32"), ("tf32", "bf16")):  # fewer bits, larger errors
        assert all(4 * a < b for a, b in zip(found[few], found[more], strict=True)), found
    if theirs := found.get("torch, float32"):  # it is the same layer
        assert all(one <= bound for one, bound in zip(theirs, errors.BOUNDS["fp32"], strict=True))


@pytest.mark.parametrize("exact", ["products of all steps", "products of a step"])
def test_products_of_both_kinds_are_rounded(errors, exact, monkeypatch):
    """Where one is left exact, it is the other that makes the error."""
    if exact == "products of a step":
        monkeypatch.setattr(errors, "of_few_bits", lambda W, precision: W)
    else:
        monkeypatch.setattr(errors, "project", errors.reference.project)
        monkeypatch.setattr(errors, "project_back", errors.reference.project_back)
    found = errors.errors("GRU", 16)
    assert all(10 * a < b for a, b in zip(found["fp32"], found["tf32"], strict=True)), found


def test_what_is_beyond_a_bound_is_told(errors, monkeypatch, capsys):
    found = {"fp32": (1e-6, 2e-4), "tf32": (1e-3, 1e-3), "bf16": (float("inf"), 1e-3)}
    monkeypatch.setattr(errors, "errors", lambda kind, steps: found)
    assert errors.main(["--quick"]) == 1
    assert "beyond the bounds: Elman fp32, Elman bf16, LSTM fp32" in capsys.readouterr().out
