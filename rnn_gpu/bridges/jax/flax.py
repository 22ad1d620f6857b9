"""Flax's recurrent modules on our kernels: see rnn_gpu.flax, where users find them."""

from collections.abc import Mapping
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp

from ...errors import ArgumentError, ShapeError, UnsupportedError
from ...kernels import Cell
from ...kernels.activations import ACTIVATIONS
from ...kernels.cells.elman import elman
from ...kernels.cells.gru import gru
from ...kernels.cells.lstm import lstm
from .layers import recurrent

# Flax's dense layers within a cell by the gates of ours, the input's and the recurrent one's; and
# those of them that have a bias, which is b or c of ours
GATES = {
    "gru": (("ir", "iz", "in"), ("hr", "hz", "hn"), ("ir", "iz", "in"), ("hn",)),
    "lstm": (("ii", "if", "ig", "io"), ("hi", "hf", "hg", "ho"), ("hi", "hf", "hg", "ho"), ()),
    "rnn": (("i",), ("h",), ("i",), ()),
}
# Functions of Flax's by the names of ours
FUNCTIONS = {
    flax.linen.tanh: "tanh",
    flax.linen.relu: "relu",
    flax.linen.sigmoid: "sigmoid",
    flax.linen.softplus: "softplus",
    flax.linen.soft_sign: "softsign",
}


def kind_of(params: Mapping[str, Any]) -> str:
    """Which of GATES these parameters of Flax's are of."""
    for kind, (inputs, through, *_) in GATES.items():
        if set(params) == {*inputs, *through}:
            return kind
    raise ArgumentError(
        f"params has {', '.join(map(str, params)) or 'nothing'}, expected those of a GRUCell, "
        "LSTMCell, OptimizedLSTMCell or SimpleCell of flax.linen"
    )


def of_flax(params: Mapping[str, Any]) -> dict:
    """The parameters of a cell of flax.linen's, GRUCell, LSTMCell, OptimizedLSTMCell or SimpleCell,
    as ours: U (G·n, m), W (G·n, n), b (G·n,), of a GRU c (G·n,), whose r and z are zero.

    Differentiable. Raises ArgumentError where they are of none of these.
    """
    inputs, through, biased, apart = GATES[kind_of(params)]

    def kernels(names):
        return jnp.concatenate([params[name]["kernel"].T for name in names])

    θ = {"U": kernels(inputs), "W": kernels(through)}
    θ["b"] = jnp.concatenate([params[name]["bias"] for name in biased])
    if apart:
        (c,) = (params[name]["bias"] for name in apart)
        θ["c"] = jnp.zeros_like(θ["b"]).at[-len(c) :].set(c)
    return θ


