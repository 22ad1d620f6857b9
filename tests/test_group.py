"""The group schedule: blocks that reach each other by packets equal the reference, in whatever
order these land; and an earlier launch's packets are never taken for this one's.
"""

import numpy as np
import pytest

from conftest import close
from rnn_gpu.kernels import UNCLIPPED, Clip
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.cells.lstm import lstm
from rnn_gpu.kernels.cells.noise import dropped, zoned
from rnn_gpu.kernels.devices import cuda
from rnn_gpu.kernels.devices.cuda import group
from rnn_gpu.kernels.devices.cuda.contract import Choice, Problem
from rnn_gpu.kernels.devices.cuda.plans import Plan
from rnn_gpu.kernels.devices.cuda.schedules import H200, only
from twins import one_pass

CLIP = Clip(0.4, 0.6)
CHOSEN = ("elman_tanh", "lstm", "gru")
slow = pytest.mark.slow


@pytest.fixture
def planned(monkeypatch):
    """The function (blocks, groups, lanes, samples, units, shared quads): the table chooses such
    plans.
    """

    def shape(blocks, groups, lanes, samples, units, shared_quads):
        def chosen(cell, direction, n, B, itemsize, clips=False, masked=False, precision="fp32"):
            inputs, outputs = (n, cell.gates) if direction == "forward" else (cell.gates * n, 1)
            kind = clips, masked, units, blocks
            plan = Plan(n, inputs, outputs, lanes, samples, 0, *kind)
            plan = plan._replace(in_registers=max(0, plan.quads - shared_quads))
            grid = groups * blocks, plan.threads, plan.shared * itemsize
            return Choice("group", plan, *grid, "the test says so", 0.0, cooperative=True)

        monkeypatch.setattr("rnn_gpu.kernels.devices.cuda.choose", chosen)

    return shape


def equal_the_reference(cell, dtype, clip, pattern, n=7):
    expected, _, beyond = one_pass("reference", cell, dtype, n=n, pattern=pattern, clip=clip)
    got, _, clipped = one_pass("cuda", cell, dtype, n=n, pattern=pattern, clip=clip)
    for a, b in zip(got, expected, strict=True):
        close(a, b, dtype)
    assert clipped == beyond


SHAPES = [
    (3, 2, 2, 2, 1, 1),  # 3 units a block, of 7; 2 groups of 2 samples, 2 launches for 5 samples
    (2, 3, 4, 1, 2, 0),  # a launch with fewer groups; teams of 4 threads and 2 units
    *(pytest.param(shape, marks=slow) for shape in ((4, 1, 2, 4, 2, 99), (7, 1, 1, 2, 1, 0))),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CHOSEN)
def test_every_shape_of_group_equals_the_reference(name, shape, planned):
    planned(*shape)
    for clip, pattern in ((UNCLIPPED, None), (CLIP, 6), (CLIP, "live")):
        equal_the_reference(CELLS[name], "float64", clip, pattern)


@pytest.mark.parametrize("cell", [*CELLS.values(), dropped(zoned(lstm))], ids=lambda one: one.name)
def test_every_cell_goes_in_groups(cell, planned):
    planned(2, 2, 2, 1, 1, 0)
    equal_the_reference(cell, "float32", CLIP, 6, n=5)


def test_packets_of_an_earlier_launch_are_not_taken_for_this_ones(planned, monkeypatch):
    """Memory that is handed out anew has what another launch left there, tags and all."""
    planned(3, 2, 2, 2, 1, 0)
    library, given = cuda.arrays(), []

    class Reused:
        """Arrays whose zeros lie where zeros lay before."""

        def __getattr__(self, name):
            return getattr(library, name)

        def zeros(self, shape, dtype):
            again = [one for one in given if one.shape == (shape,)]
            if again:
                assert again[0].any()  # it is not zero by luck
                again[0][:] = 0
                return again[0]
            given.append(library.zeros(shape, dtype))
            return given[-1]

    monkeypatch.setattr(group, "arrays", Reused)
    for _ in range(2):
        equal_the_reference(lstm, "float64", UNCLIPPED, None)
    assert given


def test_stale_packets_would_be_wrong(planned, monkeypatch):
    """That is, the test above could fail: without the zeros it does."""
    planned(3, 2, 2, 2, 1, 0)
    library, given = cuda.arrays(), []

    class Stale:
        def __getattr__(self, name):
            return getattr(library, name)

        def zeros(self, shape, dtype):
            given.append(library.zeros(shape, dtype))
            given[-1].view(np.int32)[1::2] = 1  # the first message's tag
            return given[-1]

    monkeypatch.setattr(group, "arrays", Stale)
    with pytest.raises(AssertionError):
        equal_the_reference(lstm, "float64", UNCLIPPED, None)


def test_a_group_is_asked_for_by_name():
    cell = CELLS["lstm"]
    with only("group"):
        choice = cuda.choose(cell, "forward", 8, 3, 4)
    assert choice.schedule == "group" and choice.cooperative and choice.plan.blocks >= 2


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", CHOSEN)
def test_plans_of_groups_fit_the_card(name, direction):
    for n, B in ((768, 1), (1000, 64)):
        problem = Problem(CELLS[name], direction, n, B, 4, H200)
        choices = group.plans(problem)
        assert choices
        for choice in choices:
            plan = choice.plan
            assert choice.blocks <= H200.multiprocessors and choice.blocks % plan.blocks == 0
            assert choice.shared <= H200.shared
            assert plan.blocks * plan.units_each >= n


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("samples, n", [(1, 7), (2, 7), (2, 8), (3, 5)])
def test_every_number_of_a_message_has_its_place(samples, n, clips):
    plan = Plan(n, 4 * n, 1, 2, samples, 0, clips, False, 1, 3)
    count = plan.message
    number_at = group.place_of(plan, count + 5)
    places = [int(number_at(np.uint32(i))) for i in range(count)]
    vectors = [r * plan.width + i for r in range(samples) for i in range(plan.vector)]
    behind, parts = samples * plan.width, plan.blocks * plan.parts
    squares = [behind + r * plan.squares + i for r in range(samples) for i in range(parts)]
    assert places == vectors + squares * clips
    assert number_at(np.uint32(count + 4)) == places[-1] < plan.half


def test_where_W_fits_one_multiprocessor_no_group_is_offered():
    problem = Problem(CELLS["lstm"], "forward", 64, 8, 4, H200)
    assert not group.plans(problem) and group.plans(problem, asked=True)
