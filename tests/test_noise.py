"""Recurrent dropout and zoneout: the cells around a cell, on every device, against a loop that applies the masks by hand."""

import numpy as np
import pytest

from conftest import close
from rnn_gpu.device import resolve
from rnn_gpu.kernels import LIVE, RESET, Clip
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.devices.cuda import schedules
from rnn_gpu.kernels.devices.reference import formula
from test_twins import OTHERS, run

T, B, N = 5, 3, 7
CHOSEN = {
    "dropped gru": (dropped, CELLS["gru"]),
    "zoned lstm": (zoned, CELLS["lstm"]),
    "both, lstm": (lambda cell: dropped(zoned(cell)), CELLS["lstm"]),
    "both, elman": (lambda cell: dropped(zoned(cell)), CELLS["elman_tanh"]),
}


@pytest.fixture(params=CHOSEN.values(), ids=CHOSEN)
def drawn(request):
    return Drawn(*request.param)


@pytest.mark.parametrize("other", OTHERS)
def test_twins_agree_on_noise_and_clip_alike(drawn, other):
    expected, _, beyond = run("reference", drawn.noisy, "float32", pattern=1, clip=Clip(0.3, 0.5))
    got, _, clipped = run(other, drawn.noisy, "float32", pattern=1, clip=Clip(0.3, 0.5))
    for a, b in zip(got, expected, strict=True):
        close(a, b, "float32")
    assert clipped == beyond > 0


class Drawn:
    """A cell with noise around it, and numbers for one pass: float64, masked steps, resets."""

    def __init__(self, around, cell):
        self.cell, self.noisy, rng = cell, around(cell), np.random.default_rng(3)
        G, S = cell.gates, cell.states
        self.drops, self.zones = self.noisy.output, self.noisy.drawn >= S + self.noisy.output
        self.p, self.W, self.c = rng.normal(size=(T, B, G, N)), rng.normal(size=(G * N, N)) / 3, rng.normal(size=G * N * cell.apart)
        self.s0, self.dy, self.ds = (rng.normal(size=(*shape, B, N)) for shape in ((S,), (T,), (S,)))
        self.m = 2.0 * (rng.random((B, N)) < 0.5) if self.drops else np.ones((B, N))
        self.z = (rng.random((T, S, B, N)) < 0.4) * 1.0 if self.zones else np.zeros((T, S, B, N))
        self.flags = ((rng.random((T, B)) < 0.8) * LIVE + (rng.random((T, B)) < 0.2) * RESET).astype("uint8")

    def states(self, p, W, c, s0):
        """By hand: [s0, s after each step], the cell's own."""
        step, s = formula(self.cell.step), [s0]
        for t in range(T):
            before = np.where(self.flags[t, :, None] & RESET, s0, s[-1])
            q = ((self.m * before[0]) @ W.T + (c if self.cell.apart else 0)).reshape(B, -1, N)
            made, _ = step(tuple(p[t].swapaxes(0, 1)), tuple(q.swapaxes(0, 1)), tuple(before))
            after = np.where(self.z[t] == 1, before, made)
            s.append(np.where(self.flags[t, :, None] & LIVE, after, before))
        return np.array(s).swapaxes(0, 1)

    def loss(self, *θ):
        s = self.states(*θ)
        return (self.dy * s[0, 1:] * (self.flags[:, :, None] & LIVE)).sum() + (self.ds * s[:, -1]).sum()

    def run(self, device):
        """(own states, dE/dp, dE/dW, dE/dc, dE/ds0) by the kernels of a device."""
        d, noisy, zero = resolve(device), self.noisy, np.zeros((self.drops, B, N))
        masks = [*([self.z] if self.zones else []), *([np.broadcast_to(self.m, (T, 1, B, N))] if self.drops else [])]
        numbers = np.concatenate([self.p, *(mask.swapaxes(1, 2) for mask in masks)], 2)
        p, W, c, flags, dy = (d.array(a, a.dtype) for a in (numbers, self.W, self.c, self.flags, self.dy))
        s, kept = (d.array(np.full(shape, np.nan), "float64") for shape in ((noisy.states, T + 1, B, N), (T, B, noisy.kept, N)))
        s[:, 0] = d.array(np.concatenate([self.m * self.s0[:1]] * self.drops + [self.s0]), "float64")
        d.forward(noisy, p, W, c, s, kept, flags)
        dp, ds = d.array(np.full(self.p.shape, np.nan), "float64"), d.array(np.concatenate([zero, self.ds]), "float64")
        dq = d.array(np.full(self.p.shape, np.nan), "float64") if noisy.apart else dp
        d.backward(noisy, dy, W, c, s, kept, flags, dp, dq, ds)
        s, dp, dq, ds = (d.numpy(a) for a in (s, dp, dq, ds))
        seen = np.where(self.flags[:, :, None] & RESET, s[0, :1], s[0, :-1])
        ds0 = ds[self.drops :].copy()
        ds0[0] += self.m * ds[0] * self.drops
        return s[self.drops :], dp, np.einsum("tbgi,tbj->gij", dq, seen).reshape(-1, N), dq.sum((0, 1)).reshape(-1)[: self.c.size], ds0


def test_states_are_those_of_a_loop_with_the_masks_by_hand(drawn, device):
    close(drawn.run(device)[0], drawn.states(drawn.p, drawn.W, drawn.c, drawn.s0))


@pytest.mark.parametrize("schedule", schedules.NAMES)
def test_every_schedule_takes_noise(drawn, schedule):
    with schedules.only(schedule):
        got = drawn.run("cuda")
    for a, b in zip(got, drawn.run("reference"), strict=True):
        close(a, b)


def test_gradients_with_the_masks_fixed_are_slopes(drawn, device):
    rng, ε = np.random.default_rng(4), 1e-6
    θ = drawn.p, drawn.W, drawn.c, drawn.s0
    for i, gradient in enumerate(drawn.run(device)[1:]):
        v = rng.normal(size=gradient.shape)
        ahead, behind = (drawn.loss(*(a + sign * ε * v if k == i else a for k, a in enumerate(θ))) for sign in (1, -1))
        assert (gradient * v).sum() == pytest.approx((ahead - behind) / (2 * ε), rel=1e-6, abs=1e-8)
