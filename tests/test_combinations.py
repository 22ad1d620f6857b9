"""Combinations of everything a layer takes, drawn by hypothesis, the same in every run: devices
agree, and a call is its pieces.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DEVICES, close
from door import explained, named, results
from own_cells import MINE
from rnn_gpu import GRU, LSTM, RNN, Bidirectional, Network, Recurrent, stack
from rnn_gpu.kernels.devices.cuda import schedules

KINDS = {  # each with one dtype: every pair is another set of kernels to compile
    "tanh": (partial(RNN, activation="tanh"), "float32"),
    "relu": (partial(RNN, activation="relu"), "float32"),
    "lstm": (LSTM, "float64"),
    "gru": (GRU, "float64"),
    "mine": (partial(Recurrent, MINE), "float64"),
}
MODELS = {
    "one": lambda kind, m, n, rows, **options: kind(m, n, batch_first=rows, **options),
    "reverse": lambda kind, m, n, rows, **options: kind(
        m, n, reverse=True, batch_first=rows, **options
    ),
    "both": lambda kind, m, n, rows, **options: Bidirectional(
        kind(m, n, batch_first=rows, **options)
    ),
    "stack": lambda kind, m, n, rows, **options: Network(
        stack(kind, m, n, num_layers=2, **options)
    ),
    "stack of both": lambda kind, m, n, rows, **options: Network(
        stack(kind, m, n, num_layers=2, bidirectional=True, **options)
    ),
}


class Case(NamedTuple):
    kind: str
    dtype: str
    model: str
    T: int
    B: int
    m: int
    n: int
    rows: bool  # batch_first
    ends: tuple[bool, bool]  # are state and dstate given?
    call: dict  # lengths, mask, resets, time-major
    back: dict  # tape, clip_step_value, clip_step_norm
    seed: int  # of every number

    def build(self, device, model=None):
        """The model, or another of the same numbers; its biases are not the zeros of its
        beginning.
        """
        kind, _ = KINDS[self.kind]
        model = MODELS[model or self.model](
            kind, self.m, self.n, self.rows, device=device, dtype=self.dtype
        )
        rng = np.random.default_rng(self.seed)
        for layer in model.recurrent:
            for name in [name for name in ("b", "c") if name in layer.parameters]:
                layer.parameters[name] = layer.backend.array(
                    rng.normal(size=layer.parameters[name].shape), self.dtype
                )
        return model

    def data(self, model):
        """x and dy, time-major, and the states before and after: a tuple of arrays for each
        recurrent layer, or None.
        """
        rng = np.random.default_rng(self.seed)
        x, dy = (
            rng.normal(size=(self.T, self.B, size)).astype(self.dtype)
            for size in (self.m, model.output_size or self.n)
        )
        shapes = [(layer.cell.states, self.B, self.n) for layer in model.recurrent]
        ends = [
            [tuple(rng.normal(size=shape).astype(self.dtype)) for shape in shapes]
            if given
            else None
            for given in self.ends
        ]
        return x, dy, *ends


@st.composite
def cases(draw, models=tuple(MODELS), kinds=tuple(KINDS), largest=9, sizes=(1, 3, 7, 8, 9, 16, 17)):
    def one_of(values):
        return draw(st.sampled_from(values))

    maybe = draw(st.lists(st.booleans(), min_size=9, max_size=9))
    T, B = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    seed = draw(st.integers(0, 99))
    rng, kind, model = np.random.default_rng(seed), one_of(kinds), one_of(models)
    patterns = {
        "lengths": rng.integers(1, T + 1, B),
        "mask": rng.random((T, B)) < 0.7,
        "resets": rng.random((T, B)) < 0.3,
    }
    options = {"tape": True, "clip_step_value": 0.3, "clip_step_norm": one_of((0.2, 1.0))}
    return Case(
        kind, KINDS[kind][1], model, T, B, one_of((1, 3, 8)), one_of(sizes),
        maybe[0] and "stack" not in model, (maybe[1], maybe[2]), chosen(patterns, maybe[3:6]),
        chosen(options, maybe[6:9]), seed,
    )  # fmt: skip


def chosen(named, given):
    return {name: value for (name, value), one in zip(named.items(), given, strict=True) if one}


def one_or_all(parts):
    return parts if len(parts) > 1 else parts[0]


def everything(case, device):
    """All that one pass forward and back gives, by name, as arrays."""
    model = case.build(device)
    turn = (lambda a: a.swapaxes(0, 1)) if case.rows else (lambda a: a)
    x, dy, *ends = case.data(model)
    ends = [None if end is None else [one_or_all(parts) for parts in end] for end in ends]
    state, dstate = (end[0] if end and isinstance(model, Recurrent) else end for end in ends)
    call = {name: a if name == "lengths" else turn(a) for name, a in case.call.items()}
    return results(model, turn(x), turn(dy), state, dstate, **call, **case.back) | explained(
        model, "tape" in case.back
    )


def agrees(case, device):
    expected, got = everything(case, "reference"), everything(case, device)
    assert list(got) == list(expected)
    for name, a in expected.items():
        close(got[name], a, case.dtype)


@pytest.mark.quick_on_devices("tanh")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["cpu"])
@settings(max_examples=20)
@given(data=st.data())
def test_the_cpu_gives_what_the_reference_gives(kind, device, data):
    agrees(data.draw(cases(kinds=(kind,))), device)


SHARED = ("cluster", "group")  # whose simulated blocks wait for each other, which takes long


@pytest.mark.parametrize("schedule", SHARED)
@settings(max_examples=8)
@given(case=cases(largest=3, sizes=(1, 5, 8)))
def test_schedules_of_several_blocks_give_what_the_reference_gives(schedule, case):
    with schedules.only(schedule):
        agrees(case, "cuda")


@pytest.mark.parametrize("schedule", [name for name in schedules.NAMES if name not in SHARED])
@settings(max_examples=40)
@given(case=cases(largest=4, sizes=(1, 3, 5, 8, 9)))
def test_every_schedule_gives_what_the_reference_gives(schedule, case):
    with schedules.only(schedule):
        agrees(case, "cuda")


def pieces(case, b):
    """The live steps of sample b, cut where it begins anew, in the order in which a layer takes the
    pieces and their steps.
    """
    length = case.call.get("lengths", [case.T] * case.B)[b]
    live, starts = (
        case.call[name][:length, b] if name in case.call else np.full(length, name == "mask")
        for name in ("mask", "resets")
    )
    starts = np.flatnonzero(starts)
    cut = [piece[live[piece]] for piece in np.split(np.arange(length), starts[starts > 0])]
    return [piece[::-1] for piece in reversed(cut)] if case.model == "reverse" else cut


@pytest.mark.quick_on_devices("cuda")
@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40)
@given(case=cases(("one", "reverse"), largest=7, sizes=(1, 3, 5)))
def test_a_call_is_every_piece_of_every_sample_alone(device, case):
    """A padded batch is its samples one by one; a masked step is deleted; a reset begins another
    sequence with the same initial state, whose gradient is the sum over pieces; reverse is forward
    on steps in reverse.
    """
    case = case._replace(rows=False)
    layer = case.build(device, "one")
    x, dy, *ends = case.data(layer)
    state, dstate = (
        np.stack(end[0]) if end else np.zeros((layer.cell.states, case.B, case.n), case.dtype)
        for end in ends
    )
    got = everything(case, device)
    clips = {name: bound for name, bound in case.back.items() if name != "tape"}
    expected = {name: np.zeros_like(a) for name, a in got.items() if not name.startswith("tape")}
    for b in range(case.B):
        cut = pieces(case, b)
        for k, piece in enumerate(cut):
            begin, end = state[:, b : b + 1], dstate[:, b : b + 1] * (k == len(cut) - 1)
            for name, a in alone(
                layer, x[piece, b : b + 1], dy[piece, b : b + 1], begin, end, clips
            ).items():
                if name in ("y", "dx", "delta[0]"):
                    expected[name][piece, b] = a[:, 0]
                elif name.startswith("last"):
                    expected[name][b] = a[0]  # of the last piece in the end
                elif name.startswith("first"):
                    expected[name][b] += a[0]
                else:
                    expected[name] += a
    for name, a in expected.items():
        close(got[name], a, case.dtype)


def alone(layer, x, dy, state, dstate, clips):
    state, dstate = one_or_all(tuple(state)), one_or_all(tuple(dstate))
    if not len(x):  # no step, through which both pass as they are
        return named("last", state) | named("first", dstate)
    return results(layer, x, dy, state, dstate, **clips) | explained(layer)
