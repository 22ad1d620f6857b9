"""Every device computes what the reference computes: every cell, both dtypes, ragged lengths; every
buffer poisoned first.
"""

import numpy as np
import pytest

from conftest import close
from own_cells import MINE
from rnn_gpu.device import resolve
from rnn_gpu.kernels import Clip, updates
from rnn_gpu.kernels.activations import ACTIVATIONS
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.losses import LOSSES, value_and_slope
from rnn_gpu.layers.stateless import output_formula
from twins import OTHERS, N, one_pass


@pytest.mark.parametrize("other", OTHERS)
def test_twins_agree(cell, other, dtype):
    expected, *_ = one_pass("reference", cell, dtype)
    got, *_ = one_pass(other, cell, dtype)
    for a, b in zip(got, expected, strict=True):
        close(a, b, dtype)


@pytest.mark.parametrize("other", OTHERS)
def test_twins_agree_on_any_pattern_of_masks_and_resets(cell, other, dtype):
    for seed in (1, 2, 3, "live"):
        expected, *_ = one_pass("reference", cell, dtype, pattern=seed)
        got, *_ = one_pass(other, cell, dtype, pattern=seed)
        for a, b in zip(got, expected, strict=True):
            close(a, b, dtype)


@pytest.mark.quick_on_devices("7")
@pytest.mark.parametrize("n", [N, 33])
@pytest.mark.parametrize("cell", [CELLS["lstm"], MINE], ids=["lstm", "mine"])
def test_what_is_kept_may_lie_where_p_was(cell, device, n):
    for a, b in zip(
        one_pass(device, cell, "float64", n=n, pattern=1, in_place=True)[0],
        one_pass("reference", cell, "float64", n=n, pattern=1)[0],
        strict=True,
    ):
        close(a, b)


CLIPS = {"value": Clip(value=0.3), "norm": Clip(norm=0.7), "both": Clip(0.3, 0.5)}


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("name", ["elman_tanh", "lstm", "gru"])
@pytest.mark.parametrize("other", OTHERS)
def test_twins_clip_alike(name, other, dtype, clip):
    for pattern in (1, "live"):
        expected, _, beyond = one_pass("reference", CELLS[name], dtype, pattern=pattern, clip=clip)
        got, _, clipped = one_pass(other, CELLS[name], dtype, pattern=pattern, clip=clip)
        for a, b in zip(got, expected, strict=True):
            close(a, b, dtype)
        assert clipped == beyond > 0


def test_padding_carries_the_state_and_has_no_delta(cell, device):
    (s, kept, dp, dq, _), lengths, _ = one_pass(device, cell, "float32")
    for b, length in enumerate(lengths):
        assert (s[:, length:, b] == s[:, length : length + 1, b]).all()
        for a in (kept, dp, dq):
            assert (a[length:, b] == 0).all()


@pytest.mark.parametrize("n", [1, 13, 33])
@pytest.mark.parametrize("other", OTHERS)
def test_awkward_sizes(other, n):
    for cell in ("gru", "lstm"):
        for a, b in zip(
            one_pass(other, CELLS[cell], "float64", B=1, n=n)[0],
            one_pass("reference", CELLS[cell], "float64", B=1, n=n)[0],
            strict=True,
        ):
            close(a, b)


def test_runs_are_bitwise_repeatable(cell, device):
    for a, b in zip(
        one_pass(device, cell, "float32")[0], one_pass(device, cell, "float32")[0], strict=True
    ):
        assert (a == b).all()


@pytest.mark.parametrize("other", OTHERS)
def test_matvec(other, dtype):
    rng = np.random.default_rng(0)
    W, s = rng.normal(size=(13, 7)), rng.normal(size=(5, 7))
    d = resolve(other)
    out = d.array(np.full((5, 13), np.nan), dtype)
    d.matvec(d.array(W, dtype), d.array(s, dtype), out)
    close(d.numpy(out), s @ W.T, dtype)


def elementwise_cases():
    for activation in ACTIVATIONS.values():
        yield f"f {activation.name}", activation.f, 1, 1, ()
        yield f"δ {activation.name}", output_formula(activation), 1, 2, ()
    for loss in LOSSES.values():
        yield loss.name, value_and_slope(loss), 2, 3, ()
    scalars = {
        "sgd": (0.1, 0.2),
        "momentum": (0.1, 0.2, 0.9),
        "nesterov": (0.1, 0.2, 0.9),
        "rmsprop": (0.1, 0.2, 0.9, 1e-3),
    }
    adams = dict.fromkeys(("adam", "adamw"), (0.1, 0.2, 0.9, 0.99, 1e-3, 2.0, 3.0))
    for name, values in (scalars | adams).items():
        moments = {"sgd": 0, "adam": 2, "adamw": 2}.get(name, 1)
        yield name, getattr(updates, name), 1 + moments, 2 + moments, values


@pytest.mark.parametrize("case", list(elementwise_cases()), ids=lambda case: case[0])
@pytest.mark.parametrize("other", OTHERS)
def test_elementwise_formulas(case, other, dtype):
    _, f, outputs, inputs, scalars = case
    rng = np.random.default_rng(3)
    values = [
        np.abs(rng.normal(size=(3, 37))) if inputs > 2 else 3 * rng.normal(size=(3, 37))
        for _ in range(inputs)
    ]
    results = []
    for name in ("reference", other):
        d = resolve(name)
        out = [d.array(np.full((3, 37), np.nan), dtype) for _ in range(outputs)]
        d.elementwise(f, out, [d.array(v, dtype) for v in values], scalars)
        results.append([d.numpy(o) for o in out])
    for a, b in zip(*reversed(results), strict=True):
        close(a, b, dtype)
