"""States that are given where samples begin anew, in rnn_gpu.torch: by the operators, and by
modules, whose gradients autograd takes.
"""

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import rnn_gpu.torch as ours
from conftest import close
from rnn_gpu import LSTM, ArgumentError, Bidirectional, DtypeError, ShapeError
from rnn_gpu.bridges.torch.operators import BACKWARD, FORWARD
from rnn_gpu.kernels import LIVE
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.layers import Recurrent

T, B, M, N = 5, 3, 4, 6
KINDS = ("lstm", "gru", "elman_tanh")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=[False, True], ids=["ahead", "reverse"])
def reverse(request):
    return request.param


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def tensors(name):
    """x, s0 with given states behind it, U, W, b and c of a cell."""
    cell = CELLS[name]
    G, c = cell.gates, drawn(cell.gates * N) if cell.apart else None
    x, s0 = drawn(T, B, M), drawn(cell.states, 1 + T, B, N)
    return x, s0, drawn(G * N, M), drawn(G * N, N), drawn(G * N), c


def pattern():
    flags = torch.randint(0, 4, (T, B), dtype=torch.uint8)
    flags[0] &= LIVE
    return flags


def how(name, reverse):
    return name, "", reverse, True, True, None, None


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch itself looks at it
@pytest.mark.parametrize(("name", "reverse"), [("lstm", False), ("gru", True)])
def test_operators_take_given_states(name, reverse):
    """Schemas, fake shapes, what AOTAutograd makes of them; and the slope."""
    given, flags, options = tensors(name), pattern(), how(name, reverse)
    torch.library.opcheck(FORWARD, (*given, flags, *options))
    y, last, s, kept, _ = (a.detach() for a in FORWARD(*given, flags, *options))
    assert s.shape[1] == 2 * T + 1
    x, _, U, W, *_ = (a if a is None else a.detach() for a in given)
    back = torch.randn_like(y), torch.randn_like(last), x, U, W, s, kept, flags, None
    torch.library.opcheck(BACKWARD, (*back, *options))
    some = [a for a in given if a is not None]

    def outputs(*a):
        return FORWARD(*(a if len(a) == 6 else (*a, None)), flags, *options)[:2]

    assert torch.autograd.gradcheck(outputs, some)


@pytest.mark.parametrize("name", KINDS)
def test_operators_give_what_layers_do(name, reverse):
    x, s0, U, W, b, c = tensors(name)
    flags = pattern() | LIVE
    y, last, *_ = FORWARD(x, s0, U, W, b, c, flags, *how(name, reverse))
    dy = torch.randn_like(y)
    dx, ds0 = torch.autograd.grad(y, (x, s0), dy)
    θ = {"U": U, "W": W, "b": b} | ({} if c is None else {"c": c})
    arrays = {key: a.detach().numpy() for key, a in θ.items()}
    options = {"dtype": "float64", "device": "reference", "reverse": reverse}
    layer = Recurrent.of(arrays, CELLS[name], M, N, **options)
    first, *given = np.moveaxis(s0.detach().numpy(), 1, 0)
    given = np.stack(given, 1)
    states = [tuple(a) if len(a) > 1 else a[0] for a in (first, given)]
    expected, _ = layer(
        x.detach().numpy(), states[0], resets=flags.numpy() > 1, reset_state=states[1]
    )
    close(y.detach().numpy(), expected)
    expected, first = layer.backward(dy.numpy())
    close(dx.numpy(), expected)
    whole = np.concatenate(
        [np.reshape(first, (-1, 1, B, N)), np.reshape(layer.dreset_state, (-1, T, B, N))], 1
    )
    close(ds0.numpy(), whole)
    assert ds0[:, 1:].any()


RESETS = torch.from_numpy(np.random.default_rng(4).random((T, B)) < 0.4)
RESETS[0] = torch.tensor([True, False, False])


def module(kind, **options):
    return kind(M, N, dtype=torch.float64, **options)


def states(layers, *axes):
    return tuple(drawn(layers, *axes, N) for _ in range(2))


