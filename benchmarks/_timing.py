"""What every table shares: the clock, samples and their quartiles, a budget of seconds, the loop
over cases.
"""

import argparse
import os
import sys
import time
import traceback

import numpy as np

from benchmarks import _machine
from benchmarks._machine import COMPILING, CPU, HOST, REHEARSAL

FEW = REHEARSAL or COMPILING
WARM_UP = 2 if FEW else 4
REPEATS = 2 if FEW else 20
MORE = 2 if FEW else 60  # repeats of what is quick
LEAST = 5 if CPU and not REHEARSAL else 1  # repeats of what is slow
# in which contenders take turns; a neighbour distorts the CPU's for a while
ROUNDS = 5 if CPU else 2
LONG, ENOUGH = 0.05, 0.6  # seconds: a call longer than the one is repeated for the other
# seconds: threads of the contender before still look for work so long
SETTLING = 0.02 if CPU and not REHEARSAL else 0.0
# exit status: an error has made the GPU unusable for this process, and it could not start itself
# anew
DEAD = 75
HOW = (
    "Medians and quartiles of the host's clock around each public call; contenders in turn, in "
    "five rounds, each begun with 20 ms of "
    "calls that are not timed (threads of the one before still look for work), as many threads "
    "each as the case says. 'step' is "
    "forward and backward. A ratio is theirs over ours. What is wrong beyond its tolerance has an "
    "error and no speed."
    if CPU
    else "Medians and quartiles of calls enqueued one after another on the default stream, each "
    "between two CUDA events (JAX: the host's "
    "clock until the result is there); contenders in turn, in two rounds, after a warm-up. A "
    "backward pass is timed alone, its forward "
    "pass runs before it untimed. A ratio is theirs over ours. What is wrong beyond its tolerance "
    "has an error and no speed."
)


def nothing():
    pass


def synchronise():
    """Wait until the GPU has done everything; raises what has gone wrong on it."""
    if not HOST:
        arrays().cuda.Device().synchronize()


def arrays():
    """The module of the device's arrays: CuPy."""
    from rnn_gpu.kernels.devices.cuda.driver import driver

    return driver().arrays


def by_events(work, before, repeats: int) -> list[float]:
    """Microseconds of each call, by events on the GPU's default stream; by the host's clock without
    one.
    """
    if HOST:
        return by_the_host(work, before, repeats)
    events = arrays().cuda
    pairs = [(events.Event(), events.Event()) for _ in range(repeats)]
    for start, stop in pairs:
        before()
        start.record()
        work()
        stop.record()
    synchronise()
    return [1e3 * events.get_elapsed_time(start, stop) for start, stop in pairs]


def by_the_host(work, before, repeats: int, done=synchronise) -> list[float]:
    """Microseconds of each call by the host's clock, from an idle GPU until `done` returns."""
    times = []
    for _ in range(repeats):
        before()
        done()
        start = time.perf_counter()
        work()
        done()
        times.append(1e6 * (time.perf_counter() - start))
    return times


def of_the_host(work, repeats: int) -> list[float]:
    """Microseconds that the host spends in each call; it does not wait for the GPU, but for a full
    queue now and then.
    """
    times = []
    for k in range(repeats):
        if k % 20 == 0:
            synchronise()
        start = time.perf_counter()
        work()
        times.append(1e6 * (time.perf_counter() - start))
    synchronise()
    return times


def settle(work, before=nothing):
    """Call until the contender before leaves the processors alone."""
    start = time.perf_counter()
    while time.perf_counter() - start < SETTLING:
        before()
        work()


def repeats_for(work, before=nothing) -> int:
    """How often a call is timed: after a warm-up, from what one call takes."""
    before()
    work()
    seconds = 1e-6 * by_the_host(work, before, 1)[0]
    for _ in range(WARM_UP - 2 if seconds <= LONG else 0):
        before()
        work()
    return how_often(seconds)


def how_often(seconds: float) -> int:
    """How often a call of so many seconds is timed."""
    if seconds > LONG:
        return max(LEAST, min(REPEATS, int(ENOUGH / seconds)))
    return max(REPEATS, min(MORE, int(LONG / seconds)))


def summary(times: list[float]) -> dict:
    first, median, third = np.percentile(times, [25, 50, 75])
    return {
        "median_us": median,
        "q1_us": first,
        "q3_us": third,
        "min_us": min(times),
        "repeats": len(times),
    }


def timed(work, per: int = 1) -> dict:
    """Quartiles of a call on the GPU, and microseconds of one of the `per` things that it does."""
    times = by_events(work, nothing, repeats_for(work))
    return summary(times) | {"us": float(np.median(times)) / per}


class Budget:
    """Seconds that are left."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def options(text: str, add=lambda parser: None, seconds: float = 480, quick: float = 45):
    """The command line; add(parser) gives it more."""
    parser = argparse.ArgumentParser(description=text.partition("\n")[0])
    add(parser)
    parser.add_argument("--quick", action="store_true", help=f"stop after {quick:g} seconds")
    parser.add_argument(
        "--seconds", type=float, default=None, help=f"stop after so many ({seconds:g})"
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="tiny sizes in the simulator: does everything but measure",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the cases that the file has from this machine and commit; go on",
    )
    chosen = parser.parse_args()
    chosen.seconds = chosen.seconds or (quick if chosen.quick else seconds)
    return chosen


def run_table(name: str, chosen, cases: list[tuple], measure, line, head: str, **more):
    """Measure case after case (best first) until the time is over, writing NAME.json, and `more` in
    it, after each.

    chosen by `options`; measure(case) -> a dict; line(dict) -> what is printed of it, under `head`.
    A case is a NamedTuple.
    """
    _machine.require_card()
    budget, old = Budget(chosen.seconds), chosen.resume and _machine.earlier(name)
    rows = old["results"] if old else []
    done = [row["case"] for row in rows]
    waiting = [case for case in cases if _machine.plain(case._asdict()) not in done]
    print("REHEARSAL: no number below is a speed" if REHEARSAL else head, flush=True)
    while waiting and budget.left > 0:
        case, started = waiting.pop(0), time.monotonic()
        try:
            row = measure(case)
        except Exception as error:
            traceback.print_exc()
            row = {"error": _machine.first_line(error)}
        rows.append({"case": case._asdict(), **row, "seconds": time.monotonic() - started})
        path = save(name, rows, waiting, more)
        print(rows[-1].get("error") or line(rows[-1]), flush=True)
        start_anew_if_dead(name, budget)
    path = save(name, rows, waiting, more)
    print(
        f"{name}: {len(rows)} cases, {len(waiting)} not reached in {chosen.seconds:g} s -> {path}",
        flush=True,
    )


def save(name, rows, waiting, more):
    return _machine.write(
        name,
        rows,
        how=HOW,
        **more,
        complete=not waiting,
        not_reached=[case._asdict() for case in waiting],
    )


def start_anew_if_dead(name: str, budget: Budget):
    """A kernel that wrote where it must not leaves every later call of its process failing: go on
    in a new one.
    """
    try:
        synchronise()
    except Exception as error:
        print(
            f"the GPU is lost to this process ({_machine.first_line(error)}): starting anew",
            flush=True,
        )
        if budget.left < 10:
            sys.exit(DEAD)
        again = [
            "-m",
            f"benchmarks.{name}",
            "--resume",
            "--seconds",
            f"{budget.left:.0f}",
            *["--rehearse"] * REHEARSAL,
        ]
        os.execv(sys.executable, [sys.executable, *again])
