"""rnn_gpu.torch against torch.nn: the same outputs, gradients and state_dict; then what torch has
not. Skipped without torch.
"""

import copy
import io
import itertools
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import rnn_gpu
import rnn_gpu.torch as ours
from conftest import STRICT, close
from door import refuses, table
from own_cells import LEAKY
from rnn_gpu import (
    ArgumentError,
    DeviceError,
    DtypeError,
    OrderError,
    ShapeError,
    UnsupportedError,
)
from rnn_gpu.bridges.torch import calls as ways
from rnn_gpu.bridges.torch import passes, stack, tensors
from rnn_gpu.bridges.torch.base import KindError, SizeError
from torch_pairs import agree, draw, leaves, passed

T, B, M, N = 5, 3, 4, 7
LENGTHS = torch.tensor([3, 1, 5])  # whose order and its inverse differ
KINDS = ("RNN", "LSTM", "GRU")
OPTIONS = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True},
    "bare": {"bias": False, "bidirectional": True},
    "rows": {"batch_first": True, "num_layers": 3},
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def options(request):
    return request.param


def pair(kind, dtype=torch.float64, **options):
    """torch's module and ours, with the same numbers."""
    torch.manual_seed(3)
    theirs = getattr(torch.nn, kind)(M, N, dtype=dtype, **options)
    mine = getattr(ours, kind)(M, N, dtype=dtype, **options)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def state(module, *batch, scale=1.0):
    shape = (module.num_layers * (2 if module.bidirectional else 1), *batch, N)
    h = scale * draw(*shape)
    return (h, 0.5 * h.flip(0)) if "LSTM" in type(module).__name__ else h


def batch(options, *axes):
    return draw(*axes[::-1], M) if options.get("batch_first") else draw(*axes, M)


