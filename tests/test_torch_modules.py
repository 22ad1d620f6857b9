"""Whatever torch.nn's recurrent modules take: torch's own samples and errors, dtypes, autocast,
empty batches, attributes. Skipped without torch.
"""

import copy
import re
from itertools import chain, product

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence

import rnn_gpu.torch as ours
from conftest import close
from door import refuses, table
from rnn_gpu import DtypeError, RnnGpuError
from rnn_gpu.bridges.torch.base import OF_GATES, SizeError
from torch_pairs import agree, draw, leaves
from torchs_samples import NAMES, samples

T, B, M, N = 5, 3, 4, 7
KINDS = ("RNN", "LSTM", "GRU")
HALVES = (torch.float16, torch.bfloat16)
FULL = (torch.float32, torch.float64)
# a rounding to so many bits, relative to the largest number of an array, twice over
RTOL = {torch.float16: 2**-10, torch.bfloat16: 2**-7}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def named(dtype):
    return str(dtype).removeprefix("torch.")


# torch's own samples


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    "training", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["train", "eval"]
)
@pytest.mark.parametrize("dtype", FULL, ids=named)
@pytest.mark.parametrize("name", NAMES)
def test_torchs_own_samples_give_what_torch_gives(name, dtype, training):
    tried = 0
    for sample in samples(name, dtype, training):
        settings, call = sample.constructor_input, sample.forward_input
        theirs = getattr(torch.nn, name)(*settings.args, dtype=dtype, **settings.kwargs)
        mine = getattr(ours, name)(*settings.args, dtype=dtype, **settings.kwargs)
        mine.load_state_dict(theirs.state_dict())
        agree(
            theirs.train(training),
            mine.train(training),
            *call.args,
            dtype=named(dtype),
            **call.kwargs,
        )
        tried += 1
    assert tried >= (2 if "Cell" in name else 32)


@pytest.mark.parametrize("name", NAMES)
def test_what_torch_refuses_is_refused_in_torchs_words(name):
    tried = 0
    for sample in samples(name, torch.float32, errors=True):
        settings = sample.module_error_input.constructor_input
        call = sample.module_error_input.forward_input

        def build_and_call(settings=settings, call=call):
            getattr(ours, name)(*settings.args, **settings.kwargs)(*call.args, **call.kwargs)

        with pytest.raises(sample.error_type, match=sample.error_regex):
            build_and_call()
        tried += 1
    assert tried >= (4 if "Cell" in name else 14)


# Attributes


def pair(name, *sizes, seed=3, **options):
    """torch's module and ours, with the same numbers."""
    torch.manual_seed(seed)
    theirs = getattr(torch.nn, name)(*(sizes or (M, N)), **options)
    mine = getattr(ours, name)(*(sizes or (M, N)), **options)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def states_of(module, *batch, dtype=torch.float32):
    """A state for a module, not zero."""
    if isinstance(module, torch.nn.RNNCellBase):
        sizes, layers = (module.hidden_size,) * 2, ()
    else:
        sizes = (module.proj_size or module.hidden_size, module.hidden_size)
        layers = (module.num_layers * (2 if module.bidirectional else 1),)
    h, c = (draw(*layers, *batch, size, dtype=torch.float64).to(dtype) for size in sizes)
    return (h, 0.5 * c) if "LSTM" in type(module).__name__ else h


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_what_libraries_read_of_torchs_modules_is_there(kind, nonlinearity):
    options = {"num_layers": 2, "bidirectional": True, "bias": False, "batch_first": True}
    options |= {"nonlinearity": nonlinearity} if kind == "RNN" else {}
    options |= {"proj_size": 3} if kind == "LSTM" else {}
    theirs, mine = pair(kind, **options)
    assert isinstance(mine, torch.nn.RNNBase) and str(mine) == str(theirs)
    for name in torch.nn.RNNBase.__constants__:
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine._flat_weights_names == theirs._flat_weights_names
    for of in (lambda module: module._flat_weights, lambda module: chain(*module.all_weights)):
        assert [a.shape for a in of(mine)] == [a.shape for a in of(theirs)]
        assert all(a is b for a, b in zip(of(mine), mine.parameters(), strict=True))
    x, permutation = torch.zeros(B, T, M), torch.tensor([2, 0, 1])
    hx = states_of(mine, B)
    assert mine.get_expected_hidden_size(x, None) == theirs.get_expected_hidden_size(x, None)
    assert mine.check_forward_args(x, hx, None) is None
    permuted = [leaves(one.permute_hidden(hx, permutation)) for one in (mine, theirs)]
    assert all(torch.equal(a, b) for a, b in zip(*permuted, strict=True))
    assert mine.flatten_parameters() is None


