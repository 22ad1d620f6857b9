"""Parameters: their initial values, and the dictionary that holds them."""

from typing import NoReturn

import numpy as np

from . import arguments
from .errors import ArgumentError, DtypeError, ShapeError
from .kernels import Cell

INITS = ("default", "torch", "tutorial")


class Parameters(dict[str, np.ndarray]):
    """Arrays by name. Assigning to a name writes finite values into the array that is there; shape
    and dtype stay.
    """

    def __setitem__(self, name, value):
        if name not in self:
            raise KeyError(f"{name!r} is not a parameter: there are {', '.join(self)}")
        old = self[name]
        a = arguments.as_array(name, value, old.dtype)
        if a.dtype.kind in "iu" and not arguments.is_array(value):
            a = a.astype(old.dtype)
        if a.dtype.kind == "f":
            arguments.finite(name, a)
        self.write(name, a.get() if arguments.on_gpu(a) and isinstance(old, np.ndarray) else a)

    def write(self, name: str, a):
        """An array's values into the one that is there, be they finite or not: a file gives back
        what was saved.
        """
        old = self[name]
        if a.shape != old.shape:
            raise ShapeError(f"{name} has shape {a.shape}, expected {old.shape}")
        if a.dtype != old.dtype:
            raise DtypeError(f"{name} is {a.dtype}, expected {old.dtype}")
        old[...] = a

    def update(self, *others, **more):
        """Assign each, as a dict's."""
        for name, value in dict(*others, **more).items():
            self[name] = value

    def __ior__(self, other):
        self.update(other)
        return self

    def fixed(self, *_) -> NoReturn:
        """Raise TypeError: no name comes or goes."""
        raise TypeError("a layer's parameters have fixed names: assign to them")

    __delitem__ = pop = popitem = clear = fixed

    def setdefault(self, *_) -> NoReturn:
        self.fixed()


def fitting(values: dict, shapes: dict, dtype: str) -> dict:
    """values, in the order of shapes, whose names and shapes they must have."""
    if set(values) != set(shapes):
        raise ArgumentError(
            f"there are the arrays {', '.join(sorted(values)) or 'none'}, expected "
            f"{', '.join(shapes) or 'none'}"
        )
    for name, shape in shapes.items():
        if values[name].shape != shape:
            raise ShapeError(f"{name} has shape {values[name].shape}, expected {shape}")
        if values[name].dtype != dtype:
            raise DtypeError(f"{name} is {values[name].dtype}, expected {dtype}")
    return {name: values[name] for name in shapes}


def recurrent_shapes(cell: Cell, m: int, n: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a recurrent layer's parameters by name."""
    rows = cell.gates * n
    return {"U": (rows, m), "W": (rows, n), "b": (rows,)} | ({"c": (rows,)} if cell.apart else {})


def recurrent(cell: Cell, m: int, n: int, seed: int, init: str) -> dict[str, np.ndarray]:
    """U (G·n, m), W (G·n, n), b (G·n,), and c (G·n,) where the cell takes the two sides apart;
    float64.

    "default"  U Glorot uniform, W orthogonal (Saxe 2014) or identity (Le 2015), both gate by gate;
               biases as the cell says, an LSTM's forget gate 1 (Jozefowicz 2015).
    "torch"    everything uniform in ±1/√n, as torch.nn.RNN, LSTM and GRU start; b is the sum of
               torch's two where c is not.
    "tutorial" U and W uniform in ±1e-4, biases zero, as the tutorial's code starts: the gradient
    vanishes at once.
    """
    rng = np.random.default_rng(seed)
    G = cell.gates
    if init == "tutorial":
        U, W = (rng.uniform(-1e-4, 1e-4, (G * n, columns)) for columns in (m, n))
        return {"U": U, "W": W, "b": np.zeros(G * n)} | (
            {"c": np.zeros(G * n)} if cell.apart else {}
        )
    if init == "torch":
        k = n**-0.5
        θ = {
            name: rng.uniform(-k, k, shape)
            for name, shape in {"U": (G * n, m), "W": (G * n, n), "b": G * n, "c": G * n}.items()
        }
        c = θ.pop("c")
        return θ | {"c": c} if cell.apart else θ | {"b": θ["b"] + c}
    U = np.concatenate([glorot(rng, n, m) for _ in range(G)])
    W = np.concatenate(
        [
            np.eye(n) if cell.initial_recurrent == "identity" else orthogonal(rng, n)
            for _ in range(G)
        ]
    )
    b = np.repeat(np.asarray(cell.initial_bias or (0.0,) * G, float), n)
    return {"U": U, "W": W, "b": b} | ({"c": np.zeros(G * n)} if cell.apart else {})


def dense(m: int, k: int, seed: int, init: str) -> dict[str, np.ndarray]:
    """V (k, m) and b (k,); "default" Glorot uniform and zero, "torch" both uniform in ±1/√m as
    torch.nn.Linear.

    "tutorial" V uniform in ±0.1, b zero, as the tutorial's fully connected layer.
    """
    rng = np.random.default_rng(seed)
    if init == "tutorial":
        return {"V": rng.uniform(-0.1, 0.1, (k, m)), "b": np.zeros(k)}
    if init == "torch":
        return {
            "V": rng.uniform(-(m**-0.5), m**-0.5, (k, m)),
            "b": rng.uniform(-(m**-0.5), m**-0.5, k),
        }
    return {"V": glorot(rng, k, m), "b": np.zeros(k)}


def embedding(symbols: int, size: int, seed: int) -> dict[str, np.ndarray]:
    """V (size, symbols), every number from N(0, 1), as torch.nn.Embedding."""
    return {"V": np.random.default_rng(seed).standard_normal((size, symbols))}


def glorot(rng, rows: int, columns: int):
    """Uniform in ±√(6/(rows + columns)) (Glorot and Bengio 2010)."""
    limit = (6 / (rows + columns)) ** 0.5
    return rng.uniform(-limit, limit, (rows, columns))


def orthogonal(rng, n: int):
    """A random orthogonal matrix, uniform (Haar): QR of a Gaussian one, the signs of R's diagonal
    moved into Q.
    """
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))
