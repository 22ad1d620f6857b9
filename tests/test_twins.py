"""Every device computes what the reference computes: every cell, both dtypes, ragged lengths; every
buffer poisoned first.
"""

import pytest

from conftest import close
from own_cells import MINE
from rnn_gpu.kernels import Clip
from rnn_gpu.kernels.cells import CELLS
from twins import OTHERS, N, elementwise_cases, elementwise_pass, matvec_pass, one_pass


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
    out, expected = matvec_pass(other, dtype)
    close(out, expected, dtype)


@pytest.mark.parametrize("case", list(elementwise_cases()), ids=lambda case: case[0])
@pytest.mark.parametrize("other", OTHERS)
def test_elementwise_formulas(case, other, dtype):
    results = elementwise_pass(other, case, dtype), elementwise_pass("reference", case, dtype)
    for a, b in zip(*results, strict=True):
        close(a, b, dtype)
