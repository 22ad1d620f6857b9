"""Between XLA and our kernels: how its programs call them, from several threads, in a process of
their own.  Skipped without jax.
"""

import json
import os
import time
from functools import partial
from pathlib import Path
from threading import Thread

import numba
import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

import rnn_gpu
import rnn_gpu.jax as ours
from conftest import close
from jax_pairs import (
    KINDS,
    MASK,
    B,
    M,
    N,
    T,
    agree,
    agree_in_bits,
    by_scan,
    draw,
    drawn,
    of_loss,
)
from own_cells import LEAKY
from processes import run
from programs import NO_GPU, python
from rnn_gpu.bridges.jax import calls, entrance, jobs, xla
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cpu import recorded, threads


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_xla_calls_our_kernels_without_a_callback(kind):
    θ, x, s = drawn(kind)
    text = jax.jit(KINDS[kind]).lower(θ, x, s).as_text()
    assert text.count("@rnn_gpu(") == 2 and "python" not in text


def lower_by(way):
    for call in calls.CALLS:
        primitive = calls.PRIMITIVES[call.name]
        calls.mlir.register_lowering(primitive, partial(way, call), platform="cpu")


@pytest.mark.parametrize("kind, masked", [("gru", True), ("lstm", False)])
def test_the_callback_gives_the_same(kind, masked):
    given = drawn(kind)
    call = partial(KINDS[kind], mask=MASK if masked else None)
    expected = of_loss(call, *given)
    try:
        lower_by(calls.lower_to_callback)
        assert "@rnn_gpu" not in jax.jit(partial(call)).lower(*given).as_text()
        got = of_loss(partial(call), *given)
    finally:
        lower_by(calls.lower_to_ffi)
    agree_in_bits(expected, got)


def test_an_interface_that_is_not_read_is_not_used(monkeypatch):
    monkeypatch.setattr(xla, "MAJOR", 7)
    assert not xla.register(jobs.do)
    monkeypatch.setattr(xla, "HEADER", "xla/none.h")
    assert xla.version() is None and not xla.register(jobs.do)


def called(text, *given):
    """XLA's call of this text."""
    like = jax.ShapeDtypeStruct((2,), "float32")
    return jax.block_until_ready(jax.ffi.ffi_call("rnn_gpu", like)(*given, layer=text))


def test_what_goes_wrong_in_a_call_is_said(monkeypatch):
    with pytest.raises(Exception, match="JSONDecodeError: Expecting value"):
        called("π", jnp.zeros(3, "float32"))


def product(text, x, U, b):
    """x Uᵀ + b, (T, B, m) and (n, m), by XLA's call of this text."""
    like = jax.ShapeDtypeStruct((*x.shape[:2], 1, len(U)), x.dtype)
    return jax.ffi.ffi_call("rnn_gpu", like)(x, U, b, layer=text)[:, :, 0]


def test_prepared_calls_need_no_python_and_others_have_the_same_bits(monkeypatch):
    x, U, b = draw(T, B, M), draw(N, M), draw(N)
    how = calls.How(CELLS["elman_tanh"], False, rnn_gpu.kernels.UNCLIPPED, 1)
    text = jobs.text_of("project", how, ((x, U, b), (jnp.zeros((T, B, 1, N)),)))
    by_python = []
    monkeypatch.setitem(jobs.WORK, "project", partial(watching, by_python, jobs.project))
    monkeypatch.setattr(jobs, "prepare", lambda text: None)
    expected = product(text, x, U, b)
    close(np.asarray(expected), np.asarray(x @ U.T + b), "float64")
    assert len(by_python) == 1
    monkeypatch.undo()
    jobs.prepare(text)
    assert entrance.is_prepared(text)
    monkeypatch.setitem(jobs.WORK, "project", partial(watching, by_python, jobs.project))
    assert np.array_equal(product(text, x, U, b), expected) and len(by_python) == 1
    # on arrays that it does not say, by Python, as on memory that is in use
    close(np.asarray(product(text, x[1:], U, b)), np.asarray(expected[1:]), "float64")
    assert len(by_python) == 2
    desks = [desk for some in recorded.desks.by_size.values() for desk in some]
    for desk in desks:
        desk.taken[0] = 1
    assert np.array_equal(product(text, x, U, b), expected) and len(by_python) == 3
    for desk in desks:
        desk.taken[0] = 0


def watching(seen, work, *call):
    seen.append(call)
    return work(*call)


