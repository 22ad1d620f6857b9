"""What a calendar says of a time: where in the day, the week, the year it lies."""

from collections.abc import Sequence

import numpy as np

from .. import arguments
from ..errors import ArgumentError

SECONDS = {"hour": 3600.0, "day": 86_400.0, "week": 604_800.0, "year": 31_556_952.0}
MONDAY = 4 * 86_400.0  # 5 January 1970, from when weeks are counted


def time_features(times, periods: Sequence[str] = ("day", "week")) -> np.ndarray:
    """Sine and cosine of where each time lies in each period: float32 (T, 2·periods).

    times    datetime64 (T,), or a list of datetimes or of ISO 8601 texts, without a time zone
    periods  of "hour", "day", "week" (from Monday), "year" (Gregorian, of 365.2425 days)
    """
    try:
        a = np.asarray(times).astype("datetime64[ms]")
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"times cannot be made datetimes: {error}") from None
    if a.ndim != 1 or np.isnat(a).any():
        raise ArgumentError("times is not a list of datetimes, or one of them is missing")
    if isinstance(periods, str) or not periods:
        raise ArgumentError(f"periods is {periods!r}, expected a list of {', '.join(SECONDS)}")
    seconds = a.astype("int64") / 1000.0
    columns = []
    for one in periods:
        length = SECONDS[arguments.choice("periods", one, SECONDS)]
        since = seconds - (MONDAY if one == "week" else 0.0)
        phase = 2 * np.pi * ((since % length) / length)
        columns += [np.sin(phase), np.cos(phase)]
    return np.stack(columns, 1).astype("float32")
