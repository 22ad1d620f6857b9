"""The order of the house: who may import whom, what stands at the door, what goes into the
wheel.
"""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from shutil import copytree, ignore_patterns
from types import ModuleType
from typing import NamedTuple
from zipfile import ZipFile

import pytest

import rnn_gpu
from rnn_gpu.kernels.cells import CELLS

KERNELS = Path(rnn_gpu.kernels.__file__).parent
FOLDERS = {"rnn_gpu.kernels": KERNELS, "rnn_gpu": Path(rnn_gpu.__file__).parent}
CHECKOUT = Path(__file__).parents[1]

# A module imports only from the lines above its own. A star is any file of that folder that has no
# line of its own.
ORDER = """
kernels
kernels.activations kernels.clipping kernels.description kernels.fingerprint kernels.losses
kernels.philox kernels.products kernels.updates kernels.binding.closures kernels.binding.literals
kernels.binding.accessors kernels.binding.names
kernels.binding kernels.once
kernels.whole_arrays
kernels.cells.*
kernels.cells
kernels.devices
kernels.devices.reference
kernels.devices.cpu.compilation kernels.devices.cpu.folder kernels.devices.cpu.memory
kernels.devices.cpu.simd
kernels.devices.cpu.stored kernels.devices.cpu.tiles
kernels.devices.cpu.threads
kernels.devices.cpu.products kernels.devices.cpu.recurrence
kernels.devices.cpu
kernels.devices.cuda.contract kernels.devices.cuda.simulator
kernels.devices.cuda.launch
kernels.devices.cuda.plans kernels.devices.cuda.pointwise kernels.devices.cuda.precision
kernels.devices.cuda.ptx
kernels.devices.cuda.block kernels.devices.cuda.gemm kernels.devices.cuda.plain
kernels.devices.cuda.schedules
kernels.devices.cuda
errors outline
arguments device io
derivatives keeping losses optimizers parameters weights
layers.passes
layers.base layers.noise layers.steps
layers.stateful layers.stateless
layers.recurrent
layers.directions
layers
checkpoint finite memory torch
training
plots
gradient_flow
network
gradcheck onnx stream
datasets._sequences
datasets.*
datasets
rnn_gpu
cli
"""
PLACES = {name: line for line, names in enumerate(ORDER.split("\n")) for name in names.split()}


def modules():
    """Dotted name -> file, of every module of the library, wherever it is installed."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
            found.setdefault(name, path)
    return found


MODULES = modules()


def imports(name):
    """What a module imports anywhere in its text: dotted names, of ours and of others."""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            for alias in node.names:
                ours = base.startswith("rnn_gpu") and f"{base}.{alias.name}" not in MODULES
                yield base if ours else f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func) and node.args:
            text = (
                node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            )
            if isinstance(text, ast.Constant):
                yield text.value.rstrip(".")


def is_ours(name):
    return name.split(".")[0] == "rnn_gpu"


def place(name):
    name = name.removeprefix("rnn_gpu.")
    stars = [p for p in PLACES if "*" in p and fnmatch(name, p) and name.count(".") == p.count(".")]
    assert name in PLACES or stars, f"{name} has no place in ORDER"
    return PLACES[name if name in PLACES else stars[0]]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_the_lines_above(name):
    for imported in imports(name):
        if is_ours(imported):
            assert place(imported) < place(name), f"{name} imports {imported}"


def test_every_line_of_the_order_has_a_module():
    here = {place(name) for name in MODULES}
    assert here == set(PLACES.values())
    assert {name for name in PLACES if "*" not in name} <= {
        name.removeprefix("rnn_gpu.") for name in MODULES
    }


def test_imports_are_seen_wherever_they_stand():
    """The walk above finds relative imports, imports in functions, and modules named in a
    string.
    """
    seen = {name: set(imports(name)) for name in MODULES}
    assert "rnn_gpu.kernels.activations" in seen["rnn_gpu.kernels.cells.lstm"]
    assert "rnn_gpu.arguments" in seen["rnn_gpu.layers.base"]
    assert "rnn_gpu.kernels" in seen["rnn_gpu.layers.steps"]
    assert "matplotlib.figure.Figure" in seen["rnn_gpu.plots"]
    assert {"rnn_gpu.kernels.devices.cuda", "rnn_gpu.kernels.devices"} <= seen["rnn_gpu.device"]
    assert "numba.cuda" in seen["rnn_gpu.kernels.devices.cuda.plain"]


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("rnn_gpu.kernels")])
def test_kernels_know_nothing_of_the_library_around_them(name):
    allowed = (
        {"numpy", "numba"}
        | ({"cupy"} if ".devices.cuda" in name else set())
        | ({"llvmlite"} if ".devices.c" in name else set())
        | sys.stdlib_module_names
    )
    for imported in imports(name):
        assert imported.startswith("rnn_gpu.kernels") or imported.split(".")[0] in allowed, (
            f"{name} imports {imported}"
        )


@pytest.mark.parametrize("name", MODULES)
def test_only_the_cuda_device_imports_cuda(name):
    cuda = {
        one
        for one in imports(name)
        if one.split(".")[0] == "cupy" or one.split(".")[:2] == ["numba", "cuda"]
    }
    assert not cuda or name.startswith("rnn_gpu.kernels.devices.cuda"), cuda


def test_cells_know_no_device_and_devices_know_no_cell():
    for name in MODULES:
        for mine, others in ((".cells", ".devices"), (".devices", ".cells")):
            if name.startswith(f"rnn_gpu.kernels{mine}"):
                assert not [
                    one for one in imports(name) if one.startswith(f"rnn_gpu.kernels{others}")
                ], name


# The door


def test_all_is_exactly_what_is_there():
    modules = {"datasets", "optimizers"}
    names = {
        name
        for name, value in vars(rnn_gpu).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(rnn_gpu.__all__) == names | modules
    assert len(rnn_gpu.__all__) == len(set(rnn_gpu.__all__))
    assert all(isinstance(getattr(rnn_gpu, name), ModuleType) for name in modules)


def test_all_is_sorted():
    def constants_classes_rest(name):
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert rnn_gpu.__all__ == sorted(rnn_gpu.__all__, key=constants_classes_rest)


def test_every_error_is_at_the_door_and_in_the_tree():
    errors = {name for name, value in vars(rnn_gpu.errors).items() if isinstance(value, type)}
    assert errors <= set(rnn_gpu.__all__)
    for name in errors:
        assert issubclass(getattr(rnn_gpu, name), rnn_gpu.RnnGpuError)
        assert name in rnn_gpu.errors.__doc__


def python(text, **environment):
    """What a new interpreter prints."""
    command = [sys.executable, "-P", "-c", text]
    here = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    run = subprocess.run(
        command,
        check=False,
        env=here | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_import_is_quick_and_light():
    text = "import rnn_gpu, sys, time; print(time.process_time(), *sys.modules)"
    seconds, *loaded = python(text, CUDA_VISIBLE_DEVICES="-1")
    assert "rnn_gpu.layers" in loaded
    assert not {"torch", "cupy", "matplotlib", "pandas", "numba", "typer"} & set(loaded)
    assert float(seconds) < 2


# What a newcomer adds


def test_every_file_of_cells_is_discovered():
    files = {path.stem for path in (KERNELS / "cells").glob("*.py")} - {"__init__"}
    offered = [
        cell for name in files for cell in import_module(f"rnn_gpu.kernels.cells.{name}").CELLS
    ]
    assert files >= {"elman", "gru", "lstm"}
    assert len({cell.name for cell in offered}) == len(offered)
    assert {cell.name: cell for cell in offered} == CELLS


LEAKY = """
import numpy as np

from .. import Cell


def step(p, q, s):
    f = np.tanh(p[0] + q[0])
    return (s[0] + 0.25 * (f - s[0]),), (f,)


def back(ds, kept, s, s_next):
    δ = 0.25 * ds[0] * (1 - kept[0] ** 2)
    return (δ,), (δ,), (0.75 * ds[0],)


CELLS = (Cell("leaky", gates=1, states=1, kept=1, step=step, back=back),)
"""

USE = """
import numpy as np, rnn_gpu
layer = rnn_gpu.Recurrent("leaky", 3, 4, device="reference", dtype="float64")
x, y = np.random.default_rng(0).normal(size=(2, 5, 2, 4))
print(rnn_gpu.__file__, rnn_gpu.gradcheck(layer, x[:, :, :3], y).worst < 1e-6)
"""


def test_a_cell_is_one_file(tmp_path):
    """A copy of the library with one more file in kernels/cells has one more cell."""
    ignore = ignore_patterns("__pycache__", "kernels")
    copytree(FOLDERS["rnn_gpu"], tmp_path / "rnn_gpu", ignore=ignore)
    copytree(KERNELS, tmp_path / "rnn_gpu" / "kernels", ignore=ignore)
    (tmp_path / "rnn_gpu" / "kernels" / "cells" / "leaky.py").write_text(LEAKY, encoding="utf-8")
    assert python(USE, PYTHONPATH=str(tmp_path)) == [
        str(tmp_path / "rnn_gpu" / "__init__.py"),
        "True",
    ]


# The wheel, and the source distribution


@pytest.fixture(scope="module")
def project():
    path = CHECKOUT / "pyproject.toml"
    if not path.exists():
        pytest.skip("no pyproject.toml beside the tests: this is no checkout")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_the_wheel_has_every_package(project):
    folders = {"rnn_gpu": CHECKOUT / "rnn_gpu", "rnn_gpu.kernels": CHECKOUT / "kernels"}
    here = {
        ".".join((package, *path.parent.relative_to(folder).parts))
        for package, folder in folders.items()
        for path in folder.rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == here


def test_the_wheel_has_every_file_that_is_not_python(project):
    patterns = project["tool"]["setuptools"]["package-data"]
    for package, folder in {
        "rnn_gpu": CHECKOUT / "rnn_gpu",
        "rnn_gpu.kernels": CHECKOUT / "kernels",
    }.items():
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                owner = ".".join((package, *path.parent.relative_to(folder).parts))
                assert any(fnmatch(path.name, pattern) for pattern in patterns.get(owner, [])), path


def test_what_is_imported_is_declared(project):
    extras = project["project"].get("optional-dependencies", {})
    declared = {
        line.split("-")[0].split("[")[0].split(">")[0]
        for lines in (project["project"]["dependencies"], *extras.values())
        for line in lines
    }
    imported = (
        {one.split(".")[0] for name in MODULES for one in imports(name)}
        - {"rnn_gpu", "llvmlite"}
        - sys.stdlib_module_names
    )
    assert imported <= declared  # llvmlite is Numba's, which says which one it needs


def requirements(project):
    """name -> its versions, of all that a user installs; what of the extras is only for a GPU or a
    linter has its own reasons.
    """
    extras = project["project"]["optional-dependencies"]
    lines = [
        *project["project"]["dependencies"],
        *(line for name in ("torch", "onnx", "plot", "test") for line in extras[name]),
    ]
    return dict(re.match(r"([\w-]+)(.*)", line).groups() for line in lines)


def test_every_dependency_has_a_lowest_version(project):
    """.ci/lowest installs it, and tests."""
    assert {
        name: versions
        for name, versions in requirements(project).items()
        if not versions.startswith(">=")
    } == {}


def test_a_package_whose_private_names_are_used_has_an_upper_bound(project):
    private = {
        "numba": ("numba.core", "numba.misc", "numba.np", "llvmlite"),
        "numba-cuda": ("numba.cuda.simulator", "numba.cuda.cudadrv"),
    }
    imported = {one for name in MODULES for one in imports(name)}
    for package, inner in private.items():
        assert [one for one in imported if one.startswith(inner)], package
        assert ",<" in requirements(project)[package], package


class Built(NamedTuple):
    wheel: Path
    sdist: Path
    before: set[str]  # files of the checkout in which they were built
    after: set[str]


@pytest.fixture(scope="module")
def built(project, tmp_path_factory):
    """A wheel and a source distribution, built in a copy of the checkout where an older build left
    a module that is no more.
    """
    pytest.importorskip(
        "setuptools", minversion=project["build-system"]["requires"][0].partition(">=")[2]
    )
    checkout, out = tmp_path_factory.mktemp("build") / "checkout", tmp_path_factory.mktemp("built")
    left = (
        "__pycache__",
        "*.egg-info",
        "build",
        "dist",
        "runs",
        ".git",
        ".venv",
        ".*_cache",
        ".hypothesis",
    )
    copytree(CHECKOUT, checkout, ignore=ignore_patterns(*left))
    stale = checkout / "build" / "lib" / "rnn_gpu" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    before = files(checkout)
    for what in ("wheel", "sdist"):
        text = f"from setuptools import build_meta; build_meta.build_{what}({str(out)!r})"
        options = {"cwd": checkout, "capture_output": True, "encoding": "utf-8", "timeout": 600}
        run = subprocess.run([sys.executable, "-c", text], check=False, **options)
        assert run.returncode == 0, run.stderr
    return Built(*out.glob("*.whl"), *out.glob("*.tar.gz"), before, files(checkout))


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_build_leaves_nothing_in_the_checkout(built):
    assert built.after == built.before


def test_what_an_older_build_left_does_not_come_into_the_wheel(built):
    with ZipFile(built.wheel) as wheel:
        modules = {name for name in wheel.namelist() if name.endswith(".py")}
    here = {name for name in built.before if re.match(r"(rnn_gpu|kernels)/.*py$", name)}
    assert modules == {re.sub("^kernels/", "rnn_gpu/kernels/", name) for name in here}


def test_the_wheel_says_that_it_is_typed(built):
    with ZipFile(built.wheel) as wheel:
        assert "rnn_gpu/py.typed" in wheel.namelist()


def test_the_description_has_no_link_to_a_file(built):
    """On a page of a package index there is no folder beside it."""
    with ZipFile(built.wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
        description = wheel.read(name).decode()
    links = re.findall(r"\]\(([^)]*)", description)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert "`docs/bptt.md` derives them" in description


def test_the_source_distribution_has_what_its_tests_read(built):
    with tarfile.open(built.sdist) as sdist:
        there = {name.partition("/")[2] for name in sdist.getnames()}
    folders = (".ci", "benchmarks", "docs", "examples", "kernels", "rnn_gpu", "tests")
    needed = {name for name in built.before if name.partition("/")[0] in folders}
    assert {
        "pyproject.toml",
        "setup.py",
        "MANIFEST.in",
        "README.md",
        "CHANGELOG.md",
    } | needed <= there
