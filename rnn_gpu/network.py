"""Layers in a row: one call forward, one backward, parameters and gradients by name."""

from types import MappingProxyType

from . import arguments, gradient_flow, io, memory, training
from .device import PRECISIONS
from .errors import ArgumentError, DeviceError, ModelFileError, OrderError, RnnGpuError, ShapeError
from .kernels import UNCLIPPED, Activation, Cell
from .kernels.activations import ACTIVATIONS
from .kernels.cells import CELLS
from .layers import GRU, LSTM, RNN, Bidirectional, Dense, Dropout, Embedding, Layer, Recurrent
from .layers.stateful import as_states, check_states, clip_of
from .layers.steps import enter
from .losses import Objective
from .weights import Weights


class Network(Weights):
    """Layers in a row, with a loss.

    layers  each one's output_size is the next one's input_size; all of one device, dtype and precision
    loss    "squared_error", "binary_cross_entropy" or "softmax_cross_entropy" (both from logits)
    steps   which outputs the loss counts and `predict` returns: "every" step, or the "last" of each sequence

    parameters, grads: read-only mappings from "LAYER.NAME" ("0.U") to the arrays of the layers; write into the arrays.
    """

    def __init__(self, layers, loss: str = "squared_error", steps: str = "every"):
        if not isinstance(layers, (list, tuple)) or not layers or not all(isinstance(layer, Layer) for layer in layers):
            raise ArgumentError(f"layers is {layers!r}, expected a list of layers")
        self.layers = list(layers)
        if len({id(layer) for layer in self.layers}) < len(self.layers):
            raise ArgumentError("layers has the same layer twice: make two")
        for what in ("device", "dtype", "precision"):
            values = {getattr(layer, what) for layer in self.layers if layer.parameters or what != "precision"}
            if len(values) > 1:
                raise ArgumentError(f"layers have different values of {what}: {', '.join(sorted(values))}")
        self.input_size = self.output_size = None
        for i, layer in enumerate(self.layers):
            for one in (layer, *layer.recurrent):
                one.place = i
            if layer.input_size is None:  # takes any
                continue
            if self.output_size not in (None, layer.input_size):
                raise ShapeError(f"layer {i} takes {layer.input_size} features, but the one before gives {self.output_size}")
            self.input_size = self.input_size or layer.input_size
            self.output_size = layer.output_size
        if self.input_size is None:
            raise ArgumentError("layers has no layer with parameters")
        self.recurrent = [one for layer in self.layers for one in layer.recurrent]
        if any(layer.batch_first for layer in self.recurrent):
            raise ArgumentError("a layer says batch_first=True: a Network is time-major (T, B, m); leave it to its layers' default")
        self.objective = Objective(loss)
        self.steps = arguments.choice("steps", steps, ("every", "last"))
        self.device, self.dtype = self.layers[0].device, self.layers[0].dtype
        self._device = self.layers[0]._device
        self._called = None  # the caller's x, its Steps, the tapes of the layers, and what goes back: it, or its Segments

    @property
    def loss(self) -> str:
        return self.objective.loss.name

    @property
    def parameters(self):
        return MappingProxyType({f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.parameters.items()})

    @property
    def grads(self):
        return MappingProxyType({f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.grads.items()})

    def copy(self, device=None, dtype=None, precision=None):
        """The same network with the same parameters, on another device, of another dtype or precision if asked."""
        return Network([layer.copy(device, dtype, precision) for layer in self.layers], self.loss, self.steps)

    def __call__(self, x, state=None, lengths=None, training=False, mask=None, resets=None, memory_budget=None):
        """Carry the network over x; remember what `backward` needs.  Returns (y, states).

        x         (T, B, m), or integers (T, B) that stand for one-hot vectors; (B, m) for a network without recurrent layers
        state     a list with the state of each recurrent layer (see Recurrent); None is zero everywhere
        lengths   (B,) integers in 1..T; y is zero beyond
        training  True switches Dropout, recurrent dropout and zoneout on
        mask, resets  (T, B) booleans: steps that do not happen (False), steps before which a sample begins anew (True); see Recurrent
        memory_budget  bytes, or "512MB": where forward and backward need more, only x and the states between segments are kept, and
                  `backward` computes each segment again: the same gradient (see `plan`), but no `tape`; and no resets
        y         (T, B, k), or (B, k); states: a list as `state`, after the last step
        """
        if self.recurrent:
            a, steps = enter(self._device, x, self.input_size, self.dtype, lengths, mask=mask, resets=resets)
        elif given := [name for name, a in (("lengths", lengths), ("mask", mask), ("resets", resets)) if a is not None]:
            raise ArgumentError(f"{given[0]} is given, but this network has no recurrent layer: its x is rows, without time")
        else:
            rows = self.layers[0].vectors(x) if isinstance(self.layers[0], Embedding) else x
            rows = arguments.floats("x", rows, self.dtype, (None, self.input_size), f"(B, m={self.input_size})")
            a, steps = enter(self._device, rows[None], self.input_size, self.dtype, None)
        way = memory.way(self, *a.shape[:2], memory_budget, steps)
        a = self._device.copy(a) if steps.dead is None else a  # the caller may write into x before `backward`
        y, s = way._forward(a, self._states("state", state, a.shape[1]), steps, training=training)
        self._called = x, steps, self._tapes(), way
        return self._leave(steps.only_live(y)), self._as_states(s)

    def backward(self, dy, dstate=None, tape=False, clip_step_value=None, clip_step_norm=None):
        """Carry dE/dy back through every layer; set `grads`.  Returns (dx, dstates).

        dy as y; dstate as `state`, None is zero; dx (T, B, m), or (B, m); dstates a list with dE/d(initial state) of each
        recurrent layer. What dy holds where no step happens is ignored. tape=True leaves a DeltaTape of each recurrent layer in `tapes`.
        clip_step_value and clip_step_norm bound δ of every step of every recurrent layer (see Recurrent), `clipped_steps` is how often.
        """
        clip = clip_of(clip_step_value, clip_step_norm)
        if self._called is None:
            raise OrderError("Network: backward before forward; call the network on x first")
        if any(now is not then for now, then in zip(self._tapes(), self._called[2], strict=True)):
            raise OrderError("Network: since it was called, fit or a call of one layer has gone forward; call the network on x again")
        _, steps, _, way = self._called
        if tape and way is not self:
            raise ArgumentError("tape is True, but the network was called with memory_budget: no more than a segment is there at once")
        T, B = steps.flags.shape
        shape, axes = ((T, B), "(T, B, k)") if self.recurrent else ((B,), "(B, k)")
        dy = arguments.floats("dy", dy, self.dtype, (*shape, self.output_size), axes)
        dy = steps.only_live(arguments.take(self._device, "dy", dy.reshape(T, B, -1), self.dtype))
        if not self._device.finite(dy):
            arguments.finite("dy", dy if self.recurrent else dy[0])
        dx, ds = way._backward(dy, self._states("dstate", dstate, B), tape, clip)
        return self._leave(dx), self._as_states(ds)

    @property
    def tapes(self) -> list:
        """The DeltaTape of each recurrent layer, from the last backward, which was called with tape=True."""
        return [layer.tape for layer in self.recurrent]

    @property
    def clipped_steps(self) -> int:
        """How many steps of samples, of all recurrent layers, the last backward has clipped."""
        return sum(layer.clipped_steps for layer in self.recurrent)

    @property
    def _drawing(self) -> list[Layer]:
        """The layers whose training draws numbers."""
        return [one for layer in self.layers for one in layer.recurrent or (layer,) if one.draws]

    def _tapes(self):
        return [one._tape for layer in self.layers for one in layer.recurrent or (layer,)]

    def _states(self, name, states, B):
        return check_states(self.recurrent, name, states, B)

    def _as_states(self, states):
        return as_states(self.recurrent, self._called[0], states)

    def _leave(self, a):
        return self.layers[0]._to_kind_of(self._called[0], a if self.recurrent else a[0])

    def _as_torch(self, θ):
        parts = zip(self.layers, self._by_layer(θ), strict=True)
        return {f"{i}.{name}": a for i, (layer, own) in enumerate(parts) for name, a in layer._as_torch(own).items()}

    def _of_torch(self, state_dict):
        parts = zip(self.layers, self._by_layer(state_dict), strict=True)
        return {f"{i}.{name}": a for i, (layer, own) in enumerate(parts) for name, a in layer._of_torch(own).items()}

    def _as_keras(self, θ):
        parts = zip(self.layers, self._by_layer(θ), strict=True)
        return [(f"{what} of layer {i}", a) for i, (layer, own) in enumerate(parts) for what, a in layer._as_keras(own)]

    def _of_keras(self, weights):
        return {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer._of_keras(weights).items()}

    def _by_layer(self, named):
        """Arrays by "LAYER.NAME" -> a dict of each layer's, by NAME."""
        parts = [{} for _ in self.layers]
        for name, a in named.items():
            place, _, own = name.partition(".")
            if place not in map(str, range(len(parts))):
                raise ArgumentError(f"state_dict has {name}, expected names that begin with a layer's number, 0. … {len(parts) - 1}.")
            parts[int(place)][own] = a
        return parts

    plan = memory.plan
    fit = training.fit
    gradient = training.gradient
    gradient_flow = gradient_flow.gradient_flow
    evaluate = training.evaluate
    predict = training.predict

    def config(self) -> dict:
        """What `load` needs to build the network again, in JSON's types; formulas of the user's own by name."""
        return {"layers": [in_words(layer) for layer in self.layers], "loss": self.loss, "steps": self.steps, "dtype": self.dtype}

    def save(self, path):
        """Write parameters and configuration to a safetensors file, whole or not at all."""
        io.write(path, {name: self._device.numpy(a) for name, a in self.parameters.items()}, self.config())

    def _forward(self, x, s0, steps, keep=True, training=False):
        """Arrays of the device, time-major; s0 and the states returned are lists, one (S, B, n) for a recurrent layer."""
        s0, states = iter(s0), []
        for layer in self.layers:
            x, s = layer._forward(x, [next(s0) for _ in layer.recurrent], steps, keep, training)
            states += s
        return x, states

    def _backward(self, dy, ds, taped=False, clip=UNCLIPPED, more=False):
        ds, carried = list(ds), []
        for layer in reversed(self.layers):
            first = len(ds) - len(layer.recurrent)
            dy, d = layer._backward(dy, ds[first:], taped, clip, more)
            del ds[first:]
            carried = d + carried
        return dy, carried


