"""The examples run, in a short setting, and do what they say."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
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


@pytest.mark.slow
def test_a_pole_whose_speeds_are_hidden_is_balanced(example):
    pytest.importorskip("torch")
    found = example("control").main(rounds=30)
    assert found["recurrent"] > 1.5 * found["random"]


def test_what_is_learned_from_is_what_was_done(example):
    """One call for all steps gives the probabilities that steps one by one had, across episodes."""
    torch = pytest.importorskip("torch")
    control = example("control")
    policy, carts = control.Policy(True), control.CartPoles(4, 0)
    state, resets = None, torch.ones(4, dtype=torch.bool)
    for _ in range(2):
        steps, first, state, resets, _ = control.stretch(policy, carts, state, resets)
        x, action, begun, told, *_ = steps
        logits, *_ = policy(x, first, begun)
        now = torch.distributions.Categorical(logits=logits).log_prob(action)
        torch.testing.assert_close(now, told, rtol=0, atol=1e-5)
    assert begun[1:].any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_pole_is_learned_by_torchrls_means(example):
    """The weights change, and carts go on from where they were."""
    pytest.importorskip("torchrl")
    found = example("control_torchrl").main(rounds=2)
    assert 5 < found["recurrent"] < 500


def test_carts_move_as_gymnasiums(example):
    """Where it is installed: the same forces give the same states."""
    gymnasium = pytest.importorskip("gymnasium")
    carts, one = example("control").CartPoles(1, 0), gymnasium.make("CartPole-v1").unwrapped
    one.reset(seed=0)
    one.state = tuple(carts.s[:, 0])
    for right in np.random.default_rng(0).random(12) < 0.5:
        carts.act(np.array([right]))
        seen, *_ = one.step(int(right))
        np.testing.assert_allclose(seen, carts.s[:, 0], rtol=1e-5, atol=1e-6)


def test_what_a_fall_is_worth(example):
    """Advantages, against returns that are summed up: with λ = 1 they differ by the value."""
    torch = pytest.importorskip("torch")
    control = example("control")
    control.LAMBDA = 1.0
    values = torch.linspace(0.1, 0.9, 5)[:, None]
    over = torch.tensor([False, False, True, False, False])[:, None]
    found = control.advantages(values, over, over, torch.tensor([2.0]))
    returns, following = [], 2.0
    for t in reversed(range(5)):
        following = control.REWARD + control.GAMMA * (0.0 if over[t] else following)
        returns.insert(0, following)
    np.testing.assert_allclose(found[:, 0], torch.tensor(returns) - values[:, 0], rtol=1e-5)
