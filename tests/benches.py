"""What the tests of the benchmarks share: where they are, and how they are run."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
BENCHMARKS = CHECKOUT / "benchmarks"
# without it there is no one to be measured against
TORCH = importlib.util.find_spec("torch") is not None
needs_a_checkout = pytest.mark.skipif(
    not BENCHMARKS.exists(), reason="no benchmarks beside the tests: this is no checkout"
)


def run(*command, **environment):
    here = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    here |= {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command,
        check=False,
        cwd=CHECKOUT,
        env=here,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def strict(path):
    def refuse(constant):
        raise ValueError(f"{path.name} has {constant}, which is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
