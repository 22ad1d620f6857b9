"""rnn_gpu.flax against flax.linen: the same parameters, outputs, carries and gradients.  Skipped
without flax.
"""

from functools import cache, partial

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nn = pytest.importorskip("flax.linen")

import jax.numpy as jnp

import rnn_gpu.flax as ours
import rnn_gpu.jax
from conftest import RTOL
from door import refuses
from rnn_gpu import ArgumentError, ShapeError, UnsupportedError

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)  # compiling them is what takes long here
jax.config.update("jax_enable_x64", True)

T, B, M, N = 5, 3, 4, 6
CELLS = {
    "gru": nn.GRUCell,
    "lstm": nn.LSTMCell,
    "optimized": nn.OptimizedLSTMCell,
    "simple": nn.SimpleCell,
    "softsign": partial(nn.SimpleCell, activation_fn=nn.soft_sign),
}
WITHIN = {"float64": RTOL["float64"], "float32": 1e-6}
OPTIONS = {
    "time": {"time_major": True},
    "reverse": {"reverse": True},
    "order": {"reverse": True, "keep_order": True},
}


@pytest.fixture(params=CELLS)
def name(request):
    return request.param


@cache
def made(name, dtype):
    """A cell of flax.linen, variables of it that have no zero, x (B, T, m) and a carry."""
    cell = CELLS[name](N, param_dtype=dtype, bias_init=nn.initializers.normal(0.1))
    x = jax.random.normal(jax.random.key(0), (B, T, M), dtype)
    carry = cell.initialize_carry(jax.random.key(2), (B, M))
    carry = jax.tree.map(lambda a: jax.random.normal(jax.random.key(3), a.shape, dtype), carry)
    return cell, nn.RNN(cell).init(jax.random.key(1), x), x, carry


def pair(name, dtype, **options):
    """flax.linen's module and ours, variables of both, x and a carry."""
    cell, variables, x, carry = made(name, dtype)
    theirs, mine = (one(cell, return_carry=True, **options) for one in (nn.RNN, ours.RNN))
    x = x.swapaxes(0, 1) if options.get("time_major") else x
    return theirs, mine, variables, x, carry


def passed(module, variables, x, carry, lengths=None):
    """All that a call gives within lengths, and all gradients of a loss of it."""

    @partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def loss(variables, x, carry):
        carry, y = module.apply(variables, x, initial_carry=carry, seq_lengths=lengths)
        if lengths is not None:
            y = jnp.where(jnp.arange(T)[:, None] < lengths[:, None, None], y, 0)
        leaves = jax.tree.leaves((carry, y))
        return sum((a * jnp.cos(jnp.arange(a.size).reshape(a.shape))).sum() for a in leaves), leaves

    return jax.jit(loss)(variables, x, carry)


def agree(one, other, dtype):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        assert a.dtype == b.dtype
        assert np.abs(a - b).max() <= WITHIN[dtype] * max(1, np.abs(a).max())


def test_initial_parameters_are_those_of_flax(name):
    _, mine, variables, x, _ = pair(name, "float64")
    agree(variables, mine.init(jax.random.key(1), x), "float64")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["lstm"])
def test_it_is_the_module_of_flax(name, options):
    theirs, mine, variables, x, carry = pair(name, "float64", **options)
    expected = passed(theirs, variables, x, carry)
    agree(expected, passed(mine, variables, x, carry), "float64")


@pytest.mark.parametrize(
    "name, dtype",
    [("gru", "float64"), ("optimized", "float64"), ("softsign", "float64")]
    + [(name, "float32") for name in ("gru", "lstm", "simple")],
)
def test_gradients(name, dtype):
    theirs, mine, variables, x, carry = pair(name, dtype)
    agree(passed(theirs, variables, x, carry), passed(mine, variables, x, carry), dtype)


@pytest.mark.parametrize("options", [{}, {"reverse": True, "keep_order": True}])
def test_lengths(options):
    theirs, mine, variables, x, carry = pair("gru", "float64", **options)
    lengths = jnp.array([3, 1, 5])
    expected = passed(theirs, variables, x, carry, lengths)
    agree(expected, passed(mine, variables, x, carry, lengths), "float64")
    assert not np.any(mine.apply(variables, x, seq_lengths=lengths)[1][0, 3:])


def test_axes_of_samples_and_no_carry():
    theirs, mine, variables, x, _ = pair("lstm", "float64")
    for given in (x[0], jnp.stack([x, x + 1])):
        agree(theirs.apply(variables, given), mine.apply(variables, given), "float64")


def test_both_directions_by_flax():
    x = jax.random.normal(jax.random.key(0), (B, T, M))

    def both(kind):
        cells = (nn.GRUCell(N, param_dtype="float64") for _ in range(2))
        return nn.Bidirectional(*map(kind, cells))

    variables = both(nn.RNN).init(jax.random.key(1), x)
    agree(both(nn.RNN).apply(variables, x), both(ours.RNN).apply(variables, x), "float64")


def test_parameters_come_and_go(name):
    *_, variables, x, _ = pair(name, "float64")
    theirs = variables["params"]["cell"]
    θ = ours.of_flax(theirs)
    agree(theirs, ours.as_flax(θ), "float64")
    if name == "gru":  # two biases of ours are one of Flax's
        moved = θ | {"b": θ["b"].at[0].add(-1.0), "c": θ["c"].at[0].add(1.0)}
        agree(theirs, ours.as_flax(moved), "float64")
        y, _ = rnn_gpu.jax.gru(moved, x, batch_first=True)
        agree(pair(name, "float64")[0].apply(variables, x)[1], y, "float64")


def test_what_is_no_cell_of_ours_is_refused():
    x = jnp.zeros((B, T, M))
    for cell in (
        nn.MGUCell(N),
        nn.GRUCell(N, gate_fn=nn.tanh),
        nn.SimpleCell(N, residual=True),
        nn.SimpleCell(N, activation_fn=nn.gelu),
    ):
        init = partial(ours.RNN(cell).init, jax.random.key(0), x)
        refuses(UnsupportedError, "expected a GRUCell", init)
    module = ours.RNN(nn.GRUCell(N))
    refuses(ShapeError, "expected .*batch, T, m", lambda: module.init(jax.random.key(0), x[0, 0]))
    refuses(ArgumentError, "params has a, expected those of", lambda: ours.of_flax({"a": 1}))
    refuses(ArgumentError, "params has nothing", lambda: ours.as_flax({}))
    three = rnn_gpu.jax.init("gru", jax.random.key(0), M, N)
    refuses(ArgumentError, "with c of a GRU", lambda: ours.as_flax({n: three[n] for n in "UWb"}))
