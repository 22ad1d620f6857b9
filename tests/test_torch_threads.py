"""Calls of torch's modules have torch's number of threads, and torch's own threads, and leave both
as they are.  Skipped without torch.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from ctypes import CFUNCTYPE, c_uint, c_void_p

import numba
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import rnn_gpu.torch
from processes import call, run
from rnn_gpu.bridges.torch import threads as torchs
from rnn_gpu.kernels.devices.cpu import threads
from rnn_gpu.kernels.sharing import AtMost
from torch_pairs import counting


def step(n=20, B=33, T=5):
    """The bits of a training step."""
    torch.manual_seed(0)
    module, x = rnn_gpu.torch.RNN(n, n), torch.randn(T, B, n)
    y, h = module(x.requires_grad_())
    (y.sum() + h.sum()).backward()
    return [a.detach().clone() for a in (y, h, x.grad, *(θ.grad for θ in module.parameters()))]


@pytest.fixture
def counts(monkeypatch):
    """Of every call, how many threads share it."""
    before = torch.get_num_threads()
    yield counting(monkeypatch)
    torch.set_num_threads(before)


COUNTED = """
import torch
torch.set_num_threads(int(sys.argv[1]))
before = torch.get_num_threads()
import rnn_gpu.torch
from processes import *

threads.ENOUGH = recurrence.WORTH_BARRIER = 1
after = [torch.get_num_threads()]
y, _ = rnn_gpu.torch.RNN(5, 7)(torch.zeros(3, 9, 5))
after.append(torch.get_num_threads())
y.sum().backward()
call(3)
after.append(torch.get_num_threads())
print(before, *after)
"""


def test_torchs_number_of_threads_stays_what_it_is():
    """One that Numba would not say."""
    count = str(numba.config.NUMBA_NUM_THREADS + 1)
    assert run("import sys" + COUNTED, count).split() == [count] * 4


def test_calls_have_at_most_torchs_number_of_threads_and_numbas(counts, monkeypatch):
    monkeypatch.setattr(threads, "threads_of", lambda parallel: 3)
    for said, expected in ((1, 1), (2, 2), (4, 3)):
        torch.set_num_threads(said)
        step()
        assert max(counts) == expected
        counts.clear()
    assert threads.most() == 3
    with AtMost(2), AtMost(4):
        assert threads.most() == 2


# torch's own threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="torch has no GNU OpenMP here")


@pytest.fixture
def lent(monkeypatch):
    """count -> a context whose calls are shared by so many of torch's threads; none of ours may
    begin.
    """

    def gather(turns, count):
        raise AssertionError("threads of ours begin")

    monkeypatch.setattr(threads.turns, "teams", {})
    monkeypatch.setattr(type(threads.turns), "gather", gather)
    return lambda count: AtMost(count, torchs.pool())


@threads.jit
def note(a, arrived, part, parts):
    """In a, how many parts a call has, where each is done."""
    a[part] += parts


def parts_of(count):
    a = np.zeros(count)
    threads.share(note, count, a)
    return a.tolist()


@linux
def test_calls_are_shared_by_torchs_threads(lent):
    for count in (2, 3, 2):  # GNU OpenMP ends threads, and starts others
        with lent(count):
            assert parts_of(count) == [count] * count
            call(count)
    with lent(4):  # a region of four, of which two have nothing to do
        assert parts_of(2) == [2, 2]
    torch.zeros(10**6).sum()


@linux
@pytest.mark.parametrize("B, n", [(33, 20), (2, 70)], ids=["samples", "units"])
def test_torchs_threads_give_the_bits_of_ours(B, n, counts, monkeypatch):
    monkeypatch.setattr(threads, "threads_of", lambda parallel: 2)
    monkeypatch.setattr(threads.turns, "teams", {})
    found = []
    for count, lends in ((1, True), (2, True), (2, False)):
        if not lends:
            monkeypatch.setattr(torchs, "pool", lambda: None)
        torch.set_num_threads(count)
        found.append(step(n, B))
        assert count in counts and bool(threads.turns.teams) == (not lends)
        counts.clear()
    for alone, lent, own in zip(*found, strict=True):
        assert torch.equal(alone, lent) and torch.equal(alone, own)


@linux
def test_within_a_region_of_torchs_a_call_is_done_alone(lent):
    found, pool = [], torchs.pool()

    @CFUNCTYPE(None, c_void_p)
    def within(nothing):
        with lent(2):
            found.append(parts_of(2))

    CFUNCTYPE(None, type(within), c_void_p, c_uint, c_uint)(pool.parallel)(within, None, 2, 0)
    assert found == [[1, 0], [1, 0]]


@linux
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_error_in_one_of_torchs_threads_is_raised(at, lent):
    @threads.jit
    def fail(a, arrived, part, parts):
        a[part] += 1
        if part == at:
            raise ValueError

    a = np.zeros(3)
    with lent(3):
        with pytest.raises(RuntimeError, match="a part of a call"):
            threads.share(fail, 3, a)
        assert a.tolist() == [1, 1, 1]
        call(3)


@linux
def test_threads_that_call_at_once_have_threads_of_torchs_each(lent):
    def calls():
        with lent(2):
            for _ in range(50):
                call(2)
            return parts_of(2)

    with ThreadPoolExecutor(4) as callers:
        found = [callers.submit(calls) for _ in range(8)]
        assert [each.result(timeout=60) for each in found] == [[2, 2]] * 8


def test_an_openmp_that_is_not_torchs_is_not_taken_for_it():
    class Other:
        def omp_set_num_threads(self, count):
            pass

    before = torch.get_num_threads()
    assert not torchs.is_torchs(Other()) and torch.get_num_threads() == before


LENT = """
import os, sys
os.environ.update(dict(each.split("=") for each in sys.argv[1:]))
import torch
from processes import *
from rnn_gpu.bridges.torch import threads as torchs
from rnn_gpu.kernels.sharing import AtMost
from torch_pairs import counting

def shared():
    with AtMost(3, torchs.pool()):
        call(3)

"""
LIMITED = """
shared()
print("done", len(threads.turns.teams))
"""


@linux
def test_where_openmp_gives_fewer_threads_a_call_is_done_alone():
    assert run(LENT + LIMITED, "OMP_THREAD_LIMIT=2").split() == ["done", "0"]


FORKED = """
def late():
    shared()
    assert torchs.pool() is None and list(threads.turns.teams) == [3]

def known():
    shared()
    assert torchs.pool() and list(threads.turns.teams) == [3]

torch.ones(10**6).sum()  # OpenMP has threads
children = [forked(late)]
shared()
children.append(forked(known))
shared()
assert not threads.turns.teams
print([ended(child) for child in children])
"""


@linux
def test_a_forked_process_has_threads_of_its_own():
    """Whether torch's were known before, or not."""
    assert run(LENT + FORKED) == "[0, 0]\n"


INTERRUPTED = """
def caught():
    with AtMost(3, torchs.pool()):
        call(3)

caught()
signal.signal(signal.SIGALRM, interrupt)
stopped = sum(interrupting(caught, random.uniform(1e-6, 1e-4)) for _ in range(500))
caught()
print(stopped)
"""


@pytest.mark.slow
@linux
def test_a_call_by_torchs_threads_that_is_interrupted_leaves_threads_that_work():
    assert int(run(LENT + INTERRUPTED)) > 20
