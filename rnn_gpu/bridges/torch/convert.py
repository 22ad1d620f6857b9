"""A model of torch's onto our kernels and back: its recurrent modules change their class, so that
parameters, hooks, buffers and everything that refers to them stay as they are.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.nn.utils.parametrize import is_parametrized

from ... import arguments, derivatives
from ...device import resolve
from ...errors import ArgumentError, DeviceError
from . import cells, modules
from .base import told_of

THEIRS = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
OURS = {
    getattr(torch.nn, name): getattr(cells if name.endswith("Cell") else modules, name)
    for name in THEIRS
}
BACK = {ours: theirs for theirs, ours in OURS.items()}
# of ours, which torch's have not
OPTIONS = ("clip_step_value", "clip_step_norm", "precision", "differentiable_twice", "parallel")
# what ours keep beside what torch's do
KEPT = (*OPTIONS, "tolerance", "activation", "told", "_left")


class Report(NamedTuple):
    """What became of the recurrent modules of a model, by their names in `named_modules`."""

    replaced: tuple[str, ...]
    left: dict[str, str]  # and why

    def __str__(self):
        lines = [f"{name or 'the model'}: replaced" for name in self.replaced]
        lines += [f"{name or 'the model'}: left, {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent module"


class Converted(NamedTuple):
    """The model that was given, and the report."""

    model: Any
    report: Report


def convert(model: torch.nn.Module, *, only: str | Iterable[str] | None = None) -> Converted:
    """Have our kernels carry every torch.nn.RNN, LSTM, GRU and cell of a model, in place.

    only  names of modules, as in model.named_modules(); None is all
    A module keeps its identity and changes its class: its parameters are the same objects, so that
    optimizers, hooks, weight_norm, tied weights and data-parallel wrappers hold. A subclass of
    torch's, or a parametrized module, may do anything and is left: the report says so.
    Raises ArgumentError where `only` names what is no recurrent module of torch's.
    """
    return changed(model, only, is_theirs, why_not_ours, become_ours)


def revert(model: torch.nn.Module, *, only: str | Iterable[str] | None = None) -> Converted:
    """Give every recurrent module of ours in a model torch's class of the same name, in place.

    only  names of modules, as in model.named_modules(); None is all
    Parameters are the same objects. What torch cannot compute, as another activation or a bound of
    δ, is left: the report says so. Raises ArgumentError where `only` names no module of ours.
    """
    return changed(model, only, is_ours, why_not_theirs, become_theirs)


def changed(model, only, is_one, why_not, become) -> Converted:
    """Have every module of a kind become another, but where there is a reason against it."""
    if not isinstance(model, torch.nn.Module):
        raise ArgumentError(f"model is {arguments.came(model)}, expected a torch.nn.Module")
    everything = model.named_modules(remove_duplicate=False)
    found = {name: each for name, each in everything if is_one(each)}
    chosen = found if only is None else dict.fromkeys([only] if isinstance(only, str) else only)
    if strange := [name for name in chosen if name not in found]:
        expected = f"names of {', '.join(map(repr, found))}" if found else "none, for there is none"
        raise ArgumentError(f"only has {strange[0]!r}, expected {expected}")
    replaced, left = [], {}
    for name in chosen:
        if is_one(found[name]) and (why := why_not(found[name])):
            left[name] = why
            continue
        if is_one(found[name]):  # else it became another under another name
            become(found[name])
        replaced.append(name)
    return Converted(model, Report(tuple(replaced), left))


def is_ours(module) -> bool:
    """Is it a recurrent module of ours."""
    return isinstance(module, modules.Stack | cells.Step)


def is_theirs(module) -> bool:
    """Is it a recurrent module of torch's, or a subclass that is not ours."""
    scripted = isinstance(module, torch.jit.ScriptModule) and module.original_name in THEIRS
    plain = isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase)
    return scripted or (plain and not is_ours(module))


def why_not_ours(module) -> str | None:
    """Why a recurrent module of torch's cannot become ours; None where it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted: convert the model before"
    if is_parametrized(module):
        return f"{', '.join(module.parametrizations)} are parametrized: convert the model before"
    if type(module) not in OURS:
        return f"its class, {type(module).__name__}, may do other than torch's"
    if "forward" in vars(module):
        return "its forward was replaced"
    return why_not_here(next(module.parameters(), None))


def why_not_here(θ) -> str | None:
    """Why our kernels cannot compute with a parameter; None where they can."""
    if θ is None:
        return "it has no parameters"
    if not θ.is_floating_point() or θ.dtype.itemsize < 2:
        return f"its parameters are {θ.dtype}"
    if θ.device.type not in ("cpu", "cuda", "meta"):
        return f"it is on {θ.device}, and our kernels run on cpu and cuda"
    if θ.device.type == "cuda":
        try:
            resolve("cuda")
        except DeviceError as error:
            return str(error)
    return None


def why_not_theirs(module) -> str | None:
    """Why a recurrent module of ours cannot become torch's; None where it can."""
    if type(module) not in BACK:
        return f"torch has nothing that computes what {type(module).__name__} does"
    if "forward" in vars(module):
        return "its forward was replaced"
    activation = getattr(module, "activation", None)
    if activation not in (None, *(derivatives.activation(name) for name in ("tanh", "relu"))):
        return f"torch has no RNN of {module.nonlinearity}"
    given = [name for name in OPTIONS if getattr(module, name, None) not in (None, False)]
    return f"torch has no {given[0]}" if given else None


def become_ours(module):
    """Have a module of torch's be ours."""
    module.__class__ = OURS[type(module)]
    if hasattr(module, "nonlinearity"):
        module.activation = derivatives.activation(module.nonlinearity)
    module.told = told_of(module.cell)


def become_theirs(module):
    """Have a module of ours be torch's."""
    module.__class__ = BACK[type(module)]
    for name in KEPT:
        vars(module).pop(name, None)
    if isinstance(module, torch.nn.RNNBase):
        module.flatten_parameters()  # as cuDNN wants them
