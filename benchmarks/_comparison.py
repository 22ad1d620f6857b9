"""Contenders of one problem: outcomes compared, passes timed in turn, as a row of a table."""

from collections.abc import Callable

from benchmarks._contenders import ENTRIES, PASSES, TOLERANCE, Contender, Judge, Problem, arrays
from benchmarks._machine import CPU, HOST, NOT_HERE, REHEARSAL, first_line
from benchmarks._tables import said
from benchmarks._timing import ROUNDS, repeats_for, settle, summary, synchronise

JUDGE = "our reference" if CPU else "our CPU"
# the first that is there tells what is right; else our Judge
JUDGES = ("torch", "torch, in pieces", "torch, loop")


def prepared(problem: Problem, names) -> tuple[dict, dict, dict]:
    """(contenders by name, errors by name, why others are not measured), every outcome compared
    with the judge's.
    """
    ready, outcomes, absent = {}, {}, {}
    for name in names:
        try:
            contender = ENTRIES[name].make(problem)
            contender.begin()
            outcomes[name] = contender.outcome()
            ready[name] = contender
        except Exception as error:
            absent[name] = (
                NOT_HERE
                if isinstance(error, (ImportError, NotImplementedError))
                else first_line(error)
            )
            synchronise()  # where the GPU itself is lost, this raises
    judge = next((name for name in JUDGES if name in outcomes), None)
    right = outcomes[judge] if judge else Judge(problem).outcome()
    errors = {name: compare(outcome, right) for name, outcome in outcomes.items() if name != judge}
    for name, found in errors.items():
        tolerance = TOLERANCE[ENTRIES[name].precision]
        if not all(error <= tolerance for error in found.values()):  # NaN is not
            absent[name] = f"wrong beyond {tolerance:g}: no speed"
            del ready[name]
    return ready, {"judge": judge or JUDGE, **errors}, absent


def compare(outcome: dict, right: dict) -> dict[str, float]:
    """The largest difference of each array, relative to the largest number of the right one."""
    worst = {
        name: (float(abs(outcome[name] - a).max()), float(abs(a).max()))
        for name, a in right.items()
        if name in outcome
    }
    return {name: difference / (scale or 1.0) for name, (difference, scale) in worst.items()}


def measure(problem: Problem, names, passes=PASSES, also: Callable = lambda ready: {}) -> dict:
    """One row of a table: what was right, how long each pass of each contender takes, and what
    `also` tells of them.
    """
    ready, errors, absent = prepared(problem, names)
    row = {"schedules": problem.schedules(), **problem.expected()}
    row |= {"errors": errors, "not_measured": absent, "passes": {}}
    for what in passes:
        taking_part = {
            name: contender for name, contender in ready.items() if what in ENTRIES[name].passes
        }
        row["passes"][what] = with_ratios(times_of(taking_part, what, problem.case.T))
    fastest = row["passes"].get("forward", {}).get("ours")
    if fastest and row.get("floor_us_per_step"):
        fastest["of_floor"] = row["floor_us_per_step"] / fastest["us_per_step"]
    return row | also(ready)


def line(row: dict) -> str:
    """A row as it is printed while the table grows: microseconds a step, and how many times longer
    the others take.
    """
    case, parts = row["case"], []
    for what, found in row["passes"].items():
        ours = f"{found['ours']['us_per_step']:.3f}" if "ours" in found else "none"
        ratios = [
            f"{short(name)} {one['ratio']:.2f}" for name, one in found.items() if "ratio" in one
        ]
        parts.append(f"{what} {ours} ({', '.join(ratios)})")
    parts += [
        f"{short(name)}: {why}" for name, why in row["not_measured"].items() if why != NOT_HERE
    ]
    schedules = "/".join(one["schedule"] for one in row["schedules"].values())
    return f"{said(case)}{' ' * bool(schedules)}{schedules}: {'; '.join(parts)}"


def short(name: str) -> str:
    return name.removeprefix("torch, ").removeprefix("ours, ")


def times_of(contenders: dict, what: str, T: int) -> dict:
    repeats, times = {}, {name: [] for name in contenders}
    for name, contender in contenders.items():
        contender.begin()
        repeats[name] = repeats_for(getattr(contender, what), contender.prepare(what))
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            contender.begin()
            call = getattr(contender, what), contender.prepare(what)
            settle(*call)
            times[name] += contender.clock(*call, -(-repeats[name] // ROUNDS))
    found = {name: summary(all_times) for name, all_times in times.items()}
    return {name: one | {"us_per_step": one["median_us"] / T} for name, one in found.items()}


def with_ratios(found: dict) -> dict:
    """Each contender's time over ours, by medians and by minima; nothing where ours is missing."""
    if "ours" in found:
        for name, one in found.items():
            if name != "ours":
                one["ratio"] = one["median_us"] / found["ours"]["median_us"]
                one["ratio_of_minima"] = one["min_us"] / found["ours"]["min_us"]
    return found


def kernels_of(contender: Contender, most: int = 8) -> list[dict] | str:
    """The kernels that one training step runs on the GPU: they tell which of cuDNN's algorithms it
    was.
    """
    if REHEARSAL:
        return NOT_HERE
    try:
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        contender.begin()
        contender.step()
        synchronise()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
            contender.step()
            synchronise()
        found = [one for one in record.key_averages() if one.device_type == DeviceType.CUDA]
        found.sort(key=lambda one: -one.self_device_time_total)
        return [
            {"kernel": one.key[:160], "count": one.count, "us": one.self_device_time_total}
            for one in found[:most]
        ]
    except Exception as error:
        return first_line(error)


def memory_of(contender: Contender, name: str) -> int | str:
    """Bytes of the GPU that one training step takes beyond what lay there before it."""
    if HOST:
        return NOT_HERE
    pool = arrays().get_default_memory_pool()
    contender.begin()
    if name.startswith("torch"):
        cuda = contender.torch.cuda
        contender.y = contender.grads = contender.pieces = None
        cuda.synchronize()
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        contender.step()
        cuda.synchronize()
        return cuda.max_memory_allocated() - before
    contender.y = contender.dx = contender.tapes = contender.grads = None
    for layer in contender.problem.layers:
        layer.remember(None)
    pool.free_all_blocks()
    before = pool.total_bytes()
    contender.step()
    synchronise()
    return pool.total_bytes() - before
