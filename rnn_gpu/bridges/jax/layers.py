"""Recurrent layers as functions of JAX's arrays: see rnn_gpu.jax, where users find them."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.custom_derivatives import SymbolicZero

from ... import arguments, derivatives
from ...derivatives import ActivationLike
from ...errors import ArgumentError, DeviceError, DtypeError, ShapeError
from ...kernels import LIVE, RESET, Cell
from ...kernels.cells import CELLS
from ...kernels.cells.elman import elman
from ...kernels.cells.gru import gru as gru_cell
from ...kernels.cells.lstm import lstm as lstm_cell
from ...kernels.devices.cpu.threads import most
from ...layers.given import need_resets
from ...layers.stateful import clip_of
from ...parameters import recurrent_shapes
from .calls import BACK, FORWARD, PROJECT, SUMS
from .jobs import How

Params = Mapping[str, Any]


class Way(NamedTuple):
    """How a layer goes through its steps, beside what its kernels are told."""

    how: How
    reverse: bool
    batch_first: bool


# The recurrence, which has its own way back


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recurrence(how: How, x, θ, s0, flags, counter):
    """x (T, B, m) in the order of the layer's steps, s0 (S, 1, B, n) or with given states behind it
    (S, 1 + T, B, n), flags (T, B), a number -> y (T, B, n), the last state (S, B, n).
    """
    return gone(how, x, θ, s0, flags)[0]


def gone(how: How, x, θ, s0, flags, below: bool = True):
    """Also what the way back needs."""
    T = len(x)
    (p,) = PROJECT(x, θ["U"], θ["b"], how=how)
    c = θ["c"] if how.cell.apart else θ["b"][:0]
    s, kept = FORWARD(p, θ["W"], c, s0, flags, how=how)
    asked = () if below else None  # neither has a number: what a tape holds are arrays
    tape = asked, x, θ["U"], θ["W"], s, kept, flags
    return (s[how.cell.output, 1 : T + 1], s[:, T]), tape


def went(how: How, x, θ, s0, flags, counter):
    """The same, told by JAX which of its arguments have a gradient."""
    primals = jax.tree.map(lambda a: a.value, (x, θ, s0, flags))
    return gone(how, *primals, below=x.perturbed)


def came_back(how: How, tape, gradients):
    """BPTT, then the gradients of the weights, which are sums over all steps; that of the number is
    how many steps were clipped.
    """
    asked, x, U, W, s, kept, flags = tape
    dy, ds = (jnp.zeros(a.shape, x.dtype) if isinstance(a, SymbolicZero) else a for a in gradients)
    T, below, apart = len(x), asked is not None, how.cell.apart
    dp, ds0, counts, *dq = BACK(dy, W, s, kept, flags, ds, how=how)
    dq, before = dq[0] if dq else dp, s[0, :T]
    if how.masked:
        begun = s[0, T + 1 :] if s.shape[1] > T + 1 else s[0, :1]
        before = jnp.where((flags & RESET != 0)[:, :, None], begun, before)
    dx, dU, db = SUMS(dp, x, U, how=how._replace(below=below))
    _, dW, dc = SUMS(dq, before, W, how=how._replace(below=False, bias=apart))
    dθ = {"U": dU, "W": dW, "b": db} | ({"c": dc} if apart else {})
    return dx if below else None, dθ, ds0, None, total(counts).astype(x.dtype)


def total(counts):
    """The sum of numbers below 2³², of 8 bytes each, (·, 8)."""
    words = jax.lax.bitcast_convert_type(counts.reshape(-1, 2, 4), np.uint32)
    return words[:, 0 if sys.byteorder == "little" else 1].sum()


recurrence.defvjp(went, came_back, symbolic_zeros=True)


@partial(jax.jit, static_argnums=0)
def carried(way: Way, θ, x, s0, live, starts, given, counter):
    """x (T, B, m), or (B, T, m) if batch_first; live and starts (T, B) booleans; s0 (S, B, n),
    given (S, T, B, n) or None, a number -> y, the last state.
    """
    how, reverse = way.how, way.reverse
    x = x.swapaxes(0, 1) if way.batch_first else x
    T, B, _ = x.shape
    flags = jnp.full((T, B), LIVE, jnp.uint8)
    if how.masked:
        x = jnp.where(live[:, :, None], x, 0)  # what stands there may be NaN
        flags = flags_of(live, starts, reverse)
    x = x[::-1] if reverse else x
    out: Any = recurrence(how, x, θ, behind(s0, given, starts, reverse), flags, counter)
    y, s = out
    y = y[::-1] if reverse else y
    y = jnp.where(live[:, :, None], y, 0) if how.masked else y
    return (y.swapaxes(0, 1) if way.batch_first else y), s


def behind(s0, given, starts, reverse: bool):
    """s0 (S, B, n), and what samples go on from where they begin anew, given (S, T, B, n) of time's
    order or None, as the kernels have them: (S, 1, B, n) or (S, 1 + T, B, n).
    """
    if given is None:
        return s0[:, None]
    if not reverse:
        s0 = jnp.where(starts[0][:, None], given[:, 0], s0)
    later = given[:, :0:-1] if reverse else given[:, 1:]
    return jnp.concatenate([s0[:, None], s0[:, None], later], 1)  # the second is not looked at


def flags_of(live, starts, reverse: bool):
    """What kernels are told of steps, in the order in which the layer takes them. What begins at t
    ends there for a layer that goes from the last to the first: its step t−1 begins anew.
    """
    later = starts.at[0].set(False)  # every sample begins with its first step
    if reverse:
        live, later = live[::-1], jnp.roll(later[::-1], 1, 0).at[0].set(False)
    return live * np.uint8(LIVE) + later * np.uint8(RESET)


# The door


def recurrent(
    cell: Cell | str,
    params: Params,
    x,
    state=None,
    *,
    lengths=None,
    mask=None,
    resets=None,
    reset_state=None,
    reverse: bool = False,
    batch_first: bool = False,
    clip_step_value: float | None = None,
    clip_step_norm: float | None = None,
    clip_counter=None,
):
    """A recurrent layer of any cell over x.  Returns (y, state).

    cell     a Cell (see `rnn_gpu.cell`), or the name of a built-in one: "lstm", "elman_relu", …
    params   U (G·n, m), W (G·n, n), b (G·n,), and c (G·n,) where the cell has it: see `init`
    x        (T, B, m), (B, T, m) if batch_first, or (T, m)
    state    before the first step, (B, n), or (n,) for x (T, m); of several states a tuple, (h, c)
             of an LSTM; None is zero
    lengths  (B,) integers in 1..T: sample b ends after lengths[b] steps. y is zero beyond
    mask     booleans shaped as the steps of x: where False the step does not happen, y is zero
    resets   booleans likewise: before a step where True the sample begins anew, with `state`
    reset_state  what it goes on from there, in place of `state`: shaped as the steps of x, n
             features; of several states a tuple. Elsewhere it is not looked at. A layer in reverse
             comes from behind: it begins the steps before t with reset_state[t]
    reverse  the layer goes from the last step of each sample to its first
    clip_step_value, clip_step_norm  bounds of δ of every step and sample on the way back: of each
             number, then of the norm; None is none
    clip_counter  a number of the dtype of x, whose value does not matter: its gradient is how
             often δ of a step and sample was beyond these bounds
    y        shaped as x, n features; state as above, after the last step of each sample

    Takes part in jit, grad, vjp and vmap, within scan and checkpoint. Lengths that jit traces are
    not looked at: those beyond T are T, those below 1 leave no step. x and params are float32, or
    float64 where jax_enable_x64 is set. Raises ShapeError, DtypeError, ArgumentError, DeviceError
    for arrays that are not on the CPU, and UnsupportedError for second derivatives.
    """
    cell = cell_of(cell)
    reverse = arguments.flag("reverse", reverse)
    batch_first = arguments.flag("batch_first", batch_first)
    clip = clip_of(clip_step_value, clip_step_norm)
    x = on_the_cpu("x", x)
    θ = checked_params(cell, params, x)
    alone = x.ndim == 2
    if alone and batch_first:
        raise ShapeError(f"x has shape {x.shape}, expected (B, T, m): batch_first is True")
    check_x(x, θ, batch_first)
    T, B = (x.shape[0], 1) if alone else x.shape[1::-1] if batch_first else x.shape[:2]
    axes = "T" if alone else "B, T" if batch_first else "T, B"
    shape = {"T": (T,), "B, T": (B, T), "T, B": (T, B)}[axes]
    patterns = [
        booleans(name, given, shape, axes)
        for name, given in {"mask": mask, "resets": resets}.items()
    ]
    masked = any(given is not None for given in (lengths, *patterns))
    live, starts = [
        None if a is None else a[:, None] if alone else a.T if batch_first else a for a in patterns
    ]
    if masked:
        live = jnp.ones((T, B), bool) if live is None else live
        starts = jnp.zeros((T, B), bool) if starts is None else starts
        if lengths is not None:
            within = jnp.arange(T)[:, None] < checked_lengths(lengths, T, B, alone)
            live, starts = live & within, starts & within
    n = θ["W"].shape[1]
    s0 = states("state", cell, state, x, (n,) if alone else (B, n))
    s0 = s0[:, None] if alone else s0
    given = None
    if reset_state is not None:
        need_resets(resets, f"booleans ({axes})")
        given = states("reset_state", cell, reset_state, x, (*shape, n))
        given = given[:, :, None] if alone else given.swapaxes(1, 2) if batch_first else given
    counted, counter = clip_counter is not None, counter_of(clip_counter, x)
    way = Way(How(cell, masked, clip, most(), counted), reverse, batch_first)
    y, s = carried(way, θ, x[:, None] if alone else x, s0, live, starts, given, counter)
    y, s = (y[:, 0], s[:, 0]) if alone else (y, s)
    return y, (s[0] if cell.states == 1 else tuple(s))


def gru(params: Params, x, state=None, **options):
    """`recurrent` of GRU cells; gates r z n, reset after the product, as torch's and Flax's. The
    state is h (B, n).
    """
    return recurrent(gru_cell, params, x, state, **options)


def lstm(params: Params, x, state=None, **options):
    """`recurrent` of LSTM cells; gates i f g o. The state is the pair (h, c), each (B, n): Flax's
    carry is (c, h).
    """
    return recurrent(lstm_cell, params, x, state, **options)


def rnn(params: Params, x, state=None, *, activation: ActivationLike = "tanh", **options):
    """`recurrent` of Elman cells, of any activation: a name, an Activation, or a pair (f, df) with
    df from the output y. The state is (B, n).
    """
    return recurrent(elman(derivatives.activation(activation)), params, x, state, **options)


def init(cell: Cell | str, key, input_size: int, hidden_size: int, dtype="float32") -> dict:
    """Parameters of a layer of this cell, by a key of jax.random's: U Glorot uniform, W orthogonal
    or, of a ReLU, the identity, gate by gate; biases as the cell says, an LSTM's forget gate 1.

    U (G·n, m), W (G·n, n), b (G·n,), and c (G·n,) where the cell takes the two sides apart.
    """
    cell = cell_of(cell)
    m, n = arguments.size("input_size", input_size), arguments.size("hidden_size", hidden_size)
    dtype, G = arguments.dtype_name(dtype), cell.gates
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise DtypeError(f"dtype is {dtype}: set jax_enable_x64 first, or say float32")
    of_U, of_W = (jax.random.split(one, G) for one in jax.random.split(key))
    glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
    U = jnp.concatenate([glorot(one, (n, m), dtype) for one in of_U])
    identity = cell.initial_recurrent == "identity"
    W = jnp.concatenate(
        [jnp.eye(n, dtype=dtype) if identity else orthogonal(one, (n, n), dtype) for one in of_W]
    )
    b = jnp.repeat(jnp.asarray(cell.initial_bias or (0.0,) * G, dtype), n)
    return {"U": U, "W": W, "b": b} | ({"c": jnp.zeros_like(b)} if cell.apart else {})


def cell_of(cell: Cell | str) -> Cell:
    """A cell at the door, by its name or as it is."""
    found = CELLS[arguments.choice("cell", cell, CELLS)] if isinstance(cell, str) else cell
    if not isinstance(found, Cell):
        raise ArgumentError(
            f"cell is {cell!r}, expected a Cell (made by rnn_gpu.cell) or one of {', '.join(CELLS)}"
        )
    derivatives.check_cell(found)
    return found


def on_the_cpu(name: str, a):
    """a as an array of JAX's of real numbers that our kernels have."""
    a = jnp.asarray(a)
    if not isinstance(a, core.Tracer):
        elsewhere = sorted({d.platform for d in a.devices()} - {"cpu"})
        if elsewhere:
            raise DeviceError(
                f"{name} is on {', '.join(elsewhere)}, but rnn_gpu.jax runs on JAX's CPU: "
                "jax.device_put(x, jax.devices('cpu')[0])"
            )
    return a


