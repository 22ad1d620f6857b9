"""LSTMs whose h_t = R m_t, m_t = o tanh(c_t), is smaller than c_t: Sak, Senior and Beaufays, 2014.

Of m they are ordinary LSTMs with W R in the place of W, so their kernels are the same. That R m_t
begins with an h_0 which is no R m is an input to the first step: there p += W h_0.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from ...kernels import LIVE, RESET


class Begins(NamedTuple):
    """Where samples go on from the state that they were given."""

    first: torch.Tensor  # (T, B, 1) bool, the steps that do
    never: torch.Tensor  # (B, 1) bool, samples that end with that state, as no step has happened
    # (T, B) in the order of the direction's own steps: the last before which a sample has begun
    # anew; 0 for none
    since: torch.Tensor
    reverse: bool

    def states(self, h) -> tuple[torch.Tensor, torch.Tensor]:
        """What samples have begun with at each step, (T, B, p) or of all (B, p), and at the end,
        (B, p); of h (B, p), or (1 + T, B, p) with given states behind.
        """
        if h.dim() == 2:
            return h, h
        given = h[2:].flip(0) if self.reverse else h[2:]
        of_each = self.since[:, :, None].expand(-1, -1, h.shape[2])
        began = torch.cat([h[:1], given]).gather(0, of_each)
        return began.flip(0) if self.reverse else began, began[-1]


def begins(flags, x, reverse: bool) -> Begins:
    """Of x (T, B, m) and its flags (T, B), None where all steps are live: the first step in the
    order of a direction, and the first that happens after each reset.
    """
    T, B, _ = x.shape
    if flags is None:
        first = x.new_zeros((T, B, 1), dtype=torch.bool)
        first[-1 if reverse else 0] = True
        never = x.new_zeros((B, 1), dtype=torch.bool)
        return Begins(first, never, x.new_zeros((T, B), dtype=torch.long), reverse)
    live, starts = (flags & LIVE) != 0, (flags & RESET) != 0
    if reverse:  # what begins at t then ends there: the step t−1 begins anew
        live = live.flip(0)
        starts = torch.cat([torch.zeros_like(starts[:1]), starts[1:].flip(0)])
    done = live.long().cumsum(0)
    before = torch.where(starts, done - live.long(), 0).cummax(0).values  # the last reset
    first = live & (done - before == 1)
    first = first.flip(0) if reverse else first
    number = torch.ones_like(done).cumsum(0) - 1
    since = torch.where(starts, number, 0).cummax(0).values
    return Begins(first[:, :, None], (done[-1] == before[-1])[:, None], since, reverse)


def projected(carry: Callable, x, h0, c0, weights, R, where: Begins | None):
    """A layer and direction: carry(x, s0, U, W, b, c) of an LSTM of m -> (y (T, B, p), h_n, c_n).

    x (T, B, m), h0 (B, p), c0 (B, n), or (1 + T, B, ·) with given states behind; weights U (4n, m),
    W (4n, p), b, c; R (p, n); where h0 goes in, None where it is zero.
    """
    U, W, b, c = weights
    with torch.autocast(x.device.type, enabled=False):
        if where is not None:
            began, h0 = where.states(h0)
            x = torch.cat([x, began * where.first], 2)
            U = torch.cat([U, W], 1)
        m, last = carry(x, torch.stack([torch.zeros_like(c0), c0]), U, W @ R, b, c)
        h = last[0] @ R.T
        return m @ R.T, h if where is None else torch.where(where.never, h0, h), last[1]
