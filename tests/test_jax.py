"""rnn_gpu.jax against the same cells by lax.scan and against our own layers, under what JAX
makes of functions.  Skipped without jax.
"""

import json
import time
from functools import cache, partial
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
from door import refuses, table
from own_cells import LEAKY, MINE
from programs import NO_GPU, python
from rnn_gpu import ArgumentError, DeviceError, DtypeError, ShapeError, UnsupportedError
from rnn_gpu.bridges.jax import calls, entrance, jobs, xla
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cpu import recorded, threads

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)  # compiling them is what takes long here
jax.config.update("jax_enable_x64", True)

T, B, M, N = 5, 3, 4, 6  # all different
KINDS = {"gru": ours.gru, "lstm": ours.lstm, "elman_tanh": ours.rnn}
LENGTHS = np.array([3, 1, 5])
MASK = np.random.default_rng(4).random((T, B)) < 0.7
RESETS = np.random.default_rng(5).random((T, B)) < 0.4


def draw(*shape, dtype="float64", seed=0):
    return jax.random.normal(jax.random.key(seed + sum(shape)), shape, dtype)


@cache
def drawn(cell, dtype="float64", B=B):
    """Parameters with no zero, x and a state of each kind that the cell has."""
    cell = CELLS.get(cell, cell) if isinstance(cell, str) else cell
    θ = ours.init(cell, jax.random.key(1), M, N, dtype)
    θ = {name: a + 0.1 * draw(*a.shape, dtype=dtype) for name, a in θ.items()}
    s = tuple(draw(B, N, dtype=dtype, seed=k) for k in range(cell.states))
    return θ, draw(T, B, M, dtype=dtype), s if cell.states > 1 else s[0]


def by_scan(cell, θ, x, state):
    """The slow obvious twin: the cell's formula a step, differentiated by JAX."""
    G = cell.gates

    def step(s, x):
        p = jnp.split(x @ θ["U"].T + θ["b"], G, -1)
        q = jnp.split(s[0] @ θ["W"].T + θ.get("c", 0), G, -1)
        if cell.name == "gru":
            r, z = jax.nn.sigmoid(p[0] + q[0]), jax.nn.sigmoid(p[1] + q[1])
            s = ((1 - z) * jnp.tanh(p[2] + r * q[2]) + z * s[0],)
        elif cell.name == "lstm":
            i, f, o = (jax.nn.sigmoid(p[k] + q[k]) for k in (0, 1, 3))
            c = f * s[1] + i * jnp.tanh(p[2] + q[2])
            s = (o * jnp.tanh(c), c)
        else:
            s = (jnp.tanh(p[0] + q[0]),)
        return s, s[0]

    s, y = jax.lax.scan(step, state if isinstance(state, tuple) else (state,), x)
    return y, s if cell.states > 1 else s[0]


def loss_of(f):
    """A loss in which every number of the outputs and states has a weight of its own."""

    def loss(*given):
        leaves = jax.tree.leaves(f(*given))
        return sum((a * jnp.cos(jnp.arange(a.size).reshape(a.shape))).sum() for a in leaves)

    return loss


@cache
def step_of(f, count: int):
    """The loss of so many arguments and all gradients of it, compiled: once for all tests."""
    return jax.jit(jax.value_and_grad(loss_of(f), argnums=tuple(range(count))))


def of_loss(f, *given):
    """The loss and all gradients of it."""
    return step_of(f, len(given))(*given)


def agree(one, other, dtype="float64"):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        close(np.asarray(a), np.asarray(b), dtype)


def agree_in_bits(one, other):
    assert all(map(np.array_equal, *map(jax.tree.leaves, (one, other))))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


PAIRS = [(kind, "float64") for kind in KINDS] + [("gru", "float32")]


@pytest.mark.parametrize("kind, dtype", PAIRS)
def test_gradients_are_those_of_the_scan(kind, dtype):
    given = drawn(kind, dtype)
    expected = of_loss(partial(by_scan, CELLS[kind]), *given)
    agree(expected, of_loss(KINDS[kind], *given), dtype)


def test_it_need_not_be_compiled_by_the_caller():
    θ, x, h = drawn("gru")
    slope = jax.grad(lambda x: ours.gru(θ, x, h)[0].sum())
    agree(jax.jit(slope)(x), slope(x))


def with_layer(cell, θ, x, state, reset_state, reverse, options, clip):
    """Loss and gradients as our own layer has them, the last of them how many steps were
    clipped.
    """
    layer = rnn_gpu.Recurrent(cell, M, N, device="reference", dtype="float64", reverse=reverse)
    for name, a in θ.items():
        layer.parameters[name] = np.asarray(a)
    x, state, reset_state = jax.tree.map(np.asarray, (x, state, reset_state))
    out = layer(x, state, **options, reset_state=reset_state)
    out = jax.tree.map(jnp.asarray, out)
    loss, (dy, ds) = jax.value_and_grad(loss_of(lambda out: out))(out)
    dx, ds = layer.backward(np.asarray(dy), jax.tree.map(np.asarray, ds), **clip)
    dgiven = None if reset_state is None else layer.dreset_state
    return loss, (dict(layer.grads), dx, ds, dgiven, float(layer.clipped_steps))


