"""Forecasts beyond the end of a series."""

import numpy as np

from ..errors import ArgumentError
from ..network import Network
from .forecasts import Forecasts


def beyond(network: Network, job: Forecasts, steps: int) -> np.ndarray:
    """The target of the `steps` rows after the last that has one, (steps,).

    As many as the model says at once come from one window; where more are asked for, each forecast
    of the next row is taken for the truth by the one after it.
    Raises ArgumentError where other columns of these rows are needed, and not in the file.
    """
    series, window = job.series, job.chosen.window
    if series.known < 1 + (window > 1):
        raise ArgumentError(f"{job.chosen.data} has {series.known} rows, too few")
    scaled = job.scaler.scale(series.values)
    calendar = series.calendar(job.periods, steps)
    end = series.known
    features = np.hstack([scaled[:end], calendar[:end]])[-window:]
    last = float(job.base[end - 1])
    if steps <= job.chosen.horizon:
        scaled_future = last + said(network, features) * job.change
        return job.scaler.unscale(scaled_future[:steps], column=0)
    others = scaled[end : end + steps - 1, 1:]
    if series.values.shape[1] > 1 and (len(others) < steps - 1 or np.isnan(others).any()):
        raise ArgumentError(
            f"--steps is {steps}, but the model looks at {', '.join(series.names[1:])} too: give "
            f"their {steps - 1} next rows, with {job.chosen.target} left empty"
        )
    found: list[float] = []
    for k in range(steps):
        last += float(said(network, features)[0]) * job.change
        found.append(last)
        if k + 1 < steps:
            after = calendar[end + k]
            row = np.concatenate([[last], others[k] if len(others) else [], after])
            features = np.vstack([features, row.astype("float32")])[-window:]
    return job.scaler.unscale(found, column=0)


def said(network: Network, features: np.ndarray) -> np.ndarray:
    """What the network says after these rows, but for those with gaps: (horizon,)."""
    rows = features[~np.isnan(features).any(1)]
    if not len(rows):
        raise ArgumentError("the last window of the data has no row without a number missing")
    return np.asarray(network.predict([rows])[0], "float64")
