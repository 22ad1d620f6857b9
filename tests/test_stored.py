"""Compiled kernels are kept between runs, and found again only where nothing they are made of has changed."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest
from numba.core import config

from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices import cpu
from rnn_gpu.kernels.devices.cpu import recurrence, stored
from rnn_gpu.kernels.devices.cpu.stored import description


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def double(z):
    return 2.0 * z


def elman(scale):
    def step(p, q, s):
        return (np.tanh(scale * (p[0] + q[0])),), ()

    def back(ds, kept, s, s_next):
        δ = ds[0] * scale * (1.0 - s_next[0] * s_next[0])
        return (δ,), (δ,), (0.0,)

    return CELLS["elman_tanh"]._replace(name="mine", step=step, back=back)


def fresh(cell):
    """(what a step of ones gives, whether its kernel was found): the kernel made anew, as in another run."""
    kernel = recurrence.forward_kernel.__wrapped__(cell, np.float32, 1, 1, True)
    p, W = np.ones((1, 1, 1, 3), "f"), np.zeros((3, 3), "f")
    s, kept = np.zeros((1, 2, 1, 3), "f"), np.zeros((1, 1, 0, 3), "f")
    kernel(p, W, np.zeros(0, "f"), s, kept, np.ones((1, 1), np.uint8), np.zeros(999, "f"), False, np.zeros(1, np.int64), 0, 1)
    return s[0, 1, 0, 0], sum(kernel.stats.cache_hits.values()) == 1


def run(text, folder, *arguments):
    """What a program that keeps its kernels in the folder prints."""
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kernel_is_compiled_once(folder):
    assert [fresh(elman(0.5))[1] for _ in range(3)] == [False, True, True]
    assert len(list(folder.iterdir())) == 1  # and nothing else is left behind


def test_another_formula_is_another_kernel(folder):
    for scale in (0.5, 0.25, 0.5):
        got, _ = fresh(elman(scale))
        assert got == pytest.approx(np.tanh(scale), rel=1e-6)
    assert len(list(folder.iterdir())) == 2


def test_changed_sources_or_a_broken_file_are_compiled_again(folder, monkeypatch):
    fresh(elman(0.5))
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert not fresh(elman(0.5))[1] and fresh(elman(0.5))[1]
    monkeypatch.setattr(stored, "surroundings", lambda: "other sources")
    assert not fresh(elman(0.5))[1]


def test_elementwise_kernels_are_kept_too(folder):
    for found in (0, 1):
        kernel = cpu.elementwise_kernel.__wrapped__(double, np.float64, 1, 1, 0)
        x, y = np.arange(5.0), np.zeros(5)
        kernel(y, x)
        assert (y == 2 * x).all() and sum(kernel.stats.cache_hits.values()) == found


def test_a_formula_of_a_module_that_is_gone_is_compiled_again(folder, monkeypatch):
    module = types.ModuleType("gone")
    exec("import numpy as np\ndef f(z):\n    return np.tanh(z) + 1.0", vars(module))
    monkeypatch.setitem(sys.modules, "gone", module)
    for _ in range(2):
        kernel = cpu.elementwise_kernel.__wrapped__(module.f, np.float64, 1, 1, 0)
        y = np.zeros(3)
        kernel(y, np.zeros(3))
        assert (y == 1).all()
        monkeypatch.delitem(sys.modules, "gone", raising=False)


def test_a_formula_may_print_newly_compiled_or_kept(tmp_path):
    text = """
import numpy as np, rnn_gpu

def loud(z):
    if z > 0.0:
        print("positive:", z)
    return 0.5 * z

layer = rnn_gpu.RNN(1, 1, activation=rnn_gpu.activation(loud, lambda y: 0.5), device="cpu")
for name, value in {"U": 1.0, "W": 0.0, "b": 0.0}.items():
    layer.parameters[name] = np.full_like(layer.parameters[name], value)
layer(np.array([[[-1.0]], [[3.0]]], "f"))
"""
    for _ in range(2):
        assert run(text, tmp_path).split()[-2:] == ["positive:", "3.0"]  # before, its derivative is checked


def test_a_kernel_of_another_run_is_not_taken_for_one_of_this_run(tmp_path):
    text = """
import sys
import numba, numpy as np, rnn_gpu
from rnn_gpu.kernels.devices.cpu import recurrence, threads

threads.ENOUGH = recurrence.WORTH_MEETING = 1
numba.get_num_threads = lambda: 2
for name in sys.argv[1:]:
    y, _ = rnn_gpu.RNN(3, 7, activation=name, device="cpu", seed=0)(np.ones((5, 9, 3), "f"))
    print(name, y.tolist(), sep="=")
"""

    def outputs(*names):
        return dict(line.split("=") for line in run(text, tmp_path, *names).splitlines())

    once = outputs("tanh") | outputs("relu")
    assert once["tanh"] != once["relu"]
    assert outputs("sigmoid", "tanh", "relu").items() > once.items()  # kernels of three runs
    assert outputs("relu", "sigmoid") == outputs("sigmoid", "relu")


def test_where_nothing_can_be_written_kernels_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "file" / "below"))
    assert [fresh(elman(0.5))[1] for _ in range(2)] == [False, False]


SCALE = 2.0


def test_a_description_is_of_everything_a_formula_refers_to(monkeypatch):
    def through(f):
        return lambda z: f(z)

    def plus(b):
        def f(z, a=1.0):
            return SCALE * z + a * b

        return f

    assert description(plus(3.0)) == description(plus(3.0))
    different = [plus(3.0), plus(3), plus(-0.0), plus(0.0), through(plus(3.0)), through(plus(4.0)), through(np.tanh), lambda z: z + 1.0]
    different = [description(f) for f in different]
    monkeypatch.setattr("test_stored.SCALE", 2.5)
    assert len({*different, description(plus(3.0))}) == len(different) + 1
    with pytest.raises(LookupError):
        description(plus(object()))
