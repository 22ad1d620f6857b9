"""torch's modules and ours side by side: outputs, states and every gradient."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

import rnn_gpu.torch as ours
from conftest import STRICT, close
from rnn_gpu.bridges.torch import calls as ways
from rnn_gpu.bridges.torch import stack, tensors
from rnn_gpu.kernels.devices.cpu import by_address, products, recurrence, threads

T, B, M, N = 5, 3, 4, 7
LENGTHS = torch.tensor([3, 1, 5])  # whose order and its inverse differ
KINDS = ("RNN", "LSTM", "GRU")
OPTIONS = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True},
    "bare": {"bias": False, "bidirectional": True},
    "rows": {"batch_first": True, "num_layers": 3},
}


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def leaves(tree):
    """The tensors of nested tuples, in order; of a PackedSequence its data."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    tree = [tree.data] if isinstance(tree, PackedSequence) else tree
    return [leaf for branch in tree for leaf in leaves(branch)]


def passed(module, x, hx=None, seed=None, **more):
    """Outputs, final states and every gradient of one pass, as arrays; a loss of outputs and
    states.
    """
    asked = [leaf.detach().requires_grad_() for leaf in leaves((x,) if hx is None else (x, hx))]
    x = x._replace(data=asked[0]) if isinstance(x, PackedSequence) else asked[0]
    hx = None if hx is None else tuple(asked[1:]) if isinstance(hx, tuple) else asked[1]
    if seed is not None:
        torch.manual_seed(seed)
    results = leaves(module(x, hx, **more))
    loss = sum((leaf * draw(*leaf.shape, dtype=leaf.dtype)).sum() for leaf in results)
    asked += list(module.parameters())
    return [leaf.detach().numpy() for leaf in (*results, *torch.autograd.grad(loss, asked))]


def agree(theirs, mine, *arguments, dtype="float64", **options):
    """Assert that both modules give the same results and gradients."""
    expected, got = passed(theirs, *arguments, **options), passed(mine, *arguments, **options)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        close(a, b, dtype)


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


def f(z):
    return np.arctan(z)


def df(y):
    return np.cos(y) ** 2


def own_activation():
    return ours.RNN(M, N, nonlinearity=(f, df))


def counting(monkeypatch) -> list[int]:
    """Of every call from now on, how many threads share it; each is worth it."""
    seen, share = [], threads.share

    def sharing(kernel, count, *arguments):
        seen.append(count)
        share(kernel, count, *arguments)

    for module in (threads, by_address):
        monkeypatch.setattr(module, "ENOUGH", 1)
    monkeypatch.setattr(recurrence, "WORTH_BARRIER", 1)
    for module in (recurrence, products, by_address):
        monkeypatch.setattr(module, "share", sharing)
    return seen


def on(device, monkeypatch):
    """Have our modules compute there, with tensors of the host."""
    if device == "cuda" and STRICT:
        pytest.skip("strict arrays take no tensors of the host: see test_strict_torch.py")
    for home in (ways, tensors):
        monkeypatch.setattr(home, "device_of", lambda tensor: device)
    if device != "cpu":
        monkeypatch.setattr(stack, "whole", lambda *given: None)


X = draw(T, B, M, dtype=torch.float32)
H = torch.zeros(1, B, N)