OWN = {"gru": ("gru", False), "lstm, back": ("lstm", True)}
OWN |= {"leaky, back": (LEAKY, True), "mine": (MINE, False)}


@pytest.mark.parametrize("own, reverse", OWN.values(), ids=OWN)
def test_options_are_those_of_our_own_layers(own, reverse):
    θ, x, s = drawn(own)
    given = jax.tree.map(lambda a: draw(T, *a.shape) + a, s)
    for options, reset_state, clip in (
        ({"lengths": LENGTHS, "resets": RESETS}, given, {}),
        ({"mask": MASK, "lengths": LENGTHS, "resets": RESETS}, None, CLIP),
    ):
        expected = with_layer(own, θ, x, s, reset_state, reverse, options, clip)

        def call(θ, x, s, reset_state, counter, options=options, clip=clip):
            how = {"reset_state": reset_state, "clip_counter": counter, "reverse": reverse}
            return ours.recurrent(own, θ, x, s, **options, **clip, **how)

        agree(expected, of_loss(call, θ, x, s, reset_state, jnp.zeros(())))
        assert (expected[1][-1] > 0) == bool(clip)


CLIP = {"clip_step_value": 0.2, "clip_step_norm": 0.4}


def test_what_a_sample_does_not_go_on_from_is_not_looked_at():
    θ, x, h = drawn("gru")
    given = draw(T, B, N)
    holes = jnp.where(RESETS[:, :, None], given, jnp.nan)
    rows = partial(ours.gru, resets=RESETS.T, batch_first=True)
    expected = of_loss(lambda g: ours.gru(θ, x, h, resets=RESETS, reset_state=g), given)
    got = of_loss(lambda g: ours.gru(θ, x, h, resets=RESETS, reset_state=g), holes)
    agree(expected, got)
    y, last = rows(θ, x.swapaxes(0, 1), h, reset_state=holes.swapaxes(0, 1))
    agree(ours.gru(θ, x, h, resets=RESETS, reset_state=given), (y.swapaxes(0, 1), last))
    one = ours.gru(θ, x[:, 1], h[1], resets=RESETS[:, 1], reset_state=given[:, 1])
    agree(one, (y[1], last[1]))


def test_steps_clipped_are_counted_for_each_of_mapped_examples():
    θ, _, h = drawn("gru")
    x = draw(2, T, B, M) * jnp.array([1.0, 30.0])[:, None, None, None]

    def count(x):
        loss = loss_of(lambda counter: ours.gru(θ, x, h, **CLIP, clip_counter=counter))
        return jax.grad(loss)(jnp.zeros(()))

    got = jax.vmap(count)(x)
    assert got.tolist() == [count(each) for each in x] and got[0] != got[1]


def test_what_a_masked_step_holds_is_not_looked_at():
    θ, x, h = drawn("gru")
    call = partial(of_loss, partial(ours.gru, mask=MASK))
    expected = call(θ, x, h)
    agree(expected, call(θ, jnp.where(MASK[:, :, None], x, jnp.nan), h))


def test_lengths_and_patterns_may_be_traced():
    θ, x, h = drawn("gru")

    @jax.jit
    def call(lengths, mask, resets):
        return ours.gru(θ, x, h, lengths=lengths, mask=mask, resets=resets)

    expected = ours.gru(θ, x, h, lengths=LENGTHS, mask=MASK, resets=RESETS)
    agree(expected, call(LENGTHS, MASK, RESETS))
    agree(ours.gru(θ, x, h), call(LENGTHS + T, MASK | True, RESETS & False))


def test_rows_and_sequences_alone():
    θ, x, s = drawn("lstm")
    expected = ours.lstm(θ, x, s, mask=MASK)
    y, last = ours.lstm(θ, x.swapaxes(0, 1), s, mask=MASK.T, batch_first=True)
    agree(expected, (y.swapaxes(0, 1), last))
    of = jax.tree.map(lambda a: a[1], s)
    y, last = ours.lstm(θ, x[:, 1], of, mask=MASK[:, 1], lengths=T)
    agree((expected[0][:, 1], jax.tree.map(lambda a: a[1], expected[1])), (y, last))


def test_the_state_is_zero_where_none_is_given(kind):
    θ, x, s = drawn(kind)
    agree(KINDS[kind](θ, x, jax.tree.map(jnp.zeros_like, s)), KINDS[kind](θ, x))


