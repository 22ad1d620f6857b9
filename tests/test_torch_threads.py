"""Calls of torch's modules have torch's number of threads, and leave it alone.  Skipped without
torch.
"""

import pytest

torch = pytest.importorskip("torch")

import rnn_gpu.torch
from processes import run
from rnn_gpu.kernels.devices.cpu import products, recurrence, threads


def step(n=20, B=33, T=5):
    """The bits of a training step."""
    torch.manual_seed(0)
    module, x = rnn_gpu.torch.LSTM(n, n), torch.randn(T, B, n)
    y, (h, c) = module(x.requires_grad_())
    (y.sum() + h.sum() + c.sum()).backward()
    return [a.detach().clone() for a in (y, h, c, x.grad, *(θ.grad for θ in module.parameters()))]


@pytest.fixture
def counts(monkeypatch):
    """Of every call, how many threads share it; every one is worth it."""
    seen, share = [], threads.share

    def sharing(kernel, count, *arguments):
        seen.append(count)
        share(kernel, count, *arguments)

    monkeypatch.setattr(threads, "ENOUGH", 1)
    monkeypatch.setattr(recurrence, "WORTH_BARRIER", 1)
    for module in (recurrence, products):
        monkeypatch.setattr(module, "share", sharing)
    before = torch.get_num_threads()
    yield seen
    torch.set_num_threads(before)


COUNTED = """
import torch
torch.set_num_threads(int(sys.argv[1]))
before = torch.get_num_threads()
import rnn_gpu.torch
from processes import *

threads.ENOUGH = recurrence.WORTH_BARRIER = 1
after = [torch.get_num_threads()]
y, _ = rnn_gpu.torch.GRU(5, 7)(torch.zeros(3, 9, 5))
after.append(torch.get_num_threads())
y.sum().backward()
call(3)
after.append(torch.get_num_threads())
print(before, *after)
"""


@pytest.mark.parametrize("count", [1, 3])
def test_torchs_number_of_threads_stays_what_it_is(count):
    assert run("import sys" + COUNTED, count).split() == 4 * [str(count)]


def test_calls_have_at_most_torchs_number_of_threads_and_numbas(counts, monkeypatch):
    monkeypatch.setattr(threads, "threads_of", lambda parallel: 3)
    for said, expected in ((1, 1), (2, 2), (4, 3)):
        torch.set_num_threads(said)
        step()
        assert set(counts) == {expected}
        counts.clear()
    assert threads.most() == 3
