"""flax.linen.RNN on our CPU kernels: the same parameters under the same names.

>>> import flax.linen as nn, jax, rnn_gpu.flax
>>> layer = rnn_gpu.flax.RNN(nn.GRUCell(5))                        # in place of nn.RNN(…)
>>> variables = layer.init(jax.random.key(0), jax.numpy.zeros((2, 7, 3)))
>>> y = layer.apply(variables, jax.numpy.zeros((2, 7, 3)))         # x (B, T, m) -> y (B, T, n)
"""

from .bridges.jax.flax import RNN, as_flax, of_flax

__all__ = ["RNN", "as_flax", "of_flax"]
