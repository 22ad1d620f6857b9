"""Which version of everything is here, and what of it is too old."""

import ctypes
import platform
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("numpy", "numba", "numba-cuda", "cuda-core", "cuda-bindings", "typer", "cupy")
ALSO = ("pytest", "torch", "jax", "triton", "matplotlib", "pytest-xdist", "nvidia-cudnn-cu13")
WHEELS = {"cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy")}  # of one name, several
MODULES = {"pytest-xdist": "xdist", "cuda-core": "cuda.core", "cuda-bindings": "cuda.bindings"}
UNKNOWN = "there, version unknown"
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def found(package: str) -> tuple[str, str]:
    """(the wheel that brings a package, its version; "" where it is missing)."""
    for wheel in WHEELS.get(package, (package,)):
        try:
            return wheel, version(wheel)
        except PackageNotFoundError:
            continue
    try:
        there = find_spec(MODULES.get(package, package.replace("-", "_")))
    except ImportError:
        there = None
    return package, UNKNOWN if there else ""


def packages() -> dict[str, str]:
    """The version of each package by its wheel's name; "" of what is missing."""
    return {"python": platform.python_version()} | dict(map(found, (*NEEDED, *ALSO)))


def missing() -> list[str]:
    """What the library needs on a card and is not there."""
    return [package for package in (*NEEDED, "pytest") if not found(package)[1]]


def of_cuda() -> dict[str, str]:
    """What CUDA's own libraries say: the version of CUDA that the driver has, CuPy's runtime, and
    cuBLAS with its place; or why they say nothing.
    """
    return {
        "driver's CUDA": told(of_driver),
        "CuPy's CUDA runtime": told(of_runtime),
        "cuBLAS": told(of_cublas),
    }


def told(ask) -> str:
    try:
        return ask()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200]


def of_driver() -> str:
    from cuda.bindings import driver

    status, number = driver.cuDriverGetVersion()
    return decimal(number) if not int(status) else str(status)


def of_runtime() -> str:
    import cupy

    return decimal(cupy.cuda.runtime.runtimeGetVersion())


def of_cublas() -> str:
    from cuda.pathfinder import load_nvidia_dynamic_lib

    where = load_nvidia_dynamic_lib("cublas").abs_path
    library, parts = ctypes.CDLL(where), []
    for part in range(3):  # major, minor, patch
        number = ctypes.c_int()
        library.cublasGetProperty(part, ctypes.byref(number))
        parts.append(str(number.value))
    return f"{'.'.join(parts)} in {where}"


def decimal(number: int) -> str:
    """13020 -> 13.2"""
    return f"{number // 1000}.{number % 1000 // 10}"


def bounds() -> dict[str, list[str]]:
    """What pyproject.toml demands of packages, and numba-cuda of those that come with it."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["cuda12"], *extras["cuda13"]]
    lines += [f"python{project['requires-python']}"]
    with suppress(PackageNotFoundError):
        lines += [line for line in requires("numba-cuda") or () if "extra ==" not in line]
    return by_package(lines)


def by_package(lines: list[str]) -> dict[str, list[str]]:
    """Requirements, as their texts by package."""
    from packaging.requirements import Requirement

    parsed = map(Requirement, lines)
    demanded: dict[str, list[str]] = {}
    for one in parsed:
        demanded.setdefault(one.name, []).append(str(one.specifier))
    return demanded


def unfit(here: dict[str, str], demanded: dict[str, list[str]]) -> list[str]:
    """One sentence for each version that is other than demanded.

    here  versions by package, as packages() and of_cuda() give them; those that are missing or not
          known are passed over
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    sentences = []
    for package, wanted in demanded.items():
        for specifier in filter(None, wanted):
            try:
                fits = Version(here.get(package, "")) in SpecifierSet(specifier, prereleases=True)
            except InvalidVersion:
                continue
            if not fits:
                sentences.append(f"{package} is {here[package]} here, and {specifier} is needed.")
    try:
        driver, runtime = (Version(here[name]) for name in ("driver's CUDA", "CuPy's CUDA runtime"))
        if driver.major < runtime.major:
            sentences.append(
                f"The driver knows CUDA {driver}, and CuPy is built for CUDA {runtime.major}: a "
                f"driver for CUDA {runtime.major} is needed, or cupy-cuda{driver.major}x."
            )
    except (KeyError, InvalidVersion):
        pass
    return sentences
