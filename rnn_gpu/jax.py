"""Recurrent layers for JAX on our CPU kernels: functions of arrays, with gradients.

>>> import jax, rnn_gpu.jax
>>> params = rnn_gpu.jax.init("gru", jax.random.key(0), 3, 5)      # U, W, b, c
>>> y, h = rnn_gpu.jax.gru(params, jax.numpy.zeros((7, 2, 3)))     # x (T, B, m) -> y (T, B, n)
>>> grads = jax.grad(lambda params: rnn_gpu.jax.gru(params, y[..., :3])[0].sum())(params)

They take part in jit, grad and vmap, within scan and checkpoint. Flax's modules: rnn_gpu.flax.
"""

from .bridges.jax.layers import gru, init, lstm, recurrent, rnn
from .bridges.registry import register

__all__ = ["gru", "init", "lstm", "recurrent", "register", "rnn"]
