"""What modules of rnn_gpu.torch have and torch's have not: own activations and cells, masks,
resets, precision, bounds of δ, tapes. Skipped without torch.
"""

import copy
import itertools
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import rnn_gpu
import rnn_gpu.torch as ours
from conftest import close
from door import refuses
from own_cells import LEAKY
from rnn_gpu import (
    ArgumentError,
    OrderError,
)
from rnn_gpu.bridges.torch import passes, tensors
from torch_pairs import (
    KINDS,
    OPTIONS,
    B,
    M,
    N,
    T,
    X,
    batch,
    draw,
    leaves,
    on,
    own_activation,
    pair,
    passed,
    state,
)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def options(request):
    return request.param


def test_an_activation_of_ones_own():
    torch.manual_seed(0)
    mine = own_activation().double()
    x, h = draw(T, B, M), torch.zeros(B, N, dtype=torch.float64)
    U, W, b, c = mine.all_weights[0]
    y, _ = mine(x)
    for t in range(T):
        h = torch.atan(x[t] @ U.T + h @ W.T + b + c)
        close(y[t].detach().numpy(), h.detach().numpy())
    assert torch.autograd.gradcheck(lambda x: mine(x)[0], [x.requires_grad_()])


def test_a_cell_of_ones_own():
    mine = ours.Recurrent(
        LEAKY,
        M,
        N,
        2,
        dtype=torch.float64,
    )
    assert torch.autograd.gradcheck(lambda x: mine(x)[0], [draw(4, 2, M).requires_grad_()])


def test_a_masked_step_is_no_step(kind):
    for rows in (False, True):
        theirs, mine = pair(kind, batch_first=rows)
        x, live = draw(T, 1, M), torch.tensor([True, False, True, True, False])
        turn = (lambda a: a.transpose(0, 1)) if rows else (lambda a: a)
        expected, last = theirs(turn(x[live]))
        y, h = mine(turn(x), mask=turn(live[:, None]))
        close(turn(y)[live].detach().numpy(), turn(expected).detach().numpy())
        assert (turn(y)[~live] == 0).all()
        for a, b in zip(leaves((h,)), leaves((last,)), strict=True):
            close(a.detach().numpy(), b.detach().numpy())
    y, _ = mine(x[:, 0], mask=live)
    assert (y[~live] == 0).all() and (y[live] != 0).all()


class InTwo(torch.nn.Module):
    """A module on the steps before `at`, and anew on the others; and the state that each direction
    ends with.
    """

    def __init__(self, module, at):
        super().__init__()
        self.module, self.at = module, at

    def forward(self, x, hx=None):
        axis, directions = int(self.module.batch_first), 2 if self.module.bidirectional else 1
        outputs, states = zip(
            *(self.module(part, hx) for part in x.tensor_split([self.at], axis)), strict=True
        )
        before, after = (torch.stack(leaves((last,))) for last in states)
        last = tuple(
            torch.where(
                (torch.arange(len(after[0])) % directions == 1)[:, None, None], before, after
            )
        )
        return torch.cat(outputs, axis), last if len(last) > 1 else last[0]


def test_a_reset_begins_another_sequence(kind, options):
    theirs, mine = pair(kind, **options)
    x, resets = batch(options, T, B), torch.arange(T)[:, None].expand(T, B) == 2
    resets = resets.T if mine.batch_first else resets
    for hx in (None, state(theirs, B)):
        for a, b in zip(
            passed(mine, x, hx, resets=resets), passed(InTwo(theirs, 2), x, hx), strict=True
        ):
            close(a, b)
    y, _ = mine(x[:, 0] if not mine.batch_first else x[0], resets=np.arange(T) == 2)
    close(
        y.detach().numpy(),
        mine(x, resets=resets)[0].detach().select(1 - mine.batch_first, 0).numpy(),
    )


def pattern():
    rng = np.random.default_rng(4)
    return {"mask": rng.random((T, B)) < 0.7, "resets": rng.random((T, B)) < 0.4}


def as_network(module, device):
    """The same layers of ours as a Network."""
    options = {
        "num_layers": module.num_layers,
        "bidirectional": module.bidirectional,
        "device": device,
        "dtype": "float64",
    }
    layers = rnn_gpu.stack(getattr(rnn_gpu, type(module).__name__), M, N, **options)
    network = rnn_gpu.Network(layers)
    network.load_torch(
        {
            f"{re.search('_l([0-9])', name)[1]}.{re.sub('_l[0-9]', '_l0', name)}": θ
            for name, θ in numbers(module).items()
        }
    )
    return network


def numbers(module):
    return {name: θ.detach().numpy() for name, θ in module.named_parameters()}


