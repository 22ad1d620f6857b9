"""Pictures, drawn with matplotlib (the extra `plot`)."""

import base64
import io
from collections.abc import Callable, Mapping
from functools import cache
from html import escape
from os import PathLike
from typing import Any

import numpy as np

from ..errors import ArgumentError

FLOOR, CEILING = 1e-40, 1e40  # of logarithms: about where float32 ends


@cache
def kind_of_figure() -> Any:
    """matplotlib's Figure, which shows itself in a notebook.  ImportError, which says what to
    install, where there is no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"pictures need matplotlib: pip install 'rnn_gpu[plot]' ({error})"
        ) from None

    class Picture(Figure):
        """A Figure that no window and no pyplot knows of."""

        def _repr_png_(self):
            return png(self)

    return Picture


def new_figure(**options) -> Any:
    """A Picture of these options of Figure's."""
    return kind_of_figure()(layout="constrained", **options)


def png(figure) -> bytes:
    """The figure as a file."""
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    return file.getvalue()


def html(text: str, draw: Callable[[], Any]) -> str:
    """A text, and below it the picture that `draw` makes, for a notebook; without matplotlib the
    text alone.
    """
    shown = f"<pre>{escape(text)}</pre>"
    try:
        figure = draw()
    except ImportError:
        return shown
    data = base64.b64encode(png(figure)).decode()
    return f'{shown}<img style="max-width: 100%" src="data:image/png;base64,{data}"/>'


def plot(of: Any, path: str | PathLike | None = None) -> Any:
    """A matplotlib Figure of what `fit` or `gradient_flow` returned, written to path if there is
    one; in a notebook it shows itself.

    Of a history: loss, and other numbers, of training and validation, ‖∇‖ of each update, the
    learning rate. Of a report of `gradient_flow`: see there. Raises ImportError, which says what
    to install, without matplotlib.
    """
    if hasattr(of, "plot") and hasattr(of, "loss"):
        return of.plot(path)
    if isinstance(of, Mapping) and "gradient_norm" in of:
        return history_picture(of, path)
    raise ArgumentError(
        f"plot is given a {type(of).__name__}, expected what fit or gradient_flow returned"
    )


def history_picture(history: Mapping[str, list[float]], path=None) -> Any:
    """A Figure of a history of `fit`; written to path if there is one.

    Loss and the numbers that stand beside their like of validation by epoch, ‖∇‖ by update, the
    learning rate by epoch; what the history has not is not drawn.
    """
    epochs = len(history.get("loss", ()))
    apart = ("loss", "validation_loss", "learning_rate", "seconds", "compile_seconds")
    found = [name for name, a in history.items() if 0 < len(a) <= epochs and name not in apart]
    alike = dict.fromkeys(name.removeprefix("validation_") for name in found)
    panels = [("loss", by_epoch), *((name, by_epoch) for name in alike)]
    panels.append(("gradient_norm", by_update))
    if history.get("learning_rate"):
        panels.append(("learning_rate", by_epoch))
    figure = new_figure(figsize=(4.2 * len(panels), 3.6))
    for axis, (name, draw) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        draw(axis, history, name, epochs)
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure


def by_epoch(axis, history: Mapping[str, list[float]], name: str, epochs: int):
    """A number of each epoch, and beside it that of validation; the best epoch of losses.

    Of training that has ended within its first epoch the loss of updates.
    """
    if name == "loss" and not epochs:
        by_update(axis, history, "step_loss", epochs)
        return
    for one in (name, f"validation_{name}"):
        if values := history.get(one):
            at = np.arange(epochs - len(values), epochs) + 1
            axis.plot(at, values, marker="." if epochs < 30 else None, label=one.replace("_", " "))
    if name == "loss":
        losses = np.array(history.get("validation_loss") or history["loss"])
        if np.isfinite(losses).any():
            best = int(np.nanargmin(losses)) + 1 + epochs - len(losses)
            axis.axvline(best, color="grey", linewidth=1, label=f"best: epoch {best}")
    axis.set(xlabel="epoch", ylabel=name.replace("_", " "))
    axis.xaxis.get_major_locator().set_params(integer=True)
    if name != "learning_rate":
        axis.legend()


