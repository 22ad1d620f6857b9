"""JAX: layers as functions, Flax's module, and how XLA calls our kernels (see rnn_gpu.jax)."""