def test_a_batch_may_be_empty(kind):
    given = drawn(kind, B=0)[0], jnp.zeros((T, 0, M)), drawn(kind, B=0)[2]
    loss, (dθ, dx, _) = of_loss(KINDS[kind], *given)
    assert loss == 0 and dx.shape == (T, 0, M)
    assert not any(np.any(a) for a in dθ.values())


# Transformations


def test_vmap_over_samples_folds_them_into_the_batch():
    θ, _, h = drawn("gru")
    x = draw(2, T, B, M)
    rows = [of_loss(ours.gru, θ, each, h) for each in x]
    expected = jax.tree.map(lambda *rows: jnp.stack(rows), *rows)
    mapped = jax.vmap(partial(of_loss, ours.gru), (None, 3, None))
    got = jax.jit(mapped)(θ, jnp.moveaxis(x, 0, 3), h)
    agree(expected, got)
    text = str(jax.make_jaxpr(mapped)(θ, jnp.moveaxis(x, 0, 3), h))
    assert "scan" not in text and f"f64[1,{T + 1},{2 * B},{N}]" in text


def test_vmap_over_weights_goes_one_by_one():
    many = [drawn("lstm")[0], jax.tree.map(lambda a: 0.5 * a, drawn("lstm")[0])]
    _, x, s = drawn("lstm")
    rows = [of_loss(ours.lstm, θ, x, s) for θ in many]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *many)
    got = jax.vmap(partial(of_loss, ours.lstm), (0, None, None))(stacked, x, s)
    agree(jax.tree.map(lambda *rows: jnp.stack(rows), *rows), got)


def test_vmap_of_vmap_with_masks():
    θ, _, h = drawn("gru")
    x, mask = draw(2, 4, T, B, M), np.random.default_rng(6).random((4, T, B)) < 0.5

    def slope(x, mask):
        return jax.grad(loss_of(lambda x: ours.gru(θ, x, h, mask=mask)[0]))(x)

    got = jax.jit(jax.vmap(jax.vmap(slope), (0, None)))(x, mask)
    agree(slope(x[1, 3], mask[3]), got[1, 3])


def test_within_scan_and_checkpoint():
    θ, x, h = drawn("gru", "float64")

    def chunked(θ, x, h):
        def piece(h, x):
            y, h = jax.checkpoint(ours.gru)(θ, x, h)
            return h, y

        h, y = jax.lax.scan(piece, h, jnp.stack([x, x]))
        return y.reshape(-1, B, N), h

    whole = of_loss(lambda θ, x, h: ours.gru(θ, jnp.concatenate([x, x]), h), θ, x, h)
    agree(whole, of_loss(chunked, θ, x, h))


def test_a_second_derivative_is_refused():
    θ, x, h = drawn("gru")
    loss = loss_of(ours.gru)

    def squares(x):
        return (jax.grad(loss, 1)(θ, x, h) ** 2).sum()

    for call in (
        lambda: jax.grad(squares)(x),
        lambda: jax.hessian(lambda x: loss(θ, x, h))(x),
        lambda: jax.jit(jax.grad(squares))(x),
    ):
        refuses(UnsupportedError, "first derivatives", call)
    with pytest.raises(TypeError, match="forward-mode"):  # JAX's own word of a custom_vjp
        jax.jvp(lambda x: loss(θ, x, h), (x,), (x,))


def test_a_program_for_a_gpu_is_refused():
    θ, x, h = drawn("gru")
    for f in (ours.gru, jax.grad(loss_of(ours.gru))):
        lower = partial(jax.jit(f).trace(θ, x, h).lower, lowering_platforms=("cuda",))
        refuses(DeviceError, "this program is for cuda", lower)


def test_a_program_for_any_number_of_samples():
    from jax import export

    θ, x, h = drawn("gru")
    b = export.symbolic_shape("b")[0]
    given = (θ, jax.ShapeDtypeStruct((T, b, M), x.dtype), jax.ShapeDtypeStruct((b, N), x.dtype))
    checks = [export.DisabledSafetyCheck.custom_call("rnn_gpu")]
    loss = jax.jit(jax.value_and_grad(loss_of(ours.gru), argnums=(0, 1, 2)))
    program = export.export(loss, disabled_checks=checks)(*given)
    agree(of_loss(ours.gru, θ, x, h), program.call(θ, x, h))
    agree(of_loss(ours.gru, θ, x[:, 1:], h[1:]), program.call(θ, x[:, 1:], h[1:]))


# Between XLA and our kernels


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
import sys, time
sys.path[:0] = sys.argv[1:2]
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


# The door