@st.composite
def calls(choose):
    """Both modules, an input of one of three kinds, and a state or None."""
    maybe = choose(st.lists(st.booleans(), min_size=4, max_size=4))
    kind = choose(st.sampled_from(KINDS))
    options = dict(zip(("bias", "batch_first", "bidirectional"), maybe, strict=False)) | {
        "num_layers": choose(st.integers(1, 3))
    }
    if kind == "RNN":
        options["nonlinearity"] = choose(st.sampled_from(("tanh", "relu")))
    theirs, mine = pair(kind, **options)
    lengths = choose(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    axes = (len(lengths), max(lengths)) if maybe[1] else (max(lengths), len(lengths))
    x = draw(*axes, M)
    of = choose(st.sampled_from(("batch", "sequence", "packed")))
    batch = (len(lengths),)
    if of == "sequence":
        x, batch = x.select(1 - maybe[1], 0), ()
    elif of == "packed":
        x = torch.nn.utils.rnn.pack_padded_sequence(
            x, lengths, maybe[1], enforce_sorted=sorted(lengths, reverse=True) == lengths
        )
    return theirs, mine, x, state(theirs, *batch) if maybe[3] else None


@settings(max_examples=60)
@given(calls())
def test_outputs_and_gradients_are_torchs(call):
    agree(*call)


def on(device, monkeypatch):
    """Have our modules compute there, with tensors of the host."""
    if device == "cuda" and STRICT:
        pytest.skip("strict arrays take no tensors of the host: see test_strict_torch.py")
    for home in (ways, tensors):
        monkeypatch.setattr(home, "device_of", lambda tensor: device)
    if device != "cpu":
        monkeypatch.setattr(stack, "whole", lambda *given: None)


def test_every_device_gives_torchs_gradients(kind, device, monkeypatch):
    """The kernels of each device behind the same module; CUDA's in the simulator, where its arrays
    are NumPy's.
    """
    on(device, monkeypatch)
    theirs, mine = pair(kind, num_layers=2, bidirectional=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(draw(T, B, M), LENGTHS, enforce_sorted=False)
    agree(theirs, mine, packed, state(theirs, B))


def test_float32_too(kind):
    theirs, mine = pair(kind, dtype=torch.float32, num_layers=2)
    agree(theirs, mine, draw(T, B, M, dtype=torch.float32), dtype="float32")


@pytest.mark.parametrize("ordered", [True, False])
def test_packed_sequences_go_in_and_come_out(kind, ordered):
    theirs, mine = pair(kind, num_layers=2, bidirectional=True)
    lengths = LENGTHS.sort(descending=True).values if ordered else LENGTHS
    packed = torch.nn.utils.rnn.pack_padded_sequence(draw(T, B, M), lengths, enforce_sorted=ordered)
    expected, got = theirs(packed)[0], mine(packed)[0]
    for one, other in zip(got[1:], expected[1:], strict=True):
        assert (one is None and other is None) or (one == other).all()


def test_dropout_of_nothing_is_nothing_and_evaluation_drops_nothing(kind):
    theirs, mine = pair(kind, num_layers=2, dropout=0.5)
    agree(theirs.eval(), mine.eval(), draw(T, B, M))


def test_dropout_falls_on_what_torchs_does_after_the_same_seed(kind):
    theirs, mine = pair(kind, num_layers=3, dropout=0.4)
    agree(theirs, mine, draw(T, B, M), seed=5)
    packed = torch.nn.utils.rnn.pack_padded_sequence(draw(T, B, M), LENGTHS, enforce_sorted=False)
    agree(theirs, mine, packed, seed=5)


def test_dropout_of_everything_leaves_the_second_layer_its_biases():
    mine = ours.RNN(M, N, 2, dropout=1.0)
    a, _ = mine(draw(T, B, M, dtype=torch.float32))
    b, _ = mine(draw(T, B, M, dtype=torch.float32) + 1)
    assert (a == b).all() and (a[0] != 0).all()


def test_torchs_numbers_after_the_same_seed_and_its_state_dict_both_ways(kind, options):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(M, N, **options)
    torch.manual_seed(0)
    mine = getattr(ours, kind)(M, N, **options)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert all((a == b).all() for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    other = getattr(torch.nn, kind)(M, N, **options)
    other.load_state_dict(mine.state_dict())
    assert all((a == b).all() for a, b in zip(other.parameters(), theirs.parameters(), strict=True))
    assert [len(weights) for weights in mine.all_weights] == [
        len(weights) for weights in theirs.all_weights
    ]


def test_gradcheck_of_torch(kind):
    _, mine = pair(kind, num_layers=2, bidirectional=True)
    hx = state(mine, 2)
    inputs = [leaf.requires_grad_() for leaf in (draw(4, 2, M), *leaves((hx,)))]

    def run(x, *hx):
        return tuple(leaves(mine(x, hx if len(hx) > 1 else hx[0])))

    assert torch.autograd.gradcheck(run, inputs)
    parameters = list(mine.named_parameters())

    def of_parameters(*values):
        named = dict(zip((name for name, _ in parameters), values, strict=True))
        return torch.func.functional_call(mine, named, (inputs[0].detach(),))[0]

    assert torch.autograd.gradcheck(
        of_parameters, [p.detach().requires_grad_() for _, p in parameters], fast_mode=True
    )


# Among torch's other things


def test_it_learns_in_a_sequential():
    class Last(torch.nn.Module):
        def forward(self, result):
            return result[0][-1]

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(2, M), ours.GRU(M, N), Last(), torch.nn.Linear(N, 1)
    )
    x = draw(T, 16, 2, dtype=torch.float32)
    adam, losses = torch.optim.Adam(model.parameters(), 0.05), []
    for _ in range(40):
        adam.zero_grad()
        loss = ((model(x)[:, 0] - x.sum((0, 2))) ** 2).mean()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["deepcopy", "pickle"],
)
def test_copies_compute_the_same(again):
    for module in (
        ours.LSTM(M, N, 2),
        ours.RNN(M, N, nonlinearity="softsign"),
        ours.Recurrent("gru", M, N),
        own_activation(),
    ):
        x = draw(T, B, M, dtype=torch.float32)
        y, _ = module(x, tape=True)
        other = again(module)
        assert other._left == [] and (other(x)[0] == y).all()
        assert str(other) == str(module)


def test_a_whole_module_is_saved_and_loaded():
    module, file, x = ours.GRU(M, N), io.BytesIO(), draw(T, B, M, dtype=torch.float32)
    torch.save(module, file)
    file.seek(0)
    assert (torch.load(file, weights_only=False)(x)[0] == module(x)[0]).all()


def test_to_changes_the_dtype(kind):
    theirs, mine = pair(kind, dtype=torch.float32)
    agree(theirs.to(torch.float64), mine.to(torch.float64), draw(T, B, M))


def test_writing_into_an_output_leaves_the_gradient_and_into_an_input_is_an_error(kind):
    _, mine = pair(kind)
    x = draw(T, B, M)
    expected = passed(mine, x)[-1]
    y, last = mine(x)
    loss = sum((leaf * draw(*leaf.shape)).sum() for leaf in leaves((y, last)))
    with torch.no_grad():
        for leaf in leaves((y, last)):
            leaf.zero_()
    close(
        torch.autograd.grad(loss, list(mine.parameters()), retain_graph=True)[-1].numpy(), expected
    )
    with torch.no_grad():
        mine.weight_hh_l0 += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_graph_goes_backward_twice(kind):
    _, mine = pair(kind)
    loss = mine(draw(T, B, M))[0].sum()
    first, second = (
        torch.autograd.grad(loss, list(mine.parameters()), retain_graph=True) for _ in range(2)
    )
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_a_double_backward_is_refused():
    mine, x = ours.LSTM(M, N), draw(T, B, M, dtype=torch.float32).requires_grad_()
    (dx,) = torch.autograd.grad(mine(x)[0].sum(), x, create_graph=True)
    refuses(UnsupportedError, "^double backward", lambda: dx.sum().backward())


# What torch has not


def f(z):
    return np.arctan(z)


def df(y):
    return np.cos(y) ** 2


def own_activation():
    return ours.RNN(M, N, nonlinearity=(f, df))


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


# Errors

X = draw(T, B, M, dtype=torch.float32)
H = torch.zeros(1, B, N)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    table(
        (
            "projection",
            lambda: ours.GRU(M, N, proj_size=2),
            ArgumentError,
            "proj_size argument is only supported for LSTM",
        ),
        ("size", lambda: ours.GRU(M, 0), ValueError, "hidden_size must be greater than zero"),
        ("layers", lambda: ours.GRU(M, N, 0), ValueError, "num_layers must be greater than zero"),
        (
            "dropout",
            lambda: ours.GRU(M, N, 2, dropout=1.5),
            ValueError,
            "dropout should be a number in range",
        ),
        (
            "activation",
            lambda: ours.RNN(M, N, nonlinearity="tanhh"),
            ArgumentError,
            "activation is 'tanhh', expected one of",
        ),
        (
            "cell",
            lambda: ours.Recurrent("lstmm", M, N),
            ArgumentError,
            "cell is 'lstmm', expected one of",
        ),
        (
            "rank",
            lambda: ours.GRU(M, N)(X[0, 0]),
            ShapeError,
            "GRU: Expected input to be 2D or 3D, got 1D instead",
        ),
        (
            "features",
            lambda: ours.GRU(M, N, batch_first=True)(X[..., 1:]),
            SizeError,
            r"input.size\(-1\) must be equal to input_size. Expected 4, got 3",
        ),
        (
            "no steps",
            lambda: ours.GRU(M, N)(X[:0]),
            SizeError,
            "Expected sequence length to be larger than 0 in RNN",
        ),
        (
            "dtype",
            lambda: ours.GRU(M, N)(X.double()),
            DtypeError,
            r"RNN input dtype \(torch.float64\) does not match weight dtype \(torch.float32\)",
        ),
        (
            "state's dtype",
            lambda: ours.GRU(M, N)(X, H.double()),
            DtypeError,
            "hx is torch.float64, but the parameters are",
        ),
        (
            "state's shape",
            lambda: ours.GRU(M, N, 2)(X, H),
            SizeError,
            r"Expected hidden size \(2, 3, 7\), got \[1, 3, 7\]",
        ),
        (
            "one state",
            lambda: ours.LSTM(M, N)(X, H),
            ShapeError,
            "hx is a Tensor, expected a tuple of 2 tensors",
        ),
        (
            "three states",
            lambda: ours.LSTM(M, N)(X, (H, H, H)),
            ShapeError,
            "hx is a tuple of 3, expected a tuple of 2 tensors",
        ),
        ("no state", lambda: ours.GRU(M, N)(X, 0), ShapeError, "hx is 0, expected a tensor"),
        (
            "bias",
            lambda: ours.LSTM(M, N, bias="False"),
            KindError,
            "bias should be of type bool, got: str",
        ),
        (
            "bias by place",
            lambda: ours.LSTM(M, N, 1, 0),
            KindError,
            "bias should be of type bool, got: int",
        ),
        (
            "batch_first",
            lambda: ours.GRU(M, N, batch_first="no"),
            KindError,
            "batch_first should be of type bool, got: str",
        ),
        (
            "bidirectional",
            lambda: ours.RNN(M, N, bidirectional=2),
            ArgumentError,
            "bidirectional is 2, expected True or False",
        ),
        (
            "tape",
            lambda: ours.RNN(M, N)(X, tape="no"),
            ArgumentError,
            "tape is 'no', expected True or False",
        ),
        (
            "device",
            lambda: ours.GRU(M, N)(X.to("meta")),
            DeviceError,
            "input is on meta, but the parameters are on cpu",
        ),
        (
            "value",
            lambda: ours.GRU(M, N, clip_step_value=0),
            ArgumentError,
            "clip_step_value is 0, expected a number above 0",
        ),
        (
            "norm",
            lambda: ours.RNN(M, N, clip_step_norm="1"),
            ArgumentError,
            "clip_step_norm is '1', expected a number above 0",
        ),
    ),
)
def test_what_cannot_be_is_refused(call, error, message):
    refuses(error, f"^{message}", call)


