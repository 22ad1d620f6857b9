"""The cluster schedule: what its simulated kernels are held to, and that breaking it is noticed."""

import numpy as np
import pytest

from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda import cluster
from rnn_gpu.kernels.devices.cuda.contract import Problem
from rnn_gpu.kernels.devices.cuda.plans import Plan
from rnn_gpu.kernels.devices.cuda.schedules import H200, decide, known, only
from twins import one_pass

LSTM = CELLS["lstm"]


def found(n, pattern="live"):
    with only("cluster"):
        return one_pass("cuda", LSTM, "float64", n=n, pattern=pattern)[0]


def test_runs_over_clusters_are_bitwise_repeatable():
    for a, b in zip(found(6), found(6), strict=True):
        assert (a == b).all()


# Broken on purpose


def test_a_byte_too_many_is_awaited_for_ever_and_noticed(monkeypatch):
    more = Plan.message.fget
    monkeypatch.setattr(Plan, "message", property(lambda plan: more(plan) + 1))
    with pytest.raises(RuntimeError, match="nobody can go on"):
        found(9)


def test_units_that_are_not_there_must_send(monkeypatch):
    sent = cluster.send
    monkeypatch.setattr(
        cluster, "send", lambda a, place, i, value, full: value and sent(a, place, i, value, full)
    )
    with pytest.raises(RuntimeError, match="nobody can go on"):
        found(11)


def test_who_does_not_wait_is_noticed(monkeypatch):
    monkeypatch.setattr(cluster, "await_phase", lambda full, parity: None)
    with pytest.raises(RuntimeError, match="armed again before its phase is over"):
        found(10)


def test_who_does_not_arm_the_next_phase_is_noticed(monkeypatch):
    armed, arm = [], cluster.arm

    def twice_only(full, bytes):
        armed.append(full)
        if armed.count(full) <= 3:
            arm(full, bytes)

    monkeypatch.setattr(cluster, "arm", twice_only)
    with pytest.raises(RuntimeError, match=r"nobody can go on: .*which nobody has armed"):
        found(12)


# The choice


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_clusters_carry_what_one_multiprocessor_cannot(direction):
    for name, n, B in (("lstm", 256, 16), ("gru", 256, 16), ("elman_tanh", 512, 16)):
        it = decide(Problem(CELLS[name], direction, n, B, 4, H200))
        assert it.schedule == "cluster"
        assert it.blocks == it.cluster * -(-B // it.plan.samples)
        assert it.blocks % it.cluster == 0 and it.cluster in cluster.SIZES


def test_cards_before_hopper_have_no_clusters():
    a100 = known("A100", (8, 0), 108, 65_536, 166_912)
    assert cluster.plans(Problem(LSTM, "forward", 256, 16, 4, a100), asked=True) == ()


def test_every_block_of_a_plan_has_units():
    for n in (3, 7, 100, 250):
        for it in cluster.plans(Problem(LSTM, "forward", n, 3, 4, H200)):
            assert (it.plan.blocks - 1) * it.plan.units_each < n <= it.plan.places
            assert it.plan.threads <= 1024 and it.shared <= H200.shared


def test_a_message_counts_every_place_of_a_unit():
    """Of 7 units over 4 blocks, 2 each: 8 places a gate; a sum of δ² of each block and sample."""
    plan = Plan(7, 28, 1, 4, 3, 0, clips=True, units=2, blocks=4)
    assert plan.places == 8 and plan.message == 3 * (4 * 8 + 4 * plan.parts)
    assert np.prod((plan.blocks, plan.units_each)) == plan.places
