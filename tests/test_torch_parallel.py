"""torch's modules over one long sequence as chunks side by side: against the same, step by step."""

import re
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import rnn_gpu
import rnn_gpu.torch as ours
from rnn_gpu.bridges.torch.operators import BACKWARD, FORWARD
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.layers import scan

T, B, M, N = 203, 2, 3, 5
CUT = {"parallel": (4, 11), "tolerance": 1e-13}
KINDS = {"elman_tanh": ours.RNN, "gru": ours.GRU, "lstm": ours.LSTM}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def forgetful(kind, *, remembers=-2.0, **options):
    """A module that forgets what was some steps before; remembers: bias of gates that may not."""
    module = kind(M, N, dtype=torch.float64, **options)
    with torch.no_grad():
        for name, θ in module.named_parameters():
            if name.startswith("weight_hh"):
                θ *= 0.1
            if name.startswith("bias_ih") and len(θ) > N:
                θ[N : 2 * N] = remembers
    return module


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def outcome(module, call, x, **given):
    """Output, last states and all gradients of a loss of both."""
    y, states = call(x, **given)
    states = states if isinstance(states, tuple) else (states,)
    everything = [y, *states]
    loss = sum(
        (a * torch.linspace(0, 1, a.numel(), dtype=a.dtype).view_as(a)).sum() for a in everything
    )
    tensors = [x, *module.parameters(), *(a for a in given.values() if a.requires_grad)]
    return [*everything, *torch.autograd.grad(loss, tensors)]


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("steps", [203, 120])
def test_one_sample_in_place(name, steps):
    """The chunks stay where they lie, and the output is the caller's own."""
    module, x = forgetful(KINDS[name]), drawn(steps, 1, M)
    wanted = outcome(module, module, x)
    module.parallel, module.tolerance = CUT.values()
    close(outcome(module, module, x), wanted)
    y, _ = module(x)
    assert module.parallel_reports[0].chunks == 4
    weights = torch.linspace(0, 1, y.numel(), dtype=y.dtype).view_as(y)
    found = torch.autograd.grad((y * weights).sum(), [x, *module.parameters()], retain_graph=True)
    y.detach().fill_(torch.nan)
    again = torch.autograd.grad(y, [x, *module.parameters()], weights)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_chunks_give_what_steps_give(name, compiled):
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    module, x = forgetful(KINDS[name], **options), drawn(B, T, M)
    wanted = outcome(module, module, x)
    assert module.parallel_reports == [None] * 4
    module.parallel, module.tolerance = CUT.values()
    call = torch.compile(module, backend="aot_eager", fullgraph=True) if compiled else module
    close(outcome(module, call, x), wanted)
    if not compiled:
        reports = module.parallel_reports
        assert all(r.chunks == 4 and not r.sequential + r.sequential_back for r in reports)
        assert all(r.extra_steps > 0 for r in reports)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_scan_on_the_way_back_gives_what_steps_give(compiled, monkeypatch):
    module, x, counts, backward = ours.GRU(M, N).double(), drawn(T, B, M), [], scan.backward

    def counting(device, cell, call, count, precision):
        counts.append(count)
        return backward(device, cell, call, count, precision)

    wanted = outcome(module, module, x)
    monkeypatch.setattr(scan, "backward", counting)
    module.parallel = "scan", 4
    call = torch.compile(module, backend="aot_eager", fullgraph=True) if compiled else module
    close(outcome(module, call, x), wanted)
    assert counts == [4]
    if not compiled:
        assert module.parallel_reports[0].scan == 4


def test_masks_and_given_states_and_a_packed_sequence():
    module, x = forgetful(ours.GRU), drawn(T, B, M)
    given = {"hx": drawn(1, B, N), "mask": torch.rand(T, B) < 0.7}
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([T, 160]))
    wanted = outcome(module, module, x, **given)
    y = module(packed)[0].data
    module.parallel, module.tolerance = CUT.values()
    close(outcome(module, module, x, **given), wanted)
    close([module(packed)[0].data], [y])
    assert not module.parallel_reports[0].sequential


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("kind", "reverse"), [(ours.GRU, False), (ours.LSTM, True)])
def test_resets_and_given_states(kind, reverse, compiled):
    module, x = forgetful(kind, bidirectional=reverse), drawn(T, B, M)
    resets = torch.rand(T, B) < 0.05
    resets[[51, 102]] = True  # where chunks begin
    lone = kind is ours.GRU
    states = tuple(drawn(1 + reverse, T, B, N) for _ in range(2 - lone))
    for given in ({}, {"reset_state": states[0] if lone else states}):
        called, tensors = {"resets": resets}, states if given else ()
        module.parallel = False
        call = partial(module, **given)
        wanted = outcome(module, call, x, **called), of_each(call, x, tensors, **called)
        module.parallel, module.tolerance = CUT.values()
        if compiled:
            torch._dynamo.reset()  # which counts compilations of all tests before
            fast = torch.compile(module, backend="aot_eager", fullgraph=True)
            call = partial(fast, **given)
        close(outcome(module, call, x, **called), wanted[0])
        close(of_each(call, x, tensors, **called), wanted[1])
        if not compiled:
            reports = module.parallel_reports
            assert all(r.chunks == 4 and not r.sequential + r.sequential_back for r in reports)