def in_words(value):
    """A layer, or one of its settings, in JSON's types: formulas of ours by their name, those of the user by {"custom": name}."""
    if isinstance(value, Layer):
        return {"layer": type(value).__name__} | {key: in_words(setting) for key, setting in value.config().items()}
    if isinstance(value, (Cell, Activation)):
        return value.name if value in {*CELLS.values(), *ACTIVATIONS.values()} else {"custom": value.name}
    return value


KINDS = {kind.__name__: kind for kind in (Recurrent, RNN, LSTM, GRU, Bidirectional, Dense, Embedding, Dropout)}


def build(words: dict, own: dict, precision: str | None, device: str, dtype) -> Layer:
    """The layer that `in_words` wrote down; own has the user's formulas by (setting, name)."""
    settings = {**words} | ({"precision": precision} if precision and "precision" in words else {})
    kind = KINDS[settings.pop("layer")]
    for key, value in settings.items():
        if isinstance(value, dict):
            settings[key] = own_formula(own, key, value) if "custom" in value else build(value, own, precision, device, dtype)
    return kind(**settings) if kind is Bidirectional else kind(**settings, device=device, dtype=dtype)


def own_formula(own: dict, key: str, value: dict):
    if (key, value["custom"]) not in own:
        raise ModelFileError(f"{key} is {value['custom']!r}, a formula of the user's own: hand it over, custom=[…]")
    return own[key, value["custom"]]


