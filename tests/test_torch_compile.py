"""Our modules where something else than autograd looks on: torch.compile, torch.export, torch.func,
torch.jit.trace, and tensors without numbers.
"""

import io
import re

import pytest

torch = pytest.importorskip("torch")


import rnn_gpu.torch as ours
from programs import python
from rnn_gpu import OrderError, UnsupportedError
from torch_pairs import leaves

T, B, M, N = 5, 3, 4, 6
LONGER = 9, 2  # steps and samples of a second call

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch._dynamo.reset()


def same(found, expected):
    """Assert that nested results are the same bits."""
    found, expected = leaves(found), leaves(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def gradients(results, module):
    loss = sum((leaf.double() ** 2).sum() for leaf in leaves(results))
    return torch.autograd.grad(loss, list(module.parameters()))


def patterns(steps, samples):
    return {name: torch.rand(steps, samples) > 0.5 for name in ("mask", "resets")}


def given(layers, steps, samples, *sizes):
    states = tuple(torch.randn(layers, steps, samples, size) for size in sizes)
    resets = torch.rand(steps, samples) > 0.5
    return {"resets": resets, "reset_state": states if len(states) > 1 else states[0]}


# module, and what follows input of so many steps and samples in its call
CASES = {
    "LSTM": (lambda: ours.LSTM(M, N, 2, bidirectional=True), None),
    "GRU": (lambda: ours.GRU(M, N, clip_step_norm=0.1), None),
    "RNN": (lambda: ours.RNN(M, N, nonlinearity="softsign"), None),
    "masks": (lambda: ours.Recurrent("elman_relu", M, N, bidirectional=True), patterns),
    "projection": (lambda: ours.LSTM(M, N, proj_size=2, bias=False), None),
    "given": (lambda: ours.GRU(M, N, bidirectional=True), lambda *at: given(2, *at, N)),
    "projection, given": (
        lambda: ours.LSTM(M, N, proj_size=2),
        lambda *at: given(1, *at, 2, N),
    ),
    "state": (
        lambda: ours.LSTM(M, N),
        lambda _, samples: {"hx": (torch.randn(1, samples, N), torch.randn(1, samples, N))},
    ),
}


@torch._dynamo.config.patch(error_on_recompile=True)
@pytest.mark.parametrize(("build", "more"), CASES.values(), ids=CASES)
def test_a_module_is_one_graph_of_any_length(build, more):
    """The same bits as eager ones, forward and back."""
    module = build()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for steps, samples in ((T, B), LONGER):
        x = torch.randn(steps, samples, M)
        given = {} if more is None else more(steps, samples)
        found, expected = compiled(x, **given), module(x, **given)
        same(found, expected)
        same(gradients(found, module), gradients(expected, module))


def test_a_cell_is_one_graph():
    cell, x = ours.LSTMCell(M, N), torch.randn(B, M)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    same(compiled(x), cell(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # Dynamo's own
def test_a_packed_sequence_breaks_the_graph_and_nothing_else():
    module, x = ours.GRU(M, N), torch.randn(T, B, M)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3, 2]))
    same(torch.compile(module, backend="eager")(packed), module(packed))


STEP = """
import torch, rnn_gpu.torch
torch.manual_seed(0)
module, x = rnn_gpu.torch.LSTM(4, 6), torch.randn(5, 3, 4)

def step(x):
    module.zero_grad(set_to_none=True)
    y, _ = module(x)
    (y**2).sum().backward()
    return [p.grad for p in module.parameters()]

compiled = torch.compile(module, fullgraph=True, backend=BACKEND)
y, _ = compiled(x)
(y**2).sum().backward()
found = [p.grad for p in module.parameters()]
expected = step(x)
assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected)), (found, expected)
"""


def test_the_first_call_of_a_process_may_be_compiled():
    python(STEP.replace("BACKEND", repr("aot_eager")))


@pytest.mark.slow  # Inductor calls a compiler of C++
def test_inductor_compiles_a_training_step():
    python(STEP.replace("BACKEND", repr("inductor")), patience=600)


