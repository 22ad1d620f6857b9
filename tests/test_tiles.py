"""The CPU's tiles: products of any size, the same bits for a sample whatever is beside it and
however many threads there are.
"""

import os
import select
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

import rnn_gpu
from conftest import close
from processes import run
from rnn_gpu.kernels import Sums
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices import cpu, reference
from rnn_gpu.kernels.devices.cpu import products, recurrence, threads
from rnn_gpu.kernels.devices.cpu.compilation import jit
from rnn_gpu.kernels.devices.cpu.simd import machine
from rnn_gpu.kernels.devices.cpu.tiles import FEW, MANY, layout

SIZES = [(1, 1, 1, 1), (3, 2, 5, 7), (4, 5, 33, 16), (2, 150, 64, 96), (2, 1, 17, 80)]  # T, B, m, n


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_of_any_size(size, dtype):
    T, B, m, n = size
    rng = np.random.default_rng(0)
    x, U, b, δ = (
        rng.normal(size=shape).astype(dtype)
        for shape in ((T, B, m), (3 * n, m), 3 * n, (T, B, 3, n))
    )
    close(cpu.project(x, U, b, 3), reference.project(x, U, b, 3), dtype)
    assert (cpu.project(x, U, None, 3) == cpu.project(x, U, 0 * b, 3)).all()
    for below, bias in ((True, True), (True, False), (False, True), (False, False)):
        got = cpu.project_back(δ, x, U, Sums(below=below, bias=bias))
        assert [a is None for a in got] == [not below, False, not bias]
        sums = Sums(2 * got[1], None if got[2] is None else 2 * got[2], below, bias)
        added = cpu.project_back(δ, x, U, sums)
        for once, thrice, expected in zip(got, added, reference.project_back(δ, x, U), strict=True):
            if once is not None:
                close(once, expected, dtype)
                close(thrice, expected if once is got[0] else 3 * expected, dtype)


@pytest.mark.parametrize("repacked", [True, False])
def test_the_way_back_does_not_depend_on_where_its_rows_lie_or_who_sums_them(repacked, monkeypatch):
    """Rows of δ that are far from each other are packed; threads share rows of the sums, and of
    each chunk of what goes below.
    """
    rng = np.random.default_rng(0)
    δ, x, U = (
        rng.normal(size=shape).astype("f") for shape in ((70, 9, 4, 29), (70, 9, 21), (116, 21))
    )
    expected = cpu.project_back(δ, x, U)
    monkeypatch.setattr(products, "REPACKED_FROM", 0 if repacked else 1 << 20)
    monkeypatch.setattr(threads, "ENOUGH", 1)
    products.plan_back.cache_clear()
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "most", lambda count=count: count)
        for a, b in zip(cpu.project_back(δ, x, U), expected, strict=True):
            assert (a == b).all()
    products.plan_back.cache_clear()


def passes(B, n, cell="lstm", dtype="float32", T=5, resets=None, **clips):
    """Everything one layer computes for B samples, each array with the samples first or without
    them.
    """
    layer = rnn_gpu.Recurrent(CELLS[cell], n, n, device="cpu", dtype=dtype)
    x, dy = np.random.default_rng(3).normal(size=(2, T, 33, n)).astype(dtype)[:, :, :B]
    y, _ = layer(x, resets=resets)
    dx, first = layer.backward(dy, **clips)
    return y, layer.delta, dx, *layer.grads.values(), *first, np.array(layer.clipped_steps)


@pytest.mark.parametrize(
    "cell, n", [("elman_tanh", 13), ("elman_tanh", 64), ("lstm", 13), ("lstm", 64), ("gru", 80)]
)
def test_a_sample_does_not_depend_on_those_beside_it(cell, n):
    """Of the last, whose W is large, six samples and more have tiles of another form."""
    if cell == "gru" and machine()[1] >= MANY:
        assert layout(3, n, np.float32, FEW) != layout(3, n, np.float32, 11)
    many = passes(11, n, cell)
    for B in (1, 2, 3, 7):
        for a, b in zip(passes(B, n, cell)[:3], many[:3], strict=True):
            assert (a == b[:, :B]).all()


