"""Numbers that decide the design of a schedule: barriers, where weights stand, what a launch costs.

    python -m benchmarks micro [--seconds 60] [--resume] [--rehearse]

Each measurement is a generator of rows, tried by itself; those that might upset the GPU come last.
Microseconds.
"""

import argparse
import traceback

from benchmarks import _machine
from benchmarks._barriers import (
    block_barrier,
    clusters,
    clusters_async,
    exchange_through_L2,
    grid_barrier,
    resident_clusters,
)
from benchmarks._launches import launches
from benchmarks._machine import first_line
from benchmarks._memories import (
    loads_of_shared_memory,
    prefetches_to_L2,
    weights_in_registers_or_shared,
)
from benchmarks._timing import Budget

MEASUREMENTS = (
    launches,
    block_barrier,
    loads_of_shared_memory,
    resident_clusters,
    grid_barrier,
    exchange_through_L2,
    prefetches_to_L2,
    weights_in_registers_or_shared,
    clusters,
    clusters_async,
)


def shown(row: dict) -> str:
    """A row without its quartiles."""
    kept = {
        key: value
        for key, value in row.items()
        if key == "estimated_us" or not (key.endswith("_us") or key == "card")
    }
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in kept.items()
    )


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the measurements that the file has from this machine and commit; go on",
    )
    chosen = parser.parse_args()
    _machine.require_card()
    budget, errors = Budget(chosen.seconds), {}
    old = (chosen.resume and _machine.earlier("micro")) or {}
    through = old.get("through", [])
    results = {name: rows for name, rows in old.get("results", {}).items() if name in through}
    path = None

    def save():
        left = [one.__name__ for one in MEASUREMENTS if one.__name__ not in through]
        more = {"errors": errors, "through": through, "not_reached": left}
        return _machine.write("micro", results, **more, complete=not left)

    for measurement in MEASUREMENTS:
        name = measurement.__name__
        if name in through or budget.left <= 0:
            continue
        rows = results[name] = []
        try:
            for row in measurement():
                rows.append(row)
                path = save()
                print(f"{name}: {shown(row)}", flush=True)
                if budget.left <= 0:
                    break
            else:
                through.append(name)
        except Exception as error:
            traceback.print_exc()
            errors[name] = first_line(error)
            through.append(name)
    path = save()
    count = sum(map(len, results.values()))
    left = [one.__name__ for one in MEASUREMENTS if one.__name__ not in through]
    print(
        f"micro: {count} rows, {len(errors)} measurements failed, not reached: "
        f"{', '.join(left) or 'nothing'} -> {path}"
    )


if __name__ == "__main__":
    main()