def of_each(call, x, tensors, **given):
    """dE/dx and what arrives at given states."""
    y, _ = call(x, **given)
    return torch.autograd.grad(y.square().sum(), [x, *tensors])


def test_what_does_not_forget_has_the_bits_of_steps():
    module, x = forgetful(ours.LSTM, remembers=8.0), drawn(T, B, M)
    wanted = outcome(module, module, x)
    module.parallel = (4, 11)
    for a, b in zip(outcome(module, module, x), wanted, strict=True):
        assert torch.equal(a, b)
    assert "does not forget" in module.parallel_reports[0].sequential


def test_clipping_goes_back_step_by_step():
    module, x = forgetful(ours.GRU, clip_step_norm=0.01), drawn(T, B, M)
    wanted, clipped = outcome(module, module, x), module.clipped_steps
    module.parallel, module.tolerance = CUT.values()
    close(outcome(module, module, x), wanted)
    assert module.clipped_steps == clipped > 0
    assert "clipped" in module.parallel_reports[0].sequential_back


def how(name, reverse=False, cut="4,11", dead=False):
    return name, "", reverse, dead, False, None, None, cut, 1e-13


def tensors(name, *batch):
    G, S, apart = CELLS[name].gates, CELLS[name].states, CELLS[name].apart
    weights = [drawn(G * N, M), drawn(G * N, N), drawn(G * N), drawn(G * N) if apart else None]
    with torch.no_grad():
        weights[1] *= 0.03
        weights[2][N : 2 * N] = -2
    return drawn(*batch, T, B, M), drawn(*batch, S, B, N), *weights


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch itself looks at it
@pytest.mark.parametrize(("name", "reverse"), [("gru", True), ("lstm", False)])
def test_torch_finds_nothing_wrong_with_the_operators(name, reverse):
    given, options = tensors(name), how(name, reverse)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(FORWARD, (*given, None, *options), test_utils=tests)
    y, last, s, kept, cut = (a.detach() for a in FORWARD(*given, None, *options))
    assert cut.item() == 4 and s.shape[1:3] == (T + 1, B)
    x, _, U, W, *_ = (a if a is None else a.detach() for a in given)
    back = torch.randn_like(y), torch.randn_like(last), x, U, W, s, kept, None
    torch.library.opcheck(BACKWARD, (*back, cut, *options), test_utils=tests)
    found, wanted = BACKWARD(*back, cut, *options), BACKWARD(*back, None, *how(name, reverse, ""))
    close(found, wanted)


def test_operators_of_many_examples_at_once():
    (x, s0, U, W, b, c), options = tensors("gru", 3), how("gru")
    f = lambda x, s0: FORWARD(x, s0, U, W, b, c, None, *options)[:2]  # noqa: E731
    one_by_one = [torch.stack(a) for a in zip(*map(f, x, s0), strict=True)]
    close(torch.vmap(f)(x, s0), one_by_one)
    slope = torch.func.grad(lambda x, s0: f(x, s0)[0].square().sum())
    close([torch.vmap(slope)(x, s0)], [torch.stack([*map(slope, x, s0)])])


def test_a_program_is_exported_with_its_chunks():
    module, x = forgetful(ours.LSTM, **CUT), drawn(T, B, M).detach()
    program = torch.export.export(module, (x,))
    (node,) = [n for n in program.graph.nodes if n.target is FORWARD]
    assert "4,11" in node.args
    close([program.module()(x)[0]], [module(x)[0]])


def test_a_module_explains_its_chunks():
    module = ours.LSTM(M, 128, 2)
    assert "in chunks" not in module.explain(4096, 1)
    module.parallel = (4, 64)
    assert module.explain(4096, 1).count("in chunks: 4 of 1,025 steps") == 2
    assert "parallel=(4, 64)" in repr(module)


def test_converted_modules_go_step_by_step():
    model = torch.nn.Sequential(torch.nn.GRU(M, N))
    ours.convert(model)
    assert model[0].parallel is False
    model[0](torch.randn(T, B, M))
    assert model[0].parallel_reports == [None]
    model[0].parallel = "auto"
    assert "parallel" in ours.revert(model).report.left["0"]


@pytest.mark.parametrize("given", [{"parallel": 1}, {"parallel": (0, 3)}, {"tolerance": 0}])
def test_refused(given):
    with pytest.raises(rnn_gpu.ArgumentError, match=next(iter(given))):
        ours.GRU(M, N, **given)
    with pytest.raises(rnn_gpu.ArgumentError, match="parallel"):
        ours.GRU(M, N, differentiable_twice=True, parallel="auto")


def test_auto_is_asked_of_the_table(monkeypatch):
    module, x = ours.GRU(M, 64, parallel="auto"), torch.randn(8192, 8, M)
    wanted = module(x)[0]
    assert re.search("times as quick|too short", module.parallel_reports[0].sequential)
    module.parallel = False
    assert np.array_equal(module(x)[0].detach(), wanted.detach())
