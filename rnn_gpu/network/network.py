"""Layers in a row: one call forward, one backward, parameters and gradients by name."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from os import PathLike
from threading import get_ident
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from .. import arguments, outline
from ..bridges import io
from ..bridges.weights import Weights
from ..derivatives import LossLike
from ..device import PRECISIONS
from ..errors import ArgumentError, OrderError, ShapeError
from ..kernels import UNCLIPPED, Activation, Cell
from ..kernels.losses import Loss
from ..layers import DeltaTape, Embedding, Layer
from ..layers.chunked import ParallelReport
from ..layers.cutting import ParallelLike, parallel_of
from ..layers.passes import (
    INFERENCE,
    Back,
    Last,
    Remembering,
    clipped_in_all,
    given_in_all,
    next_pass,
)
from ..layers.stateful import (
    as_dreset_state,
    as_states,
    begins_of,
    check_reset_state,
    check_states,
    clip_of,
    known_dgiven,
)
from ..layers.steps import enter, entered, swapped
from ..losses import Objective
from . import evaluation, gradient_flow, gradients, memory, summary
from .fit import fit
from .words import build, by_layer, in_words, own_formula, with_precision


class Network(Remembering, Weights):
    """Layers in a row, with a loss.

    layers  each one's output_size is the next one's input_size; all of one device, dtype and
            precision
    loss    "squared_error", "mae", "huber", "huber(δ)", "poisson", "binary_cross_entropy",
            "softmax_cross_entropy" (both from logits), or a pair (f, df) of your own: the sum over
            outputs, the mean over steps and samples (see rnn_gpu.losses and rnn_gpu.loss)
    steps   which outputs the loss counts and `predict` returns: "every" step, or the "last" of each
            sequence
    batch_first  of x, y, mask and resets of a call, and of `backward`: False is time-major,
                 (T, B, m); True is (B, T, m). `fit`, `evaluate` and `predict` take samples, and
                 their first axis is always that of the samples, (N, T, m)

    metadata: a dict of your own, what JSON can hold, which `save` writes and `load` gives back.
    parameters, grads: read-only mappings from "LAYER.NAME" ("0.U") to the arrays of the layers;
    write into the arrays.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        loss: LossLike = "squared_error",
        steps: str = "every",
        batch_first: bool = False,
    ):
        if (
            not isinstance(layers, (list, tuple))
            or not layers
            or not all(isinstance(layer, Layer) for layer in layers)
        ):
            raise ArgumentError(f"layers is {layers!r}, expected a list of layers")
        self.layers = list(layers)
        if len({id(layer) for layer in self.layers}) < len(self.layers):
            raise ArgumentError("layers has the same layer twice: make two")
        for what in ("device", "dtype", "precision"):
            values = {
                getattr(layer, what)
                for layer in self.layers
                if layer.parameters or what != "precision"
            }
            if len(values) > 1:
                raise ArgumentError(
                    f"layers have different values of {what}: {', '.join(sorted(values))}"
                )
        input_size = output_size = None
        for i, layer in enumerate(self.layers):
            for one in (layer, *layer.recurrent):
                one.place = i
            if layer.input_size is None:  # takes any
                continue
            if output_size not in (None, layer.input_size):
                raise ShapeError(
                    f"layer {i} takes {layer.input_size} features, but the one before gives "
                    f"{output_size}"
                )
            input_size, output_size = input_size or layer.input_size, layer.output_size
        if input_size is None or output_size is None:
            raise ArgumentError("layers has no layer with parameters")
        self.input_size: int = input_size
        self.output_size: int = output_size
        self.recurrent = [one for layer in self.layers for one in layer.recurrent]
        if any(layer.batch_first for layer in self.recurrent):
            raise ArgumentError(
                "a layer says batch_first=True: its layers hand on (T, B, m); leave it to their "
                "default, and say it of the Network"
            )
        self.batch_first = arguments.flag("batch_first", batch_first)
        if batch_first and not self.recurrent:
            raise ArgumentError(
                "batch_first is True, but this network has no recurrent layer: its x is rows, "
                "without time"
            )
        self.objective = Objective(loss)
        self.steps = arguments.choice("steps", steps, ("every", "last"))
        self.device, self.dtype = self.layers[0].device, self.layers[0].dtype
        self.metadata: dict[str, Any] = {}
        self._take_from_layers()

    @property
    def loss(self) -> str:
        """The name of the loss."""
        return self.objective.loss.name

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """The arrays of the layers by "LAYER.NAME"; read-only, but for the arrays."""
        return MappingProxyType(
            {
                f"{i}.{name}": a
                for i, layer in enumerate(self.layers)
                for name, a in layer.parameters.items()
            }
        )

    @property
    def grads(self) -> Mapping[str, np.ndarray]:
        """dE/dθ by the parameter's name, from the last backward; empty before."""
        return MappingProxyType(super().grads)

    def __repr__(self):
        options = ", ".join(
            f"{name}={getattr(self, name)!r}" for name in ("loss", "steps", "device", "dtype")
        )
        lines, size = [f"Network, {options}: {outline.count(self.parameters)}"], self.input_size
        for i, layer in enumerate(self.layers):
            size = layer.output_size or size
            lines.append(f"  {i}  {layer.words()} gives {size}: {outline.count(layer.parameters)}")
        return "\n".join(lines)

    def copy(
        self,
        device: str | None = None,
        dtype: npt.DTypeLike | None = None,
        precision: str | None = None,
    ) -> "Network":
        """The same network with the same parameters, on another device, of another dtype or
        precision if asked.
        """
        layers = [layer.copy(device, dtype, precision) for layer in self.layers]
        loss, first = self.objective.loss, self.batch_first
        network = Network(layers, loss=loss, steps=self.steps, batch_first=first)
        network.metadata = deepcopy(self.metadata)
        return network

    def __call__(
        self,
        x: ArrayLike,
        state: Sequence[Any] | None = None,
        *,
        lengths: ArrayLike | None = None,
        training: bool = False,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        reset_state: Sequence[Any] | None = None,
        memory_budget: int | str | None = None,
        parallel: ParallelLike = False,
        tolerance: float = 1e-6,
    ) -> tuple[Any, list]:
        """Carry the network over x; remember what `backward` needs.  Returns (y, states).

        x         (T, B, m), or integers (T, B) that stand for one-hot vectors; (B, m) for a network
                  without recurrent layers; of one that is batch_first (B, T, m) and (B, T), and so
                  are y, mask and resets
        state     a list with the state of each recurrent layer (see Recurrent); None is zero
                  everywhere
        lengths   (B,) integers in 1..T; y is zero beyond
        training  True switches Dropout, recurrent dropout and zoneout on
        mask, resets  (T, B) booleans: steps that do not happen (False), steps before which a sample
                      begins anew (True); see Recurrent
        reset_state  a list with what each recurrent layer goes on from there, or None: see
                     Recurrent
        memory_budget  bytes, or "512MB": where forward and backward need more, only x and the
                       states between segments are kept, and
                  `backward` computes each segment again: the same gradient (see `plan`), but no
                  `tape`; resets only where every recurrent layer has a reset_state
        parallel, tolerance  of every recurrent layer: chunks of the sequence go side by side; see
                             Recurrent
        y         (T, B, k), or (B, k); states: a list as `state`, after the last step
        """
        training = arguments.flag("training", training)
        if self.recurrent:
            first = self.batch_first
            a, steps = enter(
                self._device, x, self.input_size, self.dtype, lengths, first, mask, resets
            )
        elif given := [
            name
            for name, a in (
                ("lengths", lengths),
                ("mask", mask),
                ("resets", resets),
                ("reset_state", reset_state),
            )
            if a is not None
        ]:
            raise ArgumentError(
                f"{given[0]} is given, but this network has no recurrent layer: its x is rows, "
                "without time"
            )
        else:
            rows = self.layers[0].vectors(x) if isinstance(self.layers[0], Embedding) else x
            rows = arguments.floats(
                "x", rows, self.dtype, (None, self.input_size), f"(B, m={self.input_size})", batch=0
            )
            a, steps = enter(self._device, rows[None], self.input_size, self.dtype, None)
        T, B, _ = a.shape
        given = INFERENCE.given
        if reset_state is not None:
            begins = begins_of(resets, steps, lengths, self.batch_first)
            given = check_reset_state(self.recurrent, reset_state, begins, self.batch_first)
        way = memory.way(self, T, B, memory_budget, steps, given)
        # the caller may write into x before `backward`
        a = self._device.copy(a) if steps.dead is None else a
        s0, weights = check_states(self.recurrent, "state", state, B), self._fingerprint()
        pass_ = next_pass(self.layers, training, parallel_of(parallel, tolerance), given)
        self.let_go()
        y, s, tape = way.forward(a, s0, steps, pass_)
        self.remember(
            Last(x, steps, tape, weights, None if way is self else way, thread=get_ident())
        )
        return self._leave(x, steps.only_live(y)), as_states(self.recurrent, x, s)

    def backward(
        self,
        dy: ArrayLike,
        dstate: Sequence[Any] | None = None,
        *,
        tape: bool = False,
        clip_step_value: float | None = None,
        clip_step_norm: float | None = None,
    ) -> tuple[Any, list]:
        """Carry dE/dy back through every layer; set `grads`.  Returns (dx, dstates).

        dy as y; dstate as `state`, None is zero; dx (T, B, m), or (B, m); dstates a list with
        dE/d(initial state) of each recurrent layer. What dy holds where no step happens is ignored.
        tape=True leaves a DeltaTape of each recurrent layer in `tapes`. clip_step_value and
        clip_step_norm bound δ of every step of every recurrent layer (see Recurrent),
        `clipped_steps` is how often. What layers were called for in between is no matter. Raises
        OrderError where this thread has not called the network, another thread has since, or a
        parameter was written since.
        """
        last = self._recall()
        tape, clip = arguments.flag("tape", tape), clip_of(clip_step_value, clip_step_norm)
        steps, way = last.steps, last.way or self
        if tape and last.way:
            raise ArgumentError(
                "tape is True, but the network was called with memory_budget: no more than a "
                "segment is there at once"
            )
        T, B = steps.flags.shape
        shape, axes = ((T, B), "(T, B, k)") if self.recurrent else ((B,), "(B, k)")
        if self.batch_first:
            shape, axes = (B, T), "(B, T, k)"
        batch = 0 if self.batch_first else len(shape) - 1
        a = arguments.floats("dy", dy, self.dtype, (*shape, self.output_size), axes, batch)
        a = swapped(a) if self.batch_first else a.reshape(T, B, self.output_size)
        a = entered(self._device, "dy", a, self.dtype, steps.dead, self._as_came)
        back = way.back(last.tape, a, check_states(self.recurrent, "dstate", dstate, B), tape, clip)
        self.remember(last.returned(back))
        return self._leave(last.like, back.dx), as_states(self.recurrent, last.like, back.ds)

    @property
    def dreset_state(self) -> list:
        """dE/d(`reset_state`) of the last call, from the last backward, a list as that came: zero
        where the call did not look at it.
        """
        last, back = self._last, self._found("dreset_state")
        dgiven, like = known_dgiven(back), last and last.like
        return as_dreset_state(self.recurrent, like, dgiven, self.batch_first)

    @property
    def tapes(self) -> list[DeltaTape]:
        """The DeltaTape of each recurrent layer, from the last backward, which was called with
        tape=True.
        """
        return [layer.tape for layer in self.recurrent]

    @property
    def parallel_reports(self) -> list[ParallelReport | None]:
        """How each recurrent layer has gone over the last sequence, in chunks or not; None where
        nobody asked for `parallel`.
        """
        return [layer.parallel_report for layer in self.recurrent]

    def __setstate__(self, state):
        self.__dict__ |= state
        self._take_from_layers()

    def _take_from_layers(self):
        """The device, and the parameters as the fingerprint sees them."""
        self._device = self.layers[0].backend
        self.bits = tuple(words for layer in self.layers for words in layer.bits)

    @contextmanager
    def in_training(self):
        """Whoever trains this network holds this, so that nobody else does meanwhile: no other
        thread, and no function that training calls.  Raises OrderError if it is held already.
        """
        mine = object()
        try:
            # one step: no other thread comes between
            if self.__dict__.setdefault("_trainer", mine) is not mine:
                raise OrderError(
                    "fit: this network is in fit already, here or in another thread; train a copy()"
                )
            yield
        finally:
            if self.__dict__.get("_trainer") is mine:
                del self._trainer

    @property
    def drawing(self) -> list[Layer]:
        """The layers whose training draws numbers."""
        return [part for layer in self.layers for part in layer.parts if part.draws]

    def remember(self, last):
        super().remember(last)
        count = len(self.layers)
        for layer, part in zip(
            self.layers, last.parts(count) if last else [None] * count, strict=True
        ):
            layer.remember(part)

    def _leave(self, like, a):
        """a (T, B, ·) as it leaves: as the kind of array that came, without time if none came."""
        return arguments.give(self._device, like, self._as_came(a))

    def _as_came(self, a):
        """a (T, B, ·) without time if none came, and with the axes that came."""
        return swapped(a) if self.batch_first else a if self.recurrent else a[0]

    def as_torch(self, θ):
        parts = zip(self.layers, self._by_layer(θ), strict=True)
        return {
            f"{i}.{name}": a
            for i, (layer, own) in enumerate(parts)
            for name, a in layer.as_torch(own).items()
        }

    def of_torch(self, state_dict):
        parts = zip(self.layers, self._by_layer(state_dict), strict=True)
        return {
            f"{i}.{name}": a
            for i, (layer, own) in enumerate(parts)
            for name, a in layer.of_torch(own).items()
        }

    def as_keras(self, θ):
        parts = zip(self.layers, self._by_layer(θ), strict=True)
        return [
            (f"{what} of layer {i}", a)
            for i, (layer, own) in enumerate(parts)
            for what, a in layer.as_keras(own)
        ]

    def of_keras(self, weights):
        return {
            f"{i}.{name}": a
            for i, layer in enumerate(self.layers)
            for name, a in layer.of_keras(weights).items()
        }

    def _by_layer(self, named):
        return by_layer("state_dict", named, len(self.layers))

    plan = memory.plan
    summary = summary.summary
    fit = fit
    gradient = gradients.gradient
    gradient_flow = gradient_flow.gradient_flow
    evaluate = evaluation.evaluate
    predict = evaluation.predict
    predict_proba = evaluation.predict_proba

    def config(self) -> dict:
        """What `load` needs to build the network again, in JSON's types; formulas of the user's own
        by name.
        """
        return {
            "layers": [in_words(layer) for layer in self.layers],
            "loss": in_words(self.objective.loss),
            "steps": self.steps,
            "dtype": self.dtype,
        } | ({"batch_first": True} if self.batch_first else {})

    def save(self, path: str | PathLike, *, metadata: Mapping[str, Any] | None = None):
        """Write parameters, configuration and `metadata` to a safetensors file with a checksum,
        whole or not at all.

        metadata  becomes the network's: what belongs to it and is no parameter, as a vocabulary's
                  words or a scaler's means: JSON's dicts, lists, texts, finite numbers, booleans
                  and None. Else ArgumentError names the place, before anything is written
        A file that is there keeps its permissions, a link to it stays a link. OSError names the
        path if none can be written.
        """
        given = self.metadata if metadata is None else metadata
        own = arguments.json_dict("metadata", given)
        io.write(
            path,
            {name: self._device.numpy(a) for name, a in self.parameters.items()},
            self.config() | ({"metadata": own} if own else {}),
        )
        self.metadata = own

    def forward(self, x, s0, steps, pass_=INFERENCE, keep=True):
        """As a layer's: a function that remembers nothing (see Layer.forward).

        The tape is a list of every layer's; keep=False lets go of each at once, and leaves it
        empty.
        """
        s0, states, tapes = iter(s0), [], []
        for layer in self.layers:
            x, s, tape = layer.forward(x, [next(s0) for _ in layer.recurrent], steps, pass_)
            states += s
            tapes += [tape] if keep else []
        return x, states, tapes

    def back(self, tapes, dy, ds, taped=False, clip=UNCLIPPED, later=None):
        """As a layer's (see Layer.back); `parts` has the Back of each layer."""
        ds, backs = list(ds), []
        behind = later.parts if later else (None,) * len(tapes)
        for layer, tape, back in reversed(list(zip(self.layers, tapes, behind, strict=True))):
            first = len(ds) - len(layer.recurrent)
            back = layer.back(tape, dy, ds[first:], taped, clip, back)
            del ds[first:]
            dy = back.dx
            backs.insert(0, back._replace(dx=None))  # only the next layer wants it
        return joined(dy, backs)


