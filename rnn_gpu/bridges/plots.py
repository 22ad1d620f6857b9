"""Pictures, drawn with matplotlib (the extra `plot`)."""

import numpy as np

FLOOR, CEILING = 1e-40, 1e40  # of logarithms: about where float32 ends


def training_picture(path, title: str, history: dict, norms):
    """Write a PNG: loss and accuracy by epoch, and ‖δ_t‖ against t (式3 at work, on a log "
    "scale)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8 * len(report.layers)), layout="constrained")
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
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure
