"""The table of schedules: every cell, size, batch, type and direction, on cards old and new."""

import inspect
import itertools

import pytest

from rnn_gpu.kernels.cells import CELLS
from rnn_gpu.kernels.devices.cuda.contract import Problem
from rnn_gpu.kernels.devices.cuda.schedules import H200, decide, known, ranked
from rnn_gpu.kernels.devices.cuda.tuning import choose, waits

T4 = known("T4", (7, 5), 40, 65_536, 65_536)
A100 = known("A100", (8, 0), 108, 65_536, 166_912)
NEWER = known("newer", (10, 0), 132, 65_536, 232_448)
SMALL = known("newer, of a desk", (12, 0), 170, 65_536, 101_376)
CARDS = {card.name: card for card in (T4, A100, H200, NEWER, SMALL)}
KINDS = ("elman_tanh", "gru", "lstm")
BATCHES = (1, 16, 64, 1000)


def problems(card, sizes, batches, itemsizes=(4, 8)):
    ways = ("forward", "backward"), KINDS, sizes, batches, itemsizes
    for direction, kind, n, B, itemsize in itertools.product(*ways):
        yield Problem(CELLS[kind], direction, n, B, itemsize, card)


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_every_plan_fits_its_card(card):
    for problem in problems(card, (13, 200, 3000), (64,)):
        for choice in ranked(problem):
            assert 0 < choice.threads <= 1024 and choice.shared <= card.shared
            assert choice.cluster <= card.cluster and choice.blocks % choice.cluster == 0
            assert not choice.cooperative or choice.blocks <= card.multiprocessors
            assert choice.cycles > 0 and choice.why
            assert waits(choice) is (choice.schedule in ("cluster", "group"))


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_a_larger_batch_takes_no_fewer_cycles(card):
    for problem in problems(card, (300,), (16, 1000), (4,)):
        more = decide(problem._replace(B=4 * problem.B))
        assert more.cycles >= 0.999 * decide(problem).cycles, problem


def test_the_length_of_a_sequence_chooses_nothing():
    """Chunks, segments and streams have the bits of the whole."""
    assert "T" not in Problem._fields and "T" not in inspect.signature(choose).parameters


@pytest.mark.parametrize("card", [T4, A100], ids=lambda card: card.name)
def test_cards_before_hopper_have_no_clusters(card):
    assert card.cluster == 1
    for problem in problems(card, (1, 64, 256), (16,)):
        assert {choice.cluster for choice in ranked(problem)} == {1}
    assert decide(Problem(CELLS["lstm"], "forward", 256, 8, 4, card)).schedule == "group"


def test_a_newer_card_is_taken_for_hopper():
    """But for the sizes that it has."""
    for problem in problems(NEWER, (64, 256), (64,), (4,)):
        assert decide(problem).schedule == decide(problem._replace(card=H200)).schedule, problem


def chosen(kind, n, B, direction="forward", card=H200):
    return decide(Problem(CELLS[kind], direction, n, B, 4, card)).schedule


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_regions_of_an_h200(direction):
    for kind, B in itertools.product(KINDS, BATCHES):
        assert chosen(kind, 64, B, direction) == "block"
    assert chosen("elman_tanh", 128, 64, direction) == "block"
    for kind, n in (("lstm", 128), ("gru", 256), ("lstm", 256), ("elman_tanh", 512)):
        assert chosen(kind, n, 16, direction) == "cluster"
    assert chosen("lstm", 1024, 1, direction) == "group"
    assert chosen("lstm", 2048, 256, direction) == "gemm"
    assert chosen("gru", 3000, 1, direction) == "gemm"
