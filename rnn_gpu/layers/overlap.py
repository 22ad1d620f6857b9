"""A long sequence as chunks that stand beside each other as a batch; and how far two trajectories
are apart.
"""

from typing import Any, NamedTuple

import numpy as np

PAGE = 4096  # bytes; numbers that are so far apart have one place in the nearest cache


class Chunks(NamedTuple):
    """T steps of B samples, cut in `count` chunks of `length` steps, the last padded.

    An array (T, B, …) becomes (L, C·B, …): sample b of chunk c is its column c·B + b. In place,
    which is for one sample, it is (C, L, …) where it lies.
    """

    T: int
    B: int
    count: int
    length: int
    in_place: bool = False

    @property
    def padded(self) -> bool:
        """Has the last chunk steps beyond T?"""
        return self.count * self.length > self.T

    def cut(self, device, a) -> Any:
        """a (T, B, …) -> a copy (L, C·B, …), zero beyond T; in place itself where nothing is."""
        if self.in_place:
            rows = a
            if self.padded:
                rows = device.empty((self.count * self.length, *a.shape[2:]), a.dtype)
                rows[: self.T], rows[self.T :] = a[:, 0], a.dtype.type(0)
            return rows.reshape((*self.shape, *a.shape[2:]))
        C, L, B, tail = self.count, self.length, self.B, a.shape[2:]
        out, whole = device.empty((L, C, B, *tail), a.dtype), (C - 1) * L
        axes = out.swapaxes(0, 1)  # (C, L, B, …), a view
        axes[:-1] = a[:whole].reshape((C - 1, L, B, *tail))
        axes[-1, : self.T - whole] = a[whole:]
        if self.padded:
            axes[-1, self.T - whole :] = a.dtype.type(0)
        return out.reshape((L, C * B, *tail))

    def placed(self, row: int) -> "Chunks":
        """These of one sample in place, of rows of so many bytes: one step longer where those of
        all chunks would fall on each other in the cache.
        """
        length = self.length + (self.count > 1 and self.length * row % PAGE == 0)
        return Chunks(self.T, 1, -(-self.T // length), length, in_place=True)

    @property
    def shape(self) -> tuple[int, int]:
        """The first axes of what `cut` gives."""
        if self.in_place:
            return self.count, self.length
        return self.length, self.count * self.B

    def in_steps(self, a) -> Any:
        """What `cut` gave, contiguous, as products take it: (steps, samples, …); a view."""
        return a.reshape((self.count * self.length, 1, *a.shape[2:])) if self.in_place else a

    def columns_of(self, a) -> Any:
        """What `cut` gave -> a view (L, C·B, …)."""
        return a.swapaxes(0, 1) if self.in_place else a

    def beside(self, device, a) -> Any:
        """(L, C·B, …) of a (T, B, …), to be read only: a view where one step's rows are equally far
        apart.
        """
        if self.B > 1 or self.padded:
            return self.columns_of(self.cut(device, a))
        return a.reshape((self.count, self.length, *a.shape[2:])).swapaxes(0, 1)

    def joined(self, device, a) -> Any:
        """What `cut` gives -> a copy (T, B, …); in place a view."""
        if self.in_place:
            return self.in_steps(a)[: self.T]
        C, L, B, tail = self.count, self.length, self.B, a.shape[2:]
        out = device.empty((C, L, B, *tail), a.dtype)
        out[...] = a.reshape((L, C, B, *tail)).swapaxes(0, 1)
        return out.reshape((C * L, B, *tail))[: self.T]

    def cut_states(self, device, s, resets: bool = False) -> Any:
        """s (S, T+1, B, n) -> a copy (S, L+1, C·B, n): each chunk with the state it begins with.

        resets  with room for as many states that samples begin anew with: (S, 2L+1, C·B, n)
        """
        S, _, B, n = s.shape
        L = self.length
        rows = (2 * L if resets else L) + 1
        out = device.empty((S, rows, self.count * B, n), s.dtype)
        for k in range(S):
            out[k, 1 : L + 1] = self.cut(device, s[k, 1 : self.T + 1])
        starts = s[:, : self.count * self.length : self.length]
        out[:, 0] = starts.reshape((S, self.count * B, n))
        return out

    def columns(self, chunks) -> list[slice]:
        """The columns of some chunks, rising: a slice for each run of neighbours."""
        B, runs = self.B, []
        for c in chunks:
            if runs and runs[-1].stop == c * B:
                runs[-1] = slice(runs[-1].start, (c + 1) * B)
            else:
                runs.append(slice(c * B, (c + 1) * B))
        return runs


def chunks_of(T: int, B: int, count: int) -> Chunks:
    """At most `count` chunks of one length, of which none is empty."""
    length = -(-T // count)
    return Chunks(T, B, -(-T // length), length)


def gathered(device, a, axis: int, columns: list[slice]) -> Any:
    """A contiguous copy of some columns of a, which are its axis `axis`."""
    before = (slice(None),) * axis
    parts = [a[(*before, own)] for own in columns]
    return device.copy(parts[0]) if len(parts) == 1 else np.concatenate(parts, axis)


def scatter(a, axis: int, columns: list[slice], values, add: bool = False):
    """Write values into these columns of a, or add them."""
    before, first = (slice(None),) * axis, 0
    for own in columns:
        end = first + own.stop - own.start
        part = values[(*before, slice(first, end))]
        if add:
            a[(*before, own)] += part
        else:
            a[(*before, own)] = part
        first = end


def apart(a, b) -> np.ndarray:
    """How far states a and b (S, …, B, n), NumPy's, are apart: the largest |a − b| / max(1, |b|)
    of the units of each sample, (…, B); NaN where one is.
    """
    return (np.abs(a - b) / np.maximum(1, np.abs(b))).max((0, -1))


def growth(distances: np.ndarray, floor: float) -> float:
    """How often larger two trajectories were apart than at some step before: at least 1.

    distances  (steps, columns), as they follow each other
    floor      what is below it is rounding, which is no measure of what it becomes
    """
    if not np.isfinite(distances).all():
        return np.inf
    later = np.maximum.accumulate(distances[::-1])[::-1]
    measured = distances > floor
    return float(np.max(later[measured] / distances[measured], initial=1.0))


def per_chunk(distances: np.ndarray, B: int) -> np.ndarray:
    """The largest of each chunk's B samples: (C·B,) -> (C,), float64, as tolerances are."""
    return distances.reshape(-1, B).max(1).astype(np.float64)