def by_hand(lstm, x, hx, given):
    """Step after step, by torch's choice of the state that each begins with."""
    outputs, s = [], hx
    for t in range(T):
        s = tuple(
            torch.where(RESETS[t, :, None], g[:, t], a) for g, a in zip(given, s, strict=True)
        )
        y, s = lstm(x[t : t + 1], s)
        outputs.append(y)
    return torch.cat(outputs), s


def test_a_module_goes_on_from_given_states():
    """In two layers, with all gradients."""
    lstm, x = module(ours.LSTM, num_layers=2), drawn(T, B, M)
    hx, given = states(2, B), states(2, T, B)
    inputs = [x, *hx, *given, *lstm.parameters()]
    found = []
    for y, s in (lstm(x, hx, resets=RESETS, reset_state=given), by_hand(lstm, x, hx, given)):
        loss = (
            (y * torch.linspace(-1, 1, N, dtype=y.dtype)).sum() + s[0].sum() - s[1].square().sum()
        )
        found.append([y, *s, *torch.autograd.grad(loss, inputs)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    dh = found[0][6]
    assert not dh[:, ~RESETS].any() and dh[:, RESETS].all()


def test_both_directions_are_those_of_our_own_layer():
    lstm = module(ours.LSTM, bidirectional=True, batch_first=True)
    x, given = drawn(B, T, M), states(2, B, T)
    y, _ = lstm(x, resets=RESETS.T, reset_state=given)
    y.sum().backward()
    options = {"dtype": "float64", "device": "reference", "batch_first": True}
    layer = Bidirectional(LSTM(M, N, **options))
    layer.load_torch(lstm.state_dict())
    own = [tuple(a[k].detach().numpy() for a in given) for k in range(2)]
    expected, _ = layer(x.detach().numpy(), resets=RESETS.T.numpy(), reset_state=own)
    close(y.detach().numpy(), expected)
    layer.backward(np.ones_like(expected))
    for k, parts in enumerate(layer.dreset_state):
        for a, expected in zip(given, parts, strict=True):
            close(a.grad[k].numpy(), expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_it_is_the_same(backend):
    gru, x, given = module(ours.GRU), drawn(T, B, M), drawn(1, T, B, N)
    torch._dynamo.reset()
    found = []
    for f in (gru, torch.compile(gru, backend=backend, fullgraph=True)):
        y, h = f(x, resets=RESETS, reset_state=given)
        found.append([y, h, *torch.autograd.grad(y.sum() + h.sum(), (x, given))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_carried_by_torch_it_is_the_same():
    found = []
    for twice in (False, True):
        torch.manual_seed(0)
        gru = module(ours.GRU, bidirectional=True, differentiable_twice=twice)
        x, given = drawn(T, B, M), drawn(2, T, B, N)
        y, h = gru(x, resets=RESETS, reset_state=given)
        found.append([y, h, *torch.autograd.grad(y.square().sum() + h.sum(), (x, given))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


P, LIVE_STEPS = 2, torch.from_numpy(np.random.default_rng(7).random((T, B)) < 0.7)
LIVE_STEPS[:, 2] = torch.tensor([False, True, True, False, False])  # ends with what it began with


def projected_by_hand(lstm, x, hx, given, reverse):
    """Of one direction, step after step, by torch's own LSTM."""
    theirs = torch.nn.LSTM(M, N, proj_size=P, dtype=torch.float64)
    suffix, outputs, s = "_reverse" * reverse, [x[0, :, :P]] * T, hx
    own = dict(lstm.named_parameters())
    θ = {name: own[name + suffix] for name, _ in theirs.named_parameters()}
    for t in reversed(range(T)) if reverse else range(T):
        at = t + 1 if reverse else t
        if at < T:
            again, live = RESETS[at, :, None], LIVE_STEPS[t, :, None]
            s = [torch.where(again, g[at], a) for g, a in zip(given, s, strict=True)]
        live = LIVE_STEPS[t, :, None]
        hc = tuple(a[None] for a in s)
        y, after = torch.func.functional_call(theirs, θ, (x[t : t + 1], hc))
        outputs[t] = torch.where(live, y[0], 0.0)
        s = [torch.where(live, b[0], a) for a, b in zip(s, after, strict=True)]
    return torch.stack(outputs), s


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch itself looks at it
@pytest.mark.parametrize("how", ["kernels", "compiled", "twice"])
def test_projected_states_go_on_from_given_ones(how):
    """Both ways, masked, with all gradients; what is not looked at may be anything."""
    lstm = module(ours.LSTM, proj_size=P, bidirectional=True, differentiable_twice=how == "twice")
    x, hx = drawn(T, B, M), (drawn(2, B, P), drawn(2, B, N))
    given = drawn(2, T, B, P), drawn(2, T, B, N)
    begins = RESETS[:, :, None].expand(2, T, B, 1)
    called = [torch.where(begins, g, torch.nan) for g in given]
    torch._dynamo.reset()
    f = torch.compile(lstm, backend="aot_eager", fullgraph=True) if how == "compiled" else lstm
    y, s = f(x, hx, mask=LIVE_STEPS, resets=RESETS, reset_state=called)
    each = [
        projected_by_hand(lstm, x, [a[k] for a in hx], [g[k] for g in given], bool(k))
        for k in range(2)
    ]
    ends = [torch.stack(parts) for parts in zip(*(end for _, end in each), strict=True)]
    expected = [torch.cat([outputs for outputs, _ in each], 2), *ends]
    inputs, found = [x, *hx, *given, *lstm.parameters()], []
    for out, h, c in ([y, *s], expected):
        slope = torch.linspace(-1, 1, 2 * P, dtype=out.dtype)
        loss = (out * slope).sum() + h.sin().sum() - c.square().sum()
        found.append([out, h, c, *torch.autograd.grad(loss, inputs)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert all(d.any() for d in found[0][6:8])


def test_any_cell_clips_counts_and_keeps_a_tape():
    leaky = module(partial(ours.Recurrent, CELLS["elman_softsign"]), clip_step_norm=1e-3)
    given = drawn(1, T, B, N)
    y, _ = leaky(drawn(T, B, M), resets=RESETS, reset_state=given, tape=True)
    y.sum().backward()
    assert leaky.clipped_steps == T * B
    (tape,) = leaky.tapes
    assert tape.s.shape == tape.ds.shape == (1, T + 1, B, N)
    # dE/ds before step t is what arrives at its given state
    for t, b in RESETS.nonzero().tolist()[1:]:
        assert given.grad[0, t, b].abs().sum() > 0


def test_few_bits_and_no_batch():
    gru = ours.GRU(M, N, dtype=torch.bfloat16)
    given = torch.full((1, T, N), torch.nan, dtype=torch.bfloat16)
    given[:, RESETS[:, 0]] = 0.5
    given.requires_grad_()
    y, _ = gru(torch.randn(T, M).bfloat16(), resets=RESETS[:, 0], reset_state=given)
    y.sum().backward()
    assert y.dtype == given.grad.dtype == torch.bfloat16 and y.isfinite().all()
    assert given.grad.isfinite().all() and not given.grad[:, ~RESETS[:, 0]].any()


def test_what_is_wrong_is_said():
    lstm, x, (h, c) = module(ours.LSTM), drawn(T, B, M), states(1, T, B)
    for error, message, options in (
        (ArgumentError, "reset_state is given, but resets is None", {"reset_state": (h, c)}),
        (ShapeError, "reset_state is .*, expected a tuple of 2", {"reset_state": h}),
        (ShapeError, r"reset_state\[1\] has shape \(5, 3, 6\)", {"reset_state": (h, c[0])}),
        (DtypeError, r"reset_state\[0\] is torch.float32", {"reset_state": (h.float(), c)}),
    ):
        with pytest.raises(error, match=message):
            lstm(x, resets=None if "None" in message else RESETS, **options)
    with pytest.raises(ShapeError, match=r"reset_state\[0\] has shape .*, expected \(1, 5, 3, 2\)"):
        module(ours.LSTM, proj_size=2)(x, resets=RESETS, reset_state=(h, c))
