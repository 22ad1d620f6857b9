"""A plan, tried: on made-up data, against what *plain* makes of the same, and timed.

This runs in a process that may be lost (`child.py`).
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .... import LIVE, RESET, Backward, Forward
from ..contract import Bounds, Choice, Problem
from ..driver import driver, played_by
from ..graphs import wait
from ..launch import arrays
from ..schedules import decide, named
from .records import Trial, identity

STEPS = (8, 256)  # of a trial, at least and at most
NUMBERS = 1 << 25  # of its arrays, if these steps allow
PLAYED_STEPS = 3  # where no card is
NOISE = 1_000_003  # numbers that are drawn, and repeated: a prime, so that no two rows are alike
REPEATS, ENOUGH = 5, 0.02  # times that a plan is run, and seconds after which fewer are enough
# the largest difference from *plain*, relative to the largest number of an array, or to 1: the
# recurrence contracts, so that errors of rounding stay small over all steps
TOLERANCES = {("fp32", 4): 1e-4, ("fp32", 8): 1e-9, ("tf32", 4): 2e-2, ("bf16", 4): 1e-1}
BEYOND = 0.02  # of all steps and samples: those so close to a bound that rounding decides


class LostCardError(Exception):
    """The card does nothing any more for this process."""


class Data(NamedTuple):
    """What a problem is tried on, on the card."""

    call: Any  # a Forward or Backward as kernels take it
    outputs: tuple[str, ...]  # its fields that are overwritten
    ds: Any  # what call.ds begins with, on the way back


def steps(problem: Problem) -> int:
    if not driver().measures:
        return PLAYED_STEPS
    least, most = STEPS
    each = problem.B * problem.n * (2 * problem.cell.gates + problem.cell.kept)
    return max(least, min(most, NUMBERS // each))


def made_up(problem: Problem) -> Data:
    """Numbers that no step makes large; where a problem masks, a part of the flags; where it clips,
    bounds that some steps reach.
    """
    cell, n, B, T = problem.cell, problem.n, problem.B, steps(problem)
    dtype = np.dtype(f"f{problem.itemsize}")
    rng, xp, S, G = np.random.default_rng(1), arrays(), cell.states, cell.gates

    noise = rng.normal(size=NOISE).astype(dtype)

    def draw(*shape, scale=1.0):
        return xp.asarray(dtype.type(scale) * np.resize(noise, shape))

    p, W = draw(T, B, G + cell.drawn, n), draw(G * n, n, scale=0.5 / n**0.5)
    c = draw(G * n) if cell.apart else xp.zeros(0, dtype)
    s, kept = poison((S, T + 1, B, n), dtype), poison((T, B, cell.kept, n), dtype)
    s[:, 0] = draw(S, B, n)
    flags = xp.asarray(np.where(rng.random((T, B)) < 0.1, RESET, LIVE).astype(np.uint8))
    forward = Forward(p, W, c, s, kept, flags if problem.masked else (), ())
    if problem.direction == "forward":
        return Data(forward, ("s", "kept"), None)
    judge = judged(problem._replace(direction="forward", clips=False))
    named(judge.schedule).forward(cell, forward, judge, "fp32")
    dp = poison((T, B, G, n), dtype)
    dq, ds = poison(dp.shape, dtype) if cell.apart else dp, draw(S, 1, B, n)
    clip: Any = ()
    if problem.clips:
        per_norm = dtype.type(1 / (0.4 * n**0.5))
        clip = Bounds(dtype.type(1), per_norm, xp.zeros((T, B), np.uint8))
    call = Backward(draw(T, B, n), W, s, kept, forward.flags, dp, dq, ds, clip, ())
    return Data(call, ("dp", "dq", "ds"), ds.copy())


def poison(shape: tuple, dtype) -> Any:
    """An array that nobody has written."""
    a = arrays().empty(shape, dtype)
    a[...] = float("nan")
    return a


def judged(problem: Problem) -> Choice:
    """What judges all others."""
    return decide(problem, "plain")


def run(problem: Problem, choice: Choice, data: Data):
    way = getattr(named(choice.schedule), problem.direction)
    way(problem.cell, data.call, choice, problem.precision)


def outcome(problem: Problem, choice: Choice, data: Data) -> dict[str, np.ndarray]:
    """What a plan makes of the data, by name, where nothing was before."""
    call = data.call
    for name in data.outputs:
        if name == "s":
            call.s[:, 1:] = float("nan")
        else:
            getattr(call, name)[...] = float("nan")
    reset(data)
    run(problem, choice, data)
    found = {name: host(getattr(call, name)) for name in data.outputs}
    if clip := getattr(call, "clip", ()):
        found["beyond"] = host(clip.beyond).astype(float)
    return found


def reset(data: Data):
    """What a way back overwrites and reads."""
    if data.ds is not None:
        data.call.ds[...] = data.ds
        if data.call.clip:
            data.call.clip.beyond[...] = 0


def host(a) -> np.ndarray:
    return np.array(a if isinstance(a, np.ndarray) else a.get())


def difference(got: dict, expected: dict, problem: Problem) -> str:
    """In which array, and by how much, a plan differs from the judge; "" where it does not."""
    tolerance = TOLERANCES[problem.precision, problem.itemsize]
    for name, b in expected.items():
        if name == "beyond":
            share = float(np.abs(got[name] - b).mean())
            if not share <= BEYOND:
                return f"other steps are clipped than by 'plain', {share:.0%} of them"
            continue
        scale = max(1.0, np.abs(b).max(initial=0.0))
        error = float(np.abs(got[name] - b).max(initial=0.0) / scale)
        if not error <= tolerance:  # nor is NaN
            return f"{name} differs from that of 'plain' by {error:.1e}, more than {tolerance:g}"
    return ""


def seconds(work: Callable) -> float:
    """That the card takes for it, by its own clock where it has one."""
    cuda = getattr(arrays(), "cuda", None)
    if cuda is None:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    begin, end = cuda.Event(), cuda.Event()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return cuda.get_elapsed_time(begin, end) / 1e3


def timed(problem: Problem, choice: Choice, data: Data) -> float:
    """Seconds of a step, the best of some."""
    best, spent, T = float("inf"), 0.0, steps(problem)
    for _ in range(REPEATS):
        reset(data)
        wait()
        took = seconds(lambda: run(problem, choice, data))
        best, spent = min(best, took), spent + took
        if spent > ENOUGH:
            break
    return best / T


class Loading:
    """A driver that loads every kernel and starts none."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name: str):
        return getattr(self.real, name)

    def start(self, *given, **more):
        pass

    def product(self, *given, **more):
        pass

    def products(self, *given, **more):
        return lambda t: None


