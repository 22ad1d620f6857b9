"""BPTT within a budget of memory: the sequence is cut into segments, their first states are kept,
and each is computed again on the way back (Chen et al. 2016; Gruslys et al. 2016). One more pass
forward, for memory that grows with a segment and not with T."""

import re
from typing import NamedTuple

import numpy as np

from .. import arguments
from ..errors import ArgumentError
from ..kernels import UNCLIPPED
from ..kernels.products import chunks
from ..layers import Dense, Dropout
from ..layers.given import parts_of
from ..layers.passes import INFERENCE, Back, Pass
from ..layers.steps import Steps

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class Plan(NamedTuple):
    """What `plan` says of a pass forward and back."""

    segment: int  # steps of a segment; T: nothing is computed twice
    bytes: int  # the most that is alive at a time, but for parameters, optimizer and the data set
    extra: float  # work beyond plain BPTT, in passes forward: 0 or 1

    @property
    def cut(self) -> int | None:
        """The steps of a segment; None where the sequence is not cut."""
        return self.segment if self.extra else None


def budget(memory_budget) -> int:
    """Bytes of 1_000_000 or "512MB"."""
    if isinstance(memory_budget, str) and (
        found := re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?B)", memory_budget)
    ):
        return int(float(found[1]) * UNITS[found[2]])
    if isinstance(memory_budget, str):
        raise ArgumentError(
            f"memory_budget is {memory_budget!r}, expected bytes, or words as '512MB' (B, KB, MB, "
            "GB)"
        )
    return arguments.size("memory_budget", memory_budget)


def plan(
    network,
    T: int,
    B: int,
    memory_budget=None,
    ragged: bool = False,
    inputs: bool = False,
    reset_state: bool = False,
) -> Plan:
    """How a pass forward and back on T steps of B samples is cut so that it stays within
    memory_budget; None cuts nothing.

    ragged says that samples have different lengths: outputs are then copied, to be zero beyond.
    inputs says that dE/dx of all steps is wanted, as by `backward`, not by `fit`. reset_state says
    that every recurrent layer has one. Segments have whole chunks of steps, with which the device's
    sums begin anew. Raises ArgumentError if even segments of one chunk need more, or if the network
    cannot be cut: a layer goes in reverse, where the first segment's result needs the last one.
    """
    T, B = arguments.size("T", T), arguments.size("B", B)
    ragged, inputs = arguments.flag("ragged", ragged), arguments.flag("inputs", inputs)
    told = ragged, inputs, arguments.flag("reset_state", reset_state)
    whole = Plan(T, needed(network, T, B, T, *told), 0.0)
    if memory_budget is None or whole.bytes <= (allowed := budget(memory_budget)):
        return whole
    if any(layer.reverse for layer in network.recurrent) or not network.recurrent:
        raise ArgumentError(
            f"memory_budget is {memory_budget!r}, which needs segments, but a layer goes in "
            "reverse or there is no time"
        )
    least, chunk = whole.bytes, network.backend.chunk(B)
    whole_chunks = -(-T // chunk)
    for count in range(2, whole_chunks + 1):  # of segments; few are rather large
        k = -(-whole_chunks // count) * chunk
        bytes = needed(network, T, B, k, *told)
        if bytes <= allowed:
            return Plan(k, bytes, 1.0)
        least = min(least, bytes)
    raise ArgumentError(
        f"memory_budget is {memory_budget!r}, but T = {T} steps of {B} samples need at least "
        f"{least} bytes"
    )


class Needs(NamedTuple):
    """Numbers that one layer has alive for k steps of B samples."""

    kept: int  # from its forward to its backward: states, activations, output
    forward: int  # beside these, while it goes forward
    delta: int  # from its backward on: δ
    backward: int  # beside these, while it goes backward: dE/dy, dE/dx, and δ that is not kept


def needs(layer, k: int, B: int, ragged: bool, given: bool) -> Needs:
    """What a layer without parts, but for Dropout, has alive for k steps of B samples.

    given  it goes on from given states, where samples begin anew
    """
    n, rows = layer.output_size, k * B
    if layer.recurrent:
        cell = layer.noise.around(layer.cell, training=True)
        of_word = 8 // np.dtype(layer.dtype).itemsize
        more = given * cell.states * rows * n
        states, gates = cell.states * (rows + B) * n + more, cell.gates * rows * n
        inputs = (cell.gates + cell.drawn) * rows * n
        # none where kept shares p's memory: see Recurrent.forward
        beside = 0 if cell.kept == cell.gates + cell.drawn else inputs
        if cell.drawn:  # p is copied to where the masks come beside it, before there are states
            masks = 2 * of_word * rows * n if layer.noise.zoneout else 0
            beside = max(beside, gates + inputs + masks - states - cell.kept * rows * n)
        return Needs(
            states + (cell.kept + ragged) * rows * n,
            beside,
            gates + more,
            rows * (n + layer.input_size) + cell.apart * gates + more,
        )
    if isinstance(layer, Dense):
        return Needs(rows * n, rows * n, 0, rows * (2 * n + layer.input_size))
    return Needs(0, 0, 0, 0)


def needed(network, T: int, B: int, k: int, ragged: bool, inputs: bool, given: bool = False) -> int:
    """Bytes of the batch, of the states between segments of k steps, and of the worst moment of a
    segment, at work or in the loss.  given: with a reset_state.
    """
    size, out = np.dtype(network.dtype).itemsize, T * B * network.output_size
    parts, width = [], network.input_size
    for layer in network.layers:
        for part in layer.recurrent or (layer,):
            if isinstance(part, Dropout):
                rows = k * B * width
                # two words of 64 bits
                parts.append(Needs(2 * rows, 16 * rows // size, 0, 2 * rows))
            else:
                parts.append(needs(part, k, B, ragged, given))
        width = layer.output_size or width
    always = T * B * (network.input_size + network.output_size + 2) + (out if k < T else 0)
    always += T * B * network.input_size if inputs and k < T else 0
    if given:  # a batch has them; so have segments of a call, and what arrives there
        states = T * B * sum(layer.cell.states * layer.hidden_size for layer in network.recurrent)
        always += states * (1 if not inputs else 2 if k < T else 0)
    # gradients: of before and of now
    always += sum(a.size for a in network.parameters.values()) * 2
    between = (
        -(-T // k) * sum(layer.cell.states * B * layer.hidden_size for layer in network.recurrent)
        if k < T
        else 0
    )
    tapes = sum(part.kept for part in parts)
    forward = max(sum(p.kept for p in parts[: i + 1]) + parts[i].forward for i in range(len(parts)))
    loss = 0 if inputs else out * (4 + 8 // size) + (tapes if k == T else 0)
    after = max(sum(p.delta for p in parts[i:]) + parts[i].backward for i in range(len(parts)))
    backward = tapes + out + after
    return size * (always + between + max(forward + out, loss, backward))


class SegmentsTape(NamedTuple):
    """What the way back by segments needs."""

    x: np.ndarray  # (T, B, m)
    steps: Steps
    pass_: Pass
    starts: list  # the states before each segment


class Segments:
    """A network by segments of k steps: its `forward` keeps only the states before each, its
    `back` computes each again.

    Segments are counted from the last step, and have whole chunks of the device (see
    kernels/products.py): so gradients have the bits of the whole. `inputs` says that dE/dx is
    wanted.
    """

    def __init__(self, network, k: int, inputs: bool = False):
        self.network, self.k, self.inputs = network, k, inputs

    def forward(self, x, s0, steps, pass_=INFERENCE):
        """As a network's, but that the tape holds the states before each segment alone."""
        starts, outputs, states = [], [], s0
        for part in reversed(chunks(len(x), self.k)):
            starts.append(states)
            own = piece(x, steps, pass_, part)
            o, states, _ = self.network.forward(own.x, states, *own[1:], keep=False)
            outputs.append(o)
            states = [s.copy() for s in states]  # not a view that keeps the segment alive
        return np.concatenate(outputs), states, SegmentsTape(x, steps, pass_, starts)

    def back(self, tape, dy, ds, taped=False, clip=UNCLIPPED) -> Back:
        """As a network's, one more way forward included; without δ, and without dx unless `inputs`
        says that it is wanted.
        """
        network, back = self.network, None
        dx = network.backend.empty(tape.x.shape, network.dtype) if self.inputs else None
        dgiven = self._room_of_given(tape) if self.inputs else ()
        for part, s0 in zip(chunks(len(tape.x), self.k), reversed(tape.starts), strict=True):
            own = piece(tape.x, tape.steps, tape.pass_, part)
            *_, tapes = network.forward(own.x, s0, *own[1:])
            back = network.back(tapes, dy[part], ds, taped, clip, back)
            del tapes  # before the next ones are made
            ds = back.ds
            if dx is not None:
                dx[part] = back.dx
            for whole, arrived in zip(dgiven, back.dgiven, strict=False):
                if whole is not None:
                    whole[:, part] = arrived
            back = back._replace(dx=dx, dgiven=dgiven, parts=forgetful(back.parts, dgiven))
        assert back is not None  # a sequence has a step
        return back

    def _room_of_given(self, tape: SegmentsTape) -> tuple:
        """Room for Back.dgiven of all steps."""
        given, d, dtype = tape.pass_.given, self.network.backend, self.network.dtype
        if not given:
            return ()
        return tuple(
            d.empty(given[layer].states.shape, dtype) if layer in given else None
            for layer in self.network.recurrent
        )


class Piece(NamedTuple):
    """What goes forward of a segment."""

    x: np.ndarray
    steps: Steps
    pass_: Pass


def piece(x, steps: Steps, pass_: Pass, part: slice) -> Piece:
    """Some steps of x (T, B, m), of its Steps and of a pass."""
    given = parts_of(pass_.given, steps, part.start, part.stop)
    own = steps.part(part.start, part.stop)
    return Piece(x[part], own, pass_._replace(given=given))


def forgetful(parts, dgiven: tuple) -> tuple:
    """The Back of each layer, without δ, and with dgiven of all steps."""
    left = iter(dgiven)
    each = [tuple(next(left) for _ in own.ds) if dgiven else () for own in parts]
    return tuple(
        own._replace(delta=None, dgiven=mine) for own, mine in zip(parts, each, strict=True)
    )


def way(network, T: int, B: int, memory_budget, steps: Steps, given):
    """What goes forward and back within memory_budget: the network, or its Segments.

    given  of the pass
    """
    if memory_budget is None:
        return network
    ragged = steps.dead is not None
    cut = plan(network, T, B, memory_budget, ragged, inputs=True, reset_state=bool(given)).cut
    if cut and steps.starts is not None and len(given) < len(network.recurrent):
        raise ArgumentError(
            "memory_budget needs segments, and resets is given: a segment knows the state before "
            "it, not the initial one; give every recurrent layer its reset_state"
        )
    return Segments(network, cut, inputs=True) if cut else network


def first_bad(o, E: float) -> str:
    """Where the first NaN or infinity of the outputs stands; the layers have forgotten more."""
    for t, b, j in np.argwhere(~np.isfinite(np.asarray(o)))[:1]:
        return f"the network gives {o[t, b, j]} at time step {t}, sample {b}, output {j}"
    return (
        f"the loss is {E}, or a gradient is not finite (without memory_budget its place would be "
        "looked for)"
    )
