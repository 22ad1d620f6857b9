"""How far outputs and gradients of a layer are from float64's: ours beside torch's.

    python -m benchmarks errors [--quick]

Ours: "fp32" is the CPU's kernels. "tf32" and "bf16" are what a GPU has, by the reference device's
arithmetic: both operands of every product are rounded, its sums and all else are float32. torch's
bfloat16 keeps states in it, too. An error is the largest of an array, over the array's largest
number.
"""

import argparse
import sys
from importlib.util import find_spec

import numpy as np

import rnn_gpu
from rnn_gpu.kernels import Backward, Forward, Sums
from rnn_gpu.kernels.devices import cpu, reference
from rnn_gpu.kernels.devices.cuda.precision import rounded
from rnn_gpu.kernels.products import by_chunks, products

KINDS = {"Elman": "RNN", "LSTM": "LSTM", "GRU": "GRU"}
M, N, B, T, FEW = 32, 64, 8, 1024, 48
BOUNDS = {"fp32": (1e-5, 1e-4), "tf32": (3e-3, 3e-3), "bf16": (2e-2, 2e-2)}  # y, gradients


class OfFewBits(np.ndarray):
    """A matrix whose products have both operands rounded to a precision."""

    precision = "tf32"

    def __array_finalize__(self, other):
        self.precision = getattr(other, "precision", self.precision)

    def __rmatmul__(self, a):
        return of_rounded(a, np.asarray(self), self.precision)


def of_few_bits(W, precision: str):
    """W, whose products are of that precision; "fp32": W itself."""
    if precision == "fp32":
        return W
    W = W.view(OfFewBits)
    W.precision = precision
    return W


def of_rounded(a, b, precision: str, out=None, add=False):
    """A device's `matmul`."""
    product = np.matmul(*(rounded(np.ascontiguousarray(one), precision) for one in (a, b)))
    if out is None:
        return product
    out[...] = out + product if add else product
    return out


project, project_back = products(
    reference.chunk, *by_chunks(of_rounded, reference.columns, reference.empty)
)


def ours(layer, x, dy, dtype: str, precision: str = "fp32") -> dict:
    """The output (T, B, N) of a layer for x (T, B, M), and the gradients for dy; states begin as
    zero.
    """
    cell, θ, (steps, samples, _) = layer.cell, layer.parameters, x.shape
    x, dy, U, W, b = (np.ascontiguousarray(a, dtype) for a in (x, dy, θ["U"], θ["W"], θ["b"]))
    device = cpu if (dtype, precision) == ("float32", "fp32") else reference
    forth, back = device.project, device.project_back
    if precision != "fp32":
        forth, back = project, project_back
    c = np.array(θ.get("c", ()), dtype)
    s = np.zeros((cell.states, steps + 1, samples, N), dtype)
    kept = np.empty((steps, samples, cell.kept, N), dtype)
    dp = np.empty((steps, samples, cell.gates, N), dtype)
    dq, ds = np.empty_like(dp) if cell.apart else dp, np.zeros_like(s[:, 0])
    flags, few = np.ones((steps, samples), np.uint8), of_few_bits(W, precision)
    p = forth(x, U, b, cell.gates, precision)
    device.forward(cell, Forward(p, few, c, s, kept, flags, False))
    device.backward(cell, Backward(dy, few, s, kept, flags, dp, dq, ds, masked=False))
    dx, dU, _ = back(dp, x, U, Sums(), precision)
    _, dW, _ = back(dq, s[0, :steps], W, Sums(), precision)
    return {"y": s[cell.output, 1:], "x": dx, "U": dU, "W": dW}


def torchs(kind: str, layer, x, dy, dtype: str) -> dict:
    """The same by torch."""
    import torch

    number = getattr(torch, dtype)
    module = getattr(torch.nn, KINDS[kind])(M, N, dtype=number)
    weights = layer.to_torch()
    module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    x = torch.tensor(x, dtype=number, requires_grad=True)
    y, _ = module(x)
    y.backward(torch.tensor(dy, dtype=number))
    found = {"y": y, "x": x.grad, "U": module.weight_ih_l0.grad, "W": module.weight_hh_l0.grad}
    return {name: a.detach().double().numpy() for name, a in found.items()}


def error(got, right) -> float:
    return float(np.nan_to_num(abs(got - right).max() / abs(right).max(), nan=np.inf))


def errors(kind: str, steps: int) -> dict:
    """{who: (error of y, the largest one of a gradient)}"""
    rng = np.random.default_rng(1)
    layer = getattr(rnn_gpu, KINDS[kind])(M, N, device="reference", dtype="float64", seed=1)
    x, dy = rng.normal(size=(steps, B, M)), rng.normal(size=(steps, B, N))
    right = ours(layer, x, dy, "float64")
    found = {precision: ours(layer, x, dy, "float32", precision) for precision in BOUNDS}
    if find_spec("torch"):
        for dtype in ("float32", "bfloat16"):
            found[f"torch, {dtype}"] = torchs(kind, layer, x, dy, dtype)
    return {
        who: (error(got["y"], right["y"]), max(error(got[name], right[name]) for name in "xUW"))
        for who, got in found.items()
    }


def beyond(found: dict) -> list[str]:
    """Which of ours are beyond their bounds, or no numbers."""
    return [
        who
        for who, bounds in BOUNDS.items()
        if not all(one <= bound for one, bound in zip(found[who], bounds, strict=True))
    ]


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{FEW} steps, not {T}")
    steps, wrong = FEW if parser.parse_args(arguments).quick else T, []
    print(f"n = {N}, {M} inputs, {B} samples, {steps} steps\n")
    print("| | | error of outputs | of gradients |\n| --- | --- | --- | --- |")
    for kind in KINDS:
        found = errors(kind, steps)
        for who, (y, gradient) in found.items():
            print(f"| {kind} | {who} | {y:.1e} | {gradient:.1e} |")
        wrong += [f"{kind} {who}" for who in beyond(found)]
    if wrong:
        print(f"beyond the bounds: {', '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
