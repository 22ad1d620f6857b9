"""rnn_gpu.torch against torch.nn: the same outputs, gradients and state_dict. Skipped without
torch.
"""

import copy
import io
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import rnn_gpu.torch as ours
from conftest import close
from door import refuses
from rnn_gpu import (
    UnsupportedError,
)
from torch_pairs import (
    KINDS,
    LENGTHS,
    OPTIONS,
    B,
    M,
    N,
    T,
    X,
    agree,
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