def as_flax(params: Mapping[str, Any]) -> dict:
    """Parameters of ours, of a GRU, an LSTM or an Elman layer, as those of flax.linen's cells.

    Of a GRU's gates r and z Flax has one bias, which becomes b + c. Raises ArgumentError where they
    are of another cell.
    """
    counts = {3: "gru", 4: "lstm", 1: "rnn"}
    names = {"U", "W", "b", "c"} & set(params)
    n = params["W"].shape[1] if "W" in names else 0
    kind = counts.get(len(params["W"]) // n if n else 0)
    expected = {"U", "W", "b", "c"} if kind == "gru" else {"U", "W", "b"}
    if kind is None or set(params) != expected:
        raise ArgumentError(
            f"params has {', '.join(map(str, params)) or 'nothing'}, expected U, W and b of an LSTM"
            " or an Elman layer, with c of a GRU"
        )
    inputs, through, biased, apart = GATES[kind]
    dense = {}
    for names, matrix in ((inputs, "U"), (through, "W")):
        parts = jnp.split(jnp.asarray(params[matrix]), len(names))
        dense |= {name: {"kernel": part.T} for name, part in zip(names, parts, strict=True)}
    b = jnp.asarray(params["b"])
    if apart:
        c = jnp.asarray(params["c"])
        b, dense["hn"]["bias"] = b.at[: 2 * n].add(c[: 2 * n]), c[2 * n :]
    for name, bias in zip(biased, jnp.split(b, len(biased)), strict=True):
        dense[name]["bias"] = bias
    return dense


def cell_of(module) -> Cell:
    """Our cell that computes what a cell of flax.linen does."""
    kind = type(module)
    if kind is flax.linen.SimpleCell and not module.residual:
        name = FUNCTIONS.get(module.activation_fn)
        if name:
            return elman(ACTIVATIONS[name])
    elif kind in (flax.linen.GRUCell, flax.linen.LSTMCell, flax.linen.OptimizedLSTMCell):
        functions = FUNCTIONS.get(module.gate_fn), FUNCTIONS.get(module.activation_fn)
        if functions == ("sigmoid", "tanh"):
            return gru if kind is flax.linen.GRUCell else lstm
    raise UnsupportedError(
        f"cell is {module!r}, expected a GRUCell, LSTMCell or OptimizedLSTMCell with its own "
        "functions, or a SimpleCell of a function that rnn_gpu has and without residual: say "
        "flax.linen.RNN for others"
    )


class RNN(flax.linen.RNN):
    """flax.linen.RNN on our kernels: the same arguments, the same parameters under the same names,
    the same carry; the outputs beyond `seq_lengths` are zero.

    cell  a GRUCell, LSTMCell or OptimizedLSTMCell of flax.linen, or a SimpleCell

    unroll and what nn.scan is told of variables mean nothing here. Raises UnsupportedError for
    other cells, and what `rnn_gpu.jax.recurrent` raises.
    """

    def __call__(
        self,
        inputs,
        *,
        initial_carry=None,
        init_key=None,
        seq_lengths=None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ):
        """As flax.linen.RNN's: inputs (*batch, T, m), or (T, *batch, m) if time_major, and
        seq_lengths (*batch) -> outputs, or (carry, outputs) if return_carry.
        """
        cell = cell_of(self.cell)
        return_carry = self.return_carry if return_carry is None else return_carry
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        if inputs.ndim < 2:
            raise ShapeError(f"inputs has shape {inputs.shape}, expected (*batch, T, m)")
        batch = inputs.shape[1:-1] if time_major else inputs.shape[:-2]
        n = self.cell.features
        x = inputs if time_major else jnp.moveaxis(inputs, -2, 0)
        carry = initial_carry
        if carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            carry = self.cell.initialize_carry(key, (*batch, inputs.shape[-1]))
        if self.is_initializing():
            self.cell(carry, x[0])  # which makes the parameters, under Flax's names
        θ = of_flax(self.cell.variables["params"])
        dtype = self.cell.dtype or jnp.result_type(x, θ["U"], *jax.tree.leaves(carry))
        x, θ, carry = jax.tree.map(lambda a: jnp.asarray(a, dtype), (x, θ, carry))
        state = jax.tree.map(lambda a: a.reshape(-1, n), carry)
        y, state = recurrent(
            cell,
            θ,
            x.reshape(len(x), -1, x.shape[-1]),
            state[::-1] if cell is lstm else state,  # Flax has (c, h)
            lengths=None if seq_lengths is None else jnp.reshape(seq_lengths, -1),
            reverse=reverse,
        )
        y = y.reshape(len(x), *batch, n)
        carry = jax.tree.map(lambda a: a.reshape(*batch, n), state)
        carry = carry[::-1] if cell is lstm else carry
        if reverse and not keep_order:
            lengths = None if seq_lengths is None else jnp.asarray(seq_lengths)
            y = flax.linen.recurrent.flip_sequences(y, lengths, len(batch), time_major=True)
        y = y if time_major else jnp.moveaxis(y, 0, -2)
        return (carry, y) if return_carry else y
