"""Devices: the loops. Each module offers the same functions with the same arguments; a test
compares their signatures.

name                                  "reference", "cpu", "cuda"
array(x, dtype)                       a contiguous array of the device with the values of x
numpy(a)                              a NumPy array with the values of a
empty(shape, dtype)                   an array of the device, its values undefined
copy(a)                               a contiguous array of the device with the values of a, of its
                                      own
finite(a)                             has an array of the device neither NaN nor infinity?
fingerprint(words)                    a number that says whether anything in an array of uint32 was
                                      written
elementwise(f, outputs, inputs, scalars)
matvec(W, s, out)
forward(cell, p, W, c, s, kept, flags)
backward(cell, dy, W, c, s, kept, flags, dp, dq, ds, clip)
explain(cell, n, B, dtype)            a text: which kernels a layer of n units runs for B samples,
                                      and why
project, project_back                from products.py, with the device's own product of matrices
"""