def test_initial_parameters_are_as_our_layers_have_them(kind):
    θ = ours.init(kind, jax.random.key(0), M, N)
    layer = rnn_gpu.Recurrent(kind, M, N, device="reference")
    assert {name: a.shape for name, a in θ.items()} == {
        name: a.shape for name, a in layer.parameters.items()
    }
    for name in ("b", "c"):
        if name in θ:
            assert np.array_equal(θ[name], layer.parameters[name])
    for W in np.split(np.asarray(θ["W"]), CELLS[kind].gates):
        close(W @ W.T, np.eye(N, dtype=W.dtype), "float32")
    assert 0.5 < abs(θ["U"]).max() / (6 / (M + N)) ** 0.5 <= 1
    assert np.array_equal(ours.init("elman_relu", jax.random.key(0), M, N)["W"], np.eye(N))


REFUSED = table(
    ("x of one axis", {"x": jnp.zeros(M)}, ShapeError, r"x has shape \(4,\), expected \(T, B, m\)"),
    ("no step", {"x": jnp.zeros((0, B, M))}, ShapeError, "at least one step"),
    ("features", {"x": jnp.zeros((T, B, 9))}, ShapeError, "9 features, but params are of 4"),
    ("x of integers", {"x": jnp.zeros((T, B, M), int)}, DtypeError, "x is int64"),
    ("x of bfloat16", {"x": jnp.zeros((T, B, M), "bfloat16")}, DtypeError, "x is bfloat16"),
    ("x of float32", {"x": jnp.zeros((T, B, M), "float32")}, DtypeError, "but x is float32"),
    ("no params", {"params": None}, ArgumentError, "expected U, W, b, c"),
    ("params of another", {"params": {"U": 1}}, ArgumentError, "params has U, expected U, W"),
    (
        "state",
        {"state": jnp.zeros((B, 9))},
        ShapeError,
        r"state has shape \(3, 9\), expected \(3, 6",
    ),
    ("state of float32", {"state": jnp.zeros((B, N), "float32")}, DtypeError, "state is float32"),
    ("lengths", {"lengths": np.ones(T, int)}, ShapeError, r"expected \(3,\): one for each sample"),
    ("lengths of 0", {"lengths": np.array([1, 0, 2])}, ArgumentError, r"lengths\[1\] is 0"),
    ("lengths of floats", {"lengths": np.ones(B)}, DtypeError, "expected integers"),
    ("mask", {"mask": MASK.T}, ShapeError, r"mask has shape \(3, 5\), expected \(5, 3\)"),
    ("resets of numbers", {"resets": 1 * RESETS}, DtypeError, "resets is int64, expected boolean"),
    ("no resets", {"reset_state": jnp.zeros((T, B, N))}, ArgumentError, "but resets is None"),
    (
        "reset_state",
        {"resets": RESETS, "reset_state": jnp.zeros((B, N))},
        ShapeError,
        r"reset_state has shape \(3, 6\), expected \(5, 3, 6\)",
    ),
    ("counter", {"clip_counter": jnp.zeros(3)}, ShapeError, "clip_counter has shape"),
    ("counter of floats", {"clip_counter": 0}, DtypeError, "clip_counter is int64"),
    ("reverse", {"reverse": 1}, ArgumentError, "reverse is 1, expected True or False"),
    ("clip", {"clip_step_norm": 0}, ArgumentError, "clip_step_norm is 0"),
)


@pytest.mark.parametrize("changed, error, message", REFUSED)
def test_the_door_says_what_is_wrong(changed, error, message):
    θ, x, h = drawn("gru")
    given = {"params": θ, "x": x, "state": h} | changed
    refuses(error, message, lambda: ours.gru(**given))


def test_the_door_says_what_is_wrong_with_a_cell_or_its_parameters():
    θ, x, s = drawn("lstm")
    refuses(ArgumentError, "cell is 'lstn'", lambda: ours.recurrent("lstn", θ, x))
    refuses(ArgumentError, "expected a Cell", lambda: ours.recurrent(3, θ, x))
    refuses(ShapeError, "tuple of 2 arrays", lambda: ours.lstm(θ, x, s[0]))
    refuses(ShapeError, "batch_first is True", lambda: ours.lstm(θ, x[0], batch_first=True))
    refuses(ShapeError, "4 gates of 6 units", lambda: ours.lstm(θ | {"b": θ["b"][1:]}, x))
    refuses(ShapeError, r"expected \(G·n, m\)", lambda: ours.lstm(θ | {"U": θ["b"]}, x))
    half = θ | {"U": θ["U"].astype("float32")}
    refuses(DtypeError, "'U'.* is float32, but x is float64", lambda: ours.lstm(half, x))
    refuses(ArgumentError, "activation is 'tan'", lambda: ours.rnn(θ, x, activation="tan"))
    refuses(ArgumentError, "hidden_size is 0", lambda: ours.init("gru", jax.random.key(0), 1, 0))