def by_update(axis, history: Mapping[str, list[float]], name: str, epochs: int):
    """A number of each update, and its median over some of them, on a log scale."""
    values = np.array(history.get(name, ()), float)
    values = np.where(values > 0, values, np.nan)
    at = np.arange(1, len(values) + 1)
    axis.semilogy(at, values, color="C0", alpha=0.35, linewidth=0.8)
    width = max(1, len(values) // 50)
    if width > 1:
        count = len(values) // width
        parts = values[: count * width].reshape(count, width)
        axis.semilogy(at[: count * width : width] + width / 2, np.nanmedian(parts, 1), color="C0")
    label = {"gradient_norm": "‖∇‖ before clipping", "step_loss": "loss"}[name]
    axis.set(xlabel="update", ylabel=label)


def training_picture(path, title: str, history: dict, norms):
    """Write a PNG: loss and accuracy by epoch, and ‖δ_t‖ against t (式3 at work, on a log "
    "scale)."""
    figure = new_figure(figsize=(13, 3.8))
    figure.suptitle(title)
    left, middle, right = figure.subplots(1, 3)
    epochs = np.arange(1, len(history["loss"]) + 1)
    for axis, what in ((left, "loss"), (middle, "accuracy")):
        for name in (what, f"validation_{what}"):
            if name in history:
                axis.plot(epochs, history[name], label=name.replace("_", " "))
        axis.set(xlabel="epoch", ylabel=what)
        axis.legend()
    right.semilogy(-np.arange(len(norms)), norms, marker=".")
    right.set(
        xlabel="time step t, 0 is the last",
        ylabel="‖δ_t‖, mean over samples",
        title="the gradient on its way back",
    )
    figure.savefig(path, dpi=110)


def flow_picture(report, path=None):
    """A Figure of a gradient_flow report, one row a recurrent layer; written to path if there is
    one.
    """
    figure = new_figure(figsize=(13, 3.8 * len(report.layers)))
    for flow, (left, right) in zip(
        report.layers, figure.subplots(len(report.layers), 2, squeeze=False), strict=True
    ):
        low, median, high = np.clip(flow.delta, FLOOR, CEILING).T
        bottom, top = median.min() / 100, max(median.max(), 1.0) * 100
        back = -np.arange(len(flow.state))
        left.semilogy(back[:-1], median, label="‖δ_k‖ / ‖δ_T‖ measured, median and quartiles")
        left.fill_between(back[:-1], low, high, alpha=0.25)
        left.semilogy(
            back,
            np.clip(flow.state[:, 1], FLOOR, CEILING),
            ":",
            label="‖dE/ds_k‖ / ‖dE/ds_T‖ measured",
        )
        inside = np.where((flow.bound > bottom) & (flow.bound < top), flow.bound, np.nan)
        left.semilogy(back, inside, "--", label=f"bound: {flow.looseness}")
        left.set_ylim(bottom, top)
        if flow.horizon is not None:
            left.axvline(-flow.horizon, color="grey", label=f"horizon: {flow.horizon} steps")
        left.set(xlabel="time step k, 0 is the last", title=f"{flow.name}: {flow.verdict}")
        left.xaxis.get_major_locator().set_params(integer=True)
        left.legend()
        heat = np.log10(np.clip(flow.heat, FLOOR, CEILING)).T[:, ::-1]
        image = right.imshow(
            heat,
            aspect="auto",
            extent=(0.5 - len(flow.heat), 0.5, len(heat) - 0.5, -0.5),
            interpolation="nearest",
        )
        figure.colorbar(image, ax=right, label="log₁₀ |δ|, mean over samples and gates")
        right.set(xlabel="time step k, 0 is the last", ylabel="unit")
        right.xaxis.get_major_locator().set_params(integer=True)
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure
