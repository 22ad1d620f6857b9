"""A model of torch's onto our kernels and back, in place: what it computes, what refers to it, and
what is left as it was. Skipped without torch.
"""

import copy
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn.utils import prune

import rnn_gpu.torch as ours
from conftest import close
from door import refuses
from rnn_gpu import ArgumentError
from torch_pairs import agree, draw, passed
from torchs_samples import NAMES

T, B, M, N = 5, 3, 4, 7


class Everything(nn.Module):
    """A model with every recurrent module of torch's, beside others."""

    def __init__(self):
        super().__init__()
        self.input = nn.Linear(M, M)
        self.stacks = nn.ModuleDict(
            {
                "rnn": nn.RNN(M, N, 2, "relu", bidirectional=True),
                "lstm": nn.LSTM(2 * N, N, bias=False, proj_size=3),
                "gru": nn.GRU(3, N, batch_first=True),
            }
        )
        self.cells = nn.ModuleList([nn.RNNCell(N, N), nn.LSTMCell(N, N), nn.GRUCell(N, N)])

    def forward(self, x, hx=None):
        x = self.input(x)
        for stack in self.stacks.values():
            x, _ = stack(x)
        h = x[-1]
        for cell in self.cells:
            h = cell(h)
            h = h[0] if isinstance(h, tuple) else h
        return x.mean() + h


def built(model=Everything, seed=0):
    torch.manual_seed(seed)
    return model().double()


def recurrent(model):
    """The classes of its recurrent modules."""
    kinds = nn.RNNBase | nn.RNNCellBase
    return [type(each) for each in model.modules() if isinstance(each, kinds)]


def test_everything_is_replaced_and_comes_back_with_the_same_parameters():
    model, x = built(), draw(T, B, M)
    expected, before = passed(model, x), list(model.named_parameters())
    same, report = ours.convert(model)
    assert same is model
    names = ("stacks.rnn", "stacks.lstm", "stacks.gru", "cells.0", "cells.1", "cells.2")
    assert report == (names, {}) and "stacks.lstm: replaced" in str(report)
    assert recurrent(model) == [getattr(ours, name) for name in NAMES]
    for a, b in zip(passed(model, x), expected, strict=True):
        close(a, b)
    assert ours.revert(model) == (model, report)
    assert recurrent(model) == [getattr(nn, name) for name in NAMES]
    for (name, θ), (was, φ) in zip(model.named_parameters(), before, strict=True):
        assert name == was and θ is φ
    for a, b in zip(passed(model, x), expected, strict=True):
        close(a, b)
    fresh = built()
    for mine, theirs in zip(model.modules(), fresh.modules(), strict=True):
        assert vars(mine).keys() == vars(theirs).keys()


def test_the_model_itself_may_be_a_recurrent_module():
    model = nn.GRU(M, N)
    assert ours.convert(model).report.replaced == ("",)
    assert type(model) is ours.GRU
    assert ours.revert(model).model is model and type(model) is nn.GRU


@pytest.mark.parametrize("name", NAMES)
def test_what_was_built_as_ours_leaves_nothing_behind_in_torchs(name):
    mine, theirs = getattr(ours, name)(M, N), getattr(nn, name)(M, N)
    assert ours.revert(mine).report.replaced == ("",)
    assert vars(mine).keys() == vars(theirs).keys()


def test_only_what_is_named_is_replaced():
    model = built()
    assert ours.convert(model, only="stacks.gru").report.replaced == ("stacks.gru",)
    assert ours.convert(model, only=["cells.1", "cells.1"]).report.replaced == ("cells.1",)
    assert [kind for kind in recurrent(model) if kind.__module__.startswith("rnn_gpu")] == [
        ours.GRU,
        ours.LSTMCell,
    ]
    message = "^only has 'stacks.gru', expected names of 'stacks.rnn', 'stacks.lstm', 'cells.0'"
    refuses(ArgumentError, message, lambda: ours.convert(model, only=["stacks.gru"]))
    message = "^only has 'input', expected names of 'stacks.gru', 'cells.1'$"
    refuses(ArgumentError, message, lambda: ours.revert(model, only="input"))
    message = "^only has 'a', expected none, for there is none"
    refuses(ArgumentError, message, lambda: ours.convert(nn.Linear(1, 1), only="a"))
    refuses(ArgumentError, "^model is 3, expected a torch.nn.Module", lambda: ours.convert(3))


