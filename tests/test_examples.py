"""The examples run, in a short setting, and do what they say."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the tests run outside a checkout")


@pytest.fixture
def example(monkeypatch):
    """(name) -> the module."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return import_module(name)

    return load


def test_a_forecast_is_better_than_persistence(example):
    forecast = example("forecast")
    errors = forecast.main(forecast.made(1400), epochs=8, n=16)
    assert errors["network"] < 0.7 * errors["persistence"]


def test_a_text_is_learned(example, capsys):
    bits, counted = example("text").main(epochs=4, n=32, share=0.1)
    assert bits < 4.8 and 2 < counted < 5
    assert "The statement " in capsys.readouterr().out


def test_code_is_tagged_as_torchs_own_layer_does(example):
    pytest.importorskip("torch")
    found = example("tagging").main(epochs=2, n=16, most=200)
    assert found["ours"] > found["always the most frequent"]
    assert found["ours"] == pytest.approx(found["torch.nn"], abs=0.01)


def test_evidence_is_added_up(example):
    found = example("evidence").main(epochs=6, n=16, count=1000)
    assert found["the last one"] + 0.1 < found["network"]
    assert found["network"] < found["all samples added"] + 0.02


def test_a_system_is_identified(example):
    found = example("identification").main(epochs=25, n=16, count=4000)
    assert found["network"] < found["linear"]
