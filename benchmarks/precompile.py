"""Compile, without a card, the kernels that benchmarks/gpu.sh runs on one.

    python -m benchmarks precompile [--cc 9.0] [--into benchmarks/cubins] [--steps smoke micro]
    python -m benchmarks precompile --check        on a card: can it load what lies there?

The library's own host code goes through the cases of every step, at one time step each: what a
kernel is compiled for depends on types and sizes, not on the length. gpu.sh takes the folder where
it is there. What is there already and asked for again is not compiled again.
"""

import argparse
import ctypes
import io
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from benchmarks import _machine
from benchmarks._asked import CARDS, Asked, asked_of, compiling
from rnn_gpu.kernels.store.files import payload_of

FOLDER = Path(__file__).with_name("cubins")
ENDING = ".kernel"


# What each step asks for


def of_table(name: str) -> Callable:
    """The walk through a table's cases: our layers by their inner path, and by the public calls
    where the table has these; and in as many chunks as those in parallel over time may have.
    """

    def walk():
        from importlib import import_module

        from benchmarks._contenders import ENTRIES, Ours, Problem

        table = import_module(f"benchmarks.{name}")
        ways = ways_of(table.cases()) if "ours, parallel" in table.NAMES else {}
        for case in dict.fromkeys(case._replace(T=1) for case in table.cases()):
            problem = Problem(case)
            for who in table.NAMES:
                if who in ("ours", "ours, public call"):  # a graph has the kernels of the first
                    ENTRIES[who].make(problem).outcome()
        for case, way in ways:
            Ours(Problem(case), public=True, parallel=way).outcome()

    return walk