LIVE = X[..., 0] > 0


@pytest.mark.parametrize("name", ["mask", "resets"])
@pytest.mark.parametrize(
    ("rows", "x", "values", "error", "message"),
    table(
        ("floats", False, X, X[..., 0], DtypeError, "is float32, expected booleans"),
        ("axes", False, X, LIVE.T, ShapeError, r"has shape \(3, 5\), expected \(5, 3\), \(T, B\)"),
        (
            "rows first",
            True,
            X,
            LIVE.T,
            ShapeError,
            r"has shape \(3, 5\), expected \(5, 3\), \(B, T\)",
        ),
        (
            "no batch",
            False,
            X[:, 0],
            LIVE,
            ShapeError,
            r"has shape \(5, 3\), expected \(5,\), \(T\)",
        ),
        (
            "packed",
            False,
            torch.nn.utils.rnn.pack_sequence([X[:, 0]]),
            LIVE,
            ArgumentError,
            "is given with a PackedSequence",
        ),
    ),
)
def test_masks_and_resets_are_refused(name, rows, x, values, error, message):
    refuses(
        error, f"^{name} {message}", lambda: ours.GRU(M, N, batch_first=rows)(x, **{name: values})
    )


CHECKOUT = Path(__file__).parents[1]


@pytest.mark.skipif(
    not (CHECKOUT / "README.md").exists(), reason="the tests run outside a checkout"
)
def test_the_readmes_example_with_torch_runs():
    blocks = re.findall(
        r"^```py\n(.*?)^```", (CHECKOUT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )
    (block,) = (block for block in blocks if "import rnn_gpu.torch" in block)
    names = {}
    exec(block, names)
    assert names["y"].shape == (7, 2, 10) and names["lstm"].weight_hh_l1_reverse.grad.shape == (
        20,
        5,
    )


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("ways", [1, 2])
def test_an_empty_batch_is_computed_as_torch_does(batch_first, ways):
    options = {"batch_first": batch_first, "bidirectional": ways == 2}
    theirs, mine = torch.nn.LSTM(M, N, 2, **options), ours.LSTM(M, N, 2, **options)
    x = X[:, :0].transpose(0, 1) if batch_first else X[:, :0]
    for module in (theirs, mine):
        y, (h, c) = module(x)
        (y.sum() + c.sum()).backward()
        assert y.shape == (*x.shape[:2], ways * N) and h.shape == c.shape == (2 * ways, 0, N)
        assert all((θ.grad == 0).all() for θ in module.parameters())
