"""Result files as tables: by regime the geometric mean, the least and the largest ratio, every case
that is lost, time and memory against T.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

TABLES = ("steps", "sequence_length", "custom", "launch", "reference_points")
UNMEASURED = "not measured yet"
FLAT = 1.1  # the longest sequence's time a step over the shortest's that is not short
SHORT = 1024  # steps: below, a launch and the products count


class Regime(NamedTuple):
    name: str
    has: Callable  # case -> bool
    goals: dict  # pass -> the ratio over torch, eager, at the same precision


REGIMES = (  # a case belongs to the first that has it
    Regime(
        "n ≤ 64, B ≤ 16",
        lambda case: case["n"] <= 64 and case["B"] <= 16,
        {"forward": 1.0, "backward": 1.5},
    ),
    Regime(
        "n ≤ 128, B ≥ 32",
        lambda case: case["n"] <= 128 and case["B"] >= 32,
        {"forward": 2.0, "backward": 3.0},
    ),
    Regime("n 65–128, B < 32", lambda case: case["n"] <= 128, {}),
    Regime(
        "Elman, n 129–224, B ≥ 64",
        lambda case: case["cell"] == "elman" and case["n"] <= 224 and case["B"] >= 64,
        {"forward": 1.5, "backward": 2.0},
    ),
    Regime("n 129–256, the rest", lambda case: case["n"] <= 256, {}),
    Regime("n > 256", lambda case: True, {}),
)


def geometric_mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def said(case: dict) -> str:
    layers = f", {case['layers']} layers" if case.get("layers", 1) > 1 else ""
    threads = f", {counted(case['threads'], 'thread')}" if case.get("threads") else ""
    return (
        f"{case['cell']} n={case['n']} B={case['B']} T={case['T']} "
        f"{case.get('dtype', 'float32')}{layers}{threads}"
    )


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def regime_of(case: dict, regimes=REGIMES) -> Regime:
    return next(regime for regime in regimes if regime.has(case))


def ratios_of(
    rows: list[dict], what: str, peer: str, of: str = "ratio"
) -> list[tuple[float, dict]]:
    """(ratio, case) of every row where this pass of this peer was measured, and ours too."""
    found = [
        (row.get("passes", {}).get(what, {}).get(peer, {}).get(of), row["case"]) for row in rows
    ]
    return [(ratio, case) for ratio, case in found if ratio]


def peers_of(rows: list[dict]) -> list[str]:
    """Every peer with a ratio, in the order in which they appear."""
    names = {
        name: None
        for row in rows
        for found in row.get("passes", {}).values()
        for name, one in found.items()
        if "ratio" in one
    }
    return list(names)


def markdown(heads: list[str], rows: list[list]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value, digits: int = 2) -> str:
    return "" if value is None or isinstance(value, str) else f"{value:.{digits}f}"


def by_regime(rows: list[dict], peers=None, regimes=REGIMES) -> str:
    """Regime × pass × peer: how many cases, geometric mean, least and largest, each with its
    case.
    """
    lines = []
    for regime in regimes:
        members = [row for row in rows if regime_of(row["case"], regimes) is regime]
        for what in ("forward", "backward", "inference", "step"):
            for peer in peers or peers_of(members):
                found = ratios_of(members, what, peer)
                if not found:
                    continue
                low, lost = min(found, key=lambda one: one[0])
                high, won = max(found, key=lambda one: one[0])
                mean = geometric_mean([ratio for ratio, _ in found])
                goal = regime.goals.get(what) if peer == "torch" else None
                verdict = (
                    "" if goal is None else f"≥ {goal:g}: {'met' if mean >= goal else 'missed'}"
                )
                ends = [f"{low:.2f} ({said(lost)})", f"{high:.2f} ({said(won)})"]
                lines.append([regime.name, what, peer, len(found), f"{mean:.2f}", *ends, verdict])
    heads = [
        "regime",
        "pass",
        "over",
        "cases",
        "geometric mean",
        "least",
        "largest",
        "goal for the mean",
    ]
    if not any(regime.goals for regime in regimes):
        heads, lines = heads[:-1], [line[:-1] for line in lines]
    return markdown(heads, lines) if lines else UNMEASURED


def lost_cases(tables: dict) -> str:
    """Every case below 1.0, of every table, pass and peer."""
    lines = []
    for name in (*TABLES, "cpu"):
        rows = tables.get(name, {}).get("results", [])
        for row in rows:
            for what, found in row.get("passes", {}).items():
                below = [
                    f"{peer} {one['ratio']:.2f}"
                    for peer, one in found.items()
                    if one.get("ratio", 1.0) < 1.0 and not peer.startswith("ours")
                ]
                if below:
                    lines.append(f"- {name}, {said(row['case'])}, {what}: {', '.join(below)}")
    return "\n".join(lines) or "none"


def failures(tables: dict) -> str:
    """Rows without numbers, and contenders that were wrong or failed."""
    lines = []
    for name in (*TABLES, "cpu", "cpu_own"):
        for row in tables.get(name, {}).get("results", []):
            reasons = (
                {"": row["error"]}
                if "error" in row
                else {k: v for k, v in row["not_measured"].items() if v != "not on this machine"}
            )
            lines += [
                f"- {name}, {said(row['case'])}{', ' * bool(who)}{who}: {why}"
                for who, why in reasons.items()
            ]
    return "\n".join(lines) or "none"


def details(rows: list[dict], unit: str = "us_per_step") -> str:
    """Every case: ours in microseconds (a step, or a call), the ratios, the fraction of the floor,
    the schedules.
    """
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
            lines.append(
                [
                    said(row["case"]),
                    what,
                    schedule,
                    time,
                    spread,
                    number(predicted, 3),
                    number(ours.get("of_floor")),
                    *ratios,
                ]
            )
    heads = [
        "case",
        "pass",
        "schedule",
        "ours, µs",
        "quartiles of a call, µs",
        "predicted",
        "of floor",
        *(f"× {peer}" for peer in peers),
    ]
    return markdown(heads, lines) if lines else UNMEASURED


def by_length(rows: list[dict]):
    """((cell, n, B, who), rows by T) of every network: ours, in chunks side by side, both in
    segments, torch.
    """
    networks = {}
    for row in rows:
        ours = "ours", "ours, parallel", "ours, in segments", "ours, parallel, in segments"
        for who in (*ours, "torch"):
            if who in row.get("passes", {}).get("step", {}):
                case = row["case"]
                networks.setdefault((case["cell"], case["n"], case["B"], who), {})[case["T"]] = row
    return sorted(networks.items())


def growth(of_length: dict, who: str) -> float | None:
    """Time a step at the longest T over that at T = SHORT; None where there are not both."""
    long = [
        of_length[T]["passes"]["step"][who]["us_per_step"] for T in sorted(of_length) if T >= SHORT
    ]
    return long[-1] / long[0] if len(long) > 1 and SHORT in of_length else None


def growths(rows: list[dict], who: str) -> list[tuple]:
    found = (
        (network, growth(of_length, who))
        for network, of_length in by_length(rows)
        if network[-1] == who
    )
    return [(network, one) for network, one in found if one is not None]


def lengths(rows: list[dict]) -> str:
    """Time and memory a step against T, ours and torch's, and whether time is flat."""
    lines = []
    for (cell, n, B, who), of_length in by_length(rows):
        ordered = sorted(of_length)
        times = {T: of_length[T]["passes"]["step"][who]["us_per_step"] for T in ordered}
        memory = [of_length[T].get("memory_per_step", {}).get(who) for T in ordered]
        flat = growth(of_length, who)
        verdict = f"{flat:.2f}{' (flat)' if flat <= FLAT else ''}" if flat else ""
        cells = [
            ", ".join(f"{T:,}: {times[T]:.3f}" for T in ordered),
            ", ".join(number(one, 0) for one in memory),
            verdict,
        ]
        lines.append([f"{cell} n={n} B={B}, {who}", *cells])
    heads = [
        "network",
        "T: µs a step of a training step",
        "bytes a step",
        f"longest over T = {SHORT:,}",
    ]
    return markdown(heads, lines) if lines else UNMEASURED