def compiled(problem: Problem, choice: Choice, data: Data) -> str:
    """Have the kernels of a plan compiled, and none run; why that is refused, or ""."""
    if driver().language == "python":
        return ""
    loading: Any = Loading(driver())  # answers as that one
    try:
        with played_by(loading):
            run(problem, choice, data)
    except Exception as error:  # of the compiler, or of the driver: it has no such kernel
        return f"refused: {type(error).__name__}: {error}"
    return ""


def tried(problem: Problem, choices: tuple[Choice, ...]) -> Iterator[int | Trial]:
    """For each choice its place, when all is ready for it; then its Trial.

    Raises ArithmeticError where the judge's own numbers are not finite: then nothing is told of the
    others. LostCardError where a plan took the card along.
    """
    data = made_up(problem)
    expected = outcome(problem, judged(problem), data)
    if not all(np.isfinite(a).all() for a in expected.values()):
        raise ArithmeticError("this cell makes infinite numbers of made-up ones")
    for k, choice in enumerate(choices):
        who = choice.schedule, identity(choice)
        refused = compiled(problem, choice, data)
        yield k
        if refused:
            yield Trial(*who, None, refused)
            continue
        try:
            wrong = difference(outcome(problem, choice, data), expected, problem)
            took = None if wrong else timed(problem, choice, data)
            yield Trial(*who, took, wrong, bans=bool(wrong))
        except Exception as error:
            check_the_card(error)
            yield Trial(*who, None, f"refused: {type(error).__name__}: {error}")


def check_the_card(error: Exception):
    """Raises LostCardError where nothing can be done on the card any more."""
    try:
        wait()
    except Exception:
        raise LostCardError(f"{type(error).__name__}: {error}") from error