@pytest.mark.parametrize(
    "clips",
    [
        pytest.param({}, id="free"),
        pytest.param(
            {"clip_step_value": 0.5, "clip_step_norm": 1.0}, id="clipped", marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.parametrize("B, n, how", [(33, 20, "the samples"), (2, 70, "the units and meet")])
def test_threads_give_the_same_bits(B, n, how, clips, monkeypatch):
    resets = np.random.default_rng(1).random((5, B)) < 0.4
    alone = passes(B, n, resets=resets, **clips)
    assert (alone[-1] > 0) == bool(clips)
    monkeypatch.setattr(threads, "ENOUGH", 1)
    monkeypatch.setattr(recurrence, "WORTH_BARRIER", 1)
    for count in {2, numba.config.NUMBA_NUM_THREADS}:
        monkeypatch.setattr(threads, "most", lambda count=count: count)
        assert f"on {count}, which share {how}" in rnn_gpu.LSTM(n, n, device="cpu").explain(5, B)
        for a, b in zip(passes(B, n, resets=resets, **clips), alone, strict=True):
            assert (a == b).all()


def test_threads_obey_numba_and_the_work(monkeypatch):
    monkeypatch.setattr(threads, "most", lambda: 3)
    assert [threads.threads_for(work, 100) for work in (threads.ENOUGH / 2, threads.ENOUGH)] == [
        1,
        3,
    ]
    assert threads.threads_for(threads.ENOUGH, 2) == 2
    # nothing to share
    assert recurrence.shares(CELLS["lstm"], 1000, 1, 16, 1, np.dtype("f")) == (1, False)
    monkeypatch.setattr(threads, "most", lambda: 2)
    for n, B, by_units in ((128, 16, False), (512, 16, True), (512, 32, False), (128, 2, True)):
        assert recurrence.shares(CELLS["lstm"], 64, B, n, n // 16, np.dtype("f")) == (2, by_units)


@jit
def count_up(a, b, arrived, part, parts):
    a[part] += 1
    b[part] = parts


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_part_of_a_call_is_done_once_after_any_pause(count):
    a, b = np.zeros(count, np.int64), np.zeros(count)
    for calls, pause in enumerate([0, 0, 0.0001, 0.0003, 0.01, 0, 0.0002], 1):
        time.sleep(pause)
        threads.share(count_up, count, a, b)
        assert (a == calls).all() and (b == count).all()


@jit
def fail_in(at, a, arrived, part, parts):
    if part == at:
        raise ValueError
    a[part] += 1


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_error_in_a_thread_is_raised_when_the_others_are_done(at):
    a = np.zeros(3)
    with pytest.raises(RuntimeError, match="a part of a call"):
        threads.share(fail_in, 3, at, a)
    assert a.sum() == 2
    threads.share(fail_in, 3, 3, a)  # the next call knows nothing of it
    assert a.sum() == 5


def test_threads_that_look_for_work_or_sleep_do_not_hold_up_the_end():
    for pause in (0, 0.1):
        run("from processes import *; call(); time.sleep(float(sys.argv[1]))", pause, patience=60)


def test_calls_that_meet_take_turns(monkeypatch):
    """Four calls at once, each of three threads that wait for each other."""
    monkeypatch.setattr(threads, "ENOUGH", 1)
    monkeypatch.setattr(recurrence, "WORTH_BARRIER", 1)
    alone = passes(2, 70, T=3)
    monkeypatch.setattr(threads, "most", lambda: 3)
    with ThreadPoolExecutor(4) as callers:
        for got in [callers.submit(passes, 2, 70, T=3) for _ in range(12)]:
            for a, b in zip(got.result(timeout=60), alone, strict=True):
                assert (a == b).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_threads_work_in_a_forked_process(monkeypatch):
    monkeypatch.setattr(threads, "ENOUGH", 1)
    monkeypatch.setattr(threads, "most", lambda: 2)
    passes(9, 5)
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads and fork: that is what is tried
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        passes(9, 5)
        os.write(write, b"done")
        os._exit(0)
    os.close(write)
    assert select.select([read], [], [], 60)[0] and os.read(read, 4) == b"done"
    os.waitpid(child, 0)
