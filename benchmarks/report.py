"""Result files as tables and a plot: per regime the geometric mean, the least and the largest
ratio; every case that is lost.

    python -m benchmarks report [FOLDER]

FOLDER is one machine's, benchmarks/results/KIND (without it: every machine's). Writes report.md and
pictures there and prints the short part; --pages also puts what the files of the CPU tell into
docs/measured.md, and five numbers of it into README.md. What no file tells is "not measured yet".
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

from benchmarks._tables import (
    SHORT,
    TABLES,
    UNMEASURED,
    Regime,
    by_regime,
    counted,
    details,
    failures,
    geometric_mean,
    growths,
    lengths,
    lost_cases,
    markdown,
    number,
    ratios_of,
    said,
)

RESULTS = Path(__file__).parent / "results"
FILES = ("smoke", "tests", "micro", *TABLES)
CPU_FILES = ("cpu", "cpu_own", "sequence_length", "train")
README, MEASURED = (Path(__file__).parents[1] / name for name in ("README.md", "docs/measured.md"))
BEGIN, END = "<!-- measured on the CPU -->\n", "<!-- end -->\n"  # around what --pages writes
CUSTOM_GOAL = 20.0  # over the best that a user of torch can write


class Goal(NamedTuple):
    """On the CPU: the least ratio over torch of a training step in these cases, with any number of
    threads.
    """

    name: str
    has: Callable  # case -> bool
    least: float


GOALS = (
    Goal("every case", lambda case: True, 1.0),
    Goal(
        "LSTM, n ≤ 64, B = 1",
        lambda case: case["cell"] == "lstm" and case["n"] <= 64 and case["B"] == 1,
        2.0,
    ),
    Goal(
        "LSTM, n ≤ 64, B > 1",
        lambda case: case["cell"] == "lstm" and case["n"] <= 64 and case["B"] > 1,
        1.2,
    ),
    Goal(
        "Elman and GRU, n ≤ 64, B = 1",
        lambda case: case["cell"] != "lstm" and case["n"] <= 64 and case["B"] == 1,
        20.0,
    ),
    Goal("Elman and GRU, every case", lambda case: case["cell"] != "lstm", 1.25),
)
MEAN_GOAL = 3.0  # the geometric mean of every case
OWN_GOAL = 1.1  # the most that a user's activation or cell takes, over the built-in one


def load(folder: Path) -> dict:
    """name -> what its file holds, of the files that are there."""
    found = {}
    for name in dict.fromkeys(FILES + CPU_FILES):
        try:
            found[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found


def plot(rows: list[dict], path: Path) -> bool:
    """Microseconds and bytes a step against T, all logarithmic, a column of each network of which
    more than one T was measured; False where matplotlib is not there, or nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    styles = {"ours": "C0o-", "ours, parallel": "C1D-.", "torch": "C3s--"}
    styles |= {"ours, in segments": "C0o:", "ours, parallel, in segments": "C1D:"}
    styles |= {"torch, CUDA graph": "C4^:", "torch, in pieces": "C5v-."}
    curves: dict[str, dict[str, list]] = {}
    for row in rows:
        case = row["case"]
        network = f"{case['cell']} n={case['n']} B={case['B']}"
        for name, one in row.get("passes", {}).get("step", {}).items():
            if name in styles:
                held = row.get("memory_per_step", {}).get(name)
                bytes = math.nan if isinstance(held, (str, type(None))) else held
                point = case["T"], one["us_per_step"], bytes
                curves.setdefault(network, {}).setdefault(name, []).append(point)
    curves = {
        network: named
        for network, named in curves.items()
        if any(len(points) > 1 for points in named.values())
    }
    if not curves:
        return False
    figure = Figure(figsize=(1 + 3 * len(curves), 6), layout="constrained")
    panels = figure.subplots(2, len(curves), sharex=True, squeeze=False)
    for (network, named), (time, memory) in zip(curves.items(), panels.T, strict=True):
        for name, points in named.items():
            T, us, bytes = zip(*sorted(points), strict=True)
            time.loglog(T, us, styles[name], label=name, markersize=4)
            memory.loglog(T, bytes, styles[name], markersize=4)
        time.set_title(network, fontsize=10)
        memory.set_xlabel("T, steps")
        for axes in (time, memory):
            axes.grid(alpha=0.3)
    for axes, unit in zip(panels[:, 0], ("µs", "bytes"), strict=True):
        axes.set_ylabel(f"{unit} a step, forward and backward")
    handles = {
        label: handle
        for axes in panels[0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=100)
    return True


# The CPU


def verdict(found: list[tuple[float, dict]], least: float) -> str:
    """How a goal for the least ratio stands."""
    if not found:
        return UNMEASURED
    low, case = min(found, key=lambda one: one[0])
    below = sum(ratio < least for ratio, _ in found)
    how = (
        f"missed by {1 - low / least:.0%}, {below} of {len(found)} cases below"
        if below
        else "reached"
    )
    return f"{how}; least {low:.2f} ({said(case)})"


def goals(rows: list[dict], own: list[dict]) -> str:
    """Each goal of the CPU, reached or not, and by how far."""
    lines = []
    for threads in sorted({row["case"]["threads"] for row in rows}):
        found = ratios_of(
            [row for row in rows if row["case"]["threads"] == threads], "step", "torch"
        )
        head = f"- {counted(threads, 'thread')}, "
        for goal in GOALS:
            lines.append(
                f"{head}{goal.name}, ≥ {goal.least:g}: "
                f"{verdict([one for one in found if goal.has(one[1])], goal.least)}"
            )
        if found:
            minima = ratios_of(
                [row for row in rows if row["case"]["threads"] == threads],
                "step",
                "torch",
                "ratio_of_minima",
            )
            mean, of_minima = (
                geometric_mean([ratio for ratio, _ in each]) for each in (found, minima)
            )
            how = "reached" if mean >= MEAN_GOAL else f"missed by {1 - mean / MEAN_GOAL:.0%}"
            lines.append(
                f"{head}geometric mean, ≥ {MEAN_GOAL:g}: {how}; {mean:.2f} ({of_minima:.2f} by "
                "the fastest repeats)"
            )
    for cell, what in (
        ("elman", "a user's activation over tanh"),
        ("lstm", "a user's LSTM over the built-in one"),
    ):
        found = ratios_of([row for row in own if row["case"]["cell"] == cell], "step", "own")
        most, case = max(found, key=lambda one: one[0], default=(None, None))
        how = (
            UNMEASURED
            if most is None
            else "reached"
            if most <= OWN_GOAL
            else f"missed by {most / OWN_GOAL - 1:.0%}"
        )
        lines.append(
            f"- {what}, time ≤ {OWN_GOAL:g}: "
            f"{how}{f'; most {most:.2f} ({said(case)})' if most else ''}"
        )
    return "\n".join(lines)


def below_goals(rows: list[dict]) -> str:
    """Every case whose training step stays below a goal, and how far it is from the machine's
    limit.
    """
    lines = []
    for row in rows:
        least = max(goal.least for goal in GOALS if goal.has(row["case"]))
        for ratio, case in ratios_of([row], "step", "torch"):
            if ratio < least:
                ours = row["passes"]["step"]["ours"]
                lines.append(
                    f"- {said(case)}: {ratio:.2f} for ≥ {least:g}; {ours['gflop_per_s']:.1f} "
                    f"GFLOP/s, {ours['of_peak']:.0%} of the peak"
                )
    return "\n".join(lines) or "none"


def by_cell(rows: list[dict]) -> str:
    def has(cell, threads):
        return lambda case: (case["cell"], case["threads"]) == (cell, threads)

    kinds = dict.fromkeys((row["case"]["cell"], row["case"]["threads"]) for row in rows)
    return by_regime(
        rows,
        regimes=[
            Regime(f"{cell}, {counted(k, 'thread')}", has(cell, k), {}) for cell, k in sorted(kinds)
        ],
    )


def jobs(found: dict) -> str:
    """The training job as each does it: medians of seconds, the least training loss, and the
    accuracy on held-out samples.
    """
    heads = ["", "whole process, s", "epochs, s", "compiling, s", "training loss", "test accuracy"]
    digits = {
        "process_seconds": 2,
        "epoch_seconds": 2,
        "compile_seconds": 2,
        "loss": 4,
        "accuracy": 4,
    }
    lines = [
        [who, *(number(it.get(key), many) for key, many in digits.items())]
        for who, it in found.items()
    ]
    return markdown(heads, lines) if lines else UNMEASURED


def results(tables: dict, name: str):
    return tables.get(name, {}).get("results", [])


def five_numbers(tables: dict) -> str:
    """What README.md says of the CPU."""
    lines = []
    for threads in (1, 2):
        rows = [row for row in results(tables, "cpu") if row["case"]["threads"] == threads]
        ratios = [ratio for ratio, _ in ratios_of(rows, "step", "torch")]
        found = (
            f"{geometric_mean(ratios):.2f} (geometric mean of {len(ratios)} cases, least "
            f"{min(ratios):.2f})"
            if ratios
            else UNMEASURED
        )
        lines.append(
            f"a training step, torch's time over ours, {counted(threads, 'thread')}: {found}"
        )
    own = [ratio for ratio, _ in ratios_of(results(tables, "cpu_own"), "step", "own")]
    lines.append(
        "a user's own activation or cell, time over the built-in one: "
        f"{f'{max(own):.2f} at most' if own else UNMEASURED}"
    )
    seconds = {who: it["process_seconds"] for who, it in (results(tables, "train") or {}).items()}
    both = (
        f"{seconds['ours']:.2f} s, in torch {seconds['torch']:.2f} s"
        if {"ours", "torch"} <= set(seconds)
        else UNMEASURED
    )
    lines.append(f"the whole of `rnn-gpu train`, its kernels on disk: {both}")
    flat = {
        who: [one for _, one in growths(results(tables, "sequence_length"), who)]
        for who in ("ours", "torch")
    }
    most = (
        f"{max(flat['ours']):.2f} at most, torch's {max(flat['torch']):.2f}"
        if all(flat.values())
        else UNMEASURED
    )
    lines.append(f"time a step at the longest T over that at T = {SHORT:,}: {most}")
    return "\n".join(f"- {line}" for line in lines)


def cpu_part(tables: dict) -> str:
    """What was measured on the CPU, as docs/measured.md has it."""

    def rows(name):
        return results(tables, name)

    def told(head, name, text):
        return f"{head}:\n\n{text}" if name in tables else f"{head}: {UNMEASURED}."

    left_out = len(tables.get("cpu", {}).get("left_out", [])) + len(
        tables.get("cpu", {}).get("not_reached", [])
    )
    more = f" ({counted(left_out, 'case')} left out)" if left_out else ""
    here = {name: tables[name] for name in CPU_FILES if name in tables}
    return "\n\n".join(
        [
            *([f"On the CPU: {circumstances(here)}."] if here else []),
            told(
                f"Speed on the CPU, time of torch's layers over ours{more}",
                "cpu",
                by_cell(rows("cpu")),
            ),
            told("Goals for a training step", "cpu", goals(rows("cpu"), rows("cpu_own"))),
            told(
                "The job of `rnn-gpu train`, and the same written in torch",
                "train",
                jobs(rows("train") or {}),
            ),
            told(
                "Time and memory a step against T on the CPU, one thread",
                "sequence_length",
                lengths(rows("sequence_length")),
            ),
        ]
    )


def heat(rows: list[dict], path: Path) -> bool:
    """The ratio over torch of every case as a map; False where matplotlib is not there, or nothing
    to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    values = {}
    for what in ("inference", "step"):
        for ratio, case in ratios_of(rows, what, "torch"):
            values[
                case["cell"],
                f"{what}, {counted(case['threads'], 'thread')}",
                case["n"],
                (case["T"], case["B"]),
            ] = ratio
    if not values:
        return False
    cells, kinds, sizes, loads = (sorted({key[k] for key in values}) for k in range(4))
    figure = Figure(
        figsize=(
            1.5 + len(kinds) * (1 + 0.55 * len(loads)),
            1 + len(cells) * (1 + 0.4 * len(sizes)),
        ),
        layout="constrained",
    )
    for axes, (cell, kind) in zip(
        figure.subplots(len(cells), len(kinds), squeeze=False).flat,
        product(cells, kinds),
        strict=True,
    ):
        grid = [[values.get((cell, kind, n, load), math.nan) for load in loads] for n in sizes]
        axes.imshow(
            [[math.log2(one) for one in line] for line in grid],
            cmap="RdYlGn",
            vmin=-2,
            vmax=2,
            aspect="auto",
        )
        axes.set_title(f"{cell}, {kind}", fontsize=8)
        axes.set_xticks(range(len(loads)), [f"T={T}\nB={B}" for T, B in loads], fontsize=6)
        axes.set_yticks(range(len(sizes)), [f"n={n}" for n in sizes], fontsize=6)
        for (i, line), j in product(enumerate(grid), range(len(loads))):
            if not math.isnan(line[j]):
                axes.text(j, i, f"{line[j]:.2g}", ha="center", va="center", fontsize=6)
    figure.savefig(path, dpi=120)
    return True


def write_page(page: Path, text: str):
    """Put the text between the marks of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{page} has no place for it: {BEGIN.strip()} … {END.strip()}")
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")


def state_of(name: str, data: dict | None) -> str:
    """One line: was it measured, all of it, on what."""
    if data is None:
        return UNMEASURED
    if name == "tests":
        it = data["results"]
        return (
            f"{it['passed']} passed, {it['failed']} failed, {it['error']} errors, {it['skipped']} "
            "skipped"
        )
    if name == "smoke":
        wrong = [one["name"] for one in data["results"] if not one["ok"]]
        return f"{len(data['results']) - len(wrong)} right; not right: {', '.join(wrong) or 'none'}"
    if name == "micro":
        return f"{sum(map(len, data['results'].values()))} rows"
    return f"{len(data['results'])} cases, {len(data.get('not_reached', []))} not reached"


def circumstances(tables: dict) -> str:
    machines = [data["machine"] for data in tables.values()]
    keys = ("gpu", "driver", "processor", "threads", "python", "date", "commit")
    known = [key for key in keys if any(key in one for one in machines)]
    facts = [
        f"{key} {' / '.join(dict.fromkeys(str(one[key]) for one in machines if key in one))}"
        for key in known
    ]
    return ", ".join(
        facts
        + [f"{package} {version}" for package, version in machines[0].get("versions", {}).items()]
    )


def short(folder: Path, tables: dict) -> str:
    """What is printed."""
    if not tables:
        return (
            f"Speed on {'the CPU' if is_cpu(folder, tables) else 'a GPU'} ({folder.name}): "
            f"{UNMEASURED}."
        )
    parts = [f"## {folder.name}"]
    if any(data.get("rehearsal") for data in tables.values()):
        parts.append("REHEARSAL in the simulator: no number below is a speed.")
    on_cpu = is_cpu(folder, tables)
    if not on_cpu:
        parts.append(circumstances(tables))
    parts.append(
        "\n".join(
            f"- {name}: {state_of(name, tables.get(name))}"
            for name in (CPU_FILES if on_cpu else FILES)
        )
    )
    if on_cpu:
        return "\n\n".join([*parts, cpu_part(tables), f"Cases below 1.0:\n\n{lost_cases(tables)}"])
    steps = tables.get("steps", {}).get("results", [])
    parts.append("Times of cuDNN over ours:\n\n" + by_regime(steps, ("torch", "torch, CUDA graph")))
    return "\n\n".join(parts)


def is_cpu(folder: Path, tables: dict) -> bool:
    return folder.name == "cpu" or "cpu" in tables


def full(folder: Path, tables: dict, plotted: bool) -> str:
    def rows(name):
        return tables.get(name, {}).get("results", [])

    if is_cpu(folder, tables):
        picture = "![](cpu.png)\n\n" if plotted else ""
        sections = {
            "Below a goal": below_goals(rows("cpu")),
            "Wrong, failed or out of reach": failures(tables),
            "Left out": "\n".join(
                f"- {said(case)}" for case in tables.get("cpu", {}).get("left_out", [])
            )
            or "none",
            "cpu": picture + details(rows("cpu")),
            "cpu_own": details(rows("cpu_own")),
            "sequence_length": details(rows("sequence_length")),
        }
        return sectioned(short(folder, tables), sections)
    custom = [
        (
            min(one["ratio"] for name, one in row["passes"]["step"].items() if "ratio" in one),
            row["case"],
        )
        for row in rows("custom")
        if any("ratio" in one for one in row.get("passes", {}).get("step", {}).values())
    ]
    best = (
        "\n".join(
            f"- {said(case)}: {ratio:.1f} over the best, goal {CUSTOM_GOAL:g}"
            for ratio, case in custom
        )
        or UNMEASURED
    )
    micro = tables.get("micro", {}).get("results", {})
    listed = [
        f"- {name}: {json.dumps(row, ensure_ascii=False)}"
        for name, found in micro.items()
        for row in found
    ]
    kernels = [
        f"- {said(row['case'])}, {who}: {json.dumps(found, ensure_ascii=False)}"
        for row in rows("steps")
        for who, found in row.get("kernels", {}).items()
    ]
    sections = {
        "Every regime and peer": by_regime(rows("steps")),
        "Cases below 1.0": lost_cases(tables),
        "Wrong, failed or out of reach": failures(tables),
        "steps": details(rows("steps")),
        "kernels that ran": "\n".join(kernels) or UNMEASURED,
        "sequence_length": ("![](sequence_length.png)\n\n" if plotted else "")
        + lengths(rows("sequence_length")),
        "sequence_length, all": details(rows("sequence_length")),
        "custom, a training step": best,
        "custom": details(rows("custom")),
        "launch (microseconds a call)": details(rows("launch"), "median_us"),
        "reference_points": details(rows("reference_points")),
        "micro": "\n".join(listed) or UNMEASURED,
    }
    return sectioned(short(folder, tables), sections)


def sectioned(first: str, sections: dict[str, str]) -> str:
    return (
        "\n\n".join([first, *(f"### {head}\n\n{text}" for head, text in sections.items())]) + "\n"
    )


def report(folder: Path) -> str:
    """Write FOLDER/report.md and the plot where there is anything to report; the short part."""
    tables = load(folder)
    if tables:
        plotted = plot(
            tables.get("sequence_length", {}).get("results", []), folder / "sequence_length.png"
        )
        if is_cpu(folder, tables):
            plotted = heat(tables.get("cpu", {}).get("results", []), folder / "cpu.png")
        (folder / "report.md").write_text(full(folder, tables, plotted), encoding="utf-8")
    return short(folder, tables)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="the folder of a rehearsal")
    parser.add_argument(
        "--pages",
        action="store_true",
        help="write what was measured on the CPU into docs/measured.md and README.md",
    )
    chosen = parser.parse_args()
    root = Path(os.environ.get("RNN_GPU_RESULTS") or RESULTS)
    folders = (
        [chosen.folder]
        if chosen.folder
        else sorted(path for path in root.glob("*") if load(path)) or [root]
    )
    for folder in folders:
        print(report(folder))
    if chosen.pages:
        found = load(RESULTS / "cpu")
        write_page(MEASURED, cpu_part(found))
        write_page(README, five_numbers(found))
    sys.exit(0)


if __name__ == "__main__":
    main()
