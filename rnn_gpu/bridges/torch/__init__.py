"""torch: modules that run on our kernels, and what carries them (see rnn_gpu.torch)."""
