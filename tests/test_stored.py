"""Compiled kernels are kept between runs, and found again only where nothing they are made of has
changed.
"""

import errno
import gc
import os
import pickle
import subprocess
import sys
import time
import types
import weakref

import numba
import numpy as np
import pytest
from numba.core import config

import rnn_gpu
from formulas import double, formula, module
from programs import python
from rnn_gpu.kernels import private
from rnn_gpu.kernels import store as kernel_store
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.elman import elman as elman_of
from rnn_gpu.kernels.devices import cpu
from rnn_gpu.kernels.devices.cpu import recurrence, stored
from rnn_gpu.kernels.once import forget
from rnn_gpu.kernels.store import files
from rnn_gpu.kernels.store.files import Folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where kernels are kept in this test."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kernels"))
    return kernel_store.folder().path


def elman(scale):
    def step(p, q, s):
        return (np.tanh(scale * (p[0] + q[0])),), ()

    def back(ds, kept, s, s_next):
        δ = ds[0] * scale * (1.0 - s_next[0] * s_next[0])
        return (δ,), (δ,), (0.0,)

    return CELLS["elman_tanh"]._replace(name="mine", step=step, back=back)


def fresh(cell):
    """(what a step of ones gives, whether its kernel was found): the kernel made anew, as in
    another run.
    """
    kernel = recurrence.forward_kernel.__wrapped__(cell, np.float32, 1, 1, True)
    p, W = np.ones((1, 1, 1, 3), "f"), np.zeros((3, 3), "f")
    s, kept = np.zeros((1, 2, 1, 3), "f"), np.zeros((1, 1, 0, 3), "f")
    arrays = p, W, np.zeros(0, "f"), s, kept, np.ones((1, 1), np.uint8)
    kernel(arrays, False, np.zeros(999, "f"), False, np.zeros(1, np.int64), 0, 1)
    return s[0, 1, 0, 0], sum(kernel.stats.cache_hits.values()) == 1


def elementwise(f, x):
    """(f of x, whether its kernel was found): the kernel made anew, as in another run."""
    kernel, y = cpu.elementwise_kernel.__wrapped__(f, np.float64, 1, 1, 0), np.zeros(len(x))
    kernel((y,), (x,), ())
    return y, sum(kernel.stats.cache_hits.values()) == 1


def run(text, folder, *arguments):
    """What a program that keeps its kernels in the folder prints."""
    return python(text, *arguments, NUMBA_CACHE_DIR=str(folder)).stdout


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
    for expected in (False, True):
        y, found = elementwise(double, np.arange(5.0))
        assert (y == 2 * np.arange(5)).all() and found == expected


def test_a_formula_of_a_module_that_is_gone_is_compiled_again(folder, monkeypatch):
    module = types.ModuleType("gone")
    exec("import numpy as np\ndef f(z):\n    return np.tanh(z) + 1.0", vars(module))
    monkeypatch.setitem(sys.modules, "gone", module)
    for _ in range(2):
        assert (elementwise(module.f, np.zeros(3))[0] == 1).all()
        monkeypatch.delitem(sys.modules, "gone", raising=False)


@pytest.mark.slow
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
        # before, its derivative is checked
        assert run(text, tmp_path).split()[-2:] == ["positive:", "3.0"]


