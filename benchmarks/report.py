"""Result files as tables and a plot: per regime the geometric mean, the least and the largest ratio; every case that is lost.

    python -m benchmarks report [FOLDER]

FOLDER is one machine's, benchmarks/results/KIND (without it: every machine's). Writes report.md and sequence_length.png there and
prints the short part. What no file tells is "not measured yet".
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"
TABLES = ("steps", "sequence_length", "custom", "launch", "reference_points")
FILES = ("smoke", "tests", "micro", *TABLES)
UNMEASURED = "not measured yet"
FLAT = 1.1  # the longest sequence's time a step over the shortest's that is not short
SHORT = 1024  # steps: below, a launch and the products count


class Regime(NamedTuple):
    name: str
    has: Callable  # case -> bool
    goals: dict  # pass -> the ratio over torch, eager, at the same precision


REGIMES = (  # a case belongs to the first that has it
    Regime("n ≤ 64, B ≤ 16", lambda case: case["n"] <= 64 and case["B"] <= 16, {"forward": 1.0, "backward": 1.5}),
    Regime("n ≤ 128, B ≥ 32", lambda case: case["n"] <= 128 and case["B"] >= 32, {"forward": 2.0, "backward": 3.0}),
    Regime("n 65–128, B < 32", lambda case: case["n"] <= 128, {}),
    Regime(
        "Elman, n 129–224, B ≥ 64",
        lambda case: case["cell"] == "elman" and case["n"] <= 224 and case["B"] >= 64,
        {"forward": 1.5, "backward": 2.0},
    ),
    Regime("n 129–256, the rest", lambda case: case["n"] <= 256, {}),
    Regime("n > 256", lambda case: True, {}),
)
CUSTOM_GOAL = 20.0  # over the best that a user of torch can write


def load(folder: Path) -> dict:
    """name -> what its file holds, of the files that are there."""
    found = {}
    for name in FILES:
        try:
            found[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found


def geometric_mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def said(case: dict) -> str:
    layers = f", {case['layers']} layers" if case.get("layers", 1) > 1 else ""
    return f"{case['cell']} n={case['n']} B={case['B']} T={case['T']} {case.get('dtype', 'float32')}{layers}"


def regime_of(case: dict) -> Regime:
    return next(regime for regime in REGIMES if regime.has(case))


def ratios_of(rows: list[dict], what: str, peer: str) -> list[tuple[float, dict]]:
    """(ratio, case) of every row where this pass of this peer was measured, and ours too."""
    found = [(row.get("passes", {}).get(what, {}).get(peer, {}).get("ratio"), row["case"]) for row in rows]
    return [(ratio, case) for ratio, case in found if ratio]


def peers_of(rows: list[dict]) -> list[str]:
    """Every peer with a ratio, in the order in which they appear."""
    names = {name: None for row in rows for found in row.get("passes", {}).values() for name, one in found.items() if "ratio" in one}
    return list(names)


def markdown(heads: list[str], rows: list[list]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value, digits: int = 2) -> str:
    return "" if value is None or isinstance(value, str) else f"{value:.{digits}f}"


def by_regime(rows: list[dict], peers=None) -> str:
    """Regime × pass × peer: how many cases, geometric mean, least and largest, each with its case."""
    lines = []
    for regime in REGIMES:
        members = [row for row in rows if regime_of(row["case"]) is regime]
        for what in ("forward", "backward", "step"):
            for peer in peers or peers_of(members):
                found = ratios_of(members, what, peer)
                if not found:
                    continue
                (low, lost), (high, won) = min(found, key=lambda one: one[0]), max(found, key=lambda one: one[0])
                mean = geometric_mean([ratio for ratio, _ in found])
                goal = regime.goals.get(what) if peer == "torch" else None
                verdict = "" if goal is None else f"≥ {goal:g}: {'met' if mean >= goal else 'missed'}"
                ends = [f"{low:.2f} ({said(lost)})", f"{high:.2f} ({said(won)})"]
                lines.append([regime.name, what, peer, len(found), f"{mean:.2f}", *ends, verdict])
    heads = ["regime", "pass", "over", "cases", "geometric mean", "least", "largest", "goal for the mean"]
    return markdown(heads, lines) if lines else UNMEASURED


def lost_cases(tables: dict) -> str:
    """Every case below 1.0, of every table, pass and peer."""
    lines = []
    for name in TABLES:
        rows = tables.get(name, {}).get("results", [])
        for row in rows:
            for what, found in row.get("passes", {}).items():
                below = [f"{peer} {one['ratio']:.2f}" for peer, one in found.items() if one.get("ratio", 1.0) < 1.0]
                if below:
                    lines.append(f"- {name}, {said(row['case'])}, {what}: {', '.join(below)}")
    return "\n".join(lines) or "none"


def failures(tables: dict) -> str:
    """Rows without numbers, and contenders that were wrong or failed."""
    lines = []
    for name in TABLES:
        for row in tables.get(name, {}).get("results", []):
            reasons = {"": row["error"]} if "error" in row else {k: v for k, v in row["not_measured"].items() if v != "not on this machine"}
            lines += [f"- {name}, {said(row['case'])}{', ' * bool(who)}{who}: {why}" for who, why in reasons.items()]
    return "\n".join(lines) or "none"


def details(rows: list[dict], unit: str = "us_per_step") -> str:
    """Every case: ours in microseconds (a step, or a call), the ratios, the fraction of the floor, the schedules."""
    peers, lines = peers_of(rows), []
    for row in rows:
        for what, found in row.get("passes", {}).items():
            ours = found.get("ours", {})
            quartiles = [ours.get(key) for key in ("q1_us", "q3_us")]
            spread = f"{quartiles[0]:.0f}–{quartiles[1]:.0f}" if None not in quartiles else ""
            ratios = [number(found.get(peer, {}).get("ratio")) for peer in peers]
            schedule = "/".join(one["schedule"] for one in row["schedules"].values())
            predicted = (row.get("predicted_us_per_step") or {}).get(what)
            time = number(ours.get(unit), 3)
            lines.append([said(row["case"]), what, schedule, time, spread, number(predicted, 3), number(ours.get("of_floor")), *ratios])
    heads = ["case", "pass", "schedule", "ours, µs", "quartiles of a call, µs", "predicted", "of floor", *(f"× {peer}" for peer in peers)]
    return markdown(heads, lines) if lines else UNMEASURED


def lengths(rows: list[dict]) -> str:
    """Time and memory a step of ours against T, and whether time is flat."""
    networks, lines = {}, []
    for row in rows:
        if "ours" in row.get("passes", {}).get("step", {}):
            case = row["case"]
            networks.setdefault((case["cell"], case["n"], case["B"]), {})[case["T"]] = row
    for (cell, n, B), of_length in networks.items():
        ordered = sorted(of_length)
        times = {T: of_length[T]["passes"]["step"]["ours"]["us_per_step"] for T in ordered}
        memory = [of_length[T].get("memory_per_step", {}).get("ours") for T in ordered]
        long = [T for T in ordered if T >= SHORT]
        flat = times[long[-1]] / times[long[0]] if len(long) > 1 else None
        verdict = f"{flat:.2f}{' (flat)' if flat <= FLAT else ''}" if flat else ""
        cells = [", ".join(f"{T:,}: {times[T]:.3f}" for T in ordered), ", ".join(number(one, 0) for one in memory), verdict]
        lines.append([f"{cell} n={n} B={B}", *cells])
    heads = ["network", "T: µs a step of a training step", "bytes a step", f"longest over T = {SHORT:,}"]
    return markdown(heads, lines) if lines else UNMEASURED


def plot(rows: list[dict], path: Path) -> bool:
    """Microseconds a step against T, both logarithmic; False where matplotlib is not there, or nothing to draw."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    curves = {}
    for row in rows:
        case = row["case"]
        for name, one in row.get("passes", {}).get("step", {}).items():
            if name in ("ours", "torch", "torch, CUDA graph", "torch, in pieces"):
                curves.setdefault((f"{case['cell']} n={case['n']} B={case['B']}", name), []).append((case["T"], one["us_per_step"]))
    if not curves:
        return False
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colours = {network: f"C{k}" for k, network in enumerate(dict.fromkeys(network for network, _ in curves))}
    styles = {"ours": "o-", "torch": "s--", "torch, CUDA graph": "^:", "torch, in pieces": "v-."}
    for (network, name), points in curves.items():
        T, us = zip(*sorted(points), strict=True)
        axes.loglog(T, us, styles[name], color=colours[network], label=f"{network}, {name}", markersize=4)
    axes.set(xlabel="T, steps", ylabel="µs a step, forward and backward")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    return True


