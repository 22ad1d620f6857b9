"""Result files: what was measured, and on what."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy",
    "numba",
    "numba-cuda",
    "torch",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "jax",
    "flax",
    "cuda-core",
    "nvidia-cudnn-cu13",
    "triton",
)


# the kernel's name for it: what people call it; the widest first
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}


def processor() -> str:
    """Its name, and the widest vectors it has, where the system tells: one name may stand for
    both.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {
            name.strip(): text.strip()
            for name, colon, text in (line.partition(":") for line in lines)
            if colon
        }
        widest = next(
            (
                f" with {words}"
                for flag, words in VECTORS.items()
                if flag in facts.get("flags", "").split()
            ),
            "",
        )
        return facts["model name"] + widest
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def machine() -> dict:
    """The circumstances of a measurement."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        git = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            cwd=RESULTS.parent,
        ).stdout
    except OSError:  # no git
        git = ""
    return {
        "processor": processor(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git.strip(),
    }


def write(name: str, place: str, results) -> Path:
    """Write results/PLACE/NAME.json, PLACE being the kind of machine, and return its path."""
    path = RESULTS / place / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    return path