@pytest.mark.slow
def test_a_kernel_of_another_run_is_not_taken_for_one_of_this_run(tmp_path):
    text = """
import sys
import numpy as np, rnn_gpu
from rnn_gpu.kernels.devices.cpu import recurrence, threads

threads.ENOUGH = recurrence.WORTH_BARRIER = 1
threads.most = lambda: 2
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


def test_a_changed_setting_of_a_module_is_another_kernel(folder):
    settings = module("settings", SLOPE=2.0)
    for slope, expected in ((2.0, False), (3.0, False), (2.0, True), (3.0, True)):
        settings.SLOPE = slope
        y, found = elementwise(
            formula("def f(z): return settings.SLOPE * z", settings=settings), np.ones(3)
        )
        assert (y == slope).all() and found == expected


def test_what_was_compiled_before_a_change_is_not_kept_as_made_after_it(folder):
    settings = module("settings", SLOPE=2.0)
    text = "def f(z): return settings.SLOPE * z"
    f = formula(text, settings=settings)
    assert elementwise(f, np.ones(3)) == (pytest.approx(2 * np.ones(3)), False)
    settings.SLOPE = 3.0
    # is the formula as it was compiled before, whatever it refers to now
    elementwise(f, np.ones(3))
    y, _ = elementwise(formula(text, settings=settings), np.ones(3))
    assert (y == 3).all()


def sloping(name):
    """(the names of an activation name · z, its settings): what it refers to is under both."""
    names = {"SLOPE": 2.0, "settings": module("settings", SLOPE=2.0), "np": np}
    exec(f"def f(z): return {name} * z\ndef df(y): return {name} + 0.0 * y", names)
    return names, names["settings"]


def test_what_could_not_be_told_when_it_was_compiled_is_not_kept_when_it_can(folder):
    settings = module("settings", times=numba.njit("f8(f8)")(double))
    text = "def f(z): return settings.times(z)"
    f = formula(text, settings=settings)
    elementwise(f, np.ones(3))
    settings.times = numba.njit(lambda z: 3.0 * z)
    elementwise(f, np.ones(3))
    y, _ = elementwise(formula(text, settings=settings), np.ones(3))
    assert (y == 3).all()


@pytest.mark.parametrize("name", ["SLOPE", "settings.SLOPE"])
def test_a_layer_reads_anew_what_its_formulas_refer_to(name, device):
    names, settings = sloping(name)
    for slope in (2.0, 3.0):
        names["SLOPE"] = settings.SLOPE = slope
        layer = rnn_gpu.Dense(
            1, 1, activation=(names["f"], names["df"]), device=device, dtype="float64"
        )
        layer.parameters["V"][...], layer.parameters["b"][...] = 1.0, 0.0
        y = layer(np.ones((1, 1, 1)))
        assert y[0, 0, 0] == slope and layer.backward(np.ones((1, 1, 1)))[0, 0, 0] == slope


def test_a_recurrent_layer_does_too(folder):
    names, settings = sloping("settings.SLOPE")
    for slope in (2.0, 3.0):
        settings.SLOPE = slope
        layer = rnn_gpu.RNN(
            1, 1, activation=(names["f"], names["df"]), device="cpu", dtype="float64"
        )
        for parameter, value in {"U": 1.0, "W": 0.0, "b": 0.0}.items():
            layer.parameters[parameter][...] = value
        assert layer(np.ones((1, 1, 1)))[0][0, 0, 0] == slope


@pytest.mark.parametrize(
    "setting",
    [
        ("OPT", 1),
        ("BOUNDSCHECK", 1),
        ("USING_SVML", "other"),
        ("LOOP_VECTORIZE", 0),
        ("CPU_NAME", "x"),
    ],
)
def test_numbas_settings_belong_to_the_key(folder, monkeypatch, setting):
    key = stored.described(("kernel",))
    monkeypatch.setattr(config, "THREADING_LAYER", "none")
    monkeypatch.setattr(config, "CACHE_DIR", "elsewhere")
    assert stored.described(("kernel",)) == key
    monkeypatch.setattr(config, *setting)
    assert stored.described(("kernel",)) != key


def test_a_kernel_with_other_settings_is_not_found(folder, monkeypatch):
    assert [elementwise(double, np.ones(3))[1] for _ in range(2)] == [False, True]
    monkeypatch.setattr(config, "BOUNDSCHECK", 1)
    assert not elementwise(double, np.ones(3))[1]


# What stands in a file


@pytest.fixture
def store(tmp_path):
    return Folder(tmp_path / "store", 10_000)


def kept_in(store, name="name", payload=b"a kernel's bytes"):
    store.write(name, payload)
    assert store.read(name) == payload
    return store.path / f"{name}.kernel"


def test_no_flipped_bit_is_read(store):
    file = kept_in(store)
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert store.read("name") is None
    file.write_bytes(whole)
    assert store.read("name") == b"a kernel's bytes"


DAMAGES = {
    "cut off": lambda path: os.truncate(path, os.path.getsize(path) - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: os.truncate(path, 0),
    "gone": os.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: path.symlink_to(path.rename(path.with_name("elsewhere"))),
    "of another name": lambda path: os.replace(kept_in(Folder(path.parent, 10_000), "other"), path),
    "too large": lambda path: os.truncate(path, 1 << 40),
} | (
    {"a pipe": lambda path: (path.unlink(), os.mkfifo(path, 0o600))}
    if hasattr(os, "mkfifo")
    else {}
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_not_read(store, damage):
    DAMAGES[damage](kept_in(store))
    assert store.read("name") is None
    store.write("name", b"again")
    assert store.read("name") == (None if damage == "a folder" else b"again")
    assert not list(store.path.glob("*.part"))


@pytest.mark.parametrize("at", [0, 20, -1])
def test_a_kernel_with_a_flipped_bit_is_compiled_again(folder, at):
    elementwise(double, np.ones(3))
    (file,) = folder.iterdir()
    flipped = bytearray(file.read_bytes())
    flipped[at] ^= 4
    file.write_bytes(flipped)
    for expected in (False, True):
        y, found = elementwise(double, np.ones(3))
        assert (y == 2).all() and found == expected


@pytest.mark.parametrize(
    "error", [ValueError, IndexError, RuntimeError, RecursionError, AttributeError, OSError]
)
def test_whatever_a_kernel_raises_when_it_is_loaded_it_is_compiled(folder, monkeypatch, error):
    def rebuild(*arguments):
        raise error("seen")

    elementwise(double, np.ones(3))
    monkeypatch.setattr(private.CompileResult, "_rebuild", rebuild)
    y, found = elementwise(double, np.ones(3))
    assert (y == 2).all() and not found


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_is_not_the_files_fault_passes_through(folder, monkeypatch, error):
    def rebuild(*arguments):
        raise error

    elementwise(double, np.ones(3))
    monkeypatch.setattr(private.CompileResult, "_rebuild", rebuild)
    with pytest.raises(error):
        elementwise(double, np.ones(3))


# Who wrote it


owners = pytest.mark.skipif(not files.OWNERS, reason="this system has no owners of files")


class Planted:
    def __reduce__(self):
        return os.mkdir, (os.environ["PLANTED"],)


@owners
def test_a_planted_pickle_of_another_user_does_not_run(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PLANTED", str(tmp_path / "ran"))
    elementwise(double, np.ones(3))
    (file,) = folder.iterdir()
    file.unlink()
    kernel_store.folder().write(file.stem, pickle.dumps(Planted()))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(files, "mine", lambda status, kind: status)
        # as it would
        assert (elementwise(double, np.ones(3))[0] == 2).all() and (tmp_path / "ran").is_dir()
    (tmp_path / "ran").rmdir()
    kernel_store.folder().write(file.stem, pickle.dumps(Planted()))
    us, path = os.geteuid(), kernel_store.folder().path
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    # that another user made for us
    monkeypatch.setattr(stored, "folder", lambda: Folder(path, 10_000_000))
    assert (elementwise(double, np.ones(3))[0] == 2).all() and not (tmp_path / "ran").exists()


@owners
def test_only_what_the_user_alone_can_write_is_read(store, monkeypatch, tmp_path):
    file = kept_in(store)
    assert store.path.stat().st_mode & 0o777 == 0o700 and file.stat().st_mode & 0o777 == 0o600
    for path, safe in ((file, 0o600), (store.path, 0o700)):
        for mode in (0o020, 0o002):
            path.chmod(safe | mode)
            assert store.read("name") is None
        path.chmod(safe | 0o055)  # to read is no harm
        assert store.read("name")
    link = Folder(tmp_path / "link", 10_000)
    link.path.symlink_to(store.path)
    assert link.read("name") is None and link.files() == []
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    assert store.read("name") is None and store.files() == [] and store.clear() == []
    store.write("name", b"new")
    assert file.read_bytes().endswith(b"a kernel's bytes")
    assert store.trouble() == f"it belongs to user {us}"


@owners
def test_users_of_one_cache_have_a_folder_each(folder, monkeypatch):
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    assert (
        kernel_store.folder().path != folder and kernel_store.folder().path.parent == folder.parent
    )


# How much


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    store = Folder(tmp_path, 4 * 1000)
    for k in range(4):
        os.utime(kept_in(store, f"k{k}", b"." * 900), (k, k))
    store.read("k0")
    store.write("k4", b"." * 900)
    assert sorted(file.name for file in store.files()) == [
        "k0.kernel",
        "k2.kernel",
        "k3.kernel",
        "k4.kernel",
    ]
    store.write("k5", b"." * 4000)
    assert store.read("k5") is None and len(store.files()) == 4


def test_a_file_that_another_process_removes_is_no_error(store, monkeypatch):
    kept_in(store)
    listed = Folder.listed
    gone = files.File("gone.kernel", 9_900, 0.0)
    monkeypatch.setattr(Folder, "listed", lambda self, here: [gone, *listed(self, here)])
    store.write("other", b".")
    assert store.read("name") and store.read("other")
    store.clear()
    assert not list(store.path.iterdir())


def test_what_a_killed_writer_leaves_is_removed_in_time(store):
    kept_in(store)
    for name, age in (
        ("old.part", 2 * files.ABANDONED),
        ("young.part", 0),
        ("another's", 2 * files.ABANDONED),
    ):
        (store.path / name).write_bytes(b"half")
        os.utime(store.path / name, (time.time() - age,) * 2)
    store.write("other", b".")
    assert {path.name for path in store.path.iterdir()} == {
        "name.kernel",
        "other.kernel",
        "young.part",
        "another's",
    }


WRITER = """
import importlib.util, random, sys
spec = importlib.util.spec_from_file_location("folder", sys.argv[1])
folder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(folder)
from pathlib import Path