def state_of(name: str, data: dict | None) -> str:
    """One line: was it measured, all of it, on what."""
    if data is None:
        return UNMEASURED
    if name == "tests":
        it = data["results"]
        return f"{it['passed']} passed, {it['failed']} failed, {it['error']} errors, {it['skipped']} skipped"
    if name == "smoke":
        wrong = [one["name"] for one in data["results"] if not one["ok"]]
        return f"{len(data['results']) - len(wrong)} right; not right: {', '.join(wrong) or 'none'}"
    if name == "micro":
        return f"{sum(map(len, data['results'].values()))} rows"
    return f"{len(data['results'])} cases, {len(data.get('not_reached', []))} not reached"


def circumstances(tables: dict) -> str:
    machines = [data["machine"] for data in tables.values()]
    keys = ("gpu", "driver", "processor", "threads", "python", "date", "commit")
    facts = [f"{key} {' / '.join(dict.fromkeys(str(one.get(key, '?')) for one in machines))}" for key in keys]
    return ", ".join(facts + [f"{package} {version}" for package, version in machines[0].get("versions", {}).items()])


def short(folder: Path, tables: dict) -> str:
    """What is printed."""
    if not tables:
        return f"Speed on a GPU ({folder.name}): {UNMEASURED}."
    parts = [f"## {folder.name}"]
    if any(data.get("rehearsal") for data in tables.values()):
        parts.append("REHEARSAL in the simulator: no number below is a speed.")
    parts.append(circumstances(tables))
    parts.append("\n".join(f"- {name}: {state_of(name, tables.get(name))}" for name in FILES))
    steps = tables.get("steps", {}).get("results", [])
    parts.append("Times of cuDNN over ours:\n\n" + by_regime(steps, ("torch", "torch, CUDA graph")))
    return "\n\n".join(parts)


