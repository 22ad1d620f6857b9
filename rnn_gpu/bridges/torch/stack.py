"""Layers of one cell with the arguments, parameters and call of torch.nn.LSTM."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ... import arguments, layers
from ...errors import OrderError, ShapeError, UnsupportedError
from ...layers.chunked import ParallelReport
from ...layers.cutting import parallel_of
from ...layers.stateful import clip_of
from .base import OF_GATES, Base
from .calls import Axes, Direct, Recorded, flags_of_call, is_plain, leaves_a_program, steps_of_call
from .chunks import said
from .dtypes import computed, computed_like, returned
from .given import GivenStates, given_states
from .passes import Left, layer_like
from .projected import begins, projected
from .tensors import device_of, precision_of
from .twice import Slow
from .whole import whole


class Stack(Base):
    """Layers of one `cell`, which a subclass has, with the arguments, parameters and call of
    torch.nn.LSTM: see there.

    Numbers of the parameters are those of torch's modules after the same manual_seed. Of float16
    and bfloat16, and under autocast, all is computed in float32 and returned in torch's dtype.
    clip_step_value, clip_step_norm  bounds of δ of every step and sample on the way back, in every
                                     layer and direction: of each
            number, then of the norm; None is none. See `backward` of our own layers
    precision  of products of float32 matrices on a GPU: "fp32" is strict, "tf32" and "bf16" are
               faster; None is what torch's own recurrent modules do there
               (torch.backends.cudnn.rnn.fp32_precision)
    differentiable_twice  True has torch carry the cell step by step, so that gradients have
                          gradients: far slower than kernels
    parallel, tolerance  how long sequences are cut in chunks that go side by side, as in a call of
                         our own layers: "auto", True, (chunks, steps of warm-up); False is step by
                         step, with the bits of every other call. `parallel_reports` says how the
                         last eager call went
    """

    _left: Sequence[Left] | None = ()  # by the last call, of each layer and direction

    @property
    def _directions(self):
        return 2 if self.bidirectional else 1

    def _suffixes(self, k):
        return (f"_l{k}", f"_l{k}_reverse")[: self._directions]

    def __getstate__(self):
        return super().__getstate__() | {"_left": []}  # a tape is neither copied nor pickled

    @property
    def tapes(self) -> list[layers.DeltaTape]:
        """The DeltaTape of each layer and direction, of arrays as the device has them, after the
        backward of a call with tape=True. On a GPU they are written on torch's stream: wait for it
        before you read them elsewhere.
        """
        taped = [left for left in self._of_the_last_call() if left.taped]
        tapes = [left.tape for left in taped if left.tape is not None]
        if len(tapes) < len(taped):
            raise OrderError(
                "tapes are known after backward: call it on a loss of what the module returned"
            )
        return tapes

    @property
    def clipped_steps(self) -> int:
        """How often, in the backward of the last call, δ of a step and sample was beyond its
        bounds, over all layers and directions.
        """
        return sum(int(left.clipped_steps) for left in self._of_the_last_call())

    @property
    def parallel_reports(self) -> list[ParallelReport | None]:
        """How each layer and direction has gone over its sequence in the last call, and its
        backward: see `parallel_report` of our own layers; None where nobody asked for chunks.
        """
        return [left.report for left in self._of_the_last_call()]

    def explain(self, T: int, B: int) -> str:
        """Which kernels a call on T steps of B samples runs in each layer and direction, why, and
        what chunks should gain where `parallel` asks for them: see `explain` of our own layers.
        """
        θ, lines = self.weight_ih_l0, []
        dtype = "float64" if θ.dtype == torch.float64 else "float32"
        how = dtype, device_of(θ), precision_of(θ, self.precision)
        for k in range(self.num_layers):
            for suffix in self._suffixes(k):
                m = getattr(self, f"weight_ih{suffix}").shape[1]
                reverse = suffix.endswith("reverse")
                layer = layer_like(self.cell, m, self.hidden_size, *how, reverse)
                lines.append(f"{suffix[1:]}: {layer.explain(T, B, self.parallel)}")
        return "\n".join(lines)

    def forget(self):
        """Leave nothing of the last call: one that goes through the layers otherwise is to come."""
        if not leaves_a_program():
            self._left = None

    def _of_the_last_call(self) -> Sequence[Left]:
        if self._left is None:
            raise OrderError(
                "what the way back leaves is known of eager calls alone: the last one was "
                "recorded, by torch.compile, torch.func, or over time by rnn_gpu.rl"
            )
        return self._left

    def forward(self, input, hx=None, mask=None, resets=None, tape=False, reset_state=None):
        """As torch.nn.LSTM; what comes behind hx is ours.  Returns (output, h_n), or
        (output, (h_n, c_n)).

        input  (T, B, m), (B, T, m) if batch_first, (T, m), or a PackedSequence
        hx     (layers·directions, B, n), or without B for an input without B; of several states a
               tuple; None is zero
        mask   booleans shaped as the steps of input, (T, B), (B, T) or (T,): where False the state
               is carried through and the output is zero
        resets booleans likewise: before a step where True the sample begins anew, with its hx, and
        no gradient goes back past it. A
               masked step resets too. For the reverse direction it is the step before that begins
               anew
        tape   True keeps δ, dE/ds and ‖∇W_t‖ of every step for `tapes`
        reset_state  what a sample goes on from where it begins anew, in place of its hx:
                     (layers·directions, T, B, n), the axes of steps and samples as those of input;
                     of several states a tuple, of which h has proj_size units where there is
                     one. Looked at only where resets is True, the first step
                     too; the reverse direction begins the steps before t with that of t
        """
        tape = tape is not False and arguments.flag("tape", tape)
        packed = isinstance(input, PackedSequence)
        hx = None if hx is None else self._parts(hx)
        if not tape and mask is None and resets is None and reset_state is None:
            passed = whole(self, input, hx)
            if passed is not None:
                return passed[0], passed[1] if len(passed) == 2 else passed[1:]
        self._check_axes(input, hx or ())
        axes = Axes(packed or input.dim() == 3, self.batch_first and not packed)
        given, x, lengths = self._padded(input)
        s0 = self._states(hx, given, axes.batched, input if packed else None)
        came = tuple(s.dtype for s in s0)
        dtypes = returned(self.mode, x, came, not packed, self.proj_size > 0)
        way = self._way(x, lengths, axes, tape, mask=mask, resets=resets)
        θ = self.weight_ih_l0
        x, s0 = computed_like("input", x, θ), [computed_like("hx", s, θ) for s in s0]
        behind = None if reset_state is None else self._given(reset_state, resets, x, axes)
        last: list[Any] = []  # the states after each layer and direction
        for k in range(self.num_layers):
            outputs = []
            for suffix in self._suffixes(k):
                begin, may_begin = [s[len(last)] for s in s0], hx is not None
                if behind is not None:
                    begin = behind.behind(len(last), begin, suffix.endswith("reverse"))
                    may_begin = True
                y, *s = self._carry(way, x, begin, suffix, may_begin)
                outputs.append(y)
                last.append(s)
            x = torch.cat(outputs, 2) if self.bidirectional else y
            if k < self.num_layers - 1:
                x = self._dropped(x, lengths)
        if isinstance(way, Direct):
            vars(self)["_left"] = way.left  # torch's own assignment takes longer than a step
        elif not leaves_a_program():
            self._left = way.left
        x, h = x.to(dtypes[0]), (torch.stack(parts) for parts in zip(*last, strict=True))
        states = tuple(s.to(dtype) for s, dtype in zip(h, dtypes, strict=True))
        if lengths is not None:
            y = PackedSequence(pack_padded_sequence(x, lengths).data, *input[1:])
            states = self.permute_hidden(states, input.unsorted_indices)
        else:
            y = (x.transpose(0, 1) if axes.rows_first else x) if axes.batched else x[:, 0]
            states = states if axes.batched else tuple(s[:, 0] for s in states)
        return y, states[0] if len(states) == 1 else states

    def _way(self, x, lengths, axes, tape, **given):
        """How a call on x (T, B, m) comes to the kernels: see calls.  given: mask and
        resets as they came, by the axes of the input.
        """
        recorded = not is_plain(x)
        if tape and (recorded or self.differentiable_twice):
            raise UnsupportedError(
                "tape=True: a tape is kept in eager calls of kernels alone; here the call is "
                "recorded, by torch.compile, torch.export or torch.func, or has tensors without "
                "numbers, or differentiable_twice=True"
            )
        if self.differentiable_twice:
            return Slow(self.cell, flags_of_call(x, lengths, axes, **given)[0])
        if not recorded:
            steps = steps_of_call(x, lengths, axes, **given)
            clip = clip_of(self.clip_step_value, self.clip_step_norm)
            cut = parallel_of(self.parallel, self.tolerance)
            return Direct(self.cell, steps, clip, self.precision, tape, [], cut)
        flags = flags_of_call(x, lengths, axes, **given)
        clip = self.clip_step_value, self.clip_step_norm
        cut = said(self.parallel), self.tolerance
        return Recorded(self.told.name, *flags, clip, self.precision, *cut)

    def _carry(self, way, x, s0, suffix, given):
        """x (T, B, m) through a layer and direction -> its output and each last state.

        s0 each state (B, ·) to begin with, or (1 + T, B, ·), as `carry` takes them; given: may they
        be other than zero
        """
        weights, reverse = self._weights(suffix), suffix.endswith("reverse")

        def carry(*tensors):
            return way.carry(reverse, *tensors)

        if not self.proj_size:
            y, s = carry(x, torch.stack(s0), *weights)
            return y, *s
        where = begins(way.flags, x, reverse) if given else None
        R = computed(getattr(self, f"weight_hr{suffix}"))
        return projected(carry, x, s0[0], s0[1], weights, R, where)

    def _given(self, reset_state, resets, x, axes) -> GivenStates:
        """What samples go on from, of x (T, B, m)."""
        parts, count = self._parts(reset_state, "reset_state"), self.num_layers * self._directions
        sizes = [self.hidden_size] * len(parts)
        sizes[0] = self.proj_size or sizes[0]
        return given_states(parts, resets, x, axes, count, sizes, self.weight_ih_l0)

    def _dropped(self, x, lengths):
        """x (T, B, ·) after dropout, which falls on what torch's does after the same seed: on the
        data of a PackedSequence where there are lengths.
        """
        if lengths is None or not (self.training and self.dropout):
            return torch.nn.functional.dropout(x, self.dropout, self.training)
        data, *sizes = pack_padded_sequence(x, lengths)
        dropped = torch.nn.functional.dropout(data, self.dropout)
        return pad_packed_sequence(PackedSequence(dropped, *sizes))[0]

    def _padded(self, input):
        """input as torch's checks take it, (T, B, m), or (steps, m) of a PackedSequence; as (T, B,
        m); and the lengths of a PackedSequence, else None.
        """
        if isinstance(input, PackedSequence):
            unsorted = PackedSequence(input.data, input.batch_sizes)
            return input.data, *pad_packed_sequence(unsorted)
        if input.dim() == 2:
            input = input.unsqueeze(0 if self.batch_first else 1)
        return input, input.transpose(0, 1) if self.batch_first else input, None

    def _weights(self, suffix):
        """U, W, b and c of a layer and direction; c where the cell takes the two sides apart, else
        torch's second bias is part of b.
        """
        names = OF_GATES if self.bias else OF_GATES[:2]
        U, W, *biases = (computed(getattr(self, name + suffix)) for name in names)
        b, c = biases or (U.new_zeros(len(U)), U.new_zeros(len(U)))
        return (U, W, b, c) if self.told.apart else (U, W, b + c, None)

    def _parts(self, hx, name="hx"):
        """hx as a tuple of tensors, one of each state."""
        S, parts = self.told.states, (hx,) if isinstance(hx, torch.Tensor) else hx
        listed = isinstance(parts, (tuple, list)) and all(
            isinstance(part, torch.Tensor) for part in parts
        )
        if not listed or len(parts) != S:
            expected = "a tensor" if S == 1 else f"a tuple of {S} tensors"
            raise ShapeError(f"{name} is {arguments.came_in_parts(hx)}, expected {expected}")
        return tuple(parts)

    def _states(self, parts, x, batched, packed):
        """The states to begin with, each (layers·directions, B, n), of samples in the order of a
        PackedSequence.  parts: of hx as they came, or None; x: as torch's checks take it.
        """
        sizes = packed.batch_sizes if packed else None
        if parts is None:
            self.check_input(x, sizes)
            h, c = self.get_expected_hidden_size(x, sizes), self.get_expected_cell_size(x, sizes)
            return tuple(x.new_zeros(c if k else h) for k in range(self.told.states))
        parts = parts if batched else tuple(part.unsqueeze(1) for part in parts)
        self.check_forward_args(x, parts[0] if len(parts) == 1 else parts, sizes)
        return self.permute_hidden(parts, packed.sorted_indices if packed else None)
