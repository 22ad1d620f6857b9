"""python -m benchmarks NAME [options]: run benchmarks/NAME.py."""

import runpy
import sys
from pathlib import Path

NAMES = sorted(
    path.stem for path in Path(__file__).parent.glob("[!_]*.py") if path.stem != "record"
)

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m benchmarks {{{','.join(NAMES)}}} [options]")
    sys.argv[:2] = [name := sys.argv[1]]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
