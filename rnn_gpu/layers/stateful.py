"""The way in and out of a layer that carries states through time."""

from collections.abc import Sequence
from threading import get_ident
from typing import Any

from numpy.typing import ArrayLike

from .. import arguments
from ..errors import OrderError, ShapeError
from ..kernels import UNCLIPPED, Clip
from .base import Layer
from .cutting import ParallelLike, parallel_of
from .given import need_resets
from .passes import INFERENCE, Last, next_pass
from .steps import enter, entered, pattern

State = ArrayLike | Sequence[Any]  # of a cell of several states a tuple, of several layers a list


class Stateful(Layer):
    """What a recurrent layer and a bidirectional one share: the way in and out for sequences and
    states.
    """

    input_size: int
    output_size: int
    batch_first = False

    def __call__(
        self,
        x: ArrayLike,
        state: State | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: State | None = None,
        training: bool = False,
        parallel: ParallelLike = False,
        tolerance: float = 1e-6,
    ) -> tuple[Any, Any]:
        """Carry the layer over x; remember what `backward` needs.  Returns (y, state).

        x        (T, B, m), or integers (T, B) that stand for one-hot vectors of m
        state    before the first step, (B, n); for a cell of several states a tuple of them, (h, c)
                 for the LSTM; for a Bidirectional a list of two, forward and reverse; None is zero
        lengths  (B,) integers in 1..T, in any order: sample b ends after lengths[b] steps. What x
                 holds beyond is ignored, y is zero there
        mask     (T, B) booleans; False is a step that does not happen: as if it were deleted, but
                 that y is zero there
        resets   (T, B) booleans; True is a step before which the sample begins anew, with `state`:
                 as if two sequences stood one behind the other. A masked step resets too
        reset_state  what a sample goes on from there, in place of `state`: (T, B, n), for a cell of
                 several states a tuple, for a Bidirectional a list of two, of which one may be
                 None. Looked at only where resets is True, the first step too. A layer in reverse
                 comes from behind: it begins the steps before t with reset_state[t]
        training  True draws the masks of recurrent dropout and zoneout
        parallel  True: chunks of the sequence go side by side, for layers that forget: see
                  docs/parallel.md; "auto" does so where it should be quicker; (chunks, steps of
                  warm-up) says how. The result is that of False within `tolerance`, not to the bit;
                  `parallel_report` says how it went. With resets it goes forward step by step;
                  ("scan", chunks) cuts the way back alone, exactly but for rounding
        tolerance  how far the state that a chunk begins with may be from the end of the one before;
                   and the share of the largest dE/ds that may be dropped on the way back
        y        (T, B, n), the output of every step; state as above, after the last step of each
                 sample
        """
        training = training is not False and arguments.flag("training", training)
        a, steps = enter(
            self._device, x, self.input_size, self.dtype, lengths, self.batch_first, mask, resets
        )
        # the caller may write into x before `backward`
        a = self._device.copy(a) if steps.dead is None else a
        s0, weights = self._check_states("state", state, a.shape[1]), self._fingerprint()
        given = INFERENCE.given
        if reset_state is not None:
            begins = begins_of(resets, steps, lengths, self.batch_first)
            given = self._check_reset_state(reset_state, begins)
        pass_ = next_pass((self,), training, parallel_of(parallel, tolerance), given)
        self.let_go()
        y, s, tape = self.forward(a, s0, steps, pass_)
        self.remember(Last(x, steps, tape, weights, thread=get_ident()))
        ours = self.batch_first or getattr(tape, "keeps_y", True)
        return arguments.give(self._device, x, self._turn(y), ours), self._as_states(x, s)

    def backward(
        self,
        dy: ArrayLike | None,
        dstate: State | None = None,
        *,
        tape: bool = False,
        clip_step_value: float | None = None,
        clip_step_norm: float | None = None,
    ) -> tuple[Any, Any]:
        """Carry δ back through time (式3), after a call; set `grads`.  Returns (dx, dstate).

        dy      (T, B, n), dE/dy of every step; None for zero. Where no step happens it is ignored
        dstate  dE/d(the state after the last step), as `state`; None for zero
        tape    True also leaves what every step computed in `tape`, a DeltaTape; it takes one call
                of the kernel a step
        clip_step_value, clip_step_norm  bounds of δ of every step and sample, before it is used: of
                                         each number, then of the norm
                over all gates and units. `clipped_steps` then is how many steps (each sample's
                count) were beyond. What goes
                back past W, as along an LSTM's c, is not clipped
        dx      (T, B, m); dstate: the gradient with respect to `state`, the sum over all beginnings

        Raises OrderError where this thread has made no call, another thread has since, or a
        parameter was written since.
        """
        last = self._recall()
        tape = tape is not False and arguments.flag("tape", tape)
        clip = clip_of(clip_step_value, clip_step_norm)
        T, B = last.steps.flags.shape
        if dy is None:
            dy = self._device.zeros((T, B, self.output_size), self.dtype)
        else:
            shape, axes = ((B, T), "(B, T, n)") if self.batch_first else ((T, B), "(T, B, n)")
            dy = arguments.floats(
                "dy", dy, self.dtype, (*shape, self.output_size), axes, 0 if self.batch_first else 1
            )
            turned, dead = self._turn(dy), last.steps.dead
            dy = entered(self._device, "dy", turned, self.dtype, dead, self._turn)
        back = self.back(last.tape, dy, self._check_states("dstate", dstate, B), tape, clip)
        self.remember(last.returned(back))
        dx = self._device.array(self._turn(back.dx), self.dtype) if self.batch_first else back.dx
        return arguments.give(self._device, last.like, dx, ours=False), self._as_states(
            last.like, back.ds
        )

    @property
    def dreset_state(self) -> Any:
        """dE/d(`reset_state`) of the last call, from the last backward, as that came: zero where
        the call did not look at it.
        """
        last, back = self._last, self._found("dreset_state")
        return self._as_dreset_state(last and last.like, known_dgiven(back))

    def _turn(self, a):
        return a.swapaxes(0, 1) if self.batch_first else a

    def _check_states(self, name, states, B):
        """States at the door, of each layer of `recurrent`, as a list of arrays (S, B, n)."""
        return check_states(self.recurrent, name, states, B)

    def _check_reset_state(self, states, begins) -> dict:
        """What samples go on from at the door, where they begin anew: a Given by its layer."""
        return check_reset_state(self.recurrent, states, begins, self.batch_first)

    def _as_dreset_state(self, like, dgiven):
        return as_dreset_state(self.recurrent, like, dgiven, self.batch_first)

    def _as_states(self, like, states):
        return as_states(self.recurrent, like, states)