# Programs that are saved

OWN = """
import sys, torch, rnn_gpu, rnn_gpu.torch
import numpy as np

def step(p, q, s):
    return (np.tanh(p[0] + 2 * q[0]),), ()

def back(ds, kept, s, s_next):
    d = ds[0] * (1 - s_next[0] * s_next[0])
    return (d,), (2 * d,), (0.0 * ds[0],)

def cell():
    return rnn_gpu.cell("own", gates=1, states=1, kept=0, step=step, back=back, apart=True)

def saved(path):
    torch.manual_seed(0)
    module, x = rnn_gpu.torch.Recurrent(cell(), 4, 6), torch.randn(9, 2, 4)
    sizes = {0: torch.export.Dim("T", min=2), 1: torch.export.Dim("B", min=2)}
    program = torch.export.export(module, (torch.randn(5, 3, 4),), dynamic_shapes=(sizes,))
    torch.export.save(program, path)
    torch.save((x, module(x)), path + ".results")
"""
SAVE = OWN + "saved(sys.argv[1])"
LOAD = (
    OWN
    + """
program = torch.export.load(sys.argv[1]).module()
x, expected = torch.load(sys.argv[1] + ".results")
try:
    program(x)
except rnn_gpu.UnsupportedError as error:
    print(error)
print(rnn_gpu.torch.register(cell()))
assert all(map(torch.equal, program(x), expected))
"""
)


def test_a_program_runs_where_its_cell_is_registered(tmp_path):
    path = tmp_path / "program.pt2"
    python(SAVE, path, options=("-P", "-W", "ignore"))
    error, name = python(LOAD, path, options=("-P", "-W", "ignore")).stdout.splitlines()
    assert re.match(rf"cell '{name}' is not known in this process: .*register\(cell\)", error)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_module_takes_any_length(strict):
    module = ours.LSTM(M, N, 2, bidirectional=True, batch_first=True)
    sizes = {1: torch.export.Dim("T", min=2), 0: torch.export.Dim("B", min=2)}
    program = torch.export.export(
        module, (torch.randn(B, T, M),), dynamic_shapes=(sizes,), strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    x = torch.randn(*LONGER, M)
    same(torch.export.load(file).module()(x), module(x))


def test_a_traced_module_is_saved():
    module, x = ours.GRU(M, N, 2), torch.randn(T, B, M)
    module(x)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, (x,)), file)
    file.seek(0)
    other = torch.randn(T, B, M)
    same(torch.jit.load(file)(other), module(other))
    assert module.clipped_steps == 0


def test_script_is_refused():
    with pytest.raises(UnsupportedError, match=r"^torch.jit.script .*torch.export"):
        torch.jit.script(torch.nn.ModuleList([ours.GRU(M, N)]))


# torch.func


def test_a_call_with_other_parameters_has_their_gradients():
    module, x = ours.LSTM(M, N, 2, bidirectional=True), torch.randn(T, B, M)
    θ = {name: value.detach() * 0.5 for name, value in module.named_parameters()}

    def loss(θ):
        return (torch.func.functional_call(module, θ, (x,))[0].double() ** 2).sum()

    found = torch.func.grad(loss)(θ)
    asked = {name: value.clone().requires_grad_() for name, value in θ.items()}
    same(list(found.values()), torch.autograd.grad(loss(asked), list(asked.values())))


def test_every_example_has_its_gradient():
    module, x = ours.GRU(M, N), torch.randn(T, B, M)
    θ = {name: value.detach() for name, value in module.named_parameters()}

    def loss(θ, x):
        y, _ = torch.func.functional_call(module, θ, (x[:, None],))
        return (y.double() ** 2).sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 1))(θ, x)
    for b in range(B):
        same([g[b] for g in found.values()], list(torch.func.grad(loss)(θ, x[:, b]).values()))


