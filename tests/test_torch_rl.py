"""rnn_gpu.rl against torchrl's own modules: outputs, states and gradients, one step and over time,
with episodes that begin anywhere and go on from states that are stored. Skipped without torchrl.
"""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torchrl = pytest.importorskip("torchrl.modules")

from tensordict import TensorDict

import rnn_gpu.torch
from conftest import RTOL
from rnn_gpu import DtypeError, ShapeError, UnsupportedError, rl
from rnn_gpu.bridges.torch import episodes as bridge

B, T, M, N, L = 4, 9, 3, 7, 2
STATES = {"LSTM": ["h", "c"], "GRU": ["h"]}


@pytest.fixture(params=STATES)
def kind(request):
    return request.param


def keys(kind):
    return {
        "in_keys": ["x", *STATES[kind]],
        "out_keys": ["y", *(("next", name) for name in STATES[kind])],
    }


def pair(kind, backend="pad", **options):
    """torchrl's module and ours, with the same numbers."""
    torch.manual_seed(0)
    theirs = getattr(torchrl, f"{kind}Module")(
        M, N, num_layers=L, recurrent_backend=backend, **keys(kind), **options
    ).double()
    mine = getattr(rl, f"{kind}Module")(M, N, num_layers=L, **keys(kind), **options).double()
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def drawn(kind, shape, often=0.25, states=True, seed=1):
    """A tensordict of random steps, whose floats want gradients."""
    torch.manual_seed(seed)
    names = STATES[kind] if states else []
    values = {name: torch.randn(*shape, L, N, dtype=torch.float64) for name in names}
    values["x"] = torch.randn(*shape, M, dtype=torch.float64)
    for a in values.values():
        a.requires_grad_()
    return TensorDict({**values, "is_init": torch.rand(*shape, 1) < often}, shape)


def passed(module, steps, recurrent):
    """What a module sets, and gradients of all that went in."""
    named = {name: a for name, a in steps.items() if a.requires_grad}
    named |= dict(module.named_parameters())
    steps = steps.copy()
    with torchrl.set_recurrent_mode(recurrent):
        out = module(steps)
    found = {str(key): out[key] for key in module.out_keys}
    torch.manual_seed(2)
    loss = sum((a * torch.randn(a.shape)).sum() for a in found.values())
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return found | {f"d{name}": g for name, g in zip(named, grads, strict=True)}


