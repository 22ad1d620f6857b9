"""Tensor cores in the persistent schedules: near float64 by what their numbers hold, equal to what
exactly rounded operands give, chosen where they are allowed and nowhere else.
"""

import numpy as np
import pytest

import rnn_gpu
from rnn_gpu.kernels import UNCLIPPED, Clip
from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda import schedules, tensor_sums
from rnn_gpu.kernels.devices.cuda.contract import Choice, Problem
from rnn_gpu.kernels.devices.cuda.plans import Plan, tensor_plans
from rnn_gpu.kernels.devices.cuda.schedules import H200
from twins import one_pass

# relative to the largest number of an array, or to 1
MOST = {"tf32": 3e-3, "bf16": 2e-2}
LEAST = {"tf32": 1e-6, "bf16": 1e-4}  # that is, it was not float32
CLIP = Clip(0.4, 0.6)
CHOSEN = ("elman_tanh", "lstm", "gru")
PRODUCTS = pytest.mark.parametrize("product", MOST)
slow = pytest.mark.slow


@pytest.fixture
def planned(monkeypatch):
    """The function (product, schedule, blocks, samples, shared quads): the table chooses such
    plans.
    """

    def shape(product, schedule, blocks, samples, shared_quads):
        def chosen(cell, direction, n, B, itemsize, clips=False, masked=False, precision="fp32"):
            inputs, outputs = (n, cell.gates) if direction == "forward" else (cell.gates * n, 1)
            plan = Plan(n, inputs, outputs, 4, samples, 0, clips, masked, 1, blocks, product)
            plan = plan._replace(in_registers=max(0, plan.quads - shared_quads))
            grid = -(-B // samples) * blocks, plan.threads, plan.shared * itemsize
            together = blocks if schedule == "cluster" else 1, schedule == "group"
            return Choice(schedule, plan, *grid, "the test says so", 0.0, *together)

        monkeypatch.setattr("rnn_gpu.kernels.devices.cuda.choose", chosen)

    return shape


def errors(cell, clip, pattern, n):
    """Of a pass in float32 from one in float64."""
    expected, _, beyond = one_pass("reference", cell, "float64", n=n, pattern=pattern, clip=clip)
    got, _, clipped = one_pass("cuda", cell, "float32", n=n, pattern=pattern, clip=clip)
    assert clip != UNCLIPPED or clipped == beyond
    return [
        np.abs(a - b).max(initial=0) / max(1.0, np.abs(b).max(initial=0))
        for a, b in zip(got, expected, strict=True)
    ]


SHAPES = {
    "block": (1, 8, 0),  # all weights in registers
    "cluster": (2, 8, 1),  # some in shared memory
    "group": (2, 16, 99),  # all of them; two tiles of samples
}
# of each schedule a cell in both products, and each other cell in one
CASES = [
    pytest.param(name, schedule, product, marks=() if CHOSEN[k] == name else slow)
    for k, schedule in enumerate(SHAPES)
    for i, name in enumerate(CHOSEN)
    for j, product in enumerate(MOST)
    if CHOSEN[k] == name or (i + j + k) % 2 == 0
]


@pytest.mark.parametrize("name, schedule, product", CASES)
def test_tensor_cores_are_near_float64(name, schedule, product, planned):
    """Samples that are not there, units that fill no warp, an odd number of outputs."""
    planned(product, schedule, *SHAPES[schedule])
    found = errors(CELLS[name], CLIP, 6, n=9)
    assert LEAST[product] < max(found) <= MOST[product], found


@pytest.mark.parametrize(
    "name, n, product",
    [
        *(("elman_tanh", 33, product) for product in MOST),
        pytest.param("lstm", 17, "tf32", marks=slow),
        pytest.param("gru", 17, "bf16", marks=slow),
    ],
)
def test_longer_vectors_are_near_float64_too(name, n, product, planned):
    """Two quads of a lane in registers and one in shared memory: on the way back gates make a
    vector that is longer than n.
    """
    planned(product, "block", 1, 8, 1)
    assert max(errors(CELLS[name], CLIP, "live", n)) <= MOST[product]


def test_columns_are_the_samples_that_a_thread_holds():
    """Lane 4 g + q ends with columns 2 q and 2 q + 1: they are samples q and q + 4 of a plan."""
    plan = Plan(64, 64, 4, 4, 8, 0, product="tf32")
    assert (plan.scattered, plan.held, plan.repeats) == (4, 2, 1)
    for q in range(4):
        columns = 2 * q, 2 * q + 1
        assert [tensor_sums.sample_of(one) for one in columns] == [q, q + plan.scattered]


@PRODUCTS
@pytest.mark.parametrize("name", CHOSEN)
def test_eight_samples_stand_in_different_banks(name, product):
    """A quarter of a warp loads quads of two samples in 32 banks of four bytes."""
    for n in range(1, 300):
        plan = Plan(n, n, CELLS[name].gates, 4, 8, 0, product=product)
        assert plan.width % 32 == 16 and plan.width >= plan.vector


def on_h200(**changes):
    problem = Problem(CELLS["lstm"], "forward", 100, 64, 4, H200, precision="bf16")
    return problem._replace(**changes)


def test_plans_by_tensor_cores_are_for_who_asked_for_them():
    assert {plan.product for plan in tensor_plans(on_h200(n=64))} == {"bf16"}
    assert {plan.product for plan in tensor_plans(on_h200(n=64, precision="tf32"))} == {"tf32"}
    for refused in (
        {"precision": "fp32"},
        {"B": 7},
        {"itemsize": 8},
        {"card": H200._replace(capability=(7, 5))},
    ):
        assert tensor_plans(on_h200(n=64, **refused)) == []


def test_every_schedule_on_the_chip_has_plans_by_tensor_cores():
    found = schedules.ranked(on_h200(n=512))
    of = {one.schedule for one in found if getattr(one.plan, "product", "fp32") == "bf16"}
    assert of == {"cluster", "group"}
    found = schedules.ranked(on_h200(n=64))
    of = {one.schedule for one in found if getattr(one.plan, "product", "fp32") == "bf16"}
    assert "block" in of


@PRODUCTS
def test_a_layer_is_near_the_strict_one(product):
    """Through the door, whatever plan is chosen."""
    x = np.random.default_rng(0).normal(size=(4, 9, 5)).astype("float32")
    near = rnn_gpu.LSTM(5, 8, device="cuda", precision=product, seed=1)
    strict = rnn_gpu.LSTM(5, 8, device="cuda", seed=1)
    assert product.upper()[:2] in near.explain(T=4, B=9).upper()
    got, expected = near(x)[0], strict(x)[0]
    assert 0 < np.abs(got - expected).max() <= MOST[product]
    near.backward(got)
    strict.backward(expected)
    for name, g in strict.grads.items():
        error = np.abs(near.grads[name] - g).max()
        assert error <= 2 * MOST[product] * max(1.0, np.abs(g).max())