def test_a_new_parameter_is_a_flat_weight_too():
    _, mine = pair("GRU")
    mine.weight_hh_l0 = torch.nn.Parameter(torch.zeros(3 * N, N))
    assert mine._flat_weights[1] is mine.weight_hh_l0
    assert copy.deepcopy(mine.double())._flat_weights[1].dtype == torch.float64


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_are_torchs_in_numbers_seeds_and_state_dict(name, bias):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(M, N, bias, dtype=torch.float64)
    torch.manual_seed(0)
    mine = getattr(ours, name)(M, N, bias, dtype=torch.float64)
    assert isinstance(mine, torch.nn.RNNCellBase) and str(mine) == str(theirs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    for batch in ((), (B,), (0,)):
        x = draw(*batch, M)
        agree(theirs, mine, x)
        agree(theirs, mine, x, states_of(theirs, *batch, dtype=torch.float64))


def test_a_cell_has_any_activation():
    mine = ours.RNNCell(M, N, nonlinearity="softsign", dtype=torch.float64)
    x, h = draw(B, M), draw(B, N)
    z = x @ mine.weight_ih.T + mine.bias_ih + h @ mine.weight_hh.T + mine.bias_hh
    close(mine(x, h).detach().numpy(), torch.nn.functional.softsign(z).detach().numpy())


def test_a_cell_called_step_by_step_is_the_layer():
    layer, cell = ours.LSTM(M, N, dtype=torch.float64), ours.LSTMCell(M, N, dtype=torch.float64)
    cell.load_state_dict({name[:-3]: a for name, a in layer.state_dict().items()})
    x, state = draw(T, B, M), None
    y, (_, c) = layer(x)
    for t in range(T):
        state = cell(x[t], state)
        close(state[0].detach().numpy(), y[t].detach().numpy())
    close(state[1].detach().numpy(), c[0].detach().numpy())


# Few bits


def rounded(module, dtype):
    """A copy whose numbers are those of dtype, in float32."""
    return copy.deepcopy(module).to(dtype).float()


@pytest.mark.parametrize("dtype", HALVES, ids=named)
@pytest.mark.parametrize("name", NAMES)
def test_few_bits_are_computed_in_float32_and_returned_in_their_dtype(name, dtype):
    theirs, mine = pair(name)
    theirs, mine = rounded(theirs, dtype), mine.to(dtype)
    steps = () if "Cell" in name else (T,)
    x, hx = draw(*steps, B, M).to(dtype), states_of(mine, B, dtype=dtype)
    wide = tuple(leaf.float() for leaf in leaves((hx,)))
    out = mine(x.requires_grad_(), hx)
    sum(leaf.float().square().sum() for leaf in leaves(out)).backward()
    x32 = x.detach().float().requires_grad_()
    expected = theirs(x32, wide if len(wide) > 1 else wide[0])
    sum(leaf.to(dtype).float().square().sum() for leaf in leaves(expected)).backward()
    found = [*leaves(out), x.grad, *(θ.grad for θ in mine.parameters())]
    right = [*leaves(expected), x32.grad, *(θ.grad for θ in theirs.parameters())]
    for a, b in zip(found, right, strict=True):
        assert a.dtype == dtype
        assert (a.float() - b).abs().max() <= RTOL[dtype] * b.abs().max()


AUTOCAST = (torch.bfloat16, torch.float16)
OF_STATES = (None, torch.float32, torch.bfloat16)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("form", ["padded", "packed", "projected", "rows", "Cell"])
def test_autocast_returns_the_dtypes_that_torch_returns(kind, form):
    if form == "projected" and kind != "LSTM":
        pytest.skip("torch projects LSTMs alone")
    name = kind + ("Cell" if form == "Cell" else "")
    theirs, mine = pair(name, **({"proj_size": 2} if form == "projected" else {}))
    compared = 0
    for low, of_x, of_hx in product(AUTOCAST, (torch.float32, *HALVES), OF_STATES):
        x = draw(*(() if form == "Cell" else (T,)), B, M, dtype=torch.float32).to(of_x)
        x = pack_padded_sequence(x, [5, 3, 1]) if form == "packed" else x
        hx = None if of_hx is None else states_of(mine, B, dtype=of_hx)
        with torch.autocast("cpu", dtype=low):
            try:
                expected = leaves(theirs(x, hx))
            except RuntimeError:  # oneDNN has no LSTM of float16 on every processor
                assert low == torch.float16 and of_x != low
                continue
            got = leaves(mine(x, hx))
        assert [a.dtype for a in got] == [a.dtype for a in expected], (low, of_x, of_hx)
        compared += 1
        for a, b in zip(got, expected, strict=True):
            assert (a.float() - b.float()).abs().max() <= 4 * RTOL[low]
    assert compared >= 12


def test_autocast_is_seen_where_a_call_is_compiled():
    _, mine = pair("LSTM", proj_size=3)
    for module in (mine, ours.LSTM(M, N), ours.GRU(M, N)):
        torch.compiler.reset()
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got, expected = leaves(compiled(X)), leaves(module(X))
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_a_program_may_turn_onednn_off():
    theirs, mine = pair("LSTM")
    with torch.backends.mkldnn.flags(enabled=False), torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = leaves(mine(X)), leaves(theirs(X))
    assert [a.dtype for a in got] == [a.dtype for a in expected] == [torch.float32] * 3


def test_autocast_gives_float32_parameters_float32_gradients(kind):
    _, mine = pair(kind, num_layers=2)
    linear, x = torch.nn.Linear(M, M), draw(T, B, M, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = mine(linear(x))
    y.sum().backward()
    for θ in (linear.weight, *mine.parameters()):
        assert θ.grad.dtype == torch.float32 and (θ.grad != 0).any()


def test_autocast_leaves_float64_as_it_is(kind):
    theirs, mine = pair(kind, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        agree(theirs, mine, draw(T, B, M))


# Projections


DEEP = {"num_layers": 2, "bidirectional": True, "proj_size": 3, "dtype": torch.float64}
LENGTHS = torch.tensor([3, 1, 5])
unsorted = {"enforce_sorted": False}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["padded", "packed", "sequence"])
@pytest.mark.parametrize("started", [True, False])
def test_a_projected_lstm_is_torchs(form, started, bias):
    theirs, mine = pair("LSTM", bias=bias, **DEEP)
    x = draw(T, *(() if form == "sequence" else (B,)), M)
    x = pack_padded_sequence(x, LENGTHS, **unsorted) if form == "packed" else x
    batch = () if form == "sequence" else (B,)
    state = (states_of(mine, *batch, dtype=torch.float64),) if started else ()
    agree(theirs, mine, x, *state)


def test_a_projected_lstm_has_torchs_numbers_after_the_same_seed():
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(M, N, **DEEP)
    torch.manual_seed(0)
    mine = ours.LSTM(M, N, **DEEP)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradcheck_of_a_projected_lstm():
    mine = ours.LSTM(M, N, **DEEP)
    names = [name for name, _ in mine.named_parameters()]

    def run(x, h, c, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return tuple(leaves(torch.func.functional_call(mine, named, (x, (h, c)))))

    inputs = [draw(3, 2, M), *states_of(mine, 2, dtype=torch.float64), *mine.parameters()]
    inputs = [leaf.detach().requires_grad_() for leaf in inputs]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def step_by_step(module, x, hx, mask, resets, reverse):
    """A projected LSTM as torch's cell would be called, (T, B) masks and resets obeyed."""
    suffix = "_l0_reverse" if reverse else "_l0"
    U, W, b, c, R = (getattr(module, name + suffix) for name in OF_GATES + ("weight_hr",))
    h0, c0 = (part[int(reverse)] for part in hx)
    (h, s), outputs = (h0, c0), [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        last = t + 1 < len(x) and reverse
        anew = resets[t + 1] if last else resets[t] & (not reverse)
        h, s = (torch.where(anew[:, None], a, b) for a, b in ((h0, h), (c0, s)))
        i, f, g, o = (x[t] @ U.T + h @ W.T + b + c).chunk(4, 1)
        after = f.sigmoid() * s + i.sigmoid() * g.tanh()
        live, m = mask[t][:, None], (o.sigmoid() * after.tanh()) @ R.T
        outputs[t] = m * live
        h, s = torch.where(live, m, h), torch.where(live, after, s)
    return torch.stack(outputs), h, s


@pytest.mark.parametrize("sparse", [0.7, 0.2])
def test_masks_and_resets_of_a_projected_lstm_begin_with_its_state(sparse):
    torch.manual_seed(0)
    mine = ours.LSTM(M, N, bidirectional=True, proj_size=3, dtype=torch.float64)
    steps, batch = 7, 9
    x = draw(steps, batch, M)
    hx = tuple(part.requires_grad_() for part in states_of(mine, batch, dtype=torch.float64))
    mask, resets = torch.rand(2, steps, batch) < torch.tensor([sparse, 0.3])[:, None, None]
    mask[:, 0], resets[-1, 1] = False, True
    y, (h, c) = mine(x, hx, mask=mask, resets=resets)
    both = [step_by_step(mine, x, hx, mask, resets, reverse) for reverse in (False, True)]
    expected = (
        torch.cat([both[0][0], both[1][0]], 2),
        *(torch.stack([both[0][k], both[1][k]]) for k in (1, 2)),
    )
    asked = [*hx, *mine.parameters()]
    for a, b in zip((y, h, c), expected, strict=True):
        close(a.detach().numpy(), b.detach().numpy())
        slope = draw(*a.shape)
        found, right = (
            torch.autograd.grad(a, asked, slope, retain_graph=True, materialize_grads=True)
            for a in (a, b)
        )
        for one, other in zip(found, right, strict=True):
            close(one.numpy(), other.numpy())


# No samples, no steps


@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=named)
def test_an_empty_batch_has_empty_results_and_gradients_of_zero(kind, dtype, rows_first):
    options = {"proj_size": 2} if kind == "LSTM" else {}
    theirs, mine = pair(
        kind, num_layers=2, bidirectional=True, batch_first=rows_first, dtype=dtype, **options
    )
    x = torch.zeros(*((0, T) if rows_first else (T, 0)), M, dtype=dtype)
    for hx in (None, states_of(mine, 0, dtype=dtype)):
        mine.zero_grad()
        got, expected = leaves(mine(x.requires_grad_(), hx)), leaves(theirs(x, hx))
        assert [(a.shape, a.dtype) for a in got] == [(a.shape, a.dtype) for a in expected]
        sum(a.float().sum() for a in got).backward()
        assert x.grad.shape == x.shape
        assert all((θ.grad == 0).all() for θ in mine.parameters())


def test_no_steps_are_refused_as_torch_does(kind):
    for options, shape in (({}, (0, B, M)), ({}, (0, M)), ({"batch_first": True}, (B, 0, M))):
        for module in pair(kind, **options):
            with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0"):
                module(torch.zeros(shape))


# Errors

X = draw(T, B, M, dtype=torch.float32)
PACKED = pack_padded_sequence(X, [5, 3, 1])


@pytest.mark.parametrize(
    ("options", "x", "shapes"),
    table(
        ("four axes", {}, X[None], None),
        ("one axis", {}, X[0, 0], None),
        ("features", {}, X[..., 1:], None),
        ("packed features", {}, PACKED._replace(data=PACKED.data[:, 1:]), None),
        ("state's axes", {}, X, [(B, N), (B, N)]),
        ("state's axes without a batch", {}, X[:, 0], [(1, B, N), (1, B, N)]),
        ("state's batch", {}, X, [(1, 2, N), (1, B, N)]),
        ("state's size", {}, X, [(1, B, N + 1), (1, B, N)]),
        ("cell's size", {}, X, [(1, B, N), (1, B, N + 1)]),
        ("state's layers", {"num_layers": 2}, X, [(1, B, N), (2, B, N)]),
        ("state of a PackedSequence", {}, PACKED, [(1, 2, N), (1, 2, N)]),
    ),
)
def test_a_call_that_torch_refuses_raises_torchs_kind_of_error_and_ours(kind, options, x, shapes):
    theirs, mine = pair(kind, **options)
    hx = None if shapes is None else tuple(torch.zeros(shape) for shape in shapes)
    if hx is not None and kind != "LSTM":
        if hx[0].shape == (1, B, N):
            pytest.skip("there is no c")
        hx = hx[0]
    with pytest.raises((RuntimeError, ValueError)) as caught:
        theirs(x, hx)
    # of an LSTM's PackedSequence torch looks at nothing itself
    words = "" if kind == "LSTM" and len(x) == 4 else re.escape(str(caught.value))
    with pytest.raises(caught.type, match=f"^{words}") as found:
        mine(x, hx)
    assert isinstance(found.value, RnnGpuError)


def test_mixed_dtypes_are_refused_in_words(kind):
    _, mine = pair(kind, dtype=torch.bfloat16)
    hx = states_of(mine, B)
    message = "^hx is torch.float32, but the parameters are torch.bfloat16"
    refuses(DtypeError, message, lambda: mine(X.bfloat16(), hx))
    message = r"^RNN input dtype \(torch.float32\) does not match weight dtype \(torch.bfloat16\)"
    refuses(DtypeError, message, lambda: mine(X))
    cell = getattr(ours, f"{kind}Cell")(M, N)
    refuses(DtypeError, "^input is torch.float64, but", lambda: cell(X[0].double()))


def test_a_state_of_too_many_parts_is_refused():
    cell = ours.LSTMCell(M, N)
    state = torch.zeros(B, N)
    refuses(SizeError, "^hx has 3 states, expected 2", lambda: cell(X[0], (state,) * 3))


# Properties that torch's own tests of these modules hold to (test/test_nn.py); what they need a GPU
# for is left out


def apart(tensor):
    """The same numbers, which do not lie next to each other."""
    return torch.stack([torch.zeros_like(tensor), tensor], -1).select(-1, 1)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_numbers_that_lie_apart_go_in_and_come_back(kind, packed, rows_first, projected):
    options = {"proj_size": 3} if projected and kind == "LSTM" else {}
    theirs, mine = pair(kind, num_layers=2, bidirectional=True, batch_first=rows_first, **options)
    theirs, mine = theirs.double(), mine.double()
    x = apart(draw(*((B, T) if rows_first else (T, B)), M)).requires_grad_()
    hx = states_of(mine, B, dtype=torch.float64)
    hx = tuple(apart(part) for part in hx) if kind == "LSTM" else apart(hx)
    results = []
    for module in (theirs, mine):
        given = pack_padded_sequence(x, [5, 3, 1], rows_first) if packed else x
        out = leaves(module(given, hx))
        slopes = [apart(draw(*leaf.shape)) for leaf in out]
        results.append([*out, *torch.autograd.grad(out, [x, *module.parameters()], slopes)])
    for a, b in zip(*results, strict=True):
        close(a.detach().numpy(), b.detach().numpy())


@pytest.mark.parametrize("proj_size", [0, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_state_of_zeros_is_no_state(kind, bidirectional, proj_size):
    options = {"proj_size": proj_size} if kind == "LSTM" else {}
    _, mine = pair(kind, num_layers=2, bidirectional=bidirectional, **options)
    hx = states_of(mine, B)
    zeros = tuple(part * 0 for part in hx) if kind == "LSTM" else hx * 0
    for a, b in zip(leaves(mine(X, zeros)), leaves(mine(X)), strict=True):
        close(a.detach().numpy(), b.detach().numpy(), "float32")


@pytest.mark.parametrize("proj_size", [0, 3])
def test_weights_may_be_tied_within_a_module(kind, proj_size):
    options = {"proj_size": proj_size} if kind == "LSTM" else {}
    theirs, mine = pair(kind, bidirectional=True, dtype=torch.float64, **options)
    for module in (theirs, mine):
        module.bias_ih_l0_reverse = module.bias_ih_l0
        module.weight_hh_l0_reverse = module.weight_hh_l0
    assert len(list(mine.parameters())) == len(list(theirs.parameters()))
    agree(theirs, mine, draw(T, B, M), states_of(mine, B, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize(
    ("options", "name"), [({}, "weight_hh_l0"), ({"proj_size": 3}, "weight_hr_l0")]
)
def test_weight_norm_comes_and_goes(options, name):
    for norm, remove in (
        (torch.nn.utils.weight_norm, torch.nn.utils.remove_weight_norm),
        (
            torch.nn.utils.parametrizations.weight_norm,
            torch.nn.utils.parametrize.remove_parametrizations,
        ),
    ):
        theirs, mine = pair("LSTM", num_layers=2, dtype=torch.float64, **options)
        for module in (theirs, mine):
            norm(module, name)
        agree(theirs, mine, draw(T, B, M))
        for module in (theirs, mine):
            remove(module, name)
        agree(theirs, mine, draw(T, B, M))


def test_a_weight_may_be_missing_for_a_while(kind):
    theirs, mine = pair(kind, num_layers=2)
    for module in (theirs, mine):
        weight = module.weight_hh_l0
        del module.weight_hh_l0
        module.double()
        module.weight_hh_l0 = torch.nn.Parameter(weight.detach().double())
    expected, got = theirs(draw(T, B, M)), mine(draw(T, B, M))
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        close(a.detach().numpy(), b.detach().numpy())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0, 0.276, 0.731, 1])
def test_dropout_lies_between_layers(p, training):
    mine = ours.RNN(10, 1000, 2, "relu", bias=False, dropout=p).double().train(training)
    for weight in mine.parameters():
        torch.nn.init.ones_(weight)
    y, h = mine(torch.ones(1, 1, 10).double(), torch.zeros(2, 1, 1000).double())
    assert (h[0] == 10).all() and (h[1] == y[0]).all() and (y == y[0, 0, 0]).all()
    value = y[0, 0, 0].item()
    if p in (0, 1) or not training:
        assert value == (0 if p == 1 and training else 10000)
    else:  # a number of units of 10, each made larger by 1/(1 − p)
        assert 8000 < value < 12000
        assert value * (1 - p) / 10 == pytest.approx(round(value * (1 - p) / 10), abs=1e-3)


def test_dropout_may_change_and_its_state_is_the_generators(tmp_path):
    mine = ours.RNN(M, N, 2, "relu")
    for p in (0, 0.5, 0, 1, 0.7):
        mine.dropout = p
        again = [mine(X)[0] for _ in range(2)]
        assert torch.equal(*again) == (p in (0, 1))
    torch.save(mine, tmp_path / "module.pt")
    loaded = torch.load(tmp_path / "module.pt", weights_only=False)
    loaded.flatten_parameters()
    assert not torch.equal(loaded(X)[0], mine(X)[0])
    assert torch.equal(loaded.eval()(X)[0], mine.eval()(X)[0])


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_a_cell_broadcasts_nothing(name):
    cell, good = getattr(ours, name)(10, 20), torch.zeros(3, 20)
    for x, bad in (
        (torch.zeros(3, 10), torch.zeros(1, 20)),
        (torch.zeros(3, 10), torch.zeros(3, 1)),
        (torch.zeros(3, 1), good),
    ):
        for hx in ((bad, good), (good, bad)) if name == "LSTMCell" else (bad,):
            with pytest.raises(RuntimeError):
                cell(x, hx)


@pytest.mark.parametrize(
    ("x", "h", "c"),
    table(
        ("samples of the input", (6, 7, 3), (2, 4, 2), (2, 4, 5)),
        ("samples of the states", (6, 4, 3), (2, 7, 2), (2, 7, 5)),
        ("features", (6, 4, 7), (2, 4, 2), (2, 4, 5)),
        ("sizes", (6, 4, 3), (2, 4, 7), (2, 4, 7)),
        ("layers of h", (6, 4, 3), (7, 4, 2), (2, 4, 5)),
        ("h of c's size", (6, 4, 3), (2, 4, 5), (2, 4, 5)),
        ("c of h's size", (6, 4, 3), (2, 4, 2), (2, 4, 2)),
        ("layers of c", (6, 4, 3), (2, 4, 2), (7, 4, 5)),
    ),
)
def test_sizes_of_a_projected_lstm_are_checked(x, h, c):
    x, h, c = torch.zeros(x), torch.zeros(h), torch.zeros(c)
    messages = []
    for module in pair("LSTM", 3, 5, num_layers=2, proj_size=2):
        with pytest.raises(RuntimeError) as caught:
            module(x, (h, c))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("size", [2, 7, 8])
def test_a_projection_is_smaller_than_what_it_projects(size):
    for make in (torch.nn.LSTM, ours.LSTM):
        if size < N:
            assert make(M, N, proj_size=size).weight_hr_l0.shape == (size, N)
        else:
            with pytest.raises(ValueError, match="proj_size has to be smaller than hidden_size"):
                make(M, N, proj_size=size)