def same(found, expected):
    assert list(found) == list(expected)
    for name, b in expected.items():
        a = found[name]
        b = torch.zeros_like(a) if b is None else b
        assert a.shape == b.shape, name
        limit = RTOL["float64"] * max(1.0, float(b.detach().abs().max()))
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("often", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("states", [True, False], ids=["stored", "zero"])
def test_a_batch_over_time_gives_what_torchrls_module_gives(kind, often, states):
    theirs, mine = pair(kind)
    steps = drawn(kind, (B, T), often, states)
    same(passed(mine, steps, True), passed(theirs, steps, True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of its trial whether scan has a slope
def test_a_batch_over_time_gives_what_torchrls_other_way_gives():
    for kind in STATES:
        theirs, mine = pair(kind, "scan")
        steps = drawn(kind, (B, T))
        same(passed(mine, steps, True), passed(theirs, steps, True))


def test_a_loss_of_outputs_goes_through_time_once(kind, monkeypatch):
    """The slope of the states that leave costs nothing where nobody asks for it."""
    monkeypatch.setattr(bridge, "by_steps", None)
    _, mine = pair(kind)
    steps = drawn(kind, (B, T)).detach()
    with torchrl.set_recurrent_mode(True):
        out = mine(steps)
    out["y"].sum().backward()
    assert all(θ.grad.isfinite().all() for θ in mine.parameters())
    assert out["next", "h"].requires_grad and out["next", "h"].any()


def test_what_does_not_fit_is_refused(kind):
    _, mine = pair(kind)
    steps = drawn(kind, (B, T))
    for name, values, message in (
        ("x", torch.zeros(B, T, M + 1, dtype=torch.float64), "must be equal to input_size"),
        ("x", torch.zeros(B, T, M), "dtype"),
        ("h", torch.zeros(B, T, L + 1, N, dtype=torch.float64), "Expected hidden"),
        ("h", torch.zeros(B, T, L, N), "a state is torch.float32, but"),
    ):
        with (
            torchrl.set_recurrent_mode(True),
            pytest.raises((ShapeError, DtypeError), match=message),
        ):
            mine(steps.copy().set(name, values))
    with (
        pytest.raises(ShapeError, match=r"batch size \(\), expected"),
        torchrl.set_recurrent_mode(True),
    ):
        mine(steps[0, 0])


def test_a_state_that_leaves_has_no_slope_under_dropout(kind):
    _, mine = pair(kind, dropout=0.5)
    with torchrl.set_recurrent_mode(True):
        out = mine(drawn(kind, (B, T)))
    mine.eval()  # what was dropped was dropped
    out["y"].sum().backward(retain_graph=True)
    with pytest.raises(UnsupportedError, match="under dropout"):
        out["next", "h"].sum().backward()


@pytest.mark.parametrize("shape", [(T,), (2, 2, T)], ids=str)
def test_all_axes_but_the_last_are_samples(kind, shape):
    theirs, mine = pair(kind)
    steps = drawn(kind, shape)
    same(passed(mine, steps, True), passed(theirs, steps, True))


@pytest.mark.parametrize("shape", [(), (B,), (2, 3)], ids=str)
def test_one_step_gives_what_torchrls_module_gives(kind, shape):
    theirs, mine = pair(kind)
    steps = drawn(kind, shape)
    same(passed(mine, steps, False), passed(theirs, steps, False))


def test_steps_one_by_one_give_what_one_call_gives(kind):
    """The states that a step leaves are those that the next has stored."""
    _, mine = pair(kind)
    steps = drawn(kind, (B, T), states=False)
    names, found = STATES[kind], []
    before = {name: torch.zeros(B, L, N, dtype=torch.float64) for name in names}
    for t in range(T):
        step = steps[:, t].copy().update(before)
        begins = step["is_init"][..., None]
        step.update({name: torch.where(begins, 0.0, a) for name, a in before.items()})
        mine(step)
        found.append(step)
        before = {name: step["next", name] for name in names}
    together = torch.stack(found, 1)
    expected = together["y"]
    with torchrl.set_recurrent_mode(True):
        mine(together)
    np.testing.assert_allclose(
        together["y"].detach(), expected.detach(), rtol=0, atol=RTOL["float64"]
    )


def test_the_primer_has_the_states(kind):
    theirs, mine = pair(kind)
    names = [name.lower() for name in STATES[kind]]
    specs = [module.make_tensordict_primer().primers for module in (theirs, mine)]
    assert specs[0] == specs[1] and all(specs[1][name].shape == (L, N) for name in names)


@pytest.mark.parametrize("states", [1, 2])
def test_any_cell_goes(states):
    """With the keys of its states."""
    kind, name = {1: ("GRU", "elman_tanh"), 2: ("LSTM", "lstm")}[states]
    own = rnn_gpu.torch.Recurrent(name, M, N, num_layers=L, batch_first=True)
    module = getattr(rl, f"{kind}Module")(**{kind.lower(): own}, **keys(kind)).double()
    found = passed(module, drawn(kind, (B, T)), True)
    assert found["y"].shape == (B, T, N) and found["dx"].isfinite().all()


def test_others_are_refused():
    keys_of = keys("GRU")
    both = rnn_gpu.torch.GRU(M, N, batch_first=True, bidirectional=True)
    with pytest.raises(UnsupportedError, match="gru is bidirectional or has a projection"):
        rl.GRUModule(gru=both, **keys_of)
    with pytest.raises(UnsupportedError, match="build torchrl's own"):
        rl.GRUModule(M, N, **keys_of).make_python_based()
