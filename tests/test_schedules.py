"""Schedules of the CUDA device: each equals the reference in every shape of plan, with several
blocks; and the table that chooses.
"""

import itertools

import pytest

from conftest import close
from rnn_gpu.kernels import UNCLIPPED, Clip
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda import schedules
from rnn_gpu.kernels.devices.cuda.schedules import H200, Choice, choose, decide, fitted, only
from twins import one_pass

CLIPS = (UNCLIPPED, Clip(0.4, 0.6))
slow = pytest.mark.slow
CHOSEN = ("elman_tanh", "lstm", "gru")


@pytest.mark.parametrize("schedule", ["plain", "gemm"])
@pytest.mark.parametrize("name", CHOSEN)
def test_schedules_for_large_weights_equal_the_reference(name, schedule, dtype):
    for clip, pattern in itertools.product(CLIPS, (None, 4, 5)):
        with only(schedule):
            assert choose(CELLS[name], "forward", 7, 5, 4).schedule == schedule
            got, _, clipped = one_pass("cuda", CELLS[name], dtype, pattern=pattern, clip=clip)
        expected, _, beyond = one_pass("reference", CELLS[name], dtype, pattern=pattern, clip=clip)
        for a, b in zip(got, expected, strict=True):
            close(a, b, dtype)
        assert clipped == beyond


def planned(monkeypatch, lanes, rows, shared_quads):
    """Make the table choose block plans of this shape, with this many quads of weights a lane in
    shared memory.
    """

    def chosen(cell, direction, n, B, itemsize, clips=False):
        inputs, outputs = (n, cell.gates) if direction == "forward" else (cell.gates * n, 1)
        plan = schedules.Plan(n, inputs, outputs, lanes, rows, 0, clips)
        plan = plan._replace(held=max(0, plan.quads - shared_quads))
        return Choice(
            "block", plan, -(-B // rows), plan.threads, plan.shared * itemsize, "the test says so"
        )

    monkeypatch.setattr("rnn_gpu.kernels.devices.cuda.choose", chosen)


@pytest.mark.parametrize(
    ("n", "lanes", "rows", "shared_quads"),
    [
        (7, 2, 2, 1),
        (9, 1, 1, 99),
        *(
            pytest.param(*shape, marks=slow)
            for shape in ((7, 4, 1, 0), (13, 4, 3, 1), (3, 8, 2, 0))
        ),
    ],
)
@pytest.mark.parametrize("name", CHOSEN)
def test_every_shape_of_block_plan_equals_the_reference(
    name, n, lanes, rows, shared_quads, monkeypatch
):
    """Shares of a sum over lanes; several samples a block, the last block not full; weights in
    registers, in shared memory, in both.
    """
    planned(monkeypatch, lanes, rows, shared_quads)
    for clip, pattern in itertools.product(CLIPS, (None, 6)):
        expected, _, beyond = one_pass(
            "reference", CELLS[name], "float64", n=n, pattern=pattern, clip=clip
        )
        got, _, clipped = one_pass("cuda", CELLS[name], "float64", n=n, pattern=pattern, clip=clip)
        for a, b in zip(got, expected, strict=True):
            close(a, b)
        assert clipped == beyond


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_plans_keep_within_the_card(cell, direction, itemsize):
    for n in (1, 7, 16, 33, 64, 100, 128, 160, 200, 256, 400, 1024):
        for B in (1, 16, 64, 256, 1000):
            it = decide(cell, direction, n, B, itemsize, H200)
            assert it.threads <= 1024 and it.shared <= H200.shared
            if it.schedule == "block":
                registers = 4 * it.plan.held * it.plan.outputs * itemsize // 4
                assert it.blocks * it.plan.rows >= B > (it.blocks - 1) * it.plan.rows
                assert it.plan.lanes * n <= it.threads
                assert registers <= H200.held and it.threads * (registers + 32) <= H200.registers


def test_the_table_covers_what_fits_one_multiprocessor():
    """The sizes of the field notes: float32 Elman 224, GRU 128, LSTM 117."""
    for name, n in (("elman_tanh", 224), ("gru", 128), ("lstm", 117)):
        for direction in ("forward", "backward"):
            assert decide(CELLS[name], direction, n, 64, 4, H200).schedule == "block"
    streamed = decide(CELLS["lstm"], "forward", 256, 64, 4, H200)
    assert streamed.schedule == "plain" and "1048576 bytes" in streamed.why
    assert decide(CELLS["lstm"], "forward", 2048, 64, 4, H200).schedule == "gemm"


def test_a_schedule_that_is_asked_for_is_the_one():
    for schedule in schedules.NAMES:
        assert decide(CELLS["lstm"], "forward", 64, 8, 4, H200, schedule).schedule == schedule
    instead = decide(CELLS["lstm"], "forward", 256, 8, 4, H200, "block")  # W does not fit
    assert instead.schedule == "plain" and "more than registers" in instead.why
    with (
        pytest.raises(ValueError, match="'blocks', expected one of block, plain, gemm"),
        only("blocks"),
    ):
        pass


def test_a_plan_that_does_not_fit_is_none():
    assert fitted(CELLS["lstm"], "forward", 512, 1, 1, 4, H200) is None


def test_layers_explain_themselves():
    import rnn_gpu

    layer = rnn_gpu.LSTM(5, 7, device="cuda")
    text = layer.explain(T=10, B=4)
    assert "forward" in text and "backward" in text and "block" in text
    assert "7,744 bytes" in text  # 10·4·(5 + 4·7) + 11·4·2·7 numbers of 4 bytes
    assert "tiles" in rnn_gpu.LSTM(5, 7, device="cpu").explain(T=10, B=4)
    assert "NumPy" in rnn_gpu.LSTM(5, 7, device="reference").explain(T=10, B=4)
    with only("plain"):
        assert "plain" in layer.explain(T=10, B=4) and "asked for" in layer.explain(T=10, B=4)
    with pytest.raises(rnn_gpu.ArgumentError, match="T is 0"):
        layer.explain(T=0, B=4)
