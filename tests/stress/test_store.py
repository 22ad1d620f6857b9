"""The store of kernels in a bad world: damaged files, full disks, other users, processes that are
killed or come at once.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

from rnn_gpu.kernels import store as kernel_store
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices import cpu
from rnn_gpu.kernels.devices.cpu import recurrence
from rnn_gpu.kernels.store import files
from rnn_gpu.kernels.store.files import Folder

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # of threads and fork: ours are none here
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]
as_root = pytest.mark.skipif(
    files.OWNERS and os.geteuid() != 0, reason="only root can be another user"
)
NOBODY = 65534


def double(z):
    return 2.0 * z


def bent(z):
    return np.tanh(z) + np.exp(-z * z) / (1.0 + abs(z))


def elementwise(f):
    """Is what the kernel of f computes right, and was it found? The kernel is made anew, as in
    another run.
    """
    kernel = cpu.elementwise_kernel.__wrapped__(f, np.float64, 1, 1, 0)
    x, y = np.linspace(-2.0, 2.0, 33), np.zeros(33)
    kernel((y,), (x,), ())
    return np.allclose(y, f(x), rtol=1e-12), sum(kernel.stats.cache_hits.values()) == 1


def recurrent(name):
    """The same of the first step of a cell, whose kernel is ten times as large."""
    cell, n = CELLS[name], 3
    kernel = recurrence.forward_kernel.__wrapped__(cell, np.float32, 1, 1, True)
    p, W = np.ones((1, 1, cell.gates, n), "f"), np.zeros((cell.gates * n, n), "f")
    s, kept = np.zeros((cell.states, 2, 1, n), "f"), np.zeros((1, 1, cell.kept, n), "f")
    c = np.zeros(cell.gates * n if cell.apart else 0, "f")
    arrays = p, W, c, s, kept, np.ones((1, 1), np.uint8)
    kernel(arrays, np.zeros(999, "f"), False, np.zeros(1, np.int64), 0, 1)
    expected, _ = cell.step((1.0,) * cell.gates, (0.0,) * cell.gates, (0.0,) * cell.states)
    return np.allclose(s[:, 1, 0, 0], expected, rtol=1e-5), sum(
        kernel.stats.cache_hits.values()
    ) == 1


def in_a_fork(do) -> str:
    """How a process ends that does this: "found", "compiled", "wrong", "raised", or by which
    signal.
    """
    process = os.fork()
    if not process:
        code = 3
        with suppress(BaseException):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            right, found = do()
            code = 2 if not right else 1 - found
        os._exit(code)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return ["found", "compiled", "wrong", "raised"][os.WEXITSTATUS(status)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kernels"))
    return kernel_store.folder().path


def only(folder):
    (file,) = folder.glob("*.kernel")
    return file


def warmed(do, folder):
    """The file of a kernel that was compiled and is found."""
    assert [in_a_fork(do) for _ in range(2)] == ["compiled", "found"]
    return only(folder)


KERNELS = {  # and how many bits are flipped in the file of each
    "double": (lambda: elementwise(double), 140),
    "bent": (lambda: elementwise(bent), 140),
    "elman": (lambda: recurrent("elman_tanh"), 12),
    "lstm": (lambda: recurrent("lstm"), 8),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_flipped_bit_is_a_kernel_compiled_again(folder, name):
    do, count = KERNELS[name]
    file, rng = warmed(do, folder), random.Random(name)
    whole, ends = file.read_bytes(), Counter()
    for k in range(count):
        flipped, bit = bytearray(whole), rng.randrange(8 * (len(whole) if k % 4 else files.HEAD))
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        ends[in_a_fork(do)] += 1
        assert file.read_bytes() != flipped  # a good one is in its place
    print(name, len(whole), "bytes:", dict(ends))
    assert ends == {"compiled": count}
    assert in_a_fork(do) == "found"


def test_a_file_that_is_cut_off_is_a_kernel_compiled_again(folder):
    file, rng = warmed(lambda: elementwise(bent), folder), random.Random(0)
    whole = file.read_bytes()
    for length in (
        0,
        1,
        len(files.MARK),
        files.HEAD,
        len(whole) - 1,
        *(rng.randrange(len(whole)) for _ in range(45)),
    ):
        file.write_bytes(whole[:length])
        assert in_a_fork(lambda: elementwise(bent)) == "compiled"


@as_root
def test_another_user_is_neither_read_nor_written_over(folder):
    file = warmed(lambda: elementwise(bent), folder)
    for path in (file, folder):
        os.chown(path, NOBODY, NOBODY)
        assert in_a_fork(lambda: elementwise(bent)) == "compiled"
        if path == folder:
            assert in_a_fork(lambda: elementwise(bent)) == "compiled"
        else:
            assert in_a_fork(lambda: elementwise(bent)) == "found"  # ours, in the place of theirs


def as_nobody(do):
    def done():
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return do()

    return done


@as_root
def test_without_the_right_to_read_or_to_write_kernels_are_compiled(tmp_path, monkeypatch):
    home = Path("/tmp") / f"rnn_gpu-stress-{os.getpid()}"  # where anybody comes
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    try:
        monkeypatch.setattr(config, "CACHE_DIR", str(home))
        do = as_nobody(lambda: elementwise(bent))
        assert [in_a_fork(do) for _ in range(2)] == ["compiled", "found"]
        folder = home / f"rnn_gpu-{NOBODY}"
        file = only(folder)
        file.chmod(0)
        # another file takes its place
        assert [in_a_fork(do) for _ in range(2)] == ["compiled", "found"]
        folder.chmod(0o500)
        assert in_a_fork(do) == "found"
        file.chmod(0)
        assert [in_a_fork(do) for _ in range(2)] == ["compiled", "compiled"]
        folder.chmod(0)
        assert [in_a_fork(do) for _ in range(2)] == ["compiled", "compiled"]
    finally:
        for path in sorted(home.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        home.rmdir()


def test_a_disk_that_is_full_is_a_kernel_compiled_again(folder):
    def full(do, limit):
        def done():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return do()

        return done

    for limit in (0, 10, 1000, 5000):
        assert in_a_fork(full(lambda: elementwise(bent), limit)) == "compiled"
        assert not folder.exists() or not list(folder.iterdir())
    warmed(lambda: elementwise(bent), folder)


def test_processes_that_compile_one_kernel_at_once_keep_one(folder):
    def together(start):
        def done():
            time.sleep(max(0.0, start - time.time()))
            return elementwise(bent)

        return done

    for _ in range(5):
        kernel_store.clear()
        start, processes = time.time() + 0.2, []
        for _ in range(4):
            process = os.fork()
            if not process:
                os._exit(["found", "compiled"].index(in_a_fork(together(start))))
            processes.append(process)
        for process in processes:
            _, status = os.waitpid(process, 0)
            assert os.WIFEXITED(status) and os.WEXITSTATUS(status) in (0, 1)
        assert [path.suffix for path in folder.iterdir()] == [".kernel"]
        assert in_a_fork(lambda: elementwise(bent)) == "found"


def forever(do):
    process = os.fork()
    if not process:
        try:
            while True:
                do()
        except BaseException as error:
            print(repr(error), file=sys.__stderr__)
            os._exit(1)
    return process


def test_killed_writers_leave_whole_files(tmp_path):
    store, rng = Folder(tmp_path / "store", 10_000_000), random.Random(0)
    payloads = [bytes([k]) * 500_000 for k in range(3)]
    for _ in range(200):
        process = forever(lambda: store.write("name", rng.choice(payloads)))
        time.sleep(rng.random() * 0.02)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert store.read("name") in (None, *payloads)
    left = list(store.path.glob("*.part"))
    print(f"200 kills left {len(left)} unfinished files")
    for path in left:
        os.utime(path, (0, 0))
    store.write("name", payloads[0])
    assert [path.name for path in store.path.iterdir()] == ["name.kernel"]


def test_readers_and_writers_at_the_bound_stay_within_it(tmp_path):
    store, rng = Folder(tmp_path / "store", 100_000), random.Random(0)

    def one():
        name = f"k{rng.randrange(40)}"
        if rng.random() < 0.5:
            store.write(name, name.encode() * 1000)
        elif (found := store.read(name)) is not None:
            assert found == name.encode() * 1000
        if rng.random() < 0.01:
            store.clear()

    processes = [forever(one) for _ in range(4) if not rng.seed(_)]
    time.sleep(5)
    # none has ended
    assert [os.waitpid(process, os.WNOHANG) for process in processes] == [(0, 0)] * 4
    for process in processes:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    store.write("last", b".")
    assert sum(file.bytes for file in store.files()) <= 100_000


STEP = """
import hashlib, numpy as np, rnn_gpu
layer = rnn_gpu.RNN(3, 5, device="cpu", seed=0)
y, _ = layer(np.ones((4, 2, 3), "f"))
layer.backward(np.ones_like(y))
print(hashlib.sha256(b"".join(g.tobytes() for g in layer.grads.values())).hexdigest())
"""


def test_a_training_step_is_right_whatever_stands_in_the_store(folder):
    """The files of all its kernels, each damaged in some way: the gradients have the bits of
    before, and no word is said.
    """

    def step():
        here = os.environ | {"NUMBA_CACHE_DIR": config.CACHE_DIR}
        return subprocess.run(
            [sys.executable, "-c", STEP],
            env=here,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    rng, first = random.Random(0), step()
    assert first.returncode == 0 and first.stderr == ""
    for _ in range(3):
        for file in folder.glob("*.kernel"):
            text = bytearray(file.read_bytes())
            text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
            file.write_bytes(rng.choice([text, text[: rng.randrange(len(text))], b""]))
        again = step()
        assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