def joined(dx, backs) -> Back:
    """The Back of a network from those of its layers, in their order."""
    grads = {f"{i}.{name}": g for i, back in enumerate(backs) for name, g in back.grads.items()}
    ds, clipped = [d for back in backs for d in back.ds], clipped_in_all(backs)
    dgiven = given_in_all(backs)
    return Back(dx, ds, grads, clipped_steps=clipped, parts=tuple(backs), dgiven=dgiven)


def load(
    path: str | PathLike,
    *,
    device: str = "auto",
    custom: Collection[Activation | Cell | Loss] = (),
    precision: str | None = None,
) -> Network:
    """Read a network that `Network.save` wrote, of the precision that it had if no other is asked
    for.

    custom  the activations, cells and the loss of your own that it uses (Activation, Cell and Loss
            objects): a file holds only their names.
    Raises ModelFileError if the file is damaged, be it by one bit, is not a model of ours, or names
    a formula that is not known here. A file of before there were checksums is read as it is.
    """
    if not isinstance(custom, (list, tuple, set)) or not all(
        type(formula) in (Activation, Cell, Loss) for formula in custom
    ):
        raise ArgumentError(
            f"custom is {custom!r}, expected a list of Activation, Cell and Loss objects"
        )
    if precision is not None:
        arguments.choice("precision", precision, PRECISIONS)
    own = {(type(formula).__name__.lower(), formula.name): formula for formula in custom}
    if len(own) < len(set(custom)):
        raise ArgumentError(
            f"custom has two formulas of one name: {', '.join(formula.name for formula in custom)}"
        )
    arrays, config, version = io.read(path)
    with io.blaming(path, "is not a model that can be built here"):
        metadata = arguments.json_dict("metadata", config.pop("metadata", {}))
        config = with_precision(config, precision) if precision else config
        each = zip(config["layers"], by_layer("it", arrays, len(config["layers"])), strict=True)
        layers = [build(words, values, own, device, config["dtype"]) for words, values in each]
        loss = config["loss"]
        loss = own_formula(own, "loss", loss) if isinstance(loss, dict) else loss
        first = config.get("batch_first", False)
        network = Network(layers, loss=loss, steps=config["steps"], batch_first=first)
        # before, there were fewer settings
        if version > 1 and io.in_json(network.config()) != config:
            raise ValueError(f"it says {config}, which builds {network.config()}")
        network.metadata = metadata
    return network
