"""rnn_gpu.jax against the same cells by lax.scan and against our own layers, under what JAX
makes of functions.  Skipped without jax.
"""

from functools import partial

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

import rnn_gpu
import rnn_gpu.jax as ours
from conftest import close
from door import refuses, table
from jax_pairs import (
    KINDS,
    LENGTHS,
    MASK,
    RESETS,
    B,
    M,
    N,
    T,
    agree,
    by_scan,
    draw,
    drawn,
    loss_of,
    of_loss,
)
from own_cells import LEAKY, MINE
from rnn_gpu import ArgumentError, DeviceError, DtypeError, ShapeError, UnsupportedError
from rnn_gpu.kernels.cells import CELLS


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