def ways_of(cases: list) -> dict:
    """Each (case of two steps a chunk, `parallel`) that parallel="auto" of these cases may come to,
    however soon their layers forget; chunks that are repaired have as many samples as it happens.
    """
    from benchmarks._contenders import Problem
    from rnn_gpu.layers import cutting, scan

    found, auto = {}, cutting.Parallel(auto=True)
    for case in cases:
        (layer,), T, B = Problem(case._replace(T=1)).layers, case.T, case.B
        first = cutting.first_cut(layer, T, B, auto)
        if first.chunks > 1:
            late, soon = (cutting.best(layer, T, B, w) for w in (T // first.chunks // 2, 1))
            counts = [2]  # as the look has two trajectories
            while counts[-1] < soon.chunks:
                counts.append(2 * counts[-1])
            least = min(late.chunks, first.chunks)
            for count in counts:
                if count == 2 or count >= least:
                    found[case._replace(T=2 * count), (count, 1)] = None
        cut = scan.planned(layer, T, B, auto)
        if not cut.why:
            found[case._replace(T=2 * cut.chunks), ("scan", cut.chunks)] = None
    return found


def of_smoke():
    from benchmarks import smoke
    from rnn_gpu.errors import NonFiniteError

    for f, given in smoke.checks().values():
        if f is not smoke.imported:
            with suppress(NonFiniteError):  # of an update that says nothing, for nothing has run
                f(*given)


def of_micro():
    from benchmarks import micro

    for measurement in micro.MEASUREMENTS:
        for _ in measurement():
            pass


def of_tuning():
    """Every plan that will be tried, and the judge."""
    from benchmarks import tuning
    from rnn_gpu.kernels.devices.cuda.tuning import candidates, trials

    for problem in tuning.problems():
        data = trials.made_up(problem)
        for choice in candidates(problem):
            trials.run(problem, choice, data)


def of_suite():
    """The suite's tests, to their ends: their asserts are left out, for which Python must leave out
    asserts (-O). Some end early nevertheless: their kernels are compiled on the card.
    """
    import pytest

    from benchmarks import suite

    library = ctypes.CDLL

    def with_a_driver(name, *given, **options):
        """What the tests ask whether there is a card."""
        there = name == "libcuda.so.1"
        return SimpleNamespace(cuInit=lambda _: 0) if there else library(name, *given, **options)

    options = ["-q", "--assert=plain", "-W", "ignore", "--no-header", "--tb=no"]
    with patch.object(ctypes, "CDLL", with_a_driver), redirect_stdout(io.StringIO()) as printed:
        pytest.main([*suite.WANTED, *options])
    print(printed.getvalue().strip().splitlines()[-1])


TABLES = ("steps", "sequence_length", "custom", "launch", "reference_points")
STEPS: dict[str, Callable] = {"smoke": of_smoke, "micro": of_micro, "tuning": of_tuning}
STEPS |= {name: of_table(name) for name in TABLES} | {"suite": of_suite}


def asked_for(steps: list[str], cc: tuple[int, int]) -> dict[str, list[Asked]]:
    """The kernels of each step that none before it asks for."""
    found, known = {}, set()
    for step in steps:
        with asked_of(CARDS[cc]) as asked:
            STEPS[step]()
        new = {one.name or one.kernel: one for one in asked}
        found[step] = [one for key, one in new.items() if key not in known]
        known |= set(new)
    return found


# Compiling, in processes that begin as copies of this one and so have the same kernels

work: list[Asked] = []


def compile_one(place: int) -> tuple[int, float, str]:
    """(place, seconds of a processor, why it did not compile)"""
    one, started = work[place], time.process_time()
    try:
        compiling.compiled(one.kernel, one.kinds, one.signature, one.capability, "cubin")
        error = ""
    except Exception as failure:
        error = _machine.first_line(failure)
    return place, time.process_time() - started, error


def compile_all(wanted: list[Asked], into: Path, processes: int) -> Iterator[tuple]:
    """compile_one() of each as they come, written into the folder."""
    work[:] = wanted
    with (
        compiling.carrying(into),
        multiprocessing.get_context("fork").Pool(processes) as pool,
    ):
        yield from pool.imap_unordered(compile_one, range(len(wanted)))


def precompile(chosen) -> int:
    if "suite" in chosen.steps and not sys.flags.optimize:
        again = [sys.executable, "-O", "-m", "benchmarks", "precompile", *sys.argv[1:]]
        return subprocess.run(again, check=False).returncode
    started = time.perf_counter()
    by_step = asked_for(chosen.steps, chosen.cc)
    wanted = [one for asked in by_step.values() for one in asked]
    nameless = [one for one in wanted if not one.name]
    counts = ", ".join(f"{step} {len(asked)}" for step, asked in by_step.items())
    walked = time.perf_counter() - started
    print(f"{len(wanted)} kernels ({counts}), found in {walked:.0f} s", flush=True)
    failed, spent, named = 0, 0.0, [one for one in wanted if one.name]
    for place, seconds, error in compile_all(named, chosen.into, chosen.processes):
        failed, spent = failed + bool(error), spent + seconds
        print(f"{seconds:6.1f} s  {named[place].title} {error}", flush=True)
    names = {one.name for one in named}
    if set(chosen.steps) == set(STEPS):
        for path in chosen.into.glob(f"*{ENDING}"):
            if path.stem not in names:  # of other sources
                path.unlink()
    size = sum(path.stat().st_size for path in chosen.into.glob(f"*{ENDING}"))
    print(
        f"precompile: {len(named) - failed} kernels compiled, {failed} not, in "
        f"{time.perf_counter() - started:.0f} s by {chosen.processes} processes ({spent:.0f} s "
        f"of a processor); {size / 1e6:.1f} MB in {chosen.into}"
    )
    for one in nameless:
        print(f"cannot be told what it is made of, and is compiled on the card: {one.title}")
    return int(failed > 0)


# On a card


def carried(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Each kernel of a folder; None where its file is not what was written."""
    for path in sorted(folder.glob(f"*{ENDING}")):
        payload = payload_of(path.stem, path.read_bytes())
        yield path, compiling.unpacked(payload)


def check(folder: Path) -> int:
    """Can the driver that is here load every kernel of the folder, and are an LSTM's right?"""
    from benchmarks import smoke
    from rnn_gpu.kernels.devices.cuda.driver import driver

    _machine.require_card()
    started, count, errors = time.perf_counter(), 0, []
    for path, code in carried(folder):
        count += 1
        try:
            if code is None:
                raise ValueError(f"{path.name} is not what was written")
            driver().load(code.text, code.entry, 0)
        except Exception as error:
            errors.append(_machine.first_line(error))
    seconds = time.perf_counter() - started
    if count and not errors:
        os.environ["RNN_GPU_CUBINS"] = str(folder)
        tried = smoke.run("lstm/block float32")
        print(smoke.shown(tried), flush=True)
        errors += [] if tried["ok"] else [tried.get("error", "an LSTM's numbers are wrong")]
    _machine.write("cubins", {"count": count, "errors": errors, "seconds": seconds})
    print(f"cubins: {count} looked at on this driver, {len(errors)} errors, {seconds:.1f} s")
    if errors:
        print(f"they are not used, and kernels are compiled here instead: {errors[0]}")
    return int(bool(errors) or not count)


def main():
    def capability(text):
        major, minor = text.split(".")
        return int(major), int(minor)

    parser = argparse.ArgumentParser(
        description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cc", type=capability, default=(9, 0), help="compute capability: 9.0 (an H200), 8.0, 7.5"
    )
    parser.add_argument("--into", type=Path, default=FOLDER, help="the folder for RNN_GPU_CUBINS")
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, default=list(STEPS), help="of gpu.sh; all"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--check", action="store_true", help="on a card: do they load")
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args()
    if chosen.check:
        sys.exit(check(chosen.into))
    if chosen.cc not in CARDS:
        parser.error(f"--cc is {chosen.cc}, expected one of {', '.join(map(str, CARDS))}")
    sys.exit(precompile(chosen))


if __name__ == "__main__":
    main()