def full(folder: Path, tables: dict, plotted: bool) -> str:
    def rows(name):
        return tables.get(name, {}).get("results", [])

    custom = [
        (min(one["ratio"] for name, one in row["passes"]["step"].items() if "ratio" in one), row["case"])
        for row in rows("custom")
        if any("ratio" in one for one in row.get("passes", {}).get("step", {}).values())
    ]
    best = "\n".join(f"- {said(case)}: {ratio:.1f} over the best, goal {CUSTOM_GOAL:g}" for ratio, case in custom) or UNMEASURED
    micro = tables.get("micro", {}).get("results", {})
    listed = [f"- {name}: {json.dumps(row, ensure_ascii=False)}" for name, found in micro.items() for row in found]
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
        "sequence_length": ("![](sequence_length.png)\n\n" if plotted else "") + lengths(rows("sequence_length")),
        "sequence_length, all": details(rows("sequence_length")),
        "custom, a training step": best,
        "custom": details(rows("custom")),
        "launch (microseconds a call)": details(rows("launch"), "median_us"),
        "reference_points": details(rows("reference_points")),
        "micro": "\n".join(listed) or UNMEASURED,
    }
    return "\n\n".join([short(folder, tables), *(f"### {head}\n\n{text}" for head, text in sections.items())]) + "\n"


def report(folder: Path) -> str:
    """Write FOLDER/report.md and the plot where there is anything to report; the short part."""
    tables = load(folder)
    if tables:
        plotted = plot(tables.get("sequence_length", {}).get("results", []), folder / "sequence_length.png")
        (folder / "report.md").write_text(full(folder, tables, plotted), encoding="utf-8")
    return short(folder, tables)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="the folder of a rehearsal")
    chosen = parser.parse_args()
    root = Path(os.environ.get("RNN_GPU_RESULTS") or RESULTS)
    folders = [chosen.folder] if chosen.folder else sorted(path for path in root.glob("*") if load(path)) or [root]
    for folder in folders:
        print(report(folder))
    sys.exit(0)


if __name__ == "__main__":
    main()
