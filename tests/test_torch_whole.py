"""A call by the addresses of its tensors, of a whole module and of each layer, against the call of
layers on arrays.
"""

from functools import partial

import pytest

torch = pytest.importorskip("torch")

import rnn_gpu.torch
from door import refuses
from rnn_gpu import ArgumentError, OrderError, ShapeError, UnsupportedError
from rnn_gpu.bridges.torch import small, stack
from rnn_gpu.bridges.torch.whole import Passed
from rnn_gpu.kernels.devices.cpu import threads
from torch_pairs import counting

DEEP = {"num_layers": 2, "bidirectional": True}
HOWS = {
    "one layer": ("RNN", {}),
    "apart": ("GRU", DEEP),
    "two states": ("LSTM", DEEP | {"batch_first": True}),
    "no bias": ("GRU", {"bidirectional": True, "batch_first": True, "bias": False}),
    "clipped": ("RNN", DEEP | {"clip_step_value": 0.02, "clip_step_norm": 0.05}),
}
T, B, M, N = 6, 3, 5, 7


def made(how, m=M, n=N, batch=B, steps=T):
    """(module, x, a tensor of each state)."""
    kind, options = HOWS[how]
    torch.manual_seed(0)
    module = getattr(rnn_gpu.torch, kind)(m, n, **options)
    count = module.num_layers * (1 + module.bidirectional)
    x = torch.randn((batch, steps, m) if module.batch_first else (steps, batch, m))
    return module, x, [torch.randn(count, batch, n) for _ in range(module.told.states)]


def numbers(module, x, hx, of_last=True):
    """Everything that a training step gives, and what the output is computed by."""
    x = x.clone().requires_grad_()
    hx = None if hx is None else [s.clone().requires_grad_() for s in hx]
    y, last = module(x, hx if hx is None or len(hx) > 1 else hx[0])
    last = last if isinstance(last, tuple) else (last,)
    loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
    loss = loss + sum((k + 1) * s.square().sum() for k, s in enumerate(last)) if of_last else loss
    module.zero_grad()
    loss.backward()
    gradients = [θ.grad for θ in module.parameters()]
    found = [y, *last, x.grad, *(s.grad for s in hx or ()), *gradients]
    return found, module.clipped_steps, type(y.grad_fn).__name__


@pytest.mark.parametrize("how", HOWS)
def test_a_call_by_addresses_has_the_bits_of_one_on_arrays(how, monkeypatch):
    module, x, states = made(how)
    for hx, of_last in ((None, True), (states, True), (states, False)):
        whole, clipped, way = numbers(module, x, hx, of_last)
        assert way.startswith(Passed.__name__) and (clipped > 0) == (how == "clipped")
        with torch.no_grad():
            y, _ = module(x, hx if hx is None or len(hx) > 1 else hx[0])
        assert torch.equal(y, whole[0])
        with monkeypatch.context() as patch:
            patch.setattr(stack, "whole", lambda *given: None)
            by_layers = numbers(module, x, hx, of_last)
            patch.setattr(small, "small", lambda *given: None)
            on_arrays = numbers(module, x, hx, of_last)
        for found, others, _ in (by_layers, on_arrays):
            assert others == clipped
            assert all(map(torch.equal, found, whole))


def test_gradients_are_asked_for_as_torch_asks():
    module, x = rnn_gpu.torch.GRU(M, N, 2), torch.randn(T, B, M)
    module.weight_hh_l1.requires_grad_(False)
    y, h = module(x)
    h.sum().backward()  # of y there is none, nor of x
    assert module.weight_hh_l1.grad is None and x.grad is None
    assert module.weight_hh_l0.grad.abs().max() > 0
    y, _ = module.requires_grad_(False)(x)
    assert y.grad_fn is None


def test_numbers_that_changed_between_the_ways_are_torchs_error():
    module, x = rnn_gpu.torch.GRU(M, N), torch.randn(T, B, M, requires_grad=True)
    y, _ = module(x)
    with torch.no_grad():
        module.bias_ih_l0.add_(1)  # which the way back does not read
    y.sum().backward()
    y, _ = module(x)
    with torch.no_grad():
        module.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def narrower(module):
    module.weight_ih_l0.data = torch.zeros(2, 2)


CHANGES = {"wider": torch.nn.Module.double, "half": torch.nn.Module.half, "smaller": narrower}


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "by layers"])
@pytest.mark.parametrize("change", CHANGES)
def test_parameters_of_another_kind_between_the_ways_are_refused(change, whole):
    module, x = rnn_gpu.torch.LSTM(M, N), torch.randn(T, B, M, requires_grad=True)
    y, _ = module(x, mask=None if whole else torch.ones(T, B, dtype=torch.bool))
    CHANGES[change](module)  # of which torch's counts of versions say nothing
    refuses(OrderError, "on the way back|the way forward saved", partial(y.sum().backward))


@pytest.mark.parametrize("of", ["parameters", "saved"])
def test_what_was_saved_is_read_in_whatever_layout_it_comes_back(of):
    module, x = rnn_gpu.torch.GRU(M, N), torch.randn(T, B, M, requires_grad=True)
    (expected,) = torch.autograd.grad(module(x)[0].sum(), x)

    def turned(a):
        return a.mT.contiguous().mT if a.dim() > 1 else a

    hook = turned if of == "saved" else lambda a: a
    with torch.autograd.graph.saved_tensors_hooks(lambda a: a, hook):
        y, _ = module(x)
    if of == "parameters":
        for θ in module.parameters():
            θ.data = turned(θ.data)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], expected)