store = folder.Folder(Path(sys.argv[2]), 50_000)
for k in range(150):
    name = random.choice("abcdefgh")
    store.write(name, name.encode() * 9_000)
    name = random.choice("abcdefgh")
    assert store.read(name) in (None, name.encode() * 9_000)
    if k % 50 == 49:
        store.clear()
"""


def test_processes_that_write_and_read_at_once_find_whole_files(tmp_path):
    command = [sys.executable, "-c", WRITER, files.__file__, str(tmp_path / "store")]
    for process in [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert all(path.suffix == ".kernel" for path in (tmp_path / "store").iterdir())


def test_a_full_disk_keeps_what_was_there(store, monkeypatch):
    class Full:
        def __init__(self, *arguments, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    kept_in(store)
    with monkeypatch.context() as disk:
        disk.setattr(files, "open", Full, raising=False)
        store.write("other", b".")
        store.write("name", b"new")
    assert [path.name for path in store.path.iterdir()] == ["name.kernel"]
    assert store.read("name") == b"a kernel's bytes"


@pytest.mark.parametrize("text", ["", "lots", "-1", "1e3"])
def test_a_bound_that_is_no_number_is_an_error(monkeypatch, text):
    monkeypatch.setenv("RNN_GPU_CACHE_MB", text)
    with pytest.raises(
        ValueError, match=f"RNN_GPU_CACHE_MB is '{text}', expected a number of megabytes"
    ):
        kernel_store.folder()


def test_a_bound_of_zero_keeps_nothing(folder, monkeypatch):
    monkeypatch.setenv("RNN_GPU_CACHE_MB", "0")
    assert [elementwise(double, np.ones(3))[1] for _ in range(2)] == [False, False]
    assert not folder.exists()


def test_clear_removes_kernels_of_older_versions_too(folder):
    elementwise(double, np.ones(3))
    for name in ("0" * 64, "somebody's"):
        (folder.parent / name).write_bytes(b"....")
    assert len(kernel_store.clear()) == 2
    assert not list(folder.iterdir()) and {path.name for path in folder.parent.iterdir()} == {
        folder.name,
        "somebody's",
    }


# Within a process


def test_a_formula_that_nobody_has_is_let_go(folder):
    f = formula("def f(z): return np.tanh(0.5 * z)")
    layer = rnn_gpu.RNN(2, 3, activation=(f, lambda y: 0.5 * (1.0 - y * y)), device="cpu")
    x, seen = np.ones((2, 1, 2), "f"), weakref.ref(f)
    before = layer(x)[0]
    forget()
    assert (layer(x)[0] == before).all()  # a layer that is there goes on
    assert elman_of(ACTIVATIONS["tanh"]) is CELLS["elman_tanh"]
    del f, layer
    gc.collect()
    assert seen() is not None
    forget()
    gc.collect()
    assert seen() is None
