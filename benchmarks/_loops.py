"""Recurrent layers as a user of torch writes them by hand, for a cell that no library has."""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import softsign


def elman(p: Tensor, h: Tensor, W: Tensor) -> Tensor:
    return softsign(torch.addmm(p, h, W))


def lstm(p: Tensor, h: Tensor, c: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = torch.addmm(p, h, W).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * softsign(g)
    return torch.sigmoid(o) * softsign(c), c


def elman_loop(x: Tensor, U: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """x (T, B, m) -> y (T, B, n)."""
    p, W_T = x @ U.t() + b, W.t()
    h = torch.zeros((x.shape[1], W.shape[1]), dtype=x.dtype, device=x.device)
    y = []
    for p_t in p.unbind(0):
        h = elman(p_t, h, W_T)
        y.append(h)
    return torch.stack(y)


def lstm_loop(x: Tensor, U: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """x (T, B, m) -> y (T, B, n)."""
    p, W_T = x @ U.t() + b, W.t()
    h = torch.zeros((x.shape[1], W.shape[1]), dtype=x.dtype, device=x.device)
    c = torch.zeros_like(h)
    y = []
    for p_t in p.unbind(0):
        h, c = lstm(p_t, h, c, W_T)
        y.append(h)
    return torch.stack(y)


LOOPS = {"softsign_elman": (elman, elman_loop), "softsign_lstm": (lstm, lstm_loop)}


@cache
def made(cell: str, how: str):
    """(x, U, W, b) -> y, the loop of a cell: "eager", "script" (all of it by torch.jit) or
    "compiled" (each step by torch.compile).
    """
    step, loop = LOOPS[cell]
    if how == "script":
        return torch.jit.script(loop)
    if how == "compiled":
        # a step is compiled anew for each shape, and falls back to eager beyond the limit
        torch._dynamo.config.recompile_limit = 64
        names = loop.__globals__ | {step.__name__: torch.compile(step, dynamic=False)}
        return type(loop)(loop.__code__, names, loop.__name__)
    return loop