def test_a_mapped_module_is_called_once(monkeypatch):
    module, xs = ours.LSTM(M, N, 2), torch.randn(7, T, B, M)
    mask = torch.rand(T, B) > 0.5
    expected = [module(x, mask=mask)[0] for x in xs]
    calls = []
    carry = "rnn_gpu.bridges.torch.operators.carry"
    from rnn_gpu.bridges.torch import operators

    went = operators.carry
    monkeypatch.setattr(carry, lambda *given: (calls.append(0), went(*given))[1])
    found = torch.func.vmap(lambda x: module(x, mask=mask)[0])(xs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert len(calls) == 2  # one a layer


def test_modules_are_mapped_over():
    modules, x = [ours.GRU(M, N) for _ in range(3)], torch.randn(T, B, M)
    θ, buffers = torch.func.stack_module_state(modules)
    call = lambda θ, b: torch.func.functional_call(modules[0], (θ, b), (x,))[0]  # noqa: E731
    for y, module in zip(torch.func.vmap(call)(θ, buffers), modules, strict=True):
        same(y, module(x)[0])


@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_transforms_are_compiled(transform):
    module, x = ours.GRU(M, N), torch.randn(T, B, M)
    if transform == "grad":
        f = torch.func.grad(lambda x: (module(x)[0] ** 2).sum())
    else:
        f = torch.func.vmap(lambda x: module(x[:, None])[0], 1)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), f(x), rtol=0, atol=1e-6)


# Tensors without numbers, and other modes


def test_meta_tensors_have_shapes():
    module = ours.LSTM(M, N, 2, bidirectional=True, device="meta")
    y, (h, c) = module(torch.empty(T, B, M, device="meta"))
    assert y.is_meta and y.shape == (T, B, 2 * N) and h.shape == c.shape == (4, B, N)


def test_fake_tensors_go_forward_and_back():
    with torch._subclasses.FakeTensorMode():
        module = ours.GRU(M, N)
        y, _ = module(torch.randn(T, B, M))
        y.sum().backward()
        assert y.shape == (T, B, N) and module.weight_ih_l0.grad.shape == (3 * N, M)


def test_a_tracer_sees_an_operator():
    from torch.fx.experimental.proxy_tensor import make_fx

    module, x = ours.GRU(M, N), torch.randn(T, B, M)
    program = make_fx(lambda x: module(x)[0])(x)
    assert "rnn_gpu.forward" in program.code
    same(program(2 * x), module(2 * x)[0])


def test_a_checkpoint_keeps_nothing_of_a_call():
    """What the way back needs are saved tensors, which torch.utils.checkpoint makes anew."""
    module, x, sizes = ours.LSTM(M, N), torch.randn(T, B, M), []
    pack = lambda a: sizes.append(a.numel()) or a  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda a: a):
        module(x)
    assert T * B * 4 * N + 2 * (T + 1) * B * N in sizes  # kept, and states
    y = torch.utils.checkpoint.checkpoint(lambda x: module(x)[0], x, use_reentrant=False)
    same(gradients(y, module), gradients(module(x)[0], module))


# What the way back leaves


def test_a_tape_of_a_compiled_call_is_refused():
    compiled = torch.compile(ours.GRU(M, N), backend="eager")
    with pytest.raises(UnsupportedError, match=r"^tape=True: a tape is kept in eager"):
        compiled(torch.randn(T, B, M), tape=True)


def test_counts_of_clipped_steps_are_not_those_of_an_earlier_call():
    module, x = ours.GRU(M, N, clip_step_norm=1e-3), torch.randn(T, B, M)
    module(x)[0].sum().backward()
    assert module.clipped_steps == T * B
    torch.compile(module, backend="eager")(x)[0].sum().backward()
    for what in ("clipped_steps", "tapes"):
        with pytest.raises(OrderError, match="is known of eager calls alone"):
            getattr(module, what)


def test_a_pattern_for_a_graph_is_a_tensor_of_booleans():
    compiled, x = torch.compile(ours.GRU(M, N), backend="eager"), torch.randn(T, B, M)
    for mask, message in (
        (torch.ones(T, B), "mask is torch.float32, expected torch.bool"),
        (torch.ones(B, T) > 0, r"mask has shape \(3, 5\), expected \(5, 3\): \(T, B\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            compiled(x, mask=mask)
