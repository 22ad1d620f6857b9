"""Pictures, drawn with matplotlib (the extra `plot`)."""

import numpy as np

from .training import Samples, forward_backward


def delta_norms(network, x, y):
    """‖δ‖ of the last recurrent layer, k steps before the last one of each sequence: the mean over samples, k = 0, 1, ….

    x, y as for `Network.fit`. Returns a NumPy array as long as the longest sequence.
    """
    samples = Samples(network, x, y)
    batch = samples.batch(range(len(samples)))
    forward_backward(network, batch)
    δ = network._device.numpy(network.recurrent[-1].delta)
    norms = np.sqrt((δ.astype(float) ** 2).sum((2, 3)))  # (T, B)
    aligned = [norms[: batch.lengths[b], b][::-1] for b in range(len(samples))]
    return np.array([np.mean([n[k] for n in aligned if len(n) > k]) for k in range(len(norms))])


def training_picture(path, title: str, history: dict, norms):
    """Write a PNG: loss and accuracy by epoch, and ‖δ_t‖ against t (式3 at work, on a log scale)."""
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
    right.set(xlabel="time step t, 0 is the last", ylabel="‖δ_t‖, mean over samples", title="the gradient on its way back")
    figure.savefig(path, dpi=110)