def checked_params(cell: Cell, params: Params, x) -> dict:
    """The parameters of a cell, of the dtype of x."""
    names = recurrent_shapes(cell, 1, 1)
    if not isinstance(params, Mapping) or set(params) != set(names):
        came = ", ".join(map(str, params)) if isinstance(params, Mapping) else repr(type(params))
        raise ArgumentError(f"params has {came or 'nothing'}, expected {', '.join(names)}")
    θ = {name: on_the_cpu(f"params[{name!r}]", params[name]) for name in names}
    U, W = θ["U"], θ["W"]
    if U.ndim != 2 or W.ndim != 2:
        raise ShapeError(f"U {U.shape} and W {W.shape} of params, expected (G·n, m) and (G·n, n)")
    for name, shape in recurrent_shapes(cell, U.shape[1], W.shape[1]).items():
        if θ[name].shape != shape:
            raise ShapeError(
                f"params[{name!r}] has shape {θ[name].shape}, expected {shape}: {cell.gates} gates"
                f" of {W.shape[1]} units"
            )
        if θ[name].dtype != x.dtype:
            raise DtypeError(
                f"params[{name!r}] is {θ[name].dtype}, but x is {x.dtype}: convert one"
            )
    return θ


def check_x(x, θ, batch_first: bool):
    """x is of a dtype that we have, of some steps, and of the features that params are for."""
    axes = "(B, T, m)" if batch_first else "(T, B, m) or (T, m)"
    if x.dtype not in (jnp.float32, jnp.float64):
        raise DtypeError(f"x is {x.dtype}, expected float32, or float64 with jax_enable_x64")
    if x.ndim not in (2, 3) or x.shape[1 if batch_first else 0] == 0:
        raise ShapeError(f"x has shape {x.shape}, expected {axes}, of at least one step")
    if x.shape[-1] != θ["U"].shape[1]:
        raise ShapeError(
            f"x has {x.shape[-1]} features, but params are of {θ['U'].shape[1]}: x is {axes}"
        )