FRESH = """
import signal, sys, time
sys.path[:0] = sys.argv[1:2]
# a shell has what runs in the background ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
from jax import export
import rnn_gpu.jax as ours

# the first call of a process
θ = ours.init("gru", jax.random.key(0), 3, 5)
loss = jax.jit(jax.value_and_grad(lambda θ, x: ours.gru(θ, x)[0].sum()))
value, grads = loss(θ, jnp.ones((7, 2, 3), "float32"))
print(float(value), all(float(abs(a).sum()) > 0 for a in grads.values()))

# a program of another process, with a cell that is not built in
with open(sys.argv[2], "rb") as file:
    program = export.deserialize(bytearray(file.read()))
θ, x = {"U": jnp.ones((6, 4)), "W": jnp.ones((6, 6)), "b": jnp.ones(6)}, jnp.ones((5, 3, 4))
try:
    program.call(θ, x).block_until_ready()
except RuntimeError as error:
    print("rnn_gpu.jax" in str(error) and "is not known in this process" in str(error))
from own_cells import LEAKY
ours.register(LEAKY)
print(float(abs(program.call(θ, x) - ours.recurrent(LEAKY, θ, x)[0]).max()))

# Ctrl-C while Python makes a call of XLA's
from rnn_gpu.bridges.jax import jobs

def interrupt(*call):
    raise KeyboardInterrupt

jobs.prepare, project, jobs.WORK["project"] = lambda text: None, jobs.WORK["project"], interrupt
try:
    try:
        jax.block_until_ready(ours.gru(grads, jnp.ones((6, 2, 3), "float32")))
    except RuntimeError:
        time.sleep(0)
except KeyboardInterrupt:
    print("interrupted")
jobs.WORK["project"] = project
print(bool(jnp.isfinite(ours.gru(grads, jnp.ones((6, 2, 3), "float32"))[0]).all()))

# Python ends while calls are under way
θ = ours.init("gru", jax.random.key(0), 64, 64)
f, x = jax.jit(lambda θ, x: ours.gru(θ, x)[0]), jnp.ones((1000, 16, 64), "float32")
for _ in range(20):
    y = f(θ, x)
print("leaving")
"""


def test_in_a_process_of_its_own(tmp_path):
    """The first call may be compiled; another's program finds its cell; a Ctrl-C is one; Python
    ends while calls are under way.
    """
    from jax import export

    given = {"U": (N, M), "W": (N, N), "b": (N,)}, (T, B, M)
    given = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, "float64"),
        given,
        is_leaf=lambda a: isinstance(a, tuple) and isinstance(a[0], int),
    )
    call = jax.jit(lambda θ, x: ours.recurrent(LEAKY, θ, x)[0])
    checks = [export.DisabledSafetyCheck.custom_call("rnn_gpu")]
    path = tmp_path / "program"
    path.write_bytes(export.export(call, disabled_checks=checks)(*given).serialize())
    value, *others = python(FRESH, Path(__file__).parent, path, **NO_GPU).stdout.split()
    θ = ours.init("gru", jax.random.key(0), 3, 5, "float32")
    expected = ours.gru(θ, jnp.ones((7, 2, 3), "float32"))[0].sum()
    assert float(value) == pytest.approx(float(expected))
    assert others == ["True", "True", "0.0", "interrupted", "True", "leaving"]


def test_as_many_threads_share_a_call_as_the_caller_says(monkeypatch):
    seen = []
    monkeypatch.setattr(jobs, "prepare", lambda text: seen.append(json.loads(text)[4]))
    before = numba.get_num_threads()
    try:
        for count in (1, before):
            numba.set_num_threads(count)
            jax.jit(partial(ours.rnn)).lower(*drawn("elman_tanh", B=2)[:2])
            assert set(seen) == {count}
            seen.clear()
    finally:
        numba.set_num_threads(before)


def all_sleep(team) -> bool:
    at = threads.THREADS + threads.SPACING * np.arange(1, len(team.bells)) + threads.ASLEEP
    return bool(team.board[at].all())


def test_threads_may_call_at_once():
    """Programs that share our threads, each with results of its own."""
    θ = ours.init("lstm", jax.random.key(0), 64, 64, "float32")
    step = jax.jit(jax.value_and_grad(lambda θ, x: (ours.lstm(θ, x)[0] ** 2).sum()))
    inputs = [draw(40, 16, 64, dtype="float32", seed=k) for k in range(2)]
    expected = [step(θ, x) for x in inputs]
    zeros = (jnp.zeros((16, 64), "float32"),) * 2
    y, _ = by_scan(CELLS["lstm"], θ, inputs[0], zeros)
    agree((y**2).sum(), expected[0][0], "float32")
    recorded.TEAM[0] = 1  # somebody has the threads
    agree_in_bits(expected[0], step(θ, inputs[0]))
    recorded.TEAM[0] = 0
    for team in recorded.turns.teams.values():
        while not all_sleep(team):
            time.sleep(0.01)
        agree_in_bits(expected[1], step(θ, inputs[1]))  # which wakes them
    got = [[], []]

    def repeat(k):
        got[k] += [step(θ, inputs[k]) for _ in range(20)]

    callers = [Thread(target=repeat, args=(k,)) for k in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for one, many in zip(expected, got, strict=True):
        assert len(many) == 20
        for each in many:
            agree_in_bits(one, each)


FORKED = """
from processes import *
import jax
import rnn_gpu.jax as ours
from rnn_gpu.bridges.jax import entrance

θ, x = ours.init("gru", jax.random.key(0), 64, 64), jax.numpy.ones((1000, 16, 64))
step = jax.jit(jax.grad(lambda θ: (ours.gru(θ, x)[0] ** 2).sum()))
step(θ)
layer = rnn_gpu.GRU(64, 64, device="cpu")
expected = train(layer)

def busy():
    while True:
        jax.block_until_ready(step(θ))

def in_child():
    assert entrance.known[entrance.UNDER_WAY] == 0, "it would wait at its end for what nobody does"
    assert train(layer) == expected

threading.Thread(target=busy, daemon=True).start()
warnings.simplefilter("ignore", RuntimeWarning)  # of JAX's
within = 0
while within < 5:
    within += entrance.known[entrance.UNDER_WAY]
    assert ended(forked(in_child, at_once=True)) == 0
    time.sleep(0.003)
print("done", flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_is_forked_while_another_thread_is_within_a_program_goes_on():
    assert run(FORKED).split() == ["done"]