@pytest.mark.parametrize(
    "clips", [{}, {"clip_step_value": 0.2, "clip_step_norm": 0.3}], ids=["free", "clipped"]
)
def test_masks_resets_and_clipping_are_those_of_our_own_layers(kind, clips, device, monkeypatch):
    on(device, monkeypatch)
    mine = getattr(ours, kind)(M, N, 2, bidirectional=True, dtype=torch.float64, **clips)
    network, x, hx = as_network(mine, device), draw(T, B, M), state(mine, B)
    dy = draw(T, B, 2 * N)
    by_layer = [
        tuple(a.numpy() for a in one) if kind == "LSTM" else one.numpy() for one in each_layer(hx)
    ]
    y, last = network(x.numpy(), by_layer, **pattern())
    dx, _ = network.backward(dy.numpy(), **clips)
    x.requires_grad_()
    got, h = mine(x, hx, **pattern())
    assert mine.clipped_steps == 0
    for _ in range(2):  # the count is that of one way back
        x.grad = None
        mine.zero_grad()
        (got * dy).sum().backward(retain_graph=True)
        assert mine.clipped_steps == network.clipped_steps and (mine.clipped_steps > 0) is bool(
            clips
        )
    close(got.detach().numpy(), y)
    close(x.grad.numpy(), dx)
    for one, theirs in zip(each_layer(h), last, strict=True):
        for a, b in zip(leaves((one,)), theirs if kind == "LSTM" else [theirs], strict=True):
            close(a.detach().numpy(), b)
    for name, suffix in (("U", "weight_ih"), ("W", "weight_hh"), ("b", "bias_ih")):
        for k, tail in itertools.product(range(2), ("", "_reverse")):
            grad = network.backend.numpy(network.grads[f"{k}.{name}{tail}"])
            close(getattr(mine, f"{suffix}_l{k}{tail}").grad.numpy(), grad)


def each_layer(hx):
    return list(zip(*hx, strict=True)) if isinstance(hx, tuple) else list(hx)


def test_gradcheck_of_torch_with_masks_and_resets(kind):
    _, mine = pair(kind, num_layers=2, bidirectional=True)
    inputs = [leaf.requires_grad_() for leaf in (draw(T, B, M), *leaves((state(mine, B),)))]

    def run(x, *hx):
        return tuple(leaves(mine(x, hx if len(hx) > 1 else hx[0], **pattern())))

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.fixture
def settings_of_torch():
    """Torch's settings of precision as they were, after the test."""
    cudnn = torch.backends.cudnn
    homes = [cudnn.rnn, cudnn, torch.backends] if hasattr(cudnn, "rnn") else []
    before = cudnn.allow_tf32, [home.fp32_precision for home in homes]
    yield cudnn
    cudnn.allow_tf32 = before[0]
    for home, value in zip(homes, before[1], strict=True):
        home.fp32_precision = value


def test_products_are_as_precise_as_torch_says(monkeypatch, settings_of_torch):
    """In float32 on a GPU, here played by the simulator."""
    asked = []

    def layer_like(cell, m, n, dtype, device, precision, reverse):
        asked.append((dtype, precision))
        return made(cell, m, n, dtype, device, precision, reverse)

    made = passes.layer_like
    monkeypatch.setattr(passes, "layer_like", layer_like)
    on("cuda", monkeypatch)
    for allowed, expected in ((True, "tf32"), (False, "fp32")):
        settings_of_torch.allow_tf32 = allowed
        ours.LSTM(M, N)(X)
        ours.LSTM(M, N).double()(X.double())
        ours.LSTM(M, N, precision="fp32")(X)
        ours.LSTM(M, N, precision="tf32")(X)
        assert asked == [
            ("float32", expected),
            ("float64", "fp32"),
            ("float32", "fp32"),
            ("float32", "tf32"),
        ]
        asked.clear()


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "rnn"), reason="torch before 2.9")
def test_torchs_settings_of_precision_inherit(settings_of_torch):
    cudnn = settings_of_torch
    cudnn.rnn.fp32_precision, cudnn.fp32_precision = "none", "none"
    torch.backends.fp32_precision = "tf32"
    assert tensors.precision_of_torch() == "tf32"
    cudnn.fp32_precision = "ieee"
    assert tensors.precision_of_torch() == "fp32"
    cudnn.rnn.fp32_precision = "tf32"
    assert tensors.precision_of_torch() == "tf32"


def test_a_module_is_as_precise_as_it_was_asked_to_be():
    half = lambda: ours.GRU(M, N, precision="half")  # noqa: E731
    refuses(ArgumentError, "^precision is 'half', expected one of", half)
    on_the_cpu = ours.GRU(M, N, precision="tf32")
    refuses(ArgumentError, "^precision is 'tf32', but device is 'cpu'", lambda: on_the_cpu(X))
    assert str(ours.GRU(M, N, precision="tf32")) == "GRU(4, 7, precision=tf32)"


def test_bounds_of_delta_hold_on_the_tape_may_change_and_are_copied():
    mine = ours.GRU(M, N, clip_step_norm=0.05)
    assert str(copy.deepcopy(mine)) == "GRU(4, 7, clip_step_norm=0.05)"
    for norm in (0.05, 0.01, None):
        mine.clip_step_norm = norm
        y, _ = mine(draw(T, B, M, dtype=torch.float32), tape=True)
        y.sum().backward()
        largest = np.linalg.norm(mine.tapes[0].delta, axis=(2, 3)).max()
        assert largest > 0.05 if norm is None else largest == pytest.approx(norm, rel=1e-5)
    mine.clip_step_norm = -1
    refuses(ArgumentError, "^clip_step_norm is -1, expected a number above 0", lambda: mine(X))


def test_the_tape_has_delta_by_layer_and_direction(kind):
    _, mine = pair(kind, num_layers=2, bidirectional=True)
    x = draw(T, B, M).requires_grad_()
    y, _ = mine(x, tape=True)
    refuses(OrderError, "^tapes are known after backward", lambda: mine.tapes)
    y.square().sum().backward()
    δ = [tape.delta for tape in mine.tapes]
    assert [a.shape for a in δ] == [(T, B, mine.cell.gates, N)] * 4
    for k, suffix in enumerate(("_l0", "_l0_reverse", "_l1", "_l1_reverse")):
        close(δ[k].sum((0, 1)).reshape(-1), getattr(mine, f"bias_ih{suffix}").grad.numpy())
    mine(x)
    assert mine.tapes == []