def booleans(name: str, given, shape, axes: str):
    """mask or resets, of the steps of x; None stays None."""
    if given is None:
        return None
    a = on_the_cpu(name, given)
    if a.shape != shape:
        raise ShapeError(f"{name} has shape {a.shape}, expected {shape}, ({axes})")
    if a.dtype != bool:
        raise DtypeError(f"{name} is {a.dtype}, expected booleans")
    return a


def checked_lengths(lengths, T: int, B: int, alone: bool):
    """lengths (B,), or () for x (T, m), as an array; looked at where they are numbers already."""
    a = on_the_cpu("lengths", lengths)
    if a.shape != (() if alone else (B,)):
        expected = "one number" if alone else f"({B},): one for each sample"
        raise ShapeError(f"lengths has shape {a.shape}, expected {expected}")
    if not jnp.issubdtype(a.dtype, jnp.integer):
        raise DtypeError(f"lengths is {a.dtype}, expected integers")
    if not isinstance(a, core.Tracer):
        arguments.check_lengths(np.atleast_1d(np.asarray(a)), T, B)
    return a


def states(name: str, cell: Cell, state, x, shape) -> Any:
    """A state at the door as (S, …), each of this shape; None is zero."""
    if state is None:
        return jnp.zeros((cell.states, *shape), x.dtype)
    parts = (state,) if cell.states == 1 else state
    if not isinstance(parts, (tuple, list)) or len(parts) != cell.states:
        came = arguments.came_in_parts(state)
        raise ShapeError(f"{name} is {came}, expected a tuple of {cell.states} arrays {shape}")
    parts = [on_the_cpu(name, part) for part in parts]
    for part in parts:
        if part.shape != shape:
            raise ShapeError(f"{name} has shape {part.shape}, expected {shape}")
        if part.dtype != x.dtype:
            raise DtypeError(f"{name} is {part.dtype}, but x is {x.dtype}: convert one")
    return jnp.stack(parts)


def counter_of(counter, x):
    """The number whose gradient counts, at the door; None is 0."""
    a = jnp.zeros((), x.dtype) if counter is None else on_the_cpu("clip_counter", counter)
    if a.shape != ():
        raise ShapeError(f"clip_counter has shape {a.shape}, expected a number")
    if a.dtype != x.dtype:
        raise DtypeError(f"clip_counter is {a.dtype}, but x is {x.dtype}: convert one")
    return a
