"""Arithmetic that PTX has and NumPy has not, on arrays over threads and on single numbers.

Floating point is IEEE, and `fma` is rounded once (float32 by way of float64: a last bit of one in
2²⁹ cases may differ). Approximations (ex2, rcp, …) are the exactly rounded value; only
rcp.approx.ftz.f64 keeps 20 bits of the mantissa, as a card does.
"""

import numpy as np

SMALLEST = np.float32(2.0**-126)  # normal number
SPLITTER = 2.0**27 + 1.0
UPPER_HALF = np.uint64(0xFFFFFFFF00000000)
LOW, WORD = np.uint64(0xFFFFFFFF), np.uint64(32)


def select(p, a, b):
    """a where p, else b."""
    return np.where(p, a, b) if np.ndim(p) else (a if p else b)


def fma32(a, b, c):
    return (np.multiply(a, b, dtype="f8") + c).astype("f4")


def fma64(a, b, c):
    """Dekker's product, then Knuth's sum: a·b + c and the two errors."""
    product = a * b
    a_high, b_high = upper(a), upper(b)
    a_low, b_low = a - a_high, b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    total = product + c
    of_c = total - product
    corrected = total + (((product - (total - of_c)) + (c - of_c)) + error)
    return select(np.isfinite(corrected), corrected, total)


def upper(a):
    """The upper half of the bits of a's mantissa."""
    return SPLITTER * a - (SPLITTER * a - a)


def upper_of_product(a, b):
    """The upper 64 of the 128 bits of a·b, unsigned."""
    a0, a1, b0, b1 = a & LOW, a >> WORD, b & LOW, b >> WORD
    middle = a1 * b0 + (a0 * b0 >> WORD)
    return a1 * b1 + (middle >> WORD) + ((middle & LOW) + a0 * b1 >> WORD)


def upper_of_signed_product(a, b):
    """The same of int64: a negative factor counts 2⁶⁴ more as uint64 than it is."""
    upper = upper_of_product(a.view(np.uint64), b.view(np.uint64)).view(np.int64)
    return upper - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


def flushed(x):
    """Subnormal float32 to zero, as .ftz does."""
    return select(np.abs(x) < SMALLEST, np.copysign(np.float32(0), x), x)


def gross_reciprocal(x):
    """rcp.approx.ftz.f64: the upper half of the quotient's bits."""
    return (np.float64(1) / x).view("u8").__and__(UPPER_HALF).view("f8")


def quotient(a, b):
    """Of whole numbers, toward zero."""
    return (a - np.fmod(a, b)) // b


def to_whole(x, dtype):
    """A float to an integer, as cvt does: NaN to zero, too large to the end of the range."""
    info = np.iinfo(dtype)
    low, high = float(info.min), float(info.max)
    whole = np.clip(np.nan_to_num(x.astype("f8"), nan=0.0, posinf=high, neginf=low), low, high)
    return select(whole >= high, np.dtype(dtype).type(info.max), whole.astype(dtype))


def inserted(a, b, position: int, length: int):
    """bfi: `length` bits of a into b at `position`."""
    bits, kind = 8 * b.dtype.itemsize, b.dtype.type
    mask = ((1 << length) - 1) << position & ((1 << bits) - 1)
    return (b & kind(mask ^ ((1 << bits) - 1))) | (a << kind(position) & kind(mask))


def extracted(a, position: int, length: int):
    """bfe of unsigned numbers: `length` bits of a from `position`."""
    return a >> a.dtype.type(position) & a.dtype.type((1 << length) - 1)


def exponential(x):
    return np.exp2(x.astype("f8")).astype(x.dtype)


def ordered(a, b):
    return (a == a) & (b == b)


def unequal(a, b):
    """Ordered: false where one is NaN."""
    return (a < b) | (a > b)