def test_a_module_under_two_names_is_one():
    shared = nn.LSTM(M, M)
    model = nn.ModuleDict({"a": shared, "b": shared})
    assert ours.convert(model).report == (("a", "b"), {})
    assert model["a"] is model["b"] and type(shared) is ours.LSTM
    assert ours.revert(model, only="b").report.replaced == ("b",)
    assert type(shared) is nn.LSTM


# What refers to a module


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_an_optimizer_made_before_goes_on(name):
    models, losses = [built(), built()], []
    optimizers = [getattr(torch.optim, name)(model.parameters(), 0.05) for model in models]
    for step in range(6):
        if step == 2:
            ours.convert(models[1])
        if step == 4:
            ours.revert(models[1])
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss = model(draw(T, B, M)).square().sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[1::2] == pytest.approx(losses[::2], rel=1e-9)
    assert losses[-1] < losses[0]


def test_hooks_and_their_handles_training_and_buffers_stay():
    model, seen = nn.GRU(M, N, 2, dropout=0.5).eval(), []
    handle = model.register_forward_hook(lambda *_: seen.append("forward"))
    model.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.register_full_backward_hook(lambda *_: seen.append("back"))
    model.register_buffer("mine", torch.ones(1))
    model.note = "kept"
    ours.convert(model)
    assert not model.training and model.note == "kept" and "mine" in model.state_dict()
    model(torch.zeros(T, B, M, requires_grad=True))[0].sum().backward()
    assert seen == ["before", "forward", "back"]
    handle.remove()
    model(torch.zeros(T, B, M))
    assert seen == ["before", "forward", "back", "before"]


def test_tied_weights_stay_tied():
    model = nn.ModuleList([nn.LSTM(M, N), nn.LSTM(M, N)]).double()
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    ours.convert(model)
    assert model[1].weight_hh_l0 is model[0].weight_hh_l0
    assert model[1]._flat_weights[1] is model[0].weight_hh_l0
    with torch.no_grad():
        model[0].weight_hh_l0.zero_()
    theirs = copy.deepcopy(model)
    ours.revert(theirs)
    agree(theirs[1], model[1], draw(T, B, M))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_weight_norm_by_hooks_goes_on():
    def normed():
        torch.manual_seed(0)
        return nn.utils.weight_norm(nn.LSTM(M, N).double(), "weight_hh_l0")

    theirs, (mine, report) = normed(), ours.convert(normed())
    assert report.replaced == ("",) and type(mine) is ours.LSTM
    for _ in range(2):
        agree(theirs, mine, draw(T, B, M))
        with torch.no_grad():
            for module in (theirs, mine):
                module.weight_hh_l0_g.mul_(1.5)


def test_pruned_weights_stay_pruned():
    def pruned():
        torch.manual_seed(0)
        module = nn.GRU(M, N).double()
        prune.l1_unstructured(module, "weight_hh_l0", 0.5)
        return module

    agree(pruned(), ours.convert(pruned()).model, draw(T, B, M))


def test_dtypes_and_modules_without_numbers_stay():
    model = ours.convert(nn.LSTM(M, N).bfloat16()).model
    assert model(torch.zeros(T, B, M).bfloat16())[0].dtype == torch.bfloat16
    model = ours.convert(nn.LSTM(M, N, device="meta")).model.to_empty(device="cpu")
    model.reset_parameters()
    assert model(torch.zeros(T, B, M))[0].shape == (T, B, N)


def test_copies_and_pickles_of_what_was_converted(tmp_path):
    model, x = ours.convert(built()).model, draw(T, B, M)
    expected = passed(model, x)
    torch.save(model, tmp_path / "model.pt")
    for again in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert recurrent(again) == recurrent(model)
        for a, b in zip(passed(again, x), expected, strict=True):
            close(a, b)


# What is left


class Residual(nn.LSTM):
    def forward(self, input, hx=None):
        y, state = super().forward(input, hx)
        return y + input, state


def parametrized():
    module = nn.GRU(M, N)
    return nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")


def wrapped():
    module = nn.RNN(M, N)
    forward = module.forward
    module.forward = lambda *given: forward(*given)
    return module


LEFT = {
    "a subclass": (lambda: Residual(M, M), "its class, Residual, may do other than torch's"),
    "parametrized": (parametrized, "weight_hh_l0 are parametrized: convert the model before"),
    "forward": (wrapped, "its forward was replaced"),
    "scripted": (lambda: torch.jit.script(nn.GRU(M, N)), "it is scripted"),
    "complex": (
        lambda: nn.GRU(M, N, dtype=torch.complex64),
        "its parameters are torch.complex64",
    ),
}