class Within(torch.Tensor):
    """A tensor that has its numbers in another."""

    @staticmethod
    def __new__(cls, a):
        return torch.Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype)

    def __init__(self, a):
        self.a = a

    @classmethod
    def __torch_dispatch__(cls, f, kinds, given=(), named=None):
        given = [a.a if isinstance(a, cls) else a for a in given]
        found = f(*given, **(named or {}))
        return cls(found) if isinstance(found, torch.Tensor) else found


@pytest.mark.parametrize("of", [0, 1], ids=["y", "last"])
def test_gradients_without_numbers_in_memory_are_refused(of):
    result = rnn_gpu.torch.GRU(M, N)(torch.randn(T, B, M))[of]
    slope = Within(torch.ones(result.shape))
    refuses(UnsupportedError, "no numbers in memory", lambda: result.backward(slope))


def test_parameters_are_read_as_they_are_by_now():
    module, other = rnn_gpu.torch.RNN(M, N), rnn_gpu.torch.RNN(M, N)
    x, W = torch.randn(T, B, M), module.weight_hh_l0
    module(x)
    W.data = W.data.T  # the same memory
    other.load_state_dict({name: a.clone() for name, a in module.state_dict().items()})
    assert torch.equal(module(x)[0], other(x)[0])
    y, _ = module.double()(x.double())
    assert y.dtype == torch.float64 and torch.allclose(y.float(), other(x)[0], atol=1e-6)


def test_gradients_of_any_layout_go_back():
    module, x = rnn_gpu.torch.GRU(M, N), torch.randn(T, B, M)
    y, _ = module(x)
    dy = torch.randn(N, B, T).permute(2, 1, 0)
    strange = torch.complex(torch.zeros_like(dy), -dy).conj().imag
    assert strange.is_neg() and not strange.is_contiguous()
    expected = torch.autograd.grad(y, module.weight_hh_l0, dy.clone(), retain_graph=True)
    assert torch.equal(*expected, *torch.autograd.grad(y, module.weight_hh_l0, strange))


@pytest.mark.parametrize("batch, n", [(9, 20), (2, 70)], ids=["samples", "units"])
@pytest.mark.parametrize("how", HOWS)
def test_threads_that_share_a_call_give_the_bits_of_one(how, batch, n, monkeypatch):
    module, x, states = made(how, 18, n, batch, 9)
    alone, seen = numbers(module, x, states), counting(monkeypatch)
    monkeypatch.setattr(threads, "threads_of", lambda parallel: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found, clipped, way = numbers(module, x, states)
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {2} and way.startswith(Passed.__name__) and clipped == alone[1]
    assert all(map(torch.equal, found, alone[0]))


def frozen(kind="LSTM"):
    return getattr(rnn_gpu.torch, kind)(M, N).requires_grad_(False)


@pytest.mark.parametrize("of", ["x", "h"])
def test_a_second_derivative_is_refused_whatever_asks_for_the_first(of):
    module, x, h = frozen("GRU"), torch.randn(T, B, M), torch.randn(1, B, N)
    asked = {"x": x, "h": h}[of].requires_grad_()
    y, _ = module(x, h)
    (slope,) = torch.autograd.grad(y.sum(), asked, create_graph=True)
    refuses(UnsupportedError, "^double backward", lambda: (slope**2).sum().backward())


@pytest.mark.filterwarnings("ignore:.*jit.script.*is deprecated")  # torch's own, of its jvps
@pytest.mark.parametrize("grad", [True, False])
def test_forward_mode_is_refused(grad):
    ad, module, x = torch.autograd.forward_ad, frozen(), torch.randn(T, B, M)
    with ad.dual_level(), torch.set_grad_enabled(grad):
        dual = ad.make_dual(x, torch.ones_like(x))
        refuses(NotImplementedError, "jvp", lambda: module(dual))
    assert module(x)[0].shape == (T, B, N)


def test_steps_clipped_are_those_of_one_way_back():
    module = rnn_gpu.torch.LSTM(M, N, clip_step_value=1e-9)
    y, _ = module(torch.randn(T, B, M))
    counts = []
    for _ in range(2):
        y.sum().backward(retain_graph=True)
        counts.append(module.clipped_steps)
    assert counts[0] == counts[1] > 0


def test_many_gradients_at_once_are_refused():
    module, x = rnn_gpu.torch.GRU(M, N), torch.randn(T, B, M)
    many = partial(torch.autograd.functional.jacobian, lambda x: module(x)[0], x, vectorize=True)
    refuses(UnsupportedError, "^gradients of many outputs at once", many)


def test_parameters_of_another_size_are_refused():
    for name, shape in (("weight_ih_l0", (2 * N, M)), ("weight_ih_l0", (4 * N, M - 1))):
        module = rnn_gpu.torch.LSTM(M, N)
        setattr(module, name, torch.nn.Parameter(torch.randn(shape)))
        words = rf"^U has shape \({shape[0]}, {shape[1]}\), expected \({4 * N}, {M}\)"
        refuses(ShapeError, words, partial(module, torch.randn(T, B, M)))


def test_an_operator_is_as_precise_as_it_was_asked_to_be():
    module, x = rnn_gpu.torch.GRU(M, N, precision="tf32"), torch.randn(2, T, B, M)
    mapped = torch.func.vmap(lambda x: module(x)[0])
    refuses(ArgumentError, "^precision is 'tf32', but device is 'cpu'", partial(mapped, x))