def load(path, device: str = "auto", custom=(), precision: str | None = None) -> Network:
    """Read a network that `Network.save` wrote, of the precision that it had if no other is asked for.

    custom  the activations and cells of your own that it uses (Activation and Cell objects): a file holds only their names.
    Raises ModelFileError if the file is damaged, is not a model of ours, or names a formula that is not known here.
    """
    if not isinstance(custom, (list, tuple, set)) or not all(type(formula) in (Activation, Cell) for formula in custom):
        raise ArgumentError(f"custom is {custom!r}, expected a list of Activation and Cell objects")
    if precision is not None:
        arguments.choice("precision", precision, PRECISIONS)
    own = {(type(formula).__name__.lower(), formula.name): formula for formula in custom}
    if len(own) < len(set(custom)):
        raise ArgumentError(f"custom has two formulas of one name: {', '.join(formula.name for formula in custom)}")
    arrays, config = io.read(path)
    try:
        layers = [build(layer, own, precision, device, config["dtype"]) for layer in config["layers"]]
        network = Network(layers, config["loss"], config["steps"])
        if set(network.parameters) != set(arrays):
            raise ModelFileError(f"it has the arrays {sorted(arrays)}, expected {sorted(network.parameters)}")
        for i, layer in enumerate(network.layers):
            for name in layer.parameters:
                layer.parameters[name] = layer._device.array(arrays[f"{i}.{name}"], arrays[f"{i}.{name}"].dtype)
    except DeviceError:
        raise
    except (AttributeError, KeyError, TypeError, RnnGpuError) as error:
        raise ModelFileError(f"{path} is not a model that can be built here: {error}") from error
    return network
