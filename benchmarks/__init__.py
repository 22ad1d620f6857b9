"""Measurements of rnn_gpu, each a module: `python -m benchmarks.NAME` from the root of the
repository.
"""