@pytest.mark.filterwarnings("ignore:.*jit.script.*is deprecated", "ignore:.*[cC]omplex")
@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_is_named_with_its_reason(name):
    make, why = LEFT[name]
    module = make()
    before = type(module)
    model = nn.Sequential(module, nn.LSTM(M, N))
    report = ours.convert(model).report
    assert report.replaced == ("1",) and report.left["0"].startswith(why)
    assert type(module) is before
    assert f"0: left, {why}" in str(report)


def test_what_torch_cannot_compute_is_not_reverted():
    def tanh(z):
        return 0.5 * z

    def dtanh(y):
        return 0.5

    model = nn.ModuleList(
        [
            ours.RNN(M, N, nonlinearity="softsign"),
            ours.RNN(M, N, nonlinearity=(tanh, dtanh)),
            ours.Recurrent("gru", M, N),
            ours.LSTM(M, N, clip_step_norm=1.0),
            ours.GRU(M, N, precision="tf32"),
            ours.GRU(M, N),
        ]
    )
    report = ours.revert(model).report
    assert report.replaced == ("5",)
    assert list(report.left.values()) == [
        "torch has no RNN of softsign",
        "torch has no RNN of tanh",
        "torch has nothing that computes what Recurrent does",
        "torch has no clip_step_norm",
        "torch has no precision",
    ]


def test_a_model_without_recurrent_modules_says_so():
    report = ours.convert(nn.Sequential(nn.Linear(1, 1))).report
    assert report == ((), {}) and str(report) == "no recurrent module"


# A published architecture


class WeightDropped(nn.Module):
    """DropConnect on the recurrent weights of an LSTM: the module computes with another tensor
    than its parameter in every pass.
    """

    def __init__(self, lstm, dropout):
        super().__init__()
        self.lstm, self.dropout = lstm, dropout
        raw = lstm.weight_hh_l0
        del lstm.weight_hh_l0
        self.weight_hh_raw = nn.Parameter(raw.detach())
        self.drop()

    def drop(self):
        dropped = nn.functional.dropout(self.weight_hh_raw, self.dropout, self.training)
        self.lstm.weight_hh_l0 = dropped

    def forward(self, x, state):
        self.drop()
        return self.lstm(x, state)


class LanguageModel(nn.Module):
    """AWD-LSTM (Merity, Keskar and Socher, 2017): embedding dropout, weight-dropped LSTMs, the same
    dropout mask at all steps, and a decoder tied to the embedding.
    """

    def __init__(self, symbols=11, features=6, units=8):
        super().__init__()
        self.embedding = nn.Embedding(symbols, features)
        sizes = [(features, units), (units, units), (units, features)]
        self.layers = nn.ModuleList([WeightDropped(nn.LSTM(*size), 0.3) for size in sizes])
        self.decoder = nn.Linear(features, symbols)
        self.decoder.weight = self.embedding.weight

    def forward(self, symbols, states):
        x, after = self.embedding(symbols), []
        for layer, state in zip(self.layers, states, strict=True):
            x = x * nn.functional.dropout(torch.ones_like(x[:1]), 0.2, self.training)
            x, last = layer(x, state)
            after.append(tuple(part.detach() for part in last))
        return self.decoder(x), after


def losses_of(model, epochs=3):
    """Truncated BPTT over a text: states go on from window to window."""
    torch.manual_seed(1)
    text = torch.randint(0, 11, (4 * T + 1, B), generator=torch.Generator().manual_seed(2))
    optimizer, losses = torch.optim.SGD(model.parameters(), 2.0), []
    for _ in range(epochs):
        states = [None] * 3
        for start in range(0, 4 * T, T):
            scores, states = model(text[start : start + T], states)
            target = text[start + 1 : start + T + 1]
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), target.flatten())
            activity = sum(layer.weight_hh_raw.square().sum() for layer in model.layers)
            optimizer.zero_grad()
            (loss + 1e-3 * activity).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_an_awd_lstm_learns_what_it_learns_with_torch():
    theirs, (mine, report) = built(LanguageModel), ours.convert(built(LanguageModel))
    assert report.replaced == tuple(f"layers.{k}.lstm" for k in range(3))
    expected = losses_of(theirs)
    assert losses_of(mine) == pytest.approx(expected, rel=1e-9)
    assert expected[-1] < expected[0]


PAGE = Path(__file__).parents[1] / "docs" / "torch.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the tests run outside a checkout")
def test_the_examples_of_the_page_run():
    blocks = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)