def as_states(recurrent, like, states):
    """A list of arrays (S, B, n) -> a list of states as users have them."""
    return [layer._as_state(like, s) for layer, s in zip(recurrent, states, strict=True)]


def check_states(recurrent, name, states, B):
    """A list with the state of each recurrent layer, or None, checked -> a list of arrays (S, B, n)
    of the device.
    """
    states = [None] * len(recurrent) if states is None else states
    if not isinstance(states, (list, tuple)) or len(states) != len(recurrent):
        came = arguments.came_in_parts(states)
        raise ShapeError(
            f"{name} is {came}, expected a list of {len(recurrent)}: one a recurrent layer"
        )
    return [
        layer._check_state(f"{name}[{i}]", s, B)
        for i, (layer, s) in enumerate(zip(recurrent, states, strict=True))
    ]


def begins_of(resets, steps, lengths, batch_first: bool):
    """Where samples begin anew, the first step too: (T, B) booleans of NumPy's.  Raises
    ArgumentError where `reset_state` came without resets.
    """
    need_resets(resets, "(T, B) booleans")
    T, B = steps.flags.shape
    return pattern("resets", resets, T, B, lengths, batch_first, otherwise=False)


def check_reset_state(recurrent, states, begins, batch_first: bool) -> dict:
    """A list with what each recurrent layer goes on from, or None -> a Given by its layer."""
    return {
        layer: layer._check_given(name, state, begins, batch_first)
        for name, layer, state in each_that_has(recurrent, "reset_state", states)
    }


def each_that_has(recurrent, name: str, states) -> list[tuple[str, Any, Any]]:
    """(name, layer, state) of a list with one of each recurrent layer, or None: of those that have
    one.
    """
    if not isinstance(states, (list, tuple)) or len(states) != len(recurrent):
        raise ShapeError(
            f"{name} is {arguments.came_in_parts(states)}, expected a list of "
            f"{len(recurrent)}: one a recurrent layer, or None"
        )
    return [
        (f"{name}[{i}]", layer, state)
        for i, (layer, state) in enumerate(zip(recurrent, states, strict=True))
        if state is not None
    ]


def known_dgiven(back) -> tuple:
    """Back.dgiven of the last way back.  Raises OrderError where there is none."""
    if back is None or not back.dgiven:
        raise OrderError(
            "dreset_state is known after backward: call it after the layer went forward with "
            "reset_state"
        )
    return back.dgiven


def as_dreset_state(recurrent, like, dgiven, batch_first: bool) -> list:
    """Back.dgiven as users have it: a list as `reset_state`."""
    turned = [d if d is None or not batch_first else d.swapaxes(1, 2) for d in dgiven]
    return [
        None if d is None else layer._as_state(like, d)
        for layer, d in zip(recurrent, turned, strict=True)
    ]


def zero_states(recurrent, B: int) -> list:
    """Zero for each recurrent layer: its state to begin with, or dE/d(its last state), (S, B, n),
    arrays of the device.
    """
    return check_states(recurrent, "state", None, B)


def clip_of(value, norm) -> Clip:
    """The bounds of δ of a step at the door; None is none."""
    if value is None and norm is None:
        return UNCLIPPED
    given = {"value": value, "norm": norm}
    return Clip(
        **{
            name: arguments.bound(f"clip_step_{name}", bound, optional=True)
            for name, bound in given.items()
            if bound is not None
        }
    )
