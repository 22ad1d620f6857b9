"""A card played by this machine: CuPy's arrays, and the PTX of kernels executed by NumPy."""
