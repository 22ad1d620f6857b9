"""Functions of rnn_gpu.jax, and the same cells by lax.scan: small ones of every kind, their
losses and gradients.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import rnn_gpu.jax as ours
from conftest import close
from rnn_gpu.kernels.cells import CELLS

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
