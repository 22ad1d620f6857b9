"""Pictures that `rnn-gpu` leaves beside a model, drawn with matplotlib."""

import numpy as np

SHOWN = 4  # windows of the test part that are drawn


def learning_picture(path, title: str, history: dict, network, part):
    """Loss and accuracy by epoch, and how the gradient fares on its way back."""
    from ..bridges.plots import training_picture
    from ..network.gradient_flow import delta_norms

    norms = delta_norms(network, part.x[:64], part.y[:64])
    training_picture(path, title, history, norms)


def forecast_picture(path, title: str, history: dict, test, series, chosen, found: dict):
    """Loss by epoch; forecasts of the end of the test part; errors beside those without a network.

    test  (rows, truth (N, horizon), forecasts (N, horizon))
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    figure.suptitle(title)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 2, 1))
    epochs = np.arange(1, len(history["loss"]) + 1)
    for name in ("loss", "validation_loss"):
        left.semilogy(epochs, history[name], label=name.replace("_", " "))
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    rows, truth, said = (a[-SHOWN * chosen.window :] for a in test)
    at = along(series, rows)
    middle.plot(at, truth[:, 0], color="black", linewidth=1, label=chosen.target)
    middle.plot(at, said[:, 0], linewidth=1, label="forecast, 1 step ahead")
    middle.set(title="the end of the test part")
    middle.tick_params(axis="x", rotation=30)
    middle.legend()
    errors = {what: each["absolute"] for what, each in found.items() if what != "loss"}
    right.barh(list(errors), list(errors.values()), color=["C1"] + ["grey"] * (len(errors) - 1))
    right.invert_yaxis()
    right.set(xlabel="mean |error|")
    figure.savefig(path, dpi=110)


def future_picture(path, title: str, series, known, future):
    """What was, what was forecast of it, and what is forecast to come.

    known, future  (rows, values) each; known has a third, the forecasts of those rows
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axis = figure.subplots()
    rows, values, said = known
    axis.plot(along(series, rows), values, color="black", linewidth=1, label=series.names[0])
    axis.plot(along(series, rows), said, linewidth=1, label="forecast, 1 step ahead")
    rows, values = future
    axis.plot(along(series, rows), values, marker=".", linewidth=1, label="forecast, to come")
    axis.set(title=title)
    axis.tick_params(axis="x", rotation=30)
    axis.legend()
    figure.savefig(path, dpi=110)


def bench_picture(path, title: str, found: dict):
    """Microseconds and bytes a time step against T, a line for each library."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(1, 2)
    for axis, what, label in zip(
        axes, ("microseconds", "bytes"), ("µs a time step", "bytes a time step"), strict=True
    ):
        for name, each in found.items():
            points = [(T, one[what]) for T, one in each.items() if one[what]]
            if points:
                axis.loglog(*zip(*points, strict=True), marker=".", label=name)
        axis.set(xlabel="T, time steps", ylabel=label)
        if axis.lines:
            axis.legend()
    figure.savefig(path, dpi=110)


def along(series, rows):
    """Rows as times, where the series has such."""
    return rows if series.times is None else series.times[0] + np.asarray(rows) * series.step
