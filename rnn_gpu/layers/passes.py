"""Passes forward and back as values, and what keeps the last one for the users' door."""

from collections.abc import Mapping, Set
from threading import get_ident
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ..errors import OrderError
from ..kernels.devices import Device


class Pass(NamedTuple):
    """What all layers, and all segments, of one way forward have in common."""

    training: bool = False
    numbers: Mapping[Any, int] = MappingProxyType({})  # of this pass, for each layer that draws
    parallel: Any = None  # how layers go over long sequences in chunks; None: step by step
    # what samples go on from where they begin anew, a Given for each recurrent layer that has some
    given: Mapping[Any, Any] = MappingProxyType({})


INFERENCE = Pass()


class Back(NamedTuple):
    """What the way back through a layer gives; of a network and of a layer with two directions,
    also that of each part.
    """

    dx: Any  # dE/dx (T, B, m)
    ds: list  # dE/d(initial state), (S, B, n) for each layer of `recurrent`
    grads: dict  # dE/dθ by name
    delta: Any = None  # dE/dnet: (T, B, G, n) of a recurrent layer, (T, B, n) of a Dense one
    tape: Any = None  # a DeltaTape, where it was asked for
    # how often δ of a step and sample was beyond its bounds: an integer, or an array () of the
    # device, which nobody has waited for
    clipped_steps: Any = 0
    wide_ds: Any = None  # ds of the cell that ran, where noise made it another than the layer's own
    parts: tuple["Back", ...] = ()
    report: Any = None  # how a recurrent layer went over its sequence; None where nobody asked
    # dE/d(Given.states), (S, T, B, n) for each layer of `recurrent`, None of one without; () where
    # none has any
    dgiven: tuple = ()


def delta_of(back: Back) -> Any:
    """δ of a way back; one in chunks is joined."""
    return back.delta.whole() if hasattr(back.delta, "whole") else back.delta


def clipped_in_all(backs) -> Any:
    """Σ clipped_steps, where most are 0: those that are not are added on the device."""
    unread = [c for back in backs if type(c := back.clipped_steps) is not int or c]
    return sum(unread[1:], unread[0]) if unread else 0


def given_in_all(backs) -> tuple:
    """dgiven of layers together, for as many as `recurrent` has."""
    found = [back.dgiven or (None,) * len(back.ds) for back in backs]
    return sum(found, ()) if any(back.dgiven for back in backs) else ()


class Last(NamedTuple):
    """The last pass of a layer or network, whole: never written into, only replaced, so that no
    thread sees half of one.
    """

    like: Any  # x as it came
    steps: Any  # its Steps; None without time
    tape: Any  # what the way back needs; None where there is none for it alone
    # the fingerprint of the parameters that it went forward with; () where nobody asks
    weights: tuple = ()
    way: Any = None  # what goes back where it is not the layer or network itself: Segments
    back: Back | None = None
    thread: int = 0  # that went forward

    def returned(self, back: "Back") -> "Last":
        """The same pass, after its way back."""
        return Last(self.like, self.steps, self.tape, self.weights, self.way, back, self.thread)

    def parts(self, count: int) -> list["Last"]:
        """The same pass as each of `count` layers that took part has seen it; of segments none has
        all.
        """
        none = (None,) * count
        tapes = none if self.tape is None or self.way else self.tape
        backs = self.back.parts if self.back else none
        return [
            Last(input_of(tape), self.steps, tape, back=back, thread=self.thread)
            for tape, back in zip(tapes, backs, strict=True)
        ]


BEGUN: dict[int, Last] = {}  # by thread: a pass that is under way


def input_of(tape):
    """x, as the layer had it that left this tape; None of no tape."""
    return getattr(tape, "x", None) if tape is None or hasattr(tape, "x") else input_of(tape[0])


class Remembering:
    """What keeps its last pass, for `backward` and for whoever looks at what that gave.

    A pass belongs to the thread that made it: several may go forward, but `backward` is for the
    last of them alone.
    """

    _device: Device
    bits: tuple  # all parameters, as arrays (·,) of uint32, for their fingerprint
    _last: Last | None = None
    _threads: Set[int] = frozenset()  # that went forward
    _trainer: object  # who trains it, while somebody does

    def __getstate__(self) -> dict:
        """For copies and other processes: without what the last pass remembers, which stays with
        its thread.
        """
        here = ("_device", "bits", "_last", "_threads", "_trainer")
        return {name: value for name, value in self.__dict__.items() if name not in here}

    @property
    def backend(self) -> Device:
        """The device that does the work: its arrays and kernels (see kernels/devices)."""
        return self._device

    def _fingerprint(self) -> tuple:
        print_of = self._device.fingerprint
        return tuple([print_of(bits) for bits in self.bits])

    def remember(self, last: Last | None):
        """Take this for the last pass, or None for none: `backward`, `grads` and what looks at the
        last way back are then of it.

        What is made of layers has each of them remember its part.
        """
        if last is not None and last.thread not in self._threads:
            # no other thread comes between
            self.__dict__.setdefault("_threads", set()).add(last.thread)
        self._last = last

    def let_go(self):
        """Let go of the last pass, whose memory may be used again: this thread makes the next."""
        thread = get_ident()
        self.remember(
            BEGUN.get(thread) or BEGUN.setdefault(thread, Last(None, None, None, thread=thread))
        )

    def _recall(self) -> Last:
        """The last pass, for its way back.  Raises OrderError if there is none, or not of this
        thread, or not of these weights.
        """
        last, name = self._last, type(self).__name__
        if last is None or last.tape is None:
            raise OrderError(f"{name}: backward before forward; call it on x first")
        if last.thread != get_ident():
            raise OrderError(
                f"{name}: another thread has called it since; give each thread a copy() of its own"
            )
        if last.weights and self._fingerprint() != last.weights:
            raise OrderError(
                f"{name}: its parameters were written since it was called; call it on x again, "
                "then backward"
            )
        return last

    def _found(self, what: str) -> Back | None:
        """What the last way back gave; None if there was none since the way forward."""
        last = self._last
        if last is not None and last.thread != get_ident() and get_ident() in self._threads:
            raise OrderError(
                f"{what} is of another thread, which has called this {type(self).__name__} since: "
                "give each a copy()"
            )
        return last and last.back

    @property
    def grads(self) -> Mapping[str, np.ndarray]:
        """dE/dθ by the parameter's name, from the last backward; empty before."""
        back = self._found("grads")
        return {} if back is None else back.grads

    @property
    def clipped_steps(self) -> int:
        """How often, in the last backward, δ of a step and sample was beyond its bounds."""
        back = self._found("clipped_steps")
        return 0 if back is None else int(back.clipped_steps)


def next_pass(
    layers, training: bool, parallel=None, given: Mapping[Any, Any] = INFERENCE.given
) -> Pass:
    """A way forward through these layers; in training each that draws counts it."""
    if not training:
        return Pass(parallel=parallel, given=given)
    numbers = {}
    for layer in (part for one in layers for part in one.parts if part.draws):
        numbers[layer] = layer.passes
        layer.passes += 1
    return Pass(True, numbers, parallel, given)
